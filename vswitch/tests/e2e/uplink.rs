//! A network with a physical interface in it: containers and the machines on the wire share one segment.

use std::net::Ipv4Addr;

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, RawPort, Tag, eventually, ping, ping_with, set_tx_checksumming, tcp, udp,
    udp_broadcast, udp_broadcast_at,
};

/// A host whose `phys0` leads to a machine on the wire, and two containers in a network with it.
struct Segment {
    at_a: Attached,
    at_b: Attached,
    a: Netns,
    b: Netns,
    wire: Netns,
    host: Host,
}

const WIRE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The host's address on the interface itself, which it had before and keeps.
const HOST_ON_WIRE: Ipv4Addr = Ipv4Addr::new(172, 30, 9, 1);

fn segment(datapath: &str, xdp: &str) -> Segment {
    segment_of(datapath, xdp, &[])
}

/// The same, with flags for both containers.
fn segment_of(datapath: &str, xdp: &str, flags: &[&str]) -> Segment {
    let host = Host::down();
    let [a, b, wire] = ["a", "b", "wire"].map(Netns::new);
    host.netns.wire("phys0", &wire, "eth0");
    host.netns.ip(&format!("address add {HOST_ON_WIRE}/24 dev phys0"));
    wire.ip(&format!("address add {WIRE}/24 dev eth0"));
    wire.ip("address add 172.30.9.200/24 dev eth0");
    // XDP sees frames as they are; a veth would hand it packets with unfinished checksums.
    set_tx_checksumming(&wire, "eth0", xdp != "native");
    host.start(&["--datapath", datapath]);
    let option = format!("xdp={xdp}");
    host.ok(&[
        "network",
        "create",
        "--subnet",
        "10.77.0.0/24",
        "--ip-range",
        "10.77.0.0/25",
        "-o",
        "uplink=phys0",
        "-o",
        &option,
        "lan",
    ]);
    let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &[&["--network", "lan"], flags].concat()));
    Segment { at_a, at_b, a, b, wire, host }
}

fn one_segment(datapath: &str, xdp: &str) {
    let Segment { at_a, at_b, a, b, wire, host } = &segment(datapath, xdp);
    let device = host.netns.device("phys0").unwrap();
    assert_eq!(device.get("xdp").is_some_and(|xdp| !xdp.is_null()), xdp == "native", "{device:#}");

    let pairs = [
        (wire, a, at_a.ipv4),
        (wire, b, at_b.ipv4),
        (a, wire, WIRE),
        (b, wire, WIRE),
        (a, b, at_b.ipv4),
        (wire, &*host.netns, GATEWAY),
        (&*host.netns, wire, WIRE),
        (a, &*host.netns, GATEWAY),
        (wire, &*host.netns, HOST_ON_WIRE),
        (a, &*host.netns, HOST_ON_WIRE),
    ];
    for (from, to, address) in pairs {
        ping(from, address);
        ping_with(from, address, 4000);
        udp(from, to, address, 18, 100);
        udp(from, to, address, 1472, 100);
        udp(from, to, address, 9000, 20);
        tcp(from, to, address, 4 << 20);
    }
    tcp(wire, a, at_a.ipv4, 32 << 20);
    udp_broadcast(wire, WIRE, &[a, b, &*host.netns]);
    udp_broadcast(a, at_a.ipv4, &[b, wire, &*host.netns]);
    // The host's own stack on the interface hears them as before.
    udp_broadcast_at(wire, WIRE, &host.netns, "phys0");

    let station = host
        .fdb(&["--network", "lan"])
        .into_iter()
        .find(|station| station.mac == wire.mac("eth0"))
        .expect("the machine on the wire is learned");
    assert_eq!((station.port.as_str(), station.kind.as_str()), ("phys0", "dynamic"));
}

#[test]
fn containers_and_the_wire_are_one_segment() {
    one_segment("auto", "off");
}

#[test]
fn containers_and_the_wire_are_one_segment_with_xdp_on_the_uplink() {
    one_segment("auto", "native");
}

#[test]
fn containers_and_the_wire_are_one_segment_with_xdp_everywhere() {
    one_segment("xdp", "native");
}

#[test]
fn xdp_stays_off_by_itself_where_frames_may_be_unfinished() {
    let segment = segment("auto", "auto");
    let device = segment.host.netns.device("phys0").unwrap();
    assert!(device.get("xdp").is_none_or(serde_json::Value::is_null), "{device:#}");
    tcp(&segment.wire, &segment.a, segment.at_a.ipv4, 16 << 20);
    tcp(&segment.b, &segment.wire, WIRE, 16 << 20);
    udp(&segment.wire, &segment.b, segment.at_b.ipv4, 1000, 100);
}

#[test]
fn a_station_that_moves_between_the_wire_and_a_container_is_followed() {
    for xdp in ["off", "native"] {
        let segment = &segment_of("auto", xdp, &["-o", "spoof_guard=off"]);
        let Segment { at_a, at_b, a, b, wire, host } = segment;
        let [port_a, port_b, port_wire] = [a, b, wire].map(|netns| RawPort::open(netns, "eth0"));
        let nomad: Mac = "02:00:00:00:66:01".parse().unwrap();
        let places = [
            (&port_a, &port_wire, at_a.name.as_str()),
            (&port_wire, &port_a, "phys0"),
            (&port_a, &port_wire, at_a.name.as_str()),
        ];
        for (moves, (here, elsewhere, port)) in places.into_iter().enumerate() {
            let hello = Frame::new(Mac::BROADCAST, nomad, &format!("hello {moves}"));
            here.send(&hello);
            port_b.expect(&hello);
            let station = host.fdb(&[]).into_iter().find(|station| station.mac == nomad).expect("it is learned");
            assert_eq!((station.port.as_str(), station.moves), (port, moves as u64));
            // It gets its frames where it is now, and not where it was.
            let answer = Frame::new(nomad, at_b.mac, &format!("answer {moves}"));
            port_b.send(&answer);
            here.expect(&answer);
            let mark = Frame::new(Mac::BROADCAST, at_b.mac, &format!("mark {moves}"));
            port_b.send(&mark);
            assert!(!elsewhere.expect(&mark).contains(&answer), "xdp {xdp}");
        }
    }
}

#[test]
fn frames_with_tags_pass_between_the_wire_and_containers() {
    for xdp in ["off", "native"] {
        let Segment { at_a, a, wire, .. } = &segment_of("auto", xdp, &["--trunk", "all"]);
        let [port_a, port_wire] = [a, wire].map(|netns| RawPort::open(netns, "eth0"));
        for tags in [&[Tag::customer(30)][..], &[Tag::service(8)], &[Tag::service(8), Tag::customer(30)]] {
            for destination in [at_a.mac, Mac::BROADCAST] {
                let inwards = Frame::tagged(destination, wire.mac("eth0"), tags, "inwards");
                port_wire.send(&inwards);
                port_a.expect(&inwards);
            }
            for destination in [wire.mac("eth0"), Mac::BROADCAST] {
                let outwards = Frame::tagged(destination, at_a.mac, tags, "outwards");
                port_a.send(&outwards);
                port_wire.expect(&outwards);
            }
        }
    }
}

#[test]
fn removing_the_network_gives_the_interface_back() {
    for xdp in ["off", "native"] {
        let host = Host::down();
        let wire = Netns::new("wire");
        host.netns.wire("phys0", &wire, "eth0");
        set_tx_checksumming(&wire, "eth0", false);
        host.netns.ip("address add 172.30.9.1/24 dev phys0");
        wire.ip("address add 172.30.9.200/24 dev eth0");
        host.start(&[]);
        let before = crate::harness::Surroundings::of(&host, &[]);
        host.ok(&[
            "network",
            "create",
            "--subnet",
            "10.77.0.0/24",
            "-o",
            "uplink=phys0",
            "-o",
            &format!("xdp={xdp}"),
            "lan",
        ]);
        ping(&wire, HOST_ON_WIRE);
        host.ok(&["network", "rm", "lan"]);
        eventually("everything is as before", || {
            (crate::harness::Surroundings::of(&host, &[]) == before).then_some(())
        });
        ping(&wire, HOST_ON_WIRE);
        tcp(&wire, &host.netns, HOST_ON_WIRE, 1 << 20);
    }
}
