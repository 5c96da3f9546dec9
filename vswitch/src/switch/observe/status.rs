//! Read-only use cases: `status`, `ps`, `inspect`, `network ls`, `stats`.

use std::collections::BTreeMap;

use vswitch_common::tables::{PortCounters, PortNumber};

use crate::datapath::Datapath;
use crate::model::Network;
use crate::switch::context::{NamedPort, named_ports};
use crate::switch::error::SwitchError;
use crate::switch::info::{
    EndpointDetails, EndpointInfo, InterfaceInfo, NetworkDetails, NetworkInfo, PortStats, Status,
};
use crate::switch::observe::Observe;
use crate::switch::state::{EndpointEntry, NetworkEntry, Referred, State};

/// The name in the place of a network's for ports of no network. No network can have it.
const NO_NETWORK: &str = "-";

impl Observe {
    /// Returns the state of the whole switch.
    ///
    /// # Errors
    /// The FDB cannot be read.
    pub fn status(&self) -> Result<Status, SwitchError> {
        let (networks, endpoints) = {
            let state = self.context.snapshot();
            (state.networks.values().filter(|entry| entry.ready).count(), state.attached().len())
        };
        let nat = self.nat.status();
        let notes = self.context.notes();
        let stations = self.context.datapath.fdb()?;
        Ok(Status {
            instance: self.context.instance.name().to_string(),
            mode: self.context.mode,
            hooks: self.context.hooks(),
            kernel: self.context.kernel.clone(),
            public_key: self.overlay.encryption.key(),
            networks,
            endpoints,
            fdb_entries: stations.len(),
            held_stations: stations.iter().filter(|(_, entry)| Datapath::is_held(entry)).count(),
            uptime: self.context.started.elapsed(),
            taken_over: self.context.datapath.taken_over(),
            firewall_table: nat.table,
            forwarding: nat.forwarding,
            firewalls: nat.firewalls,
            notes: nat.notes.into_iter().chain(notes).collect(),
            interfaces: self.interfaces(),
            cluster: self.cluster_status(),
        })
    }

    /// Returns all attached endpoints by name, each once per network.
    pub fn endpoints(&self) -> Vec<EndpointInfo> {
        let state = self.context.snapshot();
        let mut endpoints = state.attached();
        endpoints.sort_by_cached_key(|entry| (entry.record.name.clone(), state.gateway_order(&entry.record)));
        endpoints.into_iter().filter_map(|entry| info_of(&state, entry)).collect()
    }

    /// Returns an endpoint in all its networks.
    ///
    /// # Errors
    /// The endpoint does not exist, or its counters cannot be read.
    pub fn inspect(&self, reference: &str) -> Result<EndpointDetails, SwitchError> {
        let (networks, port) = {
            let state = self.context.snapshot();
            let entries = state.find_endpoint(reference)?;
            let networks: Vec<_> = entries.iter().filter_map(|entry| info_of(&state, entry)).collect();
            (networks, entries[0].port)
        };
        let Some(first) = networks.first() else { return Err(SwitchError::EndpointNotFound(reference.to_owned())) };
        let device = port.map(|_| self.context.instance.port_device(&first.endpoint.id));
        let counters = port.map(|port| self.context.datapath.counters(port.number)).transpose()?;
        let hooks = port.and_then(|port| self.context.datapath.port_hooks(port.number));
        Ok(EndpointDetails { networks, device, hooks, counters })
    }

    /// Returns a network with the number of its endpoints.
    pub fn network_info(&self, network: &Network) -> NetworkInfo {
        network_info(&self.context.snapshot(), network)
    }

    /// Returns all networks by name.
    pub fn networks(&self) -> Vec<NetworkInfo> {
        let state = self.context.snapshot();
        let ready = state.networks.values().filter(|entry| entry.ready);
        let mut networks: Vec<_> = ready.map(|entry| network_info(&state, &entry.record)).collect();
        networks.sort_by(|one, other| one.network.name.cmp(&other.network.name));
        networks
    }

    /// Returns a network with its devices and endpoints.
    ///
    /// # Errors
    /// The network does not exist.
    pub fn inspect_network(&self, reference: &str) -> Result<NetworkDetails, SwitchError> {
        let state = self.context.snapshot();
        let entry = state.find_network(reference)?;
        let record = &entry.record;
        let mut attached: Vec<_> = state.endpoints_of(record.id).map(|entry| entry.record.name.to_string()).collect();
        attached.sort();
        let can = record.capabilities();
        Ok(NetworkDetails {
            network: network_info(&state, record),
            mtu: can.interfaces.is_ok().then_some(entry.mtu),
            host_device: can.switched.then(|| self.context.instance.host_device(record.device_name())),
            interface: self.interface_info(entry),
            attached,
            elsewhere: super::cluster::elsewhere(&state, record.id),
        })
    }

    /// Returns the uplinks and parents with the names of their networks, by interface.
    fn interfaces(&self) -> Vec<(InterfaceInfo, Vec<String>)> {
        let state = self.context.snapshot();
        let mut interfaces: BTreeMap<String, (InterfaceInfo, Vec<String>)> = BTreeMap::new();
        for entry in state.networks.values().filter(|entry| entry.ready) {
            let Some(info) = self.interface_info(entry) else { continue };
            let (_, networks) = interfaces.entry(info.interface.clone()).or_insert((info, Vec::new()));
            networks.push(entry.record.name.to_string());
            networks.sort();
        }
        interfaces.into_values().collect()
    }

    /// Returns the uplink or the parent of a network.
    pub fn interface_info(&self, entry: &NetworkEntry) -> Option<InterfaceInfo> {
        let interface = entry.record.interface()?.to_string();
        let hooks = entry.uplink.as_ref().and_then(|uplink| {
            let hooks = self.context.datapath.port_hooks(uplink.port.number)?;
            Some(uplink.note.map_or_else(|| hooks.clone(), |note| format!("{hooks} ({note})")))
        });
        Some(InterfaceInfo { interface, present: entry.uplink.is_some(), hooks })
    }

    /// Returns the counters of all ports, of those of an endpoint, or of those of a network; by
    /// name.
    ///
    /// # Errors
    /// The endpoint or network does not exist, or the counters cannot be read.
    pub fn stats(&self, of: Option<&str>) -> Result<Vec<PortStats>, SwitchError> {
        let mut stats = self.port_stats(of)?;
        let tunnels = self.context.snapshot().networks.values().any(|entry| entry.tunnels.is_some());
        if of.is_none() && tunnels {
            // Tunnel traffic that belongs to no port: unknown peers, unknown VNIs, invalid headers.
            let (port, network) = (self.context.instance.tunnel_device(), NO_NETWORK.to_owned());
            let counters = self.context.datapath.counters(PortNumber::NONE)?;
            stats.push(PortStats { port, kind: "tunnel", network, counters });
        }
        Ok(stats)
    }

    fn port_stats(&self, of: Option<&str>) -> Result<Vec<PortStats>, SwitchError> {
        let mut ports = {
            let state = self.context.snapshot();
            let ports = named_ports(&state, |network| self.context.instance.host_device(network.device_name()));
            match of {
                None => ports,
                Some(reference) => chosen_ports(&state, ports, reference)?,
            }
        };
        ports.sort_by(|one, other| (&one.name, &one.network_name).cmp(&(&other.name, &other.network_name)));
        let stats = ports.into_iter().map(|port| {
            let counters = self.context.datapath.counters(port.number)?;
            Ok(PortStats { port: port.name, kind: port.kind, network: port.network_name, counters })
        });
        stats.collect()
    }

    /// Returns the sums of these counters by network.
    ///
    /// # Errors
    /// Fails as [`Observe::stats`] does.
    pub fn network_stats(&self, of: Option<&str>) -> Result<Vec<PortStats>, SwitchError> {
        let mut sums: BTreeMap<String, PortCounters> = BTreeMap::new();
        for port in self.port_stats(of)? {
            let sum = sums.entry(port.network).or_default();
            *sum = sum.plus(&port.counters);
        }
        let row = |(network, counters): (String, PortCounters)| PortStats {
            port: network.clone(),
            kind: "network",
            network,
            counters,
        };
        Ok(sums.into_iter().map(row).collect())
    }
}

/// Returns an endpoint with its network, unless the network is about to be removed.
fn info_of(state: &State, entry: &EndpointEntry) -> Option<EndpointInfo> {
    let network = state.networks.get(&entry.record.network)?.record.clone();
    Some(EndpointInfo { endpoint: entry.record.clone(), network })
}

/// Returns a network with the number of its endpoints.
fn network_info(state: &State, network: &Network) -> NetworkInfo {
    NetworkInfo { network: network.clone(), endpoints: state.endpoints_of(network.id).count() }
}

fn chosen_ports(state: &State, ports: Vec<NamedPort>, reference: &str) -> Result<Vec<NamedPort>, SwitchError> {
    Ok(match state.find(reference)? {
        Referred::Endpoint(entries) => {
            let numbers: Vec<_> = entries.iter().filter_map(|entry| entry.port).map(|port| port.number).collect();
            ports.into_iter().filter(|port| numbers.contains(&port.number)).collect()
        }
        Referred::Network(entry) => ports.into_iter().filter(|port| port.network == entry.record.id).collect(),
    })
}
