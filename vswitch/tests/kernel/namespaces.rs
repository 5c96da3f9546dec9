//! Tests of opening namespaces by path and of entering them.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use vswitch::kernel::netns::{Netns, NetnsError};

use crate::shared::Namespace;

#[test]
fn different_paths_open_the_same_namespace() {
    let namespace = Namespace::new();
    let opened = namespace.open();
    assert_eq!(opened.id(), namespace.open().id());
    assert_ne!(opened.id(), Netns::current().expect("our own").id());
    let inside = opened.enter(|| Netns::current().expect("its own").id()).expect("enter");
    assert_eq!(inside, opened.id());
    let own = format!("/proc/{}/ns/net", std::process::id());
    assert_eq!(Netns::open(Path::new(&own)).expect("our own by /proc").id(), Netns::current().expect("our own").id());
}

#[test]
fn paths_of_other_files_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("a file");
    assert!(matches!(Netns::open(Path::new("/run/netns/there-is-none")), Err(NetnsError::NotFound { .. })));
    assert!(matches!(Netns::open(&file), Err(NetnsError::NotNamespace { .. })));
    assert!(matches!(Netns::open(directory.path()), Err(NetnsError::NotNamespace { .. })));
    assert!(matches!(Netns::open(Path::new("relative")), Err(NetnsError::NotFound { .. })));
    let uts = format!("/proc/{}/ns/uts", std::process::id());
    assert!(matches!(Netns::open(Path::new(&uts)), Err(NetnsError::WrongKind { kind: "uts", .. })));
    assert!(matches!(Netns::open(Path::new("/proc/4194304/ns/net")), Err(NetnsError::NotFound { .. })));
}

#[test]
fn only_symbolic_links_of_root_are_followed() {
    let namespace = Namespace::new();
    let directory = tempfile::tempdir().expect("a directory");
    let link = directory.path().join("link");
    symlink(namespace.path(), &link).expect("a link");
    // Only the directory of the link itself matters: the temporary directory is writable for root
    // alone, while /tmp above it is writable for all users.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("close it");
    assert_eq!(Netns::open(&link).expect("root's own link").id(), namespace.open().id());
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("open it");
    assert!(matches!(Netns::open(&link), Err(NetnsError::UntrustedSymlink { .. })));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("close it");
    std::os::unix::fs::lchown(&link, Some(65534), None).expect("give the link away");
    assert!(matches!(Netns::open(&link), Err(NetnsError::UntrustedSymlink { .. })));
    chown(directory.path(), Some(0), Some(0)).expect("keep the directory");
}

#[test]
fn only_the_namespace_links_of_a_process_are_followed() {
    let namespace = Namespace::new();
    let own = Netns::current().expect("our own").id();
    assert_eq!(Netns::open(Path::new("/proc/self/ns/net")).expect("by /proc/self").id(), own);
    // A process chooses where these lead, and may choose again.
    let opened = fs::File::open(namespace.path()).expect("open the namespace");
    let descriptor = format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd());
    let root = format!("/proc/{}/root{}", std::process::id(), namespace.path().display());
    for path in [descriptor, root] {
        let refused = Netns::open(Path::new(&path));
        assert!(matches!(refused, Err(NetnsError::UntrustedSymlink { .. })), "{path}: {refused:?}");
    }
}

#[test]
fn entering_without_permission_is_refused() {
    let opened = Namespace::new().open();
    let user = std::thread::spawn(move || {
        // SAFETY: the raw system call changes the user of this thread alone, and the thread ends
        // after it.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0, "change to the user nobody");
        opened.enter(|| ())
    });
    assert!(matches!(user.join().expect("no panic"), Err(NetnsError::PermissionDenied { .. })));
}
