//! Paths of namespaces in a form that the daemon can open: absolute, with `/proc/self` replaced by
//! the id of this process.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Returns the path for the daemon, which has another working directory and another process id.
///
/// # Errors
/// The working directory no longer exists.
pub fn resolve_for_daemon(typed: &Path) -> io::Result<PathBuf> {
    let absolute = if typed.as_os_str().is_empty() { PathBuf::new() } else { std::path::absolute(typed)? };
    Ok(replace_self(&absolute, std::process::id()))
}

/// Replaces `/proc/self` and `/proc/thread-self` by name only. Symbolic links are left to the
/// daemon, which decides whether to follow them.
fn replace_self(path: &Path, process: u32) -> PathBuf {
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
    fn proc_self_is_replaced_by_the_process_id() {
        for (typed, sent) in [
            ("/proc/self/ns/net", "/proc/7/ns/net"),
            ("/proc/thread-self/ns/net", "/proc/7/ns/net"),
            ("/proc/1/ns/net", "/proc/1/ns/net"),
            ("/run/netns/self", "/run/netns/self"),
            ("/srv/proc/self/ns/net", "/srv/proc/self/ns/net"),
        ] {
            assert_eq!(replace_self(Path::new(typed), 7), PathBuf::from(sent));
        }
        assert!(resolve_for_daemon(Path::new("web")).expect("a path").is_absolute());
    }
}
