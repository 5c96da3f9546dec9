//! The underlay: the devices that lead to peers, and this host's addresses there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use vswitch_common::packet::address::Address;
use vswitch_common::tables::{DirectRoute, Port, PortKind, PortNumber, TunnelEnd};

use super::entry::{first_addresses, mapped};
use super::hooks::{self, Hook};
use super::load::{Pins, State, remove_pin};
use super::programs::Programs;
use super::tables::{removed, set};
use super::{Datapath, DatapathError};

/// The local ends of the tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderlaySpec {
    /// Index and name of each device that leads to peers.
    pub devices: Vec<(u32, String)>,
    /// The addresses of this host at which tunnels end, at most `MAX_UNDERLAY`.
    pub addresses: BTreeSet<IpAddr>,
    /// The source addresses of tunnels; the routes choose those of a family without one.
    pub sources: Vec<IpAddr>,
    /// The UDP port of the tunnels.
    pub port: u16,
    /// The receiver, behind which GRO merges the TCP packets of tunnels; `None` if it does not
    /// exist.
    pub receiver: Option<Receiver>,
    /// The peers to which one of the devices leads. What comes out of a tunnel as theirs must have
    /// come in by the underlay.
    pub guarded: BTreeSet<IpAddr>,
    /// The direct routes to peers, by which packets leave without the tunnel device. Some peers
    /// have none.
    pub direct_paths: BTreeMap<Ipv4Addr, DirectPath>,
}

/// The direct route of packets to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectPath {
    /// This host's address on the route.
    pub source: Ipv4Addr,
    /// The index of the device, which must be an Ethernet device.
    pub ifindex: u32,
    /// Length in bytes of the longest inner IP packet that fits.
    pub mtu: u16,
}

/// A pair of devices. GRO merges packets that are sent into the first device, behind the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The index of the first device.
    pub into: u32,
    /// The index of the second device, which has our program.
    pub out_of: u32,
    /// The name of the second device.
    pub device: String,
}

impl Datapath {
    /// Updates the underlay programs and tables to match `spec`. The devices stay the host's own: a
    /// packet that belongs to no tunnel passes unchanged.
    ///
    /// # Errors
    /// Returns the error of the kernel. Changes made before the error stay.
    pub fn set_underlay(&self, spec: &UnderlaySpec) -> Result<(), DatapathError> {
        let mut hooks: Vec<Hook> = spec.receiver.iter().map(|_| Hook::Receiver).collect();
        hooks.extend(spec.devices.first().map(|_| Hook::Underlay));
        let mut programs = self.programs();
        programs.ensure(&hooks)?;
        let mut state = self.state();
        let pins = Pins(&self.options.directory);
        // The receiver is set up before the tables send packets to it.
        self.set_receiver(&mut programs, &mut state, spec.receiver.as_ref(), &pins)?;
        let (ipv4, ipv6) = first_addresses(&spec.sources);
        set(&mut state.maps.ports, "PORTS", PortNumber::NONE.0, Port { ipv4, ipv6, ..Port::default() })?;
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
            // The flags that the programs set in the entry are kept.
            let there = state.maps.underlay.get(&address, 0).ok();
            if there.is_none_or(|there| (there.port, there.receiver) != (end.port, end.receiver)) {
                let flags = there.map_or(0, |there| there.flags);
                state.maps.underlay.insert(address, TunnelEnd { flags, ..end }, 0).map_err(failed)?;
            }
        }
        let tunnels = state.ports.iter().filter(|(_, port)| port.kind() == Some(PortKind::Tunnel));
        let tunnels: Vec<_> = tunnels.map(|(number, port)| (number, port.peer())).collect();
        for (number, peer) in tunnels {
            let way = match IpAddr::from(peer.octets()).to_canonical() {
                IpAddr::V4(peer) => spec.direct_paths.get(&peer),
                IpAddr::V6(_) => None,
            };
            let way = way.map_or(DirectRoute::default(), |way| DirectRoute {
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
                hooks::attach_tc(&mut programs, self.tc, Hook::Underlay, device, *ifindex, &pins)?;
                state.underlay.insert(*ifindex);
            }
        }
        // After the programs that set the mark.
        let guarded: BTreeSet<Address> = spec.guarded.iter().copied().map(mapped).collect();
        state.ask_for_mark(|peer| guarded.contains(&peer))
    }

    /// Reports whether a device is the receiver's second device, behind which GRO merges TCP
    /// packets.
    pub fn is_receiver(&self, ifindex: u32) -> bool {
        self.state().receiver == Some(ifindex)
    }

    fn set_receiver(
        &self,
        programs: &mut Programs,
        state: &mut State,
        receiver: Option<&Receiver>,
        pins: &Pins<'_>,
    ) -> Result<(), DatapathError> {
        let wanted = receiver.map(|receiver| receiver.out_of);
        if let Some(before) = state.receiver.take_if(|before| wanted != Some(*before)) {
            remove_pin(&pins.link(before, Hook::Receiver))?;
        }
        if let Some(Receiver { out_of, device, .. }) = receiver.filter(|_| state.receiver.is_none()) {
            hooks::attach_tc(programs, self.tc, Hook::Receiver, device, *out_of, pins)?;
            state.receiver = wanted;
        }
        Ok(())
    }
}

impl State {
    /// Sets for each tunnel whether its frames must have the mark of the underlay, by its peer.
    fn ask_for_mark(&mut self, guarded: impl Fn(Address) -> bool) -> Result<(), DatapathError> {
        for (number, port) in &mut self.ports.ports {
            let asks = port.kind() == Some(PortKind::Tunnel) && guarded(port.peer());
            if asks != port.has(Port::UNDERLAY) {
                port.flags ^= Port::UNDERLAY;
                set(&mut self.maps.ports, "PORTS", number.0, *port)?;
            }
        }
        Ok(())
    }
}
