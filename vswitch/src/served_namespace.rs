//! Record of the network namespace that an instance serves. The record exists while the instance is
//! up, for commands that run after its daemon has died.
//!
//! The record holds only the identity of the namespace and does not keep the namespace alive.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::kernel::netns::{Netns, NetnsError, NetnsId};
use crate::model::Instance;

/// Error of writing the record.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}: {source}", path = path.display())]
pub struct RecordError {
    path: PathBuf,
    source: io::Error,
}

/// Writes the record.
///
/// # Errors
/// The file cannot be written.
pub fn write(instance: &Instance, netns: NetnsId) -> Result<(), RecordError> {
    let path = instance.netns_file();
    let record = serde_json::to_vec(&netns).map_err(io::Error::from);
    record.and_then(|record| fs::write(&path, record)).map_err(|source| RecordError { path, source })
}

/// Reads the record. Returns `None` if it does not exist or cannot be parsed.
pub fn read(instance: &Instance) -> Option<NetnsId> {
    serde_json::from_slice(&fs::read(instance.netns_file()).ok()?).ok()
}

/// Opens the namespace with this identity. Searches the namespaces of the calling thread, of all
/// processes and of all mounts. Returns `None` if the namespace no longer exists; its devices are
/// then gone as well.
///
/// # Errors
/// The namespace of the calling thread cannot be opened.
pub fn find(id: NetnsId) -> Result<Option<Netns>, NetnsError> {
    let own = Netns::current()?;
    if own.id() == id {
        return Ok(Some(own));
    }
    let candidates = process_namespaces().into_iter().chain(mounted_namespaces());
    let found = candidates.filter(|path| is_namespace(path, id)).find_map(|path| Netns::open(&path).ok());
    Ok(found.filter(|netns| netns.id() == id))
}

fn is_namespace(path: &Path, id: NetnsId) -> bool {
    fs::metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (id.dev, id.inode))
}

fn process_namespaces() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    processes.map(|entry| entry.path().join("ns/net")).collect()
}

fn mounted_namespaces() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(mount_point_of_nsfs).collect()
}

/// Returns the mount point in a line of mountinfo (proc_pid_mountinfo(5)) if an nsfs file is
/// mounted there.
fn mount_point_of_nsfs(line: &str) -> Option<PathBuf> {
    let (fields, rest) = line.split_once(" - ")?;
    if rest.split(' ').next() != Some("nsfs") {
        return None;
    }
    let point = fields.split(' ').nth(4)?;
    // White space and backslashes are escaped in octal.
    Some(PathBuf::from(
        point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_namespace_is_found_and_a_missing_one_is_not() {
        let own = Netns::current().expect("the own namespace").id();
        assert_eq!(find(own).expect("found").map(|netns| netns.id()), Some(own));
        let missing = NetnsId { dev: own.dev, inode: 1 };
        assert!(find(missing).expect("no error").is_none());
    }

    #[test]
    fn mounted_namespaces_are_parsed_from_mountinfo() {
        let line = "45 26 0:4 net:[4026532] /run/netns/my\\040ns rw shared:5 - nsfs nsfs rw";
        assert_eq!(mount_point_of_nsfs(line), Some("/run/netns/my ns".into()));
        assert_eq!(mount_point_of_nsfs("26 1 0:22 / /run rw - tmpfs tmpfs rw"), None);
    }
}
