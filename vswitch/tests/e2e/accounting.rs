//! The counters of a port account for every frame: received frames = delivered frames + drops by
//! reason. Valid and malformed frames are sent.

use std::collections::BTreeMap;

use etherparse::PacketBuilder;

use crate::harness::{Counters, Frame, Host, Mac, Netns, RawPort, settles};

/// The expected outcome of a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fate {
    /// Delivered to b only.
    ToB,
    /// Delivered to the host's stack only.
    ToHost,
    /// Flooded to b, c and the uplink; to the host as well if the destination is a group address.
    Everywhere,
    /// Dropped for this reason.
    Dropped(&'static str),
}

/// How often each frame is sent.
const TIMES: usize = 20;

/// Frames that container a sends: valid, unusual and malformed ones.
fn mix(a: Mac, b: Mac, c: Mac, host: Mac) -> Vec<(Fate, Frame)> {
    use Fate::{Dropped, Everywhere, ToB, ToHost};
    let ip = |protocol: u8, rest: &[u8]| {
        let header = [0x08, 0, 0x45, 0, 0, 60, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 201, 9, 2, 10, 201, 9, 3];
        Frame::raw(b, a, &[&header[..], rest].concat())
    };
    let mut udp = Vec::new();
    PacketBuilder::ethernet2(a.0, b.0)
        .ipv4([10, 201, 9, 2], [10, 201, 9, 3], 64)
        .udp(9, 9)
        .write(&mut udp, b"well formed")
        .unwrap();
    let mut udp6 = Vec::new();
    PacketBuilder::ethernet2(a.0, b.0)
        .ipv6([0xfe; 16], [0xfd; 16], 64)
        .udp(9, 9)
        .write(&mut udp6, b"well formed")
        .unwrap();
    let long_chain: Vec<u8> = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 200, 0, 64]
        .into_iter()
        .chain([1; 32])
        .chain([0, 0, 1, 4, 0, 0, 0, 0].repeat(25))
        .collect();
    let control = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    let group = Mac([0x01, 0x00, 0x5e, 1, 2, 3]);
    vec![
        (ToB, Frame(udp)),
        (ToB, Frame(udp6)),
        (ToB, Frame::new(b, a, "not IP at all")),
        (ToB, Frame::raw(b, a, &[0x88, 0xb5])),
        (ToB, Frame::raw(b, a, &[0, 3, 1, 2, 3])),
        (ToB, Frame::raw(b, a, &[0x08, 0])),
        (ToB, Frame::raw(b, a, &[0x08, 0, 0x45])),
        (ToB, Frame::raw(b, a, &[0x08, 0, 0x41, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])),
        (ToB, Frame::raw(b, a, &[0x08, 0, 0xf5, 0, 0xff, 0xff, 0, 0, 0, 0, 64, 6, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])),
        (ToB, ip(6, &[0, 80])),
        (ToB, ip(17, &[0, 53, 0, 53, 0, 1, 0, 0])),
        (ToB, ip(0, &[])),
        (ToB, ip(255, &[0xff; 40])),
        (ToB, Frame::raw(b, a, &[0x08, 0x06, 0, 1, 8])),
        (ToB, Frame::raw(b, a, &long_chain)),
        (ToB, Frame::raw(b, a, &[0x86, 0xdd, 0x60, 0, 0, 0, 0xff, 0xff])),
        (ToHost, Frame::new(host, a, "to the host")),
        (Everywhere, Frame::new(Mac::BROADCAST, a, "broadcast")),
        (Everywhere, Frame::new(group, a, "to a group")),
        (Everywhere, Frame::new(Mac([2, 0, 0, 0, 0, 0x99]), a, "to an unknown station")),
        (Everywhere, Frame::new(Mac::BROADCAST, Mac([2, 0, 0, 0, 0x88, 1]), "from a nested station")),
        (Dropped("link_local"), Frame::new(control, a, "link-local")),
        (Dropped("source_multicast"), Frame::new(b, group, "from a group")),
        (Dropped("source_zero"), Frame::new(b, Mac::ZERO, "from zero")),
        (Dropped("destination_zero"), Frame::new(Mac::ZERO, a, "to zero")),
        (Dropped("source_spoofed"), Frame::new(b, c, "from c, sent by a")),
        (Dropped("same_port"), Frame::new(a, a, "to itself")),
        // The kernel strips the outer tag. The inner tag is cut short.
        (Dropped("truncated"), Frame::raw(b, a, &[0x81, 0, 0, 5, 0x81, 0, 0, 7])),
    ]
}

fn every_frame_is_accounted_for(datapath: &str) {
    let host = Host::down();
    let [a, b, c, wire] = ["a", "b", "c", "wire"].map(Netns::new);
    host.netns.wire("phys0", &wire, "eth0");
    host.start(&["--datapath", datapath]);
    // The guards and snooping are off, so that only the malformed part of a frame decides, not its
    // sender or the group members.
    let options =
        ["uplink=phys0", "spoof_guard=off", "ra_guard=off", "dhcp_guard=off", "bpdu_guard=off", "mcast_snooping=off"];
    let options: Vec<&str> = options.into_iter().flat_map(|option| ["-o", option]).collect();
    host.ok(&[&["network", "create", "--subnet", "10.201.9.0/24", "lan"], &options[..]].concat());
    let [at_a, at_b, at_c] =
        [&a, &b, &c].map(|container| host.attach(container, &["--network", "lan", "--trunk", "all"]));
    let sender = RawPort::open(&a, "eth0");
    let receivers =
        [("b", RawPort::open(&b, "eth0")), ("c", RawPort::open(&c, "eth0")), ("wire", RawPort::open(&wire, "eth0"))];

    let at_host =
        host.fdb(&["--network", "lan", "--static"]).into_iter().find(|station| station.port.ends_with("-lan"));
    let mix = mix(at_a.mac, at_b.mac, at_c.mac, at_host.expect("the host's entry").mac);
    // A port whose device is not up yet (it is being attached) cannot be flooded to. Such failures
    // are not counted here.
    let ports_before = host.ports(&["lan"]);
    let before = &ports_before[&at_a.name];
    for _ in 0..TIMES {
        for (fate, frame) in &mix {
            sender.try_send(frame).unwrap_or_else(|error| panic!("{fate:?} {frame:02x?}: {error}"));
        }
    }
    let sent = (mix.len() * TIMES) as u64;
    // The container's own stack may send frames as well (neighbor discovery), so the count is a
    // lower limit.
    let after = settles(&format!("{sent} frames are counted"), || {
        let counters = host.counters(&at_a.name);
        let counted = counters.rx_frames - before.rx_frames >= sent && counters.rx_frames == counters.accounted();
        if counted { Ok(counters) } else { Err(counters) }
    });
    let mut dropped = BTreeMap::<&str, u64>::new();
    for (fate, _) in &mix {
        if let Fate::Dropped(reason) = fate {
            *dropped.entry(reason).or_default() += TIMES as u64;
        }
    }
    for (reason, times) in &dropped {
        assert_eq!(after.dropped(reason) - before.dropped(reason), *times, "{reason} with {datapath}");
    }
    let all_drops = |counters: &Counters| counters.drops.values().sum::<u64>();
    assert_eq!(
        all_drops(&after) - all_drops(before),
        dropped.values().sum::<u64>(),
        "{:?} with {datapath}",
        after.drops
    );

    // The container's own stack may have sent further frames, but none to the host only.
    let sent_with = |fate: Fate| (mix.iter().filter(|(other, _)| *other == fate).count() * TIMES) as u64;
    assert_eq!(after.to_host - before.to_host, sent_with(Fate::ToHost), "to_host with {datapath}");
    assert!(after.forwarded - before.forwarded >= sent_with(Fate::ToB), "forwarded with {datapath}");
    assert!(after.flooded - before.flooded >= sent_with(Fate::Everywhere), "flooded with {datapath}");
    let out = |ports: &BTreeMap<String, Counters>, port: &str| ports[port].tx_frames;
    let ports_after = host.ports(&["lan"]);
    for (port, fates) in [(&at_b.name, &[Fate::ToB, Fate::Everywhere][..]), (&at_c.name, &[Fate::Everywhere])] {
        let expected: u64 = fates.iter().map(|fate| sent_with(*fate)).sum();
        assert!(out(&ports_after, port) - out(&ports_before, port) >= expected, "tx_frames of {port} with {datapath}");
    }

    let mark = Frame::new(Mac::BROADCAST, at_a.mac, "mark");
    sender.send(&mark);
    for (name, receiver) in &receivers {
        let mut arrived = BTreeMap::<Frame, usize>::new();
        for frame in receiver.expect(&mark) {
            *arrived.entry(frame).or_default() += 1;
        }
        for (fate, frame) in &mix {
            let expected = match fate {
                Fate::ToB if *name == "b" => TIMES,
                Fate::Everywhere => TIMES,
                _ => 0,
            };
            let count = arrived.get(frame).copied().unwrap_or_default();
            assert_eq!(count, expected, "{fate:?} at {name} with {datapath}: {frame:02x?}");
        }
    }

    let returned = sender.pending();
    assert!(!mix.iter().any(|(_, frame)| returned.contains(frame)), "a frame came back with {datapath}");

    // The same sum holds for every port, including the uplink and the host port.
    RawPort::open(&wire, "eth0").send(&Frame::new(Mac::BROADCAST, wire.mac("eth0"), "from the wire"));
    RawPort::open(&wire, "eth0").send(&Frame::new(
        Mac([0x01, 0x80, 0xc2, 0, 0, 2]),
        wire.mac("eth0"),
        "for the host only",
    ));
    receivers[0].1.expect(&Frame::new(Mac::BROADCAST, wire.mac("eth0"), "from the wire"));
    settles("the counters of every port are balanced", || {
        let ports = host.ports(&["lan"]);
        assert_eq!(ports.len(), 5, "three containers, the host port, the uplink: {ports:#?}");
        let holds = |(port, counters): (&String, &Counters)| {
            counters.rx_frames == counters.accounted() && counters.tx_failed == ports_before[port].tx_failed
        };
        if ports.iter().all(holds) { Ok(()) } else { Err(ports) }
    });
    let uplink =
        host.ports(&["lan"]).into_iter().find(|(port, _)| port.contains("phys0")).expect("the uplink's port").1;
    assert!(uplink.flooded >= 1 && uplink.passed >= 1, "{uplink:#?}");
}

#[test]
fn every_frame_is_accounted_for_with_tc() {
    every_frame_is_accounted_for("tc");
}

#[test]
fn every_frame_is_accounted_for_with_xdp() {
    every_frame_is_accounted_for("xdp");
}
