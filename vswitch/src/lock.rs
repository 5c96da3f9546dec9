//! The lock that the daemon of an instance holds for as long as it lives: there is never more than one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A process has it.
    #[error("another process of this instance is starting or stopping (try again when it is done)")]
    Held,
    /// The file could not be used.
    #[error("cannot use the lock {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lock, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock, if nobody has it.
    ///
    /// # Errors
    /// [`LockError::Held`] if somebody has.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.to_owned(), source };
        loop {
            let file =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => return Err(LockError::Held),
                Err((_, errno)) => return Err(failed(errno.into())),
            };
            // `down` removes the file with the lock held: then what was locked here is no lock any more.
            let ours = file.metadata().map_err(failed)?;
            match path.metadata() {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(Self { _file: file }),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_until_it_is_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let lock = Lock::acquire(&path).expect("nobody has it");
        assert!(matches!(Lock::acquire(&path), Err(LockError::Held)));
        drop(lock);
        assert!(Lock::acquire(&path).is_ok());
    }

    #[test]
    fn a_lock_whose_file_was_removed_keeps_nobody_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let _old = Lock::acquire(&path).expect("nobody has it");
        std::fs::remove_file(&path).expect("removed");
        assert!(Lock::acquire(&path).is_ok());
    }
}
