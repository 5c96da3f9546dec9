//! The host's ports that are published: which one it is, and that no other process takes it.
//!
//! A port is held by a socket that is bound and never used. What comes for it goes to a container before any socket is
//! looked up.

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

/// The ports that an instance holds. They are free again when it is dropped, or the process dies.
#[derive(Debug, Default)]
pub struct Reservations {
    held: Mutex<BTreeMap<Published, Vec<OwnedFd>>>,
}

/// A port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Somebody has it.
    #[error(
        "Bind for {address} failed: port is already allocated ({holder}; publish another, or let the switch choose)"
    )]
    Allocated {
        /// The address and the port.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// Who has it.
        holder: Holder,
    },
    /// All of a range are in use.
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
    /// Anything else.
    #[error("Bind for {address} failed: {source} (too many open files? see `ulimit -n`)")]
    Bind {
        /// The address and the port.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ReserveError {
    /// The name for programs.
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
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decides on a host port for each port of the spec and holds it, in the namespace of the calling thread. All or
    /// none. `taken` are the ports of all endpoints, with their names.
    ///
    /// # Errors
    /// [`ReserveError`], with who has the port.
    pub fn reserve(&self, spec: &PublishSpec, taken: &[(Published, String)]) -> Result<Vec<Published>, ReserveError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reserved: Vec<(Published, Vec<OwnedFd>)> = Vec::new();
        for (container_port, from) in spec.ports() {
            let published =
                |host_port| Published { protocol: spec.protocol(), host_ip: spec.host_ip(), host_port, container_port };
            // The ports of this very call need no name: those of one spec differ, or are chosen.
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
                    // Not the same port again and again: what still comes for the last one is not for this one.
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

    /// Holds ports that were decided on before, by a daemon that is gone. Those that it can get, it holds.
    ///
    /// # Errors
    /// The first [`ReserveError`]. The others are held all the same: their containers are reached in any case.
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

    /// Lets go of ports; of those not held, it need not.
    pub fn release(&self, published: &[Published]) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in published {
            held.remove(gone);
        }
    }
}

/// How often, and how long, a port is waited for that nobody has any more.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Holds a port that may have been let go just now: a program that another thread is starting has all our sockets for
/// a moment.
fn patiently<T>(mut hold: impl FnMut() -> Result<T, Refusal>) -> Result<T, ReserveError> {
    for _ in 1..ATTEMPTS {
        match hold().map_err(Refusal::into_error) {
            Err(ReserveError::Allocated { holder, .. }) if holder.is_child() => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    hold().map_err(Refusal::into_error)
}

/// The first of some ports that is free.
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

/// Why a port is not held. Who has it is only looked for if somebody wants to know: that reads all of /proc.
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

/// Binds what keeps others off a port.
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
                // A kernel that does not speak it: nobody else can have the port either.
                Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT) => {}
                // Without IPv6, all addresses are those of IPv4.
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

/// Where the kernel takes the ports of clients from, which are the ones nobody counts on.
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

/// Any number below another. Only to spread; a clock would nearly do.
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
