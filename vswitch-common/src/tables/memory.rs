//! The tables in memory: for tests, fuzzing and benches of the core.

use std::collections::HashMap;

use super::{FdbEntry, FdbKey, Network, NetworkNumber, Port, PortNumber, Subnet, Tables};
use crate::packet::address::Address;
use crate::verdict::Decision;

/// Tables in hash maps, with the updates that the kernel programs make to theirs.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    /// Port of each device.
    pub devices: HashMap<u32, PortNumber>,
    /// The ports.
    pub ports: HashMap<PortNumber, Port>,
    /// The stations.
    pub fdb: HashMap<FdbKey, FdbEntry>,
    /// The networks of which more is known than their ports.
    pub networks: HashMap<NetworkNumber, Network>,
    /// Whose addresses are: prefix length and prefix, the bits behind it being 0.
    pub subnets: HashMap<(u32, u128), Subnet>,
}

impl MemoryTables {
    /// Adds a port with a static FDB entry for its own address, as the daemon does.
    pub fn add_port(&mut self, number: PortNumber, port: Port) {
        self.devices.insert(port.ifindex, number);
        self.ports.insert(number, port);
        let key = FdbKey { network: port.network, vlan: super::VlanKey::NONE, mac: port.mac };
        self.fdb.insert(key, FdbEntry { port: number, flags: FdbEntry::STATIC, ..FdbEntry::default() });
    }

    /// Says whose the addresses with this prefix are.
    pub fn add_subnet(&mut self, address: Address, length: u32, subnet: Subnet) {
        self.subnets.insert((length, prefix(address, length)), subnet);
    }

    /// Writes the station that a decision learned.
    pub fn learn(&mut self, decision: &Decision, now: u32) {
        let Some(key) = decision.learn() else { return };
        let entry = self.fdb.entry(key).or_insert(FdbEntry { port: decision.ingress, ..FdbEntry::default() });
        if entry.is_static() {
            return;
        }
        if entry.port != decision.ingress {
            entry.port = decision.ingress;
            entry.moves += 1;
        }
        entry.seen = now;
    }
}

impl Tables for MemoryTables {
    fn port_of_device(&self, ifindex: u32) -> PortNumber {
        self.devices.get(&ifindex).copied().unwrap_or(PortNumber::NONE)
    }

    fn port(&self, number: PortNumber) -> Option<Port> {
        self.ports.get(&number).copied()
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
}

/// The first `length` bits of an address, the rest 0.
fn prefix(address: Address, length: u32) -> u128 {
    u128::from_be_bytes(address.octets()) & u128::MAX.checked_shl(128 - length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let mut tables = MemoryTables::default();
        let whose = |network, flags| Subnet { network: NetworkNumber(network), flags };
        let address = |last, first| {
            let mut address = [0xfd; 16];
            (address[15], address[0]) = (last, first);
            Address::new(address)
        };
        tables.add_subnet(address(0xfd, 0xfd), 0, whose(1, 0));
        tables.add_subnet(address(0xfd, 0xfd), 64, whose(2, 0));
        tables.add_subnet(address(0xfd, 0xfd), 128, whose(2, Subnet::GATEWAY));
        assert_eq!(tables.subnet(address(0xfd, 0xfd)), Some(whose(2, Subnet::GATEWAY)));
        assert_eq!(tables.subnet(address(1, 0xfd)), Some(whose(2, 0)));
        assert_eq!(tables.subnet(address(1, 1)), Some(whose(1, 0)));
    }
}
