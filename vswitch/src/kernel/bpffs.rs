//! The instance's own BPF file system, where programs, links and maps are pinned.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// A bpffs could not be mounted or taken away.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the BPF file system at {}: {source}", path.display())]
pub struct BpffsError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Whether a bpffs is mounted at the path.
pub fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|statistics| statistics.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a bpffs, making the directory where there is none. What is mounted there already stays.
///
/// # Errors
/// What the kernel said.
pub fn ensure(path: &Path) -> Result<(), BpffsError> {
    let failed = |source| BpffsError { action: "mount", path: path.to_owned(), source };
    if is_mounted(path) {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| failed(errno.into()))
}

/// Takes the bpffs away with all its pins, and the directory. Fine if it is not there.
///
/// # Errors
/// What the kernel said.
pub fn remove(path: &Path) -> Result<(), BpffsError> {
    let failed = |source| BpffsError { action: "unmount", path: path.to_owned(), source };
    while is_mounted(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(|errno: Errno| failed(errno.into()))?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}
