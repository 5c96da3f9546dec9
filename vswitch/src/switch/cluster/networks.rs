//! Networks of the cluster: created and removed for all hosts, and made here whoever created them.

use std::collections::BTreeMap;

use super::{Membership, is_shared};
use crate::cluster::{ClusterError, NetworkDraft, SharedNetwork, Vni};
use crate::model::{Driver, EndpointName, HostId, Network, NetworkId, OverlayOptions};
use crate::switch::parent::Asked;
use crate::switch::state::State;
use crate::switch::{Switch, SwitchError};

/// How many endpoints are named that are in the way of a removal.
const MOST_NAMED: usize = 8;
/// How often another host may be faster with the subnet that was chosen here.
const ATTEMPTS: usize = 16;

impl Switch {
    /// Creates a network for the whole cluster, and makes it here.
    pub(in crate::switch) async fn create_shared(
        &self,
        member: &Membership,
        mut network: Network,
        asked: Asked,
    ) -> Result<Network, SwitchError> {
        // Nobody makes it here before this has.
        let _turn = member.placing.lock().await;
        let given = network.subnets.clone();
        let mut avoid = self.routes().await?;
        let own = self.own_underlay().await?;
        let mut attempts = 0;
        let created = loop {
            network.subnets.clone_from(&given);
            {
                let state = self.state();
                state.check_underlay(&network, &own)?;
                avoid.extend(state.underlay_routes(&own));
                let unplaced = state.others.unplaced.values().flat_map(|network| &network.subnets);
                avoid.extend(unplaced.map(|config| config.subnet.net()));
                state.check_network(&mut network, asked.ipv6, &self.pools, &avoid)?;
            }
            let vni = network.overlay.map(|overlay| overlay.vni).filter(|vni| *vni != 0);
            let draft = NetworkDraft {
                name: network.name.clone(),
                vni: vni.and_then(|vni| Vni::try_from(vni).ok()),
                subnets: network.subnets.clone(),
                internal: network.internal,
                options: network.options.clone(),
                labels: network.labels.clone(),
            };
            match member.cluster.create_network(draft).await {
                Err(ClusterError::SubnetTaken { subnet, other, .. })
                    if attempts < ATTEMPTS && given.iter().all(|config| config.subnet != subnet) =>
                {
                    avoid.push(other.net());
                    attempts += 1;
                }
                created => break created?,
            }
        };
        self.state().others.expected.insert(created.id);
        match self.make_shared(&created).await {
            Ok(network) => Ok(network),
            Err(error) => {
                self.state().others.expected.remove(&created.id);
                if let Err(error) = member.cluster.remove_network(&created.name, created.id).await {
                    tracing::warn!("network {} stays in the cluster: {error}", created.name);
                }
                Err(error)
            }
        }
    }

    /// Removes a network for the whole cluster. One that the cluster has no more is fine.
    pub(in crate::switch) async fn remove_shared(&self, network: &Network) -> Result<(), SwitchError> {
        if !is_shared(network) {
            return Ok(());
        }
        // Without a cluster, what was here of it is this host's alone.
        let Some(member) = &self.membership else { return Ok(()) };
        match member.cluster.remove_network(&network.name, network.id).await {
            Ok(()) | Err(ClusterError::NetworkNotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Why a network of the cluster in which this host has these endpoints is not removed: those of other hosts, as far as
    /// they are known, are in the way, too. `None` for a network of this host alone.
    pub(in crate::switch) fn shared_in_use(
        &self,
        state: &State,
        network: &Network,
        here: &[EndpointName],
    ) -> Option<ClusterError> {
        let member = self.membership.as_ref().filter(|_| is_shared(network))?;
        let own = here.iter().map(|name| format!("{name} on host {}", member.host));
        let host = |id: HostId| state.others.hosts.get(&id).map_or_else(|| id.short(), ToString::to_string);
        let others = state.others.of_network(network.id);
        let others = others.map(|endpoint| format!("{} on host {}", endpoint.name, host(endpoint.host)));
        let mut endpoints: Vec<String> = own.chain(others).collect();
        endpoints.sort();
        endpoints.truncate(MOST_NAMED + 1);
        if let Some(one_too_many) = endpoints.get_mut(MOST_NAMED) {
            "and more".clone_into(one_too_many);
        }
        Some(ClusterError::NetworkInUse { network: network.name.clone(), endpoints })
    }

    /// Makes a network of the cluster here, if it is not there yet. What is in the way is noted, and it is tried again when
    /// something changes.
    pub(super) async fn place(&self, shared: &SharedNetwork) -> Result<(), SwitchError> {
        let Some(member) = &self.membership else { return Ok(()) };
        let _turn = member.placing.lock().await;
        let about = note_about(shared.id);
        match self.make_shared(shared).await {
            Ok(_) => {
                self.state().others.unplaced.remove(&shared.id);
                self.note(&about, None);
                Ok(())
            }
            Err(error) => {
                let is_news = self.state().others.unplaced.insert(shared.id, shared.clone()).is_none();
                let text = format!("network {} of the cluster is not on this host: {error}", shared.name);
                if is_news {
                    tracing::warn!("{text}");
                }
                self.note(&about, Some(text));
                Err(error)
            }
        }
    }

    /// Tries again what could not be made: something may be out of the way.
    pub(in crate::switch) async fn place_again(&self) {
        let unplaced: BTreeMap<NetworkId, SharedNetwork> = self.state().others.unplaced.clone();
        for network in unplaced.values() {
            // It is noted.
            let _ = self.place(network).await;
        }
    }

    async fn make_shared(&self, shared: &SharedNetwork) -> Result<Network, SwitchError> {
        let there = self.state().networks.get(&shared.id).map(|entry| entry.record.clone());
        if let Some(network) = there {
            return Ok(network);
        }
        let (bridge, overlay) = OverlayOptions::parse(&shared.options)?;
        let network = Network {
            id: shared.id,
            name: shared.name.clone(),
            number: Default::default(),
            driver: Driver::Overlay,
            subnets: shared.subnets.clone(),
            internal: shared.internal,
            options: shared.options.clone(),
            bridge,
            wire: None,
            overlay: Some(OverlayOptions { vni: shared.vni.number(), shared: true, ..overlay }),
            labels: shared.labels.clone(),
            created: shared.created,
            uplink_before: None,
        };
        self.admit(network, Asked::default()).await
    }

    /// Removes what is here of a network that the cluster has no more.
    pub(super) async fn displace(&self, id: NetworkId) -> Result<(), SwitchError> {
        let about = note_about(id);
        self.note(&about, None);
        let (network, exclusive) = {
            let mut state = self.state();
            let Some(entry) = state.networks.get(&id).filter(|entry| entry.ready && is_shared(&entry.record)) else {
                return Ok(());
            };
            let (network, exclusive) = (entry.record.clone(), entry.exclusive.clone());
            if state.endpoints_of(id).next().is_some() {
                let text = format!(
                    "network {} was removed from the cluster while this host was away: its endpoints here reach no other \
                     host (detach them)",
                    network.name
                );
                tracing::warn!("{text}");
                state.others.removed.insert(id);
                drop(state);
                self.note(&about, Some(text));
                return Ok(());
            }
            if let Some(entry) = state.networks.get_mut(&id) {
                entry.ready = false;
            }
            (network, exclusive)
        };
        let _exclusive = exclusive.lock().await;
        tracing::info!("network {} was removed from the cluster", network.name);
        self.unmake(&network).await
    }

    /// The last endpoint in a network is gone: so is the network, if the cluster has it no more, and what could not be made
    /// because of it may be made now.
    pub(super) async fn displace_unused(&self, id: NetworkId) -> Result<(), SwitchError> {
        if !self.state().others.removed.contains(&id) {
            return Ok(());
        }
        self.displace(id).await?;
        self.place_again().await;
        Ok(())
    }

    /// A network is here no more: nothing is to be said of it.
    pub(in crate::switch) fn forget_shared(&self, id: NetworkId) {
        self.state().others.removed.remove(&id);
        self.note(&note_about(id), None);
    }
}

/// What the note is about that `status` has of a network of the cluster.
fn note_about(id: NetworkId) -> String {
    format!("cluster network {id}")
}
