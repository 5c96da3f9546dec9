//! Overlay networks: containers on several hosts in one network over an IPv4 or IPv6 underlay.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use crate::harness::{
    Cloud, Family, Frame, Host, Mac, Netns, PATIENCE, RawPort, count_broadcasts, eventually, ping, ping_with, tcp, udp,
};

/// Tests that every pair of containers reaches each other with all protocols. Then checks the
/// learned stations and the counters.
fn check_one_segment(family: Family) {
    let cloud = Cloud::up(3, family);
    for (one, other) in cloud.pairs() {
        let (from, to) = (&cloud.containers[one], &cloud.containers[other]);
        for address in cloud.addresses(other) {
            ping(from, address);
            ping_with(from, address, 4000);
            udp(from, to, address, 18, 50);
            udp(from, to, address, 1300, 50);
            udp(from, to, address, 9000, 10);
            tcp(from, to, address, 60 << 10);
        }
    }
    for (one, other) in cloud.pairs() {
        tcp(&cloud.containers[one], &cloud.containers[other], cloud.addresses(other)[0], 8 << 20);
        assert_eq!(
            cloud.port_of(one, cloud.at[other].mac),
            Some(cloud.peer(other)),
            "the station is learned at the tunnel of its peer"
        );
    }
    for number in 0..3 {
        let host = &cloud.hosts[number];
        for other in (0..3).filter(|other| *other != number) {
            let counters = host.ports(&["net"]).remove(&cloud.peer(other)).expect("stats shows the tunnel");
            assert_eq!(counters.accounted(), counters.rx_frames, "{counters:?}");
            assert!(counters.rx_frames > 100 && counters.tx_frames > 100 && counters.forwarded > 100, "{counters:?}");
        }
        let peers = cloud.peers(number);
        assert_eq!(peers.len(), 2);
        assert!(peers.iter().all(|peer| (peer.state.as_str(), peer.networks) == ("up", 1)), "{peers:?}");
    }
}

#[test]
fn containers_on_three_hosts_are_one_segment_over_ipv4() {
    check_one_segment(Family::V4);
}

#[test]
fn containers_on_three_hosts_are_one_segment_over_ipv6() {
    check_one_segment(Family::V6);
}

#[test]
fn packets_of_both_families_do_not_pass_the_tunnel_device_on_their_way_out() {
    let cloud = Cloud::up(2, Family::V4);
    let [from, to] = [0, 1].map(|number| &cloud.containers[number]);
    let sent_by_the_device = || {
        let links = cloud.hosts[0].netns.ip_json("-s link show");
        let name = |link: &serde_json::Value| link["ifname"].as_str().unwrap_or_default().to_owned();
        let device = links.iter().find(|link| name(link).ends_with("-vxlan")).expect("the tunnel device");
        device["stats64"]["tx"]["packets"].as_u64().expect("a number")
    };
    for address in cloud.addresses(1) {
        // The addresses are resolved by floods, which the device sends.
        ping(from, address);
        let before = sent_by_the_device();
        tcp(from, to, address, 8 << 20);
        udp(from, to, address, 1300, 50);
        let by_the_device = sent_by_the_device() - before;
        assert!(by_the_device < 20, "{by_the_device} packets to {address}");
    }
}

#[test]
fn a_broadcast_is_received_once_by_every_other_container() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::up(3, family);
        // One more container on one of the hosts also receives the broadcasts.
        let beside = Netns::new("beside");
        cloud.hosts[0].attach(&beside, &["--network", "net"]);
        for number in 0..3 {
            let others = (0..3).filter(|other| *other != number).map(|other| &cloud.containers[other]);
            let others: Vec<&Netns> = others.chain([&beside]).collect();
            let from = &cloud.containers[number];
            for _ in 0..5 {
                assert_eq!(count_broadcasts(from, cloud.at[number].ipv4, &others), [1; 3], "from {number}, {family:?}");
            }
        }
        // A sender does not receive its own broadcasts.
        let port = RawPort::open(&cloud.containers[0], "eth0");
        let [hello, mark] = ["hello", "mark"].map(|text| Frame::new(Mac::BROADCAST, cloud.at[0].mac, text));
        port.send(&hello);
        let listener = RawPort::open(&cloud.containers[1], "eth0");
        let from_one = Frame::new(cloud.at[0].mac, cloud.at[1].mac, "answer");
        port.send(&mark);
        listener.send(&from_one);
        let received = port.expect(&from_one);
        assert!(!received.contains(&hello) && !received.contains(&mark), "{received:02x?}");
    }
}

#[test]
fn each_host_has_a_gateway_of_its_own() {
    let cloud = Cloud::up(2, Family::V4);
    for number in 0..2 {
        let at = &cloud.at[number];
        let gateways = [IpAddr::from(at.gateway.expect("a gateway")), at.gateway6.expect("an IPv6 gateway").into()];
        for gateway in gateways {
            ping(&cloud.containers[number], gateway);
            tcp(&cloud.containers[number], &cloud.hosts[number].netns, gateway, 1 << 20);
        }
        ping(&cloud.hosts[number].netns, at.ipv4);
    }
}

#[test]
fn a_container_that_moved_to_another_host_is_reached_there() {
    let cloud = Cloud::up(3, Family::V4);
    let [mac, ip] = ["02:00:00:00:44:01", "10.10.200.9"];
    let address = Ipv4Addr::new(10, 10, 200, 9);
    let roaming = Netns::new("roaming");
    for (moves, place) in [1, 2, 1].into_iter().enumerate() {
        let host = &cloud.hosts[place];
        host.attach(&roaming, &["--network", "net", "--mac", mac, "--ip", ip]);
        // The container sends first, as a newly attached container usually does.
        ping(&roaming, cloud.at[0].ipv4);
        ping(&cloud.containers[0], address);
        tcp(&cloud.containers[0], &roaming, address, 1 << 20);
        let station = cloud.hosts[0].fdb(&[]).into_iter().find(|station| station.mac.to_string() == mac);
        let station = station.expect("the station is learned");
        assert_eq!((station.port, station.moves), (cloud.peer(place), moves as u64));
        assert_eq!(station.kind, "dynamic");
        host.ok(&["detach", "--netns", &roaming.path_argument()]);
    }
}

#[test]
fn the_mtu_is_that_of_the_underlay_minus_the_headers() {
    for (family, mtu) in [(Family::V4, 1450), (Family::V6, 1430)] {
        let cloud = Cloud::up(2, family);
        assert_eq!([cloud.at[0].mtu, cloud.at[1].mtu], [mtu; 2], "{family:?}");
        for (from, to) in cloud.pairs() {
            let port = RawPort::open(&cloud.containers[to], "eth0");
            let bytes = [&[0x88, 0xb5][..], &vec![7; mtu as usize]].concat();
            let full = Frame::raw(cloud.at[to].mac, cloud.at[from].mac, &bytes);
            RawPort::open(&cloud.containers[from], "eth0").send(&full);
            port.expect(&full);
            // With DF set, a packet of this size passes, and one that is one byte longer does not.
            let size = mtu - 28;
            let text = cloud.at[to].ipv4.to_string();
            let ping = |size: u32| {
                let size = size.to_string();
                let mut ping = cloud.containers[from].command("ping");
                crate::harness::run(ping.args(["-M", "do", "-c", "1", "-W", "20", "-s", &size, &text]))
            };
            assert_eq!(ping(size).code, Some(0), "{family:?}");
            assert_ne!(ping(size + 1).code, Some(0), "{family:?}");
        }
    }
    let cloud = Cloud::with(2, Family::V4, &[], &["-o", "mtu=1300"]);
    assert_eq!([cloud.at[0].mtu, cloud.at[1].mtu], [1300; 2]);
    tcp(&cloud.containers[0], &cloud.containers[1], cloud.at[1].ipv4, 4 << 20);
}

#[test]
fn the_mtu_of_the_host_device_follows_a_peer_that_reduces_it() {
    let cloud = Cloud::down(2, Family::V6);
    let host = &cloud.hosts[0];
    host.start(&[]);
    cloud.create(0, "net", Cloud::VNI, &[]);
    let [old, new] = ["old", "new"].map(Netns::new);
    let at_old = host.attach(&old, &["--network", "net"]);
    let device = cloud.host_device(0);
    let mtu = || host.netns.device(&device).expect("the host's device")["mtu"].clone();
    assert_eq!((at_old.mtu, mtu()), (1450, 1450.into()));
    cloud.add_all_peers(0);
    let at_new = host.attach(&new, &["--network", "net"]);
    assert_eq!((at_new.mtu, mtu()), (1430, 1430.into()));
    let ping_of_length = |from: &Netns, to: IpAddr, length: u32| {
        let size = (length - if to.is_ipv4() { 28 } else { 48 }).to_string();
        let mut ping = from.command("ping");
        crate::harness::run(ping.args(["-M", "do", "-c", "1", "-W", "20", "-s", &size, &to.to_string()]))
    };
    for to in crate::harness::both(&at_new) {
        let output = ping_of_length(&host.netns, to, 1450);
        let output = output.stdout + &output.stderr;
        assert!(output.contains("1430"), "the host's stack reports the MTU: {output}");
        assert_eq!(ping_of_length(&host.netns, to, 1430).code, Some(0), "{to}");
    }
    // An endpoint that was attached before follows.
    eventually("the running endpoint follows", || {
        (old.device("eth0").expect("the interface")["mtu"] == 1430).then_some(())
    });
    let gateways = [IpAddr::from(at_old.gateway.expect("a gateway")), at_old.gateway6.expect("an IPv6 gateway").into()];
    for restarted in [false, true] {
        if restarted {
            host.kill_daemon();
            host.start(&[]);
            assert_eq!(mtu(), 1430);
        }
        for gateway in gateways {
            assert_eq!(ping_of_length(&old, gateway, 1430).code, Some(0), "{gateway}, restarted: {restarted}");
            tcp(&old, &host.netns, gateway, 1 << 20);
            tcp(&new, &host.netns, gateway, 1 << 20);
        }
    }
}

#[test]
fn the_mtu_in_a_vlan_is_smaller_by_the_tag() {
    for (family, encrypted) in [(Family::V4, false), (Family::V6, false), (Family::V4, true), (Family::V6, true)] {
        let up = if encrypted { Cloud::encrypted } else { Cloud::with };
        let cloud = up(2, family, &[], &[]);
        let inside = ["in0", "in1"].map(Netns::new);
        let at: Vec<_> = (0..2)
            .map(|number| cloud.hosts[number].attach(&inside[number], &["--network", "net", "--vlan", "30"]))
            .collect();
        let whole = cloud.at[0].mtu;
        assert_eq!([at[0].mtu, at[1].mtu], [whole - 4; 2], "{family:?}, encrypted: {encrypted}");
        let ping_of_length = |from: &Netns, to: IpAddr, length: u32| {
            let size = (length - if to.is_ipv4() { 28 } else { 48 }).to_string();
            let mut ping = from.command("ping");
            let output =
                crate::harness::run(ping.args(["-M", "do", "-c", "1", "-W", "20", "-s", &size, &to.to_string()]));
            (output.code == Some(0), output.stdout + &output.stderr)
        };
        for to in crate::harness::both(&at[1]) {
            let (answered, output) = ping_of_length(&inside[0], to, whole - 4);
            assert!(answered, "{family:?}, encrypted: {encrypted}: {output}");
            ping_with(&inside[0], to, 4000);
            tcp(&inside[0], &inside[1], to, 1 << 20);
        }
        // An endpoint that was attached before, or assumes a larger MTU, receives an ICMP error
        // with the correct one.
        inside[0].ip(&format!("link set eth0 mtu {whole}"));
        let to = IpAddr::from(at[1].ipv4);
        let (answered, output) = ping_of_length(&inside[0], to, whole);
        assert!(!answered && output.contains(&format!("mtu = {}", whole - 4)), "{output}");
        tcp(&inside[0], &inside[1], to, 1 << 20);
        // A trunk port receives frames that the other endpoints send without a tag.
        let trunk = Netns::new("trunk");
        let at_trunk = cloud.hosts[0].attach(&trunk, &["--network", "net", "--trunk", "30"]);
        assert_eq!(at_trunk.mtu, whole - 4);
        let (answered, output) = ping_of_length(&cloud.containers[1], at_trunk.ipv4.into(), whole);
        assert!(answered, "{output}");
    }
}

#[test]
fn networks_with_different_vnis_are_isolated_and_one_may_be_named_vxlan() {
    let cloud = Cloud::up(2, Family::V4);
    let inside = ["other0", "other1"].map(Netns::new);
    let ranges = ["10.11.1.0/24", "10.11.2.0/24"];
    let at: Vec<_> = (0..2)
        .map(|number| {
            let create = ["network", "create", "-d", "overlay", "-o", "vni=5001", "--subnet", "10.11.0.0/16"];
            cloud.hosts[number].ok(&[&create[..], &["--ip-range", ranges[number], "vxlan"]].concat());
            cloud.hosts[number].attach(&inside[number], &["--network", "vxlan"])
        })
        .collect();
    ping(&inside[0], at[1].ipv4);
    tcp(&inside[1], &inside[0], at[0].ipv4, 1 << 20);
    tcp(&cloud.containers[0], &cloud.containers[1], cloud.at[1].ipv4, 1 << 20);
    // A MAC address in one network is a different station in the other, and a broadcast stays in
    // its network.
    let ports = [&cloud.containers[1], &inside[1]].map(|netns| RawPort::open(netns, "eth0"));
    for (from, text, receiver, other) in
        [(&inside[0], "to vxlan", &ports[1], &ports[0]), (&cloud.containers[0], "to net", &ports[0], &ports[1])]
    {
        let hello = Frame::new(Mac::BROADCAST, from.mac("eth0"), text);
        RawPort::open(from, "eth0").send(&hello);
        receiver.expect(&hello);
        let mark = Frame::new(Mac::BROADCAST, cloud.at[0].mac, "mark");
        if text == "to vxlan" {
            RawPort::open(&cloud.containers[0], "eth0").send(&mark);
            assert!(!other.expect(&mark).contains(&hello), "the frame was received in the other network");
        } else {
            assert!(!other.pending().contains(&hello), "the frame was received in the other network");
        }
    }
    assert_eq!(cloud.peers(0)[0].networks, 2);
    for host in &cloud.hosts {
        assert!(!host.fdb(&["--network", "vxlan"]).iter().any(|station| station.mac == cloud.at[1].mac));
    }
    for (host, netns) in cloud.hosts.iter().zip(&inside) {
        host.ok(&["detach", "--netns", &netns.path_argument()]);
        host.ok(&["network", "rm", "vxlan"]);
    }
    ping(&cloud.containers[0], cloud.at[1].ipv4);
}

/// Adds a machine to the underlay that has no instance. Its address follows those of all hosts.
fn add_outside_machine(cloud: &Cloud) -> (Netns, IpAddr) {
    let outside = Netns::new("outside");
    cloud.plug(&outside, 8);
    (outside, Cloud::address(Family::V4, 8))
}

#[test]
fn endpoints_reach_the_outside_and_publish_ports() {
    let cloud = Cloud::up(2, Family::V4);
    let (outside, address) = add_outside_machine(&cloud);
    for container in &cloud.containers {
        ping(container, address);
        tcp(container, &outside, address, 1 << 20);
    }
    let web = Netns::new("web");
    let at = cloud.hosts[0].attach(&web, &["--network", "net", "-p", "8080:80"]);
    let listener = web.inside(|| std::net::TcpListener::bind((at.ipv4, 80))).expect("listening");
    let host = Cloud::address(Family::V4, 0);
    let connect = |from: &Netns| from.inside(|| std::net::TcpStream::connect((host, 8080)));
    connect(&outside).expect("a connection from outside");
    listener.accept().expect("an accepted connection");
    // A connection from the container on the other host comes from the address of that host.
    connect(&cloud.containers[1]).expect("a connection from a container on the other host");
    listener.accept().expect("an accepted connection");
}

#[test]
fn packets_to_the_vxlan_port_of_other_machines_are_masqueraded() {
    let cloud = Cloud::up(2, Family::V4);
    let (outside, _) = add_outside_machine(&cloud);
    for family in [Family::V4, Family::V6] {
        let to = Cloud::address(family, 8);
        let server = outside.inside(|| UdpSocket::bind((to, 4789))).expect("a socket");
        server.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = cloud.containers[0].inside(|| UdpSocket::bind((any, 0))).expect("a socket");
        client.send_to(b"no tunnel's", (to, 4789)).expect("sending");
        let mut buffer = [0; 64];
        let (length, from) = server.recv_from(&mut buffer).expect("the datagram arrives");
        assert_eq!((&buffer[..length], from.ip()), (&b"no tunnel's"[..], Cloud::address(family, 0)));
        // The answer is translated back and reaches the client.
        server.send_to(b"answer", from).expect("sending");
        client.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        assert_eq!(client.recv(&mut buffer).expect("an answer"), 6);
    }
}

#[test]
fn a_host_with_more_addresses_than_the_map_holds_has_peers() {
    let mut cloud = Cloud::down(2, Family::V4);
    // These addresses sort before the address of the underlay.
    let many = "for n in $(seq 0 1099); do echo address add 10.99.$((n / 250)).$((n % 250))/32 dev lo; done | ip -b -";
    let added = crate::harness::run(cloud.hosts[0].netns.command("sh").args(["-c", many]));
    assert_eq!(added.code, Some(0), "{added:?}");
    for number in 0..2 {
        cloud.hosts[number].start(&[]);
        cloud.add_all_peers(number);
        cloud.create(number, "net", Cloud::VNI, &[]);
    }
    (0..2).for_each(|number| cloud.attach_container(number));
    for (one, other) in cloud.pairs() {
        tcp(&cloud.containers[one], &cloud.containers[other], cloud.at[other].ipv4, 1 << 20);
    }
    let status = |number: usize| cloud.hosts[number].ok(&["status"]);
    assert!(status(0).contains("1024 addresses of this host are known as ends of tunnels"), "{}", status(0));
    assert!(!status(1).contains("ends of tunnels"), "{}", status(1));
    // The program on the interface that leads to peers checks the VXLAN header of each arriving
    // packet.
    let sender = cloud.socket(&cloud.hosts[1].netns, 1);
    sender.send_to(&[0; 8], (Cloud::address(Family::V4, 0), 4789)).expect("sending");
    eventually("the packet is dropped because of its VXLAN header", || {
        let ports = cloud.hosts[0].ports(&[]);
        ports.iter().any(|(_, counters)| counters.dropped("vxlan_header") == 1).then_some(())
    });
}

#[test]
fn endpoints_of_an_internal_network_do_not_reach_the_outside() {
    let cloud = Cloud::with(2, Family::V4, &[], &["--internal"]);
    let (outside, address) = add_outside_machine(&cloud);
    for (one, other) in cloud.pairs() {
        for address in cloud.addresses(other) {
            ping(&cloud.containers[one], address);
        }
        let reach = crate::harness::reaches(&cloud.containers[one], &outside, address, false);
        assert_eq!(reach.to_string(), "no");
    }
}

#[test]
fn names_resolve_on_the_host_of_their_endpoint() {
    let cloud = Cloud::up(2, Family::V4);
    let host: &Host = &cloud.hosts[0];
    let web = Netns::new("web");
    let at = host.attach(&web, &["--network", "net", "--alias", "site"]);
    let server = cloud.at[0].nameservers[0];
    let ask = |name: &str| crate::harness::dig(&cloud.containers[0], server, &[name, "A"]);
    eventually("the alias resolves", || {
        let answer = format!("{:?}", ask("site"));
        answer.contains(&at.ipv4.to_string()).then_some(())
    });
}
