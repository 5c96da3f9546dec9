//! Which network namespace an instance serves: noted while it is up, for whoever comes when its daemon is dead.
//!
//! Only what names the namespace is noted, so that a dead daemon keeps none alive.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::kernel::netns::{Netns, NetnsError, NetnsId};
use crate::model::Instance;

/// The note could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path}: {source}", path = path.display())]
pub struct NoteError {
    path: PathBuf,
    source: io::Error,
}

/// Notes the namespace.
///
/// # Errors
/// The file cannot be written.
pub fn write(instance: &Instance, netns: NetnsId) -> Result<(), NoteError> {
    let path = instance.netns_file();
    let note = serde_json::to_vec(&netns).map_err(io::Error::from);
    note.and_then(|note| fs::write(&path, note)).map_err(|source| NoteError { path, source })
}

/// What was noted, if anything was.
pub fn read(instance: &Instance) -> Option<NetnsId> {
    serde_json::from_slice(&fs::read(instance.netns_file()).ok()?).ok()
}

/// Looks for a namespace: this process's own, any process's, or one that is mounted somewhere. `None` if it is gone, and
/// with it everything that was in it.
///
/// # Errors
/// This process's own cannot be opened.
pub fn find(wanted: NetnsId) -> Result<Option<Netns>, NetnsError> {
    let own = Netns::current()?;
    if own.id() == wanted {
        return Ok(Some(own));
    }
    let candidates = of_processes().into_iter().chain(mounted());
    let found = candidates.filter(|path| is(path, wanted)).find_map(|path| Netns::open(&path).ok());
    Ok(found.filter(|netns| netns.id() == wanted))
}

fn is(path: &Path, wanted: NetnsId) -> bool {
    fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (wanted.dev, wanted.inode))
}

fn of_processes() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    processes.map(|entry| entry.path().join("ns/net")).collect()
}

fn mounted() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(mount_point_of_nsfs).collect()
}

/// The mount point in a line of mountinfo (proc_pid_mountinfo(5)), if an nsfs file is mounted there.
fn mount_point_of_nsfs(line: &str) -> Option<PathBuf> {
    let (fields, rest) = line.split_once(" - ")?;
    if rest.split(' ').next() != Some("nsfs") {
        return None;
    }
    let point = fields.split(' ').nth(4)?;
    // Blanks and the like are written in octal.
    Some(PathBuf::from(
        point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_namespace_is_found_and_none_that_is_not_there() {
        let own = Netns::current().expect("there is one").id();
        assert_eq!(find(own).expect("found").map(|netns| netns.id()), Some(own));
        let nowhere = NetnsId { dev: own.dev, inode: 1 };
        assert!(find(nowhere).expect("looked for").is_none());
    }

    #[test]
    fn mounted_namespaces_are_read_from_mountinfo() {
        let line = "45 26 0:4 net:[4026532] /run/netns/my\\040ns rw shared:5 - nsfs nsfs rw";
        assert_eq!(mount_point_of_nsfs(line), Some("/run/netns/my ns".into()));
        assert_eq!(mount_point_of_nsfs("26 1 0:22 / /run rw - tmpfs tmpfs rw"), None);
    }
}
