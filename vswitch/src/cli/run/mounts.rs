//! What the command finds at /etc and /sys, mounted in its own mount namespace. Nothing of it is on a disk or seen
//! outside, and it is gone with the last process in there.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::Setting;
use crate::etc::RESOLV_CONF;

/// Parts of sysfs that show the devices of a network namespace: of the one in which it was mounted. The rest of /sys
/// holds other mounts, of control groups and BPF, and stays.
const SYSFS: [&str; 2] = ["class/net", "devices/virtual/net"];

/// A file could not be put into its place.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {} for the command: {source}", path.display())]
pub struct MountError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Mounts the files over the host's, in the mount namespace of this process, which must be its own. `staging` is a
/// directory that is covered meanwhile.
pub fn make(setting: &Setting, staging: &Path) -> Result<(), MountError> {
    let refused = |action, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| MountError { action, path, source }
    };
    let root = Path::new("/");
    // What we mount is ours alone; what the host unmounts goes here too, and is not held.
    mount_at(None, root, None, MsFlags::MS_REC | MsFlags::MS_SLAVE, None)
        .map_err(refused("separate the mounts", root))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at(Some("tmpfs"), staging, Some("tmpfs"), flags, Some("mode=0755")).map_err(refused("mount", staging))?;
    let hostname = format!("{}\n", setting.hostname);
    for (name, text) in [(RESOLV_CONF, &setting.resolv_conf), ("hosts", &setting.hosts), ("hostname", &hostname)] {
        let (source, target) = (staging.join(name), Path::new("/etc").join(name));
        fs::write(&source, text)
            .and_then(|()| fs::set_permissions(&source, Permissions::from_mode(0o644)))
            .map_err(refused("write", &source))?;
        match bind(&source, &target) {
            // Where the host has none there is nothing to mount over, and to make one would be seen outside.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(refused("mount", &target))?,
        }
    }
    show_devices(staging);
    // What is mounted from here stays.
    umount2(staging, MntFlags::MNT_DETACH).map_err(|errno| refused("unmount", staging)(errno.into()))
}

/// Shows the namespace's devices in /sys. Programs that need more than a look at them use netlink, so where there is no
/// sysfs to begin with, it is left at that.
fn show_devices(staging: &Path) {
    let sysfs = staging.join("sys");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if fs::create_dir(&sysfs).is_ok() && mount_at(Some("sysfs"), &sysfs, Some("sysfs"), flags, None).is_ok() {
        for part in SYSFS {
            let _ = bind(&sysfs.join(part), &Path::new("/sys").join(part));
        }
    }
}

/// Mounts on the target itself, also where it is a symbolic link: systemd-resolved puts another file in the place of the
/// one that /etc/resolv.conf leads to, and the kernel would take a mount there away with the old one.
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
