//! What etcd tells, carried out: networks made and removed, tunnels to hosts, entries for their endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use vswitch_common::tables::{FdbKey, PortKind, PortNumber, VlanKey};

use super::others::{Others, Place, addresses};
use super::{Membership, is_shared};
use crate::cluster::{Host, SharedNetwork, Snapshot, Update};
use crate::datapath::Remote;
use crate::model::{Endpoint, EndpointId, HostId, NetworkId, Peer, PeerHost};
use crate::store::Change;
use crate::switch::attach::now;
use crate::switch::overlay::PeerEntry;
use crate::switch::state::{NetworkEntry, PortHandle, State};
use crate::switch::{Switch, SwitchError};

/// Updates that are carried out together, if they are there.
const AT_ONCE: usize = 8192;
/// When it is tried again to carry out what failed.
const AGAIN: Duration = Duration::from_secs(5);

/// What updates ask for.
#[derive(Debug, Default)]
struct Changes {
    networks: Vec<SharedNetwork>,
    gone: Vec<NetworkId>,
    hosts: bool,
    tunnels: bool,
    endpoints: BTreeSet<Place>,
    /// Whether what could not be made is to be tried again.
    unplaced: bool,
    /// All of it is to be looked at: it was told anew, and what nobody told of is nobody's.
    anew: bool,
}

impl Switch {
    /// Follows the cluster, for as long as the daemon lives.
    pub async fn follow_cluster(self: Arc<Self>) {
        let Some(member) = &self.membership else { return };
        let mut updates = member.cluster.watch();
        // Nothing to be done again yet, so the first wait is for the first update.
        let mut failed = false;
        let mut placed = Instant::now();
        loop {
            let mut changes = Changes::default();
            let unfinished = failed || !self.state().others.unplaced.is_empty();
            match timeout(if unfinished { AGAIN } else { Duration::MAX }, updates.recv()).await {
                Ok(Some(first)) => self.take(first, &mut changes),
                Ok(None) => return,
                Err(_) => {}
            }
            // What could not be done is among all that there is.
            changes.anew |= failed;
            let mut taken = 1;
            while taken < AT_ONCE
                && let Ok(next) = updates.try_recv()
            {
                self.take(next, &mut changes);
                taken += 1;
            }
            // However many updates come.
            if placed.elapsed() >= AGAIN {
                changes.unplaced = true;
                placed = Instant::now();
            }
            match self.carry_out(changes).await {
                Ok(()) => {
                    if std::mem::take(&mut failed) {
                        self.note("cluster", None);
                    }
                }
                Err(SwitchError::ShuttingDown) => return,
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!("what other hosts of the cluster have is not all here: {error}");
                    }
                    let text = format!("what other hosts of the cluster have is not all here: {error}");
                    self.note("cluster", Some(text));
                }
            }
        }
    }

    /// Takes an update into what is known, and notes what is to be done about it.
    fn take(&self, update: Update, changes: &mut Changes) {
        let Some(member) = &self.membership else { return };
        let own = member.host.id;
        let mut state = self.state();
        let state = &mut *state;
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

    /// Does all that it can, whatever fails of it.
    async fn carry_out(&self, changes: Changes) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let Changes { networks, gone, hosts, tunnels, endpoints, unplaced, anew } = changes;
        let mut done = Ok(());
        for id in gone {
            done = done.and(self.displace(id).await);
        }
        for network in networks {
            // What cannot be made here is noted, and tried again.
            let _ = self.place(&network).await;
        }
        if unplaced {
            self.place_again().await;
        }
        if hosts || anew {
            done = done.and(self.follow_hosts().await);
            // A host that was in the way may be gone.
            self.place_again().await;
        }
        if hosts || tunnels || anew {
            done = done.and(self.follow_tunnels().await);
        }
        if anew {
            done = done.and(self.note_address().await);
            let networks: BTreeSet<NetworkId> = self.state().networks.keys().copied().collect();
            done = done.and(self.sync_networks(&networks).await);
            return done.and(self.sweep_remotes().await);
        }
        done.and(self.sync_remotes(endpoints).await)
    }

    /// Makes the cluster's hosts peers, and no others of the cluster's.
    async fn follow_hosts(&self) -> Result<(), SwitchError> {
        let Some(own) = self.membership.as_ref().map(Membership::address) else { return Ok(()) };
        let recorded = {
            let mut state = self.state();
            let state = &mut *state;
            let mut wanted: BTreeMap<IpAddr, &Host> =
                state.others.hosts.values().map(|host| (host.address.to_canonical(), host)).collect();
            // This host may be there under the id that it had before.
            wanted.remove(&own);
            let mut changes = Vec::new();
            state.peers.retain(|address, peer| {
                let is_gone = peer.record.host.is_some() && !wanted.contains_key(address);
                if !is_gone {
                    return true;
                }
                // One that people told of they have to take back.
                let stays = peer.record.is_by_hand();
                peer.record.host = None;
                changes.push(if stays { Change::PutPeer(peer.record.clone()) } else { Change::RemovePeer(*address) });
                stays
            });
            for (address, host) in wanted {
                let by_hand = state.peers.get(&address).is_some_and(|peer| peer.record.is_by_hand());
                let entry = state.peers.entry(address).or_insert_with(|| PeerEntry::new(Peer::new(address, now())));
                let record = Peer {
                    host: Some(PeerHost { id: host.id, name: host.name.clone() }),
                    by_hand,
                    // One that cannot be read is one that cannot be used.
                    public_key: host.public_key.as_ref().and_then(|key| key.parse().ok()),
                    ..entry.record.clone()
                };
                if entry.record != record {
                    entry.record = record;
                    changes.push(Change::PutPeer(entry.record.clone()));
                }
            }
            self.store.commit(changes)
        };
        recorded.await?;
        self.refresh_overlay_mtus().await
    }

    /// Tells the programs of all endpoints in these networks: their tunnels have changed.
    pub(in crate::switch) async fn sync_networks(&self, networks: &BTreeSet<NetworkId>) -> Result<(), SwitchError> {
        let Some(member) = &self.membership else { return Ok(()) };
        if networks.is_empty() {
            return Ok(());
        }
        let mut places: BTreeSet<Place> = {
            let applied = member.remotes.lock().await;
            applied.keys().copied().filter(|(network, _)| networks.contains(network)).collect()
        };
        {
            let state = self.state();
            let there = networks.iter().flat_map(|network| state.others.of_network(*network));
            places.extend(there.map(|endpoint| (endpoint.network, endpoint.id)));
        }
        self.sync_remotes(places).await
    }

    /// A tunnel is gone, and with it all that the programs knew to be behind it: the next may have its number.
    pub(in crate::switch) async fn forget_behind(&self, tunnel: PortNumber) {
        if let Some(member) = &self.membership {
            member.remotes.lock().await.retain(|_, remote| remote.port != tunnel);
        }
    }

    /// An endpoint here is gone. While it was there, it kept those of others out of the tables that have its MAC address or
    /// one of its addresses.
    pub(super) async fn sync_rivals(&self, endpoint: &Endpoint) -> Result<(), SwitchError> {
        let (Some(member), Some(given)) = (&self.membership, &endpoint.address) else { return Ok(()) };
        let rivals: BTreeSet<Place> = {
            let applied = member.remotes.lock().await;
            let first = (endpoint.network, EndpointId::from_bytes([0; 32]));
            let in_network = applied.range(first..).take_while(|((network, _), _)| *network == endpoint.network);
            let is_rival = |remote: &Remote| {
                remote.station.mac == given.mac.get() || given.ips().any(|ip| remote.addresses.contains(&ip))
            };
            in_network.filter(|(_, remote)| is_rival(remote)).map(|(place, _)| *place).collect()
        };
        self.sync(rivals, true).await
    }

    /// Brings what the programs know of these endpoints in line.
    async fn sync_remotes(&self, places: BTreeSet<Place>) -> Result<(), SwitchError> {
        self.sync(places, false).await
    }

    /// The same; `again` also for those of which nothing has changed.
    async fn sync(&self, places: BTreeSet<Place>, again: bool) -> Result<(), SwitchError> {
        let Some(member) = &self.membership else { return Ok(()) };
        let mut applied = member.remotes.lock().await;
        let (mut stale, mut wanted) = (Vec::new(), Vec::new());
        {
            let state = self.state();
            for place in places {
                let (before, after) = (applied.get(&place), state.remote(&place));
                if before != after.as_ref() {
                    stale.extend(before.cloned().map(|remote| (place, remote)));
                } else if !again {
                    continue;
                }
                wanted.extend(after.map(|remote| (place, remote)));
            }
        }
        if stale.is_empty() && wanted.is_empty() {
            return Ok(());
        }
        for (place, _) in &stale {
            applied.remove(place);
        }
        let done = self.in_datapath(move |datapath| {
            // First all that is gone: what comes may have its address, at the same host.
            for (_, remote) in &stale {
                datapath.remove_remote(remote)?;
            }
            let mut put = Vec::new();
            let mut failed = Ok(());
            for (place, remote) in wanted {
                match datapath.put_remote(&remote) {
                    Ok(()) => put.push((place, remote)),
                    // There may be room for others.
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
            Ok((put, failed))
        });
        let (put, failed) = done.await?;
        applied.extend(put);
        Ok(failed?)
    }

    /// Removes what an earlier daemon has told the programs, and nobody wants any more.
    async fn sweep_remotes(&self) -> Result<(), SwitchError> {
        let Some(member) = &self.membership else { return Ok(()) };
        let applied = member.remotes.lock().await;
        let wanted: BTreeSet<_> = applied.values().map(|remote| (remote.port, remote.station)).collect();
        let stray = self.in_datapath(move |datapath| datapath.keep_remotes(&wanted)).await?;
        if stray > 0 {
            tracing::info!("{stray} endpoints of other hosts have gone since the daemon before this one");
        }
        Ok(())
    }

    /// Takes the tunnels over that an earlier daemon has left in networks of the cluster: until etcd has told what is wanted,
    /// they stay.
    pub(in crate::switch) fn adopt_tunnels(&self) -> Result<(), SwitchError> {
        let ports = self.datapath.ports()?;
        let mut state = self.state();
        let state = &mut *state;
        for (number, port) in ports {
            let end = IpAddr::from(port.ipv6.octets()).to_canonical();
            let shared = |entry: &&mut NetworkEntry| entry.record.number == port.network && is_shared(&entry.record);
            let ends_here = |peer: &Peer| {
                let inner = peer.public_key.is_some_and(|key| IpAddr::from(key.inner_address()) == end);
                peer.host.is_some() && (peer.address == end || inner)
            };
            let mut peers = state.peers.values().map(|peer| &peer.record);
            let peer = peers.find(|peer| ends_here(peer)).map(|peer| peer.address);
            let Some(remote) = peer.filter(|_| port.kind() == Some(PortKind::Tunnel)) else { continue };
            if let Some(tunnels) = state.networks.values_mut().find(shared).and_then(|entry| entry.tunnels.as_mut()) {
                tunnels.insert(remote, PortHandle { ifindex: port.ifindex, number });
            }
        }
        Ok(())
    }
}

/// Takes in all there is; what was known before and is not in it is gone.
fn take_all(state: &mut State, snapshot: Snapshot, own: HostId, changes: &mut Changes) {
    let Snapshot { mut hosts, networks, endpoints } = snapshot;
    hosts.remove(&own);
    let before = std::mem::take(&mut state.others);
    let told: BTreeSet<NetworkId> = networks.values().map(|network| network.id).collect();
    state.others = Others::told(hosts, &before.expected - &told);
    for endpoint in endpoints.into_values().filter(|endpoint| endpoint.host != own) {
        state.others.put(endpoint);
    }
    let ours = state.networks.values().filter(|entry| is_shared(&entry.record)).map(|entry| entry.record.id);
    let expected = &state.others.expected;
    changes.gone = ours.filter(|id| !told.contains(id) && !expected.contains(id)).collect();
    changes.networks = networks.into_values().collect();
    changes.anew = true;
}

impl State {
    /// The peers that a network is to have tunnels to: one of the cluster where both hosts have endpoints, one of this host
    /// alone to the peers that people told of.
    pub fn wants_tunnels(&self, network: NetworkId) -> BTreeSet<IpAddr> {
        let Some(entry) = self.networks.get(&network) else { return BTreeSet::new() };
        let peers = self.peers.iter();
        if !is_shared(&entry.record) {
            return peers.filter(|(_, peer)| peer.record.is_by_hand()).map(|(address, _)| *address).collect();
        }
        if !self.others.read {
            // Nobody knows yet: those that are there stay.
            return entry.tunnels.iter().flatten().map(|(address, _)| *address).collect();
        }
        if self.endpoints_of(network).next().is_none() {
            return BTreeSet::new();
        }
        let is_in =
            |peer: &PeerEntry| peer.record.host.as_ref().is_some_and(|host| self.others.is_in(network, host.id));
        peers.filter(|(_, peer)| is_in(peer)).map(|(address, _)| *address).collect()
    }

    /// Whether a tunnel is missing.
    pub fn lacks_tunnels(&self, network: NetworkId) -> bool {
        let tunnels = self.networks.get(&network).and_then(|entry| entry.tunnels.as_ref());
        self.wants_tunnels(network).iter().any(|peer| tunnels.is_none_or(|tunnels| !tunnels.contains_key(peer)))
    }

    /// An endpoint of another host as the programs are to know it: where there is a tunnel to it.
    fn remote(&self, place: &Place) -> Option<Remote> {
        let endpoint = self.others.endpoint(place)?;
        let network = self.networks.get(&place.0)?;
        let host = self.others.hosts.get(&endpoint.host)?;
        let tunnel = network.tunnels.as_ref()?.get(&host.address.to_canonical())?;
        Some(Remote {
            port: tunnel.number,
            station: FdbKey { network: network.record.number, vlan: VlanKey(endpoint.vlan), mac: endpoint.mac.get() },
            addresses: addresses(endpoint).collect(),
        })
    }
}
