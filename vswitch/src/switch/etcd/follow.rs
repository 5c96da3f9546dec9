//! Carries out the updates from etcd: networks are created and removed, tunnels made, and entries
//! of remote endpoints written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::cluster::{Host, SharedNetwork, Snapshot, Update};
use crate::model::{HostId, NetworkId, Peer, PeerHost};
use crate::plan::store::Change;
use crate::switch::context::now;
use crate::switch::error::SwitchError;
use crate::switch::etcd::Etcd;
use crate::switch::membership::{Membership, is_shared};
use crate::switch::others::{Others, Place};
use crate::switch::state::{PeerEntry, State};

/// The most updates that are carried out together.
const AT_ONCE: usize = 8192;
/// The interval of retries.
const AGAIN: Duration = Duration::from_secs(5);

/// The work that updates cause.
#[derive(Debug, Default)]
struct Changes {
    networks: Vec<SharedNetwork>,
    gone: Vec<NetworkId>,
    hosts: bool,
    tunnels: bool,
    endpoints: BTreeSet<Place>,
    /// Whether networks that could not be created are retried.
    unplaced: bool,
    /// Full resync: anything the new snapshot does not contain no longer exists.
    anew: bool,
}

impl Etcd {
    /// Follows the cluster, for as long as the daemon lives.
    pub async fn follow_cluster(self: Arc<Self>) {
        let Some(member) = &self.context.membership else { return };
        let mut updates = member.cluster.watch();
        // Nothing has failed yet, so the first wait is for the first update.
        let mut failed = false;
        let mut placed = Instant::now();
        loop {
            let mut changes = Changes::default();
            let unfinished = failed || !self.context.state().others.unplaced.is_empty();
            match timeout(if unfinished { AGAIN } else { Duration::MAX }, updates.recv()).await {
                Ok(Some(first)) => {
                    // The state is locked once for all of them, and published once.
                    let mut state = self.context.state();
                    take(&mut state, first, member.host.id, &mut changes);
                    let mut taken = 1;
                    while taken < AT_ONCE
                        && let Ok(next) = updates.try_recv()
                    {
                        take(&mut state, next, member.host.id, &mut changes);
                        taken += 1;
                    }
                }
                Ok(None) => return,
                Err(_) => {}
            }
            // A full resync includes the work that failed.
            changes.anew |= failed;
            // Networks that could not be created are retried on time even while updates keep
            // coming.
            if placed.elapsed() >= AGAIN {
                changes.unplaced = true;
                placed = Instant::now();
            }
            match self.carry_out(changes).await {
                Ok(()) => {
                    if std::mem::take(&mut failed) {
                        self.context.note("cluster", None);
                    }
                }
                Err(SwitchError::ShuttingDown) => return,
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!("what other hosts of the cluster have is not all here: {error}");
                    }
                    let text = format!("what other hosts of the cluster have is not all here: {error}");
                    self.context.note("cluster", Some(text));
                }
            }
        }
    }

    /// Carries out all changes, and returns the first error.
    async fn carry_out(&self, changes: Changes) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let Changes { networks, gone, hosts, tunnels, endpoints, unplaced, anew } = changes;
        let mut done = Ok(());
        for id in gone {
            done = done.and(self.displace(id).await);
        }
        for network in networks {
            // A failure is noted and retried.
            let _ = self.place(&network).await;
        }
        if unplaced {
            self.place_again().await;
        }
        if hosts || anew {
            done = done.and(self.follow_hosts().await);
            // A removed host may have kept a network from being created.
            self.place_again().await;
        }
        if hosts || tunnels || anew {
            done = done.and(self.overlay.follow_tunnels().await);
        }
        if anew {
            done = done.and(self.context.note_address().await);
            let networks: BTreeSet<NetworkId> = self.context.state().networks.keys().copied().collect();
            done = done.and(self.overlay.sync_networks(&networks).await);
            return done.and(self.overlay.sweep_remotes().await);
        }
        done.and(self.overlay.sync_remotes(endpoints).await)
    }

    /// Makes the hosts of the cluster peers, and removes peers that left the cluster.
    async fn follow_hosts(&self) -> Result<(), SwitchError> {
        let Some(own) = self.context.membership.as_ref().map(Membership::address) else { return Ok(()) };
        let recorded = {
            let mut state = self.context.state();
            let state = &mut *state;
            let mut wanted: BTreeMap<IpAddr, &Host> =
                state.others.hosts.values().map(|host| (host.address.to_canonical(), host)).collect();
            // This host may also be registered under an earlier id.
            wanted.remove(&own);
            let mut changes = Vec::new();
            state.peers.retain(|address, peer| {
                let is_gone = peer.record.host.is_some() && !wanted.contains_key(address);
                if !is_gone {
                    return true;
                }
                // An operator added this peer by hand, so only an operator removes it.
                let stays = peer.record.is_by_hand();
                peer.record.host = None;
                changes.push(if stays { Change::PutPeer(peer.record.clone()) } else { Change::RemovePeer(*address) });
                stays
            });
            for (address, host) in wanted {
                let by_hand = state.peers.get(&address).is_some_and(|peer| peer.record.is_by_hand());
                let entry = state.peers.get_or_insert_with(address, || PeerEntry::new(Peer::new(address, now())));
                let record = Peer {
                    host: Some(PeerHost { id: host.id, name: host.name.clone() }),
                    by_hand,
                    // An unreadable key counts as no key.
                    public_key: host.public_key.as_ref().and_then(|key| key.parse().ok()),
                    ..entry.record.clone()
                };
                if entry.record != record {
                    entry.record = record;
                    changes.push(Change::PutPeer(entry.record.clone()));
                }
            }
            self.context.store.commit(changes)
        };
        recorded.await?;
        self.overlay.refresh_overlay_mtus().await
    }
}

/// Enters an update into the state, and adds the work that it causes to `changes`.
fn take(state: &mut State, update: Update, own: HostId, changes: &mut Changes) {
    match update {
        Update::Resync(snapshot) => take_all(state, snapshot, own, changes),
        Update::HostUp(host) | Update::HostChanged(host) => {
            if host.id != own {
                state.others.hosts.insert(host.id, host);
                changes.hosts = true;
            }
        }
        Update::HostGone(id) => changes.hosts |= state.others.hosts.remove(&id).is_some(),
        Update::NetworkPut(network) => {
            state.others.expected.remove(&network.id);
            changes.networks.push(network);
        }
        Update::NetworkGone(id) => {
            state.others.unplaced.remove(&id);
            changes.networks.retain(|network| network.id != id);
            changes.gone.push(id);
        }
        Update::EndpointPut(endpoint) => {
            if endpoint.host != own {
                changes.endpoints.insert((endpoint.network, endpoint.id));
                changes.tunnels |= state.others.put(endpoint);
            }
        }
        Update::EndpointGone { network, endpoint } => {
            changes.endpoints.insert((network, endpoint));
            changes.tunnels |= state.others.remove(&(network, endpoint));
        }
    }
}

/// Replaces the state of the other hosts by a snapshot.
fn take_all(state: &mut State, snapshot: Snapshot, own: HostId, changes: &mut Changes) {
    let Snapshot { mut hosts, networks, endpoints } = snapshot;
    hosts.remove(&own);
    let before = std::mem::take(&mut state.others);
    let told: BTreeSet<NetworkId> = networks.values().map(|network| network.id).collect();
    state.others = Others::told(hosts, &before.expected - &told).into();
    for endpoint in endpoints.into_values().filter(|endpoint| endpoint.host != own) {
        state.others.put(endpoint);
    }
    let ours = state.networks.values().filter(|entry| is_shared(&entry.record)).map(|entry| entry.record.id);
    let expected = &state.others.expected;
    changes.gone = ours.filter(|id| !told.contains(id) && !expected.contains(id)).collect();
    changes.networks = networks.into_values().collect();
    changes.anew = true;
}
