//! Finds the holder of a port in /proc/net, and its process by the inode of the socket in
//! /proc/PID/fd.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::Protocol;

/// The holder of a host port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An endpoint of this instance.
    Endpoint(String),
    /// This instance, for an endpoint that is being attached or detached.
    Ourselves,
    /// A process.
    Process {
        /// The name of the process.
        name: String,
        /// The process ID.
        pid: u32,
    },
    /// An unknown holder: a process that this /proc does not show, the kernel, or another instance.
    Unknown,
}

impl Holder {
    /// Reports whether the holder may go at this moment: a process that this process started or is
    /// about to start, or one that was gone when it was looked for.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Process { pid, .. } => parent(*pid) == Some(std::process::id()),
            Self::Unknown => true,
            Self::Endpoint(_) | Self::Ourselves => false,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(name) => write!(f, "endpoint {name} has it"),
            Self::Ourselves => f.write_str("an endpoint that is being attached or detached has it"),
            Self::Process { name, pid } => write!(f, "process {name}, pid {pid}, has it"),
            Self::Unknown => f.write_str("another instance or a process that cannot be seen has it"),
        }
    }
}

/// `TCP_TIME_WAIT` (net/tcp_states.h). In this state no process holds the port.
const TIME_WAIT: &str = "06";

/// Returns the holder that prevents binding this address.
pub(super) fn find(protocol: Protocol, at: SocketAddr) -> Holder {
    let sockets: Vec<String> = tables(protocol)
        .iter()
        .flat_map(|table| sockets(table, at).map(|(_, inode)| format!("socket:[{inode}]")).collect::<Vec<_>>())
        .collect();
    if sockets.is_empty() {
        return Holder::Unknown;
    }
    process_with(&sockets).unwrap_or(Holder::Unknown)
}

/// Reports whether all sockets that prevent binding this address are at `addresses`, and at least
/// one is.
pub(super) fn is_only_at(protocol: Protocol, at: SocketAddr, addresses: &BTreeSet<IpAddr>) -> bool {
    let tables = tables(protocol);
    let mut found = tables.iter().flat_map(|table| sockets(table, at)).peekable();
    found.peek().is_some() && found.all(|(local, _)| addresses.contains(&local.to_canonical()))
}

/// Returns the tables of sockets of a protocol, in the calling thread's namespace. /proc/net shows
/// that of the main thread.
fn tables(protocol: Protocol) -> Vec<String> {
    let names: &[&str] = match protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => &[],
    };
    names.iter().filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()).collect()
}

/// Returns the local addresses and the inodes of the sockets in a table of /proc/net that collide
/// with an address.
fn sockets(table: &str, wanted: SocketAddr) -> impl Iterator<Item = (IpAddr, &str)> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (address(fields.get(1)?)?, *fields.get(3)?, *fields.get(9)?);
        (state != TIME_WAIT && is_in_the_way(local, wanted)).then_some((local.ip(), inode))
    })
}

fn is_in_the_way(local: SocketAddr, wanted: SocketAddr) -> bool {
    let (ours, theirs) = (wanted.ip(), local.ip().to_canonical());
    // A socket bound to [::] may receive IPv4 packets too.
    let all = theirs.is_unspecified() && (theirs.is_ipv6() || ours.is_ipv4());
    local.port() == wanted.port()
        && (ours == theirs || all || ours.is_unspecified() && ours.is_ipv4() == theirs.is_ipv4())
}

/// Parses `0100007F:1F90`: 32-bit words in host byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let address = match words[..] {
        [word] => IpAddr::V4(Ipv4Addr::from(word)),
        [_, _, _, _] => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

fn process_with(sockets: &[String]) -> Option<Holder> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_it = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok()).any(|target| {
            // Links of other kinds, which are the most frequent, are longer or start differently.
            target.to_str().is_some_and(|target| sockets.iter().any(|socket| socket == target))
        })
    };
    let mut pids: Vec<u32> = pids.filter(has_it).collect();
    // Our own name servers are beside a published port, and not in its way.
    pids.sort_by_key(|pid| *pid == std::process::id());
    // If several processes share a socket, the result is their common parent, or else any of them.
    let pid = *pids.iter().find(|pid| parent(**pid).is_none_or(|parent| !pids.contains(&parent))).or(pids.first())?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned();
    Some(Holder::Process { name, pid })
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn addresses_are_read() {
        assert_eq!(address("0100007F:1F90"), "127.0.0.1:8080".parse().ok());
        assert_eq!(address("00000000000000000000000001000000:0050"), "[::1]:80".parse().ok());
        for text in ["", "0100007F", "0100007F:", "01:50", "0100007G:0050", "é100007F:0050"] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_in_the_way_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1234 1\n\
             1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1\n\
             2: 0100007F:1F90 0100007F:9999 06 00000000:00000000 00:00000000 00000000     0        0 0 3\n";
        let found =
            |at: &str| sockets(table, at.parse().expect("an address")).map(|(_, inode)| inode).collect::<Vec<_>>();
        assert_eq!(found("0.0.0.0:8080"), ["1234"]);
        assert_eq!(found("127.0.0.1:8080"), ["1234"]);
        assert_eq!(found("10.0.0.1:8080"), [""; 0]);
        assert_eq!(found("10.0.0.1:80"), ["99"]);
        assert_eq!(found("[::]:80"), [""; 0]);
    }

    #[test]
    fn this_process_is_found_by_its_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("it is bound");
        let found = find(Protocol::Tcp, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port()));
        assert!(matches!(found, Holder::Process { pid, .. } if pid == std::process::id()), "{found:?}");
    }
}
