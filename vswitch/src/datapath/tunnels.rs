//! Tunnel ports: many on one device, distinguished by peer and network.

use std::net::IpAddr;

use vswitch_common::packet::TunnelKey;
use vswitch_common::tables::{Port, PortKind, PortNumber};

use super::DatapathError;
use super::entry::mapped;
use super::hooks::{self, Hook};
use super::load::{Datapath, Pins, State};
use super::tables::set;

impl Datapath {
    /// Attaches the tunnel program to the tunnel device, given by index and name, or replaces the
    /// program of an earlier daemon. Removes the links to other tunnel devices, which no longer
    /// exist. The program stays as long as the device does, with or without tunnels: without the
    /// program, the host would accept the frames of any sender.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn guard_tunnels(&self, device: Option<(u32, &str)>) -> Result<(), DatapathError> {
        let programs = &mut *self.programs();
        let pins = Pins(&self.options.directory);
        hooks::forget(&[Hook::Tunnel], device.map(|(ifindex, _)| ifindex), &pins)?;
        match device {
            Some((ifindex, name)) => hooks::attach_tc(programs, self.tc, Hook::Tunnel, name, ifindex, &pins),
            None => Ok(()),
        }
    }

    /// Sets the length in bytes of the longest packet for the tunnel to a peer. Returns the
    /// previous value if it was different. Does nothing if the port no longer exists or belongs to
    /// another peer.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn set_tunnel_mtu(&self, number: PortNumber, peer: IpAddr, mtu: u16) -> Result<Option<u16>, DatapathError> {
        let mut state = self.state();
        let Some(port) = state.ports.ports.get(&number).copied() else { return Ok(None) };
        if !is_tunnel(&port) || port.peer() != mapped(peer) || port.mtu == mtu {
            return Ok(None);
        }
        let changed = Port { mtu, ..port };
        set(&mut state.maps.ports, "PORTS", number.0, changed)?;
        state.ports.ports.insert(number, changed);
        Ok(Some(port.mtu))
    }
}

impl Datapath {
    /// Sets the length in bytes of the longest packet that may leave by a port; 0 is no limit. Does
    /// nothing if the number belongs to another device by now.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn set_port_mtu(&self, number: PortNumber, ifindex: u32, mtu: u16) -> Result<(), DatapathError> {
        let mut state = self.state();
        let there = state.ports.ports.get(&number).copied();
        let Some(port) = there.filter(|port| port.ifindex == ifindex && port.mtu != mtu) else { return Ok(()) };
        let changed = Port { mtu, ..port };
        set(&mut state.maps.ports, "PORTS", number.0, changed)?;
        state.ports.ports.insert(number, changed);
        Ok(())
    }
}

impl State {
    /// Returns the key of a tunnel in the map TUNNELS.
    pub(super) fn tunnel_key(&self, port: &Port) -> Result<TunnelKey, DatapathError> {
        let network = self.maps.networks.get(&port.network.0, 0);
        let network = network.map_err(|cause| DatapathError::Table { table: "NETWORKS", cause })?;
        Ok(TunnelKey::new(port.peer(), network.vni))
    }
}

/// Reports whether a port is a tunnel.
pub(super) fn is_tunnel(port: &Port) -> bool {
    port.kind() == Some(PortKind::Tunnel)
}
