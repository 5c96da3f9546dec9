//! Frames that exceed an MTU are dropped by reason where they are bridged and answered where they
//! are routed. GSO packets pass.

use std::net::IpAddr;

use crate::harness::{
    Frame, Host, Mac, Netns, RawPort, Tag, addresses, eventually,
    packets::{self, behind, protocol},
    ping, tcp, udp,
};

/// Builds a frame of the experimental EtherType with `bytes` bytes behind its Ethernet header.
fn long(destination: Mac, source: Mac, bytes: usize, mark: u8) -> Frame {
    behind(destination, source, &[], &[&[0x88, 0xb5], &vec![mark; bytes][..]].concat())
}

#[test]
fn a_frame_too_long_for_a_port_is_dropped_as_too_big() {
    for datapath in ["tc", "xdp"] {
        let host = Host::up(&["--datapath", datapath]);
        host.ok(&["network", "create", "--subnet", "10.138.0.0/24", "-o", "mtu=1400", "small"]);
        let [a, b] = ["a", "b"].map(Netns::new);
        let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", "small"]));
        assert_eq!((at_a.mtu, at_b.mtu), (1400, 1400));
        // The container's MTU is larger than that of its network, and the veths pass such frames.
        a.ip("link set eth0 mtu 1500");
        for device in host.netns.devices().into_iter().filter(|device| device != "lo") {
            host.netns.ip(&format!("link set {device} mtu 1500"));
        }
        let [port_a, port_b] = [&a, &b].map(|container| RawPort::open(container, "eth0"));
        let too_big = || host.counters(&at_a.name).dropped("too_big");
        let before = too_big();
        let fits = long(at_b.mac, at_a.mac, 1400, 1);
        let too_long = [1401, 1500].map(|bytes| long(at_b.mac, at_a.mac, bytes, 2));
        for frame in too_long.iter().chain([&fits]) {
            port_a.send(frame);
        }
        let received = port_b.expect(&fits);
        eventually("both frames are dropped", || (too_big() == before + 2).then_some(()));
        let received = [received, port_b.pending()].concat();
        assert!(!received.iter().any(|frame| too_long.contains(frame)), "{received:02x?}");
        // A VLAN tag does not count towards the MTU.
        let tagged = behind(at_b.mac, at_a.mac, &[Tag { tpid: 0x8100, tci: 0xa000 }], &fits.0[12..]);
        port_a.send(&tagged);
        port_b.expect(&tagged);
        // A flooded copy that is too long is counted as tx_failed of the receiving port, not as a
        // drop of the sender.
        let failed = host.counters(&at_b.name).tx_failed;
        port_a.send(&long(Mac::BROADCAST, at_a.mac, 1401, 3));
        eventually("the copy is counted", || (host.counters(&at_b.name).tx_failed == failed + 1).then_some(()));
        let broadcast = long(Mac::BROADCAST, at_a.mac, 1400, 4);
        port_a.send(&broadcast);
        let received = port_b.expect(&broadcast);
        assert!(received.iter().all(|Frame(bytes)| bytes.len() <= 1418), "{received:02x?}");
        assert_eq!(too_big(), before + 2, "with {datapath}");
    }
}

#[test]
fn gso_packets_larger_than_the_mtu_pass() {
    for datapath in ["tc", "xdp"] {
        let host = Host::up(&["--datapath", datapath]);
        host.ok(&[
            "network",
            "create",
            "--subnet",
            "10.138.1.0/24",
            "--subnet",
            "fd00:138::/64",
            "-o",
            "mtu=1400",
            "small",
        ]);
        let [a, b] = ["a", "b"].map(Netns::new);
        let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", "small"]));
        for (from, to, address) in [(&a, &b, IpAddr::from(at_b.ipv4)), (&b, &a, at_a.ipv6.unwrap().into())] {
            let receiver = RawPort::open(to, "eth0");
            tcp(from, to, address, 16 << 20);
            // Checks that GSO packets were sent, without which this test proves nothing. (With XDP,
            // they are segmented before.)
            let largest = receiver.pending().iter().map(|frame| frame.0.len()).max();
            assert!(datapath == "xdp" || largest > Some(1414), "{largest:?} bytes");
            drop(receiver);
            udp(from, to, address, 1300, 50);
            // Sent in fragments.
            udp(from, to, address, 8000, 10);
        }
        for (endpoint, port) in [(&at_a, &a), (&at_b, &b)] {
            let counters = host.counters(&endpoint.name);
            assert_eq!(counters.dropped("too_big"), 0, "{}: {counters:?}", port.name());
        }
    }
}

/// A host that routes between a network with a large MTU and a wire with a small one.
struct Narrow {
    host: Host,
    a: Netns,
    outside: Netns,
}

const OUTSIDE: [&str; 2] = ["192.0.2.9", "2001:db8:1::9"];

fn narrow() -> Narrow {
    let host = Host::down();
    let [a, outside] = ["a", "outside"].map(Netns::new);
    host.netns.wire("up0", &outside, "eth0");
    for (netns, device, last) in [(&*host.netns, "up0", "1"), (&outside, "eth0", "9")] {
        netns.ip(&format!("address add 192.0.2.{last}/24 dev {device}"));
        netns.ip(&format!("-6 address add 2001:db8:1::{last}/64 dev {device} nodad"));
        netns.ip(&format!("link set {device} mtu 1300"));
    }
    host.start(&[]);
    let create =
        ["network", "create", "--subnet", "10.138.2.0/24", "--subnet", "fd00:138:2::/64", "-o", "mtu=1500", "wide"];
    host.ok(&create);
    host.attach(&a, &["--network", "wide"]);
    for address in addresses(OUTSIDE) {
        ping(&a, address);
    }
    Narrow { host, a, outside }
}

#[test]
fn the_sender_of_a_routed_packet_learns_the_mtu() {
    let Narrow { host, a, outside } = &narrow();
    let at_a = host.ps().into_iter().next().expect("one endpoint");
    let stations = host.fdb(&["--network", "wide", "--static"]).into_iter();
    let gateway = stations.into_iter().find(|station| station.port.ends_with("-wide")).expect("the host's entry").mac;
    let own6 = at_a.ipv6.expect("an IPv6 address");
    let [port_a, at_outside] = [a, outside].map(|netns| RawPort::open(netns, "eth0"));
    let [outside4, outside6] = addresses(OUTSIDE);
    let (IpAddr::V4(outside4), IpAddr::V6(outside6)) = (outside4, outside6) else { panic!("{OUTSIDE:?}") };
    let of = |length: usize| packets::udp(7777, 7777, &"x".repeat(length - 8));
    let packets = |length: usize| {
        [
            packets::ipv4(at_a.ipv4, outside4, protocol::UDP, &of(length - 20)),
            packets::ipv6(own6, outside6, protocol::UDP, &of(length - 40)),
        ]
        .map(|packet| behind(gateway, at_a.mac, &[], &packet))
    };
    for (index, (fits, too_long)) in packets(1300).into_iter().zip(packets(1301)).enumerate() {
        port_a.send(&too_long);
        port_a.expect_such("the message with the MTU", |Frame(bytes)| {
            let [m0, m1] = 1300_u16.to_be_bytes();
            match index {
                // Destination unreachable, fragmentation needed (RFC 1191, 4).
                0 => bytes[12..14] == [0x08, 0] && bytes[34..36] == [3, 4] && bytes[40..42] == [m0, m1],
                // Packet too big (RFC 4443, 3.2).
                _ => bytes[12..14] == [0x86, 0xdd] && bytes[54..56] == [2, 0] && bytes[58..62] == [0, 0, m0, m1],
            }
        });
        port_a.send(&fits);
        let is_ours = |Frame(bytes): &Frame| bytes.ends_with(&[b'x'; 1000]);
        let arrived = at_outside.expect_such("the packet that fits", is_ours);
        assert_eq!(arrived.0.len(), 1314, "the first packet received");
    }
    // None of these packets was dropped by the switch.
    let counters = host.counters(&at_a.name);
    assert_eq!(counters.dropped("too_big"), 0, "{counters:?}");
    // TCP connections adapt to the MTU of the path, with GSO packets.
    for address in addresses(OUTSIDE) {
        tcp(a, outside, address, 4 << 20);
    }
}
