//! Links: made, configured, removed, and what is heard of them.

use std::fs;
use std::time::Duration;

use vswitch::kernel::netlink::{LinkEvent, Netlink, NetlinkError};
use vswitch_common::Mac;

use crate::shared::{Namespace, ip, shown, veth, wire};

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

#[tokio::test]
async fn every_change_of_the_ways_of_packets_is_told() {
    let namespace = Namespace::new();
    let netns = namespace.open();
    let netlink = Netlink::open_in(&netns).expect("a socket");
    let index = netlink.create_veth(&veth("vp0", "vp1", None)).await.expect("make it");
    let peer = netlink.link_by_name("vp1").await.expect("look").expect("it is there").index;
    netlink.configure(peer, &[], &[]).await.expect("switch it on");
    let mut events = Netlink::path_events(Some(&netns)).expect("follow");
    let mut told = async |what: &str| {
        let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await;
        event.unwrap_or_else(|_| panic!("{what}")).expect("the channel is open");
        // Whatever else came of it.
        while tokio::time::timeout(Duration::from_millis(500), events.recv()).await.is_ok() {}
    };
    let net = |text: &str| text.parse().expect("a prefix");
    netlink.configure(index, &[], &[]).await.expect("switch it on");
    told("a link that is switched on").await;
    for (address, destination) in [("10.1.0.1/24", "10.2.0.0/24"), ("fd00:1::1/64", "fd00:2::/64")] {
        netlink.configure(index, &[net(address)], &[]).await.expect("give an address");
        told("an address").await;
        netlink.add_device_route(index, net(destination)).await.expect("add a route");
        told("a route").await;
        netlink.remove_device_route(index, net(destination)).await.expect("remove the route");
        told("a route that went").await;
    }
    netlink.set_mtu(index, 1300).await.expect("set the MTU");
    told("another MTU").await;
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
