//! BPF file system of the instance, where programs, links and maps are pinned.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Error of mounting or removing a bpffs.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the BPF file system at {}: {source}", path.display())]
pub struct BpffsError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Reports whether a bpffs is mounted at the path.
pub fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|statistics| statistics.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a bpffs and creates its directory if needed. A bpffs that is already mounted there is
/// kept.
///
/// # Errors
/// The directory cannot be created or the bpffs cannot be mounted.
pub fn ensure(path: &Path) -> Result<(), BpffsError> {
    let failed = |source| BpffsError { action: "mount", path: path.to_owned(), source };
    if is_mounted(path) {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| failed(errno.into()))
}

/// Unmounts the bpffs, removes all its pins and its directory. Succeeds if none of them exists.
///
/// # Errors
/// The kernel refused one of these steps.
pub fn remove(path: &Path) -> Result<(), BpffsError> {
    let failed = |action| move |source| BpffsError { action, path: path.to_owned(), source };
    while is_mounted(path) {
        // Pins keep their objects alive as long as the file system is mounted anywhere. Processes
        // with a mount namespace of their own may still have a copy of this mount.
        remove_pins(path).map_err(failed("remove the pins from"))?;
        umount2(path, MntFlags::MNT_DETACH).map_err(|errno| failed("unmount")(errno.into()))?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the directory of")(error)),
        _ => Ok(()),
    }
}

fn remove_pins(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Names with dots belong to the kernel (bpf_lookup): maps.debug and progs.debug, which
        // cannot be removed.
        if entry.file_name().as_encoded_bytes().contains(&b'.') {
            continue;
        }
        let removed =
            if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
