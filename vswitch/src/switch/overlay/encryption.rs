//! Encrypted networks: their tunnels go through WireGuard only.
//!
//! The order of changes keeps plain frames off the underlay. Rules reject packets for addresses
//! inside WireGuard that have no route of their own; on a kernel without rules, an unreachable
//! route does. They are added first and removed last, so that a packet without a WireGuard peer is
//! dropped whatever becomes of the daemon, the links and the routes. Then follow the device, its
//! programs, the peers, and the tunnels. Removal goes in reverse.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::kernel::netlink::{Netlink, NetlinkError};
use crate::model::{Instance, Network, Owner};
use crate::plan::apply::ApplyError;
use crate::switch::error::SwitchError;
use crate::switch::overlay::Overlay;
use crate::switch::state::{PeerEntry, State};
use crate::wireguard::{self, Device, DeviceSpec, PeerStatus, PublicKey, inner_net};
use nix::errno::Errno;

/// The bytes that a tunnel inside WireGuard puts before an inner packet: its Ethernet header,
/// VXLAN, UDP and IPv6 (RFC 7348, 5).
const TUNNEL: u32 = 14 + 8 + 8 + 40;
/// The bytes that an IPv4 header is shorter than an IPv6 header.
const IPV4_LESS: u32 = 20;
/// The subject of the note on a missing device.
const NOTE: &str = "encryption";
/// The subject of the note on peers without a key.
const NOTE_KEYS: &str = "encryption: keys";

impl State {
    /// Returns whether any network is encrypted.
    fn has_encrypted(&self) -> bool {
        self.networks.values().any(|entry| entry.tunnels.is_some() && is_encrypted(&entry.record))
    }

    /// Returns the tunnel destination per peer: the peer's address, or its WireGuard inner address
    /// in an encrypted network. An encrypted network has no tunnel while WireGuard does not work
    /// (`secured` is false), and none to a peer without a key.
    pub fn remotes(&self, network: &Network, secured: bool) -> BTreeMap<IpAddr, IpAddr> {
        let remote = |peer: &PeerEntry| match (is_encrypted(network), peer.record.public_key) {
            (false, _) => Some(peer.record.address),
            (true, Some(key)) if secured => Some(key.inner_address().into()),
            (true, _) => None,
        };
        let wanted = self.wants_tunnels(network.id);
        let peers = self.peers.iter().filter(|(address, _)| wanted.contains(address));
        peers.filter_map(|(address, peer)| Some((*address, remote(peer)?))).collect()
    }

    /// Returns the MTU of the device: the longest packet that any endpoint may send passes
    /// unfragmented, with a tag.
    fn wireguard_mtu(&self) -> u32 {
        let encrypted = || self.networks.values().filter(|entry| is_encrypted(&entry.record));
        let networks = encrypted().map(|entry| entry.mtu);
        let endpoints = encrypted().flat_map(|entry| {
            self.endpoints_of(entry.record.id).filter_map(|endpoint| entry.record.longest_of(&endpoint.record))
        });
        let longest = networks.chain(endpoints).max().unwrap_or(0).saturating_add(TUNNEL);
        longest.clamp(wireguard::MIN_MTU, wireguard::MAX_MTU)
    }
}

/// Returns whether a network is encrypted.
pub fn is_encrypted(network: &Network) -> bool {
    network.overlay().is_some_and(|overlay| overlay.encrypted)
}

/// Returns the bytes that an encrypted network adds to a packet on the way to a peer.
pub const fn overhead(peer: IpAddr) -> u32 {
    TUNNEL + wireguard::OVERHEAD - if peer.is_ipv4() { IPV4_LESS } else { 0 }
}

impl Overlay {
    /// Returns the WireGuard public key of this host, and generates a key if none exists.
    ///
    /// # Errors
    /// The key file cannot be read or written.
    pub async fn public_key(&self) -> Result<PublicKey, SwitchError> {
        Ok(self.private_key().await?.public())
    }

    async fn private_key(&self) -> Result<wireguard::PrivateKey, SwitchError> {
        let file = self.context.instance.key_file();
        let key = tokio::task::spawn_blocking(move || wireguard::load_or_create(&file)).await;
        let key = key.map_err(ApplyError::from)??;
        *self.encryption.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.public());
        Ok(key)
    }

    /// Opens the WireGuard device if a network is encrypted, or updates the open one to match the
    /// networks. Has to run before tunnels are made.
    pub async fn open_encryption(&self) -> Result<(), SwitchError> {
        let (needed, mtu) = {
            let state = self.context.state();
            (state.has_encrypted(), state.wireguard_mtu())
        };
        if !needed {
            return Ok(());
        }
        add_guard(&self.context.netlink, &self.context.instance).await?;
        let mut open = self.encryption.device.lock().await;
        if let Some(device) = &*open
            && self.context.netlink.link(device.index()).await?.is_none()
            && let Some(gone) = open.take()
        {
            // The device was removed by hand.
            self.encryption.index.store(0, Ordering::Relaxed);
            gone.close().await?;
        }
        if let Some(device) = &*open {
            let Some(link) = self.context.netlink.link(device.index()).await? else { return Ok(()) };
            // The MTU never shrinks, because endpoints keep theirs.
            if link.mtu < mtu {
                self.context.netlink.set_mtu(device.index(), mtu).await?;
            }
            if !device.is_ready(&link).await? {
                tracing::warn!("{} was switched off, or has lost its address: it is set up again", link.name);
                device.set_up(&link.name).await?;
            }
            return Ok(());
        }
        let key = self.private_key().await?;
        let name = self.context.instance.wireguard_device();
        self.remove_foreign(&name, &key.public()).await?;
        let spec = DeviceSpec { name: &name, key: &key, port: self.encryption.port, mtu, netns: None, backend: None };
        let device = Device::open(&spec).await?;
        let index = device.index();
        let guarded = async {
            self.context.netlink.set_alias(index, &self.context.instance.wireguard_mark()).await?;
            let name = name.clone();
            self.context.in_datapath(move |datapath| datapath.set_wireguard(Some((index, &name)))).await
        };
        if let Err(error) = guarded.await {
            device.close().await?;
            return Err(error);
        }
        tracing::info!("{name} is open, by {:?}, as {}", device.backend(), key.public());
        self.encryption.index.store(index, Ordering::Relaxed);
        *open = Some(device);
        Ok(())
    }

    /// Removes the device of an earlier daemon with another key: its address and peers are useless.
    async fn remove_foreign(&self, name: &str, key: &PublicKey) -> Result<(), SwitchError> {
        let Some(link) = self.context.netlink.link_by_name(name).await? else { return Ok(()) };
        let ours = link.alias.as_deref().and_then(|alias| self.context.instance.owner(alias)) == Some(Owner::Wireguard);
        let own = IpAddr::from(key.inner_address());
        let addresses = self.context.netlink.addresses(Some(link.index)).await?;
        if ours && addresses.iter().any(|(_, address)| address.addr() != own) {
            self.context.netlink.delete_link(link.index).await?;
        }
        Ok(())
    }

    /// Sets the peers of the device to those with a key, or removes the device if no network is
    /// encrypted. Has to run after tunnels were removed and before new ones are made.
    pub async fn follow_keys(&self) -> Result<(), SwitchError> {
        if !self.context.state().has_encrypted() {
            self.context.note(NOTE_KEYS, None);
            return self.close_encryption().await;
        }
        let (wanted, without) = {
            let state = self.context.state();
            let port = self.encryption.port;
            let peers = state.peers.values().map(|peer| &peer.record);
            let endpoint = |address| SocketAddr::new(address, port);
            let with = peers.clone().filter_map(|peer| Some((peer.public_key?, endpoint(peer.address))));
            let without = peers.filter(|peer| peer.public_key.is_none()).map(|peer| peer.address.to_string());
            (with.collect::<BTreeMap<_, _>>(), without.collect::<Vec<_>>())
        };
        let note = format!(
            "encrypted networks do not reach {}: no public key is known (`vswitch peer add IP --public-key KEY`, with what `vswitch peer key` says there)",
            without.join(", ")
        );
        self.context.note(NOTE_KEYS, (!without.is_empty()).then_some(note));
        let open = self.encryption.device.lock().await;
        let Some(device) = &*open else { return Ok(()) };
        let there: BTreeMap<PublicKey, PeerStatus> =
            device.peers().await?.into_iter().map(|peer| (peer.key, peer)).collect();
        for key in there.keys().filter(|key| !wanted.contains_key(key)) {
            device.remove_peer(key).await?;
        }
        for (key, endpoint) in wanted {
            let stands = there.get(&key).is_some_and(|peer| peer.endpoint == Some(endpoint));
            // Switching a device off removes its routes.
            let set = if stands { device.add_route(&key).await } else { device.set_peer(key, endpoint).await };
            // An error with one peer does not affect the others.
            if let Err(error) = set {
                tracing::warn!("peer {endpoint}: {error}");
            }
        }
        Ok(())
    }

    /// Returns the error of [`Overlay::open_encryption`] if an encrypted network is being created;
    /// otherwise notes it.
    pub fn secured(&self, opened: Result<(), SwitchError>) -> Result<(), SwitchError> {
        let Err(error) = opened else {
            self.context.note(NOTE, None);
            return Ok(());
        };
        let made = {
            let state = self.context.state();
            state.networks.values().any(|entry| is_encrypted(&entry.record) && !entry.ready)
        };
        if made {
            return Err(error);
        }
        tracing::error!("encrypted networks: {error}");
        self.context.note(NOTE, Some(format!("encrypted networks reach no other host: {error}")));
        Ok(())
    }

    /// Opens the WireGuard device again after it was removed by hand. Until then encrypted frames
    /// are dropped.
    pub async fn wireguard_lost(&self) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let index = self.encryption.index.load(Ordering::Relaxed);
        if self.context.state().has_encrypted() && (index == 0 || self.context.netlink.link(index).await?.is_none()) {
            tracing::warn!("the WireGuard device was removed by hand, and is created again");
            self.try_tunnels().await?;
        }
        Ok(())
    }

    /// Removes the device, its programs and the rules, in this order. The tunnels are gone already.
    async fn close_encryption(&self) -> Result<(), SwitchError> {
        self.context.note(NOTE, None);
        self.encryption.index.store(0, Ordering::Relaxed);
        if let Some(device) = self.encryption.device.lock().await.take() {
            device.close().await?;
        }
        // An earlier daemon may have left its device.
        if let Some(link) = self.context.netlink.link_by_name(&self.context.instance.wireguard_device()).await?
            && link.alias.as_deref().and_then(|alias| self.context.instance.owner(alias)) == Some(Owner::Wireguard)
        {
            self.context.netlink.delete_link(link.index).await?;
        }
        self.context.in_datapath(|datapath| datapath.set_wireguard(None)).await?;
        Ok(remove_guard(&self.context.netlink, &self.context.instance).await?)
    }

    /// Ends the daemon's part of WireGuard. The device is removed by the caller.
    pub async fn end_encryption(&self) -> Result<(), SwitchError> {
        self.encryption.index.store(0, Ordering::Relaxed);
        match self.encryption.device.lock().await.take() {
            Some(device) => Ok(device.close().await?),
            None => Ok(()),
        }
    }

    /// Returns the time of the last handshake by public key.
    pub async fn handshakes(&self) -> Result<BTreeMap<PublicKey, SystemTime>, SwitchError> {
        match &*self.encryption.device.lock().await {
            Some(device) => {
                let peers = device.peers().await?.into_iter();
                Ok(peers.filter_map(|peer| Some((peer.key, peer.last_handshake?))).collect())
            }
            None => Ok(BTreeMap::new()),
        }
    }
}

/// Adds the rules that keep packets for WireGuard off the underlay.
async fn add_guard(netlink: &Netlink, instance: &Instance) -> Result<(), NetlinkError> {
    // A kernel without policy rules has the route only.
    unless_unsupported(netlink.add_guard(inner_net(), instance.rule_priority()).await)?;
    netlink.add_unreachable(inner_net().into(), instance.route_metric()).await
}

/// Removes what [`add_guard`] added, also for an earlier daemon. Has to run last.
pub async fn remove_guard(netlink: &Netlink, instance: &Instance) -> Result<(), NetlinkError> {
    let route = netlink.remove_unreachable(inner_net().into(), instance.route_metric()).await;
    // A kernel without IPv6 has no such route.
    unless_unsupported(route)?;
    unless_unsupported(netlink.remove_guard(inner_net(), instance.rule_priority()).await)
}

fn unless_unsupported(done: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match done {
        Err(NetlinkError::Kernel { errno: Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT, .. }) => Ok(()),
        done => done,
    }
}
