//! Routes and neighbors that are ours, and those of others.

use vswitch::kernel::netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL};
use vswitch_common::Mac;

use crate::shared::{Namespace, ip, shown, veth, wire};

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
