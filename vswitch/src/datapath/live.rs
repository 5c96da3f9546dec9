//! Runs the core on the live tables from the daemon, and records its decision about a frame with
//! every entry that it looked up.

use std::cell::RefCell;
use std::ops::Deref;

use aya::maps::MapError;
use vswitch_common::forward::{Copied, Flooded, forward, forward_xdp};
use vswitch_common::packet::address::Address;
use vswitch_common::packet::{Received, TunnelKey};
use vswitch_common::tables::{
    FdbEntry, FdbKey, ListenerKey, MAX_PORTS, NeighborKey, Network, NetworkNumber, OwnKey, Port, PortKind, PortNumber,
    StormWindow, Subnet, Tables, TunnelEnd, VlanKey, trunk_key,
};
use vswitch_common::verdict::{Decision, Verdict};

use super::tables::Maps;
use super::{Datapath, DatapathError};

/// The hook at which a program processes a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// XDP, before the kernel allocates an sk_buff.
    Xdp,
    /// tcx or clsact.
    Tc,
}

/// A table entry that the core looked up, with the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The port of a device.
    Device(u32, PortNumber),
    /// The entry of a port.
    Port(PortNumber, Option<Port>),
    /// The FDB entry of a station.
    Station(FdbKey, Option<FdbEntry>),
    /// The entry of a network.
    Network(NetworkNumber, Network),
    /// The port that packets of a peer enter by.
    Tunnel(TunnelKey, Option<PortNumber>),
    /// The subnet that contains an IP address.
    Subnet(Address, Option<Subnet>),
    /// The port whose station has an IP address.
    Neighbor(NeighborKey, PortNumber),
    /// Whether the list of a trunk contains a VLAN.
    Trunk(PortNumber, VlanKey, bool),
    /// Whether an address is the station's own address in another network.
    Own(OwnKey, bool),
    /// Whether a port is a listener of a group.
    Listener(ListenerKey, bool),
    /// The storm-control window of a class of a port's frames: how much of its allowance the class
    /// has used.
    Storm(PortNumber, u32, StormWindow),
}

/// A decision of the core, with the lookups that led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasoned {
    /// The decision.
    pub decision: Decision,
    /// The lookups in order. Each distinct lookup occurs once.
    pub lookups: Vec<Lookup>,
    /// For a flood: the copy that each port of the network gets, including ports that get none
    /// because the frame is too long for them.
    pub copies: Vec<(PortNumber, Copied)>,
}

impl Datapath {
    /// Returns the decision of the core at the tick `now` about a frame that the device `ifindex`
    /// received, with the live tables. Changes nothing.
    ///
    /// # Errors
    /// Returns [`DatapathError::Table`] if a table cannot be read.
    pub fn reason(
        &self,
        stage: Stage,
        kind: PortKind,
        ifindex: u32,
        frame: &Received<'_>,
        now: u32,
    ) -> Result<Reasoned, DatapathError> {
        let state = self.state();
        let tables = LiveTables { maps: &state.maps, seen: RefCell::default(), failed: RefCell::default() };
        let decision = match stage {
            Stage::Xdp => forward_xdp(ifindex, kind, frame.bytes, &tables, now),
            Stage::Tc => forward(ifindex, frame, &tables, now),
        };
        let copies = tables.copies(&decision, frame);
        match tables.failed.into_inner() {
            Some(error) => Err(error),
            None => Ok(Reasoned { decision, lookups: tables.seen.into_inner(), copies }),
        }
    }
}

/// The maps of this instance as the core's [`Tables`], with a record of every lookup.
struct LiveTables<'a> {
    maps: &'a Maps,
    seen: RefCell<Vec<Lookup>>,
    /// The first table that could not be read. A decision that was made without the table is
    /// discarded.
    failed: RefCell<Option<DatapathError>>,
}

impl LiveTables<'_> {
    /// Walks over the ports of the network as the program does that replicates a flood.
    fn copies(&self, decision: &Decision, frame: &Received<'_>) -> Vec<(PortNumber, Copied)> {
        if !matches!(decision.verdict(), Some(Verdict::Flood(_))) {
            return Vec::new();
        }
        let entry = |number: PortNumber| self.read("PORTS", self.maps.ports.get(&number.0, 0));
        let Some(ingress) = entry(decision.ingress) else { return Vec::new() };
        let flooded = Flooded::new(decision, frame, &ingress);
        let network = self.read("NETWORKS", self.maps.networks.get(&ingress.network.0, 0));
        let mut next = network.map_or(PortNumber::NONE, |network| network.first);
        let mut copies = Vec::new();
        for _ in 0..MAX_PORTS {
            let there = entry(next).filter(|port| next != PortNumber::NONE && port.network == ingress.network);
            let Some(port) = there else { break };
            match flooded.copy(&port, next, self) {
                Copied::No => {}
                copied => copies.push((next, copied)),
            }
            next = port.next;
        }
        copies
    }

    fn note(&self, lookup: Lookup) {
        let mut seen = self.seen.borrow_mut();
        if !seen.contains(&lookup) {
            seen.push(lookup);
        }
    }

    /// Returns the entry that a table lookup found, or `None` if the entry does not exist. Notes
    /// any other error.
    fn read<T>(&self, table: &'static str, answer: Result<T, MapError>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(MapError::KeyNotFound | MapError::OutOfBounds { .. }) => None,
            Err(cause) => {
                self.failed.borrow_mut().get_or_insert(DatapathError::Table { table, cause });
                None
            }
        }
    }
}

impl Tables for LiveTables<'_> {
    fn port_of_device(&self, ifindex: u32) -> PortNumber {
        let number = self.read("DEVICES", self.maps.port_of_device(ifindex)).unwrap_or(PortNumber::NONE);
        self.note(Lookup::Device(ifindex, number));
        number
    }

    fn port(&self, number: PortNumber) -> Option<impl Deref<Target = Port>> {
        let port = self.read("PORTS", self.maps.ports.get(&number.0, 0)).filter(|port| port.kind != 0);
        self.note(Lookup::Port(number, port));
        port.map(Box::new)
    }

    fn fdb(&self, key: &FdbKey) -> Option<FdbEntry> {
        let entry = self.read("FDB", self.maps.fdb.get(key, 0));
        self.note(Lookup::Station(*key, entry));
        entry
    }

    fn network(&self, number: NetworkNumber) -> Network {
        let network = self.read("NETWORKS", self.maps.networks.get(&number.0, 0)).unwrap_or_default();
        self.note(Lookup::Network(number, network));
        network
    }

    fn subnet(&self, address: Address) -> Option<Subnet> {
        let subnet = self.read("SUBNETS", self.maps.subnets.of(address));
        self.note(Lookup::Subnet(address, subnet));
        subnet
    }

    fn neighbor(&self, key: &NeighborKey) -> PortNumber {
        let neighbor = self.read("NEIGHBORS", self.maps.neighbors.get(key, 0));
        let owner = neighbor.map_or(PortNumber::NONE, |neighbor| neighbor.port);
        self.note(Lookup::Neighbor(*key, owner));
        owner
    }

    fn owns(&self, key: &OwnKey) -> bool {
        let owns = self.read("OWNED", self.maps.owned.get(key, 0)).is_some();
        self.note(Lookup::Own(*key, owns));
        owns
    }

    fn in_trunk(&self, port: PortNumber, vlan: VlanKey) -> bool {
        let listed = self.read("TRUNKS", self.maps.trunks.get(&trunk_key(port, vlan), 0)).is_some();
        self.note(Lookup::Trunk(port, vlan, listed));
        listed
    }

    fn listens(&self, key: &ListenerKey) -> bool {
        let listens = self.read("LISTENERS", self.maps.listeners.get(key, 0)).is_some();
        self.note(Lookup::Listener(*key, listens));
        listens
    }

    fn tunnel(&self, key: &TunnelKey) -> Option<PortNumber> {
        let port = self.read("TUNNELS", self.maps.tunnels.get(key, 0));
        self.note(Lookup::Tunnel(*key, port));
        port
    }

    fn tunnel_end(&self, own: Address) -> TunnelEnd {
        self.read("UNDERLAY", self.maps.underlay.get(&own, 0)).unwrap_or_default()
    }

    fn storm(&self, port: PortNumber, class: u32) -> StormWindow {
        let window = self.maps.storms.get(&StormWindow::index(port, class), 0);
        let window = self.read("STORMS", window).unwrap_or_default();
        self.note(Lookup::Storm(port, class, window));
        window
    }
}
