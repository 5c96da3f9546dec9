//! WireGuard in the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardPeer,
    WireguardPeerAttribute, WireguardPeerFlags,
};
use nix::errno::Errno;

use super::genetlink::Genetlink;
use super::keys::{PrivateKey, PublicKey};
use super::{KEEPALIVE, PeerStatus, WireguardError};
use crate::kernel::netlink::{Netlink, NetlinkError};
use crate::kernel::netns::Netns;

/// Kind of WireGuard links, as the kernel reports it.
const KIND: &str = "wireguard";
/// Length of an IPv6 address in bits.
const IPV6_BITS: u8 = 128;

/// A WireGuard device of the kernel. It outlives the daemon with its peers and sessions.
/// [`Kernel::close`] removes it.
pub(super) struct Kernel {
    index: u32,
    name: String,
    /// Whether [`Kernel::open`] created the device.
    created: bool,
    genetlink: Arc<Mutex<Genetlink>>,
}

impl Kernel {
    /// Creates the device, which is down, or takes over an existing one, whose peers stay. Returns
    /// `None` if the kernel has no WireGuard.
    pub(super) async fn open(
        netlink: &Netlink,
        name: &str,
        key: &PrivateKey,
        port: u16,
        mtu: u32,
        netns: Option<&Netns>,
    ) -> Result<Option<Self>, WireguardError> {
        let (index, created) = match netlink.create_wireguard(name, mtu).await {
            Ok(index) => (index, true),
            Err(NetlinkError::Kernel { errno: Errno::EOPNOTSUPP, .. }) => return Ok(None),
            Err(NetlinkError::Exists { .. }) => match netlink.link_by_name(name).await? {
                Some(link) if link.kind.as_deref() == Some(KIND) => (link.index, false),
                _ => return Err(WireguardError::Taken { name: name.to_owned() }),
            },
            Err(error) => return Err(error.into()),
        };
        match Self::configure(index, created, name, key, port, netns).await {
            Ok(kernel) => Ok(Some(kernel)),
            Err(error) => {
                if created {
                    netlink.delete_link(index).await?;
                }
                Err(error)
            }
        }
    }

    async fn configure(
        index: u32,
        created: bool,
        name: &str,
        key: &PrivateKey,
        port: u16,
        netns: Option<&Netns>,
    ) -> Result<Self, WireguardError> {
        let genetlink = Genetlink::open(netns)?.map_err(|source| request_error("find", name, source))?;
        let kernel = Self { index, name: name.to_owned(), created, genetlink: Arc::new(Mutex::new(genetlink)) };
        let key = key.clone();
        let private_key = move || WireguardAttribute::PrivateKey(key.secret().to_bytes());
        kernel.run_blocking("set the key of", move |genetlink| genetlink.set(index, private_key())).await?;
        let listen = WireguardAttribute::ListenPort(port);
        match kernel.run_blocking("set the port of", move |genetlink| genetlink.set(index, listen)).await {
            Err(WireguardError::Generic { source, .. }) => Err(WireguardError::Port { port, source }),
            set => set.map(|()| kernel),
        }
    }

    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Reports whether the device was created and not taken over.
    pub(super) const fn is_new(&self) -> bool {
        self.created
    }

    /// Adds a peer, or changes its endpoint. Its sessions continue.
    pub(super) async fn set_peer(&self, key: PublicKey, endpoint: SocketAddr) -> Result<(), WireguardError> {
        let allowed = WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv6),
            WireguardAllowedIpAttr::IpAddr(IpAddr::V6(key.inner_address())),
            WireguardAllowedIpAttr::Cidr(IPV6_BITS),
        ]);
        let peer = WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(*key.bytes()),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
            WireguardPeerAttribute::Endpoint(endpoint),
            WireguardPeerAttribute::PersistentKeepalive(KEEPALIVE),
            WireguardPeerAttribute::AllowedIps(vec![allowed]),
        ]);
        self.change("add a peer to", peer).await
    }

    /// Removes a peer. A missing peer is no error.
    pub(super) async fn remove_peer(&self, key: &PublicKey) -> Result<(), WireguardError> {
        let flags = WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly;
        let peer = vec![WireguardPeerAttribute::PublicKey(*key.bytes()), WireguardPeerAttribute::Flags(flags)];
        self.change("remove a peer from", WireguardPeer(peer)).await
    }

    async fn change(&self, operation: &'static str, peer: WireguardPeer) -> Result<(), WireguardError> {
        let index = self.index;
        let peers = WireguardAttribute::Peers(vec![peer]);
        self.run_blocking(operation, move |genetlink| genetlink.set(index, peers)).await
    }

    pub(super) async fn peers(&self) -> Result<Vec<PeerStatus>, WireguardError> {
        let index = self.index;
        let peers = self.run_blocking("list the peers of", move |genetlink| genetlink.peers(index)).await?;
        let mut statuses: Vec<PeerStatus> = peers.iter().filter_map(status).collect();
        // A peer that spans two datagrams is repeated in the second one, with nothing but its key.
        statuses.dedup_by_key(|status| status.key);
        Ok(statuses)
    }

    /// Removes the device.
    pub(super) async fn close(self, netlink: &Netlink) -> Result<(), WireguardError> {
        Ok(netlink.delete_link(self.index).await?)
    }

    /// Runs a netlink operation on a thread for blocking work.
    async fn run_blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        operate: impl FnOnce(&mut Genetlink) -> io::Result<T> + Send + 'static,
    ) -> Result<T, WireguardError> {
        let genetlink = self.genetlink.clone();
        let result =
            tokio::task::spawn_blocking(move || operate(&mut genetlink.lock().unwrap_or_else(PoisonError::into_inner)));
        let result = result.await.map_err(io::Error::other).flatten();
        result.map_err(|source| request_error(operation, &self.name, source))
    }
}

fn request_error(operation: &'static str, name: &str, source: io::Error) -> WireguardError {
    WireguardError::Generic { operation, name: name.to_owned(), source }
}

/// Reads the status of a peer; `None` if the entry has no key.
fn status(WireguardPeer(attributes): &WireguardPeer) -> Option<PeerStatus> {
    let key = attributes.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(PublicKey::from_bytes(*key)),
        _ => None,
    })?;
    let mut status = PeerStatus { key, endpoint: None, last_handshake: None, received: 0, sent: 0 };
    for attribute in attributes {
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => status.endpoint = Some(*endpoint),
            WireguardPeerAttribute::RxBytes(bytes) => status.received = *bytes,
            WireguardPeerAttribute::TxBytes(bytes) => status.sent = *bytes,
            WireguardPeerAttribute::LastHandshake(time) => {
                status.last_handshake = unix_time(time.seconds, time.nano_seconds);
            }
            _ => {}
        }
    }
    Some(status)
}

/// Converts a time since 1970; `None` for 0, which means "no handshake yet".
fn unix_time(seconds: i64, nanoseconds: i64) -> Option<SystemTime> {
    let (seconds, nanoseconds) = (u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
    let since = Duration::new(seconds, nanoseconds.min(999_999_999));
    (!since.is_zero()).then(|| UNIX_EPOCH.checked_add(since))?
}

#[cfg(test)]
mod tests {
    use netlink_packet_wireguard::WireguardTimeSpec;

    use super::*;

    #[test]
    fn the_status_of_a_peer_is_parsed() {
        let endpoint: SocketAddr = "[2001:db8::1]:51820".parse().unwrap();
        let time =
            |seconds, nano_seconds| WireguardPeerAttribute::LastHandshake(WireguardTimeSpec { seconds, nano_seconds });
        let peer = |time| {
            WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey([7; 32]),
                WireguardPeerAttribute::Endpoint(endpoint),
                WireguardPeerAttribute::RxBytes(5),
                WireguardPeerAttribute::TxBytes(6),
                time,
            ])
        };
        let read = status(&peer(time(10, 500_000_000))).unwrap();
        let last_handshake = UNIX_EPOCH.checked_add(Duration::from_millis(10_500));
        let key = PublicKey::from_bytes([7; 32]);
        assert_eq!(read, PeerStatus { key, endpoint: Some(endpoint), last_handshake, received: 5, sent: 6 });
        for (seconds, nanoseconds) in [(0, 0), (-1, 0), (1, -1)] {
            assert_eq!(status(&peer(time(seconds, nanoseconds))).unwrap().last_handshake, None);
        }
        assert_eq!(status(&WireguardPeer(vec![])), None);
    }
}
