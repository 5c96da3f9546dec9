//! Networks of the cluster: created and removed for all hosts, and created on this host no matter
//! which host requested them.

use std::collections::BTreeMap;

use crate::cluster::{ClusterError, NetworkDraft, SharedNetwork};
use crate::model::{Network, NetworkId, NetworkKind, OverlayOptions};
use crate::plan::ipam::Occupied;
use crate::switch::context::note_about;
use crate::switch::error::SwitchError;
use crate::switch::etcd::Etcd;
use crate::switch::macvlan::Requested;
use crate::switch::membership::{Membership, is_shared};
use crate::switch::networks::{check_gateways, check_mtu};
use crate::switch::routes::Surroundings;
use crate::switch::state::Families;

/// The most times that another host takes the chosen subnet first.
const ATTEMPTS: usize = 16;

impl Etcd {
    /// Creates a network in the cluster, and on this host.
    pub async fn create_shared(
        &self,
        member: &Membership,
        mut network: Network,
        requested: Requested,
    ) -> Result<Network, SwitchError> {
        // No update may create the network on this host first.
        let _turn = self.placing.lock().await;
        let given = network.subnets.clone();
        let surroundings = Surroundings::read(&self.context.netlink).await?;
        let mut occupied = surroundings.occupied(None);
        // Every host checks the MTU of its underlay itself.
        if let (true, Some(mtu)) = (requested.ipv6 || network.has_family(true), network.mtu()) {
            check_mtu(&network, mtu)?;
        }
        let own = self.overlay.own_underlay().await?;
        let mut attempts = 0;
        let created = loop {
            network.subnets.clone_from(&given);
            {
                let state = self.context.state();
                state.check_underlay(&network, &own)?;
                check_gateways(&network, &surroundings)?;
                state.check_occupied(&network, &occupied)?;
                occupied.extend(state.occupied_by_underlay(&own));
                let unplaced = state.others.unplaced.values();
                occupied.extend(unplaced.flat_map(|network| {
                    network.subnets.iter().map(|config| Occupied {
                        net: config.subnet.net(),
                        by: format!("{} of network {} of the cluster", config.subnet, network.name),
                    })
                }));
                let families = Families { ipv4: requested.ipv4, ipv6: requested.ipv6 };
                state.check_network(&mut network, families, &self.context.pools, &occupied)?;
            }
            let draft = NetworkDraft {
                name: network.name.clone(),
                vni: network.overlay().and_then(|overlay| overlay.vni),
                subnets: network.subnets.clone(),
                internal: network.internal,
                options: network.options.clone(),
                labels: network.labels.clone(),
            };
            match member.cluster.create_network(draft).await {
                Err(ClusterError::SubnetTaken { subnet, other, .. })
                    if attempts < ATTEMPTS && given.iter().all(|config| config.subnet != subnet) =>
                {
                    occupied.push(Occupied { net: other.net(), by: format!("{other} of a network of the cluster") });
                    attempts += 1;
                }
                created => break created?,
            }
        };
        self.context.state().others.expected.insert(created.id);
        match self.make_shared(&created).await {
            Ok(network) => Ok(network),
            Err(error) => {
                self.context.state().others.expected.remove(&created.id);
                if let Err(error) = member.cluster.remove_network(&created.name, created.id).await {
                    tracing::warn!("network {} stays in the cluster: {error}", created.name);
                }
                Err(error)
            }
        }
    }

    /// Creates a network of the cluster on this host, unless it exists. A failure is noted and
    /// retried.
    pub async fn place(&self, shared: &SharedNetwork) -> Result<(), SwitchError> {
        let _turn = self.placing.lock().await;
        let about = note_about(shared.id);
        match self.make_shared(shared).await {
            Ok(_) => {
                self.context.state().others.unplaced.remove(&shared.id);
                self.context.note(&about, None);
                Ok(())
            }
            Err(error) => {
                let is_news = self.context.state().others.unplaced.insert(shared.id, shared.clone()).is_none();
                let text = format!("network {} of the cluster is not on this host: {error}", shared.name);
                if is_news {
                    tracing::warn!("{text}");
                }
                self.context.note(&about, Some(text));
                Err(error)
            }
        }
    }

    /// Creates the networks of the cluster that a removed network was in the way of.
    pub async fn retry_placing(&self) {
        if let Ok(_change) = self.context.begin_change().await {
            self.place_again().await;
        }
    }

    /// Retries the networks that could not be created.
    pub async fn place_again(&self) {
        let unplaced: BTreeMap<NetworkId, SharedNetwork> = self.context.state().others.unplaced.clone();
        for network in unplaced.values() {
            // `place` notes the failure.
            let _ = self.place(network).await;
        }
    }

    async fn make_shared(&self, shared: &SharedNetwork) -> Result<Network, SwitchError> {
        let there = self.context.state().networks.get(&shared.id).map(|entry| entry.record.clone());
        if let Some(network) = there {
            return Ok(network);
        }
        let options = OverlayOptions::parse(&shared.options)?;
        let network = Network {
            id: shared.id,
            name: shared.name.clone(),
            number: Default::default(),
            kind: NetworkKind::Overlay(OverlayOptions { vni: Some(shared.vni), shared: true, ..options }),
            subnets: shared.subnets.clone(),
            internal: shared.internal,
            options: shared.options.clone(),
            labels: shared.labels.clone(),
            created: shared.created,
            uplink_before: None,
            engine: None,
        };
        // The cluster chose the subnets, of one family or both.
        self.networks.admit(network, Requested::default()).await
    }

    /// Removes a network from this host that the cluster removed. A network with endpoints on this
    /// host stays, with a note.
    pub async fn displace(&self, id: NetworkId) -> Result<(), SwitchError> {
        let about = note_about(id);
        self.context.note(&about, None);
        let (network, exclusive) = {
            let mut state = self.context.state();
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
                self.context.note(&about, Some(text));
                return Ok(());
            }
            if let Some(entry) = state.networks.get_mut(&id) {
                entry.ready = false;
            }
            (network, exclusive)
        };
        let _exclusive = exclusive.lock().await;
        tracing::info!("network {} was removed from the cluster", network.name);
        self.networks.unmake(&network).await
    }

    /// Removes a network that the cluster removed once its last endpoint is gone, and creates the
    /// networks that it was in the way of.
    pub async fn displace_unused(&self, id: NetworkId) -> Result<(), SwitchError> {
        if !self.context.state().others.removed.contains(&id) {
            return Ok(());
        }
        self.displace(id).await?;
        self.place_again().await;
        Ok(())
    }
}
