//! A host's private key in its file: of mode 0600 and the daemon's own, made once and complete from the beginning.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::keys::PrivateKey;

/// More than a key and the end of its line have.
const LONGEST: u64 = 128;
/// Bits of a mode that let others than the owner at a file.
const OTHERS: u32 = 0o077;

/// A host's private key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others can read or change it.
    #[error(
        "the private key in {} can be read or changed by others (mode {mode:04o}): remove it, and a new one is made that only root reads", path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is somebody else's.
    #[error(
        "the private key in {} belongs to user {owner} and not to user {wanted}, who runs this: remove it, and a new one is made", path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        wanted: u32,
    },
    /// A symbolic link, a directory or something else that is no file.
    #[error("the private key at {} is {what}, not a file of its own: remove it, and a new one is made", path.display())]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// There is no key in it.
    #[error("in {} is no private key, which is one line of 44 characters of base64: remove it, and a new one is made", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// It could not be read or written.
    #[error("cannot {action} the private key in {}: {source}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Reads the private key in a file; makes a new one if there is no file. The directory has to be there.
///
/// # Errors
/// [`KeyFileError`]: a file that others may read or change, that is somebody else's, that is no file, or that holds no
/// key is left as it is.
pub fn load_or_create(path: &Path) -> Result<PrivateKey, KeyFileError> {
    match load(path)? {
        Some(key) => Ok(key),
        None => create(path),
    }
}

/// `None` if there is no file.
fn load(path: &Path) -> Result<Option<PrivateKey>, KeyFileError> {
    let here = || path.to_owned();
    // Not through a link, and without waiting for the far end of a pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(KeyFileError::NotFile { path: here(), what: "a symbolic link" });
        }
        Err(source) => return Err(KeyFileError::Io { action: "open", path: here(), source }),
    };
    let failed = |source| KeyFileError::Io { action: "read", path: here(), source };
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner, wanted) = (metadata.mode() & 0o7777, metadata.uid(), nix::unistd::geteuid().as_raw());
    if !metadata.is_file() {
        return Err(KeyFileError::NotFile { path: here(), what: "a directory or a device" });
    }
    if owner != wanted {
        return Err(KeyFileError::Owner { path: here(), owner, wanted });
    }
    if mode & OTHERS != 0 {
        return Err(KeyFileError::Open { path: here(), mode });
    }
    // Room from the start: a buffer that grows leaves its older, shorter copies in memory.
    let mut text = Zeroizing::new(String::with_capacity(LONGEST as usize + 1));
    match file.take(LONGEST).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(KeyFileError::Malformed { path: here() });
        }
        Err(error) => return Err(failed(error)),
    }
    let key = PrivateKey::from_base64(text.strip_suffix('\n').unwrap_or(&text));
    key.map(Some).ok_or_else(|| KeyFileError::Malformed { path: here() })
}

/// Makes one elsewhere first, so that there is never half of a key. Of two that do it at once, both get the first's.
fn create(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let failed = |source| KeyFileError::Io { action: "write", path: path.to_owned(), source };
    let key = PrivateKey::generate();
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(new);
    // What is left of one that was killed at it, and had our number.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // link(2) fails where rename(2) would replace what is there.
    let made = write(&new, &key).and_then(|()| fs::hard_link(&new, path));
    let removed = fs::remove_file(&new);
    match made {
        Ok(()) => removed.map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            removed.map_err(failed)?;
            return load(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()));
        }
        Err(error) => return Err(failed(error)),
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    tracing::info!("made a new private key of WireGuard in {}; the public one is {}", path.display(), key.public());
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

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wireguard.key");
        (directory, path)
    }

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let (directory, path) = place();
        let made = load_or_create(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.nlink(), metadata.len()), (0o600, 1, 45));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(load_or_create(&path).unwrap().public(), made.public());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(load_or_create(&path).unwrap().public(), made.public());
    }

    #[test]
    fn many_that_make_it_at_once_get_the_same() {
        let (_directory, path) = place();
        // In one process they would share the name beside it: so by way of what comes after it.
        let first = create(&path).unwrap().public();
        assert_eq!(create(&path).unwrap().public(), first);
        assert_eq!(load_or_create(&path).unwrap().public(), first);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let (_directory, path) = place();
        load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = load_or_create(&path).unwrap_err();
            assert!(matches!(refused, KeyFileError::Open { mode: found, .. } if found == mode), "{refused}");
        }
    }

    #[test]
    fn somebody_elses_file_is_refused() {
        let (_directory, path) = place();
        load_or_create(&path).unwrap();
        // Only root can give it away.
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
            assert!(matches!(load_or_create(&path), Err(KeyFileError::Owner { owner: 1234, wanted: 0, .. })));
        }
    }

    #[test]
    fn links_and_directories_are_refused() {
        let (directory, path) = place();
        let elsewhere = directory.path().join("elsewhere");
        load_or_create(&elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let refused = load_or_create(&path).unwrap_err().to_string();
        assert!(refused.contains("a symbolic link, not a file"), "{refused}");
        fs::remove_file(&path).unwrap();
        // One that leads nowhere, too.
        symlink(directory.path().join("nowhere"), &path).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyFileError::NotFile { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(load_or_create(&path), Err(KeyFileError::NotFile { .. })));
        let missing = directory.path().join("missing/key");
        assert!(matches!(load_or_create(&missing), Err(KeyFileError::Io { .. })));
    }

    #[test]
    fn what_is_no_key_is_refused_and_kept() {
        let (_directory, path) = place();
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
