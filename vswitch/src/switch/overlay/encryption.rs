//! Encrypted networks: their tunnels go from host to host by WireGuard, and by nothing else.
//!
//! The order is what keeps plain frames from the underlay. Rules that refuse whatever is for an address inside WireGuard and
//! has no route of its own are there before anything else is, and until all else is gone: what WireGuard has no peer for goes
//! nowhere, whether the daemon lives or not, and whatever becomes of links and routes meanwhile. A route that refuses does it
//! where the kernel knows no rules. Then come the device, the programs on it, the peers, and at last the tunnels; all goes in
//! the other order.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use tokio::sync::Mutex as AsyncMutex;

use super::PeerEntry;
use crate::apply::ApplyError;
use crate::kernel::netlink::{Netlink, NetlinkError};
use crate::model::{Instance, Network, Owner};
use crate::switch::state::State;
use crate::switch::{Switch, SwitchError};
use crate::wireguard::{self, Device, DeviceSpec, PeerStatus, PublicKey, inner_net};

/// What a tunnel inside WireGuard puts before an inner packet: its Ethernet header, VXLAN, UDP and IPv6 (RFC 7348, 5).
const TUNNEL: u32 = 14 + 8 + 8 + 40;
/// An IPv4 header is as much shorter.
const IPV4_LESS: u32 = 20;
/// What is noted while there is no device.
const NOTE: &str = "encryption";
/// What is noted of peers without a key.
const NOTE_KEYS: &str = "encryption: keys";

/// This host's end of WireGuard.
pub(in crate::switch) struct Encryption {
    /// The UDP port, here and at all peers.
    port: u16,
    device: AsyncMutex<Option<Device>>,
    /// The device's number, to be told from others when it goes; 0 while there is none.
    index: AtomicU32,
    /// As far as it is known.
    key: Mutex<Option<PublicKey>>,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("port", &self.port).field("index", &self.index).finish_non_exhaustive()
    }
}

impl Encryption {
    /// Not open yet.
    pub fn new(port: u16, instance: &Instance) -> Self {
        let file = instance.key_file();
        // What is wrong with it shows when it is needed.
        let key = file.exists().then(|| wireguard::load_or_create(&file).ok()).flatten();
        Self {
            port,
            device: AsyncMutex::default(),
            index: AtomicU32::new(0),
            key: Mutex::new(key.map(|key| key.public())),
        }
    }

    /// Whether this is the device.
    pub fn is_device(&self, ifindex: u32) -> bool {
        ifindex != 0 && self.index.load(Ordering::Relaxed) == ifindex
    }

    /// This host's public key, if one was made.
    pub fn key(&self) -> Option<PublicKey> {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether any network is encrypted.
    fn has_encrypted(&self) -> bool {
        self.networks.values().any(|entry| entry.tunnels.is_some() && is_encrypted(&entry.record))
    }

    /// Where the tunnels of a network end: by peer that it wants one to, the peer itself, or its end of WireGuard. While WireGuard does not work
    /// (`secured`), an encrypted network has none, as it has none to peers without a key.
    pub(super) fn remotes(&self, network: &Network, secured: bool) -> BTreeMap<IpAddr, IpAddr> {
        let remote = |peer: &PeerEntry| match (is_encrypted(network), peer.record.public_key) {
            (false, _) => Some(peer.record.address),
            (true, Some(key)) if secured => Some(key.inner_address().into()),
            (true, _) => None,
        };
        let wanted = self.wants_tunnels(network.id);
        let peers = self.peers.iter().filter(|(address, _)| wanted.contains(address));
        peers.filter_map(|(address, peer)| Some((*address, remote(peer)?))).collect()
    }

    /// The device's MTU: so that the longest packet that any endpoint has ever been allowed goes through whole, with a tag.
    fn wireguard_mtu(&self) -> u32 {
        let encrypted = || self.networks.values().filter(|entry| is_encrypted(&entry.record));
        let networks = encrypted().map(|entry| entry.mtu);
        let endpoints = encrypted().flat_map(|entry| {
            self.endpoints_of(entry.record.id).filter_map(|endpoint| entry.record.longest_of(&endpoint.record))
        });
        let longest = networks.chain(endpoints).max().unwrap_or(0).saturating_add(TUNNEL);
        longest.clamp(wireguard::MTU_LEAST, wireguard::MTU_MOST)
    }
}

/// Whether a network's frames go by WireGuard alone.
pub(super) fn is_encrypted(network: &Network) -> bool {
    network.overlay.is_some_and(|overlay| overlay.encrypted)
}

/// What an encrypted network has on the wire more than its packets, on the way to an address.
pub(super) const fn overhead(peer: IpAddr) -> u32 {
    TUNNEL + wireguard::OVERHEAD - if peer.is_ipv4() { IPV4_LESS } else { 0 }
}

impl Switch {
    /// This host's public key for WireGuard; a key is made if there is none.
    ///
    /// # Errors
    /// The key's file is no good.
    pub async fn public_key(&self) -> Result<PublicKey, SwitchError> {
        Ok(self.private_key().await?.public())
    }

    async fn private_key(&self) -> Result<wireguard::PrivateKey, SwitchError> {
        let file = self.instance.key_file();
        let key = tokio::task::spawn_blocking(move || wireguard::load_or_create(&file)).await;
        let key = key.map_err(ApplyError::from)??;
        *self.encryption.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.public());
        Ok(key)
    }

    /// Before tunnels are made: makes what an encrypted network needs, if there is one, and brings it in line.
    pub(super) async fn open_encryption(&self) -> Result<(), SwitchError> {
        let (needed, mtu) = {
            let state = self.state();
            (state.has_encrypted(), state.wireguard_mtu())
        };
        if !needed {
            return Ok(());
        }
        add_guard(&self.netlink, &self.instance).await?;
        let mut open = self.encryption.device.lock().await;
        if let Some(device) = &*open
            && self.netlink.link(device.index()).await?.is_none()
            && let Some(gone) = open.take()
        {
            // Somebody has removed it.
            self.encryption.index.store(0, Ordering::Relaxed);
            gone.close().await?;
        }
        if let Some(device) = &*open {
            let Some(link) = self.netlink.link(device.index()).await? else { return Ok(()) };
            // Never less: what endpoints were told stands.
            if link.mtu < mtu {
                self.netlink.set_mtu(device.index(), mtu).await?;
            }
            if !device.is_ready(&link).await? {
                tracing::warn!("{} was switched off, or has lost its address: it is set up again", link.name);
                device.set_up(&link.name).await?;
            }
            return Ok(());
        }
        let key = self.private_key().await?;
        let name = self.instance.wireguard_device();
        self.remove_foreign(&name, &key.public()).await?;
        let spec = DeviceSpec { name: &name, key: &key, port: self.encryption.port, mtu, netns: None, backend: None };
        let device = Device::open(&spec).await?;
        let index = device.index();
        let guarded = async {
            self.netlink.set_alias(index, &self.instance.wireguard_mark()).await?;
            let name = name.clone();
            self.in_datapath(move |datapath| datapath.set_wireguard(Some((index, &name)))).await
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

    /// Removes a device that an earlier daemon has left and that had another key: its address and its peers are of no use.
    async fn remove_foreign(&self, name: &str, key: &PublicKey) -> Result<(), SwitchError> {
        let Some(link) = self.netlink.link_by_name(name).await? else { return Ok(()) };
        let ours = link.alias.as_deref().and_then(|alias| self.instance.owner(alias)) == Some(Owner::Wireguard);
        let own = IpAddr::from(key.inner_address());
        let addresses = self.netlink.addresses(Some(link.index)).await?;
        if ours && addresses.iter().any(|(_, address)| address.addr() != own) {
            self.netlink.delete_link(link.index).await?;
        }
        Ok(())
    }

    /// After tunnels were removed, and before others are made: the device knows the peers that have a key, and no others. If
    /// no network is encrypted any more, it goes.
    pub(super) async fn follow_keys(&self) -> Result<(), SwitchError> {
        if !self.state().has_encrypted() {
            self.note(NOTE_KEYS, None);
            return self.close_encryption().await;
        }
        let (wanted, without) = {
            let state = self.state();
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
        self.note(NOTE_KEYS, (!without.is_empty()).then_some(note));
        let open = self.encryption.device.lock().await;
        let Some(device) = &*open else { return Ok(()) };
        let there: BTreeMap<PublicKey, PeerStatus> =
            device.peers().await?.into_iter().map(|peer| (peer.key, peer)).collect();
        for key in there.keys().filter(|key| !wanted.contains_key(key)) {
            device.remove_peer(key).await?;
        }
        for (key, endpoint) in wanted {
            let stands = there.get(&key).is_some_and(|peer| peer.endpoint == Some(endpoint));
            // Its route may be gone nevertheless: who switches a device off takes them.
            let set = if stands { device.route_to(&key).await } else { device.set_peer(key, endpoint).await };
            // What is wrong with one peer is no reason to do without the others.
            if let Err(error) = set {
                tracing::warn!("peer {endpoint}: {error}");
            }
        }
        Ok(())
    }

    /// Whether encrypted networks work. Whoever makes one is refused if it would not; those that are there wait for it.
    pub(super) fn secured(&self, opened: Result<(), SwitchError>) -> Result<(), SwitchError> {
        let Err(error) = opened else {
            self.note(NOTE, None);
            return Ok(());
        };
        let made = {
            let state = self.state();
            state.networks.values().any(|entry| is_encrypted(&entry.record) && !entry.ready)
        };
        if made {
            return Err(error);
        }
        tracing::error!("encrypted networks: {error}");
        self.note(NOTE, Some(format!("encrypted networks reach no other host: {error}")));
        Ok(())
    }

    /// The device of WireGuard was removed by somebody: it is made again. Until then, encrypted frames go nowhere.
    pub(in crate::switch) async fn wireguard_lost(&self) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let index = self.encryption.index.load(Ordering::Relaxed);
        if self.state().has_encrypted() && (index == 0 || self.netlink.link(index).await?.is_none()) {
            tracing::warn!("the device of WireGuard was removed by somebody, and is made again");
            self.try_tunnels().await?;
        }
        Ok(())
    }

    /// Removes the device, the programs on it and what guards them, in this order. The tunnels are gone already.
    async fn close_encryption(&self) -> Result<(), SwitchError> {
        self.note(NOTE, None);
        self.encryption.index.store(0, Ordering::Relaxed);
        if let Some(device) = self.encryption.device.lock().await.take() {
            device.close().await?;
        }
        // One of an earlier daemon.
        if let Some(link) = self.netlink.link_by_name(&self.instance.wireguard_device()).await?
            && link.alias.as_deref().and_then(|alias| self.instance.owner(alias)) == Some(Owner::Wireguard)
        {
            self.netlink.delete_link(link.index).await?;
        }
        self.in_datapath(|datapath| datapath.set_wireguard(None)).await?;
        Ok(remove_guard(&self.netlink, &self.instance).await?)
    }

    /// Ends what the daemon itself does for encrypted networks. The device is gone, or goes.
    pub(in crate::switch) async fn end_encryption(&self) -> Result<(), SwitchError> {
        self.encryption.index.store(0, Ordering::Relaxed);
        match self.encryption.device.lock().await.take() {
            Some(device) => Ok(device.close().await?),
            None => Ok(()),
        }
    }

    /// When each peer last agreed on keys, by its public key.
    pub(super) async fn handshakes(&self) -> Result<BTreeMap<PublicKey, SystemTime>, SwitchError> {
        match &*self.encryption.device.lock().await {
            Some(device) => {
                let peers = device.peers().await?.into_iter();
                Ok(peers.filter_map(|peer| Some((peer.key, peer.last_handshake?))).collect())
            }
            None => Ok(BTreeMap::new()),
        }
    }
}

/// Keeps what belongs into WireGuard from going elsewhere.
async fn add_guard(netlink: &Netlink, instance: &Instance) -> Result<(), NetlinkError> {
    // On a kernel without rules, the route has to do.
    unless_unsupported(netlink.add_guard(inner_net(), instance.rule_priority()).await)?;
    netlink.add_unreachable(inner_net().into(), instance.route_metric()).await
}

/// Removes what [`add_guard`] added, of this daemon or an earlier one: the last of all.
pub(in crate::switch) async fn remove_guard(netlink: &Netlink, instance: &Instance) -> Result<(), NetlinkError> {
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
