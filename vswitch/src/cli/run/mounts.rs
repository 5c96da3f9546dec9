//! The command's own files in /etc and /sys, mounted in its own mount namespace. They are not on a
//! disk, not visible outside the namespace, and disappear with the last process in it.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::NamespaceSetup;
use crate::etc_files::RESOLV_CONF;

/// Parts of sysfs that show the devices of a network namespace. sysfs shows the namespace in which
/// it was mounted. The rest of /sys stays, because it holds other mounts, such as cgroup and BPF
/// file systems.
const SYSFS: [&str; 2] = ["class/net", "devices/virtual/net"];

/// A file that could not be mounted for the command.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {} for the command: {source}", path.display())]
pub struct MountError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Mounts the files over those of the host in the mount namespace of this process, which must not
/// be the host's. A tmpfs covers the directory `staging` during the call.
pub fn mount_files(setup: &NamespaceSetup, staging: &Path) -> Result<(), MountError> {
    let mount_error = |action, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| MountError { action, path, source }
    };
    let root = Path::new("/");
    // Slave mounts: mounts made here do not reach the host, and an unmount on the host also applies
    // here.
    mount_at(None, root, None, MsFlags::MS_REC | MsFlags::MS_SLAVE, None)
        .map_err(mount_error("separate the mounts of", root))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at(Some("tmpfs"), staging, Some("tmpfs"), flags, Some("mode=0755")).map_err(mount_error("mount", staging))?;
    let hostname = format!("{}\n", setup.hostname);
    for (name, text) in [(RESOLV_CONF, &setup.resolv_conf), ("hosts", &setup.hosts), ("hostname", &hostname)] {
        let (source, target) = (staging.join(name), Path::new("/etc").join(name));
        fs::write(&source, text)
            .and_then(|()| fs::set_permissions(&source, Permissions::from_mode(0o644)))
            .map_err(mount_error("write", &source))?;
        match bind(&source, &target) {
            // If the host does not have the file, it is skipped. A file created as mount point
            // would be visible on the host.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(mount_error("mount", &target))?,
        }
    }
    bind_sysfs_devices(staging);
    // The bind mounts stay when the tmpfs is detached.
    umount2(staging, MntFlags::MNT_DETACH).map_err(|errno| mount_error("unmount", staging)(errno.into()))
}

/// Shows the devices of the namespace in /sys. Errors are ignored: programs that do more than list
/// devices use netlink, and there may be no sysfs.
fn bind_sysfs_devices(staging: &Path) {
    let sysfs = staging.join("sys");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if fs::create_dir(&sysfs).is_ok() && mount_at(Some("sysfs"), &sysfs, Some("sysfs"), flags, None).is_ok() {
        for part in SYSFS {
            let _ = bind(&sysfs.join(part), &Path::new("/sys").join(part));
        }
    }
}

/// Mounts on `target` itself, even if it is a symbolic link. systemd-resolved replaces the file
/// behind the link /etc/resolv.conf, and the kernel would drop a mount on the old file.
fn bind(source: &Path, target: &Path) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::open(target, flags, Mode::empty())?;
    let target = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(io::Error::from)
}

fn mount_at(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> io::Result<()> {
    mount(source, target, kind, flags, data).map_err(io::Error::from)
}
