//! The names of ports and networks.

use std::collections::BTreeMap;

use vswitch_common::tables::{NetworkNumber, PortNumber};

use crate::model::{Network, NetworkId};
use crate::switch::context::Context;
use crate::switch::state::{EndpointEntry, NetworkEntry, State};

/// A port with the names of its endpoint or device and of its network.
#[derive(Clone, Debug)]
pub struct NamedPort {
    pub number: PortNumber,
    pub name: String,
    pub kind: &'static str,
    pub network: NetworkId,
    pub network_name: String,
}

impl Context {
    /// Returns the named ports by number.
    pub fn ports_by_number(&self) -> BTreeMap<PortNumber, NamedPort> {
        self.named_ports(&self.snapshot()).into_iter().map(|port| (port.number, port)).collect()
    }

    /// Returns all ports of a snapshot with their names.
    pub fn named_ports(&self, state: &State) -> Vec<NamedPort> {
        named_ports(state, |network| self.instance.host_device(network.device_name()))
    }

    /// Returns the names of networks by number. Networks on one parent share a number; their names
    /// are joined.
    pub fn network_names(&self) -> BTreeMap<NetworkNumber, String> {
        let mut names: BTreeMap<NetworkNumber, Vec<String>> = BTreeMap::new();
        for entry in self.snapshot().networks.values() {
            names.entry(entry.record.number).or_default().push(entry.record.name.to_string());
        }
        let joined = |mut names: Vec<String>| {
            names.sort();
            names.join(",")
        };
        names.into_iter().map(|(number, names)| (number, joined(names))).collect()
    }
}

/// Returns all ports with their names.
pub fn named_ports(state: &State, host_device: impl Fn(&Network) -> String) -> Vec<NamedPort> {
    let named = |number, name, kind, network: &Network| NamedPort {
        number,
        name,
        kind,
        network: network.id,
        network_name: network.name.to_string(),
    };
    let mut ports = Vec::new();
    for EndpointEntry { record, port, .. } in state.attached() {
        if let (Some(port), Some(network)) = (port, state.networks.get(&record.network)) {
            ports.push(named(port.number, record.name.to_string(), "endpoint", &network.record));
        }
    }
    for NetworkEntry { record, host_port, uplink, tunnels, .. } in state.networks.values() {
        for (peer, port) in tunnels.iter().flatten() {
            ports.push(named(port.number, peer.to_string(), "tunnel", record));
        }
        if let Some(port) = host_port {
            ports.push(named(port.number, host_device(record), "host", record));
        }
        if let (Some(uplink), Some(interface)) = (uplink, record.interface()) {
            let kind = if record.parent().is_some() { "parent" } else { "uplink" };
            ports.push(named(uplink.port.number, interface.to_string(), kind, record));
        }
    }
    ports
}
