//! What is shown: `status`, `ps`, `inspect`, `network ls`, `stats`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use vswitch_common::tables::PortNumber;

use super::state::{EndpointEntry, NetworkEntry, State};
use super::{Switch, SwitchError};
use crate::api::{
    AllVlans, Counters, EndpointDetails, EndpointView, HooksView, InterfaceView, NetworkDetails, NetworkView, PortView,
    Status, SubnetView, TrunkVlan, UplinkView,
};
use crate::datapath::{Datapath, Mode};
use crate::model::{Endpoint, EndpointAddress, Network, NetworkId, TrunkVlans};

/// What is shown in the place of a network's name where there is none: no network can be called so.
const NO_NETWORK: &str = "-";

/// A port, as people know it.
#[derive(Clone, Debug)]
pub(super) struct NamedPort {
    pub number: PortNumber,
    pub name: String,
    pub kind: &'static str,
    pub network: NetworkId,
    pub network_name: String,
}

impl Switch {
    /// The state of it all.
    ///
    /// # Errors
    /// Where the FDB cannot be read.
    pub fn status(&self) -> Result<Status, SwitchError> {
        let (networks, endpoints) = {
            let state = self.state();
            (state.networks.values().filter(|entry| entry.ready).count(), state.attached().len())
        };
        let outside = self.outside.status();
        let notes: Vec<String> = self.notes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let stations = self.datapath.fdb()?;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.name().to_string(),
            pid: std::process::id(),
            datapath: self.mode_name().to_owned(),
            hooks: self.hooks(),
            kernel: self.kernel.clone(),
            public_key: self.encryption.key().map(|key| key.to_string()),
            networks,
            endpoints,
            fdb_entries: stations.len(),
            held_stations: stations.iter().filter(|(_, entry)| Datapath::is_held(entry)).count(),
            uptime_seconds: self.started.elapsed().as_secs(),
            taken_over: self.datapath.taken_over(),
            firewall_table: outside.table,
            forwarding: outside.forwarding,
            notes: outside.notes.into_iter().chain(notes).collect(),
            interfaces: self.interfaces(),
            cluster: self.cluster_view(),
        })
    }

    /// The name of the mode, as `up --datapath` takes it.
    pub(super) const fn mode_name(&self) -> &'static str {
        match self.mode {
            Mode::Auto => "auto",
            Mode::Tc => "tc",
            Mode::Xdp => "xdp",
        }
    }

    /// The hooks that serve each kind of port.
    pub fn hooks(&self) -> HooksView {
        let hooks = self.datapath.hooks();
        HooksView { container: hooks.container, host: hooks.host, uplink: hooks.uplink }
    }

    /// All endpoints, by name.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let state = self.state();
        let mut endpoints = state.attached();
        endpoints.sort_by_cached_key(|entry| (entry.record.name.clone(), state.gateway_order(&entry.record)));
        endpoints
            .into_iter()
            .filter_map(|entry| Some(endpoint(&entry.record, &state.networks.get(&entry.record.network)?.record)))
            .collect()
    }

    /// All about one endpoint.
    ///
    /// # Errors
    /// There is none, or its counters cannot be read.
    pub fn inspect(&self, reference: &str) -> Result<EndpointDetails, SwitchError> {
        let (entry, networks, port) = {
            let state = self.state();
            let entries = state.endpoint(reference)?;
            let view = |entry: &&EndpointEntry| {
                Some(endpoint(&entry.record, &state.networks.get(&entry.record.network)?.record))
            };
            let networks: Vec<_> = entries.iter().filter_map(view).collect();
            (entries[0].record.clone(), networks, entries[0].port)
        };
        let not_found = || SwitchError::EndpointNotFound(reference.to_owned());
        let view = networks.first().cloned().ok_or_else(not_found)?;
        let counters = port.map(|port| self.datapath.counters(port.number)).transpose()?;
        Ok(EndpointDetails {
            endpoint: view,
            networks,
            hostname: entry.hostname,
            aliases: entry.aliases,
            labels: entry.labels,
            created: entry.created,
            device: port.map(|_| self.instance.port_device(&entry.id)),
            hooks: port.and_then(|port| self.datapath.port_hooks(port.number)),
            counters: counters.as_ref().map(Counters::from),
        })
    }

    /// All networks, by name.
    pub fn networks(&self) -> Vec<NetworkView> {
        let state = self.state();
        let ready = state.networks.values().filter(|entry| entry.ready);
        let mut views: Vec<_> = ready.map(|entry| network(&state, &entry.record)).collect();
        views.sort_by(|one, other| one.name.cmp(&other.name));
        views
    }

    /// All about one network.
    ///
    /// # Errors
    /// There is none.
    pub fn inspect_network(&self, reference: &str) -> Result<NetworkDetails, SwitchError> {
        let state = self.state();
        let entry = state.network(reference)?;
        let record = &entry.record;
        let mut attached: Vec<_> = state.endpoints_of(record.id).map(|entry| entry.record.name.to_string()).collect();
        attached.sort();
        let switched = record.driver.is_switched();
        let uplink = self.uplink_view(entry);
        let (uplink, parent) = if record.wire.is_some() { (None, uplink) } else { (uplink, None) };
        Ok(NetworkDetails {
            network: network(&state, record),
            mtu: record.driver.has_interfaces().then_some(entry.mtu),
            host_device: switched.then(|| self.instance.host_device(&record.name)),
            uplink,
            parent,
            vni: record.overlay.map(|overlay| overlay.vni),
            attached,
            elsewhere: super::cluster::elsewhere(&state, record.id),
        })
    }

    /// The interfaces of the host that networks are on, by name.
    fn interfaces(&self) -> Vec<InterfaceView> {
        let state = self.state();
        let mut interfaces: BTreeMap<String, InterfaceView> = BTreeMap::new();
        for entry in state.networks.values().filter(|entry| entry.ready) {
            let Some(view) = self.uplink_view(entry) else { continue };
            let name = view.interface.clone();
            let there = interfaces.entry(name).or_insert(InterfaceView { interface: view, networks: Vec::new() });
            there.networks.push(entry.record.name.to_string());
            there.networks.sort();
        }
        interfaces.into_values().collect()
    }

    pub(super) fn uplink_view(&self, entry: &NetworkEntry) -> Option<UplinkView> {
        let interface = entry.record.interface()?.to_string();
        let hooks = entry.uplink.as_ref().and_then(|uplink| {
            let hooks = self.datapath.port_hooks(uplink.port.number)?;
            Some(uplink.note.map_or_else(|| hooks.clone(), |note| format!("{hooks} ({note})")))
        });
        Some(UplinkView { interface, present: entry.uplink.is_some(), hooks })
    }

    /// What went through the ports: all, an endpoint's, or those of a network; by name.
    ///
    /// # Errors
    /// There is no such endpoint or network, or the counters cannot be read.
    pub fn stats(&self, of: Option<&str>) -> Result<Vec<PortView>, SwitchError> {
        let mut views = self.port_stats(of)?;
        let tunnels = self.state().networks.values().any(|entry| entry.tunnels.is_some());
        if of.is_none() && tunnels {
            // What came to the tunnels and is no port's: strangers, unknown VNIs, headers that are not sound.
            let counters = Counters::from(&self.datapath.counters(PortNumber::NONE)?);
            let (port, kind, network) = (self.instance.tunnel_device(), "tunnel".to_owned(), NO_NETWORK.to_owned());
            views.push(PortView { port, kind, network, counters });
        }
        Ok(views)
    }

    fn port_stats(&self, of: Option<&str>) -> Result<Vec<PortView>, SwitchError> {
        let mut ports = {
            let state = self.state();
            let ports = named_ports(&state, |network| self.instance.host_device(&network.name));
            match of {
                None => ports,
                Some(reference) => chosen_ports(&state, ports, reference)?,
            }
        };
        ports.sort_by(|one, other| (&one.name, &one.network_name).cmp(&(&other.name, &other.network_name)));
        let views = ports.into_iter().map(|port| {
            let counters = Counters::from(&self.datapath.counters(port.number)?);
            Ok(PortView { port: port.name, kind: port.kind.to_owned(), network: port.network_name, counters })
        });
        views.collect()
    }

    /// The same, summed up by network.
    ///
    /// # Errors
    /// As for [`Switch::stats`].
    pub fn network_stats(&self, of: Option<&str>) -> Result<Vec<PortView>, SwitchError> {
        let mut sums: BTreeMap<String, Counters> = BTreeMap::new();
        for port in self.port_stats(of)? {
            sums.entry(port.network).or_default().add(&port.counters);
        }
        let row = |(network, counters): (String, Counters)| PortView {
            port: network.clone(),
            kind: "network".to_owned(),
            network,
            counters,
        };
        Ok(sums.into_iter().map(row).collect())
    }

    /// The ports by number.
    pub(super) fn ports_by_number(&self) -> BTreeMap<PortNumber, NamedPort> {
        let state = self.state();
        let ports = named_ports(&state, |network| self.instance.host_device(&network.name));
        ports.into_iter().map(|port| (port.number, port)).collect()
    }
}

fn chosen_ports(state: &State, ports: Vec<NamedPort>, reference: &str) -> Result<Vec<NamedPort>, SwitchError> {
    let nothing = |error| match error {
        SwitchError::NetworkNotFound(reference) => SwitchError::NothingFound(reference),
        other => other,
    };
    match state.endpoint(reference) {
        Ok(entries) => {
            let numbers: Vec<_> = entries.iter().filter_map(|entry| entry.port).map(|port| port.number).collect();
            Ok(ports.into_iter().filter(|port| numbers.contains(&port.number)).collect())
        }
        Err(SwitchError::EndpointNotFound(_)) => {
            let network = state.network(reference).map_err(nothing)?.record.id;
            Ok(ports.into_iter().filter(|port| port.network == network).collect())
        }
        Err(error) => Err(error),
    }
}

fn named_ports(state: &State, host_device: impl Fn(&Network) -> String) -> Vec<NamedPort> {
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
            let kind = if record.wire.is_some() { "parent" } else { "uplink" };
            ports.push(named(uplink.port.number, interface.to_string(), kind, record));
        }
    }
    ports
}

/// An endpoint, as it is shown.
pub(super) fn endpoint(endpoint: &Endpoint, network: &Network) -> EndpointView {
    let address = endpoint.address.as_ref();
    EndpointView {
        id: endpoint.id,
        name: endpoint.name.to_string(),
        network: network.name.to_string(),
        ifname: address.map(|address| address.ifname.to_string()),
        mac: address.map(|address| address.mac.to_string()),
        ipv4: address.map(|address| address.ipv4),
        ipv6: address.and_then(|address| address.ipv6),
        gateway: address.and_then(|address| match gateway(network, endpoint, address, false)? {
            IpAddr::V4(gateway) => Some(gateway),
            IpAddr::V6(_) => None,
        }),
        gateway6: address.and_then(|address| match gateway(network, endpoint, address, true)? {
            IpAddr::V4(_) => None,
            IpAddr::V6(gateway) => Some(gateway),
        }),
        nameservers: nameservers(network, endpoint),
        mtu: address.map(|address| address.mtu),
        netns: endpoint.netns.path.clone(),
        published: endpoint.published.clone(),
        options: endpoint.options.clone(),
        vlan: endpoint.port.vlan.map_or(0, |vlan| vlan.get()),
        trunk: match &endpoint.port.trunk {
            TrunkVlans::None => Vec::new(),
            TrunkVlans::Listed(vlans) => vlans.iter().map(|vlan| TrunkVlan::Id(*vlan)).collect(),
            TrunkVlans::All => vec![TrunkVlan::All(AllVlans::All)],
        },
    }
}

/// Where an endpoint asks for names: the host's addresses in its subnets, IPv4 first.
pub(super) fn nameservers(network: &Network, endpoint: &Endpoint) -> Vec<IpAddr> {
    let reaches_host = endpoint.port.reaches_host() && network.wire.is_none();
    let Some(address) = endpoint.address.as_ref().filter(|_| reaches_host) else { return Vec::new() };
    address.ips().filter_map(|own| network.subnet_of(own)).map(|config| config.gateway).collect()
}

/// The gateway of an endpoint, for one family; internal networks and endpoints in a VLAN have none.
pub(super) fn gateway(network: &Network, endpoint: &Endpoint, address: &EndpointAddress, ipv6: bool) -> Option<IpAddr> {
    let own = address.ips().find(|ip| ip.is_ipv6() == ipv6)?;
    network.gateway_of(own).filter(|_| network.has_way_out(endpoint))
}

/// A network, as it is shown.
pub(super) fn network(state: &State, network: &Network) -> NetworkView {
    let subnets = network.subnets.iter().map(|config| SubnetView {
        subnet: config.subnet,
        gateway: config.gateway,
        ip_range: config.ip_range,
        aux_addresses: config.auxiliary.clone(),
    });
    NetworkView {
        id: network.id,
        name: network.name.to_string(),
        driver: network.driver,
        subnets: subnets.collect(),
        internal: network.internal,
        options: network.options.clone(),
        labels: network.labels.clone(),
        endpoints: state.endpoints_of(network.id).count(),
        created: network.created,
    }
}
