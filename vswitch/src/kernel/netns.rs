//! Network namespaces, as file descriptors that are opened once and checked.
//!
//! Only short-lived threads enter a namespace. A thread of the runtime that stayed in a foreign
//! namespace would handle the next request there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{FsType, fstatfs};
use serde::{Deserialize, Serialize};

/// `NSFS_MAGIC` and `PROC_SUPER_MAGIC` (linux/magic.h).
const NSFS: FsType = FsType(0x6e73_6673);
const PROC: FsType = FsType(0x9fa0);

/// Maximum number of symbolic links in one path, the same limit as the kernel's.
const MAX_SYMLINKS: usize = 40;

mod ioctl {
    //! `NS_GET_NSTYPE`, `_IO(0xb7, 3)` (linux/nsfs.h): returns the CLONE_NEW* flag of a namespace.
    nix::ioctl_none!(ns_get_nstype, 0xb7, 3);
}

/// Identity of a namespace, unique as long as the namespace exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device number of the nsfs.
    pub dev: u64,
    /// Inode number in the nsfs.
    pub inode: u64,
}

/// An open network namespace. The open descriptor keeps the namespace alive, so a `Netns` is never
/// stored.
#[derive(Debug)]
pub struct Netns {
    descriptor: OwnedFd,
    id: NetnsId,
    /// Path from which the namespace was opened, for messages.
    path: PathBuf,
}

/// Reason why a path cannot be used as a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path does not exist.
    #[error("no such namespace: {}", path.display())]
    NotFound {
        /// Path that was given.
        path: PathBuf,
    },
    /// The path exists but is not a namespace.
    #[error("{} is not a namespace", path.display())]
    NotNamespace {
        /// Path that was given.
        path: PathBuf,
    },
    /// The path is a namespace of another kind.
    #[error("{} is a {kind} namespace, not a network namespace", path.display())]
    WrongKind {
        /// Path that was given.
        path: PathBuf,
        /// Kind of the namespace, by its name in /proc/PID/ns.
        kind: &'static str,
    },
    /// The path contains a symbolic link that users other than root can change.
    #[error("{} contains the symbolic link {}, which users other than root can change", path.display(), link.display())]
    UntrustedSymlink {
        /// Path that was given.
        path: PathBuf,
        /// Path of the symbolic link.
        link: PathBuf,
    },
    /// The process lacks the permission.
    #[error("no permission to use the namespace {}", path.display())]
    PermissionDenied {
        /// Path that was given.
        path: PathBuf,
    },
    /// Any other error.
    #[error("cannot use the namespace {}: {source}", path.display())]
    Io {
        /// Path that was given.
        path: PathBuf,
        /// Error that the kernel returned.
        source: io::Error,
    },
}

impl Netns {
    /// Opens the namespace at an absolute path. The path is resolved once. Symbolic links are
    /// followed only where root alone could have created them, and at /proc/PID/ns/net.
    ///
    /// # Errors
    /// [`NetnsError`]: the path cannot be opened or is not a network namespace.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let descriptor = resolve(path)?;
        let failed = |errno: Errno| error_from(path, errno);
        if fstatfs(&descriptor).map_err(failed)?.filesystem_type() != NSFS {
            return Err(NetnsError::NotNamespace { path: path.to_owned() });
        }
        // `resolve` returns an O_PATH descriptor, which setns(2) and ioctl(2) do not accept.
        // Reopening it through /proc opens the same file.
        let reopened = File::open(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        let file = reopened.map_err(|source| io_error(path, source))?;
        // SAFETY: the ioctl has no argument, and the descriptor is open.
        let kind = unsafe { ioctl::ns_get_nstype(file.as_raw_fd()) }.map_err(failed)?;
        if kind != CloneFlags::CLONE_NEWNET.bits() {
            return Err(NetnsError::WrongKind { path: path.to_owned(), kind: kind_name(kind) });
        }
        Self::from_file(path, file)
    }

    /// Returns the namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetnsError`] if /proc is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        let path = Path::new("/proc/thread-self/ns/net");
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        Self::from_file(path, file)
    }

    fn from_file(path: &Path, file: File) -> Result<Self, NetnsError> {
        let metadata = file.metadata().map_err(|source| io_error(path, source))?;
        let id = NetnsId { dev: metadata.dev(), inode: metadata.ino() };
        Ok(Self { descriptor: file.into(), id, path: path.to_owned() })
    }

    /// Returns the identity of the namespace.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Returns the cookie of the namespace: a number that the kernel gives to no other namespace
    /// until it boots again. Inode numbers are reused at once. Enters the namespace, which takes a
    /// thread.
    ///
    /// # Errors
    /// Fails as [`Netns::enter`] does, or the kernel has no cookies (before 5.14).
    pub fn cookie(&self) -> Result<u64, NetnsError> {
        let read = || {
            let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            let mut cookie = 0_u64;
            let mut length = size_of::<u64>() as libc::socklen_t;
            // SAFETY: the kernel writes at most `length` bytes to `cookie`, which has that size.
            let failed = unsafe {
                let value = (&raw mut cookie).cast();
                libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut length)
            };
            Errno::result(failed).map(|_| cookie)
        };
        self.enter(read)?.map_err(|errno| error_from(&self.path, errno))
    }

    /// Runs `action` in the namespace, on a new thread that ends with it. A panic of `action`
    /// continues in the calling thread.
    ///
    /// # Errors
    /// [`NetnsError::PermissionDenied`] or [`NetnsError::Io`] if the kernel refuses to create the
    /// thread or to enter the namespace.
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

/// Returns the cookie of the calling thread's namespace, by which eBPF programs know it
/// (`SO_NETNS_COOKIE`, kernel 5.14, e8b9eab99232).
///
/// # Errors
/// The kernel refuses a socket or the option.
pub fn cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let (mut cookie, mut length) = (0_u64, libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default());
    // SAFETY: `cookie` has `length` bytes, and both outlive the call.
    let answer = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut length)
    };
    if answer == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Returns a unique identity of the process in a path of the form /proc/PID/...: the boot id and
/// the start time of the process. Returns `None` for other paths, and if the process does not
/// exist.
pub fn process_behind(path: &Path) -> Option<String> {
    let pid: u32 = path.strip_prefix("/proc").ok()?.components().next()?.as_os_str().to_str()?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in parentheses may contain any character. The start time is field 22, the
    // 20th field after the name (proc(5)).
    let start_time = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {start_time}", boot.trim_end()))
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn error_from(path: &Path, errno: Errno) -> NetnsError {
    let path = path.to_owned();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH => NetnsError::NotFound { path },
        Errno::EACCES | Errno::EPERM => NetnsError::PermissionDenied { path },
        // The file does not support the ioctl.
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

/// A path component that was opened during the walk.
struct OpenedPath {
    descriptor: OwnedFd,
    path: PathBuf,
}

/// Resolves a path from the root, one component at a time, and returns an O_PATH descriptor of its
/// last component.
fn resolve(path: &Path) -> Result<OwnedFd, NetnsError> {
    let failed = |errno: Errno| error_from(path, errno);
    let directory_flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
    let root = || nix::fcntl::open("/", directory_flags, Mode::empty()).map_err(failed);
    if !path.is_absolute() {
        return Err(NetnsError::NotFound { path: path.to_owned() });
    }
    let mut parents = vec![OpenedPath { descriptor: root()?, path: PathBuf::from("/") }];
    let mut rest: Vec<OsString> = components(path);
    let mut symlinks = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            if parents.len() > 1 {
                parents.pop();
            }
            continue;
        }
        let Some(directory) = parents.last() else { unreachable!("the root directory is never removed") };
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let next = openat(&directory.descriptor, name.as_os_str(), flags, Mode::empty()).map_err(failed)?;
        let next = OpenedPath { descriptor: next, path: directory.path.join(&name) };
        match SFlag::from_bits_truncate(fstat(&next.descriptor).map_err(failed)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => {}
            _ if rest.is_empty() => return Ok(next.descriptor),
            SFlag::S_IFDIR => {
                parents.push(next);
                continue;
            }
            _ => return Err(failed(Errno::ENOTDIR)),
        }
        symlinks += 1;
        if symlinks > MAX_SYMLINKS {
            return Err(failed(Errno::ELOOP));
        }
        match link_owner(directory, &next).map_err(failed)? {
            // The text of such a link is only informative: the kernel resolves the link when it is
            // opened.
            LinkOwner::Kernel if rest.is_empty() => {
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                return openat(&directory.descriptor, name.as_os_str(), flags, Mode::empty()).map_err(failed);
            }
            LinkOwner::Root => {
                let target = PathBuf::from(readlinkat(&next.descriptor, "").map_err(failed)?);
                if target.is_absolute() {
                    parents = vec![OpenedPath { descriptor: root()?, path: PathBuf::from("/") }];
                }
                rest.extend(components(&target));
            }
            LinkOwner::Kernel | LinkOwner::Untrusted => {
                return Err(NetnsError::UntrustedSymlink { path: path.to_owned(), link: next.path });
            }
        }
    }
    parents.pop().map(|directory| directory.descriptor).ok_or_else(|| NetnsError::NotFound { path: path.to_owned() })
}

/// Party that controls the target of a symbolic link.
enum LinkOwner {
    /// Root alone.
    Root,
    /// The kernel: the link is one of /proc/PID/ns and leads to a namespace of the process.
    Kernel,
    /// Possibly a user other than root.
    Untrusted,
}

/// Inode number of the root of procfs (`PROC_ROOT_INO`).
const PROC_ROOT_INODE: u64 = 1;

fn link_owner(directory: &OpenedPath, link: &OpenedPath) -> Result<LinkOwner, Errno> {
    let parent = fstat(&directory.descriptor)?;
    if fstatfs(&link.descriptor)?.filesystem_type() == PROC {
        if directory.path.file_name() == Some(OsStr::new("ns")) {
            return Ok(LinkOwner::Kernel);
        }
        // A process chooses the targets of its `cwd`, `root` and `fd/N`, and their text is valid
        // only for the process itself. Links at the top of procfs, such as `self`, are created by
        // the kernel.
        if parent.st_ino != PROC_ROOT_INODE {
            return Ok(LinkOwner::Untrusted);
        }
    }
    let only_root_can_write = parent.st_uid == 0 && parent.st_mode & 0o022 == 0;
    Ok(if only_root_can_write && fstat(&link.descriptor)?.st_uid == 0 { LinkOwner::Root } else { LinkOwner::Untrusted })
}

fn io_error(path: &Path, source: io::Error) -> NetnsError {
    match source.raw_os_error() {
        Some(errno) => error_from(path, Errno::from_raw(errno)),
        None => NetnsError::Io { path: path.to_owned(), source },
    }
}

/// Returns the components of a path in reverse order.
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
    fn path_components_are_returned_in_reverse_order() {
        assert_eq!(components(Path::new("/run/./netns/../x")), ["x", "..", "netns", "run"]);
        assert!(components(Path::new("/")).is_empty());
    }

    #[test]
    fn namespace_kinds_have_the_names_of_proc() {
        assert_eq!(kind_name(CloneFlags::CLONE_NEWUTS.bits()), "uts");
        assert_eq!(kind_name(0), "unknown");
    }
}
