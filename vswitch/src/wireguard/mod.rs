//! Encrypted tunnels between hosts: a WireGuard device of the kernel, or, if the kernel has no
//! WireGuard, a device that the daemon serves with boringtun. Both use the same protocol, so hosts
//! with different backends can be peers.
//!
//! Every host has an inner address that is derived from its public key
//! ([`PublicKey::inner_address`]). A peer's AllowedIPs are exactly this /128: packets that it sends
//! from another address are dropped, and packets to an address without a peer are not sent. The
//! device has one route per peer and no other.
//!
//! Two protections are the caller's (`switch::overlay`): packets to a peer's inner address must not
//! leave the host another way while the route is missing, and packets to the own inner address that
//! arrived another way must not be taken for a peer's.

mod error;
mod genetlink;
mod kernel;
mod key_file;
mod keys;
mod userspace;

use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::{IpNet, Ipv6Net};

use crate::kernel::netlink::{Link, Netlink, NetlinkError};
use crate::kernel::netns::Netns;
use crate::kernel::sysctl::{self, SysctlError};
pub use error::WireguardError;
use kernel::Kernel;
pub use key_file::{KeyFileError, load_or_create};
pub use keys::{KEY_LENGTH, KeyError, PrivateKey, PublicKey, inner_net};
pub use userspace::Drops;
use userspace::Userspace;

/// Interval of keepalives to every peer, in seconds. NAT devices and firewalls forget a UDP flow
/// after 30 s.
pub const KEEPALIVE: u16 = 25;
/// Bytes that encryption adds to a packet on the wire: IPv6 header 40, UDP header 8, header and tag
/// of a data message 16 each (the WireGuard paper, section 5.4.6). Over IPv4 it is 20 less.
pub const OVERHEAD: u32 = 80;
/// Smallest MTU: the minimum of IPv6 (RFC 8200, section 5).
pub const MIN_MTU: u32 = 1280;
/// Largest MTU: with [`OVERHEAD`], a packet has the maximum length of IPv4.
pub const MAX_MTU: u32 = 65_535 - OVERHEAD;

/// Implementation of WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel. The device outlives the daemon, and its traffic continues.
    Kernel,
    /// The daemon, with a tun device. When the daemon stops, traffic stops and the device
    /// disappears.
    Userspace,
}

/// Parameters of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec<'a> {
    /// Name: 1 to 15 letters, digits or hyphens.
    pub name: &'a str,
    /// Private key of this host.
    pub key: &'a PrivateKey,
    /// UDP port, on all addresses of the host, IPv4 and IPv6. Not 0.
    pub port: u16,
    /// MTU in bytes, [`MIN_MTU`] to [`MAX_MTU`]: the MTU of the path to the peers minus
    /// [`OVERHEAD`].
    pub mtu: u32,
    /// Namespace of the device and its sockets; `None` for that of the calling thread.
    pub netns: Option<&'a Netns>,
    /// Requested backend; `None` for the kernel if it has WireGuard, or else the daemon.
    pub backend: Option<Backend>,
}

/// State of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Public key.
    pub key: PublicKey,
    /// Destination of packets to the peer. In the daemon it stays as configured; the kernel's
    /// follows a peer that moves.
    pub endpoint: Option<SocketAddr>,
    /// Time of the latest handshake; `None` if there was none.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of WireGuard messages from the peer.
    pub received: u64,
    /// Bytes of WireGuard messages to the peer.
    pub sent: u64,
}

/// An open WireGuard device with its address and routes. If it is dropped without
/// [`Device::close`], a kernel device stays, as when the daemon dies, and a userspace device
/// disappears a little later. Holds a reference to its namespace.
pub struct Device {
    netlink: Netlink,
    index: u32,
    own: PublicKey,
    implementation: Implementation,
}

enum Implementation {
    Kernel(Kernel),
    Userspace(Userspace),
}

impl Device {
    /// Creates a device, sets it up and assigns this host's inner address. Takes over an existing
    /// WireGuard device of the kernel with this name. Its peers stay, so the caller must compare
    /// [`Device::peers`] with the peers that it wants. Support by the kernel is detected by trying.
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`WireguardError`]. Nothing that was created for the device remains.
    pub async fn open(spec: &DeviceSpec<'_>) -> Result<Self, WireguardError> {
        let DeviceSpec { name, key, port, mtu, netns, backend } = *spec;
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=15).contains(&name.len()) || !name.bytes().all(is_valid) {
            return Err(WireguardError::Name { name: name.to_owned() });
        }
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            return Err(WireguardError::Mtu { mtu });
        }
        if port == 0 {
            let source = std::io::ErrorKind::InvalidInput.into();
            return Err(WireguardError::Port { port, source });
        }
        let netlink = match netns {
            Some(netns) => Netlink::open_in(netns)?,
            None => Netlink::open()?,
        };
        let kernel = match backend {
            Some(Backend::Userspace) => None,
            Some(Backend::Kernel) | None => Kernel::open(&netlink, name, key, port, mtu, netns).await?,
        };
        let implementation = match kernel {
            Some(kernel) => Implementation::Kernel(kernel),
            None if backend == Some(Backend::Kernel) => return Err(WireguardError::NoKernel),
            None => Implementation::Userspace(Userspace::open(name, key, port, netns)?),
        };
        let mut device = Self { netlink, index: 0, own: key.public(), implementation };
        match device.configure(name, mtu, netns).await {
            Ok(()) => Ok(device),
            Err(error) => {
                // A device that was taken over stays.
                if !matches!(&device.implementation, Implementation::Kernel(kernel) if !kernel.is_new()) {
                    device.close().await?;
                }
                // A kernel device binds its port when it is set up.
                Err(match error {
                    WireguardError::Netlink(NetlinkError::Kernel { errno: nix::errno::Errno::EADDRINUSE, .. }) => {
                        WireguardError::Port { port, source: nix::errno::Errno::EADDRINUSE.into() }
                    }
                    error => error,
                })
            }
        }
    }

    async fn configure(&mut self, name: &str, mtu: u32, netns: Option<&Netns>) -> Result<(), WireguardError> {
        self.index = match &self.implementation {
            Implementation::Kernel(kernel) => kernel.index(),
            Implementation::Userspace(_) => {
                let not_found = || WireguardError::Taken { name: name.to_owned() };
                self.netlink.link_by_name(name).await?.ok_or_else(not_found)?.index
            }
        };
        let enable = || enable_ipv6(name);
        match netns {
            Some(netns) => netns.enter(enable)??,
            None => enable()?,
        }
        self.netlink.set_mtu(self.index, mtu).await?;
        self.assign_address_and_set_up().await
    }

    async fn assign_address_and_set_up(&self) -> Result<(), WireguardError> {
        Ok(self.netlink.configure(self.index, &[inner_host_net(&self.own)], &[]).await?)
    }

    /// Reports whether the device, now in the state `link`, is up and has this host's inner
    /// address.
    ///
    /// # Errors
    /// The error of the kernel.
    pub async fn is_ready(&self, link: &Link) -> Result<bool, WireguardError> {
        let addresses = self.netlink.addresses(Some(self.index)).await?;
        Ok(link.up && addresses.iter().any(|(_, address)| *address == inner_host_net(&self.own)))
    }

    /// Sets the device up again after it was set down or its IPv6 was disabled. `name` is its
    /// present name in the namespace of the calling thread. Does not restore routes to peers: see
    /// [`Device::add_route`].
    ///
    /// # Errors
    /// The error of the kernel.
    pub async fn set_up(&self, name: &str) -> Result<(), WireguardError> {
        enable_ipv6(name)?;
        self.assign_address_and_set_up().await
    }

    /// Returns the backend in use.
    pub const fn backend(&self) -> Backend {
        match self.implementation {
            Implementation::Kernel(_) => Backend::Kernel,
            Implementation::Userspace(_) => Backend::Userspace,
        }
    }

    /// Returns the interface index in the device's namespace.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Adds a peer and the route to its inner address, or changes the endpoint of an existing peer,
    /// whose sessions continue. Idempotent. The first handshake starts at once, and keepalives are
    /// sent every [`KEEPALIVE`] seconds. In the kernel, the endpoint follows a peer whose packets
    /// come from another address, until it is set again.
    ///
    /// # Errors
    /// [`WireguardError::OwnKey`], [`WireguardError::Endpoint`], or the error of the kernel.
    pub async fn set_peer(&self, key: PublicKey, endpoint: SocketAddr) -> Result<(), WireguardError> {
        if key == self.own {
            return Err(WireguardError::OwnKey(key));
        }
        // An IPv4-mapped IPv6 address would select the wrong socket.
        let address = endpoint.ip().to_canonical();
        let endpoint = if address.is_ipv4() { SocketAddr::new(address, endpoint.port()) } else { endpoint };
        if endpoint.port() == 0 || address.is_unspecified() || address.is_multicast() {
            return Err(WireguardError::Endpoint { endpoint });
        }
        match &self.implementation {
            Implementation::Kernel(kernel) => kernel.set_peer(key, endpoint).await?,
            Implementation::Userspace(userspace) => userspace.set_peer(key, endpoint),
        }
        self.add_route(&key).await
    }

    /// Adds the route to a peer's inner address. An existing route is no error.
    ///
    /// # Errors
    /// The error of the kernel.
    pub async fn add_route(&self, key: &PublicKey) -> Result<(), WireguardError> {
        Ok(self.netlink.add_device_route(self.index, inner_host_net(key)).await?)
    }

    /// Removes a peer and the route to it. Its packets are dropped from then on. A missing peer is
    /// no error.
    ///
    /// # Errors
    /// The error of the kernel.
    pub async fn remove_peer(&self, key: &PublicKey) -> Result<(), WireguardError> {
        match &self.implementation {
            Implementation::Kernel(kernel) => kernel.remove_peer(key).await?,
            Implementation::Userspace(userspace) => userspace.remove_peer(key),
        }
        Ok(self.netlink.remove_device_route(self.index, inner_host_net(key)).await?)
    }

    /// Lists all peers, in no particular order.
    ///
    /// # Errors
    /// The error of the kernel.
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, WireguardError> {
        match &self.implementation {
            Implementation::Kernel(kernel) => kernel.peers().await,
            Implementation::Userspace(userspace) => Ok(userspace.peers()),
        }
    }

    /// Returns the drop counters of the userspace backend. The kernel has none.
    pub fn drops(&self) -> Option<Drops> {
        match &self.implementation {
            Implementation::Kernel(_) => None,
            Implementation::Userspace(userspace) => Some(userspace.drops()),
        }
    }

    /// Removes the device with its address, routes and sessions. They are gone when this returns.
    ///
    /// # Errors
    /// The error of the kernel.
    pub async fn close(self) -> Result<(), WireguardError> {
        match self.implementation {
            Implementation::Kernel(kernel) => kernel.close(&self.netlink).await,
            Implementation::Userspace(userspace) => {
                userspace.close().await;
                Ok(())
            }
        }
    }
}

/// Enables IPv6 on a device in the namespace of the calling thread, without any automatic address.
fn enable_ipv6(name: &str) -> Result<(), SysctlError> {
    const NO_ADDRESS: &str = "1";
    // Containers often have IPv6 disabled for new devices.
    sysctl::write(&["net", "ipv6", "conf", name, "disable_ipv6"], "0")?;
    sysctl::write(&["net", "ipv6", "conf", name, "accept_ra"], "0")?;
    sysctl::write(&["net", "ipv6", "conf", name, "addr_gen_mode"], NO_ADDRESS)?;
    Ok(())
}

/// Returns the inner address of a host as a /128.
fn inner_host_net(key: &PublicKey) -> IpNet {
    Ipv6Net::from(key.inner_address()).into()
}
