//! The creation of networks on this host.

use std::collections::BTreeMap;

use vswitch_common::tables::NetworkNumber;

use crate::model::{Driver, Network, NetworkId, predefined};
use crate::plan;
use crate::plan::store::Change;
use crate::switch::context::now;
use crate::switch::error::SwitchError;
use crate::switch::macvlan::Requested;
use crate::switch::networks::Networks;
use crate::switch::state::WantedNetwork;

impl Networks {
    /// Creates the predefined networks that do not exist yet.
    pub async fn create_predefined(&self) -> Result<(), SwitchError> {
        for (name, driver) in predefined() {
            let there = self.context.state().networks.values().any(|entry| entry.record.name.as_str() == name);
            if !there {
                self.admit(predefined_network(name, driver)?, Requested::default()).await?;
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
        let mtu = self.mtu(&network).await?;
        let mut avoid = self.context.routes().await?;
        let own = self.overlay.own_underlay().await?;
        let (network, _exclusive, recorded) = {
            let mut state = self.context.state();
            state.check_underlay(&network, &own)?;
            avoid.extend(state.underlay_routes(&own));
            let (network, exclusive) = state.admit_network(
                WantedNetwork { network, ipv6: requested.ipv6, mtu },
                &self.context.pools,
                &avoid,
            )?;
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
    })
}
