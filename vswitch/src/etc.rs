//! Files of /etc as an endpoint should find them: resolv.conf and hosts.
//!
//! `run` mounts them over the host's. For a named namespace resolv.conf goes to /etc/netns/NAME, from where `ip netns
//! exec` mounts it. Only a file whose first line says that it is ours is ever changed or removed.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::model::{EndpointName, InstanceName};

/// What `run` and `ip netns exec` mount over the file of the same name.
pub const RESOLV_CONF: &str = "resolv.conf";
/// Where `ip netns add` mounts namespaces. The second is what the first is called on old systems, and a link on others.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];
/// What stands before the names in the first line of a file of ours.
const MARK: &str = "# Written by vswitch and removed on detach.";

/// Makes resolv.conf: these name servers, with what the host's own file says of how to ask.
pub fn resolv_conf(nameservers: &[IpAddr], host: &str) -> String {
    let mut text = String::new();
    for nameserver in nameservers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "nameserver {nameserver}");
    }
    for line in host.lines().map(str::trim_end) {
        // As the resolver reads it: keywords begin their line (resolv.conf(5)).
        if matches!(line.split([' ', '\t']).next(), Some("search" | "domain" | "options")) {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// Makes hosts: loopback, and the endpoint's addresses with its names, each once, the first as the canonical one.
pub fn hosts(addresses: &[IpAddr], names: &[&str]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    ff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    let mut different: Vec<&str> = Vec::new();
    for name in names {
        if !different.contains(name) {
            different.push(name);
        }
    }
    if !different.is_empty() {
        for address in addresses {
            let _ = writeln!(text, "{address}\t{}", different.join(" "));
        }
    }
    text
}

/// Whether a string can be the name of a host: it goes into files in which blanks and lines mean something, and the
/// kernel takes 64 bytes (`__NEW_UTS_LEN`).
pub fn is_hostname(text: &str) -> bool {
    let part = |part: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !part.is_empty() && part.bytes().all(good) && !part.starts_with('-')
    };
    text.len() <= 64 && text.split('.').all(part)
}

/// For whom a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The instance.
    pub instance: &'a InstanceName,
    /// Its endpoint.
    pub endpoint: &'a EndpointName,
}

/// What came of writing resolv.conf for a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is written.
    Here(PathBuf),
    /// Somebody else's file is there, or another instance's, and was left as it is.
    LeftTo(PathBuf),
    /// The namespace has no name that `ip netns` knows: there is nothing to write.
    Unnamed,
}

/// A file could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct EtcError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The directory /etc, or another in its place.
#[derive(Clone, Debug)]
pub struct Etc {
    root: PathBuf,
}

impl Default for Etc {
    fn default() -> Self {
        Self::at("/etc")
    }
}

impl Etc {
    /// With this directory in the place of /etc.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The text of its own resolv.conf; nothing where there is none.
    pub fn host_resolv_conf(&self) -> String {
        let bytes = fs::read(self.root.join(RESOLV_CONF)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Writes resolv.conf for a named namespace, for programs that `ip netns exec` starts in it. A file of the same
    /// instance is written anew, whichever endpoint it was for: a namespace has one, and whoever wrote last.
    ///
    /// # Errors
    /// [`EtcError`]; then there is no file that was not there before.
    pub fn write_resolv_conf(
        &self,
        netns: &Path,
        owner: Owner<'_>,
        nameservers: &[IpAddr],
    ) -> Result<Written, EtcError> {
        let Some(name) = named(netns) else { return Ok(Written::Unnamed) };
        let directory = self.root.join("netns").join(name);
        let path = directory.join(RESOLV_CONF);
        match first_line(&path)? {
            Some(line) if !is_of_instance(&line, owner.instance) => return Ok(Written::LeftTo(path)),
            _ => {}
        }
        let text = format!("{}\n{}", mark(owner), resolv_conf(nameservers, &self.host_resolv_conf()));
        let written = make_directories(&self.root, &directory).and_then(|()| write(&path, &text));
        match written {
            Ok(()) => Ok(Written::Here(path)),
            Err(error) => {
                // What was made for it is not needed.
                let _ = self.remove_empty(&directory);
                Err(error)
            }
        }
    }

    /// Removes resolv.conf of a named namespace, if the instance has written it, and the directories that are empty then.
    /// Returns whether it did.
    ///
    /// # Errors
    /// [`EtcError`].
    pub fn remove_resolv_conf(&self, netns: &Path, instance: &InstanceName) -> Result<bool, EtcError> {
        let Some(name) = named(netns) else { return Ok(false) };
        let directory = self.root.join("netns").join(name);
        let path = directory.join(RESOLV_CONF);
        if first_line(&path)?.is_none_or(|line| !is_of_instance(&line, instance)) {
            return Ok(false);
        }
        fs::remove_file(&path).map_err(|source| EtcError { action: "remove", path, source })?;
        self.remove_empty(&directory)?;
        Ok(true)
    }

    /// Removes every file that an instance has written, but for those of namespaces that are to keep theirs, by name.
    ///
    /// # Errors
    /// The first [`EtcError`]; the rest is removed all the same.
    pub fn remove_all(&self, instance: &InstanceName, keep: impl Fn(&str) -> bool) -> Result<(), EtcError> {
        let mut first_error = Ok(());
        // Where there is no such directory, there is nothing in it.
        for entry in fs::read_dir(self.root.join("netns")).into_iter().flatten().filter_map(Result::ok) {
            if keep(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let (directory, path) = (entry.path(), entry.path().join(RESOLV_CONF));
            let removed = first_line(&path).and_then(|line| {
                if !line.is_some_and(|line| is_of_instance(&line, instance)) {
                    return Ok(());
                }
                fs::remove_file(&path).map_err(|source| EtcError { action: "remove", path, source })?;
                self.remove_empty(&directory)
            });
            first_error = first_error.and(removed);
        }
        first_error
    }

    fn remove_empty(&self, directory: &Path) -> Result<(), EtcError> {
        for directory in [directory, &self.root.join("netns")] {
            match fs::remove_dir(directory) {
                Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                    return Err(EtcError { action: "remove", path: directory.to_owned(), source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The name by which `ip netns` knows a namespace, if it does.
pub fn named(netns: &Path) -> Option<&str> {
    let rest = NAMED.iter().find_map(|directory| netns.strip_prefix(directory).ok())?;
    let mut components = rest.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) => name.to_str(),
        _ => None,
    }
}

/// The first line of a file of ours. Names hold no blanks, so it can be taken apart.
fn mark(owner: Owner<'_>) -> String {
    format!("{MARK} Instance {} endpoint {}", owner.instance, owner.endpoint)
}

fn is_of_instance(line: &str, instance: &InstanceName) -> bool {
    line.starts_with(&format!("{MARK} Instance {instance} endpoint "))
}

/// The first line, empty for what is no file of text; `None` where there is nothing.
fn first_line(path: &Path) -> Result<Option<String>, EtcError> {
    // A symbolic link is somebody's, wherever it leads.
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EtcError { action: "look at", path: path.to_owned(), source }),
        Ok(metadata) if !metadata.is_file() => return Ok(Some(String::new())),
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(|source| EtcError { action: "read", path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

fn make_directories(root: &Path, directory: &Path) -> Result<(), EtcError> {
    for path in [&root.join("netns"), directory] {
        let failed = |source| EtcError { action: "make", path: path.to_owned(), source };
        match fs::create_dir(path) {
            // Readable for everybody, whatever the daemon's umask.
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Writes in place: programs in the namespace have this very file mounted. The mark is there at every moment, so a crash
/// in between leaves a file that is still ours.
fn write(path: &Path, text: &str) -> Result<(), EtcError> {
    let failed = |source| EtcError { action: "write", path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path).map_err(failed)?;
    file.set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.set_len(text.len() as u64).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 201, 0, 1));

    struct Names {
        instance: InstanceName,
        endpoint: EndpointName,
    }

    impl Names {
        fn new(instance: &str, endpoint: &str) -> Self {
            Self { instance: instance.parse().expect("a name"), endpoint: endpoint.parse().expect("a name") }
        }

        fn owner(&self) -> Owner<'_> {
            Owner { instance: &self.instance, endpoint: &self.endpoint }
        }
    }

    fn etc() -> (tempfile::TempDir, Etc, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("netns/web/resolv.conf");
        let etc = Etc::at(directory.path());
        (directory, etc, path)
    }

    #[test]
    fn the_resolver_asks_the_gateway_as_the_host_says_to_ask() {
        let host =
            "# by hand\nnameserver 192.0.2.1\nsearch a.example b.example\noptions\tndots:2 rotate \n searching x\n";
        let text = resolv_conf(&[GATEWAY, "fd00::1".parse().expect("an address")], host);
        assert_eq!(
            text,
            "nameserver 10.201.0.1\nnameserver fd00::1\nsearch a.example b.example\noptions\tndots:2 rotate\n"
        );
        assert_eq!(resolv_conf(&[], "nameserver 192.0.2.1"), "");
    }

    #[test]
    fn hosts_has_loopback_and_each_address_with_each_name_once() {
        let text = hosts(&[GATEWAY, "fd00::2".parse().expect("an address")], &["web", "web", "www"]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "), "{text}");
        assert!(text.ends_with("10.201.0.1\tweb www\nfd00::2\tweb www\n"), "{text}");
        assert!(hosts(&[], &["web"]).ends_with("ip6-allrouters\n"));
    }

    #[test]
    fn what_would_not_be_one_word_is_no_hostname() {
        for good in ["web", "web-1.example", "a_b", &"x".repeat(64)] {
            assert!(is_hostname(good), "{good}");
        }
        for bad in ["", "a b", "a\nnameserver", ".a", "a..b", "-a", "a\t", "ä", &"x".repeat(65)] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }

    #[test]
    fn only_namespaces_of_ip_netns_have_a_name() {
        for path in ["/run/netns/web", "/var/run/netns/web", "/run/netns/./web"] {
            assert_eq!(named(Path::new(path)), Some("web"), "{path}");
        }
        for path in ["/run/netns", "/run/netns/a/b", "/run/netns/..", "/proc/7/ns/net", "/srv/run/netns/web"] {
            assert_eq!(named(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_file_is_written_and_removed_with_its_directories() {
        let (directory, etc, path) = etc();
        fs::write(directory.path().join(RESOLV_CONF), "nameserver 192.0.2.1\nsearch example\n").expect("written");
        let (netns, names) = (Path::new("/run/netns/web"), Names::new("default", "web"));
        let written = etc.write_resolv_conf(netns, names.owner(), &[GATEWAY]).expect("written");
        assert_eq!(written, Written::Here(path.clone()));
        let text = fs::read_to_string(&path).expect("a file");
        let (first, rest) = text.split_once('\n').expect("lines");
        assert!(first.starts_with('#') && first.contains("default") && first.contains("web"), "{first}");
        assert_eq!(rest, "nameserver 10.201.0.1\nsearch example\n");
        assert_eq!(path.metadata().expect("a file").mode() & 0o777, 0o644);
        assert!(etc.remove_resolv_conf(netns, &names.instance).expect("removed"));
        assert!(!directory.path().join("netns").exists());
        assert!(!etc.remove_resolv_conf(netns, &names.instance).expect("nothing there"));
    }

    #[test]
    fn what_somebody_else_made_is_left() {
        let (directory, etc, path) = etc();
        let (netns, names) = (Path::new("/run/netns/web"), Names::new("default", "web"));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let left = |what: &str| {
            let written = etc.write_resolv_conf(netns, names.owner(), &[GATEWAY]).expect("no error");
            assert_eq!(written, Written::LeftTo(path.clone()), "{what}");
            assert!(!etc.remove_resolv_conf(netns, &names.instance).expect("no error"), "{what}");
            assert!(path.symlink_metadata().is_ok(), "{what}");
        };
        for theirs in ["nameserver 192.0.2.7\n", "", "# Written by vswitch\n", &format!("x\n{}\n", mark(names.owner()))]
        {
            fs::write(&path, theirs).expect("written");
            left(theirs);
            assert_eq!(fs::read_to_string(&path).expect("a file"), theirs);
        }
        fs::remove_file(&path).expect("removed");
        let target = directory.path().join("target");
        symlink(&target, &path).expect("a link");
        left("a dangling link");
        fs::write(&target, format!("{}\n", mark(names.owner()))).expect("written");
        left("a link to a file of ours");
        assert!(target.exists());
    }

    #[test]
    fn an_instance_writes_over_and_removes_its_own_alone() {
        let (_directory, etc, path) = etc();
        let netns = Path::new("/run/netns/web");
        let [first, second, other] = [("a", "web"), ("a", "web2"), ("a.b", "web")].map(|(i, e)| Names::new(i, e));
        let write = |names: &Names, nameservers: &[IpAddr]| {
            etc.write_resolv_conf(netns, names.owner(), nameservers).expect("no error")
        };
        assert_eq!(write(&first, &[GATEWAY, GATEWAY, GATEWAY]), Written::Here(path.clone()));
        assert_eq!(write(&other, &[GATEWAY]), Written::LeftTo(path.clone()));
        assert_eq!(write(&second, &[]), Written::Here(path.clone()));
        assert_eq!(fs::read_to_string(&path).expect("a file"), format!("{}\n", mark(second.owner())));
        assert!(!etc.remove_resolv_conf(netns, &other.instance).expect("no error"));
        assert!(etc.remove_resolv_conf(netns, &second.instance).expect("removed"));
    }

    #[test]
    fn all_of_an_instance_goes_and_nothing_else() {
        let (_directory, etc, _) = etc();
        let write = |instance: &str, name: &str| {
            let names = Names::new(instance, name);
            let netns = Path::new("/run/netns").join(name);
            etc.write_resolv_conf(&netns, names.owner(), &[GATEWAY]).expect("written");
        };
        [("one", "a"), ("one", "b"), ("two", "c")].into_iter().for_each(|(instance, name)| write(instance, name));
        let there = |name: &str| etc.root.join("netns").join(name).exists();
        let one: InstanceName = "one".parse().expect("a name");
        etc.remove_all(&one, |name| name == "b").expect("removed");
        assert_eq!(["a", "b", "c"].map(there), [false, true, true]);
        etc.remove_all(&one, |_| false).expect("removed");
        assert_eq!(["a", "b", "c"].map(there), [false, false, true]);
    }

    #[test]
    fn what_else_is_in_the_directory_stays() {
        let (directory, etc, path) = etc();
        let (netns, names) = (Path::new("/run/netns/web"), Names::new("default", "web"));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let hosts = path.with_file_name("hosts");
        fs::write(&hosts, "").expect("written");
        etc.write_resolv_conf(netns, names.owner(), &[GATEWAY]).expect("written");
        assert!(etc.remove_resolv_conf(netns, &names.instance).expect("removed"));
        assert!(hosts.exists() && !path.exists());
        assert_eq!(
            etc.write_resolv_conf(Path::new("/proc/1/ns/net"), names.owner(), &[]).expect("fine"),
            Written::Unnamed
        );
        drop(directory);
    }
}
