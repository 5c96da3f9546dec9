//! The kernel's side of the control plane, on real namespaces: what a path is, what a device is, and what is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use vswitch::kernel::capabilities::Capabilities;
use vswitch::kernel::ethtool::{self, Feature};
use vswitch::kernel::netlink::{LinkEvent, Netlink, NetlinkError, VethSpec};
use vswitch::kernel::netns::{Netns, NetnsError};
use vswitch::kernel::{bpffs, sysctl};
use vswitch_common::Mac;

/// A network namespace of `ip netns`, gone with the guard.
struct Namespace {
    name: String,
}

impl Namespace {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces and need root");
        let name = format!("vk{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).status().expect("run ip");
        assert!(made.success(), "ip netns add {name}");
        Self { name }
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn open(&self) -> Netns {
        Netns::open(&self.path()).expect("open the namespace just made")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn veth<'a>(name: &'a str, peer_name: &'a str, peer_netns: Option<&'a Netns>) -> VethSpec<'a> {
    VethSpec {
        name,
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: 1400,
        alias: Some("vswitch:test:net:x"),
        peer_name,
        peer_mac: Some(Mac([2, 0, 0, 0, 0, 2])),
        peer_netns,
    }
}

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

#[tokio::test]
async fn a_pair_of_veth_is_made_straight_in_its_namespace() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let (host, container) = (host.open(), container.open());
    let (ours, theirs) = (Netlink::open_in(&host).expect("a socket"), Netlink::open_in(&container).expect("a socket"));
    let index = ours.create_veth(&veth("vp0", "eth0", Some(&container))).await.expect("make it");
    let link = ours.link(index).await.expect("ask").expect("there");
    assert_eq!((link.name.as_str(), link.mtu, link.up), ("vp0", 1400, false));
    assert_eq!((link.kind.as_deref(), link.alias.as_deref()), (Some("veth"), Some("vswitch:test:net:x")));
    let peer = theirs.link_by_name("eth0").await.expect("ask").expect("there");
    assert_eq!((peer.mac, peer.mtu), (Some(Mac([2, 0, 0, 0, 0, 2])), 1400));
    assert_eq!(link.peer_index, Some(peer.index));

    ours.set_up(index).await.expect("switch on");
    theirs.set_up(peer.index).await.expect("switch on");
    theirs.add_address(peer.index, "10.77.0.2/24".parse().expect("an address")).await.expect("add");
    theirs.add_address(peer.index, "10.77.0.2/24".parse().expect("an address")).await.expect("again is fine");
    theirs.add_default_route("10.77.0.1".parse().expect("an address"), peer.index).await.expect("add");
    let routes = theirs.routes().await.expect("list");
    assert!(routes.iter().any(|route| route.destination.prefix_len() == 0 && route.index == Some(peer.index)));
    assert!(theirs.addresses(Some(peer.index)).await.expect("list").iter().any(|(_, net)| net.prefix_len() == 24));

    ours.delete_link(index).await.expect("remove");
    ours.delete_link(index).await.expect("again is fine");
    assert_eq!(theirs.link_by_name("eth0").await.expect("ask"), None);
}

#[tokio::test]
async fn names_that_are_taken_and_devices_that_are_gone_are_told_apart() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let (host, container) = (host.open(), container.open());
    let ours = Netlink::open_in(&host).expect("a socket");
    ours.create_veth(&veth("vp0", "eth0", Some(&container))).await.expect("make it");
    let taken = |result| match result {
        Err(NetlinkError::Exists { object, .. }) => object,
        other => panic!("not refused for its name: {other:?}"),
    };
    assert_eq!(taken(ours.create_veth(&veth("vp1", "eth0", Some(&container))).await), "eth0");
    assert_eq!(taken(ours.create_veth(&veth("vp0", "eth1", Some(&container))).await), "vp0");
    assert!(matches!(ours.set_up(4_000_000).await, Err(NetlinkError::NotFound { .. })));
    assert_eq!(ours.links().await.expect("list").iter().filter(|link| !link.loopback).count(), 1);
}

#[test]
fn link_events_tell_of_a_namespace_that_went_with_its_devices() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let inside = host.open();
    let deleted = inside.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut events = Netlink::link_events().expect("follow");
            let ours = Netlink::open().expect("a socket");
            let theirs = container.open();
            let index = ours.create_veth(&veth("vp0", "eth0", Some(&theirs))).await.expect("make it");
            drop(theirs);
            drop(container);
            loop {
                let event = tokio::time::timeout(std::time::Duration::from_secs(60), events.recv());
                match event.await.expect("an event").expect("the channel is open") {
                    LinkEvent::Removed { index: gone, name } if gone == index => break name,
                    _ => {}
                }
            }
        })
    });
    assert_eq!(deleted.expect("enter"), "vp0");
}

#[tokio::test]
async fn offloads_and_settings_are_changed_inside_and_their_old_state_returned() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let (host, container) = (host.open(), container.open());
    let ours = Netlink::open_in(&host).expect("a socket");
    ours.create_veth(&veth("vp0", "eth0", Some(&container))).await.expect("make it");
    container
        .enter(|| {
            assert_eq!(ethtool::driver("eth0").expect("ask"), "veth");
            assert!(!ethtool::set("eth0", Feature::Gro, true).expect("GRO on"));
            assert!(ethtool::get("eth0", Feature::Gro).expect("ask"));
            assert!(ethtool::set("eth0", Feature::TxChecksum, false).expect("checksums off"));
            assert!(!ethtool::get("eth0", Feature::TxChecksum).expect("ask"));
            assert!(ethtool::set("eth0", Feature::TxVlan, false).expect("tags off"));
            assert!(!ethtool::get("eth0", Feature::TxVlan).expect("ask"));
            assert!(ethtool::get("eth9", Feature::Gro).is_err());
            let accept = ["net", "ipv6", "conf", "eth0", "accept_ra"];
            assert_eq!(sysctl::write(&accept, "0").expect("write"), "1");
            assert_eq!(sysctl::read(&accept).expect("read"), "0");
            assert!(sysctl::read(&["net", "ipv6", "conf", "eth9", "accept_ra"]).expect_err("no device").is_missing());
        })
        .expect("enter");
}

#[test]
fn this_kernel_can_and_a_bpffs_comes_and_goes() {
    let capabilities = Capabilities::detect().expect("look");
    assert_eq!(capabilities.require(), Ok(()));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bpf");
    bpffs::ensure(&path).expect("mount");
    bpffs::ensure(&path).expect("again is fine");
    assert!(bpffs::is_mounted(&path));
    bpffs::remove(&path).expect("unmount");
    bpffs::remove(&path).expect("again is fine");
    assert!(!path.exists());
}
