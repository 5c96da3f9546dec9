//! Peers: the other hosts of overlay networks. Without a cluster, operators add them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vswitch_common::tables::PortCounters;

use crate::model::{Peer, PeerState};
use crate::plan::store::Change;
use crate::switch::context::now;
use crate::switch::error::SwitchError;
use crate::switch::info::PeerInfo;
use crate::switch::overlay::{Overlay, OverlayError};
use crate::switch::routes::link_towards;
use crate::switch::state::PeerEntry;
use crate::wireguard::PublicKey;

/// A peer that was heard within this time is up.
const RECENT: Duration = Duration::from_secs(60);

impl Overlay {
    /// Adds a peer: all overlay networks get a tunnel to it. An existing peer gets another public
    /// key; from then on encrypted networks accept nothing with the old key.
    ///
    /// # Errors
    /// The address or the key is this host's or another peer's, or the peer exists with this key,
    /// or the kernel refused a change; then nothing has changed.
    pub async fn add_peer(&self, address: IpAddr, given: Option<PublicKey>) -> Result<PeerInfo, SwitchError> {
        let _change = self.context.begin_change().await?;
        if let Some(device) = self.own_device(address).await? {
            return Err(OverlayError::OwnAddress { address, device }.into());
        }
        if self.context.membership.is_some() {
            return Err(OverlayError::ClusterPeers(address).into());
        }
        if let Some(key) = given
            && key == self.public_key().await?
        {
            return Err(OverlayError::OwnKey(key).into());
        }
        let (before, recorded) = {
            let mut state = self.context.state();
            let before = state.peers.get(&address).map(|peer| peer.record.clone());
            if before.as_ref().is_some_and(|peer| given.is_none() || peer.public_key == given) {
                return Err(OverlayError::PeerExists(address).into());
            }
            if before.is_none() {
                state.check_peer(address)?;
            }
            let other = state.peers.values().find(|peer| given.is_some() && peer.record.public_key == given);
            if let (Some(other), Some(key)) = (other, given) {
                return Err(OverlayError::KeyInUse { key, peer: other.record.address }.into());
            }
            let added = before.as_ref().map_or_else(now, |peer| peer.added);
            let record = Peer { public_key: given, ..Peer::new(address, added) };
            state.peers.get_or_insert_with(address, || PeerEntry::new(record.clone())).record = record.clone();
            (before, self.context.store.commit(vec![Change::PutPeer(record)]))
        };
        let made = async {
            recorded.await?;
            // Tunnels get their MTU when they are made.
            self.refresh_overlay_mtus().await?;
            self.follow_tunnels().await
        };
        if let Err(error) = made.await {
            match before {
                None => self.forget_peer(address).await?,
                Some(record) => {
                    if let Some(peer) = self.context.state().peers.get_mut(&address) {
                        peer.record = record.clone();
                    }
                    self.context.store.commit(vec![Change::PutPeer(record)]).await?;
                    self.follow_tunnels().await?;
                }
            }
            self.refresh_overlay_mtus().await?;
            return Err(error);
        }
        let peer = self.peers().await?.into_iter().find(|peer| peer.address == address);
        peer.ok_or_else(|| OverlayError::PeerNotFound(address).into())
    }

    /// Removes a peer with its tunnels.
    ///
    /// # Errors
    /// The peer does not exist or belongs to the cluster, or the kernel refused a change.
    pub async fn remove_peer(&self, address: IpAddr) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        match self.context.state().peers.get(&address) {
            None => return Err(OverlayError::PeerNotFound(address).into()),
            Some(peer) if peer.record.host.is_some() && self.context.membership.is_some() => {
                return Err(OverlayError::ClusterPeers(address).into());
            }
            Some(_) => {}
        }
        self.forget_peer(address).await
    }

    async fn forget_peer(&self, address: IpAddr) -> Result<(), SwitchError> {
        let recorded = {
            self.context.state().peers.remove(&address);
            self.context.store.commit(vec![Change::RemovePeer(address)])
        };
        recorded.await?;
        self.follow_tunnels().await
    }

    /// Returns the peers by address.
    ///
    /// # Errors
    /// The kernel's tables cannot be read.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, SwitchError> {
        self.hear_peers()?;
        let routes = self.context.netlink.routes().await?;
        let links = self.context.netlink.links().await?;
        let sums = self.peer_counters()?;
        let handshakes = self.handshakes().await?;
        let peers: Vec<PeerEntry> = self.context.state().peers.values().cloned().collect();
        let view = |peer: PeerEntry| {
            let address = peer.record.address;
            let link = link_towards(&routes, address).and_then(|index| links.iter().find(|link| link.index == index));
            let (networks, counters) = sums.get(&address).copied().unwrap_or_default();
            let silent = peer.heard.map(|heard| heard.elapsed());
            let handshake = peer.record.public_key.and_then(|key| handshakes.get(&key));
            PeerInfo {
                address,
                host: peer.record.host.map(|host| host.name),
                state: match (link, silent) {
                    (None, _) => PeerState::NoRoute,
                    (Some(link), _) if !link.running => PeerState::NoRoute,
                    (_, Some(silent)) if silent < RECENT => PeerState::Up,
                    _ => PeerState::Silent,
                },
                interface: link.map(|link| link.name.clone()),
                last_seen: silent,
                networks,
                public_key: peer.record.public_key,
                // Zero if the clock was set back since.
                last_handshake: handshake.map(|at| at.elapsed().unwrap_or_default()),
                counters,
                added: peer.record.added,
            }
        };
        Ok(peers.into_iter().map(view).collect())
    }

    /// Updates when each peer was last heard.
    pub fn hear_peers(&self) -> Result<(), SwitchError> {
        let sums = self.peer_counters()?;
        let mut state = self.context.state();
        let heard = state.peers.iter().filter_map(|(address, peer)| {
            let frames = sums.get(address).map_or(0, |(_, counters)| counters.rx_frames);
            (frames != peer.frames).then_some((*address, frames))
        });
        for (address, frames) in heard.collect::<Vec<_>>() {
            let Some(peer) = state.peers.get_mut(&address) else { continue };
            if frames > peer.frames {
                peer.heard = Some(Instant::now());
            }
            peer.frames = frames;
        }
        Ok(())
    }

    /// Returns the counters of each peer's tunnels, and the number of its networks.
    fn peer_counters(&self) -> Result<BTreeMap<IpAddr, (usize, PortCounters)>, SwitchError> {
        let tunnels: Vec<_> = {
            let state = self.context.state();
            let tunnels = state.networks.values().filter_map(|entry| entry.tunnels.as_ref());
            tunnels.flatten().map(|(address, port)| (*address, port.number)).collect()
        };
        let mut sums: BTreeMap<IpAddr, (usize, PortCounters)> = BTreeMap::new();
        for (address, number) in tunnels {
            let (networks, sum) = sums.entry(address).or_default();
            *networks += 1;
            *sum = sum.plus(&self.context.datapath.counters(number)?);
        }
        Ok(sums)
    }

    /// Returns the device of this host with an address.
    async fn own_device(&self, address: IpAddr) -> Result<Option<String>, SwitchError> {
        let addresses = self.context.netlink.addresses(None).await?;
        let Some((index, _)) = addresses.into_iter().find(|(_, own)| own.addr() == address) else { return Ok(None) };
        Ok(Some(self.context.netlink.link(index).await?.map_or_else(|| format!("device {index}"), |link| link.name)))
    }
}
