//! The core over the live tables, read from the daemon: what it decides about a frame, and every entry that it looked at.

use std::cell::RefCell;
use std::ops::Deref;

use aya::maps::MapError;
use vswitch_common::forward::{Copied, Flooded, forward, forward_early};
use vswitch_common::packet::address::Address;
use vswitch_common::packet::{Received, TunnelKey};
use vswitch_common::tables::{
    FdbEntry, FdbKey, ListenerKey, MAX_PORTS, NeighborKey, Network, NetworkNumber, OwnKey, Port, PortKind, PortNumber,
    StormWindow, Subnet, Tables, TunnelEnd, VlanKey, trunk_key,
};
use vswitch_common::verdict::{Decision, Verdict};

use super::tables::Maps;
use super::{Datapath, DatapathError};

/// Where a program looks at a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the kernel has made a packet of it.
    Xdp,
    /// tcx or clsact.
    Tc,
}

/// An entry that the core looked at, with what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Which port a device is.
    Device(u32, PortNumber),
    /// A port's entry.
    Port(PortNumber, Option<Port>),
    /// Where a station is.
    Station(FdbKey, Option<FdbEntry>),
    /// What holds for a network.
    Network(NetworkNumber, Network),
    /// Whose the packets of a peer are.
    Tunnel(TunnelKey, Option<PortNumber>),
    /// Whose an IP address is.
    Subnet(Address, Option<Subnet>),
    /// Whose station has an IP address.
    Neighbor(NeighborKey, PortNumber),
    /// Whether a VLAN is on the list of a trunk.
    Trunk(PortNumber, VlanKey, bool),
    /// Whether an address is the station's own in another network.
    Own(OwnKey, bool),
    /// Whether a port listens to a group.
    Listener(ListenerKey, bool),
    /// What a class of a port's frames has used of its allowance.
    Storm(PortNumber, u32, StormWindow),
}

/// What the core decided, and what it looked at for it, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reasoned {
    /// The decision.
    pub decision: Decision,
    /// The entries; one that was looked at again is here once.
    pub lookups: Vec<Lookup>,
    /// Of a flood, what each port of the network gets, as far as it gets anything or would if it were shorter.
    pub copies: Vec<(PortNumber, Copied)>,
}

impl Datapath {
    /// What the core decides at the tick `now` about a frame that the device `ifindex` received, in the words
    /// of the live tables. Nothing changes by it.
    ///
    /// # Errors
    /// [`DatapathError::Table`] if a table cannot be read.
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
            Stage::Xdp => forward_early(ifindex, kind, frame.bytes, &tables, now),
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
    /// The first table that could not be read: what was decided without it counts for nothing.
    failed: RefCell<Option<DatapathError>>,
}

impl LiveTables<'_> {
    /// Walks over the ports of the network as the program does that carries a flood out.
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

    /// What a table answered; that it has no such entry is an answer.
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
