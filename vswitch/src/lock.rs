//! Lock file of an instance. The daemon holds the lock as long as it runs, so an instance never has
//! two daemons.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Error of taking the lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock.
    #[error("another process of this instance is starting or stopping (try again when it is done)")]
    Held,
    /// The lock file cannot be opened or locked.
    #[error("cannot use the lock {path}: {source}", path = path.display())]
    Io {
        /// Path of the lock file.
        path: PathBuf,
        /// Error that the kernel returned.
        source: io::Error,
    },
}

/// A held lock, released when it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process holds the lock.
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
            // `down` removes the file while it holds the lock. A lock on a removed file excludes no
            // other process, so the inode is compared with the current file, and the loop tries
            // again if they differ.
            let locked = file.metadata().map_err(failed)?;
            match path.metadata() {
                Ok(current) if (current.dev(), current.ino()) == (locked.dev(), locked.ino()) => {
                    return Ok(Self { _file: file });
                }
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
    fn the_lock_is_held_until_it_is_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let lock = Lock::acquire(&path).expect("the lock is free");
        assert!(matches!(Lock::acquire(&path), Err(LockError::Held)));
        drop(lock);
        assert!(Lock::acquire(&path).is_ok());
    }

    #[test]
    fn a_lock_on_a_removed_file_does_not_block() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("lock");
        let _old = Lock::acquire(&path).expect("the lock is free");
        std::fs::remove_file(&path).expect("removed");
        assert!(Lock::acquire(&path).is_ok());
    }
}
