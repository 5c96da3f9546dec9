//! Networks: made, kept whole, removed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use vswitch_common::tables::NetworkNumber;

use super::attach::now;
use super::parent::Asked;
use super::state::{PortHandle, WantedNetwork};
use super::{Switch, SwitchError};
use crate::api::{ErrorBody, KeptNetwork, NetworkRequest, NetworkView, Pruned};
use crate::apply::{ApplyError, apply};
use crate::cluster::ClusterError;
use crate::datapath::{Datapath, DatapathError, NetworkSpec};
use crate::drivers;
use crate::model::{
    BridgeOptions, Driver, EndpointName, InvalidOption, Network, NetworkId, OverlayOptions, Owner, Subnet,
    SubnetConfig, WireOptions, predefined,
};
use crate::store::Change;

impl Switch {
    /// Makes a network with the host's port in it, and its uplink.
    ///
    /// # Errors
    /// What is wrong with the request, or what the machine refused; then nothing has changed.
    pub async fn create_network(&self, request: NetworkRequest) -> Result<NetworkView, SwitchError> {
        let driver: Driver = request.driver.as_deref().unwrap_or("bridge").parse()?;
        if !driver.has_interfaces() {
            return Err(SwitchError::PredefinedDriver(driver.name()));
        }
        let _leave = self.leave().await?;
        let asked = Asked { ipv6: request.ipv6, gateways: !request.gateways.is_empty() };
        let mut draft = draft(request, driver)?;
        let network = match (&self.membership, &mut draft.overlay) {
            (Some(member), Some(overlay)) => {
                overlay.shared = true;
                self.create_shared(member, draft, asked).await?
            }
            _ => self.admit(draft, asked).await?,
        };
        Ok(super::views::network(&self.state(), &network))
    }

    /// Makes the networks that are always there, where they are not yet.
    pub(super) async fn create_predefined(&self) -> Result<(), SwitchError> {
        for (name, driver) in predefined() {
            let there = self.state().networks.values().any(|entry| entry.record.name.as_str() == name);
            if !there {
                let request = NetworkRequest { name: name.to_owned(), ..NetworkRequest::default() };
                self.admit(draft(request, driver)?, Asked::default()).await?;
            }
        }
        Ok(())
    }

    /// Gives a network its number and its subnet, records it, and makes what it needs.
    pub(super) async fn admit(&self, mut network: Network, asked: Asked) -> Result<Network, SwitchError> {
        let uplink = match network.bridge.uplink.clone() {
            Some(interface) => Some(self.inspect_uplink(&interface).await?),
            None => self.prepare_parent(&mut network, asked).await?,
        };
        if let (Some(interface), Some(link)) = (network.interface().cloned(), &uplink) {
            network.uplink_before = Some(self.uplink_before(&interface, link, network.bridge.xdp));
        }
        let mtu = self.mtu(&network).await?;
        let mut avoid = self.routes().await?;
        let own = self.own_underlay().await?;
        let (network, _exclusive, recorded) = {
            let mut state = self.state();
            state.check_underlay(&network, &own)?;
            avoid.extend(state.underlay_routes(&own));
            let (network, exclusive) =
                state.admit_network(WantedNetwork { network, ipv6: asked.ipv6, mtu }, &self.pools, &avoid)?;
            let recorded = self.store.commit(vec![Change::PutNetwork(network.clone())]);
            (network, exclusive, recorded)
        };
        let made = async {
            recorded.await?;
            self.add_host_port(&network).await?;
            if network.overlay.is_some() {
                self.follow_tunnels().await?;
            }
            if let Some(link) = &uplink {
                self.add_uplink(&network, link).await?;
            }
            if network.is_predefined() {
                // A machine without nft has a switch all the same.
                self.follow_outside(network.name.as_str()).await;
                return Ok(());
            }
            self.sync_outside().await
        };
        if let Err(error) = made.await {
            if let Err(error) = self.unmake(&network).await {
                tracing::warn!("network {} could not be taken back whole: {error}", network.name);
            }
            return Err(error);
        }
        if let Some(entry) = self.state().networks.get_mut(&network.id) {
            entry.ready = true;
        }
        Ok(network)
    }

    /// Removes the networks without endpoints, but for those that are always there. One that cannot be removed stays, and
    /// the others go.
    pub async fn prune_networks(&self) -> Pruned {
        let unused: Vec<_> = {
            let state = self.state();
            let networks = state.networks.values().filter(|entry| entry.ready && !entry.record.is_predefined());
            let unused = networks.filter(|entry| state.endpoints_of(entry.record.id).next().is_none());
            unused.map(|entry| (entry.record.id, entry.record.name.to_string())).collect()
        };
        let mut pruned = Pruned::default();
        for (id, network) in unused {
            match self.remove_network(&id.to_string()).await {
                Ok(name) => pruned.deleted.push(name),
                // Somebody was quicker, with an endpoint or with the removal.
                Err(SwitchError::ActiveEndpoints { .. } | SwitchError::NetworkNotFound(_)) => {}
                // Another host uses it.
                Err(SwitchError::Cluster(ClusterError::NetworkInUse { .. })) => {}
                Err(error) => {
                    let error = ErrorBody::new(error.code(), &error.to_string());
                    pruned.kept.push(KeptNetwork { network, error });
                }
            }
        }
        pruned.deleted.sort();
        pruned.kept.sort_by(|one, other| one.network.cmp(&other.network));
        pruned
    }

    /// Removes a network, and gives its uplink back as it was found.
    ///
    /// # Errors
    /// There is none, it is needed, or the kernel refused; then it is still there.
    pub async fn remove_network(&self, reference: &str) -> Result<String, SwitchError> {
        let _leave = self.leave().await?;
        let (network, exclusive) = {
            let mut state = self.state();
            let network = state.network(reference)?.record.clone();
            if network.is_predefined() {
                return Err(SwitchError::Predefined(network.name));
            }
            let mut endpoints: Vec<EndpointName> =
                state.endpoints_of(network.id).map(|entry| entry.record.name.clone()).collect();
            if !endpoints.is_empty() {
                endpoints.sort();
                if let Some(error) = self.shared_in_use(&state, &network, &endpoints) {
                    return Err(error.into());
                }
                return Err(SwitchError::ActiveEndpoints { network: network.name, endpoints });
            }
            // From now on nobody else finds it.
            let Some(entry) = state.networks.get_mut(&network.id) else { return Ok(network.name.to_string()) };
            entry.ready = false;
            (network, entry.exclusive.clone())
        };
        let _exclusive = exclusive.lock().await;
        let removed = async {
            self.remove_shared(&network).await?;
            self.unmake(&network).await
        };
        let removed = removed.await;
        if removed.is_err() {
            // It stays, so it has to work.
            if let Err(error) = self.add_host_port(&network).await {
                tracing::warn!("network {} is still there, but without the host: {error}", network.name);
            }
            if let Some(entry) = self.state().networks.get_mut(&network.id) {
                entry.ready = true;
            }
        }
        if removed.is_ok() {
            self.place_again().await;
        }
        removed.map(|()| network.name.to_string())
    }

    /// Removes what a network has in the kernel, and its record.
    pub(super) async fn unmake(&self, network: &Network) -> Result<(), SwitchError> {
        // The record may have changed since, with an uplink that returned.
        let record = self.state().networks.get(&network.id).map(|entry| entry.record.clone());
        self.release_uplink(record.as_ref().unwrap_or(network)).await?;
        let tunnels = self.state().networks.get_mut(&network.id).and_then(|entry| entry.tunnels.take());
        for port in tunnels.into_iter().flat_map(BTreeMap::into_values) {
            self.remove_port(port.number).await?;
        }
        self.dns.stop(network.id);
        self.note(&format!("dns {}", network.id), None);
        let device = self.instance.host_device(&network.name);
        if let Some(link) = self.netlink.link_by_name(&device).await? {
            self.delete_device(link.index, &Owner::Host).await?;
        }
        let port = self.state().networks.get(&network.id).and_then(|entry| entry.host_port);
        if let Some(port) = port {
            self.remove_port(port.number).await?;
        }
        if network.wire.is_none() {
            let number = network.number;
            self.in_datapath(move |datapath| datapath.remove_network(number)).await?;
        }
        self.store.commit(vec![Change::RemoveNetwork(network.id)]).await?;
        self.state().networks.remove(&network.id);
        self.note_without_cluster();
        if network.overlay.is_some() {
            self.forget_shared(network.id);
            // The last takes the device with it.
            self.follow_tunnels().await?;
            self.sync_networks(&[network.id].into()).await?;
        }
        self.multicast_changed.notify_one();
        self.follow_outside(network.name.as_str()).await;
        Ok(())
    }

    /// Makes the host's port, or what is missing of it.
    pub(super) async fn add_host_port(&self, network: &Network) -> Result<(), SwitchError> {
        let mtus = self.state().host_mtus(network.id);
        let (true, Some(mtus)) = (network.driver.is_switched(), mtus) else { return Ok(()) };
        let spec = NetworkSpec {
            number: network.number,
            internal: network.internal,
            subnets: network.subnets.iter().map(|config| (config.subnet.net(), config.gateway)).collect(),
            vni: network.overlay.map(|overlay| overlay.vni),
        };
        // Before any frame: what keeps networks apart looks at this.
        self.in_datapath(move |datapath| datapath.set_network(&spec)).await?;
        let made = apply(&drivers::host_port(&self.instance, network, mtus.device, mtus.port), self.scene()).await?;
        if network.overlay.is_some() {
            // One that was there already was made for other peers.
            self.fit_host_devices(network, mtus.device).await?;
        }
        if let Some(entry) = self.state().networks.get_mut(&network.id) {
            entry.host_port = made.port.map(|(ifindex, number)| PortHandle { ifindex, number });
            if network.overlay.is_some() && entry.tunnels.is_none() {
                entry.tunnels = Some(BTreeMap::new());
            }
        }
        self.multicast_changed.notify_one();
        self.serve_names(network).await;
        Ok(())
    }

    /// Starts the network's DNS server. Without it the network works, and `status` says what is missing.
    async fn serve_names(&self, network: &Network) {
        let served = self.dns.serve(network.id, network.gateways().collect()).await;
        let note = served.err().map(|error| format!("no names in network {}: {error}", network.name));
        if let Some(note) = &note {
            tracing::warn!("{note}");
        }
        self.note(&format!("dns {}", network.id), note);
    }

    /// Ends the DNS servers.
    pub fn stop_names(&self) {
        let networks: Vec<NetworkId> = self.state().networks.keys().copied().collect();
        networks.into_iter().for_each(|network| self.dns.stop(network));
    }

    /// Runs something that changes tables in the kernel, off the runtime's own threads.
    pub(super) async fn in_datapath<T: Send + 'static>(
        &self,
        action: impl FnOnce(&Datapath) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, SwitchError> {
        let datapath = self.datapath.clone();
        let done = tokio::task::spawn_blocking(move || action(&datapath)).await;
        Ok(done.map_err(ApplyError::from)??)
    }

    /// The host's device was removed by somebody: makes it again.
    pub(super) async fn remake_host_port(&self, id: NetworkId, ifindex: u32) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let Some(exclusive) = self.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = {
            let state = self.state();
            state.networks.get(&id).filter(|entry| entry.ready).map(|entry| (entry.record.clone(), entry.host_port))
        };
        let Some((network, Some(port))) = found else { return Ok(()) };
        if port.ifindex != ifindex || self.netlink.link(ifindex).await?.is_some() {
            return Ok(());
        }
        self.remove_port(port.number).await?;
        self.add_host_port(&network).await?;
        // Settings of the device went with it.
        self.follow_outside(network.name.as_str()).await;
        tracing::warn!("the host's device in network {} was removed by somebody, and is made again", network.name);
        Ok(())
    }

    /// Where the host has routes to.
    pub(super) async fn routes(&self) -> Result<Vec<IpNet>, SwitchError> {
        Ok(self.netlink.routes().await?.into_iter().map(|route| route.destination).collect())
    }
}

/// The network as it is asked for; number and subnet are given when it is admitted.
fn draft(request: NetworkRequest, driver: Driver) -> Result<Network, SwitchError> {
    let name = request.name.parse()?;
    let subnets = subnets(&request)?;
    let NetworkRequest { options, labels, internal, .. } = request;
    let (bridge, wire, overlay) = match driver {
        Driver::Bridge => (BridgeOptions::parse(&options)?, None, None),
        Driver::Macvlan | Driver::Ipvlan => {
            let (bridge, wire) = WireOptions::parse(driver, &options)?;
            (bridge, Some(wire), None)
        }
        Driver::Overlay => {
            let (bridge, overlay) = OverlayOptions::parse(&options)?;
            (bridge, None, Some(overlay))
        }
        Driver::Host | Driver::None => match options.first_key_value() {
            Some((option, value)) => {
                let (option, value) = (option.clone(), value.clone());
                return Err(InvalidOption::Unknown { option, value, driver: driver.name(), known: Vec::new() }.into());
            }
            None => (BridgeOptions::default(), None, None),
        },
    };
    Ok(Network {
        id: NetworkId::random()?,
        name,
        number: NetworkNumber::default(),
        driver,
        subnets,
        internal,
        options,
        bridge,
        wire,
        overlay,
        labels,
        created: now(),
        uplink_before: None,
    })
}

/// The subnets, each with the gateway, the range and the auxiliary addresses that lie in it, as Docker pairs them.
fn subnets(request: &NetworkRequest) -> Result<Vec<SubnetConfig>, SwitchError> {
    let address = |text: &String| text.parse::<IpAddr>().map_err(|_| SwitchError::Address(text.clone()));
    let range = |text: &String| text.parse::<IpNet>().map_err(|_| SwitchError::Range(text.clone()));
    let subnets = request.subnets.iter().map(|text| text.parse()).collect::<Result<Vec<Subnet>, _>>()?;
    let nowhere = |what, of: &String| SwitchError::NoMatchingSubnet { what, of: of.clone(), subnets: subnets.clone() };
    let mut gateways = BTreeMap::new();
    for text in &request.gateways {
        let gateway = address(text)?;
        let subnet = matching(&subnets, gateway).ok_or_else(|| nowhere("gateway", text))?;
        if gateways.insert(subnet, gateway).is_some() {
            return Err(SwitchError::SeveralInSubnet { what: "gateways", subnet });
        }
    }
    let mut ranges = BTreeMap::new();
    for text in &request.ip_ranges {
        let range = range(text)?;
        let subnet = matching(&subnets, range.addr())
            .filter(|subnet| subnet.net().contains(&range))
            .ok_or_else(|| nowhere("range", text))?;
        if ranges.insert(subnet, range).is_some() {
            return Err(SwitchError::SeveralInSubnet { what: "ranges", subnet });
        }
    }
    let configs = subnets
        .iter()
        .map(|subnet| Ok(SubnetConfig::new(*subnet, gateways.get(subnet).copied(), ranges.get(subnet).copied())?));
    let mut configs = configs.collect::<Result<Vec<_>, SwitchError>>()?;
    for (name, text) in &request.aux_addresses {
        let auxiliary = address(text)?;
        let config = configs.iter_mut().find(|config| config.subnet.net().contains(&auxiliary));
        config.ok_or_else(|| nowhere("aux-address", text))?.reserve(name.clone(), auxiliary)?;
    }
    Ok(configs)
}

fn matching(subnets: &[Subnet], address: IpAddr) -> Option<Subnet> {
    subnets.iter().copied().find(|subnet| subnet.net().contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> NetworkRequest {
        NetworkRequest { name: "front".to_owned(), ..NetworkRequest::default() }
    }

    #[test]
    fn a_request_is_checked_before_anything_is_done() {
        let bridge = |request| draft(request, Driver::Bridge);
        assert!(bridge(request()).is_ok());
        let error = bridge(NetworkRequest { gateways: vec!["10.1.0.1".to_owned()], ..request() });
        assert!(matches!(error, Err(SwitchError::NoMatchingSubnet { what: "gateway", .. })));
        let options = BTreeMap::from([("speed".to_owned(), "high".to_owned())]);
        let error = bridge(NetworkRequest { options: options.clone(), ..request() });
        assert!(matches!(error, Err(SwitchError::Option(InvalidOption::Unknown { .. }))));
        let error = draft(NetworkRequest { options, ..request() }, Driver::None);
        assert!(matches!(error, Err(SwitchError::Option(InvalidOption::Unknown { driver: "none", .. }))));
    }
    #[test]
    fn gateways_ranges_and_auxiliary_addresses_go_to_the_subnets_that_they_lie_in() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let asked = NetworkRequest {
            subnets: texts(&["10.1.0.0/24", "10.2.0.0/24", "fd00:7::/64"]),
            gateways: texts(&["fd00:7::99", "10.2.0.254"]),
            ip_ranges: texts(&["10.1.0.128/25"]),
            aux_addresses: BTreeMap::from([("printer".to_owned(), "10.1.0.200".to_owned())]),
            ..request()
        };
        let network = draft(asked.clone(), Driver::Bridge).expect("valid");
        let gateways: Vec<_> = network.gateways().map(|gateway| gateway.to_string()).collect();
        assert_eq!(gateways, ["10.1.0.1", "10.2.0.254", "fd00:7::99"]);
        assert_eq!(network.subnets[0].ip_range.map(|range| range.to_string()).as_deref(), Some("10.1.0.128/25"));
        assert_eq!(network.subnets[0].auxiliary.len(), 1);
        let two = NetworkRequest { gateways: texts(&["10.2.0.1", "10.2.0.2"]), ..asked.clone() };
        let error = draft(two, Driver::Bridge);
        assert!(matches!(error, Err(SwitchError::SeveralInSubnet { what: "gateways", .. })));
        let outside = NetworkRequest { ip_ranges: texts(&["10.3.0.0/25"]), ..asked.clone() };
        let error = draft(outside, Driver::Bridge).expect_err("in none of the subnets");
        assert!(
            error.to_string().starts_with("no matching subnet for range 10.3.0.0/25: it lies outside of 10.1.0.0/24,"),
            "{error}"
        );
        let wide = NetworkRequest { ip_ranges: texts(&["10.1.0.0/16"]), ..asked };
        assert!(draft(wide, Driver::Bridge).is_err());
    }
}
