//! Networks: made, kept whole, removed.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use vswitch_common::tables::NetworkNumber;

use super::attach::now;
use super::state::PortHandle;
use super::{Switch, SwitchError};
use crate::api::{NetworkRequest, NetworkView};
use crate::apply::apply;
use crate::drivers;
use crate::model::{
    BridgeOptions, Driver, EndpointName, InvalidOption, Network, NetworkId, Owner, Subnet, SubnetConfig, predefined,
};
use crate::store::Change;

impl Switch {
    /// Makes a network with the host's port in it, and its uplink.
    ///
    /// # Errors
    /// What is wrong with the request, or what the machine refused; then nothing has changed.
    pub async fn create_network(&self, request: NetworkRequest) -> Result<NetworkView, SwitchError> {
        let driver: Driver = request.driver.as_deref().unwrap_or("bridge").parse()?;
        if driver != Driver::Bridge {
            return Err(SwitchError::PredefinedDriver(driver.name()));
        }
        let _leave = self.leave().await?;
        let network = self.admit(draft(request, driver)?).await?;
        Ok(super::views::network(&self.state(), &network))
    }

    /// Makes the networks that are always there, where they are not yet.
    pub(super) async fn create_predefined(&self) -> Result<(), SwitchError> {
        for (name, driver) in predefined() {
            let there = self.state().networks.values().any(|entry| entry.record.name.as_str() == name);
            if !there {
                self.admit(draft(NetworkRequest { name: name.to_owned(), ..NetworkRequest::default() }, driver)?)
                    .await?;
            }
        }
        Ok(())
    }

    /// Gives a network its number and its subnet, records it, and makes what it needs.
    async fn admit(&self, mut network: Network) -> Result<Network, SwitchError> {
        let uplink = match network.bridge.uplink.clone() {
            Some(interface) => {
                let link = self.inspect_uplink(&interface).await?;
                network.uplink_before = Some(self.uplink_before(&interface, &link, network.bridge.xdp));
                Some(link)
            }
            None => None,
        };
        let mtu = self.mtu(&network.bridge).await?;
        let routes = self.routes().await?;
        let (network, _exclusive, recorded) = {
            let mut state = self.state();
            let (network, exclusive) = state.admit_network(network, &self.pools, &routes, mtu)?;
            let recorded = self.store.commit(vec![Change::PutNetwork(network.clone())]);
            (network, exclusive, recorded)
        };
        let made = async {
            recorded.await?;
            self.add_host_port(&network).await?;
            match &uplink {
                Some(link) => self.add_uplink(&network, link).await,
                None => Ok(()),
            }
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
                return Err(SwitchError::ActiveEndpoints { network: network.name, endpoints });
            }
            // From now on nobody else finds it.
            let Some(entry) = state.networks.get_mut(&network.id) else { return Ok(network.name.to_string()) };
            entry.ready = false;
            (network, entry.exclusive.clone())
        };
        let _exclusive = exclusive.lock().await;
        let removed = self.unmake(&network).await;
        if removed.is_err()
            && let Some(entry) = self.state().networks.get_mut(&network.id)
        {
            entry.ready = true;
        }
        removed.map(|()| network.name.to_string())
    }

    /// Removes what a network has in the kernel, and its record.
    async fn unmake(&self, network: &Network) -> Result<(), SwitchError> {
        // The record may have changed since, with an uplink that returned.
        let record = self.state().networks.get(&network.id).map(|entry| entry.record.clone());
        self.release_uplink(record.as_ref().unwrap_or(network)).await?;
        let device = self.instance.host_device(&network.name);
        if let Some(link) = self.netlink.link_by_name(&device).await? {
            self.delete_device(link.index, &Owner::Host).await?;
        }
        let port = self.state().networks.get(&network.id).and_then(|entry| entry.host_port);
        if let Some(port) = port {
            self.remove_port(port.number).await?;
        }
        self.store.commit(vec![Change::RemoveNetwork(network.id)]).await?;
        self.state().networks.remove(&network.id);
        Ok(())
    }

    /// Makes the host's port, or what is missing of it.
    pub(super) async fn add_host_port(&self, network: &Network) -> Result<(), SwitchError> {
        let mtu = self.state().networks.get(&network.id).map(|entry| entry.mtu);
        let (Driver::Bridge, Some(mtu)) = (network.driver, mtu) else { return Ok(()) };
        let made = apply(&drivers::host_port(&self.instance, network, mtu), self.scene()).await?;
        if let Some(entry) = self.state().networks.get_mut(&network.id) {
            entry.host_port = made.port.map(|(ifindex, number)| PortHandle { ifindex, number });
        }
        Ok(())
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
        tracing::warn!("the host's device in network {} was removed by somebody, and is made again", network.name);
        Ok(())
    }

    /// Where the host has routes to.
    async fn routes(&self) -> Result<Vec<Ipv4Net>, SwitchError> {
        let routes = self.netlink.routes().await?.into_iter().filter_map(|route| match route.destination {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        });
        Ok(routes.collect())
    }
}

/// The network as it is asked for; number and subnet are given when it is admitted.
fn draft(request: NetworkRequest, driver: Driver) -> Result<Network, SwitchError> {
    let NetworkRequest { name, driver: _, subnets, gateways, ip_ranges, options, labels } = request;
    let bridge = match driver {
        Driver::Bridge => BridgeOptions::parse(&options)?,
        Driver::Host | Driver::None => match options.first_key_value() {
            Some((option, value)) => {
                let (option, value) = (option.clone(), value.clone());
                return Err(InvalidOption::Unknown { option, value, driver: driver.name(), known: &[] }.into());
            }
            None => BridgeOptions::default(),
        },
    };
    Ok(Network {
        id: NetworkId::random()?,
        name: name.parse()?,
        number: NetworkNumber::default(),
        driver,
        subnets: subnet(&subnets, &gateways, &ip_ranges)?.into_iter().collect(),
        options,
        bridge,
        labels,
        created: now(),
        uplink_before: None,
    })
}

fn subnet(subnets: &[String], gateways: &[String], ranges: &[String]) -> Result<Option<SubnetConfig>, SwitchError> {
    let subnet: Option<Subnet> = only("subnet", subnets)?.map(|text| text.parse()).transpose()?;
    let address = |text: &String| text.parse().map_err(|_| SwitchError::Address(text.clone()));
    let gateway: Option<Ipv4Addr> = only("gateway", gateways)?.map(address).transpose()?;
    let range = |text: &String| text.parse().map_err(|_| SwitchError::Range(text.clone()));
    let range: Option<Ipv4Net> = only("range", ranges)?.map(range).transpose()?;
    match (subnet, gateway, range) {
        (Some(subnet), gateway, range) => Ok(Some(SubnetConfig::new(subnet, gateway, range)?)),
        (None, Some(_), _) => Err(SwitchError::WithoutSubnet("--gateway")),
        (None, _, Some(_)) => Err(SwitchError::WithoutSubnet("--ip-range")),
        (None, None, None) => Ok(None),
    }
}

fn only<'a>(what: &'static str, given: &'a [String]) -> Result<Option<&'a String>, SwitchError> {
    match given {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        more => Err(SwitchError::TooMany { what, given: more.len() }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn request() -> NetworkRequest {
        NetworkRequest { name: "front".to_owned(), ..NetworkRequest::default() }
    }

    #[test]
    fn a_request_is_checked_before_anything_is_done() {
        let bridge = |request| draft(request, Driver::Bridge);
        assert!(bridge(request()).is_ok());
        let two = vec!["10.1.0.0/24".to_owned(), "10.2.0.0/24".to_owned()];
        let error = bridge(NetworkRequest { subnets: two, ..request() });
        assert!(matches!(error, Err(SwitchError::TooMany { what: "subnet", given: 2 })));
        let error = bridge(NetworkRequest { gateways: vec!["10.1.0.1".to_owned()], ..request() });
        assert!(matches!(error, Err(SwitchError::WithoutSubnet("--gateway"))));
        let options = BTreeMap::from([("speed".to_owned(), "high".to_owned())]);
        let error = bridge(NetworkRequest { options: options.clone(), ..request() });
        assert!(matches!(error, Err(SwitchError::Option(InvalidOption::Unknown { .. }))));
        let error = draft(NetworkRequest { options, ..request() }, Driver::None);
        assert!(matches!(error, Err(SwitchError::Option(InvalidOption::Unknown { driver: "none", .. }))));
    }
}
