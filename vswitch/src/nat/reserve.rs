//! Reserves the published ports of the host: chooses each port, and keeps other processes from
//! taking it.
//!
//! A reserved port is held by a socket that is bound and never used. Packets to the port are
//! forwarded to a container before the kernel looks up a socket.

mod holder;
mod socket;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::kernel::sysctl::{self, SysctlError};
use crate::model::{HostPort, PortRange, Protocol, PublishSpec, Published};

pub use holder::Holder;

/// The ports that an instance holds. They become free when this value is dropped or the process
/// dies.
#[derive(Debug, Default)]
pub struct Reservations {
    held: Mutex<BTreeMap<Published, Vec<OwnedFd>>>,
}

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
            Self::Sysctl(_) | Self::LocalPortRange(_) => "sysctl",
            Self::Bind { .. } => "bind",
        }
    }
}

impl Reservations {
    /// Creates an instance's set of reserved ports, which is empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses a host port for each port of the spec and holds it, in the network namespace of the
    /// calling thread. Reserves all ports or none. `taken` lists the ports of all endpoints with
    /// the names of the endpoints.
    ///
    /// # Errors
    /// Returns [`ReserveError`], with the holder of the port.
    pub fn reserve(&self, spec: &PublishSpec, taken: &[(Published, String)]) -> Result<Vec<Published>, ReserveError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reserved: Vec<(Published, Vec<OwnedFd>)> = Vec::new();
        for (container_port, from) in spec.ports() {
            let published =
                |host_port| Published { protocol: spec.protocol(), host_ip: spec.host_ip(), host_port, container_port };
            // The ports of this call need no name: the ports of one spec either differ or are
            // chosen here.
            let is_ours = |wanted: &Published| {
                held.keys().chain(reserved.iter().map(|(known, _)| known)).any(|known| known.collides(wanted))
            };
            let hold = |host_port| {
                let wanted = published(host_port);
                hold(&wanted, taken, is_ours(&wanted)).map(|sockets| (wanted, sockets))
            };
            let chosen = match from {
                HostPort::Exactly(port) => patiently(|| hold(port))?,
                HostPort::OneOf(range) => first_free(range, spec.protocol(), range.ports(), hold)?,
                HostPort::Automatic => {
                    let range = local_port_range()?;
                    // The search starts at a random port, so that late packets for the last user of
                    // a port seldom reach the next one.
                    let start = random_below(range.count());
                    let (before, from_there) = (range.ports().take(start as usize), range.ports().skip(start as usize));
                    first_free(range, spec.protocol(), from_there.chain(before), hold)?
                }
            };
            reserved.push(chosen);
        }
        let published = reserved.iter().map(|(published, _)| *published).collect();
        held.extend(reserved);
        Ok(published)
    }

    /// Holds ports that an earlier daemon chose. Holds as many of them as possible.
    ///
    /// # Errors
    /// Returns the first [`ReserveError`]. The other ports are held nevertheless, and all the
    /// containers are reachable in any case.
    pub fn hold(&self, published: &[Published]) -> Result<(), ReserveError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first_error = Ok(());
        for wanted in published {
            if held.contains_key(wanted) {
                continue;
            }
            match hold(wanted, &[], false) {
                Ok(sockets) => drop(held.insert(*wanted, sockets)),
                Err(refusal) => first_error = first_error.and(Err(refusal.into_error())),
            }
        }
        first_error
    }

    /// Releases ports. Ports that are not held are ignored.
    pub fn release(&self, published: &[Published]) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in published {
            held.remove(gone);
        }
    }
}

/// The number of attempts for a port that no process should hold any more, and the pause between
/// them.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Holds a port that may have been released just now. Retries, because a program that another
/// thread is starting has all our sockets for a moment.
fn patiently<T>(mut hold: impl FnMut() -> Result<T, Refusal>) -> Result<T, ReserveError> {
    for _ in 1..ATTEMPTS {
        match hold().map_err(Refusal::into_error) {
            Err(ReserveError::Allocated { holder, .. }) if holder.is_passing() => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    hold().map_err(Refusal::into_error)
}

/// Holds the first free port of `ports`.
fn first_free<T>(
    range: PortRange,
    protocol: Protocol,
    mut ports: impl Iterator<Item = u16>,
    mut hold: impl FnMut(u16) -> Result<T, Refusal>,
) -> Result<T, ReserveError> {
    let free = ports.find_map(|port| match hold(port) {
        Err(Refusal::Allocated { .. }) => None,
        Err(Refusal::Other(error)) => Some(Err(error)),
        Ok(held) => Some(Ok(held)),
    });
    free.unwrap_or(Err(ReserveError::AllAllocated { range, protocol }))
}

/// The reason why a port could not be held. The holder is looked up only when the error is
/// reported, because the search reads all of /proc.
enum Refusal {
    Allocated { address: SocketAddr, protocol: Protocol, holder: Option<Holder> },
    Other(ReserveError),
}

impl Refusal {
    fn into_error(self) -> ReserveError {
        match self {
            Self::Allocated { address, protocol, holder } => {
                let holder = holder.unwrap_or_else(|| holder::find(protocol, address));
                ReserveError::Allocated { address, protocol, holder }
            }
            Self::Other(error) => error,
        }
    }
}

/// Binds the sockets that keep other processes off a port.
fn hold(wanted: &Published, taken: &[(Published, String)], held: bool) -> Result<Vec<OwnedFd>, Refusal> {
    let Published { protocol, host_ip, host_port, .. } = *wanted;
    let shown = SocketAddr::new(host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), host_port);
    if let Some((_, name)) = taken.iter().find(|(known, _)| known.collides(wanted)) {
        let holder = Some(Holder::Endpoint(name.clone()));
        return Err(Refusal::Allocated { address: shown, protocol, holder });
    }
    if held {
        return Err(Refusal::Allocated { address: shown, protocol, holder: Some(Holder::Ourselves) });
    }
    let addresses = match host_ip {
        Some(address) => vec![address],
        None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
    };
    let mut sockets = Vec::new();
    for address in addresses {
        let at = SocketAddr::new(address, host_port);
        match socket::bind(protocol, at) {
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
                Some(libc::EADDRINUSE) => {
                    return Err(Refusal::Allocated { address: at, protocol, holder: None });
                }
                _ => return Err(Refusal::Other(ReserveError::Bind { address: at, source: error })),
            },
        }
    }
    Ok(sockets)
}

/// Reads the range from which the kernel takes the ports of clients. No service relies on a
/// particular port of this range.
fn local_port_range() -> Result<PortRange, ReserveError> {
    let text = sysctl::read(&["net", "ipv4", "ip_local_port_range"])?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => {
            PortRange::new(first, last).map_err(|_| ReserveError::LocalPortRange(text))
        }
        _ => Err(ReserveError::LocalPortRange(text)),
    }
}

/// Returns a number below `limit`. It only spreads the ports, so its quality is unimportant.
fn random_below(limit: u32) -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(());
    u32::try_from(random % u64::from(limit.max(1))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(host_ip: Option<&str>, host_port: u16) -> Published {
        let host_ip = host_ip.map(|address| address.parse().expect("an address"));
        Published { protocol: Protocol::Tcp, host_ip, host_port, container_port: 80 }
    }

    #[test]
    fn addresses_collide_where_one_contains_the_other() {
        let collide = |one, other| {
            let (one, other) = (published(one, 80), published(other, 80));
            assert_eq!(one.collides(&other), other.collides(&one));
            one.collides(&other)
        };
        for address in [None, Some("0.0.0.0"), Some("127.0.0.1"), Some("::"), Some("::1")] {
            assert!(collide(None, address) && collide(address, address), "{address:?}");
        }
        assert!(collide(Some("0.0.0.0"), Some("10.0.0.1")));
        assert!(collide(Some("::"), Some("fd00::1")));
        assert!(!collide(Some("0.0.0.0"), Some("::")));
        assert!(!collide(Some("10.0.0.1"), Some("10.0.0.2")));
        assert!(!published(None, 80).collides(&published(None, 81)));
        assert!(!published(None, 80).collides(&Published { protocol: Protocol::Udp, ..published(None, 80) }));
    }

    #[test]
    fn an_endpoint_that_has_the_port_is_named() {
        let taken = [(published(None, 8080), "web".to_owned())];
        let spec = "10.0.0.1:8080:80".parse().expect("a spec");
        let error = Reservations::new().reserve(&spec, &taken).expect_err("it is taken");
        assert_eq!(
            error.to_string(),
            "Bind for 10.0.0.1:8080 failed: port is already allocated (endpoint web has it; publish another, or let \
             the switch choose)"
        );
    }

    #[test]
    fn random_numbers_stay_below() {
        assert!((0..100).all(|_| random_below(3) < 3));
        assert_eq!(random_below(1), 0);
    }
}
