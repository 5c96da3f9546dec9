//! FDB entries, and frames that are dropped because of their addresses.

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::harness::{Attached, Frame, Host, Mac, Netns, RawPort, Station, eventually, ping};

/// Options that let an endpoint send from other addresses and send BPDUs.
const UNGUARDED: [&str; 4] = ["-o", "spoof_guard=off", "-o", "bpdu_guard=off"];

/// Two containers and their devices.
struct Pair {
    port_a: RawPort,
    port_b: RawPort,
    at_a: Attached,
    at_b: Attached,
    a: Netns,
    _b: Netns,
    host: Host,
}

fn pair(datapath: &str) -> Pair {
    let host = Host::up(&["--datapath", datapath]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let (at_a, at_b) = (host.attach(&a, &UNGUARDED), host.attach(&b, &UNGUARDED));
    let (port_a, port_b) = (RawPort::open(&a, "eth0"), RawPort::open(&b, "eth0"));
    Pair { port_a, port_b, at_a, at_b, a, _b: b, host }
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

fn station(host: &Host, mac: Mac) -> Option<Station> {
    host.fdb(&[]).into_iter().find(|station| station.mac == mac)
}

#[test]
fn endpoints_have_static_entries_while_attached() {
    let Pair { host, at_a, at_b, .. } = &pair("auto");
    for endpoint in [at_a, at_b] {
        let station = station(host, endpoint.mac).expect("a static entry");
        assert_eq!(
            (station.port.as_str(), station.network.as_str(), station.kind.as_str()),
            (endpoint.name.as_str(), "bridge", "static")
        );
        assert_eq!(station.moves, 0);
    }
    host.ok(&["detach", &at_a.name]);
    assert_eq!(station(host, at_a.mac), None);
    assert!(station(host, at_b.mac).is_some());
    assert!(host.ok(&["fdb", "show"]).contains(&at_b.mac.to_string()));
}

#[test]
fn a_station_behind_a_container_is_learned() {
    for datapath in ["tc", "xdp"] {
        let Pair { host, port_a, port_b, at_a, at_b, .. } = &pair(datapath);
        let nested = mac("02:00:00:00:77:01");
        let unknown = Frame::new(nested, at_b.mac, "before it is known");
        port_b.send(&unknown);
        port_a.expect(&unknown);
        let hello = Frame::new(at_b.mac, nested, "hello from behind a");
        port_a.send(&hello);
        port_b.expect(&hello);
        let learned = station(host, nested).expect("a learned entry");
        assert_eq!(
            (learned.port.as_str(), learned.kind.as_str(), learned.moves),
            (at_a.name.as_str(), "dynamic", 0),
            "{datapath}"
        );
        assert!(learned.age.is_some_and(|age| age < 100), "{learned:?}");
        let behind = |port: &str| -> Vec<Mac> {
            host.fdb(&["--dynamic", "--port", port]).into_iter().map(|station| station.mac).collect()
        };
        assert_eq!(behind(&at_a.name), [nested]);
        assert_eq!(behind(&at_b.name), []);

        // The station is known now: only a receives the frame, and a third container does not.
        let c = Netns::new("c");
        let at_c = host.attach(&c, &[]);
        let port_c = RawPort::open(&c, "eth0");
        let answer = Frame::new(nested, at_b.mac, "after it is known");
        port_b.send(&answer);
        port_a.expect(&answer);
        let mark = Frame::new(at_c.mac, at_b.mac, "mark");
        port_b.send(&mark);
        assert!(!port_c.expect(&mark).contains(&answer), "{datapath}");
    }
}

#[test]
fn a_station_that_moves_is_learned_at_its_new_port() {
    let Pair { host, port_a, port_b, at_a, at_b, .. } = &pair("auto");
    let nomad = mac("02:00:00:00:77:02");
    for (index, (sender, receiver, at)) in
        [(port_a, port_b, at_a), (port_b, port_a, at_b), (port_a, port_b, at_a)].into_iter().enumerate()
    {
        let here = Frame::new(Mac::BROADCAST, nomad, &format!("here I am, {index}"));
        sender.send(&here);
        receiver.expect(&here);
        let station = station(host, nomad).expect("a learned entry");
        assert_eq!((station.port.as_str(), station.moves), (at.name.as_str(), index as u64));
    }
}

#[test]
fn link_local_control_frames_stay_on_their_link() {
    for datapath in ["tc", "xdp"] {
        let Pair { host, port_a, port_b, at_a, at_b, .. } = &pair(datapath);
        let before = host.counters(&at_a.name);
        let control: Vec<Frame> =
            (0..16).map(|last| Frame::new(Mac([0x01, 0x80, 0xc2, 0, 0, last]), at_a.mac, "control")).collect();
        for frame in &control {
            port_a.send(frame);
        }
        let drops = |reason: &str| host.counters(&at_a.name).dropped(reason) - before.dropped(reason);
        eventually("sixteen drops are counted", || (drops("link_local") == 16).then_some(()));
        // The address after the reserved range is an ordinary group.
        let group = Frame::new(mac("01:80:c2:00:00:10"), at_a.mac, "an ordinary frame");
        port_a.send(&group);
        let others = port_b.expect(&group);
        assert!(!others.iter().any(|frame| control.contains(frame)), "{datapath}: {others:02x?}");
        let mark = Frame::new(at_b.mac, at_a.mac, "mark");
        port_a.send(&mark);
        let others = port_b.expect(&mark);
        assert!(!others.iter().any(|frame| control.contains(frame)), "{datapath}: {others:02x?}");
        assert_eq!(drops("link_local"), 16);
    }
}

#[test]
fn frames_with_invalid_or_spoofed_addresses_are_dropped_by_reason() {
    for datapath in ["tc", "xdp"] {
        let Pair { host, port_a, port_b, at_a, at_b, .. } = &pair(datapath);
        let gateway = host
            .fdb(&["--static"])
            .into_iter()
            .find(|station| ![at_a.mac, at_b.mac].contains(&station.mac))
            .expect("the host's entry")
            .mac;
        let cases = [
            ("source_multicast", 3, Frame::new(at_b.mac, mac("03:00:00:00:00:01"), "from a group")),
            ("source_multicast", 2, Frame::new(Mac::BROADCAST, Mac::BROADCAST, "from broadcast")),
            ("source_zero", 4, Frame::new(at_b.mac, Mac::ZERO, "from zero")),
            ("destination_zero", 2, Frame::new(Mac::ZERO, at_a.mac, "to zero")),
            ("source_spoofed", 5, Frame::new(Mac::BROADCAST, at_b.mac, "a uses the address of b")),
            ("source_spoofed", 1, Frame::new(at_b.mac, gateway, "a uses the host's address")),
            ("same_port", 3, Frame::new(at_a.mac, at_a.mac, "to itself")),
        ];
        let before = host.counters(&at_a.name);
        let mut expected = std::collections::BTreeMap::<&str, u64>::new();
        for (reason, times, frame) in &cases {
            for _ in 0..*times {
                port_a.send(frame);
            }
            *expected.entry(reason).or_default() += times;
        }
        for (reason, times) in &expected {
            eventually(&format!("{times} times {reason} with {datapath}"), || {
                let counted = host.counters(&at_a.name).dropped(reason) - before.dropped(reason);
                assert!(counted <= *times, "{reason}: {counted} with {datapath}");
                (counted == *times).then_some(())
            });
        }
        let mark = Frame::new(at_b.mac, at_a.mac, "mark");
        port_a.send(&mark);
        let others = port_b.expect(&mark);
        assert!(
            !others.iter().any(|other| cases.iter().any(|(_, _, frame)| other == frame)),
            "{datapath}: {others:02x?}"
        );
        // None of these addresses was learned.
        assert_eq!(station(host, at_b.mac).map(|station| station.port).as_ref(), Some(&at_b.name));
        assert!(host.fdb(&[]).iter().all(|station| !station.mac.is_multicast() && !station.mac.is_zero()));
    }
}

#[test]
fn a_bridge_in_a_container_works_behind_its_port() {
    let Pair { host, a, at_b, .. } = &pair("auto");
    // A Linux bridge is a module on some kernels, so two packet sockets copy the frames of the
    // nested namespace.
    let nested = Netns::new("nested");
    a.wire("in0", &nested, "eth0");
    nested.ip("address add 10.201.0.240/24 dev eth0");
    let (inner, outer) = (RawPort::open(a, "in0"), RawPort::open(a, "eth0"));
    let inner_mac = nested.mac("eth0");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let bridge = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                inner.pending().iter().for_each(|frame| outer.send(frame));
                outer.pending().iter().for_each(|frame| inner.send(frame));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let pinged = std::panic::catch_unwind(AssertUnwindSafe(|| ping(&nested, at_b.ipv4)));
        done.store(true, Ordering::Relaxed);
        bridge.join().unwrap();
        pinged.unwrap();
    });
    assert_eq!(station(host, inner_mac).map(|station| station.kind).as_deref(), Some("dynamic"));
}

#[test]
fn a_silent_station_is_aged_out() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.95.0.0/24", "-o", "ageing=2", "-o", "spoof_guard=off", "short"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &["--network", "short"]);
    host.attach(&b, &["--network", "short"]);
    let (port_a, port_b) = (RawPort::open(&a, "eth0"), RawPort::open(&b, "eth0"));
    let nested = mac("02:00:00:00:77:03");
    let hello = Frame::new(Mac::BROADCAST, nested, "hello");
    port_a.send(&hello);
    port_b.expect(&hello);
    assert!(station(&host, nested).is_some());
    eventually("the station is aged out", || station(&host, nested).is_none().then_some(()));
    assert_eq!(host.fdb(&["--static", "--network", "short"]).len(), 3, "endpoints and the host stay");
}

#[test]
fn entries_can_be_added_deleted_and_flushed() {
    let Pair { host, port_a, port_b, at_a, at_b, .. } = &pair("auto");
    let [fixed, learned] = ["02:00:00:00:44:01", "02:00:00:00:44:02"].map(mac);
    host.ok(&["fdb", "add", &fixed.to_string(), "bridge", &at_a.name]);
    host.ok(&["fdb", "add", &fixed.to_string(), "bridge", &at_b.name, "--vlan", "30"]);
    let hello = Frame::new(Mac::BROADCAST, learned, "hello");
    port_b.send(&hello);
    port_a.expect(&hello);
    // Frames from the address of a static entry are dropped at any other port.
    port_b.send(&Frame::new(Mac::BROADCAST, fixed, "spoofed"));
    eventually("the spoofed frame is dropped", || {
        (host.counters(&at_b.name).dropped("source_spoofed") == 1).then_some(())
    });
    let rows = |host: &Host, mac: Mac| -> Vec<(String, u16, String)> {
        let stations = host.fdb(&[]).into_iter().filter(|station| station.mac == mac);
        stations.map(|station| (station.port, station.vlan, station.kind)).collect()
    };
    let expected = [(at_a.name.clone(), 0, "static".to_owned()), (at_b.name.clone(), 30, "static".to_owned())];
    assert_eq!(rows(host, fixed), expected);
    host.ok(&["fdb", "flush"]);
    assert_eq!(rows(host, learned), []);
    assert_eq!(rows(host, fixed), expected);
    host.ok(&["fdb", "del", &fixed.to_string(), "bridge", "--vlan", "30"]);
    assert_eq!(rows(host, fixed), expected[..1]);
    // The entry of an endpoint cannot be removed.
    let line = host.fails(1, &["fdb", "del", &at_a.mac.to_string(), "bridge"]);
    assert!(line.contains(&at_a.mac.to_string()), "{line}");
    ping(&host.netns, at_a.ipv4);
}
