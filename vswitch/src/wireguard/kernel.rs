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

/// The kernel's own word for its WireGuard devices.
const KIND: &str = "wireguard";
/// Bits of an address of IPv6.
const WHOLE: u8 = 128;

/// A device of the kernel's. It outlives the daemon, its peers and sessions too; [`Kernel::close`] removes it.
pub(super) struct Kernel {
    index: u32,
    name: String,
    /// It was not there before.
    made: bool,
    genetlink: Arc<Mutex<Genetlink>>,
}

impl Kernel {
    /// Makes the device, down; or takes one over that is there, whose peers stay. `None` if the kernel has no WireGuard.
    pub(super) async fn open(
        netlink: &Netlink,
        name: &str,
        key: &PrivateKey,
        port: u16,
        mtu: u32,
        netns: Option<&Netns>,
    ) -> Result<Option<Self>, WireguardError> {
        let (index, made) = match netlink.create_wireguard(name, mtu).await {
            Ok(index) => (index, true),
            Err(NetlinkError::Kernel { errno: Errno::EOPNOTSUPP, .. }) => return Ok(None),
            Err(NetlinkError::Exists { .. }) => match netlink.link_by_name(name).await? {
                Some(link) if link.kind.as_deref() == Some(KIND) => (link.index, false),
                _ => return Err(WireguardError::Taken { name: name.to_owned() }),
            },
            Err(error) => return Err(error.into()),
        };
        match Self::with(index, made, name, key, port, netns).await {
            Ok(kernel) => Ok(Some(kernel)),
            Err(error) => {
                if made {
                    netlink.delete_link(index).await?;
                }
                Err(error)
            }
        }
    }

    async fn with(
        index: u32,
        made: bool,
        name: &str,
        key: &PrivateKey,
        port: u16,
        netns: Option<&Netns>,
    ) -> Result<Self, WireguardError> {
        let genetlink = Genetlink::open(netns)?.map_err(|source| generic("find", name, source))?;
        let kernel = Self { index, name: name.to_owned(), made, genetlink: Arc::new(Mutex::new(genetlink)) };
        let key = key.clone();
        let secret = move || WireguardAttribute::PrivateKey(key.secret().to_bytes());
        kernel.work("set the key of", move |genetlink| genetlink.set(index, secret())).await?;
        let listen = WireguardAttribute::ListenPort(port);
        match kernel.work("set the port of", move |genetlink| genetlink.set(index, listen)).await {
            Err(WireguardError::Generic { source, .. }) => Err(WireguardError::Port { port, source }),
            set => set.map(|()| kernel),
        }
    }

    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Whether opening it made it, and did not find it.
    pub(super) const fn is_new(&self) -> bool {
        self.made
    }

    /// Adds a peer, or moves one; its sessions go on.
    pub(super) async fn set_peer(&self, key: PublicKey, endpoint: SocketAddr) -> Result<(), WireguardError> {
        let allowed = WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv6),
            WireguardAllowedIpAttr::IpAddr(IpAddr::V6(key.inner_address())),
            WireguardAllowedIpAttr::Cidr(WHOLE),
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

    /// Removes a peer; fine if it is none.
    pub(super) async fn remove_peer(&self, key: &PublicKey) -> Result<(), WireguardError> {
        let flags = WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly;
        let peer = vec![WireguardPeerAttribute::PublicKey(*key.bytes()), WireguardPeerAttribute::Flags(flags)];
        self.change("remove a peer from", WireguardPeer(peer)).await
    }

    async fn change(&self, operation: &'static str, peer: WireguardPeer) -> Result<(), WireguardError> {
        let index = self.index;
        let peers = WireguardAttribute::Peers(vec![peer]);
        self.work(operation, move |genetlink| genetlink.set(index, peers)).await
    }

    pub(super) async fn peers(&self) -> Result<Vec<PeerStatus>, WireguardError> {
        let index = self.index;
        let peers = self.work("list the peers of", move |genetlink| genetlink.peers(index)).await?;
        let mut statuses: Vec<PeerStatus> = peers.iter().filter_map(status).collect();
        // One that is in two datagrams has nothing but its key in the second.
        statuses.dedup_by_key(|status| status.key);
        Ok(statuses)
    }

    /// Removes the device.
    pub(super) async fn close(self, netlink: &Netlink) -> Result<(), WireguardError> {
        Ok(netlink.delete_link(self.index).await?)
    }

    /// Has the kernel do something, on a thread that may wait for it.
    async fn work<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Genetlink) -> io::Result<T> + Send + 'static,
    ) -> Result<T, WireguardError> {
        let genetlink = self.genetlink.clone();
        let done =
            tokio::task::spawn_blocking(move || work(&mut genetlink.lock().unwrap_or_else(PoisonError::into_inner)));
        let done = done.await.map_err(io::Error::other).flatten();
        done.map_err(|source| generic(operation, &self.name, source))
    }
}

fn generic(operation: &'static str, name: &str, source: io::Error) -> WireguardError {
    WireguardError::Generic { operation, name: name.to_owned(), source }
}

/// What the kernel says of a peer; `None` if that has no key.
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
                status.last_handshake = since_1970(time.seconds, time.nano_seconds);
            }
            _ => {}
        }
    }
    Some(status)
}

/// `None` for 0: there has been no handshake.
fn since_1970(seconds: i64, nanoseconds: i64) -> Option<SystemTime> {
    let (seconds, nanoseconds) = (u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
    let since = Duration::new(seconds, nanoseconds.min(999_999_999));
    (!since.is_zero()).then(|| UNIX_EPOCH.checked_add(since))?
}

#[cfg(test)]
mod tests {
    use netlink_packet_wireguard::WireguardTimeSpec;

    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_peer_is_read() {
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
