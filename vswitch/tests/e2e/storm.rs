//! Storm control limits the frames that a port may flood per second, separately for each kind of
//! flood. Known unicast is not limited.

use std::{num::NonZero, thread, time::Duration};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

use crate::harness::{Attached, Frame, Host, Mac, Netns, RawPort, count_containing, settles};

/// The number of frames that are sent of each kind.
const FRAMES: usize = 600;
const UNKNOWN: Mac = Mac([2, 0, 0, 0, 0x99, 1]);
const GROUP: Mac = Mac([0x01, 0x00, 0x5e, 1, 2, 3]);
const KINDS: [&str; 4] = ["to all", "to a group", "to an unknown station", "to b"];

struct Pair<'a> {
    host: &'a Host,
    at_a: Attached,
    at_b: Attached,
    port_a: RawPort,
    port_b: RawPort,
    containers: [Netns; 2],
}

/// Creates a network with these options, with an endpoint that speaks and one that hears.
fn add_pair<'a>(host: &'a Host, network: &str, options: &[&str], speaker: &[&str]) -> Pair<'a> {
    let create = ["network", "create", "-o", "mcast_snooping=off"];
    host.ok(&[&create, options, &[network]].concat());
    let containers = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&containers[0], &[&["--network", network], speaker].concat());
    // Frames to unknown stations go to ports that learn.
    let at_b = host.attach(&containers[1], &["--network", network, "-o", "learning=on"]);
    // Frames that the containers' kernels send on their own would be counted, too.
    containers.iter().for_each(|container| container.silence("eth0"));
    let [port_a, port_b] = containers.each_ref().map(|container| RawPort::open(container, "eth0"));
    Pair { host, at_a, at_b, port_a, port_b, containers }
}

/// Returns the time in units of 2^30 ns, on the clock that the limiter uses for its windows.
fn current_window() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
    (now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()) >> 30
}

/// Sends frames of all kinds in turn. Returns how many of each kind arrived, how many were dropped,
/// and how many windows this took.
fn send_storm(Pair { host, at_a, at_b, port_a, port_b, .. }: &Pair<'_>) -> ([u64; 4], u64, u64) {
    let destinations = [Mac::BROADCAST, GROUP, UNKNOWN, at_b.mac];
    let before = host.counters(&at_a.name);
    let began = current_window();
    for _ in 0..FRAMES {
        for (destination, kind) in destinations.into_iter().zip(KINDS) {
            port_a.send(&Frame::new(destination, at_a.mac, kind));
        }
    }
    let sent = (destinations.len() * FRAMES) as u64;
    let after = settles("all frames are counted", || {
        let counters = host.counters(&at_a.name);
        if counters.rx_frames - before.rx_frames >= sent { Ok(counters) } else { Err(counters) }
    });
    let windows = current_window() - began + 1;
    let mark = Frame::new(at_b.mac, at_a.mac, "mark");
    port_a.send(&mark);
    let arrived = port_b.expect(&mark);
    let counts = KINDS.map(|kind| count_containing(&arrived, kind) as u64);
    (counts, after.dropped("storm") - before.dropped("storm"), windows)
}

#[test]
fn storms_are_limited_by_kind_and_by_port() {
    let host = &Host::up(&[]);
    const LIMIT: u64 = 100;
    let limit = format!("storm_pps={LIMIT}");
    let limit = ["-o", limit.as_str()];
    check_that_each_kind_is_limited_separately(&add_pair(host, "by-network", &limit, &[]), LIMIT);
    check_that_each_kind_is_limited_separately(&add_pair(host, "by-endpoint", &[], &limit), LIMIT);
    check_that_a_port_may_flood_again(&add_pair(host, "again", &["-o", "storm_pps=20"], &[]));
    // A limit of zero is no limit.
    for pair in [
        add_pair(host, "zero", &["-o", "storm_pps=0"], &[]),
        add_pair(host, "overridden", &["-o", "storm_pps=5"], &["-o", "storm_pps=0"]),
    ] {
        let (arrived, dropped, _) = send_storm(&pair);
        assert_eq!((arrived, dropped), ([FRAMES as u64; 4], 0));
    }
}

#[test]
fn the_copies_of_a_flood_count_but_not_those_for_the_host() {
    const LIMIT: u64 = 200;
    let host = &Host::up(&[]);
    let pair = add_pair(host, "copies", &["-o", &format!("storm_pps={LIMIT}")], &[]);
    let others: Vec<_> = (0..3)
        .map(|number| {
            let other = Netns::new(&format!("other{number}"));
            host.attach(&other, &["--network", "copies", "-o", "learning=on"]);
            other.silence("eth0");
            other
        })
        .collect();
    let inspected: serde_json::Value = host.json(&["network", "inspect", "copies"]);
    let device = inspected[0]["host_device"].as_str().expect("a device").to_owned();
    let to_host = RawPort::open(&host.netns, &device);
    let (arrived, dropped, windows) = send_storm(&pair);
    let [broadcast, group, unknown, known] = arrived;
    assert_eq!(known, FRAMES as u64);
    // Each of four receivers gets a copy, so that a quarter of the frames passes, and the frame that
    // begins below the limit in each window.
    let most = windows * (LIMIT + LIMIT / 12 + 4) / 4;
    for count in [broadcast, group, unknown] {
        assert!((LIMIT / 4..=most.max(LIMIT / 4)).contains(&count), "{arrived:?} in {windows} windows");
    }
    assert_eq!(dropped, 3 * FRAMES as u64 - broadcast - group - unknown, "what only the host gets counts as dropped");
    let mark = Frame::new(Mac::BROADCAST, pair.at_a.mac, "the last");
    pair.port_a.send(&mark);
    let frames = to_host.expect(&mark);
    for (kind, count) in KINDS.iter().zip([FRAMES, FRAMES, 0, 0]) {
        assert_eq!(count_containing(&frames, kind), count, "{kind}");
    }
    drop(others);
}

#[test]
fn the_limit_holds_for_senders_on_several_processors() {
    const LIMIT: u64 = 500;
    const WINDOWS: u64 = 4;
    let host = &Host::up(&[]);
    let pair = add_pair(host, "processors", &["-o", &format!("storm_pps={LIMIT}")], &[]);
    let frame = &Frame::new(Mac::BROADCAST, pair.at_a.mac, "to all");
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let began = current_window();
    thread::scope(|scope| {
        for processor in 0..processors {
            let port = RawPort::open(&pair.containers[0], "eth0");
            scope.spawn(move || {
                let mut set = CpuSet::new();
                set.set(processor).expect("a processor");
                sched_setaffinity(Pid::from_raw(0), &set).expect("this thread may choose its processor");
                // Twice the limit in each window, at the same time on all processors.
                for window in 1..=WINDOWS {
                    while current_window() < began + window {
                        thread::sleep(Duration::from_millis(1));
                    }
                    (0..2 * LIMIT).for_each(|_| port.send(frame));
                }
            });
        }
    });
    let windows = current_window() - began;
    let mark = Frame::new(pair.at_b.mac, pair.at_a.mac, "mark");
    pair.port_a.send(&mark);
    let arrived = count_containing(&pair.port_b.expect(&mark), "to all") as u64;
    // A window is 1.07 s. The limit may be missed by a tenth.
    let most = windows * (LIMIT + LIMIT / 12) * 11 / 10;
    assert!((WINDOWS * LIMIT * 9 / 10..=most).contains(&arrived), "{arrived} frames in {windows} windows");
}

fn check_that_each_kind_is_limited_separately(pair: &Pair<'_>, limit: u64) {
    let (arrived, dropped, windows) = send_storm(pair);
    // A window is 1.07 s, so it may pass a twelfth more than the limit per second.
    let most = windows * (limit + limit / 12);
    let [floods @ .., known] = arrived;
    assert_eq!(known, FRAMES as u64, "known unicast is not limited");
    for (kind, count) in KINDS.iter().zip(floods) {
        assert!((limit..=most.max(limit)).contains(&count), "{count} frames of {kind} in {windows} windows");
    }
    // The limits are separate: each of the three kinds passed at least the limit, which together
    // is more than one limit allows.
    assert_eq!(dropped, 3 * FRAMES as u64 - floods.iter().sum::<u64>());
    assert!(dropped > 0, "{arrived:?} in {windows} windows");
    // The limit of one port does not affect the others.
    let back = Frame::new(Mac::BROADCAST, pair.at_b.mac, "from the other port");
    pair.port_b.send(&back);
    pair.port_a.expect(&back);
}

/// A port may flood again after a storm: not at once, but in the next window.
fn check_that_a_port_may_flood_again(pair: &Pair<'_>) {
    send_storm(pair);
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
