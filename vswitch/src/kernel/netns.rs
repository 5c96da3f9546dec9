//! Network namespaces, by descriptors that are opened once and checked.
//!
//! Namespaces are entered by short-lived threads only: a thread of the runtime that stayed in a foreign one would serve
//! the next request there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{FsType, fstatfs};
use serde::{Deserialize, Serialize};

/// `NSFS_MAGIC` and `PROC_SUPER_MAGIC` (linux/magic.h).
const NSFS: FsType = FsType(0x6e73_6673);
const PROC: FsType = FsType(0x9fa0);

/// Symbolic links in one path; the kernel's own limit.
const MAX_SYMLINKS: usize = 40;

mod ioctl {
    //! `NS_GET_NSTYPE`, `_IO(0xb7, 3)` (linux/nsfs.h): the CLONE_NEW* flag of a namespace.
    nix::ioctl_none!(ns_get_nstype, 0xb7, 3);
}

/// What names a namespace as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device of the nsfs.
    pub dev: u64,
    /// Inode in it.
    pub inode: u64,
}

/// An open network namespace. Holding it keeps the namespace alive, so it is never stored.
#[derive(Debug)]
pub struct Netns {
    descriptor: OwnedFd,
    id: NetnsId,
    /// Where it was found, for messages.
    path: PathBuf,
}

/// Why a path is no network namespace to attach.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing there.
    #[error("no such namespace: {}", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// Something there, but no namespace.
    #[error("{} is not a namespace", path.display())]
    NotNamespace {
        /// The path.
        path: PathBuf,
    },
    /// A namespace of another kind.
    #[error("{} is a namespace of kind {kind}, not a network namespace", path.display())]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// Its kind, as in /proc/PID/ns.
        kind: &'static str,
    },
    /// On the way is a symbolic link that somebody other than root can change.
    #[error("{} leads through the symbolic link {}, which others than root can change", path.display(), link.display())]
    UntrustedSymlink {
        /// The path.
        path: PathBuf,
        /// The link.
        link: PathBuf,
    },
    /// The kernel does not let us.
    #[error("no permission to use the namespace {}", path.display())]
    PermissionDenied {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot use the namespace {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Netns {
    /// Opens the namespace at an absolute path, once. Symbolic links are followed only where root alone could have made
    /// them, and at /proc/PID/ns/net.
    ///
    /// # Errors
    /// A [`NetnsError`] that says what the path is instead.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let descriptor = walk(path)?;
        let failed = |errno: Errno| error(path, errno);
        if fstatfs(&descriptor).map_err(failed)?.filesystem_type() != NSFS {
            return Err(NetnsError::NotNamespace { path: path.to_owned() });
        }
        // The walk opened it by O_PATH; setns and ioctl want it open. Reopened through /proc it is the same file.
        let reopened = File::open(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        let file = reopened.map_err(|source| io_error(path, source))?;
        // SAFETY: an ioctl without argument on a descriptor that is open.
        let kind = unsafe { ioctl::ns_get_nstype(file.as_raw_fd()) }.map_err(failed)?;
        if kind != CloneFlags::CLONE_NEWNET.bits() {
            return Err(NetnsError::WrongKind { path: path.to_owned(), kind: kind_name(kind) });
        }
        Self::of(path, file)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetnsError::Io`] where /proc is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        Self::of(path, file)
    }

    fn of(path: &Path, file: File) -> Result<Self, NetnsError> {
        let metadata = file.metadata().map_err(|source| io_error(path, source))?;
        let id = NetnsId { dev: metadata.dev(), inode: metadata.ino() };
        Ok(Self { descriptor: file.into(), id, path: path.to_owned() })
    }

    /// Which one it is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `action` inside, on a thread that ends with it.
    ///
    /// # Errors
    /// [`NetnsError::PermissionDenied`] or [`NetnsError::Io`] if the kernel refuses the thread or the entry. A panic of
    /// `action` goes on here.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let failed = |source| io_error(&self.path, source);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                setns(&self.descriptor, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                Ok(action())
            });
            match thread.map_err(failed)?.join() {
                Ok(result) => result.map_err(failed),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Which process a path of the form /proc/PID/... is of, such that no other has the same: when it began, and since which
/// boot. `None` for other paths, and where the process is gone.
pub fn process_behind(path: &Path) -> Option<String> {
    let pid: u32 = path.strip_prefix("/proc").ok()?.components().next()?.as_os_str().to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the start time is the 22nd field, the 20th behind it (proc(5)).
    let began = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {began}", boot.trim_end()))
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn error(path: &Path, errno: Errno) -> NetnsError {
    let path = path.to_owned();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH => NetnsError::NotFound { path },
        Errno::EACCES | Errno::EPERM => NetnsError::PermissionDenied { path },
        // Not a file that knows this ioctl.
        Errno::ENOTTY => NetnsError::NotNamespace { path },
        errno => NetnsError::Io { path, source: errno.into() },
    }
}

fn kind_name(flag: i32) -> &'static str {
    match CloneFlags::from_bits_truncate(flag) {
        CloneFlags::CLONE_NEWNS => "mnt",
        CloneFlags::CLONE_NEWUTS => "uts",
        CloneFlags::CLONE_NEWIPC => "ipc",
        CloneFlags::CLONE_NEWUSER => "user",
        CloneFlags::CLONE_NEWPID => "pid",
        CloneFlags::CLONE_NEWCGROUP => "cgroup",
        _ if flag == libc::CLONE_NEWTIME => "time",
        _ => "unknown",
    }
}

/// One directory of the walk.
struct Place {
    descriptor: OwnedFd,
    path: PathBuf,
}

/// Walks a path from the root, one component at a time, and returns an O_PATH descriptor of its end.
fn walk(path: &Path) -> Result<OwnedFd, NetnsError> {
    let failed = |errno: Errno| error(path, errno);
    let directory = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
    let root = || nix::fcntl::open("/", directory, Mode::empty()).map_err(failed);
    if !path.is_absolute() {
        return Err(NetnsError::NotFound { path: path.to_owned() });
    }
    let mut places = vec![Place { descriptor: root()?, path: PathBuf::from("/") }];
    let mut rest: Vec<OsString> = components(path);
    let mut symlinks = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            if places.len() > 1 {
                places.pop();
            }
            continue;
        }
        let Some(here) = places.last() else { unreachable!("the root stays") };
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let next = openat(&here.descriptor, name.as_os_str(), flags, Mode::empty()).map_err(failed)?;
        let next = Place { descriptor: next, path: here.path.join(&name) };
        match SFlag::from_bits_truncate(fstat(&next.descriptor).map_err(failed)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => {}
            _ if rest.is_empty() => return Ok(next.descriptor),
            SFlag::S_IFDIR => {
                places.push(next);
                continue;
            }
            _ => return Err(failed(Errno::ENOTDIR)),
        }
        symlinks += 1;
        if symlinks > MAX_SYMLINKS {
            return Err(failed(Errno::ELOOP));
        }
        match trust(here, &next).map_err(failed)? {
            // What the link says is only for people: to follow it is to open it.
            Trust::Namespace if rest.is_empty() => {
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                return openat(&here.descriptor, name.as_os_str(), flags, Mode::empty()).map_err(failed);
            }
            Trust::Root => {
                let target = PathBuf::from(readlinkat(&next.descriptor, "").map_err(failed)?);
                if target.is_absolute() {
                    places = vec![Place { descriptor: root()?, path: PathBuf::from("/") }];
                }
                rest.extend(components(&target));
            }
            Trust::Namespace | Trust::Nobody => {
                return Err(NetnsError::UntrustedSymlink { path: path.to_owned(), link: next.path });
            }
        }
    }
    places.pop().map(|place| place.descriptor).ok_or_else(|| NetnsError::NotFound { path: path.to_owned() })
}

/// Who has said where a symbolic link leads.
enum Trust {
    /// Root.
    Root,
    /// The kernel: it is a namespace of a process, one of /proc/PID/ns.
    Namespace,
    /// Whoever wants to.
    Nobody,
}

/// The inode of procfs's own root (`PROC_ROOT_INO`).
const PROC_ROOT: u64 = 1;

fn trust(directory: &Place, link: &Place) -> Result<Trust, Errno> {
    let parent = fstat(&directory.descriptor)?;
    if fstatfs(&link.descriptor)?.filesystem_type() == PROC {
        if directory.path.file_name() == Some(OsStr::new("ns")) {
            return Ok(Trust::Namespace);
        }
        // A process chooses where its `cwd`, `root` and `fd/N` lead, and their text means something to itself alone. It is
        // otherwise with `self` and its like at the top.
        if parent.st_ino != PROC_ROOT {
            return Ok(Trust::Nobody);
        }
    }
    let root_alone = parent.st_uid == 0 && parent.st_mode & 0o022 == 0;
    Ok(if root_alone && fstat(&link.descriptor)?.st_uid == 0 { Trust::Root } else { Trust::Nobody })
}

fn io_error(path: &Path, source: io::Error) -> NetnsError {
    match source.raw_os_error() {
        Some(errno) => error(path, Errno::from_raw(errno)),
        None => NetnsError::Io { path: path.to_owned(), source },
    }
}

/// The names in a path, last first.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.map(OsStr::to_owned).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_path_last_first() {
        assert_eq!(components(Path::new("/run/./netns/../x")), ["x", "..", "netns", "run"]);
        assert!(components(Path::new("/")).is_empty());
    }

    #[test]
    fn kinds_have_the_names_of_proc() {
        assert_eq!(kind_name(CloneFlags::CLONE_NEWUTS.bits()), "uts");
        assert_eq!(kind_name(0), "unknown");
    }
}
