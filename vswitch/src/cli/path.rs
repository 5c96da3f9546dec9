//! Paths of namespaces, as the daemon can use them: absolute, and `/proc/self` turned into whom it means here.

use std::io;
use std::path::{Component, Path, PathBuf};

/// The path for the daemon, which has another working directory and is another process.
///
/// # Errors
/// The working directory is gone.
pub fn for_daemon(typed: &Path) -> io::Result<PathBuf> {
    let absolute = if typed.as_os_str().is_empty() { PathBuf::new() } else { std::path::absolute(typed)? };
    Ok(without_self(&absolute, std::process::id()))
}

/// Only names are looked at: links are the daemon's to judge.
fn without_self(path: &Path, process: u32) -> PathBuf {
    let mut components = path.components();
    let beginning = [components.next(), components.next(), components.next()];
    let names = |name: &'static str| Some(Component::Normal(name.as_ref()));
    let own = beginning[2] == names("self") || beginning[2] == names("thread-self");
    if beginning[0] == Some(Component::RootDir) && beginning[1] == names("proc") && own {
        Path::new("/proc").join(process.to_string()).join(components.as_path())
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_self_is_who_asks() {
        for (typed, sent) in [
            ("/proc/self/ns/net", "/proc/7/ns/net"),
            ("/proc/thread-self/ns/net", "/proc/7/ns/net"),
            ("/proc/1/ns/net", "/proc/1/ns/net"),
            ("/run/netns/self", "/run/netns/self"),
            ("/srv/proc/self/ns/net", "/srv/proc/self/ns/net"),
        ] {
            assert_eq!(without_self(Path::new(typed), 7), PathBuf::from(sent));
        }
        assert!(for_daemon(Path::new("web")).expect("a path").is_absolute());
    }
}
