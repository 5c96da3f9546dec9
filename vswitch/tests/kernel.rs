//! The kernel's side of the control plane, on real namespaces: what a path is, what a device is, and what is refused.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use vswitch::kernel::capabilities::Capabilities;
use vswitch::kernel::ethtool::{self, EthtoolError, Feature};
use vswitch::kernel::netlink::{LinkEvent, Netlink, NetlinkError, ROUTE_PROTOCOL, VethSpec};
use vswitch::kernel::netns::{Netns, NetnsError};
use vswitch::kernel::probe::{self, Holder, ProbeError, ProbeOn};
use vswitch::kernel::{bpffs, packet, sysctl};
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

/// A place where in the end nothing is mounted, however the test ends.
struct Unmounted<'a>(&'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        while bpffs::is_mounted(self.0) && umount2(self.0, MntFlags::MNT_DETACH).is_ok() {}
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

#[tokio::test]
async fn an_interface_is_configured_in_one_call() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let (host, container) = (host.open(), container.open());
    let (ours, theirs) = (Netlink::open_in(&host).expect("a socket"), Netlink::open_in(&container).expect("a socket"));
    let near = ours.create_veth(&veth("vp0", "eth0", Some(&container))).await.expect("make it");
    ours.set_up(near).await.expect("switch on");
    let index = theirs.link_by_name("eth0").await.expect("ask").expect("there").index;
    let addresses = ["10.77.0.2/24", "fd77::2/64"].map(|address| address.parse().expect("an address"));
    let gateways = ["10.77.0.1", "fd77::1"].map(|address| address.parse().expect("an address"));
    theirs.configure(index, &addresses, &gateways).await.expect("configure");

    assert!(theirs.link(index).await.expect("ask").expect("there").up);
    let there = theirs.addresses(Some(index)).await.expect("list");
    assert!(addresses.iter().all(|address| there.contains(&(index, *address))), "{there:?}");
    let routes = theirs.routes().await.expect("list");
    for gateway in gateways {
        let default = routes.iter().find(|route| route.gateway == Some(gateway)).expect("a default route");
        assert_eq!((default.destination.prefix_len(), default.index), (0, Some(index)));
        theirs.add_default_route(gateway, index).await.expect("the same again is fine");
    }
    // Who is there first stays, as when a container's networks come back at the same time.
    let other = "10.77.0.9".parse().expect("an address");
    theirs.add_default_route(other, index).await.expect("one that is there is fine");
    assert_eq!(theirs.routes().await.expect("list"), routes);
    let elsewhere = Namespace::new().open();
    let empty = Netlink::open_in(&elsewhere).expect("a socket");
    let loopback = empty.link_by_name("lo").await.expect("ask").expect("there").index;
    let unreachable = empty.configure(loopback, &[], &["192.0.2.1".parse().expect("an address")]).await;
    let Err(NetlinkError::Kernel { errno: nix::errno::Errno::ENETUNREACH, hint, .. }) = unreachable else {
        panic!("not refused for its gateway: {unreachable:?}");
    };
    assert!(hint.0.is_some(), "the kernel says why");
}

#[tokio::test]
async fn connections_end_with_their_last_handle() {
    let namespace = Namespace::new();
    let netns = namespace.open();
    let sockets = || {
        fs::read_dir("/proc/self/fd")
            .expect("our descriptors")
            .flatten()
            .filter(|entry| {
                fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
            })
            .count()
    };
    // Other tests of this process have sockets too, but not hundreds.
    let before = sockets();
    for _ in 0..500 {
        let netlink = Netlink::open_in(&netns).expect("a socket");
        let events = Netlink::link_events_in(&netns).expect("follow");
        assert_eq!(netlink.links().await.expect("list").len(), 1);
        drop((netlink.clone(), netlink, events));
    }
    tokio::time::timeout(Duration::from_secs(10), async {
        while sockets() > before + 50 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the sockets are closed");
}

#[tokio::test]
async fn events_that_come_faster_than_they_are_read_are_lost_aloud() {
    let namespace = Namespace::new();
    let netns = namespace.open();
    let mut events = Netlink::link_events_in(&netns).expect("follow");
    let netlink = Netlink::open_in(&netns).expect("a socket");
    let index = netlink.create_veth(&veth("vp0", "vp1", None)).await.expect("make it");
    // On this thread's runtime nobody reads the events before they are waited for: the kernel has to keep them all.
    let burst = netns.enter(|| {
        let flood = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        flood.block_on(async {
            let netlink = Netlink::open().expect("a socket");
            for mtu in (0..4000).map(|round| 1000 + round % 2) {
                netlink.set_mtu(index, mtu).await.expect("set");
            }
        });
    });
    burst.expect("enter");
    let lost = async { while !matches!(events.recv().await.expect("an event"), LinkEvent::Lost) {} };
    tokio::time::timeout(Duration::from_secs(60), lost).await.expect("it is said that some are lost");
    netlink.delete_link(index).await.expect("remove");
    let removed = async {
        loop {
            if matches!(events.recv().await.expect("an event"), LinkEvent::Removed { index: gone, .. } if gone == index)
            {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), removed).await.expect("and those after it are heard");
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
                let event = tokio::time::timeout(Duration::from_secs(60), events.recv());
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
            assert!(matches!(ethtool::get("eth9", Feature::Gro), Err(EthtoolError::NotFound { .. })));
            for feature in [Feature::TxChecksum, Feature::Tso, Feature::TxVlan] {
                ethtool::set("eth0", feature, true).expect("on again");
                assert!(ethtool::get("eth0", feature).expect("ask"), "{feature:?}");
            }
            let fixed = ethtool::set("lo", Feature::TxChecksum, false);
            assert!(matches!(fixed, Err(EthtoolError::Fixed { on: false, .. })), "{fixed:?}");
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
    let _unmounted = Unmounted(&path);
    bpffs::ensure(&path).expect("mount");
    bpffs::ensure(&path).expect("again is fine");
    fs::create_dir_all(path.join("links/deep")).expect("a directory in it");
    assert!(bpffs::is_mounted(&path));
    bpffs::remove(&path).expect("unmount");
    bpffs::remove(&path).expect("again is fine");
    assert!(!path.exists());
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// What `ip` prints in a namespace, a line for each thing.
fn shown(netns: &Netns, arguments: &str) -> String {
    let run = || Command::new("ip").args(arguments.split(' ')).output().expect("run ip");
    let output = netns.enter(run).expect("enter");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What is enough where nobody is to answer.
const SHORT: Duration = Duration::from_millis(600);
/// What is enough where somebody is: a device that has just come up may send nothing for a second.
const LONG: Duration = Duration::from_secs(5);

/// Asks in a namespace who has these addresses.
fn probed(netns: &Netns, on: ProbeOn, addresses: &[&str], patience: Duration) -> Result<Option<Holder>, ProbeError> {
    let addresses: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(probe::holder(&on, &addresses, patience))
    };
    netns.enter(ask).expect("enter")
}

/// Two namespaces with a pair of veth between them, both ends on: what asks on the first end, and the second's number.
async fn wire(near: &Netns, far: &Netns) -> (ProbeOn, u32) {
    let (ours, theirs) = (Netlink::open_in(near).expect("a socket"), Netlink::open_in(far).expect("a socket"));
    let index = ours.create_veth(&veth("vp0", "eth0", Some(far))).await.expect("make it");
    let peer = theirs.link_by_name("eth0").await.expect("ask").expect("there").index;
    theirs.set_up(peer).await.expect("switch on");
    ours.set_up(index).await.expect("switch on");
    (ProbeOn { index, mac: Mac([2, 0, 0, 0, 0, 1]), vlan: 0 }, peer)
}

#[tokio::test]
async fn who_has_an_address_is_found_and_an_address_that_nobody_has_is_free() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, peer) = wire(&near, &far).await;
    let theirs = Netlink::open_in(&far).expect("a socket");
    for address in ["10.77.0.2/24", "fd77::2/64"] {
        theirs.add_address(peer, address.parse().expect("an address")).await.expect("add");
    }
    let mac = Mac([2, 0, 0, 0, 0, 2]);
    for address in ["10.77.0.2", "fd77::2"] {
        let begun = Instant::now();
        let found = probed(&near, on, &["10.77.0.9", "fd77::9", address], LONG).expect("ask");
        assert_eq!(found, Some(Holder { address: ip(address), mac }));
        println!("{address} is at {mac}: after {:?}", begun.elapsed());
    }
    let begun = Instant::now();
    assert_eq!(probed(&near, on, &["10.77.0.9", "fd77::9"], SHORT).expect("ask"), None);
    assert!(begun.elapsed() >= SHORT, "gave up early");
    // The asker's own address does not count, and nobody on another VLAN is asked.
    let ours = Netlink::open_in(&near).expect("a socket");
    ours.add_address(on.index, "10.77.0.1/24".parse().expect("an address")).await.expect("add");
    assert_eq!(probed(&near, on, &["10.77.0.1"], SHORT).expect("ask"), None);
    assert_eq!(probed(&near, ProbeOn { vlan: 30, ..on }, &["10.77.0.2", "fd77::2"], SHORT).expect("ask"), None);
    assert_eq!(probed(&near, on, &[], SHORT).expect("nothing to ask"), None);

    let missing = probed(&near, ProbeOn { index: 4_000_000, ..on }, &["10.77.0.2"], SHORT);
    assert!(matches!(missing, Err(ProbeError::Listen { index: 4_000_000, .. })), "{missing:?}");
    ours.set_down(on.index).await.expect("switch off");
    let down = probed(&near, on, &["10.77.0.2"], SHORT).expect_err("the interface is down");
    println!("{down}");
}

#[tokio::test]
async fn who_has_an_address_on_a_vlan_is_found_there_alone() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, peer) = wire(&near, &far).await;
    // The far end answers by hand, for which it needs no device of the VLAN: 10.77.0.2 is at 02:00:00:00:00:02.
    let mut reply = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 30, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
    reply.extend([2, 0, 0, 0, 0, 2, 10, 77, 0, 2, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer = || {
                while !done.load(Ordering::Relaxed) {
                    packet::send(peer, &reply).expect("send");
                    std::thread::sleep(Duration::from_millis(20));
                }
            };
            far.enter(answer).expect("enter");
        });
        let found = |vlan, patience| probed(&near, ProbeOn { vlan, ..on }, &["10.77.0.2"], patience).expect("ask");
        let found = [found(30, LONG), found(31, SHORT), found(0, SHORT)];
        done.store(true, Ordering::Relaxed);
        assert_eq!(found, [Some(Holder { address: ip("10.77.0.2"), mac: Mac([2, 0, 0, 0, 0, 2]) }), None, None]);
    });
}

#[tokio::test]
async fn routes_by_a_device_come_and_go_and_are_known_as_ours() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, _) = wire(&near, &far).await;
    let ours = Netlink::open_in(&near).expect("a socket");
    let index = on.index;
    let destinations =
        ["10.88.0.5/32", "10.89.7.7/16", "fd88::5/128"].map(|net| net.parse::<ipnet::IpNet>().expect("a subnet"));
    for destination in destinations {
        for _ in 0..2 {
            ours.add_device_route(index, destination).await.expect("add; again is fine");
        }
    }
    let routes = ours.routes().await.expect("list");
    for destination in destinations {
        let there: Vec<_> = routes.iter().filter(|route| route.destination == destination.trunc()).collect();
        assert!(matches!(there[..], [route] if (route.index, route.gateway) == (Some(index), None)), "{there:?}");
    }
    let protocol = format!("proto {ROUTE_PROTOCOL}");
    let v4 = shown(&near, "-4 route show");
    print!("{v4}");
    assert!(v4.contains(&format!("10.88.0.5 dev vp0 {protocol} scope link")), "{v4}");
    for ipv6 in [false, true] {
        for _ in 0..2 {
            ours.default_by_device(index, ipv6).await.expect("add; again is fine");
        }
    }
    let defaults = ours.routes().await.expect("list");
    let defaults = defaults.iter().filter(|route| route.destination.prefix_len() == 0 && route.index == Some(index));
    assert_eq!(defaults.count(), 2);

    for _ in 0..2 {
        ours.remove_device_route(index, destinations[0]).await.expect("remove; again is fine");
    }
    ours.remove_device_route(4_000_000, destinations[0]).await.expect("so is no such link");
    assert!(!shown(&near, "-4 route show").contains("10.88.0.5"));
    let refused = ours.add_device_route(4_000_000, destinations[0]).await;
    assert!(matches!(refused, Err(NetlinkError::NotFound { .. })), "{refused:?}");
}

#[tokio::test]
async fn neighbors_are_told_and_all_that_is_ours_is_removed_and_no_more() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, _) = wire(&near, &far).await;
    let ours = Netlink::open_in(&near).expect("a socket");
    let second = ours.create_veth(&veth("vp1", "eth1", Some(&far))).await.expect("make it");
    ours.set_up(second).await.expect("switch on");
    let others = Mac([2, 0, 0, 0, 0, 9]);
    for (index, last) in [(on.index, 1), (second, 2)] {
        for address in [format!("10.88.0.{last}"), format!("fd88::{last}")] {
            ours.add_device_route(index, ip(&address).into()).await.expect("add");
            ours.add_neighbor(index, ip(&address), others).await.expect("add");
            ours.add_neighbor(index, ip(&address), Mac([2, 0, 0, 0, 0, last])).await.expect("in its place");
        }
    }
    for foreign in ["route add 10.99.0.0/16 dev vp0", "neigh add 10.99.0.1 lladdr 02:00:00:00:00:09 dev vp0"] {
        shown(&near, foreign);
    }
    let neighbors = shown(&near, "neigh show nud permanent");
    print!("{neighbors}");
    for known in ["10.88.0.1 dev vp0 lladdr 02:00:00:00:00:01", "fd88::2 dev vp1 lladdr 02:00:00:00:00:02"] {
        let line = neighbors.lines().find(|line| line.starts_with(known)).expect("the entry");
        assert!(line.contains("PERMANENT") && line.contains(&format!("proto {ROUTE_PROTOCOL}")), "{line}");
    }
    for _ in 0..2 {
        ours.remove_neighbor(second, ip("10.88.0.2")).await.expect("remove; again is fine");
    }
    ours.remove_neighbor(4_000_000, ip("10.88.0.2")).await.expect("so is no such link");
    assert!(!shown(&near, "neigh show").contains("10.88.0.2"));

    let left = |of: &str| {
        let all = ["neigh show", "-4 route show table all", "-6 route show table all"].map(|what| shown(&near, what));
        all.concat().lines().filter(|line| line.contains(of)).count()
    };
    assert_eq!((left("dev vp0 proto 118"), left("proto 118")), (2, 7));
    ours.remove_ours(Some(on.index)).await.expect("remove");
    // Two routes and a neighbor of the other link.
    assert_eq!((left("88.0.1 "), left("fd88::1 "), left("proto 118")), (0, 0, 3));
    ours.remove_ours(None).await.expect("remove");
    ours.remove_ours(None).await.expect("again is fine");
    assert_eq!((left("proto 118"), left("10.99.0.0/16"), left("10.99.0.1 ")), (0, 1, 1));
}

#[tokio::test]
async fn a_link_is_given_another_address_and_does_without_arp() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, _) = wire(&near, &far).await;
    let ours = Netlink::open_in(&near).expect("a socket");
    let mac = Mac([2, 0, 0, 0, 7, 7]);
    ours.set_mac(on.index, mac).await.expect("set");
    ours.set_mac(on.index, mac).await.expect("again is fine");
    assert_eq!(ours.link(on.index).await.expect("ask").expect("there").mac, Some(mac));
    let group = ours.set_mac(on.index, Mac::BROADCAST).await;
    assert!(matches!(group, Err(NetlinkError::Kernel { .. })), "{group:?}");
    ours.add_neighbor(on.index, ip("10.88.0.1"), mac).await.expect("add");
    for (set, flag) in [(true, true), (true, true), (false, false)] {
        ours.set_noarp(on.index, set).await.expect("set");
        assert_eq!(shown(&near, "link show vp0").contains("NOARP"), flag);
        assert_eq!(shown(&near, "neigh show"), "", "its entries are gone");
    }
    assert!(ours.link(on.index).await.expect("ask").expect("there").running);
    assert!(matches!(ours.set_mac(4_000_000, mac).await, Err(NetlinkError::NotFound { .. })));
    assert!(matches!(ours.set_noarp(4_000_000, true).await, Err(NetlinkError::NotFound { .. })));
}
