//! What a WireGuard device refuses.

use std::io;

use super::keys::PublicKey;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netns::NetnsError;
use crate::kernel::sysctl::SysctlError;

/// A WireGuard device could not be made, changed or asked.
#[derive(Debug, thiserror::Error)]
pub enum WireguardError {
    /// The kernel's was asked for, and it has none.
    #[error("this kernel has no WireGuard: load its module `wireguard`, or let the daemon do its work")]
    NoKernel,
    /// The name is no device's.
    #[error("{name:?} is no name for a device: it has to have 1 to 15 letters, digits or hyphens")]
    Name {
        /// The name.
        name: String,
    },
    /// There is a device of that name that is something else.
    #[error("the device {name} is there already and is not of WireGuard: remove it (`ip link delete {name}`)")]
    Taken {
        /// Its name.
        name: String,
    },
    /// The MTU is out of bounds.
    #[error(
        "an MTU of {mtu} is not possible for WireGuard: it has to be from {} to {}",
        super::MTU_LEAST,
        super::MTU_MOST
    )]
    Mtu {
        /// In bytes.
        mtu: u32,
    },
    /// The UDP port could not be had.
    #[error(
        "cannot use UDP port {port} for WireGuard: {source} (choose another with `up --wireguard-port`, the same on every host)"
    )]
    Port {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// No tun device.
    #[error(
        "cannot make the tun device {name}, by which the daemon does what WireGuard in the kernel would do: {source}"
    )]
    Tun {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A peer with our own key.
    #[error("the public key {0} is this host's own: a peer has its own")]
    OwnKey(PublicKey),
    /// A peer that cannot be reached at its endpoint.
    #[error("{endpoint} is no endpoint of a peer: it has to be the address of one host, and a port")]
    Endpoint {
        /// The endpoint.
        endpoint: std::net::SocketAddr,
    },
    /// The kernel refused a change or a question.
    #[error("cannot {operation} the WireGuard device {name}: {source}")]
    Generic {
        /// What was to be done.
        operation: &'static str,
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The device itself, its address or its routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A setting of the device.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}
