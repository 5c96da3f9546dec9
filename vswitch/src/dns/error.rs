//! Why an address cannot be served.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// What carries a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each (RFC 1035 section 4.2.1).
    Udp,
    /// Many on a connection, each behind its length (RFC 7766).
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Somebody else has the port.
    #[error("cannot answer DNS queries at {address} ({transport}): another DNS server listens on it")]
    InUse {
        /// The address and port.
        address: SocketAddr,
        /// Of which protocol.
        transport: Transport,
    },
    /// The address is on no interface, or not ready: an IPv6 address is not while the kernel looks for duplicates of it.
    #[error("cannot answer DNS queries at {address}: no interface has this address")]
    NoAddress {
        /// The address and port.
        address: SocketAddr,
    },
    /// The port is below 1024, and the process lacks CAP_NET_BIND_SERVICE.
    #[error("cannot answer DNS queries at {address}: no permission to listen on the port")]
    Permission {
        /// The address and port.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot answer DNS queries at {address} ({transport}): {source}")]
    Socket {
        /// The address and port.
        address: SocketAddr,
        /// Of which protocol.
        transport: Transport,
        /// What the kernel says.
        source: io::Error,
    },
}

impl DnsError {
    pub(super) fn new(address: SocketAddr, transport: Transport, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address, transport },
            io::ErrorKind::AddrNotAvailable => Self::NoAddress { address },
            io::ErrorKind::PermissionDenied => Self::Permission { address },
            _ => Self::Socket { address, transport, source },
        }
    }
}
