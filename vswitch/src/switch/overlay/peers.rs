//! Peers: told by people where there is no cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vswitch_common::tables::PortCounters;

use super::OverlayError;
use crate::api::{PeerRequest, PeerState, PeerView};
use crate::model::Peer;
use crate::store::Change;
use crate::switch::attach::now;
use crate::switch::{Switch, SwitchError};
use crate::wireguard::PublicKey;

/// Somebody who was heard within this time is there.
const RECENT: Duration = Duration::from_secs(60);

/// A peer, and when it was heard.
#[derive(Clone, Debug)]
pub struct PeerEntry {
    pub record: Peer,
    /// Frames that had come from it when it was last looked at.
    frames: u64,
    heard: Option<Instant>,
}

impl PeerEntry {
    pub const fn new(record: Peer) -> Self {
        Self { record, frames: 0, heard: None }
    }
}

impl Switch {
    /// Makes another host a peer: the tunnels of all overlay networks go there, too. One that is a peer already gets another
    /// public key: from then on, encrypted networks take nothing from whoever has the old one.
    ///
    /// # Errors
    /// It is none, or is one already, and with that key; or what the kernel refused, and then all is as it was.
    pub async fn add_peer(&self, request: PeerRequest) -> Result<PeerView, SwitchError> {
        let address = Peer::parse_address(&request.address).map_err(OverlayError::from)?;
        let given: Option<PublicKey> =
            request.public_key.as_deref().map(str::parse).transpose().map_err(OverlayError::from)?;
        let _leave = self.leave().await?;
        if let Some(device) = self.own_device(address).await? {
            return Err(OverlayError::OwnAddress { address, device }.into());
        }
        if self.membership.is_some() {
            return Err(OverlayError::ClusterPeers(address).into());
        }
        if let Some(key) = given
            && key == self.public_key().await?
        {
            return Err(OverlayError::OwnKey(key).into());
        }
        let (before, recorded) = {
            let mut state = self.state();
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
            state.peers.entry(address).or_insert_with(|| PeerEntry::new(record.clone())).record = record.clone();
            (before, self.store.commit(vec![Change::PutPeer(record)]))
        };
        let made = async {
            recorded.await?;
            // What goes by the tunnels is as long as they are told when they are made.
            self.refresh_overlay_mtus().await?;
            self.follow_tunnels().await
        };
        if let Err(error) = made.await {
            match before {
                None => self.forget_peer(address).await?,
                Some(record) => {
                    if let Some(peer) = self.state().peers.get_mut(&address) {
                        peer.record = record.clone();
                    }
                    self.store.commit(vec![Change::PutPeer(record)]).await?;
                    self.follow_tunnels().await?;
                }
            }
            self.refresh_overlay_mtus().await?;
            return Err(error);
        }
        let view = self.peers().await?.into_iter().find(|view| view.address == address);
        view.ok_or_else(|| OverlayError::PeerNotFound(address).into())
    }

    /// Makes another host a stranger: nothing goes there, nothing is taken from there.
    ///
    /// # Errors
    /// It is no peer.
    pub async fn remove_peer(&self, address: &str) -> Result<String, SwitchError> {
        let address = Peer::parse_address(address).map_err(OverlayError::from)?;
        let _leave = self.leave().await?;
        match self.state().peers.get(&address) {
            None => return Err(OverlayError::PeerNotFound(address).into()),
            Some(peer) if peer.record.host.is_some() && self.membership.is_some() => {
                return Err(OverlayError::ClusterPeers(address).into());
            }
            Some(_) => {}
        }
        self.forget_peer(address).await?;
        Ok(address.to_string())
    }

    async fn forget_peer(&self, address: IpAddr) -> Result<(), SwitchError> {
        let recorded = {
            self.state().peers.remove(&address);
            self.store.commit(vec![Change::RemovePeer(address)])
        };
        recorded.await?;
        self.follow_tunnels().await
    }

    /// The peers, by address.
    ///
    /// # Errors
    /// What the kernel does not tell.
    pub async fn peers(&self) -> Result<Vec<PeerView>, SwitchError> {
        self.hear_peers()?;
        let routes = self.netlink.routes().await?;
        let links = self.netlink.links().await?;
        let sums = self.peer_counters()?;
        let handshakes = self.handshakes().await?;
        let peers: Vec<PeerEntry> = self.state().peers.values().cloned().collect();
        let view = |peer: PeerEntry| {
            let address = peer.record.address;
            let link =
                super::link_towards(&routes, address).and_then(|index| links.iter().find(|link| link.index == index));
            let (networks, counters) = sums.get(&address).copied().unwrap_or_default();
            let silent = peer.heard.map(|heard| heard.elapsed());
            let handshake = peer.record.public_key.and_then(|key| handshakes.get(&key));
            PeerView {
                address,
                host: peer.record.host.map(|host| host.name),
                state: match (link, silent) {
                    (None, _) => PeerState::NoRoute,
                    (Some(link), _) if !link.running => PeerState::NoRoute,
                    (_, Some(silent)) if silent < RECENT => PeerState::Up,
                    _ => PeerState::Silent,
                },
                interface: link.map(|link| link.name.clone()),
                last_seen_seconds: silent.map(|silent| silent.as_secs()),
                networks,
                public_key: peer.record.public_key.map(|key| key.to_string()),
                // A clock that was set back meanwhile says: just now.
                last_handshake_seconds: handshake.map(|at| at.elapsed().unwrap_or_default().as_secs()),
                rx_bytes: counters.rx_bytes,
                tx_bytes: counters.tx_bytes,
                rx_frames: counters.rx_frames,
                tx_frames: counters.tx_frames,
                drops: counters.drops.iter().sum(),
                added: peer.record.added,
            }
        };
        Ok(peers.into_iter().map(view).collect())
    }

    /// Notes which peers have been heard since the last time.
    pub(in crate::switch) fn hear_peers(&self) -> Result<(), SwitchError> {
        let sums = self.peer_counters()?;
        for (address, peer) in &mut self.state().peers {
            let frames = sums.get(address).map_or(0, |(_, counters)| counters.rx_frames);
            if frames > peer.frames {
                peer.heard = Some(Instant::now());
            }
            peer.frames = frames;
        }
        Ok(())
    }

    /// What went to and came from each peer, with the number of networks that it is in.
    fn peer_counters(&self) -> Result<BTreeMap<IpAddr, (usize, PortCounters)>, SwitchError> {
        let tunnels: Vec<_> = {
            let state = self.state();
            let tunnels = state.networks.values().filter_map(|entry| entry.tunnels.as_ref());
            tunnels.flatten().map(|(address, port)| (*address, port.number)).collect()
        };
        let mut sums: BTreeMap<IpAddr, (usize, PortCounters)> = BTreeMap::new();
        for (address, number) in tunnels {
            let (networks, sum) = sums.entry(address).or_default();
            *networks += 1;
            *sum = sum.plus(&self.datapath.counters(number)?);
        }
        Ok(sums)
    }

    /// The device of this host that has an address.
    async fn own_device(&self, address: IpAddr) -> Result<Option<String>, SwitchError> {
        let addresses = self.netlink.addresses(None).await?;
        let Some((index, _)) = addresses.into_iter().find(|(_, own)| own.addr() == address) else { return Ok(None) };
        Ok(Some(self.netlink.link(index).await?.map_or_else(|| format!("device {index}"), |link| link.name)))
    }
}
