//! Ports that are tunnels: many on one device, told apart by the peer and the network.

use std::net::IpAddr;

use vswitch_common::packet::TunnelKey;
use vswitch_common::tables::{Port, PortKind, PortNumber};

use super::DatapathError;
use super::entry::mapped;
use super::hooks::{self, Hook};
use super::load::{Datapath, Pins, State};
use super::tables::set;

impl Datapath {
    /// Puts the program on the tunnels' device, by its number and its name, or in the place of an earlier daemon's; and forgets
    /// the one on another device that is gone. It stays for as long as the device does, whether there are tunnels or not:
    /// without it, what anybody sends would be the host's.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn guard_tunnels(&self, device: Option<(u32, &str)>) -> Result<(), DatapathError> {
        let mut state = self.state();
        let pins = Pins(&self.options.directory);
        hooks::forget(&[Hook::Tunnel], device.map(|(ifindex, _)| ifindex), &pins)?;
        match device {
            Some((ifindex, name)) => hooks::attach_tc(&mut state.programs, self.tc, Hook::Tunnel, name, ifindex, &pins),
            None => Ok(()),
        }
    }

    /// Says how long a packet into the tunnel to a peer may be; returns what it was before, if that was something else.
    /// Nothing happens if the port is gone, or another's.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_tunnel_mtu(&self, number: PortNumber, peer: IpAddr, mtu: u16) -> Result<Option<u16>, DatapathError> {
        let mut state = self.state();
        let Some(port) = state.ports.ports.get(&number).copied() else { return Ok(None) };
        if !is_tunnel(&port) || port.ipv6 != mapped(peer) || port.mtu == mtu {
            return Ok(None);
        }
        let changed = Port { mtu, ..port };
        set(&mut state.maps.ports, "PORTS", number.0, changed)?;
        state.ports.ports.insert(number, changed);
        Ok(Some(port.mtu))
    }
}

impl State {
    /// By what a tunnel is found.
    pub(super) fn tunnel_key(&self, port: &Port) -> Result<TunnelKey, DatapathError> {
        let network = self.maps.networks.get(&port.network.0, 0);
        let network = network.map_err(|cause| DatapathError::Table { table: "NETWORKS", cause })?;
        Ok(TunnelKey::new(port.ipv6, network.vni))
    }
}

/// Whether a port is one.
pub(super) fn is_tunnel(port: &Port) -> bool {
    port.kind() == Some(PortKind::Tunnel)
}
