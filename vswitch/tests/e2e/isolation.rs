//! Frames stay in their network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
};

use crate::harness::{Attached, Frame, Host, Mac, Netns, Pinger, RawPort, eventually, ping, tcp, udp};

#[test]
fn no_frame_crosses_from_one_network_to_another() {
    for datapath in ["auto", "xdp"] {
        let host = Host::up(&["--datapath", datapath]);
        host.ok(&["network", "create", "--subnet", "10.93.0.0/24", "other"]);
        let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
        let at_a = host.attach(&a, &[]);
        // Frames to unknown stations are copied to ports that learn.
        host.attach(&b, &["-o", "learning=on"]);
        let at_c = host.attach(&c, &["--network", "other", "-o", "learning=on"]);
        let [port_a, port_b, port_c] = [&a, &b, &c].map(|netns| RawPort::open(netns, "eth0"));

        let unknown: Mac = "02:00:00:00:99:99".parse().unwrap();
        let group: Mac = "01:00:5e:00:00:fb".parse().unwrap();
        let crossing: Vec<Frame> = [Mac::BROADCAST, group, unknown, at_c.mac]
            .into_iter()
            .map(|destination| Frame::new(destination, at_a.mac, &format!("to {destination}")))
            .collect();
        for frame in &crossing {
            port_a.send(frame);
        }
        // All four frames are flooded in their own network, because no station there has these
        // addresses.
        for frame in &crossing {
            port_b.expect(frame);
        }
        // c receives a frame of its own network, and no frame of the other network before it.
        let own = Frame::new(at_c.mac, host.netns.mac(&host_device(&host, "other")), "from the host");
        RawPort::open(&host.netns, &host_device(&host, "other")).send(&own);
        let seen = port_c.expect(&own);
        assert!(!seen.iter().any(|frame| crossing.contains(frame)), "{datapath}: {seen:02x?}");
    }
}

#[test]
fn one_mac_address_can_be_used_in_two_networks() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.94.0.0/24", "other"]);
    let twin = "02:00:00:00:55:55";
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Netns::new);
    let first = host.attach(&a, &["--mac", twin]);
    host.attach(&b, &[]);
    let second = host.attach(&c, &["--mac", twin, "--network", "other"]);
    host.attach(&d, &["--network", "other"]);
    ping(&b, first.ipv4);
    ping(&d, second.ipv4);
    let rows: Vec<_> = host
        .fdb(&["--static"])
        .into_iter()
        .filter(|station| station.mac == first.mac)
        .map(|station| (station.network, station.port))
        .collect();
    assert_eq!(rows, [("bridge".to_owned(), a.name().to_owned()), ("other".to_owned(), c.name().to_owned())]);
}

/// Returns the device that holds a network's gateway address.
fn host_device(host: &Host, network: &str) -> String {
    let mark = format!("vswitch:{}:{network}:host", host.instance());
    let links = host.netns.ip_json("link show");
    let link = links
        .iter()
        .find(|link| link["ifalias"] == mark && host.netns.addresses(link["ifname"].as_str().unwrap()).len() == 1);
    link.unwrap_or_else(|| panic!("no device with an address has the alias {mark}: {links:#?}"))["ifname"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Two networks with IPv4 and IPv6 on a host with forwarding on and no firewall rule against
/// routing between them.
struct TwoNetworks {
    a: Netns,
    c: Netns,
    at_a: Attached,
    at_c: Attached,
    host: Host,
}

fn two_networks(options: &[&str]) -> TwoNetworks {
    let host = Host::up(&[]);
    for (number, name) in [("95", "one"), ("96", "two")] {
        let [ipv4, ipv6] = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
        let flags = ["network", "create", "--subnet", &ipv4, "--subnet", &ipv6];
        host.ok(&[&flags, options, &[name]].concat());
    }
    host.netns.set("net/ipv4/ip_forward", "1");
    host.netns.set("net/ipv6/conf/all/forwarding", "1");
    // Docker's setting, if the kernel has br_netfilter. It has no effect, because vswitch does not
    // use Linux bridges.
    for program in ["iptables", "ip6tables"] {
        let setting = format!("net/bridge/bridge-nf-call-{program}");
        if Path::new("/proc/sys").join(&setting).exists() {
            host.netns.set(&setting, "1");
        }
    }
    let [a, c] = ["a", "c"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "one"]);
    let at_c = host.attach(&c, &["--network", "two"]);
    // Neighbors are resolved first, so that later only the packets under test are sent.
    for (container, endpoint) in [(&a, &at_a), (&c, &at_c)] {
        ping(&host.netns, endpoint.ipv4);
        ping(&host.netns, endpoint.ipv6.unwrap());
        if let (Some(gateway), Some(gateway6)) = (endpoint.gateway, endpoint.gateway6) {
            ping(container, gateway);
            ping(container, gateway6);
        }
    }
    TwoNetworks { a, c, at_a, at_c, host }
}

/// Returns the sum of the drops for a reason over all ports.
fn dropped(host: &Host, reason: &str) -> u64 {
    host.ports(&[]).values().map(|counters| counters.dropped(reason)).sum()
}

/// Sends a datagram, an echo request and a TCP SYN to an address, and does not wait for replies.
fn knock(from: &Netns, to: IpAddr) -> (Pinger, TcpStream, UdpSocket) {
    let mut pinger = Pinger::new(from, to);
    pinger.send(56);
    from.inside(|| {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let udp = UdpSocket::bind((any, 0)).expect("a socket");
        udp.set_nonblocking(true).expect("a socket");
        udp.send_to(b"knock", (to, 7777)).unwrap_or_else(|error| panic!("sending to {to}: {error}"));
        let (family, address) = match to {
            IpAddr::V4(to) => (AddressFamily::Inet, SockaddrStorage::from(SocketAddrV4::new(to, 7777))),
            IpAddr::V6(to) => (AddressFamily::Inet6, SockaddrStorage::from(SocketAddrV6::new(to, 7777, 0, 0))),
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let tcp = socket(family, SockType::Stream, flags, None).expect("a socket");
        let connected = connect(tcp.as_raw_fd(), &address);
        assert_eq!(connected, Err(Errno::EINPROGRESS), "connecting to {to}");
        (pinger, TcpStream::from(tcp), udp)
    })
}

/// Asserts that all packets of a knock are dropped for this reason, and that none arrives at the
/// port.
#[track_caller]
fn assert_refused(host: &Host, from: &Netns, to: IpAddr, reason: &str, port: &RawPort) {
    port.pending();
    let before = dropped(host, reason);
    let (pinger, tcp, udp) = knock(from, to);
    eventually(&format!("all packets to {to} are dropped as {reason}"), || {
        (dropped(host, reason) >= before + 3).then_some(())
    });
    assert!(!pinger.answered(), "{to} answers");
    assert!(tcp.peer_addr().is_err(), "{to} accepts connections");
    assert!(udp.recv(&mut [0; 16]).is_err(), "{to} answers");
    let address = match to {
        IpAddr::V4(to) => to.octets().to_vec(),
        IpAddr::V6(to) => to.octets().to_vec(),
    };
    let reached = port.pending().into_iter().filter(|frame| {
        let bytes = &frame.0;
        bytes.get(30..34) == Some(&address[..]) || bytes.get(38..54) == Some(&address[..])
    });
    // ARP and neighbor discovery by the host are excluded: it may resolve the address that it would
    // forward to.
    let packets: Vec<_> = reached.filter(|frame| !matches!(frame.0.get(54), Some(133..=137))).collect();
    assert!(packets.is_empty(), "{packets:02x?}");
}

#[test]
fn the_host_does_not_route_between_networks() {
    let TwoNetworks { a, c, at_a, at_c, host } = &two_networks(&[]);
    let port_a = RawPort::open(a, "eth0");
    let port_c = RawPort::open(c, "eth0");
    // The second round runs without any firewall rules: the decision does not depend on them.
    for _ in 0..2 {
        for to in [at_c.ipv4.into(), at_c.ipv6.unwrap().into()] {
            assert_refused(host, a, to, "other_network", &port_c);
        }
        for to in [at_a.ipv4.into(), at_a.ipv6.unwrap().into()] {
            assert_refused(host, c, to, "other_network", &port_a);
        }
        host.netns.ok("nft", "flush ruleset");
    }
    ping(&host.netns, at_c.ipv4);
    ping(a, at_a.gateway6.unwrap());
}

#[test]
fn packets_with_a_forged_source_do_not_reach_another_network() {
    let TwoNetworks { a, c, at_a, at_c, host } = &two_networks(&["-o", "spoof_guard=off"]);
    let port_c = RawPort::open(c, "eth0");
    port_c.pending();
    let gateway = host.netns.mac(&host_device(host, "one"));
    // Once with an outside address, and once with an address of the other network.
    for source in [[192, 0, 2, 7], [10, 96, 0, 9]] {
        let before = dropped(host, "other_network");
        let packet = etherparse::PacketBuilder::ethernet2(at_a.mac.0, gateway.0)
            .ipv4(source, at_c.ipv4.octets(), 64)
            .udp(7777, 7777);
        RawPort::open(a, "eth0").send(&build_frame(packet));
        eventually("the packet is dropped", || (dropped(host, "other_network") > before).then_some(()));
    }
    ping(&host.netns, at_c.ipv4);
    let packets: Vec<_> = port_c.pending().into_iter().filter(|frame| frame.0.get(23) == Some(&17)).collect();
    assert!(packets.is_empty(), "{packets:02x?}");
}

fn build_frame(packet: etherparse::PacketBuilderStep<etherparse::UdpHeader>) -> Frame {
    let mut bytes = Vec::new();
    packet.write(&mut bytes, b"knock").expect("room in memory");
    Frame(bytes)
}

#[test]
fn without_icc_endpoints_reach_only_the_gateway() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.97.0.0/24", "--subnet", "fd00:97::/64", "-o", "icc=false", "apart"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", "apart"]));
    for (container, endpoint) in [(&a, &at_a), (&b, &at_b)] {
        let (gateway, gateway6) = (endpoint.gateway.unwrap(), endpoint.gateway6.unwrap());
        ping(container, gateway);
        ping(container, gateway6);
        tcp(container, &host.netns, gateway, 1 << 16);
        udp(container, &host.netns, gateway6, 1000, 20);
        tcp(&host.netns, container, endpoint.ipv4, 1 << 16);
        tcp(&host.netns, container, endpoint.ipv6.unwrap(), 1 << 16);
    }
    let port_b = RawPort::open(&b, "eth0");
    // Sent directly, with neighbor entries for each other.
    a.ip(&format!("neigh replace {} lladdr {} dev eth0", at_b.ipv4, at_b.mac));
    a.ip(&format!("-6 neigh replace {} lladdr {} dev eth0", at_b.ipv6.unwrap(), at_b.mac));
    for to in [at_b.ipv4.into(), at_b.ipv6.unwrap().into()] {
        assert_refused(&host, &a, to, "isolated", &port_b);
    }
    // Sent by way of the host.
    a.ip(&format!("route add {}/32 via {}", at_b.ipv4, at_a.gateway.unwrap()));
    a.ip(&format!("-6 route add {}/128 via {}", at_b.ipv6.unwrap(), at_a.gateway6.unwrap()));
    for to in [at_b.ipv4.into(), at_b.ipv6.unwrap().into()] {
        assert_refused(&host, &a, to, "isolated", &port_b);
    }
    // Broadcast and multicast frames reach the host, but not the neighbor.
    let port_a = RawPort::open(&a, "eth0");
    let port_host = RawPort::open(&host.netns, &host_device(&host, "apart"));
    let group: Mac = "01:00:5e:00:00:fb".parse().unwrap();
    let to_all = [Mac::BROADCAST, group].map(|to| Frame::new(to, at_a.mac, &format!("to {to}")));
    for frame in &to_all {
        port_a.send(frame);
        port_host.expect(frame);
    }
    let last = Frame::new(at_b.mac, host.netns.mac(&host_device(&host, "apart")), "from the host");
    port_host.send(&last);
    let seen = port_b.expect(&last);
    assert!(!seen.iter().any(|frame| to_all.contains(frame)), "{seen:02x?}");
}

#[test]
fn an_internal_network_is_not_routed() {
    let TwoNetworks { a, c, at_a, at_c, host } = &two_networks(&["--internal"]);
    assert_eq!((at_a.gateway, at_a.gateway6), (None, None));
    assert_eq!((a.default_routes(false), a.default_routes(true)), (vec![], vec![]));
    let shown: Vec<serde_json::Value> = host.json(&["network", "inspect", "one"]);
    assert_eq!(shown[0]["internal"], true);
    // Neighbors and the host are reachable.
    let b = Netns::new("b");
    let at_b = host.attach(&b, &["--network", "one"]);
    let gateways: [IpAddr; 2] = ["10.95.0.1".parse().unwrap(), "fd00:95::1".parse().unwrap()];
    for (own, gateway) in [(IpAddr::from(at_a.ipv4), gateways[0]), (at_a.ipv6.unwrap().into(), gateways[1])] {
        ping(a, gateway);
        tcp(&host.netns, a, own, 1 << 16);
        tcp(&b, a, own, 1 << 16);
    }
    ping(a, at_b.ipv4);

    let outside = Netns::new("outside");
    host.netns.wire("up0", &outside, "eth0");
    for (netns, device, last) in [(&*host.netns, "up0", 1), (&outside, "eth0", 2)] {
        netns.ip(&format!("address add 192.0.2.{last}/24 dev {device}"));
        netns.ip(&format!("-6 address add 2001:db8::{last}/64 dev {device} nodad"));
    }
    outside.ip("route add 10.95.0.0/24 via 192.0.2.1");
    outside.ip("-6 route add fd00:95::/64 via 2001:db8::1");
    ping(&host.netns, Ipv4Addr::new(192, 0, 2, 2));
    ping(&outside, "2001:db8::1".parse::<Ipv6Addr>().unwrap());
    // Default routes added by hand lead nowhere: not outside, not to another network, and not to
    // the host's other addresses.
    a.ip(&format!("route add default via {}", gateways[0]));
    a.ip(&format!("-6 route add default via {}", gateways[1]));
    let at_outside = RawPort::open(&outside, "eth0");
    let at_c_port = RawPort::open(c, "eth0");
    for _ in 0..2 {
        for to in ["192.0.2.2", "2001:db8::2", "192.0.2.1", "2001:db8::1"] {
            assert_refused(host, a, to.parse().unwrap(), "internal", &at_outside);
        }
        for to in [at_c.ipv4.into(), at_c.ipv6.unwrap().into()] {
            assert_refused(host, a, to, "internal", &at_c_port);
        }
        // No route leads into the network from outside, either.
        let at_a_port = RawPort::open(a, "eth0");
        for to in [at_a.ipv4.into(), at_a.ipv6.unwrap().into()] {
            assert_refused(host, &outside, to, "internal", &at_a_port);
        }
        host.netns.ok("nft", "flush ruleset");
    }
}

#[test]
fn containers_cannot_reach_the_hosts_loopback() {
    for flags in [&["-o", "spoof_guard=off"][..], &["-o", "spoof_guard=off", "--internal"]] {
        let TwoNetworks { a, at_a, host, .. } = &two_networks(flags);
        let device = host_device(host, "one");
        host.netns.set(&format!("net/ipv4/conf/{device}/route_localnet"), "1");
        let server = host.netns.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7777))).unwrap();
        server.set_nonblocking(true).unwrap();
        let port = RawPort::open(a, "eth0");
        let gateway = host.netns.mac(&device);
        let own = at_a.ipv4.octets();
        let loopback = [127, 0, 0, 1];
        for (source, destination, to) in [
            (own, loopback, gateway),
            (loopback, [10, 95, 0, 1], gateway),
            // With route_localnet on, a broadcast frame could reach the loopback address as well.
            (own, loopback, Mac::BROADCAST),
        ] {
            let before = host.counters(a.name()).dropped("martian");
            let packet =
                etherparse::PacketBuilder::ethernet2(at_a.mac.0, to.0).ipv4(source, destination, 64).udp(7777, 7777);
            port.send(&build_frame(packet));
            eventually("the packet is dropped", || (host.counters(a.name()).dropped("martian") > before).then_some(()));
        }
        let packet =
            etherparse::PacketBuilder::ethernet2(at_a.mac.0, gateway.0).ipv4(own, [10, 95, 0, 1], 64).udp(7777, 7777);
        port.send(&build_frame(packet));
        let mut buffer = [0; 16];
        let sender = eventually("the packet for the host arrives", || server.recv_from(&mut buffer).ok());
        assert_eq!(sender.1.ip(), IpAddr::from(at_a.ipv4), "the first packet received");
    }
}
