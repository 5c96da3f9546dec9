//! Reads the addresses of the host's resolvers from resolv.conf(5) files.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
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
/// file counts as empty. A change of a file takes effect with the next query.
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
        Self { host: CachedFile::new(files.host, port), behind_stub: CachedFile::new(files.behind_stub, port) }
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
    fn new(path: PathBuf, port: u16) -> Self {
        Self { path, port, content: Mutex::new(None) }
    }

    fn read(&self) -> Arc<[SocketAddr]> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = read_stamp(&self.path);
        match &*content {
            Some(cached) if cached.stamp.is_some() && cached.stamp == stamp => cached.resolvers.clone(),
            _ => {
                let resolvers: Arc<[SocketAddr]> = match fs::read_to_string(&self.path) {
                    Ok(text) => parse_nameservers(&text, self.port).into(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Arc::default(),
                    Err(error) => {
                        tracing::warn!("cannot read {}: {error}", self.path.display());
                        Arc::default()
                    }
                };
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

/// Returns the addresses of the `nameserver` lines of a resolv.conf(5), without duplicates.
fn parse_nameservers(text: &str, port: u16) -> Vec<SocketAddr> {
    let mut resolvers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(resolver) = words.next().and_then(|word| parse_resolver(word, port)) else {
            tracing::debug!("no resolver address in the line `{line}`");
            continue;
        };
        if !resolvers.contains(&resolver) {
            resolvers.push(resolver);
        }
    }
    resolvers
}

/// Parses an address, optionally with a zone after `%` as link-local addresses need (RFC 4007
/// section 11).
fn parse_resolver(word: &str, port: u16) -> Option<SocketAddr> {
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
    fn only_nameserver_lines_name_resolvers() {
        let text = "# nameserver 10.0.0.9\n; nameserver 10.0.0.8\nnameserver 10.0.0.1\n\tnameserver\t2001:db8::1 # here\n\
                    search example.org\noptions ndots:0\nnameserver\nnameserver nowhere\nnameserver 10.0.0.1\n\
                    nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%none\nnameservers 10.0.0.7";
        let expected = ["10.0.0.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53", "[fe80::2%7]:53"];
        let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().expect("an address")).collect();
        assert_eq!(parse_nameservers(text, 53), expected);
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_file_is_empty() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("resolv.conf");
        let resolvers = Resolvers::new(ResolverFiles::new(&file, directory.path().join("none")), 53);
        let current =
            || resolvers.host_resolvers().iter().map(|resolver| resolver.ip().to_string()).collect::<Vec<_>>();
        assert!(current().is_empty());
        // The changes keep the size and the inode, and happen within one tick of the file system's
        // clock.
        for last in 1..=9 {
            fs::write(&file, format!("nameserver 10.0.0.{last}\n")).expect("written");
            assert_eq!(current(), [format!("10.0.0.{last}")]);
        }
        fs::remove_file(&file).expect("removed");
        assert!(current().is_empty());
        assert!(resolvers.stub_upstreams().is_empty());
    }

    #[test]
    fn only_an_old_stamp_is_trusted() {
        let old = Stamp { device: 1, inode: 1, size: 1, changed: (1_000, 0) };
        assert!(is_old_enough(&old));
        assert!(!is_old_enough(&Stamp { changed: (i64::MAX, 0), ..old }));
    }
}
