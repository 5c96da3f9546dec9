//! Generates the files /etc/resolv.conf and /etc/hosts of endpoints.
//!
//! `run` mounts them over the files of the host. For a named namespace, resolv.conf is written to
//! /etc/netns/NAME, from where `ip netns exec` mounts it. Only files whose first line is the mark
//! of the same instance are changed or removed.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::model::{EndpointName, InstanceName};

/// File name of resolv.conf. `run` and `ip netns exec` mount the file over the host's file of this
/// name.
pub const RESOLV_CONF: &str = "resolv.conf";
/// Directories where `ip netns add` mounts namespaces. The second is the name of the first on old
/// systems, and a symbolic link to it on others.
const NETNS_DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];
/// Start of the first line of a file written by vswitch. The names of the instance and the endpoint
/// follow.
const MARK: &str = "# WriteOutcome by vswitch and removed on detach.";

/// Returns the text of a resolv.conf with these name servers and with the `search`, `domain` and
/// `options` lines of the host's file. If these set no `ndots`, it is 0, as in Docker. With the C
/// library's default of 1, a search domain would be asked for `db` before the switch is, and a
/// domain with a wildcard has an answer for every name.
pub fn resolv_conf(nameservers: &[IpAddr], host: &str) -> String {
    let mut text = String::new();
    let mut ndots = nameservers.is_empty();
    for nameserver in nameservers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "nameserver {nameserver}");
    }
    for line in host.lines().map(str::trim_end) {
        // A keyword must start the line (resolv.conf(5)).
        let mut words = line.split([' ', '\t']);
        let keyword = words.next();
        if matches!(keyword, Some("search" | "domain" | "options")) {
            text += line;
            text.push('\n');
        }
        ndots |= keyword == Some("options") && words.any(sets_ndots);
    }
    if !ndots {
        text += "options ndots:0\n";
    }
    text
}

/// Reports whether an option of a resolv.conf is `ndots` with a number. The C library reads another
/// value as 0.
fn sets_ndots(option: &str) -> bool {
    option.strip_prefix("ndots:").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Returns the text of a hosts file: loopback entries, and each address with all names. Repeated
/// names are left out; the first name is the canonical one (hosts(5)).
pub fn hosts(addresses: &[IpAddr], names: &[&str]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    ff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    let mut unique_names: Vec<&str> = Vec::new();
    for name in names {
        if !unique_names.contains(name) {
            unique_names.push(name);
        }
    }
    if !unique_names.is_empty() {
        for address in addresses {
            let _ = writeln!(text, "{address}\t{}", unique_names.join(" "));
        }
    }
    text
}

/// Reports whether a string is a valid host name. It must contain no white space, which separates
/// fields in /etc/hosts, and have at most 64 bytes, the limit of the kernel (`__NEW_UTS_LEN`).
pub fn is_hostname(text: &str) -> bool {
    let is_label = |part: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !part.is_empty() && part.bytes().all(is_allowed) && !part.starts_with('-')
    };
    text.len() <= 64 && text.split('.').all(is_label)
}

/// Instance and endpoint for which a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Name of the instance.
    pub instance: &'a InstanceName,
    /// Name of the endpoint.
    pub endpoint: &'a EndpointName,
}

/// Result of writing resolv.conf for a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The file at this path was written.
    Written(PathBuf),
    /// The file at this path belongs to a user or to another instance and was not changed.
    Foreign(PathBuf),
    /// The namespace has no name in `ip netns`, so no file is needed.
    Unnamed,
}

/// Error of reading, writing or removing a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct EtcError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The directory /etc, or another directory used in its place.
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
    /// Uses this directory in place of /etc.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the text of the host's resolv.conf, or an empty string if it cannot be read.
    pub fn host_resolv_conf(&self) -> String {
        let bytes = fs::read(self.root.join(RESOLV_CONF)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Writes resolv.conf for a named namespace, for programs that `ip netns exec` starts in it. A
    /// file of the same instance is overwritten, also if it was written for another endpoint: a
    /// namespace has one file, and the last write counts.
    ///
    /// # Errors
    /// [`EtcError`]. No new directory is left behind then.
    pub fn write_resolv_conf(
        &self,
        netns: &Path,
        owner: Owner<'_>,
        nameservers: &[IpAddr],
    ) -> Result<WriteOutcome, EtcError> {
        let Some(name) = netns_name(netns) else { return Ok(WriteOutcome::Unnamed) };
        let directory = self.root.join("netns").join(name);
        let path = directory.join(RESOLV_CONF);
        match first_line(&path)? {
            Some(line) if !has_mark_of(&line, owner.instance) => return Ok(WriteOutcome::Foreign(path)),
            _ => {}
        }
        let text = format!("{}\n{}", mark_line(owner), resolv_conf(nameservers, &self.host_resolv_conf()));
        let written = create_directories(&self.root, &directory).and_then(|()| write_in_place(&path, &text));
        match written {
            Ok(()) => Ok(WriteOutcome::Written(path)),
            Err(error) => {
                // Directories that were created for the file are removed again.
                let _ = self.remove_empty(&directory);
                Err(error)
            }
        }
    }

    /// Removes the resolv.conf of a named namespace if the instance wrote it, and the directories
    /// that are empty then. Returns whether the file was removed.
    ///
    /// # Errors
    /// [`EtcError`].
    pub fn remove_resolv_conf(&self, netns: &Path, instance: &InstanceName) -> Result<bool, EtcError> {
        let Some(name) = netns_name(netns) else { return Ok(false) };
        let directory = self.root.join("netns").join(name);
        let path = directory.join(RESOLV_CONF);
        if first_line(&path)?.is_none_or(|line| !has_mark_of(&line, instance)) {
            return Ok(false);
        }
        fs::remove_file(&path).map_err(|source| EtcError { action: "remove", path, source })?;
        self.remove_empty(&directory)?;
        Ok(true)
    }

    /// Removes all files that an instance wrote, except those of namespaces for whose name `keep`
    /// returns true.
    ///
    /// # Errors
    /// The first [`EtcError`]. The other files are removed all the same.
    pub fn remove_all(&self, instance: &InstanceName, keep: impl Fn(&str) -> bool) -> Result<(), EtcError> {
        let mut first_error = Ok(());
        // A directory that cannot be read counts as empty.
        for entry in fs::read_dir(self.root.join("netns")).into_iter().flatten().filter_map(Result::ok) {
            if keep(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let (directory, path) = (entry.path(), entry.path().join(RESOLV_CONF));
            let removed = first_line(&path).and_then(|line| {
                if !line.is_some_and(|line| has_mark_of(&line, instance)) {
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

/// Returns the name of a namespace in `ip netns`, or `None` if its path is in no directory of
/// `ip netns`.
pub fn netns_name(netns: &Path) -> Option<&str> {
    let rest = NETNS_DIRECTORIES.iter().find_map(|directory| netns.strip_prefix(directory).ok())?;
    let mut components = rest.components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) => name.to_str(),
        _ => None,
    }
}

/// Returns the first line of a file written for `owner`. OwnerNames contain no blanks, so the line
/// is unambiguous.
fn mark_line(owner: Owner<'_>) -> String {
    format!("{MARK} Instance {} endpoint {}", owner.instance, owner.endpoint)
}

fn has_mark_of(line: &str, instance: &InstanceName) -> bool {
    line.starts_with(&format!("{MARK} Instance {instance} endpoint "))
}

/// Returns the first line of a file. Returns an empty line if the path is not a regular file, and
/// `None` if it does not exist.
fn first_line(path: &Path) -> Result<Option<String>, EtcError> {
    // A symbolic link was created by a user, so it counts as a foreign file even if its target has
    // the mark.
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

fn create_directories(root: &Path, directory: &Path) -> Result<(), EtcError> {
    for path in [&root.join("netns"), directory] {
        let failed = |source| EtcError { action: "create", path: path.to_owned(), source };
        match fs::create_dir(path) {
            // The directory is readable for all users, independent of the daemon's umask.
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Writes the file in place, because programs in the namespace have this inode mounted. The mark is
/// present at every moment, so after a crash during the write the file still belongs to the
/// instance.
fn write_in_place(path: &Path, text: &str) -> Result<(), EtcError> {
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

    struct OwnerNames {
        instance: InstanceName,
        endpoint: EndpointName,
    }

    impl OwnerNames {
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
    fn resolv_conf_has_the_nameservers_and_the_options_of_the_host() {
        let host =
            "# by hand\nnameserver 192.0.2.1\nsearch a.example b.example\noptions\tndots:2 rotate \n searching x\n";
        let text = resolv_conf(&[GATEWAY, "fd00::1".parse().expect("an address")], host);
        assert_eq!(
            text,
            "nameserver 10.201.0.1\nnameserver fd00::1\nsearch a.example b.example\noptions\tndots:2 rotate\n"
        );
        assert_eq!(resolv_conf(&[], "nameserver 192.0.2.1"), "");
        assert_eq!(resolv_conf(&[], "options rotate"), "options rotate\n");
    }

    #[test]
    fn names_are_looked_up_as_they_are_unless_the_host_says_otherwise() {
        let lines = |host: &str| resolv_conf(&[GATEWAY], host).lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines("search example.com\n"), ["search example.com", "options ndots:0"]);
        // The C library reads each `options` line.
        assert_eq!(lines("options timeout:1 edns0\n"), ["options timeout:1 edns0", "options ndots:0"]);
        for kept in ["options ndots:3", "options\trotate \t ndots:0", "options ndots:1 trust-ad"] {
            assert_eq!(lines(kept), [kept]);
        }
        for other in ["options ndots:x", "options ndots:", "options ndots", "options xndots:2"] {
            assert_eq!(lines(other), [other, "options ndots:0"]);
        }
        for ignored in ["# options ndots:3", " options ndots:3", "optionsndots:3", "; options ndots:3"] {
            assert_eq!(lines(ignored), ["options ndots:0"]);
        }
    }

    #[test]
    fn hosts_lists_each_address_with_all_different_names() {
        let text = hosts(&[GATEWAY, "fd00::2".parse().expect("an address")], &["web", "web", "www"]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "), "{text}");
        assert!(text.ends_with("10.201.0.1\tweb www\nfd00::2\tweb www\n"), "{text}");
        assert!(hosts(&[], &["web"]).ends_with("ip6-allrouters\n"));
    }

    #[test]
    fn invalid_host_names_are_refused() {
        for good in ["web", "web-1.example", "a_b", &"x".repeat(64)] {
            assert!(is_hostname(good), "{good}");
        }
        for bad in ["", "a b", "a\nnameserver", ".a", "a..b", "-a", "a\t", "ä", &"x".repeat(65)] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }

    #[test]
    fn only_paths_of_ip_netns_have_a_name() {
        for path in ["/run/netns/web", "/var/run/netns/web", "/run/netns/./web"] {
            assert_eq!(netns_name(Path::new(path)), Some("web"), "{path}");
        }
        for path in ["/run/netns", "/run/netns/a/b", "/run/netns/..", "/proc/7/ns/net", "/srv/run/netns/web"] {
            assert_eq!(netns_name(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_file_is_written_and_removed_with_its_directories() {
        let (directory, etc, path) = etc();
        fs::write(directory.path().join(RESOLV_CONF), "nameserver 192.0.2.1\nsearch example\n").expect("written");
        let (netns, names) = (Path::new("/run/netns/web"), OwnerNames::new("default", "web"));
        let written = etc.write_resolv_conf(netns, names.owner(), &[GATEWAY]).expect("written");
        assert_eq!(written, WriteOutcome::Written(path.clone()));
        let text = fs::read_to_string(&path).expect("a file");
        let (first, rest) = text.split_once('\n').expect("lines");
        assert!(first.starts_with('#') && first.contains("default") && first.contains("web"), "{first}");
        assert_eq!(rest, "nameserver 10.201.0.1\nsearch example\noptions ndots:0\n");
        assert_eq!(path.metadata().expect("a file").mode() & 0o777, 0o644);
        assert!(etc.remove_resolv_conf(netns, &names.instance).expect("removed"));
        assert!(!directory.path().join("netns").exists());
        assert!(!etc.remove_resolv_conf(netns, &names.instance).expect("nothing there"));
    }

    #[test]
    fn foreign_files_are_not_changed() {
        let (directory, etc, path) = etc();
        let (netns, names) = (Path::new("/run/netns/web"), OwnerNames::new("default", "web"));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let expect_unchanged = |what: &str| {
            let written = etc.write_resolv_conf(netns, names.owner(), &[GATEWAY]).expect("no error");
            assert_eq!(written, WriteOutcome::Foreign(path.clone()), "{what}");
            assert!(!etc.remove_resolv_conf(netns, &names.instance).expect("no error"), "{what}");
            assert!(path.symlink_metadata().is_ok(), "{what}");
        };
        for foreign in
            ["nameserver 192.0.2.7\n", "", "# WriteOutcome by vswitch\n", &format!("x\n{}\n", mark_line(names.owner()))]
        {
            fs::write(&path, foreign).expect("written");
            expect_unchanged(foreign);
            assert_eq!(fs::read_to_string(&path).expect("a file"), foreign);
        }
        fs::remove_file(&path).expect("removed");
        let target = directory.path().join("target");
        symlink(&target, &path).expect("a link");
        expect_unchanged("a dangling link");
        fs::write(&target, format!("{}\n", mark_line(names.owner()))).expect("written");
        expect_unchanged("a link to a file with the mark");
        assert!(target.exists());
    }

    #[test]
    fn an_instance_changes_only_its_own_files() {
        let (_directory, etc, path) = etc();
        let netns = Path::new("/run/netns/web");
        let [first, second, other] = [("a", "web"), ("a", "web2"), ("a.b", "web")].map(|(i, e)| OwnerNames::new(i, e));
        let write = |names: &OwnerNames, nameservers: &[IpAddr]| {
            etc.write_resolv_conf(netns, names.owner(), nameservers).expect("no error")
        };
        assert_eq!(write(&first, &[GATEWAY, GATEWAY, GATEWAY]), WriteOutcome::Written(path.clone()));
        assert_eq!(write(&other, &[GATEWAY]), WriteOutcome::Foreign(path.clone()));
        assert_eq!(write(&second, &[]), WriteOutcome::Written(path.clone()));
        assert_eq!(fs::read_to_string(&path).expect("a file"), format!("{}\n", mark_line(second.owner())));
        assert!(!etc.remove_resolv_conf(netns, &other.instance).expect("no error"));
        assert!(etc.remove_resolv_conf(netns, &second.instance).expect("removed"));
    }

    #[test]
    fn removing_all_files_of_an_instance_keeps_other_files() {
        let (_directory, etc, _) = etc();
        let write = |instance: &str, name: &str| {
            let names = OwnerNames::new(instance, name);
            let netns = Path::new("/run/netns").join(name);
            etc.write_resolv_conf(&netns, names.owner(), &[GATEWAY]).expect("written");
        };
        [("one", "a"), ("one", "b"), ("two", "c")].into_iter().for_each(|(instance, name)| write(instance, name));
        let exists = |name: &str| etc.root.join("netns").join(name).exists();
        let one: InstanceName = "one".parse().expect("a name");
        etc.remove_all(&one, |name| name == "b").expect("removed");
        assert_eq!(["a", "b", "c"].map(exists), [false, true, true]);
        etc.remove_all(&one, |_| false).expect("removed");
        assert_eq!(["a", "b", "c"].map(exists), [false, false, true]);
    }

    #[test]
    fn other_files_in_the_directory_are_kept() {
        let (directory, etc, path) = etc();
        let (netns, names) = (Path::new("/run/netns/web"), OwnerNames::new("default", "web"));
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let hosts = path.with_file_name("hosts");
        fs::write(&hosts, "").expect("written");
        etc.write_resolv_conf(netns, names.owner(), &[GATEWAY]).expect("written");
        assert!(etc.remove_resolv_conf(netns, &names.instance).expect("removed"));
        assert!(hosts.exists() && !path.exists());
        assert_eq!(
            etc.write_resolv_conf(Path::new("/proc/1/ns/net"), names.owner(), &[]).expect("fine"),
            WriteOutcome::Unnamed
        );
        drop(directory);
    }
}
