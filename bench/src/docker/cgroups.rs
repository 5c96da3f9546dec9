//! The control groups that dockerd leaves behind, in every hierarchy that there is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The kernel empties a group a moment after its last process has ended.
const SETTLE: Duration = Duration::from_secs(5);

/// Removes the group `name` below the root of every hierarchy; a failure is told but stops nothing.
pub fn remove(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    // Version 2 is the root itself, each of version 1 a directory in it, which may be a link to another one.
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

/// The files in a group cannot be removed, and go with it.
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
    fn a_group_goes_with_the_groups_in_it() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("group");
        fs::create_dir_all(group.join("a/b")).unwrap();
        remove_tree(&group).unwrap();
        assert!(!group.exists() && root.path().exists());
    }
}
