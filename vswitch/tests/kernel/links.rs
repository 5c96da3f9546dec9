//! Tests of creating, configuring and removing links, and of link events.

use std::fs;
use std::time::Duration;

use vswitch::kernel::netlink::{LinkEvent, Netlink, NetlinkError};
use vswitch_common::Mac;

use crate::shared::{Namespace, ip, ip_output, veth, veth_between};

#[tokio::test]
async fn a_veth_pair_is_created_directly_in_its_namespace() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let (host, container) = (host.open(), container.open());
    let (host_netlink, container_netlink) =
        (Netlink::open_in(&host).expect("a socket"), Netlink::open_in(&container).expect("a socket"));
    let index = host_netlink.create_veth(&veth("vp0", "eth0", Some(&container))).await.expect("create the veth pair");
    let link = host_netlink.link(index).await.expect("query").expect("the link");
    assert_eq!((link.name.as_str(), link.mtu, link.up), ("vp0", 1400, false));
    assert_eq!((link.kind.as_deref(), link.alias.as_deref()), (Some("veth"), Some("vswitch:test:net:x")));
    let peer = container_netlink.link_by_name("eth0").await.expect("query").expect("the link");
    assert_eq!((peer.mac, peer.mtu), (Some(Mac([2, 0, 0, 0, 0, 2])), 1400));
    assert_eq!(link.peer_index, Some(peer.index));

    host_netlink.set_up(index).await.expect("switch on");
    container_netlink.set_up(peer.index).await.expect("switch on");
    container_netlink.add_address(peer.index, "10.77.0.2/24".parse().expect("an address")).await.expect("add");
    container_netlink
        .add_address(peer.index, "10.77.0.2/24".parse().expect("an address"))
        .await
        .expect("a second time");
    container_netlink.add_default_route("10.77.0.1".parse().expect("an address"), peer.index).await.expect("add");
    let routes = container_netlink.routes().await.expect("list");
    assert!(routes.iter().any(|route| route.destination.prefix_len() == 0 && route.index == Some(peer.index)));
    assert!(
        container_netlink
            .addresses(Some(peer.index))
            .await
            .expect("list")
            .iter()
            .any(|(_, net)| net.prefix_len() == 24)
    );

    host_netlink.delete_link(index).await.expect("remove");
    host_netlink.delete_link(index).await.expect("a second time");
    assert_eq!(container_netlink.link_by_name("eth0").await.expect("query"), None);
}

#[tokio::test]
async fn used_names_and_missing_devices_are_distinguished() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let (host, container) = (host.open(), container.open());
    let host_netlink = Netlink::open_in(&host).expect("a socket");
    host_netlink.create_veth(&veth("vp0", "eth0", Some(&container))).await.expect("create the veth pair");
    let taken = |result| match result {
        Err(NetlinkError::Exists { object, .. }) => object,
        other => panic!("not refused because of its name: {other:?}"),
    };
    assert_eq!(taken(host_netlink.create_veth(&veth("vp1", "eth0", Some(&container))).await), "eth0");
    assert_eq!(taken(host_netlink.create_veth(&veth("vp0", "eth1", Some(&container))).await), "vp0");
    assert!(matches!(host_netlink.set_up(4_000_000).await, Err(NetlinkError::NotFound { .. })));
    assert_eq!(host_netlink.links().await.expect("list").iter().filter(|link| !link.loopback).count(), 1);
}

#[tokio::test]
async fn an_interface_is_configured_in_one_call() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let (host, container) = (host.open(), container.open());
    let (host_netlink, container_netlink) =
        (Netlink::open_in(&host).expect("a socket"), Netlink::open_in(&container).expect("a socket"));
    let near = host_netlink.create_veth(&veth("vp0", "eth0", Some(&container))).await.expect("create the veth pair");
    host_netlink.set_up(near).await.expect("switch on");
    let index = container_netlink.link_by_name("eth0").await.expect("query").expect("the link").index;
    let addresses = ["10.77.0.2/24", "fd77::2/64"].map(|address| address.parse().expect("an address"));
    let gateways = ["10.77.0.1", "fd77::1"].map(|address| address.parse().expect("an address"));
    container_netlink.configure(index, &addresses, &gateways).await.expect("configure");

    assert!(container_netlink.link(index).await.expect("query").expect("the link").up);
    let there = container_netlink.addresses(Some(index)).await.expect("list");
    assert!(addresses.iter().all(|address| there.contains(&(index, *address))), "{there:?}");
    let routes = container_netlink.routes().await.expect("list");
    for gateway in gateways {
        let default = routes.iter().find(|route| route.gateway == Some(gateway)).expect("a default route");
        assert_eq!((default.destination.prefix_len(), default.index), (0, Some(index)));
        container_netlink.add_default_route(gateway, index).await.expect("the same a second time");
    }
    // The first default route stays, for example when the networks of a container are restored
    // concurrently.
    let other = "10.77.0.9".parse().expect("an address");
    container_netlink.add_default_route(other, index).await.expect("one that is there is fine");
    assert_eq!(container_netlink.routes().await.expect("list"), routes);
    let elsewhere = Namespace::new().open();
    let empty = Netlink::open_in(&elsewhere).expect("a socket");
    let loopback = empty.link_by_name("lo").await.expect("query").expect("the link").index;
    let unreachable = empty.configure(loopback, &[], &["192.0.2.1".parse().expect("an address")]).await;
    let Err(NetlinkError::Kernel { errno: nix::errno::Errno::ENETUNREACH, hint, .. }) = unreachable else {
        panic!("not refused because of its gateway: {unreachable:?}");
    };
    assert!(hint.0.is_some(), "the kernel says why");
}

#[tokio::test]
async fn a_connection_is_closed_with_its_last_handle() {
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
    // Other tests of this process open sockets as well, but not hundreds of them.
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
async fn a_queue_overrun_is_reported_as_lost_events() {
    let namespace = Namespace::new();
    let netns = namespace.open();
    let mut events = Netlink::link_events_in(&netns).expect("follow");
    let netlink = Netlink::open_in(&netns).expect("a socket");
    let index = netlink.create_veth(&veth("vp0", "vp1", None)).await.expect("create the veth pair");
    // This thread's runtime reads no events before the test awaits one, so the kernel has to queue
    // all of them.
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
    tokio::time::timeout(Duration::from_secs(60), lost).await.expect("an event that reports the loss");
    netlink.delete_link(index).await.expect("remove");
    let removed = async {
        loop {
            if matches!(events.recv().await.expect("an event"), LinkEvent::Removed { index: gone, .. } if gone == index)
            {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), removed).await.expect("an event after the loss");
}

#[tokio::test]
async fn every_change_of_links_addresses_and_routes_is_reported() {
    let namespace = Namespace::new();
    let netns = namespace.open();
    let netlink = Netlink::open_in(&netns).expect("a socket");
    let index = netlink.create_veth(&veth("vp0", "vp1", None)).await.expect("create the veth pair");
    let peer = netlink.link_by_name("vp1").await.expect("query").expect("the link").index;
    netlink.configure(peer, &[], &[]).await.expect("switch it on");
    let mut events = Netlink::path_events(Some(&netns)).expect("follow");
    let mut expect_event = async |what: &str| {
        let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await;
        event.unwrap_or_else(|_| panic!("{what}")).expect("the channel is open");
        // Discards further events of the same change.
        while tokio::time::timeout(Duration::from_millis(500), events.recv()).await.is_ok() {}
    };
    let net = |text: &str| text.parse().expect("a prefix");
    netlink.configure(index, &[], &[]).await.expect("switch it on");
    expect_event("no event for a link that was switched on").await;
    for (address, destination) in [("10.1.0.1/24", "10.2.0.0/24"), ("fd00:1::1/64", "fd00:2::/64")] {
        netlink.configure(index, &[net(address)], &[]).await.expect("give an address");
        expect_event("no event for a new address").await;
        netlink.add_device_route(index, net(destination)).await.expect("add a route");
        expect_event("no event for a new route").await;
        netlink.remove_device_route(index, net(destination)).await.expect("remove the route");
        expect_event("no event for a removed route").await;
    }
    netlink.set_mtu(index, 1300).await.expect("set the MTU");
    expect_event("no event for a new MTU").await;
}

#[test]
fn link_events_report_the_removal_of_a_namespace_with_its_devices() {
    let (host, container) = (Namespace::new(), Namespace::new());
    let inside = host.open();
    let deleted = inside.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut events = Netlink::link_events().expect("follow");
            let host_netlink = Netlink::open().expect("a socket");
            let container_netns = container.open();
            let index = host_netlink
                .create_veth(&veth("vp0", "eth0", Some(&container_netns)))
                .await
                .expect("create the veth pair");
            drop(container_netns);
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
async fn the_mac_address_and_the_noarp_flag_of_a_link_are_changed() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, _) = veth_between(&near, &far).await;
    let host_netlink = Netlink::open_in(&near).expect("a socket");
    let mac = Mac([2, 0, 0, 0, 7, 7]);
    host_netlink.set_mac(on.index, mac).await.expect("set");
    host_netlink.set_mac(on.index, mac).await.expect("a second time");
    assert_eq!(host_netlink.link(on.index).await.expect("query").expect("the link").mac, Some(mac));
    let group = host_netlink.set_mac(on.index, Mac::BROADCAST).await;
    assert!(matches!(group, Err(NetlinkError::Kernel { .. })), "{group:?}");
    host_netlink.add_neighbor(on.index, ip("10.88.0.1"), mac).await.expect("add");
    for (set, flag) in [(true, true), (true, true), (false, false)] {
        host_netlink.set_noarp(on.index, set).await.expect("set");
        assert_eq!(ip_output(&near, "link show vp0").contains("NOARP"), flag);
        assert_eq!(ip_output(&near, "neigh show"), "", "its entries are gone");
    }
    assert!(host_netlink.link(on.index).await.expect("query").expect("the link").running);
    assert!(matches!(host_netlink.set_mac(4_000_000, mac).await, Err(NetlinkError::NotFound { .. })));
    assert!(matches!(host_netlink.set_noarp(4_000_000, true).await, Err(NetlinkError::NotFound { .. })));
}
