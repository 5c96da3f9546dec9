//! The creation of networks on this host.

use std::collections::BTreeMap;

use vswitch_common::tables::NetworkNumber;

use crate::model::{Driver, InterfaceName, LEAST_IPV6, Network, NetworkId, predefined};
use crate::plan;
use crate::plan::store::Change;
use crate::switch::context::now;
use crate::switch::error::SwitchError;
use crate::switch::macvlan::Requested;
use crate::switch::networks::Networks;
use crate::switch::routes::Surroundings;
use crate::switch::state::{Families, WantedNetwork};

impl Networks {
    /// Creates the predefined networks that do not exist yet.
    pub async fn create_predefined(&self) -> Result<(), SwitchError> {
        for (name, driver) in predefined() {
            let there = self.context.state().networks.values().any(|entry| entry.record.name.as_str() == name);
            if !there {
                self.admit(predefined_network(name, driver)?, Requested { ipv4: true, ..Requested::default() }).await?;
            }
        }
        Ok(())
    }

    /// Creates a network on this host: decides on its number and subnets, records it, and creates
    /// its devices. A failure removes them again.
    pub async fn admit(&self, mut network: Network, requested: Requested) -> Result<Network, SwitchError> {
        let uplink = match network.uplink().cloned() {
            Some(interface) => {
                let link = self.macvlan.inspect_uplink(&interface).await?;
                self.macvlan.check_gateways(&network, &link).await?;
                Some(link)
            }
            None => self.macvlan.prepare_parent(&mut network, requested).await?,
        };
        if let (Some(interface), Some(link)) = (network.interface().cloned(), &uplink) {
            network.uplink_before = Some(self.macvlan.uplink_before(&interface, link, network.xdp()));
        }
        let [ipv4, ipv6] = [(requested.ipv4, false), (requested.ipv6, true)]
            .map(|(requested, ipv6)| requested || network.has_family(ipv6));
        let mtu = self.mtu(&network, ipv4, ipv6).await?;
        if ipv6 {
            check_mtu(&network, mtu)?;
        }
        let surroundings = Surroundings::read(&self.context.netlink).await?;
        let mut occupied = surroundings.occupied(network.interface().map(InterfaceName::as_str));
        let own = self.overlay.own_underlay().await?;
        let (network, _exclusive, recorded) = {
            let mut state = self.context.state();
            state.check_underlay(&network, &own)?;
            check_gateways(&network, &surroundings)?;
            state.check_occupied(&network, &occupied)?;
            occupied.extend(state.occupied_by_underlay(&own));
            let families = Families { ipv4: requested.ipv4, ipv6: requested.ipv6 };
            let (network, exclusive) =
                state.admit_network(WantedNetwork { network, families, mtu }, &self.context.pools, &occupied)?;
            let recorded = self.context.store.commit(vec![Change::PutNetwork(network.clone())]);
            (network, exclusive, recorded)
        };
        let made = async {
            recorded.await?;
            self.add_host_port(&network).await?;
            if network.overlay().is_some() {
                self.overlay.follow_tunnels().await?;
            }
            if let Some(link) = &uplink {
                self.macvlan.add_uplink(&network, link).await?;
            }
            if network.is_predefined() {
                // The switch works without nft, so the predefined bridge network does, too.
                self.nat.update_nat(network.name.as_str()).await;
                return Ok(());
            }
            self.nat.apply_nat().await
        };
        if let Err(error) = made.await {
            if let Err(error) = self.unmake(&network).await {
                tracing::warn!("network {} could not be taken back whole: {error}", network.name);
            }
            return Err(error);
        }
        if let Some(entry) = self.context.state().networks.get_mut(&network.id) {
            entry.ready = true;
        }
        Ok(network)
    }
}

/// Refuses IPv6 with an MTU that is too small for it.
pub fn check_mtu(network: &Network, mtu: u32) -> Result<(), SwitchError> {
    if network.capabilities().interfaces.is_err() || mtu >= LEAST_IPV6 {
        return Ok(());
    }
    Err(match network.mtu() {
        Some(mtu) => SwitchError::MtuOption { mtu },
        None => SwitchError::MtuOfInterface {
            mtu,
            interface: network.interface().map_or_else(|| "the default route".to_owned(), ToString::to_string),
        },
    })
}

/// Refuses gateways of a switched network that a router of the host has.
pub fn check_gateways(network: &Network, surroundings: &Surroundings) -> Result<(), SwitchError> {
    if !network.capabilities().switched {
        return Ok(());
    }
    let found = network.gateways().find_map(|gateway| Some((gateway, surroundings.router(gateway)?)));
    found.map_or(Ok(()), |(gateway, holder)| Err(SwitchError::GatewayInUse { gateway, holder }))
}

/// Returns the record of a predefined network.
fn predefined_network(name: &str, driver: Driver) -> Result<Network, SwitchError> {
    Ok(Network {
        id: NetworkId::random()?,
        name: name.parse()?,
        number: NetworkNumber::default(),
        kind: plan::parse(driver, &BTreeMap::new())?,
        subnets: Vec::new(),
        internal: false,
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        created: now(),
        uplink_before: None,
        engine: None,
    })
}
