//! Published ports, from every place that they are reached from.

use std::time::Instant;

use vswitch::model::Protocol::{self, Tcp, Udp};
use vswitch::nat::NatNetwork;
use vswitch_common::tables::MARK_PUBLISHED;

use crate::harness::run;
use crate::scene::{A1, A2, B1, CLIENT, Daemon, Scene, UPLINK, UPLINK2, forward, publish};
use crate::services::{assert_client_address, assert_unreached, serve};

const GATEWAY: [&str; 2] = ["10.91.1.1", "fd00:91:1::1"];

#[track_caller]
fn check_that_it_is_reached_from_everywhere(protocol: Protocol) {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.a1, protocol, 80);
    daemon.apply(scene.wanted(&[publish(protocol, 8080, 80)]));
    for family in 0..2 {
        // From outside: the client's address is kept.
        assert_client_address(&scene.client, protocol, UPLINK[family], 8080, CLIENT[family]);
        // From the host, at any of its addresses.
        assert_client_address(&scene.host, protocol, UPLINK[family], 8080, UPLINK[family]);
        assert_client_address(&scene.host, protocol, UPLINK2[family], 8080, UPLINK2[family]);
        // From another network, at the host's address.
        assert_client_address(&scene.b1, protocol, UPLINK[family], 8080, B1[family]);
        // From a neighbor and from the container itself: the answers must return through the host.
        assert_client_address(&scene.a2, protocol, UPLINK[family], 8080, GATEWAY[family]);
        assert_client_address(&scene.a1, protocol, UPLINK[family], 8080, GATEWAY[family]);
        assert_client_address(&scene.a2, protocol, GATEWAY[family], 8080, GATEWAY[family]);
    }
    let route = scene.a2.ip(&format!("route get {}", UPLINK[0]));
    assert!(route.contains("via 10.91.1.1"), "the host sent a redirect: {route}");
    assert_client_address(&scene.host, protocol, "127.0.0.1", 8080, GATEWAY[0]);
    assert_client_address(&scene.host, protocol, "127.0.0.2", 8080, GATEWAY[0]);
    // Neither another port nor another protocol is reached.
    assert_unreached(&scene.client, protocol, UPLINK[0], 80);
    assert_unreached(&scene.client, if protocol == Tcp { Udp } else { Tcp }, UPLINK[0], 8080);
}

#[test]
fn a_tcp_port_is_reached_from_everywhere() {
    check_that_it_is_reached_from_everywhere(Tcp);
}

#[test]
fn a_udp_port_is_reached_from_everywhere() {
    check_that_it_is_reached_from_everywhere(Udp);
}

#[test]
fn a_port_at_127_0_0_1_is_reached_only_from_the_host() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.a1, Tcp, 80);
    daemon.apply(scene.wanted(&[vec![forward(Tcp, Some("127.0.0.1"), 8080, A1[0], 80)]]));
    assert_client_address(&scene.host, Tcp, "127.0.0.1", 8080, GATEWAY[0]);
    assert_unreached(&scene.host, Tcp, UPLINK[0], 8080);
    assert_unreached(&scene.client, Tcp, UPLINK[0], 8080);
    // A machine on the wire, or in the network, sends packets for 127.0.0.1 to the host.
    serve(&scene.host, Tcp, 9090);
    for (netns, gateway) in [(&scene.client, UPLINK[0]), (&scene.a2, GATEWAY[0])] {
        netns.ip("address del 127.0.0.1/8 dev lo");
        netns.ip(&format!("route add 127.0.0.0/8 via {gateway} dev eth0"));
        run(netns.command("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"]));
        run(netns.command("ip").args("route del local 127.0.0.0/8 dev lo table local".split(' ')));
        assert_unreached(netns, Tcp, "127.0.0.1", 8080);
        assert_unreached(netns, Tcp, "127.0.0.1", 9090);
    }
}

#[test]
fn a_port_at_one_address_takes_precedence_over_all_addresses() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.a1, Tcp, 80);
    serve(&scene.a1, Tcp, 81);
    let forwards = vec![
        forward(Tcp, Some(UPLINK[0]), 8080, A2[0], 81),
        forward(Tcp, None, 8080, A1[0], 80),
        forward(Tcp, Some(UPLINK[1]), 8443, A1[1], 81),
        forward(Tcp, Some("0.0.0.0"), 8444, A1[0], 80),
    ];
    daemon.apply(scene.wanted(&[forwards]));
    assert_client_address(&scene.host, Tcp, UPLINK2[0], 8080, UPLINK2[0]);
    // No server listens there yet.
    assert_unreached(&scene.client, Tcp, UPLINK[0], 8080);
    serve(&scene.a2, Tcp, 81);
    assert_client_address(&scene.client, Tcp, UPLINK[0], 8080, CLIENT[0]);
    assert_client_address(&scene.client, Tcp, UPLINK[1], 8443, CLIENT[1]);
    assert_unreached(&scene.host, Tcp, UPLINK2[1], 8443);
    assert_client_address(&scene.client, Tcp, UPLINK[0], 8444, CLIENT[0]);
    assert_unreached(&scene.client, Tcp, UPLINK[1], 8444);
}

#[test]
fn only_packets_of_published_ports_are_marked() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.a1, Tcp, 80);
    daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
    scene.nft("add table inet spy");
    scene.nft("add chain inet spy forward { type filter hook forward priority 0 ; }");
    for device in ["vsw-a", "vsw-b", "up0"] {
        let marked = format!("meta mark and {MARK_PUBLISHED:#x} != 0 counter");
        scene.nft(&format!("add rule inet spy forward oifname {device} {marked}"));
    }
    let counted = || {
        let listing = scene.nft("list chain inet spy forward");
        let packets = listing.split("counter packets ").skip(1);
        packets.map(|rest| rest.split(' ').next().and_then(|count| count.parse().ok())).collect::<Option<Vec<u64>>>()
    };
    serve(&scene.b1, Tcp, 80);
    assert_client_address(&scene.a2, Tcp, B1[0], 80, A2[0]);
    assert_eq!(counted(), Some(vec![0, 0, 0]));
    assert_client_address(&scene.b1, Tcp, UPLINK[0], 8080, B1[0]);
    let counted = counted().expect("three rules");
    assert!(counted[0] > 0 && counted[1] > 0 && counted[2] == 0, "{counted:?}");
}

#[test]
fn published_ports_are_not_reached_from_an_internal_network() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.a1, Tcp, 80);
    let mut wanted = scene.wanted(&[publish(Tcp, 8080, 80)]);
    wanted.networks[1] = NatNetwork { internal: true, ..wanted.networks[1].clone() };
    daemon.apply(wanted);
    assert_client_address(&scene.client, Tcp, UPLINK[0], 8080, CLIENT[0]);
    assert_unreached(&scene.b1, Tcp, "10.91.2.1", 8080);
}

#[test]
fn a_thousand_ports_can_be_published() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.a1, Tcp, 80);
    let forwards: Vec<_> = (0..1000).map(|number| publish(Tcp, 20000 + number, 80)).collect();
    let started = Instant::now();
    daemon.apply(scene.wanted(&forwards));
    let first = started.elapsed();
    let started = Instant::now();
    daemon.apply(scene.wanted(&forwards));
    let unchanged = started.elapsed();
    let started = Instant::now();
    daemon.apply(scene.wanted(&forwards[1..]));
    println!("1,000 ports in both families: {first:?}; unchanged: {unchanged:?}; one less: {:?}", started.elapsed());
    assert_client_address(&scene.client, Tcp, UPLINK[0], 20999, CLIENT[0]);
    assert_client_address(&scene.client, Tcp, UPLINK[1], 20500, CLIENT[1]);
    assert_unreached(&scene.client, Tcp, UPLINK[0], 20000);
}
