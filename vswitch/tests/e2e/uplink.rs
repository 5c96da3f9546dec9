//! A bridge network with a physical interface as uplink: containers and the machines on the wire
//! share one segment.

use std::net::Ipv4Addr;

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, RawPort, Surroundings, Tag, eventually, ping, ping_with, set_tx_checksumming,
    tcp, udp, udp_broadcast, udp_broadcast_at,
};

/// A host whose device `phys{number}` leads to a machine on the wire.
struct Wire<'a> {
    number: u8,
    xdp: &'static str,
    machine: Netns,
    host: &'a Host,
}

/// Two containers in a network with this uplink.
struct Segment<'a> {
    at_a: Attached,
    at_b: Attached,
    a: Netns,
    b: Netns,
    wire: &'a Wire<'a>,
}

impl<'a> Wire<'a> {
    fn new(host: &'a Host, number: u8, xdp: &'static str) -> Self {
        let wire = Self { number, xdp, machine: Netns::new("wire"), host };
        let machine = &wire.machine;
        host.netns.wire(&wire.uplink(), machine, "eth0");
        host.netns.ip(&format!("address add {}/24 dev {}", wire.address_of_host(), wire.uplink()));
        machine.ip(&format!("address add {}/24 dev eth0", wire.address()));
        machine.ip(&format!("address add 172.30.{number}.200/24 dev eth0"));
        // XDP needs complete frames, but a veth would pass packets with unfinished checksums to it.
        set_tx_checksumming(machine, "eth0", xdp != "native");
        wire
    }

    fn uplink(&self) -> String {
        format!("phys{}", self.number)
    }

    /// Returns the address of the machine in the network.
    fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 200)
    }

    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    /// Returns the host's own address on the interface, which it keeps.
    fn address_of_host(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.number, 1)
    }

    fn network(&self) -> String {
        format!("lan{}", self.number)
    }

    fn has_xdp(&self) -> bool {
        self.host.netns.device(&self.uplink()).unwrap().get("xdp").is_some_and(|xdp| !xdp.is_null())
    }

    /// Creates the network and its endpoints, with flags for both.
    fn start_segment(&self, flags: &[&str]) -> Segment<'_> {
        let [subnet, range] = [24, 25].map(|prefix| format!("10.77.{}.0/{prefix}", self.number));
        let [uplink, option] = [format!("uplink={}", self.uplink()), format!("xdp={}", self.xdp)];
        let create = ["network", "create", "--subnet", &subnet, "--ip-range", &range, "-o", &uplink, "-o", &option];
        self.host.ok(&[&create[..], &[self.network().as_str()]].concat());
        let [a, b] = ["a", "b"].map(Netns::new);
        let [at_a, at_b] =
            [&a, &b].map(|container| self.host.attach(container, &[&["--network", &*self.network()], flags].concat()));
        Segment { at_a, at_b, a, b, wire: self }
    }
}

fn check_one_segment(host: &Host, number: u8, xdp: &'static str) {
    let wire = &Wire::new(host, number, xdp);
    let Segment { at_a, at_b, a, b, .. } = &wire.start_segment(&[]);
    assert_eq!(wire.has_xdp(), xdp == "native");

    let machine = &wire.machine;
    let pairs = [
        (machine, a, at_a.ipv4),
        (machine, b, at_b.ipv4),
        (a, machine, wire.address()),
        (b, machine, wire.address()),
        (a, b, at_b.ipv4),
        (machine, &*host.netns, wire.gateway()),
        (&*host.netns, machine, wire.address()),
        (a, &*host.netns, wire.gateway()),
        (machine, &*host.netns, wire.address_of_host()),
        (a, &*host.netns, wire.address_of_host()),
    ];
    for (from, to, address) in pairs {
        ping(from, address);
        ping_with(from, address, 4000);
        udp(from, to, address, 18, 40);
        udp(from, to, address, 1472, 40);
        udp(from, to, address, 9000, 20);
        tcp(from, to, address, 1 << 20);
    }
    tcp(machine, a, at_a.ipv4, 8 << 20);
    udp_broadcast(machine, wire.address(), &[a, b, &*host.netns]);
    udp_broadcast(a, at_a.ipv4, &[b, machine, &*host.netns]);
    // The host's own stack on the interface still receives broadcasts.
    udp_broadcast_at(machine, wire.address(), &host.netns, &wire.uplink());

    let station = host
        .fdb(&["--network", &wire.network()])
        .into_iter()
        .find(|station| station.mac == machine.mac("eth0"))
        .expect("the machine on the wire is learned");
    assert_eq!((station.port, station.kind.as_str()), (wire.uplink(), "dynamic"));
}

#[test]
fn containers_and_the_wire_are_one_segment() {
    let host = Host::up(&[]);
    check_one_segment(&host, 0, "off");
    check_one_segment(&host, 1, "native");
    check_xdp_auto(&host);
}

#[test]
fn containers_and_the_wire_are_one_segment_with_xdp_everywhere() {
    check_one_segment(&Host::up(&["--datapath", "xdp"]), 0, "native");
}

/// `auto` stays off where frames may be unfinished.
fn check_xdp_auto(host: &Host) {
    let wire = &Wire::new(host, 2, "auto");
    let Segment { at_a, at_b, a, b, .. } = &wire.start_segment(&[]);
    assert!(!wire.has_xdp());
    tcp(&wire.machine, a, at_a.ipv4, 4 << 20);
    tcp(b, &wire.machine, wire.address(), 4 << 20);
    udp(&wire.machine, b, at_b.ipv4, 1000, 40);
}

#[test]
fn stations_move_tags_pass_and_removing_the_network_restores_the_interface() {
    let host = &Host::up(&[]);
    let wires = [(0, "off"), (1, "native")].map(|(number, xdp)| Wire::new(host, number, xdp));
    for wire in &wires {
        let before = Surroundings::of(host, &[]);
        let segment = wire.start_segment(&["-o", "spoof_guard=off", "--trunk", "all"]);
        ping(&wire.machine, wire.address_of_host());
        check_that_a_moved_station_is_reached(&segment);
        check_that_tagged_frames_pass(&segment);
        for container in [&segment.a, &segment.b] {
            host.ok(&["detach", container.name()]);
        }
        host.ok(&["network", "rm", &wire.network()]);
        eventually("all settings are restored", || (Surroundings::of(host, &[]) == before).then_some(()));
        ping(&wire.machine, wire.address_of_host());
        tcp(&wire.machine, &host.netns, wire.address_of_host(), 1 << 20);
    }
}

/// A station that moves between the wire and a container is reached.
fn check_that_a_moved_station_is_reached(Segment { at_a, at_b, a, b, wire }: &Segment<'_>) {
    let [port_a, port_b, port_wire] = [a, b, &wire.machine].map(|netns| RawPort::open(netns, "eth0"));
    let roaming = Mac([2, 0, 0, 0, 0x66, wire.number]);
    let uplink = wire.uplink();
    let places = [
        (&port_a, &port_wire, at_a.name.as_str()),
        (&port_wire, &port_a, uplink.as_str()),
        (&port_a, &port_wire, at_a.name.as_str()),
    ];
    for (moves, (here, elsewhere, port)) in places.into_iter().enumerate() {
        let hello = Frame::new(Mac::BROADCAST, roaming, &format!("hello {moves}"));
        here.send(&hello);
        port_b.expect(&hello);
        let station =
            wire.host.fdb(&[]).into_iter().find(|station| station.mac == roaming).expect("the station is learned");
        assert_eq!((station.port.as_str(), station.moves), (port, moves as u64));
        // Frames for the station arrive where it is now, and not where it was.
        let answer = Frame::new(roaming, at_b.mac, &format!("answer {moves}"));
        port_b.send(&answer);
        here.expect(&answer);
        let mark = Frame::new(Mac::BROADCAST, at_b.mac, &format!("mark {moves}"));
        port_b.send(&mark);
        assert!(!elsewhere.expect(&mark).contains(&answer), "xdp {}", wire.xdp);
    }
}

fn check_that_tagged_frames_pass(Segment { at_a, a, wire, .. }: &Segment<'_>) {
    let [port_a, port_wire] = [a, &wire.machine].map(|netns| RawPort::open(netns, "eth0"));
    let far = wire.machine.mac("eth0");
    for tags in [&[Tag::customer(30)][..], &[Tag::service(8)], &[Tag::service(8), Tag::customer(30)]] {
        for destination in [at_a.mac, Mac::BROADCAST] {
            let inwards = Frame::tagged(destination, far, tags, "inwards");
            port_wire.send(&inwards);
            port_a.expect(&inwards);
        }
        for destination in [far, Mac::BROADCAST] {
            let outwards = Frame::tagged(destination, at_a.mac, tags, "outwards");
            port_a.send(&outwards);
            port_wire.expect(&outwards);
        }
    }
}
