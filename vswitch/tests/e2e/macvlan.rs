//! macvlan, frame by frame: what of it is on the wire, and that nothing passes inside that must not.

use std::net::IpAddr;

use crate::harness::{
    Frame, Mac, Member, OnWire, RawPort, Wire, eventually, ping, send_to_group, settles, tcp, udp, udp_broadcast,
    udp_broadcast_at,
};

/// Containers, the host and a machine as ports of the one network.
struct Ports<const N: usize> {
    containers: [RawPort; N],
    /// Whatever leaves the host.
    leaving: RawPort,
    machine: RawPort,
    of_machine: Mac,
}

impl<const N: usize> Ports<N> {
    fn of(lan: &OnWire<N>) -> Self {
        let containers = std::array::from_fn(|number: usize| RawPort::open(&lan.containers[number], "eth0"));
        let machine = &lan.wire.hosts[0];
        Self {
            containers,
            leaving: lan.wire.listen(),
            machine: RawPort::open(machine, "eth0"),
            of_machine: machine.mac("eth0"),
        }
    }

    /// What a container has heard until now: what the machine sends to it comes after all that.
    #[track_caller]
    fn heard(&self, number: usize, mac: Mac, mark: &str) -> Vec<Frame> {
        let mark = Frame::new(mac, self.of_machine, mark);
        self.machine.send(&mark);
        self.containers[number].expect(&mark)
    }
}

/// How often a frame is among others.
fn count(frames: &[Frame], frame: &Frame) -> usize {
    frames.iter().filter(|other| *other == frame).count()
}

#[test]
fn between_bridge_endpoints_frames_stay_inside() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &["macvlan_mode=bridge"]);
        let ports = Ports::of(&lan);
        let [a, b] = [0, 1].map(|number| lan.at[number].mac);
        let straight = Frame::new(b, a, "straight");
        let to_all = Frame::new(Mac::BROADCAST, a, "to everybody");
        let to_machine = Frame::new(ports.of_machine, a, "to the machine");
        for frame in [&straight, &to_all, &to_machine] {
            ports.containers[0].send(frame);
        }
        ports.containers[1].expect_all([&straight, &to_all]);
        let left = ports.leaving.expect(&to_machine);
        assert_eq!((count(&left, &straight), count(&left, &to_all)), (0, 1), "xdp {xdp}: {left:02x?}");
        let heard = ports.heard(0, a, "mark");
        assert_eq!(count(&heard, &to_all), 0, "xdp {xdp}: its own broadcast came back");
    }
}

#[test]
fn each_endpoint_has_its_own_address_on_the_wire() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &[]);
        let ports = Ports::of(&lan);
        let [a, b] = [0, 1].map(|number| lan.at[number].mac);
        assert!(a != b && a != lan.host.netns.mac("phys0"));
        for (number, mac) in [a, b].into_iter().enumerate() {
            let [inwards, outwards] =
                [Frame::new(mac, ports.of_machine, "inwards"), Frame::new(ports.of_machine, mac, "outwards")];
            ports.machine.send(&inwards);
            ports.containers[number].expect(&inwards);
            ports.containers[number].send(&outwards);
            ports.machine.expect(&outwards);
            let other = 1 - number;
            let heard = ports.heard(other, [a, b][other], "mark");
            assert_eq!(count(&heard, &inwards), 0, "xdp {xdp}: what is for one is for no other");
        }
    }
}

#[test]
fn private_endpoints_are_apart_even_behind_a_reflecting_switch() {
    for (xdp, reflecting) in [("off", false), ("off", true), ("native", false), ("native", true)] {
        let lan = OnWire::<2>::new("macvlan", xdp, &["macvlan_mode=private"]);
        lan.wire.reflecting(reflecting);
        let ports = Ports::of(&lan);
        let [a, b] = [0, 1].map(|number| lan.at[number].mac);
        let group = Mac([0x01, 0x00, 0x5e, 1, 2, 3]);
        let between = [b, Mac::BROADCAST, group].map(|to| Frame::new(to, a, &format!("to {to}")));
        let last = Frame::new(ports.of_machine, a, "the last");
        for frame in between.iter().chain([&last]) {
            ports.containers[0].send(frame);
        }
        // The wire has what is for everybody.
        let left = ports.leaving.expect(&last);
        assert_eq!(between[1..].iter().map(|frame| count(&left, frame)).collect::<Vec<_>>(), [1, 1], "{left:02x?}");
        ports.machine.expect(&last);
        let heard = ports.heard(1, b, "mark");
        assert!(between.iter().all(|frame| count(&heard, frame) == 0), "xdp {xdp}, {reflecting}: {heard:02x?}");
        let heard = ports.heard(0, a, "mark");
        assert!(between.iter().all(|frame| count(&heard, frame) == 0), "xdp {xdp}, {reflecting}: {heard:02x?}");
    }
}

#[test]
fn vepa_endpoints_have_each_others_frames_by_way_of_the_wire_alone() {
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
        let heard = ports.heard(1, b, "nothing crosses");
        assert!(lost.iter().all(|frame| count(&heard, frame) == 0), "xdp {xdp}: {heard:02x?}");

        lan.wire.reflecting(true);
        let reflected = to("reflected");
        for frame in &reflected {
            ports.containers[0].send(frame);
        }
        let more = ports.leaving.expect_all(&reflected);
        assert!(reflected.iter().all(|frame| count(&more, frame) == 0), "xdp {xdp}: {more:02x?}");
        let more = ports.containers[1].expect_all(&reflected);
        assert!(reflected.iter().all(|frame| count(&more, frame) == 0), "xdp {xdp}: {more:02x?}");
        // Each once, and none to the one that has sent it.
        let heard = ports.heard(1, b, "once");
        assert!(reflected.iter().all(|frame| count(&heard, frame) == 0), "xdp {xdp}: {heard:02x?}");
        let heard = ports.heard(0, a, "not back");
        assert!(reflected.iter().all(|frame| count(&heard, frame) == 0), "xdp {xdp}: {heard:02x?}");
    }
}

#[test]
fn a_passthru_endpoint_owns_the_parent() {
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
        // Whatever is for nobody else is for it.
        let stranger = Frame::new(Mac([2, 0, 0, 0, 0x77, 1]), ports.of_machine, "for somebody behind it");
        ports.machine.send(&stranger);
        ports.containers[0].expect(&stranger);
    }
}

#[test]
fn everything_large_and_small_passes_between_containers_and_the_wire() {
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
        // The host is on the wire as before.
        for [host, far] in [[0, 0], [1, 1]] {
            let [host, far]: [IpAddr; 2] = [Wire::HOST[host].parse().unwrap(), Wire::address(1)[far]];
            tcp(machine, &lan.host.netns, host, 4 << 20);
            tcp(&lan.host.netns, machine, far, 4 << 20);
        }
    }
}

#[test]
fn broadcasts_are_heard_by_the_host_and_every_container() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &[]);
        let [machine, other] = [&lan.wire.hosts[0], &lan.wire.hosts[1]];
        let [a, b] = [&lan.containers[0], &lan.containers[1]];
        let IpAddr::V4(of_machine) = Wire::address(0)[0] else { unreachable!() };
        udp_broadcast(machine, of_machine, &[a, b, other, &lan.host.netns]);
        udp_broadcast_at(machine, of_machine, &lan.host.netns, "phys0");
        udp_broadcast(a, lan.at[0].ipv4, &[b, machine, other]);
    }
}

#[test]
fn multicast_is_heard_by_whoever_has_joined() {
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
        let strangers = [Mac([2, 0, 0, 0, 0x77, 1]), Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]), Mac::ZERO];
        for to in [a, b, ports.of_machine, lan.host.netns.mac("phys0")].into_iter().chain(groups).chain(strangers) {
            for number in 0..20 {
                ports.containers[0].send(&Frame::new(to, a, &format!("{number}")));
                ports.containers[1].send(&Frame::new(to, a, &format!("{number}, says another")));
                ports.machine.send(&Frame::new(to, ports.of_machine, &format!("{number}")));
            }
        }
        for (number, (own, far)) in lan.addresses(0).into_iter().zip(Wire::address(0)).enumerate() {
            ping(&lan.wire.hosts[0], own);
            tcp(&lan.containers[0], &lan.wire.hosts[0], far, 1 << 20);
            ports.heard(0, a, &format!("mark {number}"));
        }
        assert!(lan.host.ports(&["lan"]).len() >= 3, "the parent and both containers");
        settles(&format!("xdp {xdp}, {mode}: every frame has gone somewhere"), || {
            let ports = lan.host.ports(&["lan"]);
            let sent = ports[&lan.at[0].name].rx_frames >= 200;
            if sent && ports.values().all(|port| port.rx_frames == port.accounted()) { Ok(()) } else { Err(ports) }
        });
        let spoofed = || lan.host.counters(&lan.at[1].name).dropped("source_spoofed");
        eventually("guards are those of the switch", || (spoofed() >= 100).then_some(()));
    }
}
