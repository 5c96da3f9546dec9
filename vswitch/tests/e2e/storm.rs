//! Storm control: how much a port may flood in a second, each kind for itself and apart from known unicast.

use nix::time::{ClockId, clock_gettime};

use crate::harness::{Attached, Frame, Host, Mac, Netns, RawPort, saying, settles};

/// Frames of each kind that are sent.
const FRAMES: usize = 600;
const STRANGER: Mac = Mac([2, 0, 0, 0, 0x99, 1]);
const GROUP: Mac = Mac([0x01, 0x00, 0x5e, 1, 2, 3]);
const KINDS: [&str; 4] = ["to everybody", "to a group", "to a stranger", "to b"];

struct Pair {
    host: Host,
    at_a: Attached,
    at_b: Attached,
    port_a: RawPort,
    port_b: RawPort,
    _containers: [Netns; 2],
}

fn pair(network: &[&str], speaker: &[&str]) -> Pair {
    let host = Host::up(&[]);
    let create = ["network", "create", "--subnet", "10.134.0.0/24", "-o", "mcast_snooping=off"];
    host.ok(&[&create, network, &["lan"]].concat());
    let containers = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&containers[0], &[&["--network", "lan"], speaker].concat());
    let at_b = host.attach(&containers[1], &["--network", "lan"]);
    // What they say by themselves would be counted, too.
    containers.iter().for_each(|container| container.silence("eth0"));
    let [port_a, port_b] = containers.each_ref().map(|container| RawPort::open(container, "eth0"));
    Pair { host, at_a, at_b, port_a, port_b, _containers: containers }
}

/// The clock that the windows of a limit go by, in the units that they have: 2^30 ns.
fn tick() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
    (now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()) >> 30
}

/// Sends all kinds in turns; how many of each have arrived, how many were dropped, and how many windows there were.
fn storm(Pair { host, at_a, at_b, port_a, port_b, .. }: &Pair) -> ([u64; 4], u64, u64) {
    let destinations = [Mac::BROADCAST, GROUP, STRANGER, at_b.mac];
    let before = host.counters(&at_a.name);
    let began = tick();
    for _ in 0..FRAMES {
        for (destination, kind) in destinations.into_iter().zip(KINDS) {
            port_a.send(&Frame::new(destination, at_a.mac, kind));
        }
    }
    let sent = (destinations.len() * FRAMES) as u64;
    let after = settles("all have come in", || {
        let counters = host.counters(&at_a.name);
        if counters.rx_frames - before.rx_frames >= sent { Ok(counters) } else { Err(counters) }
    });
    let windows = tick() - began + 1;
    let mark = Frame::new(at_b.mac, at_a.mac, "mark");
    port_a.send(&mark);
    let arrived = port_b.expect(&mark);
    let counts = KINDS.map(|kind| saying(&arrived, kind) as u64);
    (counts, after.dropped("storm") - before.dropped("storm"), windows)
}

#[test]
fn each_kind_of_flood_has_a_limit_of_its_own() {
    const LIMIT: u64 = 100;
    let limit = format!("storm_pps={LIMIT}");
    for (network, speaker) in [(&["-o", limit.as_str()][..], &[][..]), (&[], &["-o", limit.as_str()])] {
        let pair = pair(network, speaker);
        let (arrived, dropped, windows) = storm(&pair);
        // A window is 1.07 s, so that there is room for a twelfth more in it.
        let most = windows * (LIMIT + LIMIT / 12);
        let [floods @ .., known] = arrived;
        assert_eq!(known, FRAMES as u64, "known unicast is no flood");
        for (kind, count) in KINDS.iter().zip(floods) {
            assert!((LIMIT..=most.max(LIMIT)).contains(&count), "{count} frames of {kind} in {windows} windows");
        }
        // Each for itself: all three had at least what is allowed, which together is more than the limit.
        assert_eq!(dropped, 3 * FRAMES as u64 - floods.iter().sum::<u64>());
        assert!(dropped > 0, "{arrived:?} in {windows} windows");
        // The others are as they were: each port has its own.
        let back = Frame::new(Mac::BROADCAST, pair.at_b.mac, "from the other");
        pair.port_b.send(&back);
        pair.port_a.expect(&back);
    }
}

#[test]
fn after_a_storm_a_port_may_flood_again() {
    let pair = pair(&["-o", "storm_pps=20"], &[]);
    storm(&pair);
    // Not at once, but in the next window.
    let mut number = 0;
    settles("a broadcast passes", || {
        number += 1;
        let frame = Frame::new(Mac::BROADCAST, pair.at_a.mac, &format!("number {number}"));
        let mark = Frame::new(pair.at_b.mac, pair.at_a.mac, &format!("mark {number}"));
        pair.port_a.send(&frame);
        pair.port_a.send(&mark);
        let arrived = pair.port_b.expect(&mark);
        if arrived.contains(&frame) { Ok(()) } else { Err(arrived) }
    });
}

#[test]
fn zero_is_no_limit() {
    for (network, speaker) in [(&["-o", "storm_pps=0"][..], &[][..]), (&["-o", "storm_pps=5"], &["-o", "storm_pps=0"])]
    {
        let (arrived, dropped, _) = storm(&pair(network, speaker));
        assert_eq!((arrived, dropped), ([FRAMES as u64; 4], 0));
    }
}
