//! Errors of WireGuard devices.

use std::io;

use super::keys::PublicKey;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netns::NetnsError;
use crate::kernel::sysctl::SysctlError;

/// A WireGuard device could not be created, changed or read.
#[derive(Debug, thiserror::Error)]
pub enum WireguardError {
    /// The kernel backend was requested, but the kernel has no WireGuard.
    #[error("this kernel has no WireGuard (load the module `wireguard`, or let the daemon do the encryption)")]
    NoKernel,
    /// The name is invalid for a device.
    #[error("invalid device name {name:?} (1 to 15 letters, digits or hyphens)")]
    Name {
        /// The name.
        name: String,
    },
    /// A device with this name exists and is not a WireGuard device.
    #[error("the device {name} already exists and is not a WireGuard device (remove it with `ip link delete {name}`)")]
    Taken {
        /// The name.
        name: String,
    },
    /// The MTU is out of range.
    #[error("invalid MTU {mtu} for WireGuard (from {} to {})", super::MIN_MTU, super::MAX_MTU)]
    Mtu {
        /// MTU in bytes.
        mtu: u32,
    },
    /// The UDP port could not be bound.
    #[error(
        "cannot use UDP port {port} for WireGuard: {source} (choose another with `up --wireguard-port`, the same on every host)"
    )]
    Port {
        /// The port.
        port: u16,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The tun device could not be created.
    #[error("cannot create the tun device {name} for WireGuard in the daemon: {source}")]
    Tun {
        /// Name of the device.
        name: String,
        /// Error of the kernel.
        source: io::Error,
    },
    /// A peer has this host's own key.
    #[error("the public key {0} is this host's own (give the key of the peer)")]
    OwnKey(PublicKey),
    /// A peer's endpoint is not a unicast address with a port.
    #[error("invalid endpoint {endpoint} of a peer (a unicast address and a port)")]
    Endpoint {
        /// The endpoint.
        endpoint: std::net::SocketAddr,
    },
    /// The kernel refused a request.
    #[error("cannot {operation} the WireGuard device {name}: {source}")]
    Generic {
        /// Operation, as in "add a peer to".
        operation: &'static str,
        /// Name of the device.
        name: String,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The link, its address or its routes could not be changed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A sysctl of the device could not be written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}
