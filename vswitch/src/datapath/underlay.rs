//! The underlay: the devices that lead to peers, and our addresses there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use vswitch_common::packet::address::Address;
use vswitch_common::tables::{PortKind, TunnelEnd, Way};

use super::entry::mapped;
use super::hooks::{self, Hook};
use super::load::{Pins, State, remove_pin};
use super::tables::{removed, set};
use super::{Datapath, DatapathError};

/// Where tunnels end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderlaySpec {
    /// The devices that lead to peers, with their names.
    pub devices: Vec<(u32, String)>,
    /// The addresses of this host that tunnels end at, `MAX_UNDERLAY` of them at most.
    pub addresses: BTreeSet<IpAddr>,
    /// The UDP port of the tunnels.
    pub port: u16,
    /// Behind which TCP is gathered, if it is there.
    pub receiver: Option<Receiver>,
    /// How packets leave for peers without the tunnels' device, where they can.
    pub ways: BTreeMap<Ipv4Addr, WayOut>,
}

/// How packets leave for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WayOut {
    /// This host's address on that way.
    pub source: Ipv4Addr,
    /// The device, one of Ethernet.
    pub ifindex: u32,
    /// The longest inner IP packet that fits.
    pub mtu: u16,
}

/// A pair of devices. What goes into the first is gathered behind the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The index of the first.
    pub into: u32,
    /// The index of the second, where our program is.
    pub out_of: u32,
    /// Its name.
    pub device: String,
}

impl Datapath {
    /// Brings the programs and the table of the underlay in line. Devices stay the host's own: what is no tunnel's packet
    /// passes as if nobody had looked.
    ///
    /// # Errors
    /// What the kernel refused; what was done so far stays.
    pub fn set_underlay(&self, spec: &UnderlaySpec) -> Result<(), DatapathError> {
        let mut state = self.state();
        let pins = Pins(&self.options.directory);
        // Before anything is sent there.
        self.set_receiver(&mut state, spec.receiver.as_ref(), &pins)?;
        let failed = |cause| DatapathError::Table { table: "UNDERLAY", cause };
        let wanted: BTreeSet<Address> = spec.addresses.iter().copied().map(mapped).collect();
        let there = state.maps.underlay.keys().collect::<Result<Vec<Address>, _>>().map_err(failed)?;
        for address in there.into_iter().filter(|address| !wanted.contains(address)) {
            removed(state.maps.underlay.remove(&address), "UNDERLAY")?;
        }
        let end = TunnelEnd {
            port: spec.port,
            flags: 0,
            receiver: spec.receiver.as_ref().map_or(0, |receiver| receiver.into),
        };
        for address in wanted {
            // What the programs noted there stays.
            let there = state.maps.underlay.get(&address, 0).ok();
            if there.is_none_or(|there| (there.port, there.receiver) != (end.port, end.receiver)) {
                let flags = there.map_or(0, |there| there.flags);
                state.maps.underlay.insert(address, TunnelEnd { flags, ..end }, 0).map_err(failed)?;
            }
        }
        let tunnels = state.ports.iter().filter(|(_, port)| port.kind() == Some(PortKind::Tunnel));
        let tunnels: Vec<_> = tunnels.map(|(number, port)| (number, port.ipv6)).collect();
        for (number, peer) in tunnels {
            let way = match IpAddr::from(peer.octets()).to_canonical() {
                IpAddr::V4(peer) => spec.ways.get(&peer),
                IpAddr::V6(_) => None,
            };
            let way = way.map_or(Way::default(), |way| Way {
                source: u32::from_ne_bytes(way.source.octets()),
                ifindex: way.ifindex,
                port: spec.port,
                mtu: way.mtu,
            });
            set(&mut state.maps.ways, "WAYS", number.0, way)?;
        }
        let wanted: BTreeSet<u32> = spec.devices.iter().map(|(ifindex, _)| *ifindex).collect();
        let gone: Vec<u32> = state.underlay.difference(&wanted).copied().collect();
        for ifindex in gone {
            hooks::detach_underlay(ifindex, &pins)?;
            state.underlay.remove(&ifindex);
        }
        for (ifindex, device) in &spec.devices {
            if !state.underlay.contains(ifindex) {
                hooks::attach_tc(&mut state.programs, self.tc, Hook::Underlay, device, *ifindex, &pins)?;
                state.underlay.insert(*ifindex);
            }
        }
        Ok(())
    }

    /// Whether a device is the one behind which TCP is gathered.
    pub fn is_receiver(&self, ifindex: u32) -> bool {
        self.state().receiver == Some(ifindex)
    }

    fn set_receiver(
        &self,
        state: &mut State,
        receiver: Option<&Receiver>,
        pins: &Pins<'_>,
    ) -> Result<(), DatapathError> {
        let wanted = receiver.map(|receiver| receiver.out_of);
        if let Some(before) = state.receiver.take_if(|before| wanted != Some(*before)) {
            remove_pin(&pins.link(before, Hook::Receiver))?;
        }
        if let Some(Receiver { out_of, device, .. }) = receiver.filter(|_| state.receiver.is_none()) {
            hooks::attach_tc(&mut state.programs, self.tc, Hook::Receiver, device, *out_of, pins)?;
            state.receiver = wanted;
        }
        Ok(())
    }
}
