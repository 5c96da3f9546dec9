//! The root file systems with container engines, in which the tests of `vswitch/tests/engines` run.

#[path = "../../../vswitch/tests/engines/harness/roots.rs"]
mod roots;

use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};

use super::log_path;
use crate::{programs, progress};
pub use roots::{ALL_REQUIRED, Root};

/// Roots that are being made.
pub struct Making(Option<JoinHandle<Result<()>>>);

/// The program that makes them.
const MMDEBSTRAP: &str = "mmdebstrap";

/// Returns the roots of the tests that CI runs for every commit, or all.
pub fn roots(all: bool) -> &'static [&'static Root] {
    if all { &roots::ROOTS } else { &roots::ROOTS[..1] }
}

/// Starts to make the missing ones of these roots, one after the other. Most of the time goes into
/// unpacking, so that compiling beside it costs little.
pub fn make(roots: &'static [&'static Root]) -> Making {
    let mut missing: Vec<_> = roots.iter().filter(|root| !root.exists()).collect();
    // Tests without virtual machines need no more than running does: those of engines are skipped.
    if !missing.is_empty() && !programs::exists(MMDEBSTRAP) {
        eprintln!("setup: without {MMDEBSTRAP} there are no engines for tests (`cargo xtask setup` installs it)");
        missing.clear();
    }
    let thread = (!missing.is_empty()).then(|| {
        eprintln!("setup: root file systems with engines are made in {}", roots::CACHE);
        thread::spawn(move || missing.into_iter().try_for_each(|root| make_one(root)))
    });
    Making(thread)
}

impl Making {
    /// Waits until the roots are made.
    pub fn wait(self) -> Result<()> {
        self.0.map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(anyhow!("the thread panicked"))))
    }
}

fn make_one(root: &Root) -> Result<()> {
    let mut command = programs::as_root("sh");
    command.args(["-c", roots::SCRIPT, "root.sh"]).args(root.arguments());
    progress::step(&format!("root of engines {}", root.name), command, &log_path(&format!("engines-{}", root.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_of_other_recipes_have_other_directories() {
        let mut directories: Vec<_> = roots(true).iter().map(|root| root.directory()).collect();
        directories.sort();
        directories.dedup();
        assert_eq!(directories.len(), roots(true).len());
        assert_eq!(roots(false)[0].name, "trixie");
        let [directory, suite, packages] = roots(false)[0].arguments();
        assert!(directory.starts_with("/var/cache/vswitch-engines/trixie-"), "{directory}");
        assert_eq!(suite, "trixie");
        assert!(packages.starts_with("docker.io,docker-cli,") && !packages.contains(' '), "{packages}");
    }
}
