//! The encrypted way between hosts: a WireGuard device, the kernel's where it has WireGuard, else one that the daemon
//! serves with boringtun. Both speak the same protocol, so that hosts of either kind are each other's peers.
//!
//! Every host has an address inside the tunnel that is made from its public key ([`PublicKey::inner_address`]). A peer's
//! AllowedIPs are exactly this /128: what it sends from another address is dropped, and what goes to an address that is
//! no peer's goes nowhere. A route for each peer leads to the device, and nothing else does.
//!
//! What this does not see to is seen to where it is used (`switch::overlay`): that packets for a peer's address do not leave
//! this host by another way while there is no route for them, and that packets for our own address that came another way
//! are not taken for a peer's.

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

/// Seconds between keepalives to every peer: NAT and firewalls on the way forget a flow of UDP after 30 s.
pub const KEEPALIVE: u16 = 25;
/// Bytes that a packet of an encrypted network has on the wire beyond its own: 40 of IPv6, 8 of UDP, 16 each of header and
/// tag of a data message (the WireGuard paper, 5.4.6). Over IPv4 it is 20 fewer.
pub const OVERHEAD: u32 = 80;
/// The least MTU: what IPv6 needs (RFC 8200, 5).
pub const MTU_LEAST: u32 = 1280;
/// The largest MTU: with [`OVERHEAD`], the longest packet of IPv4.
pub const MTU_MOST: u32 = 65_535 - OVERHEAD;

/// Who does WireGuard's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel. The device outlives the daemon, and traffic goes on without it.
    Kernel,
    /// The daemon, on a tun device. When it stops, traffic stops and the device goes.
    Userspace,
}

/// A device to be opened.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpec<'a> {
    /// Its name, 1 to 15 letters, digits or hyphens.
    pub name: &'a str,
    /// This host's key.
    pub key: &'a PrivateKey,
    /// The UDP port for both families, on all addresses of the host; not 0.
    pub port: u16,
    /// Its MTU in bytes, [`MTU_LEAST`] to [`MTU_MOST`]: that of the way to the peers less [`OVERHEAD`].
    pub mtu: u32,
    /// The namespace that it and its sockets are in; that of the calling thread if none.
    pub netns: Option<&'a Netns>,
    /// Who is to do the work; the kernel if it can, if none is asked for.
    pub backend: Option<Backend>,
}

/// What is known of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which one.
    pub key: PublicKey,
    /// Where its packets go. The daemon's stays as it was set; the kernel's follows a peer that moves.
    pub endpoint: Option<SocketAddr>,
    /// When keys were last agreed on; none if never.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of WireGuard's messages from it.
    pub received: u64,
    /// Bytes of WireGuard's messages to it.
    pub sent: u64,
}

/// An open WireGuard device with its address and routes. One that is dropped and not closed stays if it is the kernel's,
/// as it does when the daemon dies, and goes a little later if it is the daemon's. It keeps its namespace alive.
pub struct Device {
    netlink: Netlink,
    index: u32,
    own: PublicKey,
    work: Work,
}

enum Work {
    Kernel(Kernel),
    Userspace(Userspace),
}

impl Device {
    /// Makes a device that is up, with this host's inner address. A WireGuard device of the kernel's that is there under
    /// this name is taken over: its peers stay, and whoever opens it compares [`Device::peers`] with those it wants.
    /// Whether the kernel has WireGuard is found by trying. Has to be called on a runtime.
    ///
    /// # Errors
    /// [`WireguardError`]; then nothing that was not there before is left.
    pub async fn open(spec: &DeviceSpec<'_>) -> Result<Self, WireguardError> {
        let DeviceSpec { name, key, port, mtu, netns, backend } = *spec;
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=15).contains(&name.len()) || !name.bytes().all(letters) {
            return Err(WireguardError::Name { name: name.to_owned() });
        }
        if !(MTU_LEAST..=MTU_MOST).contains(&mtu) {
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
        let work = match kernel {
            Some(kernel) => Work::Kernel(kernel),
            None if backend == Some(Backend::Kernel) => return Err(WireguardError::NoKernel),
            None => Work::Userspace(Userspace::open(name, key, port, netns)?),
        };
        let mut device = Self { netlink, index: 0, own: key.public(), work };
        match device.configure(name, mtu, netns).await {
            Ok(()) => Ok(device),
            Err(error) => {
                // One that was found goes on as it did.
                if !matches!(&device.work, Work::Kernel(kernel) if !kernel.is_new()) {
                    device.close().await?;
                }
                // The kernel's takes its port when it is switched on.
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
        self.index = match &self.work {
            Work::Kernel(kernel) => kernel.index(),
            Work::Userspace(_) => {
                let gone = || WireguardError::Taken { name: name.to_owned() };
                self.netlink.link_by_name(name).await?.ok_or_else(gone)?.index
            }
        };
        let settings = || settings(name);
        match netns {
            Some(netns) => netns.enter(settings)??,
            None => settings()?,
        }
        self.netlink.set_mtu(self.index, mtu).await?;
        self.switch_on().await
    }

    async fn switch_on(&self) -> Result<(), WireguardError> {
        Ok(self.netlink.configure(self.index, &[whole(&self.own)], &[]).await?)
    }

    /// Whether the device, of which this is known now, is up and has this host's inner address.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn is_ready(&self, link: &Link) -> Result<bool, WireguardError> {
        let addresses = self.netlink.addresses(Some(self.index)).await?;
        Ok(link.up && addresses.iter().any(|(_, address)| *address == whole(&self.own)))
    }

    /// Sets the device up again after somebody switched it or its IPv6 off; it has this name now, in the namespace of the
    /// calling thread. The routes to peers are as they were left: [`Device::route_to`].
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn set_up(&self, name: &str) -> Result<(), WireguardError> {
        settings(name)?;
        self.switch_on().await
    }

    /// Who does the work.
    pub const fn backend(&self) -> Backend {
        match self.work {
            Work::Kernel(_) => Backend::Kernel,
            Work::Userspace(_) => Backend::Userspace,
        }
    }

    /// The device's number in its namespace.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Adds a peer, with the route to its inner address; or moves one to another endpoint, whose sessions go on. The same
    /// again changes nothing. A handshake begins at once, and keepalives go to it every [`KEEPALIVE`] seconds. In the
    /// kernel the endpoint follows a peer whose packets come from elsewhere, until it is set again.
    ///
    /// # Errors
    /// [`WireguardError::OwnKey`], [`WireguardError::Endpoint`], or what the kernel refuses.
    pub async fn set_peer(&self, key: PublicKey, endpoint: SocketAddr) -> Result<(), WireguardError> {
        if key == self.own {
            return Err(WireguardError::OwnKey(key));
        }
        // One of IPv4 that is written as one of IPv6 would go to the wrong socket.
        let address = endpoint.ip().to_canonical();
        let endpoint = if address.is_ipv4() { SocketAddr::new(address, endpoint.port()) } else { endpoint };
        if endpoint.port() == 0 || address.is_unspecified() || address.is_multicast() {
            return Err(WireguardError::Endpoint { endpoint });
        }
        match &self.work {
            Work::Kernel(kernel) => kernel.set_peer(key, endpoint).await?,
            Work::Userspace(userspace) => userspace.set_peer(key, endpoint),
        }
        self.route_to(&key).await
    }

    /// Adds the route to a peer's inner address; fine if it is there.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn route_to(&self, key: &PublicKey) -> Result<(), WireguardError> {
        Ok(self.netlink.add_device_route(self.index, whole(key)).await?)
    }

    /// Removes a peer and the route to it: its packets are refused from now on. Fine if it is none.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn remove_peer(&self, key: &PublicKey) -> Result<(), WireguardError> {
        match &self.work {
            Work::Kernel(kernel) => kernel.remove_peer(key).await?,
            Work::Userspace(userspace) => userspace.remove_peer(key),
        }
        Ok(self.netlink.remove_device_route(self.index, whole(key)).await?)
    }

    /// All peers, in no order.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, WireguardError> {
        match &self.work {
            Work::Kernel(kernel) => kernel.peers().await,
            Work::Userspace(userspace) => Ok(userspace.peers()),
        }
    }

    /// What the daemon has dropped, by reason. The kernel keeps no such account.
    pub fn drops(&self) -> Option<Drops> {
        match &self.work {
            Work::Kernel(_) => None,
            Work::Userspace(userspace) => Some(userspace.drops()),
        }
    }

    /// Removes the device, and with it its address, its routes and all sessions. When this returns they are gone.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub async fn close(self) -> Result<(), WireguardError> {
        match self.work {
            Work::Kernel(kernel) => kernel.close(&self.netlink).await,
            Work::Userspace(userspace) => {
                userspace.close().await;
                Ok(())
            }
        }
    }
}

/// Has a device in the namespace of the calling thread speak IPv6, with no addresses but those that it is given.
fn settings(name: &str) -> Result<(), SysctlError> {
    const NO_ADDRESS: &str = "1";
    // Containers have IPv6 switched off for new devices.
    sysctl::write(&["net", "ipv6", "conf", name, "disable_ipv6"], "0")?;
    sysctl::write(&["net", "ipv6", "conf", name, "accept_ra"], "0")?;
    sysctl::write(&["net", "ipv6", "conf", name, "addr_gen_mode"], NO_ADDRESS)?;
    Ok(())
}

/// The inner address of a host alone, as a subnet.
fn whole(key: &PublicKey) -> IpNet {
    Ipv6Net::from(key.inner_address()).into()
}
