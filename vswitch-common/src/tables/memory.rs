//! The tables in memory: for tests, fuzzing and benches of the core.

use std::collections::HashMap;

use super::{FdbEntry, FdbKey, Port, PortNumber, Tables};
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
}

impl MemoryTables {
    /// Adds a port with a static FDB entry for its own address, as the daemon does.
    pub fn add_port(&mut self, number: PortNumber, port: Port) {
        self.devices.insert(port.ifindex, number);
        self.ports.insert(number, port);
        let key = FdbKey { network: port.network, vlan: super::VlanKey::NONE, mac: port.mac };
        self.fdb.insert(key, FdbEntry { port: number, flags: FdbEntry::STATIC, ..FdbEntry::default() });
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
}
