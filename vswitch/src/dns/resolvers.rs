//! Reads the addresses of the host's resolvers from resolv.conf(5) files.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::net::if_::if_nametoindex;

/// Minimum age of a file's last change for which the file's stamp is trusted. Two changes within
/// one tick of the kernel's clock leave the same stamp, so a younger file is read again for each
/// query.
const MIN_STAMP_AGE: Duration = Duration::from_secs(2);

/// Paths of the files that name the host's resolvers. The default is `/etc/resolv.conf`
/// (resolv.conf(5)). If all its addresses are loopback addresses, they belong to a stub resolver on
/// the host. A daemon that serves another network namespace cannot reach such a stub. The resolvers
/// behind systemd-resolved's stub are then used, from `/run/systemd/resolve/resolv.conf`. A missing
/// file counts as empty. A host's file without a name server means the server at 127.0.0.1, as in
/// the C library. A change of a file takes effect with the next query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverFiles {
    host: PathBuf,
    behind_stub: PathBuf,
}

impl ResolverFiles {
    /// Sets the path of the host's file and of the file with the resolvers behind its stub.
    pub fn new(host: impl Into<PathBuf>, behind_stub: impl Into<PathBuf>) -> Self {
        Self { host: host.into(), behind_stub: behind_stub.into() }
    }
}

impl Default for ResolverFiles {
    fn default() -> Self {
        Self::new("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
    }
}

/// Current content of both files.
#[derive(Debug)]
pub(super) struct Resolvers {
    host: CachedFile,
    behind_stub: CachedFile,
}

impl Resolvers {
    /// Reads resolvers from `files` and gives each the port `port`.
    pub(super) fn new(files: ResolverFiles, port: u16) -> Self {
        let local = Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        Self {
            host: CachedFile::new(files.host, port, local),
            behind_stub: CachedFile::new(files.behind_stub, port, None),
        }
    }

    /// Returns the resolvers of the host's file, in file order.
    pub(super) fn host_resolvers(&self) -> Arc<[SocketAddr]> {
        self.host.read()
    }

    /// Returns the resolvers behind the host's stub, in file order.
    pub(super) fn stub_upstreams(&self) -> Arc<[SocketAddr]> {
        self.behind_stub.read()
    }
}

/// A file that is read again after a change. Each forwarded query calls stat(2) on it, which costs
/// a microsecond. inotify is not used: its watch is lost when the file, or the symbolic link in its
/// place, is replaced.
#[derive(Debug)]
struct CachedFile {
    path: PathBuf,
    port: u16,
    /// The resolver that a file without resolvers means.
    default: Option<SocketAddr>,
    content: Mutex<Option<Content>>,
}

#[derive(Debug)]
struct Content {
    stamp: Option<Stamp>,
    resolvers: Arc<[SocketAddr]>,
}

/// Metadata of a file that differs after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl CachedFile {
    fn new(path: PathBuf, port: u16, default: Option<SocketAddr>) -> Self {
        Self { path, port, default, content: Mutex::new(None) }
    }

    fn read(&self) -> Arc<[SocketAddr]> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = read_stamp(&self.path);
        match &*content {
            Some(cached) if cached.stamp.is_some() && cached.stamp == stamp => cached.resolvers.clone(),
            _ => {
                let text = fs::read(&self.path).unwrap_or_else(|error| {
                    if error.kind() != io::ErrorKind::NotFound {
                        tracing::warn!("cannot read {}: {error}", self.path.display());
                    }
                    Vec::new()
                });
                let mut resolvers = parse_nameservers(&String::from_utf8_lossy(&text), self.port);
                if resolvers.is_empty() {
                    resolvers.extend(self.default);
                }
                let resolvers: Arc<[SocketAddr]> = resolvers.into();
                *content = Some(Content { stamp: stamp.filter(is_old_enough), resolvers: resolvers.clone() });
                resolvers
            }
        }
    }
}

fn read_stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn is_old_enough(stamp: &Stamp) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_secs(u64::try_from(stamp.changed.0).unwrap_or(0));
    now.checked_sub(changed).is_some_and(|age| age > MIN_STAMP_AGE)
}

/// Returns the addresses of the `nameserver` lines of a resolv.conf(5), without duplicates. As in
/// the C library, the keyword begins the line, and the rest of the line after the address is
/// ignored.
fn parse_nameservers(text: &str, port: u16) -> Vec<SocketAddr> {
    let mut resolvers = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("nameserver").filter(|rest| rest.starts_with([' ', '\t'])) else {
            continue;
        };
        let Some(resolver) = rest.split_ascii_whitespace().next().and_then(|word| parse_resolver(word, port)) else {
            tracing::debug!("no resolver address in the line `{line}`");
            continue;
        };
        if !resolvers.contains(&resolver) {
            resolvers.push(resolver);
        }
    }
    resolvers
}

/// Parses an address: IPv4 in all forms of inet_aton(3), or IPv6, optionally with a zone after `%`
/// as link-local addresses need (RFC 4007 section 11). Either may be followed by `#` and a port, as
/// in the files of dnsmasq. The C library of the host skips such a line; without it, the containers
/// of a host with no other line would have no names at all.
fn parse_resolver(word: &str, port: u16) -> Option<SocketAddr> {
    let (word, port) = match word.split_once('#') {
        Some((address, port)) => (address, port.parse().ok().filter(|port| *port != 0)?),
        None => (word, port),
    };
    if let Some((address, interface)) = word.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let scope = interface.parse().ok().or_else(|| if_nametoindex(interface).ok())?;
        return Some(SocketAddrV6::new(address, port, 0, scope).into());
    }
    let address = parse_ipv4(word).map(IpAddr::from).or_else(|| word.parse().ok())?;
    Some(SocketAddr::new(address, port))
}

/// Parses an IPv4 address as inet_aton(3): one to four numbers, each decimal, octal after `0` or
/// hexadecimal after `0x`. The last number fills all bytes that are left.
fn parse_ipv4(text: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match (part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")), part) {
        (Some(digits), _) => parse_digits(digits, 16),
        (None, "0") => Some(0),
        (None, _) if part.starts_with('0') => parse_digits(part, 8),
        (None, _) => parse_digits(part, 10),
    };
    let parts = text.split('.').map(number).collect::<Option<Vec<u32>>>()?;
    let (last, first) = parts.split_last().filter(|(_, first)| first.len() < 4)?;
    let bytes_left = 4 - first.len();
    let highest = u32::MAX >> (8 * (4 - bytes_left));
    let mut address = if *last <= highest { *last } else { return None };
    for (place, byte) in first.iter().enumerate() {
        address |= u32::from(u8::try_from(*byte).ok()?) << (24 - 8 * place);
    }
    Some(address.into())
}

/// Parses a number of digits only: `from_str_radix` would also accept a plus sign.
fn parse_digits(text: &str, radix: u32) -> Option<u32> {
    u32::from_str_radix(text, radix).ok().filter(|_| text.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        parse_nameservers(text, 53).iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn only_nameserver_lines_name_resolvers() {
        let text = "# nameserver 10.0.0.9\n; nameserver 10.0.0.8\nnameserver 10.0.0.1\nnameserver\t2001:db8::1 # here\n\
                    search example.org\noptions ndots:0\nnameserver\nnameserver nowhere\nnameserver 10.0.0.1\n\
                    nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%none\nnameservers 10.0.0.7\n \
                    nameserver 10.0.0.6\nnameserver10.0.0.5";
        assert_eq!(parsed(text), ["10.0.0.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53", "[fe80::2%7]:53"]);
    }

    #[test]
    fn addresses_have_the_forms_of_the_c_library() {
        // glibc 2.36 takes each of these lines so.
        for (word, expected) in [
            ("10.1", "10.0.0.1:53"),
            ("0x7f.1", "127.0.0.1:53"),
            ("010.0.0.1", "8.0.0.1:53"),
            ("10.1.258", "10.1.1.2:53"),
            ("3232235777", "192.168.1.1:53"),
            ("0.0.0.0", "0.0.0.0:53"),
            ("::ffff:10.0.0.1", "[::ffff:10.0.0.1]:53"),
        ] {
            assert_eq!(parsed(&format!("nameserver {word}")), [expected], "{word}");
        }
        for word in ["192.0.2.9:53", "[::1]:53", "10.0.0.1;x", "256.1.1.1", "1.2.3.4.5", "+1.2.3.4", "09.1", "1..2", ""]
        {
            assert_eq!(parsed(&format!("nameserver {word}")), [""; 0], "{word}");
        }
    }

    #[test]
    fn an_address_may_be_followed_by_a_port() {
        let text = "nameserver 192.0.2.9#5353\nnameserver ::1#54\nnameserver fe80::1%lo#55\nnameserver 192.0.2.9 #56";
        assert_eq!(parsed(text), ["192.0.2.9:5353", "[::1]:54", "[fe80::1%1]:55", "192.0.2.9:53"]);
        for word in ["192.0.2.9#", "192.0.2.9#0", "192.0.2.9#70000", "192.0.2.9#dns", "#53"] {
            assert_eq!(parsed(&format!("nameserver {word}")), [""; 0], "{word}");
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_file_means_the_local_server() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("resolv.conf");
        let resolvers = Resolvers::new(ResolverFiles::new(&file, directory.path().join("none")), 53);
        let current =
            || resolvers.host_resolvers().iter().map(|resolver| resolver.ip().to_string()).collect::<Vec<_>>();
        assert_eq!(current(), ["127.0.0.1"]);
        // The changes keep the size and the inode, and happen within one tick of the file system's
        // clock.
        for last in 1..=9 {
            fs::write(&file, format!("nameserver 10.0.0.{last}\n")).expect("written");
            assert_eq!(current(), [format!("10.0.0.{last}")]);
        }
        fs::write(&file, b"# caf\xe9\nnameserver 10.0.0.1\n").expect("written");
        assert_eq!(current(), ["10.0.0.1"], "a byte that is no UTF-8 is in a comment");
        fs::write(&file, "search example.com\n").expect("written");
        assert_eq!(current(), ["127.0.0.1"]);
        fs::remove_file(&file).expect("removed");
        assert_eq!(current(), ["127.0.0.1"]);
        assert!(resolvers.stub_upstreams().is_empty());
    }

    #[test]
    fn only_an_old_stamp_is_trusted() {
        let old = Stamp { device: 1, inode: 1, size: 1, changed: (1_000, 0) };
        assert!(is_old_enough(&old));
        assert!(!is_old_enough(&Stamp { changed: (i64::MAX, 0), ..old }));
    }
}
