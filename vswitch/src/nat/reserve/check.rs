//! Finds out whether a port is free, by binding it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use super::table::DNS;
use super::{Holder, ReserveError, holder, socket};
use crate::model::{Protocol, Published};

/// The reason why a port could not be held. The holder is looked up only when the error is
/// reported, because the search reads all of /proc.
pub(super) enum Refusal {
    Allocated { address: SocketAddr, protocol: Protocol, holder: Option<Holder> },
    Other(ReserveError),
}

impl Refusal {
    pub(super) fn allocated(wanted: &Published, holder: Holder) -> Self {
        Self::Allocated { address: shown(wanted), protocol: wanted.protocol, holder: Some(holder) }
    }

    pub(super) fn into_error(self) -> ReserveError {
        match self {
            Self::Allocated { address, protocol, holder } => {
                let holder = holder.unwrap_or_else(|| holder::find(protocol, address));
                ReserveError::Allocated { address, protocol, holder }
            }
            Self::Other(error) => error,
        }
    }
}

/// Returns the address of a port as messages show it.
pub(super) fn shown(wanted: &Published) -> SocketAddr {
    SocketAddr::new(wanted.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), wanted.host_port)
}

/// Binds the sockets that keep other processes off a port. `names` are the addresses of our own name
/// servers: they do not take a port from an endpoint that publishes it at all addresses. With
/// `absent`, the host need not have the address.
pub(super) fn bind(wanted: &Published, names: &BTreeSet<IpAddr>, absent: bool) -> Result<Vec<OwnedFd>, Refusal> {
    let Published { protocol, host_ip, host_port, .. } = *wanted;
    let addresses = match host_ip {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let mut sockets = Vec::new();
    for address in addresses {
        let at = SocketAddr::new(address, host_port);
        let beside_names = || host_port == DNS && address.is_unspecified() && holder::is_only_at(protocol, at, names);
        match socket::bind(protocol, at, absent) {
            Ok(socket) => sockets.push(socket),
            Err(error) => match error.raw_os_error() {
                // If the kernel does not support the protocol, no other process can have the port
                // either.
                Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT) => {}
                // On a host without IPv6, all addresses are IPv4 addresses.
                Some(libc::EADDRNOTAVAIL) if host_ip.is_none() => {}
                Some(libc::EADDRNOTAVAIL) => {
                    return Err(Refusal::Other(ReserveError::NoSuchAddress(address)));
                }
                Some(libc::EADDRINUSE) if beside_names() => {}
                Some(libc::EADDRINUSE) => {
                    return Err(Refusal::Allocated { address: at, protocol, holder: None });
                }
                _ => return Err(Refusal::Other(ReserveError::Bind { address: at, source: error })),
            },
        }
    }
    Ok(sockets)
}

/// Reports whether the host has an address. Another error than a missing address counts as yes.
pub(super) fn has_address(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Err(error) => error.raw_os_error() != Some(libc::EADDRNOTAVAIL),
        Ok(_) => true,
    }
}
