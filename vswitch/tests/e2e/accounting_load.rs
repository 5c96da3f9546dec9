//! Every frame is counted exactly once under load from two CPUs, valid or malformed.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::harness::{
    Counters, Frame, Host, Mac, Netns, RawPort, Tag, eventually,
    packets::{
        Payload, SOLICITATION, arp, behind, bpdu, discovery, icmpv6, ipv4, ipv6, link_local, llc, protocol, snap, udp,
    },
    settles,
};

/// Number of frames per sender.
const FRAMES: usize = 6000;
/// Number of frames in flight. With all their copies, they are fewer than the kernel's queue
/// between two veths holds (netdev_max_backlog).
const WINDOW: usize = 150;

/// Reproducible pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }

    fn choose<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// The addresses used in the frames of one sender.
#[derive(Clone, Copy)]
struct Stations {
    own: (Mac, Ipv4Addr),
    other: (Mac, Ipv4Addr),
    host: Mac,
}

/// Valid payloads of every protocol that the datapath parses.
fn payloads(Stations { own, other, .. }: Stations) -> Vec<Payload> {
    let (own6, other6) = (link_local(own.0), link_local(other.0));
    vec![
        ipv4(own.1, other.1, protocol::UDP, &udp(7, 7777, "a datagram")),
        ipv4(own.1, other.1, protocol::UDP, &udp(67, 68, "an offer")),
        ipv4(own.1, other.1, protocol::IGMP, &[0x16, 0, 0, 0, 239, 1, 2, 3]),
        ipv4(own.1, Ipv4Addr::new(239, 1, 2, 3), protocol::UDP, &udp(7, 7777, "to a group")),
        ipv4(other.1, own.1, protocol::TCP, &[0; 20]),
        ipv6(own6, other6, protocol::UDP, &udp(7, 7777, "a datagram")),
        ipv6(own6, other6, protocol::HOP_BY_HOP, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]),
        icmpv6(own6, other6, &discovery(SOLICITATION, other6, &[(1, own.0)])),
        icmpv6(other6, own6, &discovery(136, other6, &[(2, own.0)])),
        icmpv6(own6, other6, &[134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        arp(1, own, (Mac::ZERO, other.1)),
        arp(2, other, own),
        bpdu(),
        snap(&arp(1, own, (Mac::ZERO, other.1))),
        llc(&[0xe0, 0xe0, 3, 0, 0, 0]),
    ]
}

/// Returns a random frame: a valid one, one with a wrong part, or random bytes.
fn random_frame(random: &mut Random, stations: Stations, payloads: &[Payload]) -> Frame {
    let (own, other) = (stations.own.0, stations.other.0);
    let group = Mac([0x33, 0x33, 0, 0, 0, 1]);
    let control = Mac([0x01, 0x80, 0xc2, 0, 0, 0]);
    let to = random.choose(&[other, other, other, stations.host, Mac::BROADCAST, group, control, own, Mac::ZERO]);
    let from = random.choose(&[own, own, own, own, own, own, other, Mac([2, 0, 0, 0, 0x77, 7]), group, Mac::ZERO]);
    let mut payload = random.choose(payloads);
    let Frame(mut bytes) = match random.below(8) {
        0 => {
            let length = 14 + random.below(200);
            Frame(random.bytes(length))
        }
        1 => {
            let length = 2 + random.below(100);
            Frame::raw(to, from, &random.bytes(length))
        }
        2 => {
            payload.truncate(2 + random.below(payload.len() - 1));
            behind(to, own, &[], &payload)
        }
        3 => {
            let count = random.below(4);
            let tags: Vec<Tag> = (0..count)
                .map(|_| Tag {
                    tpid: random.choose(&[0x8100, 0x88a8]),
                    tci: random.choose(&[0, 0xe000, 10, 0xa00a, 20, 4095]),
                })
                .collect();
            payload.truncate(2 + random.below(payload.len() - 1));
            behind(to, own, &tags, &payload)
        }
        4 => {
            let at = random.below(payload.len());
            payload[at] = random.below(256) as u8;
            behind(to, from, &[], &payload)
        }
        // A request that ARP suppression answers.
        5 => behind(Mac::BROADCAST, own, &[], &arp(1, stations.own, (Mac::ZERO, stations.other.1))),
        6 => behind(to, from, &[], &payload),
        _ => behind(other, own, &[], &payload),
    };
    // The kernel itself drops a frame whose outer tag is cut short (skb_vlan_untag) before the
    // programs can count it.
    if [[0x81, 0], [0x88, 0xa8]].contains(&[bytes[12], bytes[13]]) {
        bytes.resize(bytes.len().max(20), 0);
    }
    Frame(bytes)
}

/// Reports whether the counters account for every received frame.
fn is_balanced(counters: &Counters) -> bool {
    counters.rx_frames == counters.accounted()
}

fn every_frame_is_counted_once(datapath: &str) {
    let host = Host::down();
    let wire = Netns::new("wire");
    host.netns.wire("phys0", &wire, "eth0");
    host.start(&["--datapath", datapath]);
    // The querier is off, because its frames would be counted.
    let options = ["-o", "uplink=phys0", "-o", "mcast_querier=false"];
    host.ok(&[&["network", "create", "--subnet", "10.133.0.0/24"], &options[..], &["lan"]].concat());
    let containers = ["a", "b", "c", "d"].map(Netns::new);
    // Two senders, one guarded trunk port and one without guards, and two receivers.
    let flags: [&[&str]; 4] = [
        &["--trunk", "10,20"],
        &["-o", "spoof_guard=off", "-o", "ra_guard=off", "-o", "storm_pps=0"],
        &["--trunk", "all"],
        &[],
    ];
    let at = std::array::from_fn::<_, 4, _>(|index| {
        host.attach(&containers[index], &[&["--network", "lan"], flags[index]].concat())
    });
    // Only the frames of this test are sent and received.
    containers.iter().for_each(|container| container.silence("eth0"));
    wire.silence("eth0");
    let ports = containers.each_ref().map(|container| RawPort::open(container, "eth0"));
    let host_device = host.ports(&["lan"]).into_keys().find(|port| port.ends_with("-lan")).expect("the host port");
    let stations = |own: usize| Stations {
        own: (at[own].mac, at[own].ipv4),
        other: (at[2].mac, at[2].ipv4),
        host: host.netns.mac(&host_device),
    };

    let before = eventually("no frame is in flight", || {
        ports.iter().for_each(|port| drop(port.pending()));
        let before = host.ports(&["lan"]);
        ports.iter().all(|port| port.pending().is_empty()).then_some(before)
    });
    let rx = |index: usize| host.counters(&at[index].name).rx_frames - before[&at[index].name].rx_frames;
    let done = AtomicBool::new(false);
    let received: [usize; 4] = std::thread::scope(|scope| {
        let done = &done;
        let readers = ports.each_ref().map(|port| {
            scope.spawn(move || {
                let mut count = 0;
                loop {
                    let ended = done.load(Ordering::Acquire);
                    let pending = port.pending().len();
                    count += pending;
                    if ended && pending == 0 {
                        return count;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            })
        });
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a set of CPUs");
        let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true)).collect();
        let senders: Vec<_> = [0, 1]
            .into_iter()
            .map(|sender| {
                let (port, stations, cpu, rx) = (&ports[sender], stations(sender), cpus[sender % cpus.len()], &rx);
                scope.spawn(move || {
                    let mut own = CpuSet::new();
                    own.set(cpu).expect("a CPU of the set");
                    sched_setaffinity(Pid::from_raw(0), &own).expect("a CPU of its own");
                    let (mut random, payloads) = (Random(0x5eed + sender as u64), payloads(stations));
                    for sent in (0..FRAMES).step_by(WINDOW) {
                        for _ in 0..WINDOW {
                            port.send(&random_frame(&mut random, stations, &payloads));
                        }
                        let sent = (sent + WINDOW) as u64;
                        settles("the frames are counted", || {
                            if rx(sender) >= sent { Ok(()) } else { Err((rx(sender), sent)) }
                        });
                    }
                })
            })
            .collect();
        let sent: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
        done.store(true, Ordering::Release);
        let received = readers.map(|reader| reader.join().expect("a reader"));
        sent.into_iter().for_each(|sent| sent.expect("a sender"));
        received
    });

    let after = settles("the counters of every port are balanced", || {
        let ports = host.ports(&["lan"]);
        if ports.values().all(is_balanced) { Ok(ports) } else { Err(ports) }
    });
    let name = |index: usize| &at[index].name;
    for index in 0..4 {
        let (before, after) = (&before[name(index)], &after[name(index)]);
        let sent = if index < 2 { FRAMES as u64 } else { 0 };
        assert_eq!(after.rx_frames - before.rx_frames, sent, "in by {index} with {datapath}: {after:#?}");
        assert_eq!(after.tx_failed, before.tx_failed, "{index} with {datapath}");
        // The frames that the port sent to a container have arrived there, no more and no fewer.
        assert_eq!(after.tx_frames - before.tx_frames, received[index] as u64, "out by {index} with {datapath}");
    }
    // Every outcome and every drop reason listed here has occurred.
    let guarded = &after[name(0)];
    let kinds = [guarded.forwarded, guarded.flooded, guarded.to_host];
    assert!(kinds.iter().all(|count| *count > 0), "{guarded:#?}");
    let met: BTreeMap<_, _> = guarded.drops.iter().filter(|(_, count)| **count > 0).collect();
    for reason in [
        "truncated",
        "source_multicast",
        "source_zero",
        "link_local",
        "source_spoofed",
        "same_port",
        "destination_zero",
        "ip_spoofed",
        "arp_spoofed",
        "neighbor_spoofed",
        "router_advertisement",
        "dhcp_server",
        "bpdu",
        "vlan_not_allowed",
        "snap_encapsulated",
    ] {
        assert!(met.contains_key(&reason.to_owned()), "no {reason} among {met:?}");
    }
}

#[test]
fn every_frame_is_counted_once_under_load_with_tc() {
    every_frame_is_counted_once("tc");
}

#[test]
fn every_frame_is_counted_once_under_load_with_xdp() {
    every_frame_is_counted_once("xdp");
}
