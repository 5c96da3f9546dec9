//! Published ports are reached from every place that should reach them, and from no other.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, listen, socket,
};
use serde_json::Value;

use crate::harness::{
    AtRest, Attached, Caller, Frame, Netns, PATIENCE, Page, Published, RawPort, Site, Uplinks, addresses, eventually,
    get, try_get,
};

fn page(site: &str, client: impl Into<IpAddr>) -> Page {
    Page { site: site.to_owned(), client: client.into() }
}

/// Returns both addresses of an endpoint.
fn addresses_of(endpoint: &Attached) -> [IpAddr; 2] {
    [endpoint.ipv4.into(), endpoint.ipv6.unwrap().into()]
}

fn gateways(endpoint: &Attached) -> [IpAddr; 2] {
    [endpoint.gateway.unwrap().into(), endpoint.gateway6.unwrap().into()]
}

/// Asserts that the kernel refuses the connection, because nothing listens at this port.
#[track_caller]
fn assert_connection_refused(from: &Netns, to: impl Into<IpAddr>, port: u16) {
    let at = SocketAddr::new(to.into(), port);
    let refused = try_get(from, at, PATIENCE).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{at} from {}", from.name());
}

/// Protocol, address of the host, port of the host, port of the container.
type Port<'a> = (&'a str, Option<String>, u16, u16);

/// Returns the ports of an endpoint as `attach` prints them.
fn ports(endpoint: &Attached) -> Vec<Port<'_>> {
    let mut ports = Vec::new();
    for Published { protocol, host_ip, host_port, container_port } in &endpoint.published {
        ports.push((protocol.as_str(), host_ip.map(|address| address.to_string()), *host_port, *container_port));
    }
    ports
}

#[test]
fn a_port_is_reached_from_all_four_places() {
    let Uplinks { outside, outside2, host } = &Uplinks::up();
    let [web, neighbor, other] = ["web", "neighbor", "other"].map(Netns::new);
    let flags = ["--network", "front", "--name", "web", "-p", "8080:80", "-p", "8080:80/udp"];
    let at_web = host.attach(&web, &flags);
    host.attach(&neighbor, &["--network", "front"]);
    let at_other = host.attach(&other, &["--network", "back"]);
    let _site = Site::open(&web, 80, "web");
    for family in 0..2 {
        let [near, near2] = [Uplinks::HOST, Uplinks::HOST2].map(|texts| addresses(texts)[family]);
        let gateway = gateways(&at_web)[family];
        for (from, to, client) in [
            // From outside, through either uplink: the client's address is kept.
            (outside, near, addresses(Uplinks::OUTSIDE)[family]),
            (outside2, near2, addresses(Uplinks::OUTSIDE2)[family]),
            // From the host itself, at any of its addresses.
            (&*host.netns, near, near),
            (&*host.netns, near2, near2),
            (&*host.netns, gateway, gateway),
            // From another network, at the host's addresses.
            (&other, near, addresses_of(&at_other)[family]),
            (&other, gateways(&at_other)[family], addresses_of(&at_other)[family]),
            // From the container itself and from its neighbor: the answers must return through the
            // host.
            (&web, near, gateway),
            (&neighbor, near, gateway),
            (&neighbor, gateway, gateway),
        ] {
            assert_eq!(get(from, to, 8080), page("web", client), "{to} from {}", from.name());
            assert_eq!(Caller::new(from, to, 8080).call(), page("web", client), "{to} from {} by UDP", from.name());
        }
    }
    let localhost = Ipv4Addr::LOCALHOST;
    assert_eq!(get(&host.netns, localhost, 8080), page("web", at_web.gateway.unwrap()));
    assert_eq!(Caller::new(&host.netns, localhost, 8080).call(), page("web", at_web.gateway.unwrap()));
    // Ports that are not published are closed.
    assert_connection_refused(outside, addresses(Uplinks::HOST)[0], 80);
    assert_connection_refused(outside, addresses(Uplinks::HOST)[1], 80);
    // From another network, only the published port reaches the container, not its own address.
    let dropped = || host.ports(&[]).values().map(|counters| counters.dropped("other_network")).sum::<u64>();
    let before = dropped();
    let straight = try_get(&other, SocketAddr::from((at_web.ipv4, 80)), Duration::from_millis(300));
    assert!(straight.is_err(), "{straight:?}");
    eventually("the packet is dropped", || (dropped() > before).then_some(()));
}

#[test]
fn a_published_port_carries_large_transfers() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    host.attach(&web, &["--network", "front", "-p", "8080:80"]);
    let listener = web.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80))).unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..4 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        }
    });
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for from in [outside, &host.netns] {
        for to in addresses(Uplinks::HOST) {
            let mut stream = from.inside(|| TcpStream::connect((to, 8080))).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{} bytes came back, which differ from those sent", back.len());
        }
    }
    server.join().unwrap();
}

#[test]
fn every_form_of_publish_works_as_in_docker() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    let at_web = host.attach(
        &web,
        &[
            "--network",
            "front",
            "--name",
            "web",
            "-p",
            "8080:80",
            "-p",
            "192.0.2.1:8081:80/tcp",
            "--publish",
            "[2001:db8:1::1]:8082:80",
            "-p",
            "0.0.0.0:8083:80",
            "-p",
            "[::]:8084:80",
            "-p",
            "9000-9002:80-82",
            "-p",
            "9100-9110:80",
            "-p",
            "192.0.2.1::80",
            "-p",
            "80",
            "-p",
            "81/udp",
        ],
    );
    let found = ports(&at_web);
    let address = |text: &str| Some(text.to_owned());
    for expected in [
        ("tcp", None, 8080, 80),
        ("tcp", address("192.0.2.1"), 8081, 80),
        ("tcp", address("2001:db8:1::1"), 8082, 80),
        ("tcp", address("0.0.0.0"), 8083, 80),
        ("tcp", address("::"), 8084, 80),
        ("tcp", None, 9000, 80),
        ("tcp", None, 9001, 81),
        ("tcp", None, 9002, 82),
    ] {
        assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
    }
    let chosen = |what: &str, wanted: &dyn Fn(&Port<'_>) -> bool| {
        let ports: Vec<u16> = found.iter().filter(|port| wanted(port)).map(|port| port.2).collect();
        assert_eq!(ports.len(), 1, "{what}: {found:?}");
        ports[0]
    };
    let of_range = chosen("from a range", &|(_, _, host_port, _)| (9100..=9110).contains(host_port));
    let at_address = chosen("at an address", &|(protocol, host_ip, host_port, _)| {
        *protocol == "tcp" && *host_ip == address("192.0.2.1") && *host_port != 8081
    });
    let automatic = chosen("at all addresses", &|(protocol, host_ip, host_port, container_port)| {
        *protocol == "tcp" && host_ip.is_none() && *container_port == 80 && *host_port >= 32768
    });
    let by_udp = chosen("for UDP", &|(protocol, ..)| *protocol == "udp");
    assert_eq!(found.len(), 12, "{found:?}");
    assert_eq!(host.ps()[0].published, at_web.published);
    let table = host.ok(&["ps"]);
    for shown in ["8080->80/tcp", "192.0.2.1:8081->80/tcp", "[2001:db8:1::1]:8082->80/tcp", "9001->81/tcp"] {
        assert!(table.contains(shown), "{shown} is not in {table}");
    }
    let inspected: Value = host.json(&["inspect", "web"]);
    assert_eq!(inspected["published"].as_array().unwrap().len(), 12, "{inspected:#}");

    let _sites = [80, 81, 82].map(|port| Site::open(&web, port, &port.to_string()));
    let [ipv4, ipv6] = addresses(Uplinks::HOST);
    let [client, client6] = addresses(Uplinks::OUTSIDE);
    for (port, site) in [(8080, "80"), (9000, "80"), (9001, "81"), (9002, "82"), (of_range, "80"), (automatic, "80")] {
        assert_eq!(get(outside, ipv4, port), page(site, client), "{port}");
        assert_eq!(get(outside, ipv6, port), page(site, client6), "{port}");
    }
    for port in [8081, 8083, at_address] {
        assert_eq!(get(outside, ipv4, port), page("80", client), "{port}");
        assert_connection_refused(outside, ipv6, port);
    }
    for port in [8082, 8084] {
        assert_eq!(get(outside, ipv6, port), page("80", client6), "{port}");
        assert_connection_refused(outside, ipv4, port);
    }
    // A port published at one address is closed at the others.
    let [second, second6] = addresses(Uplinks::HOST2);
    assert_connection_refused(&host.netns, second, 8081);
    assert_connection_refused(&host.netns, second6, 8082);
    assert_eq!(get(&host.netns, second, 8083), page("80", second));
    assert_eq!(Caller::new(outside, ipv4, by_udp).call(), page("81", client));
    assert_eq!(Caller::new(outside, ipv6, by_udp).call(), page("81", client6));
}

#[test]
fn a_port_at_localhost_is_reached_only_from_the_host() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let create = "network create --subnet 10.125.0.0/24 -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 local";
    host.ok(&create.split(' ').collect::<Vec<_>>());
    let [web, bound, other] = ["web", "bound", "other"].map(Netns::new);
    let at_web = host.attach(&web, &["--network", "front", "-p", "127.0.0.1:8080:80", "-p", "127.0.0.1:8080:80/udp"]);
    let at_bound = host.attach(&bound, &["--network", "local", "-p", "8090:80"]);
    assert_eq!(at_bound.published[0].host_ip, Some(Ipv4Addr::LOCALHOST.into()));
    let at_other = host.attach(&other, &["--network", "back"]);
    let _sites = [Site::open(&web, 80, "web"), Site::open(&bound, 80, "bound")];
    let localhost = Ipv4Addr::LOCALHOST;
    assert_eq!(get(&host.netns, localhost, 8080), page("web", at_web.gateway.unwrap()));
    assert_eq!(Caller::new(&host.netns, localhost, 8080).call(), page("web", at_web.gateway.unwrap()));
    assert_eq!(get(&host.netns, localhost, 8090), page("bound", at_bound.gateway.unwrap()));
    for port in [8080, 8090] {
        for from in [outside, &host.netns, &web, &other] {
            assert_connection_refused(from, addresses(Uplinks::HOST)[0], port);
        }
        assert_connection_refused(&other, at_other.gateway.unwrap(), port);
    }
    // A machine on the wire sends a packet for 127.0.0.1 to the host, and then one for an open
    // port.
    let seen = RawPort::open(&web, "eth0");
    let wire = RawPort::open(outside, "eth0");
    let [from, to] = [outside.mac("eth0"), host.netns.mac("up0")];
    let packet = |destination: [u8; 4], text: &[u8]| {
        let mut bytes = Vec::new();
        let packet = etherparse::PacketBuilder::ethernet2(from.0, to.0).ipv4([192, 0, 2, 9], destination, 64);
        packet.udp(7777, 8080).write(&mut bytes, text).unwrap();
        Frame(bytes)
    };
    host.ok(&["attach", "--netns", &web.path_argument(), "--network", "back", "-p", "192.0.2.1:8080:81/udp"]);
    let open = RawPort::open(&web, "eth1");
    wire.send(&packet([127, 0, 0, 1], b"forged"));
    wire.send(&packet([192, 0, 2, 1], b"honest"));
    let holds = |frame: &Frame, text: &[u8]| frame.0.windows(text.len()).any(|part| part == text);
    open.expect_such("the packet for the open port", |frame| holds(frame, b"honest"));
    let pending = seen.pending();
    assert!(!pending.iter().any(|frame| holds(frame, b"forged")), "{pending:02x?}");
}

#[test]
fn a_port_cannot_be_allocated_twice() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let [web, other] = ["web", "other"].map(Netns::new);
    let flags = ["--network", "front", "--name", "web", "-p", "8080:80", "-p", "9000-9001:90-91/udp"];
    host.attach(&web, &flags);
    let process = host.netns.inside(|| TcpListener::bind("0.0.0.0:7070")).unwrap();
    let by_udp = host.netns.inside(|| UdpSocket::bind("[::1]:7071")).unwrap();
    let pid = std::process::id().to_string();
    {
        let at_rest = AtRest::new(host, &[&web, &other]);
        let refuses = |flags: &str, names: &[&str]| {
            let path = other.path_argument();
            let words = ["attach", "--netns", &path, "--network"].into_iter().chain(flags.split(' '));
            at_rest.refuses(&words.collect::<Vec<_>>(), names);
        };
        let allocated = "port is already allocated";
        refuses("back -p 8080:81", &["8080", allocated, "endpoint web"]);
        refuses("back -p 192.0.2.1:8080:81", &["192.0.2.1:8080", allocated, "endpoint web"]);
        refuses("front -p 8000:1 -p 9001:1/udp", &["9001", allocated, "endpoint web"]);
        refuses("back -p 7070:80", &["7070", allocated, &pid]);
        refuses("back -p 127.0.0.1:7070:80", &["127.0.0.1:7070", allocated, &pid]);
        refuses("back -p 7071:80/udp", &["7071", allocated, &pid]);
        refuses("back -p 6060:80 -p 6060:81", &["6060", allocated]);
        refuses("back -p 9000-9001:80/udp", &["all ports are allocated", "9000-9001"]);
        refuses("back -p 203.0.113.77:80:80", &["203.0.113.77"]);
        refuses("none -p 80", &["cannot be published on network none"]);
        refuses("back -p 65536:80", &["invalid hostPort", "65536"]);
        refuses("back -p 8080:0", &["invalid containerPort"]);
        refuses("back -p 70000", &["invalid containerPort", "70000"]);
        refuses("back -p 81-80:80", &["invalid port range"]);
        refuses("back -p 8000-8002:80-81", &["invalid ranges specified for container and host Ports"]);
        refuses("back -p 80/icmp", &["invalid proto", "icmp"]);
        refuses("back -p 300.0.2.1:80:80", &["invalid IP address", "300.0.2.1"]);
        refuses("back -p 8080:", &["no port specified"]);
        refuses("bridge -p [2001:db8:1::1]:80:80", &["cannot be published on network bridge", "no IPv6"]);
    }
    host.ok(&["network", "create", "--internal", "inside"]);
    let path = other.path_argument();
    let line = host.fails(1, &["attach", "--netns", &path, "--network", "inside", "-p", "80"]);
    assert!(line.contains("cannot be published on network inside") && line.contains("internal"), "{line}");
    let line = host.fails(1, &["run", "--network", "host", "-p", "80", "true"]);
    assert!(line.contains("cannot be published on network host"), "{line}");
    // The same number may be published for another protocol.
    host.attach(&other, &["--network", "back", "--name", "other", "-p", "8080:80/udp"]);
    let _sites = [Site::open(&web, 80, "web"), Site::open(&other, 80, "other")];
    let [near, _] = addresses(Uplinks::HOST);
    assert_eq!(get(outside, near, 8080).site, "web");
    assert_eq!(Caller::new(outside, near, 8080).call().site, "other");
    drop((process, by_udp));

    // No other program on the host can bind the port until it is released.
    let taken = host.netns.inside(|| TcpListener::bind("0.0.0.0:8080")).map_err(|error| error.kind());
    assert_eq!(taken.err(), Some(ErrorKind::AddrInUse));
    host.ok(&["detach", "web"]);
    assert_connection_refused(outside, near, 8080);
    host.netns.inside(|| TcpListener::bind("[::]:8080")).expect("the port is free");
    host.attach(&web, &["--network", "front", "-p", "8080:80", "-p", "9001:80/udp"]);
    assert_eq!(get(outside, near, 8080).site, "web");
}

#[test]
fn a_udp_flow_follows_the_port_to_another_container() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let [first, second] = ["first", "second"].map(Netns::new);
    let _sites = [Site::open(&first, 53, "first"), Site::open(&second, 53, "second")];
    let flags = ["--network", "front", "--name", "dns", "-p", "5353:53/udp"];
    host.attach(&first, &flags);
    let [near, near6] = addresses(Uplinks::HOST);
    let callers = [
        Caller::new(outside, near, 5353),
        Caller::new(outside, near6, 5353),
        Caller::new(&host.netns, near, 5353),
        Caller::new(&host.netns, Ipv4Addr::LOCALHOST, 5353),
    ];
    for container in [&second, &first, &second] {
        host.ok(&["detach", "dns"]);
        for caller in &callers {
            // Requests sent while no endpoint has the port leave flows without a container.
            let _nobody = caller.try_call(Duration::from_millis(10));
        }
        host.attach(container, &flags);
        let site = if std::ptr::eq(container, &first) { "first" } else { "second" };
        for caller in &callers {
            // The first result may be the refusal of an earlier request.
            let page = eventually("an answer", || caller.try_call(PATIENCE).ok());
            assert_eq!(page.site, site);
        }
    }
}

#[test]
fn ports_work_after_a_kill_and_after_down_and_up() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    let at_web = host.attach(&web, &["--network", "front", "--name", "web", "-p", "8080:80", "-p", "80"]);
    let _site = Site::open(&web, 80, "web");
    let automatic = at_web.published.iter().find(|port| port.host_port != 8080).unwrap().host_port;
    let assert_works = || {
        for port in [8080, automatic] {
            assert_eq!(get(outside, addresses(Uplinks::HOST)[0], port).site, "web");
            assert_eq!(get(outside, addresses(Uplinks::HOST)[1], port).site, "web");
        }
    };
    assert_works();
    host.kill_daemon();
    assert_works();
    host.start(&[]);
    assert_works();
    let other = Netns::new("other");
    let line = host.fails(1, &["attach", "--netns", &other.path_argument(), "-p", "8080:80"]);
    assert!(line.contains("port is already allocated") && line.contains("endpoint web"), "{line}");
    host.stop(&[]);
    assert_connection_refused(outside, addresses(Uplinks::HOST)[0], 8080);
    host.start(&[]);
    assert_eq!(host.ps(), std::slice::from_ref(&at_web));
    assert_works();
}

#[test]
fn published_ports_work_when_the_default_route_is_in_another_network() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    host.attach(&web, &["--network", "front", "--name", "web", "-p", "8080:80"]);
    // The default route moves to `back`, but answers to connections through `front` must return
    // there.
    host.ok(&["network", "connect", "--gw-priority", "9", "back", "web"]);
    let _site = Site::open(&web, 80, "web");
    let [near, near6] = addresses(Uplinks::HOST);
    assert_eq!(get(outside, near, 8080), page("web", addresses(Uplinks::OUTSIDE)[0]));
    assert_eq!(get(outside, near6, 8080), page("web", addresses(Uplinks::OUTSIDE)[1]));
}

#[test]
fn published_ports_are_not_reached_from_an_internal_network() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    host.ok(&["network", "create", "--internal", "--subnet", "10.127.0.0/24", "--subnet", "fd00:127::/64", "inside"]);
    let [web, inside] = ["web", "inside"].map(Netns::new);
    host.attach(&web, &["--network", "front", "-p", "8080:80"]);
    host.attach(&inside, &["--network", "inside"]);
    let _site = Site::open(&web, 80, "web");
    assert_eq!(get(outside, addresses(Uplinks::HOST)[0], 8080).site, "web");
    // The host has this address, but nothing listens at this port.
    for gateway in addresses(["10.127.0.1", "fd00:127::1"]) {
        assert_connection_refused(&inside, gateway, 8080);
    }
    // With a default route, the packets reach the host port and are dropped there.
    inside.ip("route add default via 10.127.0.1");
    let before = host.counters(inside.name()).dropped("internal");
    let at = SocketAddr::new(addresses(Uplinks::HOST)[0], 8080);
    let reached = try_get(&inside, at, Duration::from_millis(300));
    assert!(reached.is_err(), "{reached:?}");
    eventually("the packet is dropped as internal", || {
        (host.counters(inside.name()).dropped("internal") > before).then_some(())
    });
}

#[test]
fn endpoints_with_icc_off_can_publish_ports() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    host.ok(&["network", "create", "--subnet", "10.126.0.0/24", "-o", "icc=false", "apart"]);
    let [web, other] = ["web", "other"].map(Netns::new);
    host.attach(&web, &["--network", "apart", "-p", "8080:80"]);
    host.attach(&other, &["--network", "back"]);
    let _site = Site::open(&web, 80, "web");
    for from in [outside, &host.netns, &other] {
        assert_eq!(get(from, addresses(Uplinks::HOST)[0], 8080).site, "web", "from {}", from.name());
    }
}

#[test]
fn a_published_sctp_port_is_reached() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    let at_web = host.attach(&web, &["--network", "front", "-p", "8080:80/sctp"]);
    assert_eq!((at_web.published[0].protocol.as_str(), at_web.published[0].host_port), ("sctp", 8080));
    let open = |netns: &Netns| {
        netns.inside(|| socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp))
    };
    let server = match open(&web) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("this kernel has no SCTP ({error}): published SCTP ports are not tested");
            return;
        }
    };
    bind(server.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 80))).unwrap();
    listen(&server, Backlog::new(4).unwrap()).unwrap();
    let listener = TcpListener::from(server);
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"by SCTP").unwrap();
    });
    let client = open(outside).unwrap();
    outside
        .inside(|| connect(client.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new([192, 0, 2, 1].into(), 8080))))
        .unwrap();
    let mut client = TcpStream::from(client);
    let mut buffer = [0; 16];
    let length = client.read(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"by SCTP");
    answers.join().unwrap();
}

#[test]
fn ports_of_a_deleted_namespace_are_released() {
    let Uplinks { host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    host.attach(&web, &["--network", "front", "-p", "8080:80"]);
    web.delete();
    eventually("the port is free", || host.netns.inside(|| TcpListener::bind("0.0.0.0:8080")).ok().map(drop));
    assert!(host.ps().is_empty());
}
