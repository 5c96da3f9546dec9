//! File with a host's private key. It has mode 0600, belongs to the daemon's user, is created once,
//! and is never incomplete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::keys::PrivateKey;

/// Upper limit for the size of the file in bytes: more than a key and its line end.
const MAX_SIZE: u64 = 128;
/// Mode bits that give access to users other than the owner.
const OTHER_USERS: u32 = 0o077;

/// The private key could not be read or created.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Other users can read or change the file.
    #[error(
        "other users can read or change the private key in {}, which has mode {mode:04o} (remove the file, and a new key is created)", path.display()
    )]
    Accessible {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file belongs to another user.
    #[error(
        "the private key in {} belongs to user {owner}, and the daemon runs as user {expected} (remove the file, and a new key is created)", path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of the daemon.
        expected: u32,
    },
    /// The path is not a regular file.
    #[error("the private key at {} is {what}, not a regular file (remove it, and a new key is created)", path.display())]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What the path is instead.
        what: &'static str,
    },
    /// The file does not contain a key.
    #[error("the file {} contains no private key, which is one line of 44 characters of base64 (remove the file, and a new key is created)", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("cannot {action} the private key in {}: {source}", path.display())]
    Io {
        /// Failed operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
}

/// Reads the private key from a file, or creates the file with a new key. The directory must exist.
///
/// # Errors
/// [`KeyFileError`]. A file that other users can access, that belongs to another user, that is not
/// regular, or that contains no key is left unchanged.
pub fn load_or_create(path: &Path) -> Result<PrivateKey, KeyFileError> {
    match load(path)? {
        Some(key) => Ok(key),
        None => create(path),
    }
}

/// Reads the key; `None` if the file does not exist.
fn load(path: &Path) -> Result<Option<PrivateKey>, KeyFileError> {
    let owned_path = || path.to_owned();
    // Do not follow a symbolic link, and do not wait for the other end of a FIFO.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(KeyFileError::NotFile { path: owned_path(), what: "a symbolic link" });
        }
        Err(source) => return Err(KeyFileError::Io { action: "open", path: owned_path(), source }),
    };
    let failed = |source| KeyFileError::Io { action: "read", path: owned_path(), source };
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner, expected) = (metadata.mode() & 0o7777, metadata.uid(), nix::unistd::geteuid().as_raw());
    if !metadata.is_file() {
        return Err(KeyFileError::NotFile { path: owned_path(), what: "a directory or a device" });
    }
    if owner != expected {
        return Err(KeyFileError::Owner { path: owned_path(), owner, expected });
    }
    if mode & OTHER_USERS != 0 {
        return Err(KeyFileError::Accessible { path: owned_path(), mode });
    }
    // Allocate the full size at once: a growing buffer would leave copies of the key in freed
    // memory.
    let mut text = Zeroizing::new(String::with_capacity(MAX_SIZE as usize + 1));
    match file.take(MAX_SIZE).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(KeyFileError::Malformed { path: owned_path() });
        }
        Err(error) => return Err(failed(error)),
    }
    let key = PrivateKey::from_base64(text.strip_suffix('\n').unwrap_or(&text));
    key.map(Some).ok_or_else(|| KeyFileError::Malformed { path: owned_path() })
}

/// Writes the key to a temporary file first, so that the key file is never incomplete. If two
/// processes do this at the same time, both get the key of the first.
fn create(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let failed = |source| KeyFileError::Io { action: "write", path: path.to_owned(), source };
    let key = PrivateKey::generate();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    // Left over from a process with the same id that was killed here.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // link(2) fails if the key file exists, where rename(2) would replace it.
    let created = write(&temporary, &key).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match created {
        Ok(()) => removed.map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            removed.map_err(failed)?;
            return load(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()));
        }
        Err(error) => return Err(failed(error)),
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    tracing::info!("created a WireGuard private key in {}; the public key is {}", path.display(), key.public());
    Ok(key)
}

fn write(path: &Path, key: &PrivateKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.to_base64().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn key_path() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wireguard.key");
        (directory, path)
    }

    #[test]
    fn a_key_is_created_once_and_only_its_owner_can_read_it() {
        let (directory, path) = key_path();
        let created = load_or_create(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.nlink(), metadata.len()), (0o600, 1, 45));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(load_or_create(&path).unwrap().public(), created.public());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(load_or_create(&path).unwrap().public(), created.public());
    }

    #[test]
    fn concurrent_creation_gives_one_key() {
        let (_directory, path) = key_path();
        // Concurrent calls in one process would share the temporary file. So the second call runs
        // after the first, and finds its file.
        let first = create(&path).unwrap().public();
        assert_eq!(create(&path).unwrap().public(), first);
        assert_eq!(load_or_create(&path).unwrap().public(), first);
    }

    #[test]
    fn a_file_that_other_users_can_access_is_refused() {
        let (_directory, path) = key_path();
        load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = load_or_create(&path).unwrap_err();
            assert!(matches!(refused, KeyFileError::Accessible { mode: found, .. } if found == mode), "{refused}");
        }
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let (_directory, path) = key_path();
        load_or_create(&path).unwrap();
        // Only root can change the owner.
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
            assert!(matches!(load_or_create(&path), Err(KeyFileError::Owner { owner: 1234, expected: 0, .. })));
        }
    }

    #[test]
    fn links_and_directories_are_refused() {
        let (directory, path) = key_path();
        let elsewhere = directory.path().join("elsewhere");
        load_or_create(&elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let refused = load_or_create(&path).unwrap_err().to_string();
        assert!(refused.contains("a symbolic link, not a regular file"), "{refused}");
        fs::remove_file(&path).unwrap();
        // A dangling symbolic link.
        symlink(directory.path().join("nowhere"), &path).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyFileError::NotFile { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyFileError::NotFile { .. })));
        let missing = directory.path().join("missing/key");
        assert!(matches!(load_or_create(&missing), Err(KeyFileError::Io { .. })));
    }

    #[test]
    fn an_invalid_key_file_is_refused_and_kept() {
        let (_directory, path) = key_path();
        for text in ["", "\n", "x\n", "AAAA\n", &"A".repeat(500), "\u{ff}\n"] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let refused = load_or_create(&path).unwrap_err();
            assert!(matches!(refused, KeyFileError::Malformed { .. }), "{text}: {refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, [0xff; 45]).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyFileError::Malformed { .. })));
    }
}
