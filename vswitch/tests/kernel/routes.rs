//! Tests of routes and neighbors with the protocol of vswitch, and of those with other protocols.

use vswitch::kernel::netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL};
use vswitch_common::Mac;

use crate::shared::{Namespace, ip, ip_output, veth, veth_between};

#[tokio::test]
async fn device_routes_are_added_and_removed_with_the_vswitch_protocol() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, _) = veth_between(&near, &far).await;
    let netlink = Netlink::open_in(&near).expect("a socket");
    let index = on.index;
    let destinations =
        ["10.88.0.5/32", "10.89.7.7/16", "fd88::5/128"].map(|net| net.parse::<ipnet::IpNet>().expect("a subnet"));
    for destination in destinations {
        for _ in 0..2 {
            netlink.add_device_route(index, destination).await.expect("add; also a second time");
        }
    }
    let routes = netlink.routes().await.expect("list");
    for destination in destinations {
        let there: Vec<_> = routes.iter().filter(|route| route.destination == destination.trunc()).collect();
        assert!(matches!(there[..], [route] if (route.index, route.gateway) == (Some(index), None)), "{there:?}");
    }
    let protocol = format!("proto {ROUTE_PROTOCOL}");
    let v4 = ip_output(&near, "-4 route show");
    print!("{v4}");
    assert!(v4.contains(&format!("10.88.0.5 dev vp0 {protocol} scope link")), "{v4}");
    for ipv6 in [false, true] {
        for _ in 0..2 {
            netlink.add_default_device_route(index, ipv6).await.expect("add; also a second time");
        }
    }
    let defaults = netlink.routes().await.expect("list");
    let defaults = defaults.iter().filter(|route| route.destination.prefix_len() == 0 && route.index == Some(index));
    assert_eq!(defaults.count(), 2);

    for _ in 0..2 {
        netlink.remove_device_route(index, destinations[0]).await.expect("remove; also a second time");
    }
    netlink.remove_device_route(4_000_000, destinations[0]).await.expect("no error for a missing link");
    assert!(!ip_output(&near, "-4 route show").contains("10.88.0.5"));
    let refused = netlink.add_device_route(4_000_000, destinations[0]).await;
    assert!(matches!(refused, Err(NetlinkError::NotFound { .. })), "{refused:?}");
}

#[tokio::test]
async fn only_routes_and_neighbors_of_vswitch_are_removed() {
    let (near, far) = (Namespace::new(), Namespace::new());
    let (near, far) = (near.open(), far.open());
    let (on, _) = veth_between(&near, &far).await;
    let netlink = Netlink::open_in(&near).expect("a socket");
    let second = netlink.create_veth(&veth("vp1", "eth1", Some(&far))).await.expect("create the veth pair");
    netlink.set_up(second).await.expect("switch on");
    let others = Mac([2, 0, 0, 0, 0, 9]);
    for (index, last) in [(on.index, 1), (second, 2)] {
        for address in [format!("10.88.0.{last}"), format!("fd88::{last}")] {
            netlink.add_device_route(index, ip(&address).into()).await.expect("add");
            netlink.add_neighbor(index, ip(&address), others).await.expect("add");
            netlink.add_neighbor(index, ip(&address), Mac([2, 0, 0, 0, 0, last])).await.expect("replace the entry");
        }
    }
    for foreign in ["route add 10.99.0.0/16 dev vp0", "neigh add 10.99.0.1 lladdr 02:00:00:00:00:09 dev vp0"] {
        ip_output(&near, foreign);
    }
    let neighbors = ip_output(&near, "neigh show nud permanent");
    print!("{neighbors}");
    for known in ["10.88.0.1 dev vp0 lladdr 02:00:00:00:00:01", "fd88::2 dev vp1 lladdr 02:00:00:00:00:02"] {
        let line = neighbors.lines().find(|line| line.starts_with(known)).expect("the entry");
        assert!(line.contains("PERMANENT") && line.contains(&format!("proto {ROUTE_PROTOCOL}")), "{line}");
    }
    for _ in 0..2 {
        netlink.remove_neighbor(second, ip("10.88.0.2")).await.expect("remove; also a second time");
    }
    netlink.remove_neighbor(4_000_000, ip("10.88.0.2")).await.expect("no error for a missing link");
    assert!(!ip_output(&near, "neigh show").contains("10.88.0.2"));

    let left = |of: &str| {
        let all =
            ["neigh show", "-4 route show table all", "-6 route show table all"].map(|what| ip_output(&near, what));
        all.concat().lines().filter(|line| line.contains(of)).count()
    };
    assert_eq!((left("dev vp0 proto 118"), left("proto 118")), (2, 7));
    netlink.remove_own_routes_and_neighbors(Some(on.index)).await.expect("remove");
    // Two routes and a neighbor of the other link are left.
    assert_eq!((left("88.0.1 "), left("fd88::1 "), left("proto 118")), (0, 0, 3));
    netlink.remove_own_routes_and_neighbors(None).await.expect("remove");
    netlink.remove_own_routes_and_neighbors(None).await.expect("also a second time");
    assert_eq!((left("proto 118"), left("10.99.0.0/16"), left("10.99.0.1 ")), (0, 1, 1));
}
