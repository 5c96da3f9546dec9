//! One endpoint in several networks: `network connect` and `network disconnect` while traffic
//! flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::harness::{AtRest, Attached, Frame, Host, Mac, Netns, RawPort, Stream, eventually, ping, tcp, udp};

/// Creates networks with these names and the subnets 10.(83 + n).0.0/24 and fd00:(83 + n)::/64.
fn networks(host: &Host, names: &[&str]) {
    for (number, name) in (83..).zip(names) {
        let [ipv4, ipv6] = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
        host.ok(&["network", "create", "--subnet", &ipv4, "--subnet", &ipv6, name]);
    }
}

#[track_caller]
fn connect(host: &Host, network: &str, endpoint: &str, options: &[&str]) -> Attached {
    host.json(&[&["network", "connect"], options, &[network, endpoint]].concat())
}

#[test]
fn traffic_in_one_network_is_not_disturbed_by_others() {
    let host = Host::up(&[]);
    networks(&host, &["front", "back"]);
    let [a, b, c] = ["a", "b", "c"].map(Netns::new);
    host.attach(&a, &["--network", "front"]);
    let at_b = host.attach(&b, &["--network", "front"]);
    let at_c = host.attach(&c, &["--network", "back"]);
    let streams = [Stream::start(&a, &b, at_b.ipv4), Stream::start(&a, &b, at_b.ipv6.unwrap())];
    for _ in 0..3 {
        let in_back = connect(&host, "back", a.name(), &[]);
        assert_eq!((in_back.network.as_str(), in_back.ifname.as_str()), ("back", "eth1"));
        for stream in &streams {
            stream.goes_on(100_000);
        }
        ping(&a, at_c.ipv4);
        ping(&c, in_back.ipv6.unwrap());
        tcp(&a, &c, at_c.ipv4, 1 << 16);
        udp(&c, &a, in_back.ipv6.unwrap(), 1000, 20);
        assert_eq!(host.ok(&["network", "disconnect", "back", a.name()]), format!("{}\n", a.name()));
        assert_eq!(a.devices(), ["lo", "eth0"].map(str::to_owned).into());
        for stream in &streams {
            stream.goes_on(100_000);
        }
    }
    for stream in streams {
        stream.assert_complete();
    }
}

#[test]
fn an_endpoint_is_shown_in_each_of_its_networks() {
    let host = Host::up(&[]);
    networks(&host, &["front", "back"]);
    let a = Netns::new("a");
    let path = a.path_argument();
    let in_front = host.attach(&a, &["--network", "front", "--name", "web"]);
    // `attach` can connect an endpoint to a second network, too. The interface name is chosen
    // automatically.
    let in_back = host.attach(&a, &["--network", "back", "--name", "web"]);
    assert_eq!((in_front.ifname.as_str(), in_back.ifname.as_str()), ("eth0", "eth1"));
    assert_ne!(in_front.mac, in_back.mac);
    assert_eq!(a.addresses("eth1"), [in_back.ipv4]);
    assert_eq!(a.addresses6("eth1"), [in_back.ipv6.unwrap()]);
    let mut shown = host.ps();
    shown.sort_by(|one, other| other.network.cmp(&one.network));
    assert_eq!(shown, [in_front, in_back.clone()]);
    let inspected: Value = host.json(&["inspect", "web"]);
    let networks = inspected["networks"].as_array().unwrap();
    let names: Vec<&str> = networks.iter().map(|network| network["network"].as_str().unwrap()).collect();
    assert_eq!(names, ["back", "front"], "the one with the default route comes first: {inspected:#}");
    for network in ["front", "back"] {
        let shown: Vec<Value> = host.json(&["network", "inspect", network]);
        assert_eq!(shown[0]["attached"], serde_json::json!(["web"]), "{shown:#?}");
    }
    // `detach --netns` finds all endpoints of the namespace.
    host.ok(&["detach", "--netns", &path]);
    assert!(host.ps().is_empty() && a.devices() == ["lo".to_owned()].into());
    host.ok(&["network", "rm", "front", "back"]);
}

#[test]
fn detach_removes_an_endpoint_from_all_its_networks() {
    let host = Host::up(&[]);
    networks(&host, &["front", "back", "side"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--network", "front", "--name", "web"]);
    host.attach(&b, &["--network", "front", "--name", "other"]);
    for network in ["back", "side"] {
        connect(&host, network, "web", &[]);
    }
    host.ok(&["detach", "--network", "side", "web"]);
    let devices = ["lo", "eth0", "eth1"].map(str::to_owned);
    assert_eq!(a.devices(), devices.into());
    assert_eq!(host.ok(&["detach", "web"]), "web\n");
    assert_eq!(a.devices(), ["lo".to_owned()].into());
    let left: Vec<String> = host.ps().into_iter().map(|endpoint| endpoint.name).collect();
    assert_eq!(left, ["other"]);
    host.ok(&["network", "rm", "back", "side"]);
}

#[test]
fn the_default_route_follows_the_rules_of_docker() {
    let host = Host::up(&[]);
    networks(&host, &["beta", "alpha", "gamma"]);
    host.ok(&["network", "create", "--internal", "--subnet", "10.89.0.0/24", "--subnet", "fd00:89::/64", "aaa"]);
    let a = Netns::new("a");
    let name = a.name().to_owned();
    let assert_default_route = |subnet: u8, ifname: &str| {
        for (ipv6, gateway) in [(false, format!("10.{subnet}.0.1")), (true, format!("fd00:{subnet}::1"))] {
            let gateway: IpAddr = gateway.parse().unwrap();
            assert_eq!(a.default_routes(ipv6), [(Some(gateway), ifname.to_owned())]);
            ping(&a, gateway);
        }
        let inspected: Value = host.json(&["inspect", &name]);
        assert_eq!(inspected["gateway"], format!("10.{subnet}.0.1"), "{inspected:#}");
    };
    host.attach(&a, &["--network", "beta"]);
    assert_default_route(83, "eth0");
    // At equal priority, the first network by name has the default route.
    connect(&host, "alpha", &name, &[]);
    assert_default_route(84, "eth1");
    connect(&host, "gamma", &name, &["--gw-priority", "5"]);
    assert_default_route(85, "eth2");
    // An internal network never has the default route, regardless of priority and name.
    connect(&host, "aaa", &name, &["--gw-priority", "9"]);
    assert_default_route(85, "eth2");
    host.ok(&["network", "disconnect", "gamma", &name]);
    assert_default_route(84, "eth1");
    connect(&host, "gamma", &name, &["--gw-priority", "-1"]);
    assert_default_route(84, "eth1");
    host.ok(&["network", "disconnect", "alpha", &name]);
    assert_default_route(83, "eth0");
    host.ok(&["network", "disconnect", "beta", &name]);
    assert_default_route(85, "eth2");
    host.ok(&["network", "disconnect", "gamma", &name]);
    assert_eq!((a.default_routes(false), a.default_routes(true)), (vec![], vec![]));
}

#[test]
fn a_default_route_of_the_container_itself_stays() {
    let host = Host::up(&[]);
    networks(&host, &["beta", "alpha"]);
    let [a, elsewhere] = ["a", "elsewhere"].map(Netns::new);
    a.wire("own0", &elsewhere, "eth0");
    a.ip("address add 192.0.2.1/24 dev own0");
    a.ip("-6 address add 2001:db8::1/64 dev own0 nodad");
    a.ip("route add default via 192.0.2.9");
    a.ip("-6 route add default via 2001:db8::9");
    let own = || [false, true].map(|ipv6| a.default_routes(ipv6));
    let before = own();
    assert_eq!(before.each_ref().map(Vec::len), [1, 1]);
    host.attach(&a, &["--network", "beta"]);
    assert_eq!(own(), before);
    connect(&host, "alpha", a.name(), &[]);
    assert_eq!(own(), before);
    host.ok(&["network", "disconnect", "beta", a.name()]);
    assert_eq!(own(), before);
    host.ok(&["detach", a.name()]);
    assert_eq!(own(), before);
}

#[test]
fn connect_uses_the_given_addresses_and_interface_name() {
    let host = Host::up(&[]);
    networks(&host, &["front", "back"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let flags = [
        "--network",
        "front",
        "--ip",
        "10.83.0.90",
        "--ip6",
        "fd00:83::90",
        "--mac",
        "02:83:00:00:00:90",
        "--name",
        "web",
    ];
    let in_front = host.attach(&a, &flags);
    let flags = ["--ip", "10.84.0.91", "--ip6", "fd00:84::91", "--mac", "02:84:00:00:00:91", "--ifname", "lan7"];
    let in_back = connect(&host, "back", "web", &flags);
    assert_eq!((in_back.ifname.as_str(), in_back.name.as_str()), ("lan7", "web"));
    for (endpoint, ipv4, ipv6, mac) in [
        (&in_front, "10.83.0.90", "fd00:83::90", "02:83:00:00:00:90"),
        (&in_back, "10.84.0.91", "fd00:84::91", "02:84:00:00:00:91"),
    ] {
        let (ipv4, ipv6): (Ipv4Addr, Ipv6Addr) = (ipv4.parse().unwrap(), ipv6.parse().unwrap());
        assert_eq!((endpoint.ipv4, endpoint.ipv6, endpoint.mac.to_string().as_str()), (ipv4, Some(ipv6), mac));
        assert_eq!(a.addresses(&endpoint.ifname), [ipv4]);
        assert_eq!(a.addresses6(&endpoint.ifname), [ipv6]);
        assert_eq!(a.mac(&endpoint.ifname).to_string(), mac);
        ping(&host.netns, ipv4);
        ping(&host.netns, ipv6);
    }
    host.attach(&b, &["--network", "back"]);
    ping(&b, in_back.ipv4);
}

#[test]
fn a_name_keeps_its_mac_address() {
    let host = Host::up(&[]);
    networks(&host, &["front", "back"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let mac = |container: &Netns, network: &str, name: &str| {
        let mac = host.attach(container, &["--network", network, "--name", name]).mac;
        assert_eq!(container.mac("eth0"), mac);
        host.ok(&["detach", name]);
        mac
    };
    let first = mac(&a, "front", "web");
    assert_eq!(mac(&b, "front", "web"), first, "in another namespace");
    assert_ne!(mac(&a, "front", "db"), first, "of another name");
    assert_ne!(mac(&a, "back", "web"), first, "in another network");
    host.stop(&[]);
    host.start(&[]);
    assert_eq!(mac(&a, "front", "web"), first, "after a restart");
}

/// Reports whether a frame is a gratuitous ARP of this station, which announces its own address
/// (RFC 5227, 3).
fn is_announcement(frame: &Frame, mac: Mac, ip: Ipv4Addr) -> bool {
    let bytes = &frame.0;
    bytes.len() >= 42
        && bytes[..6] == Mac::BROADCAST.0
        && bytes[12..14] == [0x08, 0x06]
        && bytes[22..28] == mac.0
        && bytes[28..32] == ip.octets()
        && bytes[38..42] == ip.octets()
}

/// Reports whether a frame is an unsolicited neighbor advertisement of this station (RFC 4861,
/// 7.2.6) with the override flag.
fn is_advertisement(frame: &Frame, mac: Mac, ip: Ipv6Addr) -> bool {
    let bytes = &frame.0;
    let (solicited, overrides) = (0x40, 0x20);
    bytes.len() >= 86
        && bytes[12..14] == [0x86, 0xdd]
        && bytes[38..54] == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets()
        && bytes[54] == 136
        && bytes[58] & (solicited | overrides) == overrides
        && bytes[62..78] == ip.octets()
        && bytes[78..86] == [&[2, 1], &mac.0[..]].concat()
}

#[test]
fn a_new_endpoint_announces_its_addresses() {
    let host = Host::up(&[]);
    networks(&host, &["front", "back"]);
    let [a, neighbor] = ["a", "neighbor"].map(Netns::new);
    host.attach(&neighbor, &["--network", "front", "--name", "neighbor"]);
    connect(&host, "back", "neighbor", &[]);
    let [in_front, in_back] = ["eth0", "eth1"].map(|ifname| RawPort::open(&neighbor, ifname));
    let expect_arp = |port: &RawPort, endpoint: &Attached| {
        port.expect_such("a gratuitous ARP", |frame| is_announcement(frame, endpoint.mac, endpoint.ipv4));
    };
    let expect_advertisement = |port: &RawPort, endpoint: &Attached| {
        let ipv6 = endpoint.ipv6.unwrap();
        port.expect_such("a neighbor advertisement", |frame| is_advertisement(frame, endpoint.mac, ipv6));
    };
    // Separate sockets, because the two announcements may come in either order.
    let more = [RawPort::open(&neighbor, "eth0"), RawPort::open(&neighbor, "eth1")];
    let endpoint = host.attach(&a, &["--network", "front"]);
    expect_arp(&in_front, &endpoint);
    expect_advertisement(&more[0], &endpoint);
    let connected = connect(&host, "back", a.name(), &[]);
    expect_arp(&in_back, &connected);
    expect_advertisement(&more[1], &connected);
}

#[test]
fn an_address_with_a_new_mac_is_reached_at_once() {
    let host = Host::up(&[]);
    networks(&host, &["front"]);
    let [a, b, neighbor] = ["a", "b", "neighbor"].map(Netns::new);
    host.attach(&neighbor, &["--network", "front"]);
    let flags = ["--network", "front", "--ip", "10.83.0.77", "--ip6", "fd00:83::77"];
    let mut last = None;
    for container in [&a, &b, &a] {
        let endpoint = host.attach(container, &flags);
        assert_ne!(last.replace(endpoint.mac), Some(endpoint.mac));
        // The neighbor has a cache entry with the previous MAC address, and would use it for a
        // while.
        for from in [&neighbor, &*host.netns] {
            ping(from, endpoint.ipv4);
            ping(from, endpoint.ipv6.unwrap());
        }
        host.ok(&["detach", container.name()]);
    }
}

#[test]
fn invalid_connects_and_disconnects_are_refused() {
    let host = Host::up(&[]);
    networks(&host, &["front", "back"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--network", "front", "--name", "web"]);
    host.attach(&b, &["--network", "back", "--name", "db"]);
    let at_rest = AtRest::new(&host, &[&a, &b]);
    let refuses = |words: &str, names: &[&str]| {
        let words: Vec<&str> = ["network"].into_iter().chain(words.split_whitespace()).collect();
        at_rest.refuses(&words, names);
    };
    refuses("connect nowhere web", &["no network `nowhere`"]);
    refuses("connect back nobody", &["no endpoint `nobody`"]);
    refuses("connect front web", &["web", "front", "already"]);
    refuses("connect none web", &["none"]);
    refuses("connect host web", &["host"]);
    refuses("connect --ip 10.84.0.2 back web", &["10.84.0.2", "already in use", "endpoint db"]);
    refuses("connect --ip 10.99.0.2 back web", &["10.99.0.2", "10.84.0.0/24"]);
    refuses("connect --ifname eth0 back web", &["eth0"]);
    refuses("connect --ifname lo back web", &["lo"]);
    refuses("connect --ifname much-too-long-a-name back web", &["much-too-long-a-name"]);
    refuses("connect --mac 01:00:00:00:00:01 back web", &["01:00:00:00:00:01"]);
    refuses("connect --gw-priority high back web", &["high"]);
    refuses("disconnect back web", &["web is not connected to network back"]);
    refuses("disconnect front db", &["db is not connected to network front"]);
    refuses("disconnect nowhere web", &["no network `nowhere`"]);
    refuses("disconnect front nobody", &["no endpoint `nobody`"]);
}

#[test]
fn an_endpoint_can_be_disconnected_from_its_last_network() {
    let host = Host::up(&[]);
    networks(&host, &["front"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network", "front", "--name", "web"]);
    host.ok(&["network", "disconnect", "front", "web"]);
    assert_eq!(a.devices(), ["lo".to_owned()].into());
    let line = host.fails(1, &["network", "disconnect", "front", "web"]);
    assert!(line.contains("web"), "{line}");
    host.ok(&["network", "rm", "front"]);
}

#[test]
fn a_deleted_namespace_is_removed_from_all_its_networks() {
    let host = Host::up(&[]);
    networks(&host, &["front", "back"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network", "front", "--name", "web"]);
    connect(&host, "back", "web", &[]);
    a.delete();
    eventually("the endpoints are removed", || host.ps().is_empty().then_some(()));
    host.ok(&["network", "rm", "front", "back"]);
}
