//! Namespaces: which paths open one, and who may enter it.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use vswitch::kernel::netns::{Netns, NetnsError};

use crate::shared::Namespace;

#[test]
fn paths_of_namespaces_open_and_name_the_same_one() {
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
fn paths_that_are_no_network_namespaces_are_refused_by_name() {
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
fn symbolic_links_are_followed_only_where_root_alone_could_have_made_them() {
    let namespace = Namespace::new();
    let directory = tempfile::tempdir().expect("a directory");
    let link = directory.path().join("link");
    symlink(namespace.path(), &link).expect("a link");
    // The temporary directory is root's own and closed; /tmp above it is open, but the link is not in there.
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
fn where_a_process_leads_is_followed_to_its_namespaces_alone() {
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
fn who_may_not_enter_is_told_so() {
    let opened = Namespace::new().open();
    let user = std::thread::spawn(move || {
        // SAFETY: the bare system call changes the user of this thread alone, and it ends here.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0, "become nobody");
        opened.enter(|| ())
    });
    assert!(matches!(user.join().expect("no panic"), Err(NetnsError::PermissionDenied { .. })));
}
