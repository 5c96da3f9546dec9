//! macvlan, frame by frame: which frames appear on the wire, and which are delivered inside the
//! host in each mode.

use std::net::IpAddr;

use crate::harness::{
    Frame, Mac, Member, OnWire, RawPort, Wire, eventually, ping, send_to_group, settles, tcp, udp, udp_broadcast,
    udp_broadcast_at,
};

/// The devices of the containers, of a machine, and of the host's wire.
struct Ports<const N: usize> {
    containers: [RawPort; N],
    /// Receives every frame that leaves the host.
    leaving: RawPort,
    machine: RawPort,
    machine_mac: Mac,
}

impl<const N: usize> Ports<N> {
    fn of(lan: &OnWire<N>) -> Self {
        let containers = std::array::from_fn(|number: usize| RawPort::open(&lan.containers[number], "eth0"));
        let machine = &lan.wire.hosts[0];
        Self {
            containers,
            leaving: lan.wire.listen(),
            machine: RawPort::open(machine, "eth0"),
            machine_mac: machine.mac("eth0"),
        }
    }

    /// Returns the frames that a container has received so far, up to a mark that the machine sends
    /// to it.
    #[track_caller]
    fn received(&self, number: usize, mac: Mac, mark: &str) -> Vec<Frame> {
        let mark = Frame::new(mac, self.machine_mac, mark);
        self.machine.send(&mark);
        self.containers[number].expect(&mark)
    }
}

/// Returns how often a frame is among others.
fn count(frames: &[Frame], frame: &Frame) -> usize {
    frames.iter().filter(|other| *other == frame).count()
}

#[test]
fn unicast_between_bridge_mode_endpoints_does_not_reach_the_wire() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &["macvlan_mode=bridge"]);
        let ports = Ports::of(&lan);
        let [a, b] = [0, 1].map(|number| lan.at[number].mac);
        let straight = Frame::new(b, a, "straight");
        let broadcast = Frame::new(Mac::BROADCAST, a, "broadcast");
        let to_machine = Frame::new(ports.machine_mac, a, "to the machine");
        for frame in [&straight, &broadcast, &to_machine] {
            ports.containers[0].send(frame);
        }
        ports.containers[1].expect_all([&straight, &broadcast]);
        let left = ports.leaving.expect(&to_machine);
        assert_eq!((count(&left, &straight), count(&left, &broadcast)), (0, 1), "xdp {xdp}: {left:02x?}");
        let received = ports.received(0, a, "mark");
        assert_eq!(count(&received, &broadcast), 0, "xdp {xdp}: its own broadcast came back");
    }
}

#[test]
fn each_endpoint_has_its_own_mac_address_on_the_wire() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &[]);
        let ports = Ports::of(&lan);
        let [a, b] = [0, 1].map(|number| lan.at[number].mac);
        assert!(a != b && a != lan.host.netns.mac("phys0"));
        for (number, mac) in [a, b].into_iter().enumerate() {
            let [inwards, outwards] =
                [Frame::new(mac, ports.machine_mac, "inwards"), Frame::new(ports.machine_mac, mac, "outwards")];
            ports.machine.send(&inwards);
            ports.containers[number].expect(&inwards);
            ports.containers[number].send(&outwards);
            ports.machine.expect(&outwards);
            let other = 1 - number;
            let received = ports.received(other, [a, b][other], "mark");
            assert_eq!(count(&received, &inwards), 0, "xdp {xdp}: the other container received the frame");
        }
    }
}

#[test]
fn private_endpoints_are_isolated_even_behind_a_hairpin_switch() {
    for (xdp, hairpin) in [("off", false), ("off", true), ("native", false), ("native", true)] {
        let lan = OnWire::<2>::new("macvlan", xdp, &["macvlan_mode=private"]);
        lan.wire.set_hairpin(hairpin);
        let ports = Ports::of(&lan);
        let [a, b] = [0, 1].map(|number| lan.at[number].mac);
        let group = Mac([0x01, 0x00, 0x5e, 1, 2, 3]);
        let between = [b, Mac::BROADCAST, group].map(|to| Frame::new(to, a, &format!("to {to}")));
        let last = Frame::new(ports.machine_mac, a, "the last");
        for frame in between.iter().chain([&last]) {
            ports.containers[0].send(frame);
        }
        // Broadcast and multicast frames do appear on the wire.
        let left = ports.leaving.expect(&last);
        assert_eq!(between[1..].iter().map(|frame| count(&left, frame)).collect::<Vec<_>>(), [1, 1], "{left:02x?}");
        ports.machine.expect(&last);
        let received = ports.received(1, b, "mark");
        assert!(between.iter().all(|frame| count(&received, frame) == 0), "xdp {xdp}, {hairpin}: {received:02x?}");
        let received = ports.received(0, a, "mark");
        assert!(between.iter().all(|frame| count(&received, frame) == 0), "xdp {xdp}, {hairpin}: {received:02x?}");
    }
}

#[test]
fn vepa_endpoints_reach_each_other_only_through_the_wire() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &["macvlan_mode=vepa"]);
        let ports = Ports::of(&lan);
        let [a, b] = [0, 1].map(|number| lan.at[number].mac);
        let to = |text: &str| [b, Mac::BROADCAST].map(|to| Frame::new(to, a, &format!("{text} {to}")));
        let lost = to("lost");
        for frame in &lost {
            ports.containers[0].send(frame);
        }
        ports.leaving.expect_all(&lost);
        let received = ports.received(1, b, "nothing crosses");
        assert!(lost.iter().all(|frame| count(&received, frame) == 0), "xdp {xdp}: {received:02x?}");

        lan.wire.set_hairpin(true);
        let reflected = to("reflected");
        for frame in &reflected {
            ports.containers[0].send(frame);
        }
        let more = ports.leaving.expect_all(&reflected);
        assert!(reflected.iter().all(|frame| count(&more, frame) == 0), "xdp {xdp}: {more:02x?}");
        let more = ports.containers[1].expect_all(&reflected);
        assert!(reflected.iter().all(|frame| count(&more, frame) == 0), "xdp {xdp}: {more:02x?}");
        // Each frame arrived once, and not at its sender.
        let received = ports.received(1, b, "once");
        assert!(reflected.iter().all(|frame| count(&received, frame) == 0), "xdp {xdp}: {received:02x?}");
        let received = ports.received(0, a, "not back");
        assert!(reflected.iter().all(|frame| count(&received, frame) == 0), "xdp {xdp}: {received:02x?}");
    }
}

#[test]
fn a_passthru_endpoint_receives_all_frames_of_the_parent() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<1>::new("macvlan", xdp, &["macvlan_mode=passthru"]);
        let [machine, container] = [&lan.wire.hosts[0], &lan.containers[0]];
        for (own, far) in lan.addresses(0).into_iter().zip(Wire::address(0)) {
            ping(machine, own);
            ping(container, far);
            tcp(container, machine, far, 4 << 20);
            tcp(machine, container, own, 4 << 20);
            udp(machine, container, own, 1472, 100);
        }
        let ports = Ports::of(&lan);
        // A frame to an unknown address is delivered to the endpoint.
        let unknown = Frame::new(Mac([2, 0, 0, 0, 0x77, 1]), ports.machine_mac, "to an unknown address");
        ports.machine.send(&unknown);
        ports.containers[0].expect(&unknown);
    }
}

#[test]
fn packets_of_all_sizes_pass_between_containers_and_the_wire() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &[]);
        let machine = &lan.wire.hosts[1];
        for (number, container) in lan.containers.iter().enumerate() {
            for (own, far) in lan.addresses(number).into_iter().zip(Wire::address(1)) {
                for (from, to, address) in [(machine, container, own), (container, machine, far)] {
                    udp(from, to, address, 18, 100);
                    udp(from, to, address, 1400, 100);
                    udp(from, to, address, 9000, 20);
                    tcp(from, to, address, 4 << 20);
                }
            }
        }
        for address in lan.addresses(1) {
            tcp(&lan.containers[0], &lan.containers[1], address, 4 << 20);
            udp(&lan.containers[0], &lan.containers[1], address, 9000, 20);
        }
        // The host itself is still reachable on the wire.
        for [host, far] in [[0, 0], [1, 1]] {
            let [host, far]: [IpAddr; 2] = [Wire::HOST[host].parse().unwrap(), Wire::address(1)[far]];
            tcp(machine, &lan.host.netns, host, 4 << 20);
            tcp(&lan.host.netns, machine, far, 4 << 20);
        }
    }
}

#[test]
fn broadcasts_reach_the_host_and_every_container() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &[]);
        let [machine, other] = [&lan.wire.hosts[0], &lan.wire.hosts[1]];
        let [a, b] = [&lan.containers[0], &lan.containers[1]];
        let IpAddr::V4(machine_address) = Wire::address(0)[0] else { unreachable!() };
        udp_broadcast(machine, machine_address, &[a, b, other, &lan.host.netns]);
        udp_broadcast_at(machine, machine_address, &lan.host.netns, "phys0");
        udp_broadcast(a, lan.at[0].ipv4, &[b, machine, other]);
    }
}

#[test]
fn multicast_reaches_every_member_of_its_group() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &[]);
        let machine = &lan.wire.hosts[0];
        for group in ["239.4.5.6", "ff05::4:5:6"] {
            let group: IpAddr = group.parse().unwrap();
            let members = [
                Member::join(&lan.containers[0], "eth0", group),
                Member::join(&lan.containers[1], "eth0", group),
                Member::join(&lan.host.netns, "phys0", group),
            ];
            send_to_group(machine, "eth0", group, "from the wire", 3);
            for member in &members {
                member.expect("from the wire", 3);
            }
            let far = Member::join(machine, "eth0", group);
            send_to_group(&lan.containers[0], "eth0", group, "from a container", 3);
            far.expect("from a container", 3);
            members[1].expect("from a container", 3);
        }
    }
}

#[test]
fn every_frame_of_a_macvlan_network_is_accounted_for() {
    for (xdp, mode) in [("off", "bridge"), ("native", "bridge"), ("native", "private"), ("off", "vepa")] {
        let mode = format!("macvlan_mode={mode}");
        let lan = OnWire::<2>::new("macvlan", xdp, &[&mode]);
        let ports = Ports::of(&lan);
        let [a, b] = [0, 1].map(|number| lan.at[number].mac);
        let groups = [Mac::BROADCAST, Mac([0x01, 0x00, 0x5e, 1, 2, 3]), Mac([0x33, 0x33, 0, 0, 0, 1])];
        let others = [Mac([2, 0, 0, 0, 0x77, 1]), Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]), Mac::ZERO];
        for to in [a, b, ports.machine_mac, lan.host.netns.mac("phys0")].into_iter().chain(groups).chain(others) {
            for number in 0..20 {
                ports.containers[0].send(&Frame::new(to, a, &format!("{number}")));
                ports.containers[1].send(&Frame::new(to, a, &format!("{number}, spoofed")));
                ports.machine.send(&Frame::new(to, ports.machine_mac, &format!("{number}")));
            }
        }
        for (number, (own, far)) in lan.addresses(0).into_iter().zip(Wire::address(0)).enumerate() {
            ping(&lan.wire.hosts[0], own);
            tcp(&lan.containers[0], &lan.wire.hosts[0], far, 1 << 20);
            ports.received(0, a, &format!("mark {number}"));
        }
        assert!(lan.host.ports(&["lan"]).len() >= 3, "the parent and both containers");
        settles(&format!("xdp {xdp}, {mode}: every frame is accounted for"), || {
            let ports = lan.host.ports(&["lan"]);
            let sent = ports[&lan.at[0].name].rx_frames >= 200;
            if sent && ports.values().all(|port| port.rx_frames == port.accounted()) { Ok(()) } else { Err(ports) }
        });
        let spoofed = || lan.host.counters(&lan.at[1].name).dropped("source_spoofed");
        eventually("spoofed frames are dropped", || (spoofed() >= 100).then_some(()));
    }
}
