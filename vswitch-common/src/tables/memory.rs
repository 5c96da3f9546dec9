//! The tables in memory, for tests, fuzzing and benches of the core.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;

use super::{
    FdbEntry, FdbKey, ListenerKey, NeighborKey, Network, NetworkNumber, OwnKey, Port, PortNumber, StormWindow, Subnet,
    Tables, TunnelEnd, VlanKey,
};
use crate::packet::TunnelKey;
use crate::packet::address::Address;

/// Tables in hash maps, with the updates that the kernel programs make to their maps.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    /// The port of each device, by ifindex.
    pub devices: HashMap<u32, PortNumber>,
    /// The ports.
    pub ports: HashMap<PortNumber, Port>,
    /// The stations.
    pub fdb: HashMap<FdbKey, FdbEntry>,
    /// The networks. One without an entry has the default values.
    pub networks: HashMap<NetworkNumber, Network>,
    /// The port of each known IP address.
    pub neighbors: HashMap<NeighborKey, PortNumber>,
    /// IP addresses that stations have in other networks.
    pub owned: HashSet<OwnKey>,
    /// The VLANs on the lists of trunks.
    pub trunks: HashSet<(PortNumber, VlanKey)>,
    /// The listeners of multicast groups.
    pub listeners: HashSet<ListenerKey>,
    /// Flooded frames, by port and class.
    pub storms: HashMap<(PortNumber, u32), StormWindow>,
    /// The ports of tunnels.
    pub tunnels: HashMap<TunnelKey, PortNumber>,
    /// The ends of tunnels, by address of this host.
    pub underlay: HashMap<Address, TunnelEnd>,
    /// The subnets, by prefix length and prefix, whose further bits are 0.
    pub subnets: HashMap<(u32, u128), Subnet>,
}

impl MemoryTables {
    /// Adds a port with a static FDB entry for its own address, as the daemon does.
    pub fn add_port(&mut self, number: PortNumber, port: Port) {
        self.devices.insert(port.ifindex, number);
        self.ports.insert(number, port);
        let key = FdbKey { network: port.network, vlan: port.vlan, mac: port.mac };
        self.fdb.insert(key, FdbEntry { port: number, flags: FdbEntry::STATIC, ..FdbEntry::default() });
    }

    /// Adds a tunnel: a port for the frames of a VNI from the peer [`Port::peer`], without a
    /// station of its own.
    pub fn add_tunnel(&mut self, number: PortNumber, port: Port, vni: u32) {
        self.ports.insert(number, port);
        self.tunnels.insert(TunnelKey::new(port.peer(), vni), number);
        self.tunnels.insert(TunnelKey::any_peer(vni), PortNumber::NONE);
    }

    /// Adds a subnet: the addresses with a prefix of `length` bits.
    pub fn add_subnet(&mut self, address: Address, length: u32, subnet: Subnet) {
        self.subnets.insert((length, prefix(address, length)), subnet);
    }

    /// Writes a station that was heard at a port at the tick `now`, as the kernel programs do.
    pub fn learn(&mut self, station: FdbKey, port: PortNumber, now: u32, announced: bool) {
        let entry = self.fdb.entry(station).or_insert(FdbEntry { port, ..FdbEntry::default() });
        if entry.is_static() {
            return;
        }
        if entry.port != port {
            *entry = entry.moved(port, now, announced);
        } else {
            entry.seen = now;
        }
    }
}

impl Tables for MemoryTables {
    fn port_of_device(&self, ifindex: u32) -> PortNumber {
        self.devices.get(&ifindex).copied().unwrap_or(PortNumber::NONE)
    }

    fn port(&self, number: PortNumber) -> Option<impl Deref<Target = Port>> {
        self.ports.get(&number)
    }

    fn fdb(&self, key: &FdbKey) -> Option<FdbEntry> {
        self.fdb.get(key).copied()
    }

    fn network(&self, number: NetworkNumber) -> Network {
        self.networks.get(&number).copied().unwrap_or_default()
    }

    fn subnet(&self, address: Address) -> Option<Subnet> {
        (0..=128).rev().find_map(|length| self.subnets.get(&(length, prefix(address, length))).copied())
    }

    fn neighbor(&self, key: &NeighborKey) -> PortNumber {
        self.neighbors.get(key).copied().unwrap_or(PortNumber::NONE)
    }

    fn owns(&self, key: &OwnKey) -> bool {
        self.owned.contains(key)
    }

    fn in_trunk(&self, port: PortNumber, vlan: VlanKey) -> bool {
        self.trunks.contains(&(port, vlan))
    }

    fn listens(&self, key: &ListenerKey) -> bool {
        self.listeners.contains(key)
    }

    fn tunnel(&self, key: &TunnelKey) -> Option<PortNumber> {
        self.tunnels.get(key).copied()
    }

    fn tunnel_end(&self, own: Address) -> TunnelEnd {
        self.underlay.get(&own).copied().unwrap_or_default()
    }

    fn storm(&self, port: PortNumber, class: u32) -> StormWindow {
        self.storms.get(&(port, class)).copied().unwrap_or_default()
    }
}

/// Returns the first `length` bits of an address, followed by zeros.
fn prefix(address: Address, length: u32) -> u128 {
    u128::from_be_bytes(address.octets()) & u128::MAX.checked_shl(128 - length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let mut tables = MemoryTables::default();
        let subnet = |network, flags| Subnet { network: NetworkNumber(network), flags };
        let address = |last, first| {
            let mut address = [0xfd; 16];
            (address[15], address[0]) = (last, first);
            Address::new(address)
        };
        tables.add_subnet(address(0xfd, 0xfd), 0, subnet(1, 0));
        tables.add_subnet(address(0xfd, 0xfd), 64, subnet(2, 0));
        tables.add_subnet(address(0xfd, 0xfd), 128, subnet(2, Subnet::GATEWAY));
        assert_eq!(tables.subnet(address(0xfd, 0xfd)), Some(subnet(2, Subnet::GATEWAY)));
        assert_eq!(tables.subnet(address(1, 0xfd)), Some(subnet(2, 0)));
        assert_eq!(tables.subnet(address(1, 1)), Some(subnet(1, 0)));
    }
}
