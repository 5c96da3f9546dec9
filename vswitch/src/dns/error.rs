//! Errors of the DNS server, and the transport protocols of DNS.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Transport protocol of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One message per datagram (RFC 1035 section 4.2.1).
    Udp,
    /// Several messages per connection, each preceded by its length (RFC 7766).
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

/// Reason why the server cannot listen on an address.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Another process or network holds the port.
    #[error("cannot answer DNS queries at {address} ({transport}): another DNS server listens on it")]
    InUse {
        /// Address and port of the socket.
        address: SocketAddr,
        /// Transport protocol of the socket.
        transport: Transport,
    },
    /// No interface has the address, or the address is not ready: an IPv6 address is not ready
    /// during duplicate address detection.
    #[error("cannot answer DNS queries at {address}: no interface has this address")]
    NoAddress {
        /// Address and port of the socket.
        address: SocketAddr,
    },
    /// The port is below 1024, and the process lacks CAP_NET_BIND_SERVICE.
    #[error("cannot answer DNS queries at {address}: no permission to listen on the port")]
    Permission {
        /// Address and port of the socket.
        address: SocketAddr,
    },
    /// Any other socket error.
    #[error("cannot answer DNS queries at {address} ({transport}): {source}")]
    Socket {
        /// Address and port of the socket.
        address: SocketAddr,
        /// Transport protocol of the socket.
        transport: Transport,
        /// Error that the kernel returned.
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
