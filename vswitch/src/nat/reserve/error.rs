//! Errors of reserving host ports.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::{EphemeralError, Holder};
use crate::kernel::sysctl::SysctlError;
use crate::model::{PortRange, Protocol};

/// An error of the hook at bind(2).
pub type HookError = Box<dyn std::error::Error + Send + Sync>;

/// A port could not be reserved.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The port is in use.
    #[error(
        "Bind for {address} failed: port is already allocated ({holder}; publish another, or let the switch choose)"
    )]
    Allocated {
        /// The address and the port.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// The holder of the port.
        holder: Holder,
    },
    /// All ports of a range are in use.
    #[error("all ports are allocated: none of {range} is free for {protocol} (publish another range)")]
    AllAllocated {
        /// The range.
        range: PortRange,
        /// The protocol.
        protocol: Protocol,
    },
    /// The host does not have the address.
    #[error("host address {0} is none of this host's (`ip address` shows those it has)")]
    NoSuchAddress(IpAddr),
    /// The range of automatic ports cannot be read.
    #[error("{0} (is /proc mounted?)")]
    Sysctl(#[from] SysctlError),
    /// The setting holds no range.
    #[error("net.ipv4.ip_local_port_range is `{0}`, which is no range of ports (set it to two, as in `32768 60999`)")]
    LocalPortRange(String),
    /// The held ports could not be excluded from those that the kernel chooses.
    #[error(transparent)]
    Ephemeral(#[from] EphemeralError),
    /// Each port needs a socket, and too many are open.
    #[error(
        "Bind for {address} failed: {open} ports are held by a socket each, and the daemon may have {limit} files open \
         (mount cgroup v2, or raise the limit: `ulimit -n`, LimitNOFILE)"
    )]
    TooMany {
        /// The address and the port.
        address: SocketAddr,
        /// The number of sockets that hold ports.
        open: u64,
        /// The limit of open files.
        limit: u64,
    },
    /// The tables of held ports could not be written.
    #[error("Bind for {address} failed: {source} (publish fewer ports at single addresses)")]
    Hook {
        /// The address and the port.
        address: SocketAddr,
        /// The error of the kernel.
        source: HookError,
    },
    /// The kernel refused the socket for another reason.
    #[error("Bind for {address} failed: {source} (too many open files? see `ulimit -n`)")]
    Bind {
        /// The address and the port.
        address: SocketAddr,
        /// The error of the kernel.
        source: io::Error,
    },
}

impl ReserveError {
    /// Returns the error code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Allocated { .. } | Self::AllAllocated { .. } => "port_allocated",
            Self::NoSuchAddress(_) => "address_not_available",
            Self::Sysctl(_) | Self::LocalPortRange(_) | Self::Ephemeral(_) => "sysctl",
            Self::TooMany { .. } | Self::Hook { .. } | Self::Bind { .. } => "bind",
        }
    }
}
