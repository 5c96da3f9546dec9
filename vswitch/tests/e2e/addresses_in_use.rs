//! Addresses, subnets and MAC addresses that the host, a router or a station has are neither accepted nor assigned.
//! Addresses are assigned round robin.

use serde_json::Value;

use crate::harness::{Attached, Host, Netns, eventually, ping, settles, tcp};

/// A host with eth1 = 192.0.2.1/24 and the default router 192.0.2.9 behind it, which is not there; with a second
/// interface eth2 and routes by it; and with an address on lo. Its instance is up.
struct Crowded {
    host: Host,
    lan: Netns,
    _other: Netns,
}

impl Crowded {
    fn up() -> Self {
        let host = Host::down();
        let [lan, other] = ["lan", "other"].map(Netns::new);
        host.netns.wire("eth1", &lan, "eth0");
        host.netns.wire("eth2", &other, "eth0");
        for line in [
            "address add 192.0.2.1/24 dev eth1",
            "-6 address add 2001:db8:1::1/64 dev eth1 nodad",
            "route add default via 192.0.2.9",
            "-6 route add default via 2001:db8:1::9",
            "address add 10.44.0.1/24 dev eth2",
            "-6 address add fd00:44::1/64 dev eth2 nodad",
            "route add 10.45.0.0/16 via 10.44.0.9",
            "-6 route add fd00:45::/32 via fd00:44::9",
            "address add 10.46.0.1/32 dev lo",
        ] {
            host.netns.ip(line);
        }
        lan.ip("address add 192.0.2.50/24 dev eth0");
        host.start(&[]);
        Self { host, lan, _other: other }
    }
}

/// Runs a command that must be refused with a line that contains all of these words.
#[track_caller]
fn refuse(host: &Host, arguments: &[&str], words: &[&str]) {
    let line = host.fails(1, arguments);
    for word in words {
        assert!(line.contains(word), "{arguments:?}: `{line}` does not contain {word}");
    }
}

/// Returns the name of the host's device in a network.
fn host_device(host: &Host, network: &str) -> String {
    let shown: Vec<Value> = host.json(&["network", "inspect", network]);
    shown[0]["host_device"].as_str().expect("a device").to_owned()
}

/// Returns the MAC address of the host in a network.
fn host_mac(host: &Host, network: &str) -> String {
    host.netns.mac(&host_device(host, network)).to_string()
}

#[test]
fn a_subnet_that_the_host_has_or_routes_elsewhere_is_refused_with_the_interface() {
    let crowded = Crowded::up();
    let host = &crowded.host;
    let networks = host.ok(&["network", "ls"]);
    for (subnet, whose) in [
        ("10.44.0.0/24", ["10.44.0.1/24", "eth2"]),
        ("10.44.0.128/25", ["10.44.0.1/24", "eth2"]),
        ("10.44.0.0/15", ["10.44.0.1/24", "eth2"]),
        ("10.45.3.0/24", ["10.45.0.0/16", "eth2"]),
        ("10.46.0.0/24", ["10.46.0.1/32", "lo"]),
        ("192.0.2.0/24", ["192.0.2.1/24", "eth1"]),
        ("fd00:44::/64", ["fd00:44::1/64", "eth2"]),
        ("fd00:45:7::/64", ["fd00:45::/32", "eth2"]),
    ] {
        refuse(host, &["network", "create", "--subnet", subnet, "x"], &[&[subnet][..], &whose].concat());
        let overlay = ["network", "create", "-d", "overlay", "-o", "vni=77", "--subnet", subnet];
        refuse(host, &[&overlay[..], &["--subnet", "10.99.0.0/24", "x"]].concat(), &[&[subnet][..], &whose].concat());
    }
    // The subnet of another interface than the uplink.
    let uplink = ["network", "create", "-o", "uplink=eth1", "--subnet", "10.44.0.0/24", "x"];
    refuse(host, &uplink, &["10.44.0.0/24", "eth2"]);
    // The host routes the packets of an l3 network.
    let l3 = ["network", "create", "-d", "ipvlan", "-o", "parent=eth1", "-o", "ipvlan_mode=l3"];
    refuse(host, &[&l3[..], &["--subnet", "10.44.0.0/24", "x"]].concat(), &["10.44.0.0/24", "eth2"]);
    // The router of the host.
    for (subnet, router) in [("192.0.2.0/24", "192.0.2.9"), ("2001:db8:1::/64", "2001:db8:1::9")] {
        let gateway = ["network", "create", "-o", "uplink=eth1", "--subnet", subnet, "--gateway", router, "x"];
        refuse(host, &gateway, &[router, "eth1"]);
    }
    assert_eq!(host.ok(&["network", "ls"]), networks, "nothing was created");
    // Beside them, everything works.
    host.ok(&["network", "create", "--subnet", "10.47.0.0/24", "--subnet", "fd00:47::/64", "x"]);
    let container = Netns::new("c");
    let at = host.attach(&container, &["--network", "x"]);
    ping(&host.netns, at.ipv4);
    ping(&host.netns, at.ipv6.unwrap());
}

#[test]
fn a_default_route_in_parts_is_no_overlap_and_a_pool_without_a_subnet_names_the_route() {
    let host = Host::down();
    let [tunnel, lan] = ["tunnel", "lan"].map(Netns::new);
    host.netns.wire("tun0", &tunnel, "eth0");
    host.netns.wire("eth1", &lan, "eth0");
    for line in [
        "address add 198.18.0.1/24 dev tun0",
        "-6 address add 2001:db8:99::1/64 dev tun0 nodad",
        "address add 192.0.2.1/24 dev eth1",
        "route add default via 192.0.2.9",
        // As OpenVPN and wg-quick set them.
        "route add 0.0.0.0/1 via 198.18.0.2",
        "route add 128.0.0.0/1 via 198.18.0.2",
        "-6 route add ::/1 via 2001:db8:99::2",
        "-6 route add 8000::/1 via 2001:db8:99::2",
    ] {
        host.netns.ip(line);
    }
    host.start(&[]);
    host.ok(&["network", "create", "--ipv6", "one"]);
    host.ok(&["network", "create", "--subnet", "10.61.0.0/24", "--subnet", "2001:db8:61::/64", "two"]);
    host.stop(&["--purge"]);
    // Sixteen parts cover everything, too.
    for line in ["0.0.0.0/1", "128.0.0.0/1"] {
        host.netns.ip(&format!("route del {line}"));
    }
    for first in (0..256).step_by(2) {
        host.netns.ip(&format!("route add {first}.0.0.0/7 via 198.18.0.2"));
    }
    for part in ["10.0.0.0/8", "11.0.0.0/8"] {
        host.netns.ip(&format!("route add {part} via 198.18.0.2"));
    }
    host.netns.ip("route del 10.0.0.0/7");
    host.start(&[]);
    host.ok(&["network", "create", "one"]);
    host.stop(&["--purge"]);
    // A route to a part alone is none to everything, and is named.
    host.netns.ip("route add 10.55.0.0/20 via 192.0.2.77");
    let outcome = host.run(&["up", "--pool", "10.55.0.0/22"]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    for word in ["no subnet is left", "10.55.0.0/22", "10.55.0.0/20", "eth1", "--pool"] {
        assert!(outcome.stderr.contains(word), "no {word}: {outcome:#?}");
    }
    host.start(&["--pool", "10.55.0.0/16"]);
    host.netns.ip("-6 route add fc00::/7 via 2001:db8:99::3");
    refuse(&host, &["network", "create", "--ipv6", "local"], &["fc00::/7", "tun0", "--subnet"]);
    host.netns.ip("-6 route del fc00::/7");
    host.ok(&["network", "create", "--ipv6", "local"]);
}

#[test]
fn addresses_of_the_host_and_of_its_routers_are_neither_accepted_nor_assigned() {
    let crowded = Crowded::up();
    let host = &crowded.host;
    let taken = [
        ("192.0.2.1", "eth1"),
        ("192.0.2.9", "eth1"),
        ("192.0.2.255", "192.0.2.0/24"),
        ("10.46.0.1", "lo"),
        ("10.44.0.1", "eth2"),
    ];
    for (driver, option) in [("macvlan", "parent=eth1"), ("ipvlan", "parent=eth1"), ("bridge", "uplink=eth1")] {
        // The networks are wider than the host's own.
        let flags = ["--subnet", "192.0.0.0/16", "--gateway", "192.0.2.77", "--ip-range", "192.0.2.8/30"];
        host.ok(&[&["network", "create", "-d", driver, "-o", option][..], &flags, &["lan"]].concat());
        let containers = Netns::several("c", 4);
        for (address, whose) in &taken[..3] {
            let attach = ["attach", "--netns", &containers[0].path_argument(), "--network", "lan", "--ip", address];
            refuse(host, &attach, &[address, whose]);
        }
        let given: Vec<String> = containers[..3]
            .iter()
            .map(|container| host.attach(container, &["--network", "lan"]).ipv4.to_string())
            .collect();
        assert_eq!(given, ["192.0.2.8", "192.0.2.10", "192.0.2.11"], "{driver}: not that of the router");
        refuse(host, &["attach", "--netns", &containers[3].path_argument(), "--network", "lan"], &["192.0.2.8/30"]);
        for container in &containers[..3] {
            host.ok(&["detach", container.name()]);
        }
        host.ok(&["network", "rm", "lan"]);
    }
    // Addresses of other interfaces, where the network is on the wire and not on the host.
    let flags = ["--subnet", "10.32.0.0/12", "--gateway", "10.32.0.1"];
    host.ok(&[&["network", "create", "-d", "macvlan", "-o", "parent=eth1"][..], &flags, &["wide"]].concat());
    let container = Netns::new("c");
    for (address, whose) in &taken[3..] {
        let attach = ["attach", "--netns", &container.path_argument(), "--network", "wide", "--ip", address];
        refuse(host, &attach, &[address, whose]);
    }
}

#[test]
fn a_mac_address_that_a_station_of_the_segment_has_is_refused_with_its_owner() {
    let crowded = Crowded::up();
    let Crowded { host, lan, .. } = &crowded;
    let [a, b] = ["a", "b"].map(Netns::new);
    let path = b.path_argument();
    let attach = |network: &str, mac: &str, words: &[&str]| {
        refuse(host, &["attach", "--netns", &path, "--network", network, "--mac", mac], &[&[mac][..], words].concat());
    };

    // The gateway of a bridge and of an overlay network: the network works before and after.
    host.ok(&["network", "create", "--subnet", "10.47.0.0/24", "front"]);
    host.ok(&["network", "create", "-d", "overlay", "-o", "vni=48", "--subnet", "10.48.0.0/24", "over"]);
    for network in ["front", "over"] {
        let mac = host_mac(host, network);
        let at = host.attach(&a, &["--network", network, "--name", "a"]);
        attach(network, &mac, &["the gateway"]);
        tcp(&a, &host.netns, at.gateway.unwrap(), 1 << 16);
        host.ok(&["detach", "a"]);
        // The gateway of another network is another segment.
        let other = if network == "front" { "over" } else { "front" };
        host.attach(&b, &["--network", other, "--mac", &mac]);
        host.ok(&["detach", b.name()]);
    }
    host.attach(&a, &["--network", "front", "--name", "a"]);
    let mac = host_mac(host, "over");
    refuse(host, &["network", "connect", "--mac", &mac, "over", "a"], &[&mac, "the gateway"]);
    host.ok(&["detach", "a"]);

    // An uplink, and a machine behind it.
    host.ok(&["network", "create", "--subnet", "10.49.0.0/24", "-o", "uplink=eth1", "bridged"]);
    attach("bridged", &host.netns.mac("eth1").to_string(), &["eth1"]);
    let at_a = host.attach(&a, &["--network", "bridged", "--name", "a"]);
    lan.ip("address add 10.49.0.200/24 dev eth0");
    ping(lan, at_a.ipv4);
    let machine = lan.mac("eth0");
    eventually("the machine is learned", || host.fdb(&[]).iter().any(|station| station.mac == machine).then_some(()));
    attach("bridged", &machine.to_string(), &["eth1", "fdb del"]);
    ping(&a, at_a.gateway.unwrap());
    host.ok(&["detach", "a"]);
    host.ok(&["network", "rm", "bridged"]);

    // A parent, and an endpoint of another network on it.
    for (name, subnet) in [("one", "10.50.0.0/24"), ("two", "10.51.0.0/24")] {
        host.ok(&["network", "create", "-d", "macvlan", "-o", "parent=eth1", "--subnet", subnet, name]);
    }
    host.ok(&["network", "create", "-d", "macvlan", "-o", "parent=eth1.30", "--subnet", "10.52.0.0/24", "tagged"]);
    attach("one", &host.netns.mac("eth1").to_string(), &["eth1"]);
    attach("tagged", &host.netns.mac("eth1").to_string(), &["eth1"]);
    let at_a = host.attach(&a, &["--network", "one", "--name", "a"]);
    attach("two", &at_a.mac.to_string(), &["endpoint a"]);
    // VLAN 30 is another segment.
    host.attach(&b, &["--network", "tagged", "--mac", &at_a.mac.to_string()]);
}

#[test]
fn addresses_are_assigned_round_robin_also_by_the_next_daemon() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.53.0.0/29", "--subnet", "fd00:53::/64", "small"]);
    let container = Netns::new("c");
    let next = || -> (u8, u16) {
        let at: Attached = host.attach(&container, &["--network", "small"]);
        host.ok(&["detach", container.name()]);
        (at.ipv4.octets()[3], at.ipv6.unwrap().segments()[7])
    };
    assert_eq!([next(), next(), next()], [(2, 2), (3, 3), (4, 4)]);
    // A requested address changes nothing.
    host.attach(&container, &["--network", "small", "--ip", "10.53.0.2"]);
    host.ok(&["detach", container.name()]);
    assert_eq!([next(), next(), next()], [(5, 6), (6, 7), (2, 8)], "the last is followed by the first");
    let stays = Netns::new("stays");
    assert_eq!(host.attach(&stays, &["--network", "small"]).ipv4.octets()[3], 3);
    host.kill_daemon();
    host.start(&[]);
    assert_eq!(next().0, 4, "after the newest endpoint");
}

#[test]
fn the_smallest_subnets_have_a_gateway_and_one_endpoint_or_are_refused() {
    let crowded = Crowded::up();
    let Crowded { host, lan, .. } = &crowded;
    let [a, b] = ["a", "b"].map(Netns::new);
    host.ok(&["network", "create", "--subnet", "10.54.0.6/31", "--subnet", "fd00:54::6/127", "pair"]);
    let at = host.attach(&a, &["--network", "pair", "--name", "a"]);
    assert_eq!((at.ipv4.to_string(), at.gateway.unwrap().to_string()), ("10.54.0.7".into(), "10.54.0.6".into()));
    assert_eq!(
        (at.ipv6.unwrap().to_string(), at.gateway6.unwrap().to_string()),
        ("fd00:54::7".into(), "fd00:54::6".into())
    );
    for gateway in [std::net::IpAddr::from(at.gateway.unwrap()), at.gateway6.unwrap().into()] {
        ping(&a, gateway);
        tcp(&a, &host.netns, gateway, 1 << 16);
    }
    ping(&host.netns, at.ipv4);
    ping(&host.netns, at.ipv6.unwrap());
    refuse(host, &["attach", "--netns", &b.path_argument(), "--network", "pair"], &["10.54.0.6/31"]);
    // The gateway may be the second, and the machine on the wire is the other end.
    host.ok(&["network", "create", "--subnet", "10.54.1.0/31", "--gateway", "10.54.1.1", "second"]);
    assert_eq!(host.attach(&b, &["--network", "second"]).ipv4.to_string(), "10.54.1.0");
    let options = ["-d", "macvlan", "-o", "parent=eth1", "--subnet", "10.54.2.0/31"];
    host.ok(&[&["network", "create"][..], &options, &["wired"]].concat());
    lan.ip("address add 10.54.2.0/31 dev eth0");
    let c = Netns::new("c");
    host.attach(&c, &["--network", "wired"]);
    ping(&c, std::net::Ipv4Addr::new(10, 54, 2, 0));
    for subnet in ["10.54.9.1/32", "fd00:54:9::1/128"] {
        for options in [&["-d", "bridge"][..], &["-d", "macvlan", "-o", "parent=eth1"]] {
            let create = [&["network", "create"][..], options, &["--subnet", subnet, "x"]].concat();
            refuse(host, &create, &[subnet, "one address"]);
        }
    }
}

#[test]
fn messages_name_what_is_wrong_and_what_to_do() {
    let crowded = Crowded::up();
    let host = &crowded.host;
    for (flags, words) in [
        (&["--ipv6", "-o", "mtu=1000"][..], &["1000", "IPv6", "1280"][..]),
        (&["--subnet", "fd00:55::/64", "-o", "mtu=1279"], &["1279", "1280"]),
        (&["-d", "overlay", "--subnet", "10.55.0.0/24", "--ipv6", "-o", "mtu=1000"], &["1000", "1280"]),
        (&["-d", "macvlan", "-o", "parent=eth1", "--ipv6", "-o", "mtu=1000"], &["1000", "1280"]),
    ] {
        refuse(host, &[&["network", "create"], flags, &["x"]].concat(), words);
    }
    host.netns.ip("link set eth1 mtu 1200");
    let lan = ["network", "create", "-d", "macvlan", "-o", "parent=eth1", "--subnet", "fd00:56::/64", "x"];
    refuse(host, &lan, &["1200", "1280"]);
    host.ok(&["network", "create", "-o", "mtu=1280", "--ipv6", "least"]);
    host.ok(&["network", "create", "-o", "mtu=1000", "four"]);

    // The name of the host's device is a foreign device's, which stays.
    host.ok(&["network", "create", "taken"]);
    let device = host_device(host, "taken");
    host.ok(&["network", "rm", "taken"]);
    for kind in ["type bridge", "type veth peer name far0"] {
        host.netns.ip(&format!("link add {device} {kind}"));
        refuse(host, &["network", "create", "taken"], &[&device, "not ours", "("]);
        host.netns.ip(&format!("link del {device}"));
    }
    let networks: Vec<Value> = host.json(&["network", "ls"]);
    assert!(networks.iter().all(|network| network["name"] != "taken"), "{networks:#?}");

    // `--ifname`: the first free one of eth0, eth1, ...; and names that the kernel refuses.
    let [container, elsewhere] = ["c", "elsewhere"].map(Netns::new);
    container.wire("eth0", &elsewhere, "far0");
    for name in ["all", "default"] {
        let attach = ["attach", "--netns", &container.path_argument(), "--ifname", name];
        refuse(host, &attach, &[name, "interface", "("]);
    }
    refuse(host, &["attach", "--netns", &container.path_argument(), "--ifname", "eth0"], &["eth0"]);
    assert_eq!(host.attach(&container, &[]).ifname, "eth1");
    container.wire("eth2", &elsewhere, "far2");
    let connected: Attached = host.json(&["network", "connect", "four", container.name()]);
    assert_eq!(connected.ifname, "eth3");
    settles("the endpoint is reached", || if host.ps().len() == 2 { Ok(()) } else { Err(host.ps()) });
}
