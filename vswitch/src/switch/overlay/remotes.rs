//! The endpoints of other hosts that the datapath knows behind tunnels.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vswitch_common::tables::{FdbKey, PortKind, PortNumber, VlanKey};

use crate::datapath::Remote;
use crate::model::{Endpoint, EndpointId, NetworkId, Peer};
use crate::switch::error::SwitchError;
use crate::switch::membership::is_shared;
use crate::switch::others::{Place, addresses};
use crate::switch::overlay::Overlay;
use crate::switch::state::{NetworkEntry, PeerEntry, PortHandle, State};

impl Overlay {
    /// Updates the entries of all endpoints in networks after their tunnels changed.
    pub async fn sync_networks(&self, networks: &BTreeSet<NetworkId>) -> Result<(), SwitchError> {
        if self.context.membership.is_none() {
            return Ok(());
        }
        if networks.is_empty() {
            return Ok(());
        }
        let mut places: BTreeSet<Place> = {
            let applied = self.remotes.lock().await;
            applied.keys().copied().filter(|(network, _)| networks.contains(network)).collect()
        };
        {
            let state = self.context.state();
            let there = networks.iter().flat_map(|network| state.others.of_network(*network));
            places.extend(there.map(|endpoint| (endpoint.network, endpoint.id)));
        }
        self.sync_remotes(places).await
    }

    /// Forgets the entries behind a removed tunnel, because the next tunnel may get its number.
    pub async fn forget_behind(&self, tunnel: PortNumber) {
        self.remotes.lock().await.retain(|_, remote| remote.port != tunnel);
    }

    /// Writes the entries that an endpoint of this host kept out of the tables, because they have
    /// its MAC address or one of its addresses. The endpoint is gone.
    pub async fn sync_rivals(&self, endpoint: &Endpoint) -> Result<(), SwitchError> {
        let (Some(_), Some(given)) = (&self.context.membership, &endpoint.address) else { return Ok(()) };
        let rivals: BTreeSet<Place> = {
            let applied = self.remotes.lock().await;
            let first = (endpoint.network, EndpointId::from_bytes([0; 32]));
            let in_network = applied.range(first..).take_while(|((network, _), _)| *network == endpoint.network);
            let is_rival = |remote: &Remote| {
                remote.station.mac == given.mac.get() || given.ips().any(|ip| remote.addresses.contains(&ip))
            };
            in_network.filter(|(_, remote)| is_rival(remote)).map(|(place, _)| *place).collect()
        };
        self.sync(rivals, true).await
    }

    /// Updates the entries of endpoints to match the records of the cluster.
    pub async fn sync_remotes(&self, places: BTreeSet<Place>) -> Result<(), SwitchError> {
        self.sync(places, false).await
    }

    /// Updates the entries of endpoints; with `again` also writes those that have not changed.
    async fn sync(&self, places: BTreeSet<Place>, again: bool) -> Result<(), SwitchError> {
        if self.context.membership.is_none() {
            return Ok(());
        }
        let mut applied = self.remotes.lock().await;
        let (mut stale, mut wanted) = (Vec::new(), Vec::new());
        {
            let state = self.context.state();
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
        let done = self.context.in_datapath(move |datapath| {
            // Removes old entries first: a new one may have the same address at the same host.
            for (_, remote) in &stale {
                datapath.remove_remote(remote)?;
            }
            let mut put = Vec::new();
            let mut failed = Ok(());
            for (place, remote) in wanted {
                match datapath.put_remote(&remote) {
                    Ok(()) => put.push((place, remote)),
                    // A full table is no reason to skip the other entries, which may still fit.
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
            Ok((put, failed))
        });
        let (put, failed) = done.await?;
        applied.extend(put);
        Ok(failed?)
    }

    /// Removes entries of an earlier daemon that no update confirmed.
    pub async fn sweep_remotes(&self) -> Result<(), SwitchError> {
        if self.context.membership.is_none() {
            return Ok(());
        }
        let applied = self.remotes.lock().await;
        let wanted: BTreeSet<_> = applied.values().map(|remote| (remote.port, remote.station)).collect();
        let stray = self.context.in_datapath(move |datapath| datapath.keep_remotes(&wanted)).await?;
        if stray > 0 {
            tracing::info!("{stray} endpoints of other hosts have gone since the daemon before this one");
        }
        Ok(())
    }

    /// Takes over the tunnels of an earlier daemon in networks of the cluster. They stay until the
    /// first update from etcd.
    pub fn adopt_tunnels(&self) -> Result<(), SwitchError> {
        let ports = self.context.datapath.ports()?;
        let mut state = self.context.state();
        let state = &mut *state;
        for (number, port) in ports {
            let end = IpAddr::from(port.peer().octets()).to_canonical();
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

impl State {
    /// Returns the peers that a network needs a tunnel to: in a network of the cluster those with
    /// endpoints in it, while this host has one, too; in another network those that operators
    /// added.
    pub fn wants_tunnels(&self, network: NetworkId) -> BTreeSet<IpAddr> {
        let Some(entry) = self.networks.get(&network) else { return BTreeSet::new() };
        let peers = self.peers.iter();
        if !is_shared(&entry.record) {
            return peers.filter(|(_, peer)| peer.record.is_by_hand()).map(|(address, _)| *address).collect();
        }
        if !self.others.read {
            // Existing tunnels stay until the first snapshot.
            return entry.tunnels.iter().flatten().map(|(address, _)| *address).collect();
        }
        if self.endpoints_of(network).next().is_none() {
            return BTreeSet::new();
        }
        let is_in =
            |peer: &PeerEntry| peer.record.host.as_ref().is_some_and(|host| self.others.is_in(network, host.id));
        peers.filter(|(_, peer)| is_in(peer)).map(|(address, _)| *address).collect()
    }

    /// Returns whether a tunnel of a network is missing.
    pub fn lacks_tunnels(&self, network: NetworkId) -> bool {
        let tunnels = self.networks.get(&network).and_then(|entry| entry.tunnels.as_ref());
        self.wants_tunnels(network).iter().any(|peer| tunnels.is_none_or(|tunnels| !tunnels.contains_key(peer)))
    }

    /// Returns the entry of a remote endpoint, if a tunnel to its host exists.
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
