//! The host's resolvers, as its files name them.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::net::if_::if_nametoindex;

/// Files that are older than this when they are read are known by their stamp from then on: a second change within a tick of
/// the kernel's clock would leave the first one's.
const SETTLED: Duration = Duration::from_secs(2);

/// Where the host's resolvers are read from: `/etc/resolv.conf`, unless told otherwise (resolv.conf(5)). If those it names
/// are loopback addresses, a stub on the host, and nobody answers there since the daemon serves another network namespace,
/// those that systemd-resolved's stub asks are taken: `/run/systemd/resolve/resolv.conf`. A missing file names none. Changes
/// of the files are noticed with the next query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverFiles {
    host: PathBuf,
    behind_stub: PathBuf,
}

impl ResolverFiles {
    /// Other files: the host's, and the one with the resolvers behind its stub.
    pub fn new(host: impl Into<PathBuf>, behind_stub: impl Into<PathBuf>) -> Self {
        Self { host: host.into(), behind_stub: behind_stub.into() }
    }
}

impl Default for ResolverFiles {
    fn default() -> Self {
        Self::new("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
    }
}

/// What the files say now.
#[derive(Debug)]
pub(super) struct Resolvers {
    host: Watched,
    behind_stub: Watched,
}

impl Resolvers {
    /// Of these files; each resolver is asked at `port`.
    pub(super) fn new(files: ResolverFiles, port: u16) -> Self {
        Self { host: Watched::new(files.host, port), behind_stub: Watched::new(files.behind_stub, port) }
    }

    /// Those that the host itself asks, in its order.
    pub(super) fn of_host(&self) -> Arc<[SocketAddr]> {
        self.host.read()
    }

    /// Those that the host's stub asks.
    pub(super) fn behind_stub(&self) -> Arc<[SocketAddr]> {
        self.behind_stub.read()
    }
}

/// A file that is read again when it has changed. It is looked at for each query that is forwarded, which costs a
/// microsecond, and a watch would be lost when the file, or the symbolic link that it often is, is replaced.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    port: u16,
    read: Mutex<Option<Read>>,
}

#[derive(Debug)]
struct Read {
    stamp: Option<Stamp>,
    resolvers: Arc<[SocketAddr]>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Watched {
    fn new(path: PathBuf, port: u16) -> Self {
        Self { path, port, read: Mutex::new(None) }
    }

    fn read(&self) -> Arc<[SocketAddr]> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path);
        match &*read {
            Some(before) if before.stamp.is_some() && before.stamp == stamp => before.resolvers.clone(),
            _ => {
                let resolvers: Arc<[SocketAddr]> = match fs::read_to_string(&self.path) {
                    Ok(text) => parse(&text, self.port).into(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Arc::default(),
                    Err(error) => {
                        tracing::warn!("cannot read {}: {error}", self.path.display());
                        Arc::default()
                    }
                };
                *read = Some(Read { stamp: stamp.filter(settled), resolvers: resolvers.clone() });
                resolvers
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn settled(stamp: &Stamp) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_secs(u64::try_from(stamp.changed.0).unwrap_or(0));
    now.checked_sub(changed).is_some_and(|age| age > SETTLED)
}

/// The `nameserver` lines of a resolv.conf(5).
fn parse(text: &str, port: u16) -> Vec<SocketAddr> {
    let mut resolvers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(resolver) = words.next().and_then(|word| resolver(word, port)) else {
            tracing::debug!("no resolver in `{line}`");
            continue;
        };
        if !resolvers.contains(&resolver) {
            resolvers.push(resolver);
        }
    }
    resolvers
}

/// An address, with the interface behind `%` that a link-local one needs (RFC 4007 section 11).
fn resolver(word: &str, port: u16) -> Option<SocketAddr> {
    if let Some((address, interface)) = word.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let scope = interface.parse().ok().or_else(|| if_nametoindex(interface).ok())?;
        return Some(SocketAddrV6::new(address, port, 0, scope).into());
    }
    word.parse().ok().map(|address: IpAddr| SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines_are_resolvers_and_nothing_else_is() {
        let text = "# nameserver 10.0.0.9\n; nameserver 10.0.0.8\nnameserver 10.0.0.1\n\tnameserver\t2001:db8::1 # here\n\
                    search example.org\noptions ndots:0\nnameserver\nnameserver nowhere\nnameserver 10.0.0.1\n\
                    nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%none\nnameservers 10.0.0.7";
        let expected = ["10.0.0.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53", "[fe80::2%7]:53"];
        let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().expect("an address")).collect();
        assert_eq!(parse(text, 53), expected);
    }

    #[test]
    fn a_file_is_read_again_whenever_it_changed_and_names_nobody_while_it_is_missing() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("resolv.conf");
        let resolvers = Resolvers::new(ResolverFiles::new(&file, directory.path().join("none")), 53);
        let now = || resolvers.of_host().iter().map(|resolver| resolver.ip().to_string()).collect::<Vec<_>>();
        assert!(now().is_empty());
        // Of the same size, in place, and faster than the clock of the file system.
        for last in 1..=9 {
            fs::write(&file, format!("nameserver 10.0.0.{last}\n")).expect("written");
            assert_eq!(now(), [format!("10.0.0.{last}")]);
        }
        fs::remove_file(&file).expect("removed");
        assert!(now().is_empty());
        assert!(resolvers.behind_stub().is_empty());
    }

    #[test]
    fn a_file_that_has_settled_is_known_by_its_stamp() {
        let old = Stamp { device: 1, inode: 1, size: 1, changed: (1_000, 0) };
        assert!(settled(&old));
        assert!(!settled(&Stamp { changed: (i64::MAX, 0), ..old }));
    }
}
