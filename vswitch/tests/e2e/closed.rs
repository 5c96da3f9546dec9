//! What is reached from outside the host: published ports and the answers to connections from
//! inside, and what the gateway mode of a network opens. Names are for a network's own endpoints.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use serde_json::Value;

use crate::harness::packets::protocol;
use crate::harness::segments::{Segment, addresses_in};
use crate::harness::{
    Answer, AtRest, Attached, Caller, Frame, Netns, PATIENCE, Page, RawPort, Site, Uplinks, addresses, ask, ask_tcp,
    get, ping, try_get,
};

fn page(site: &str, client: impl Into<IpAddr>) -> Page {
    Page { site: site.to_owned(), client: client.into() }
}

fn addresses_of(endpoint: &Attached) -> [IpAddr; 2] {
    [endpoint.ipv4.into(), endpoint.ipv6.unwrap().into()]
}

fn gateways(endpoint: &Attached) -> [IpAddr; 2] {
    [endpoint.gateway.unwrap().into(), endpoint.gateway6.unwrap().into()]
}

/// Adds the routes to the networks 10.NUMBER.0.0/24 and fd00:NUMBER::/64 by way of the host.
fn route_by_host(outside: &Netns, number: u16) {
    outside.ip(&format!("route add 10.{number}.0.0/24 via {}", Uplinks::HOST[0]));
    outside.ip(&format!("-6 route add fd00:{number}::/64 via {}", Uplinks::HOST[1]));
}

/// Sends a connection request, a datagram and an echo request from outside to an endpoint.
fn knock(from: &Netns, to: IpAddr, port: u16) {
    let socket = from.inside(|| {
        let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        let socket = std::net::UdpSocket::bind((any, 0)).expect("a socket");
        socket.connect((to, port)).map(|()| socket)
    });
    socket.and_then(|socket| socket.send(b"?")).expect("it is sent");
    let closed = try_get(from, SocketAddr::new(to, port), Duration::from_millis(50));
    assert!(closed.is_err(), "{to}: {closed:?}");
    let pinged = from.command("ping").args(["-c", "1", "-W", "0.05", &to.to_string()]).output();
    assert!(!pinged.expect("ping runs").status.success(), "{to} answers");
}

/// Returns what a frame asks of the endpoint with these addresses: protocol and port.
fn asks(Frame(bytes): &Frame, of: &[IpAddr]) -> Option<(u8, u16)> {
    let (_, destination) = addresses_in(bytes).filter(|(_, destination)| of.contains(destination))?;
    let (number, start) = if destination.is_ipv4() { (bytes[23], 34) } else { (bytes[20], 54) };
    match number {
        protocol::TCP | protocol::UDP => Some((number, u16::from_be_bytes([bytes[start + 2], bytes[start + 3]]))),
        // Echo requests.
        1 if bytes[start] == 8 => Some((number, 0)),
        protocol::ICMPV6 if bytes[start] == 128 => Some((number, 0)),
        _ => None,
    }
}

#[test]
fn only_published_ports_are_reached_from_outside() {
    let Uplinks { outside, outside2, host } = &Uplinks::up();
    let [web, other] = ["web", "other"].map(Netns::new);
    let at_web = host.attach(&web, &["--network", "front", "-p", "8080:80", "-p", "8080:80/udp"]);
    host.attach(&other, &["--network", "back"]);
    let _sites = [Site::open(&web, 80, "web"), Site::open(&web, 81, "web"), Site::open(outside, 80, "outside")];
    // A machine behind another machine, and one with a route of its own.
    route_by_host(outside, 121);
    outside2.ip(&format!("route add 10.121.0.0/24 via {}", Uplinks::HOST2[0]));
    outside2.ip(&format!("-6 route add fd00:121::/64 via {}", Uplinks::HOST2[1]));
    let arrived = RawPort::open(&web, "eth0");
    let ours = addresses_of(&at_web);
    for family in 0..2 {
        // The published port's own number at the endpoint is closed, too.
        for (from, port) in [(outside, 80), (outside, 81), (outside2, 81)] {
            knock(from, ours[family], port);
        }
        let near = addresses(Uplinks::HOST)[family];
        let client = addresses(Uplinks::OUTSIDE)[family];
        assert_eq!(get(outside, near, 8080), page("web", client));
        assert_eq!(Caller::new(outside, near, 8080).call(), page("web", client));
        // Replies get in.
        assert_eq!(get(&web, client, 80), page("outside", near));
        assert_eq!(Caller::new(&web, client, 80).call(), page("outside", near));
        ping(&web, client);
        let asked: Vec<_> = arrived.pending().iter().filter_map(|frame| asks(frame, &ours)).collect();
        // What arrived are the published port and answers to ports of clients.
        let wanted = |&(number, port): &(u8, u16)| !matches!(number, 1 | protocol::ICMPV6) && port != 81;
        assert!(asked.iter().all(wanted), "{asked:?}");
        assert!(asked.contains(&(protocol::TCP, 80)) && asked.contains(&(protocol::UDP, 80)), "{asked:?}");
        // The host itself reaches every port.
        assert_eq!(get(&host.netns, ours[family], 81), page("web", gateways(&at_web)[family]));
        ping(&host.netns, ours[family]);
        arrived.pending();
    }
}

#[test]
fn what_is_routed_in_is_known_by_its_source() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    let at_web = host.attach(&web, &["--network", "front", "-p", "8080:80"]);
    let _site = Site::open(&web, 80, "web");
    route_by_host(outside, 121);
    let arrived = RawPort::open(&web, "eth0");
    for family in 0..2 {
        knock(outside, addresses_of(&at_web)[family], 80);
        let client = addresses(Uplinks::OUTSIDE)[family];
        assert_eq!(get(outside, addresses(Uplinks::HOST)[family], 8080), page("web", client));
    }
    // Exactly one connection of each family arrived at port 80.
    let frames = arrived.pending();
    let opened = frames.iter().filter_map(Segment::of).filter(|seen| seen.destination.port() == 80 && seen.flags == 2);
    assert_eq!(opened.count(), 2);
}

#[test]
fn the_gateway_mode_opens_a_network() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let modes: [(u16, &str, &[&str], [&str; 2]); 7] = [
        (131, "routed", &["gateway_mode=routed"], ["routed", "routed"]),
        (132, "unmasqueraded", &["masquerade=false"], ["routed", "routed"]),
        (133, "unprotected", &["gateway_mode=nat-unprotected"], ["nat-unprotected", "nat-unprotected"]),
        (134, "four", &["com.docker.network.bridge.gateway_mode_ipv4=routed"], ["routed", "nat"]),
        (135, "six", &["com.docker.network.bridge.gateway_mode_ipv6=routed"], ["nat", "routed"]),
        (136, "closed", &["gateway_mode=nat"], ["nat", "nat"]),
        (137, "plain", &["gateway_mode=nat", "masquerade=false"], ["plain", "plain"]),
    ];
    let _site = Site::open(outside, 80, "outside");
    for (number, name, options, expected) in modes {
        let [ipv4, ipv6] = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
        let mut create = vec!["network", "create", "--subnet", &ipv4, "--subnet", &ipv6];
        create.extend(options.iter().flat_map(|option| ["-o", option]));
        create.push(name);
        host.ok(&create);
        route_by_host(outside, number);
        let container = Netns::new(name);
        let port = format!("{}:80", 8000 + number);
        let at = host.attach(&container, &["--network", name, "-p", &port]);
        let _own = Site::open(&container, 80, name);
        for (family, mode) in expected.into_iter().enumerate() {
            let own = addresses_of(&at)[family];
            let [near, client] = [Uplinks::HOST, Uplinks::OUTSIDE].map(|texts| addresses(texts)[family]);
            if matches!(mode, "routed" | "nat-unprotected") {
                assert_eq!(get(outside, own, 80), page(name, client), "{name}");
                ping(outside, own);
            } else {
                knock(outside, own, 80);
            }
            let seen = if matches!(mode, "routed" | "plain") { own } else { near };
            assert_eq!(get(&container, client, 80), page("outside", seen), "{name}");
            assert_eq!(get(outside, near, 8000 + number), page(name, client), "{name}: the published port");
        }
        let at_rest: Value = host.json(&["network", "inspect", name]);
        assert_eq!(at_rest[0]["name"], name);
    }
    // A network is open for machines outside, not for other networks.
    let [routed, other] = ["in-routed", "other"].map(Netns::new);
    let at_routed = host.attach(&routed, &["--network", "routed"]);
    host.attach(&other, &["--network", "front"]);
    let _own = Site::open(&routed, 80, "routed");
    for own in addresses_of(&at_routed) {
        knock(&other, own, 80);
    }
    // The modes survive the daemon.
    host.kill_daemon();
    host.start(&[]);
    for (own, client) in addresses_of(&at_routed).into_iter().zip(addresses(Uplinks::OUTSIDE)) {
        assert_eq!(get(outside, own, 80), page("routed", client));
    }
    let rest = AtRest::new(host, &[]);
    for (mode, what) in [
        ("open", "invalid value `open` of option gateway_mode (nat, nat-unprotected, routed or isolated)"),
        ("isolated", "gateway_mode=isolated"),
    ] {
        rest.refuses(&["network", "create", "-o", &format!("gateway_mode={mode}"), "refused"], &[what]);
    }
}

#[test]
fn an_isolated_network_reaches_nothing_of_the_host_but_names() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let create = ["network", "create", "--internal", "--subnet", "10.141.0.0/24", "--subnet", "fd00:141::/64"];
    host.ok(&[&create[..], &["-o", "gateway_mode=isolated", "alone"]].concat());
    route_by_host(outside, 141);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "alone", "--name", "a"]);
    let at_b = host.attach(&b, &["--network", "alone", "--name", "b"]);
    let _sites = [Site::open(&host.netns, 80, "host"), Site::open(&b, 80, "b")];
    for family in 0..2 {
        let own = addresses_of(&at_b)[family];
        let gateway: IpAddr = ["10.141.0.1", "fd00:141::1"][family].parse().unwrap();
        assert_eq!(get(&a, own, 80), page("b", addresses_of(&at_a)[family]));
        assert_eq!(ask(&a, gateway, "b", ["A", "AAAA"][family]), Answer::of(&[&own]));
        assert_eq!(ask_tcp(&a, gateway, "b", ["A", "AAAA"][family]), Answer::of(&[&own]));
        for (from, to) in [(&a, gateway), (&*host.netns, own)] {
            let closed = try_get(from, SocketAddr::new(to, 80), Duration::from_millis(300));
            assert!(closed.is_err(), "{to} from {}: {closed:?}", from.name());
        }
        knock(outside, own, 80);
    }
}

#[test]
fn names_are_told_to_endpoints_of_the_network_and_the_host_alone() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    host.ok(&["network", "create", "--internal", "--subnet", "10.124.0.0/24", "--subnet", "fd00:124::/64", "inside"]);
    let [web, db, other] = ["web", "db", "other"].map(Netns::new);
    let at_web = host.attach(&web, &["--network", "front", "--name", "web"]);
    let at_db = host.attach(&db, &["--network", "inside", "--name", "db"]);
    host.attach(&other, &["--network", "back"]);
    route_by_host(outside, 121);
    route_by_host(outside, 124);
    let refused = Answer { code: ResponseCode::Refused, data: Vec::new() };
    for (at, name) in [(&at_web, "web"), (&at_db, "db")] {
        for (server, own, kind) in [
            (at.gateway.map(IpAddr::from).or(Some("10.124.0.1".parse().unwrap())), addresses_of(at)[0], "A"),
            (at.gateway6.map(IpAddr::from).or(Some("fd00:124::1".parse().unwrap())), addresses_of(at)[1], "AAAA"),
        ] {
            let server = server.unwrap();
            let inside = if name == "web" { &web } else { &db };
            for from in [inside, &host.netns] {
                assert_eq!(ask(from, server, name, kind), Answer::of(&[&own]), "{name} from {}", from.name());
                assert_eq!(ask_tcp(from, server, name, kind), Answer::of(&[&own]), "{name} from {}", from.name());
            }
            for from in [outside, &other] {
                for asked in [name, "www.example.com"] {
                    assert_eq!(ask(from, server, asked, kind), refused, "{asked} from {}", from.name());
                    assert_eq!(ask_tcp(from, server, asked, kind), refused, "{asked} from {}", from.name());
                }
                assert_eq!(ask(from, server, &own.to_string(), "PTR"), refused, "from {}", from.name());
            }
        }
    }
    // The host asks from any of its addresses.
    let from_uplink = host.netns.inside(|| {
        let socket = std::net::UdpSocket::bind((Uplinks::HOST[0], 0)).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        socket.connect((at_web.gateway.unwrap(), 53)).expect("the server");
        // A query for the A record of `web`, with the id 0x1234.
        socket.send(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01").expect("it is sent");
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).expect("an answer");
        answer[..length].to_vec()
    });
    assert_eq!((from_uplink[3] & 0xf, &from_uplink[from_uplink.len() - 4..]), (0, &at_web.ipv4.octets()[..]));
    // An endpoint of both networks is told by each of its gateways, whatever address it asks from.
    host.ok(&["network", "connect", "inside", "web"]);
    assert_eq!(ask(&web, at_web.gateway.unwrap(), "db", "A"), Answer::of(&[&at_db.ipv4]));
}
