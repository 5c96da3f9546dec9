//! Removal of the cgroups that dockerd leaves behind, in every hierarchy.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Time limit for the kernel to empty a cgroup after its last process exited.
const SETTLE: Duration = Duration::from_secs(5);

/// Removes the cgroup `name` below the root of every hierarchy. A failure is reported but not
/// returned.
pub fn remove(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    // The root itself is the hierarchy of version 2. Each hierarchy of version 1 is a directory in
    // it, or a link to one.
    let hierarchies = subdirectories(root).unwrap_or_default().into_iter().chain([root.to_owned()]);
    for group in hierarchies.map(|hierarchy| hierarchy.join(name)).filter(|group| group.is_dir()) {
        let start = Instant::now();
        while let Err(error) = remove_tree(&group) {
            if start.elapsed() > SETTLE {
                eprintln!("vswitch-bench: left behind: {}: {error}", group.display());
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Removes a cgroup with its children. The files in a cgroup cannot be removed and disappear with
/// it.
fn remove_tree(group: &Path) -> io::Result<()> {
    for child in subdirectories(group)? {
        remove_tree(&child)?;
    }
    fs::remove_dir(group)
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    Ok(paths.collect::<io::Result<Vec<_>>>()?.into_iter().filter(|path| path.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_is_removed_with_its_children() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("group");
        fs::create_dir_all(group.join("a/b")).unwrap();
        remove_tree(&group).unwrap();
        assert!(!group.exists() && root.path().exists());
    }
}
