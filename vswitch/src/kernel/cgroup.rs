//! The control groups of version 2.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Returns the directory of the root control group, if control groups of version 2 are mounted. In
/// a container this is the root that the container sees.
pub fn root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().filter_map(mount_point).find(|point| {
        // Another mount may cover this one.
        statfs(point).is_ok_and(|statistics| statistics.filesystem_type() == CGROUP2_SUPER_MAGIC)
    })
}

/// Returns the mount point of a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)), if the root of
/// the control groups is mounted there.
fn mount_point(line: &str) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let is_root = root == "/" && file_system.split(' ').next() == Some("cgroup2");
    // A space in a path is written as \040.
    is_root.then(|| Path::new(&point.replace("\\040", " ")).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_version_2_is_found() {
        let hybrid = "42 32 0:28 / /sys/fs/cgroup/uni\\040fied rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/uni fied".into()));
        let without_tags = "42 32 0:28 / /sys/fs/cgroup rw - cgroup2 none rw";
        assert_eq!(mount_point(without_tags), Some("/sys/fs/cgroup".into()));
        for other in [
            "41 32 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu",
            "41 32 0:27 /docker/1 /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw",
            "41 32 0:27 / /sys/fs/cgroup rw",
            "",
        ] {
            assert_eq!(mount_point(other), None, "{other}");
        }
    }
}
