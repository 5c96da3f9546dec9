//! Each guard: the frame that must pass beside the one that must not.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, RawPort, Tag,
    packets::{
        ADVERTISEMENT, Payload, SOLICITATION, arp, behind, bpdu, checked, discovery, icmpv6, ipv4, ipv6, link_local,
        llc, protocol, snap, udp,
    },
    settles,
};

const PRIORITY: Tag = Tag { tpid: 0x8100, tci: 0xa000 };
const NOBODY: Mac = Mac([2, 0, 0, 0, 0x99, 1]);
const NOBODYS: Ipv4Addr = Ipv4Addr::new(10, 131, 0, 99);
const NOBODYS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x131, 0, 0, 0, 0, 0, 0x99);
/// The network's, and of no endpoint.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 131, 0, 1);

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    /// Dropped, for this reason.
    Is(&'static str),
}
use Fate::{Is, Passes};

/// Two endpoints, the first of which speaks.
struct Pair {
    host: Host,
    at_a: Attached,
    at_b: Attached,
    port_a: RawPort,
    port_b: RawPort,
    _containers: [Netns; 2],
}

impl Pair {
    /// `flags` for the network, and for the one who speaks.
    fn new(datapath: &str, network: &[&str], speaker: &[&str]) -> Self {
        let host = Host::up(&["--datapath", datapath]);
        // Answered by the switch or kept for those who listen, frames that pass would not be seen at b.
        let create = ["network", "create", "--subnet", "10.131.0.0/24", "--subnet", "fd00:131::/64"];
        let open = ["-o", "arp_suppress=off", "-o", "mcast_snooping=off"];
        host.ok(&[&create[..], &open, network, &["lan"]].concat());
        let containers = ["a", "b"].map(Netns::new);
        let at_a = host.attach(&containers[0], &[&["--network", "lan"], speaker].concat());
        let at_b = host.attach(&containers[1], &["--network", "lan"]);
        let [port_a, port_b] = containers.each_ref().map(|container| RawPort::open(container, "eth0"));
        Self { host, at_a, at_b, port_a, port_b, _containers: containers }
    }

    /// Sends frames from a, each of which must meet its fate: b gets what passes and nothing else of them, and each drop is
    /// counted by its name.
    #[track_caller]
    fn judge(&self, cases: &[(Fate, Frame)]) {
        let before = self.host.counters(&self.at_a.name);
        for (_, frame) in cases {
            self.port_a.send(frame);
        }
        let mut expected = BTreeMap::<&str, u64>::new();
        for (fate, _) in cases {
            if let Is(reason) = fate {
                *expected.entry(reason).or_default() += 1;
            }
        }
        let (passing, dropped): (Vec<_>, Vec<_>) = cases.iter().partition(|(fate, _)| *fate == Passes);
        let others = self.port_b.expect_all(passing.into_iter().map(|(_, frame)| frame));
        settles("drops are counted by name", || {
            let drops = self.host.counters(&self.at_a.name).drops;
            let more = |(reason, count): (&String, &u64)| {
                let more = count - before.dropped(reason);
                (more != 0).then(|| (reason.clone(), more))
            };
            let counted: BTreeMap<String, u64> = drops.iter().filter_map(more).collect();
            let same = counted.iter().map(|(reason, count)| (reason.as_str(), *count)).eq(expected.clone());
            if same { Ok(()) } else { Err((counted, expected.clone())) }
        });
        let mark = Frame::new(self.at_b.mac, self.at_a.mac, "mark");
        self.port_a.send(&mark);
        let others = [others, self.port_b.expect(&mark)].concat();
        for (fate, frame) in dropped {
            assert!(!others.contains(frame), "{fate:?} arrived: {frame:02x?}");
        }
    }

    /// Frames from a to b with these payloads, untagged, and with the same fate behind a tag without a VLAN, and two tags.
    fn tagged(&self, cases: &[(Fate, Payload)]) -> Vec<(Fate, Frame)> {
        let stacks: [&[Tag]; 4] = [&[], &[PRIORITY], &[PRIORITY, Tag::customer(5)], &[PRIORITY, PRIORITY]];
        let behind_each = |(fate, payload): &(Fate, Payload)| {
            stacks.map(|tags| (*fate, behind(self.at_b.mac, self.at_a.mac, tags, payload)))
        };
        cases.iter().flat_map(behind_each).collect()
    }

    fn own6(&self) -> Ipv6Addr {
        self.at_a.ipv6.expect("an IPv6 address")
    }

    fn others6(&self) -> Ipv6Addr {
        self.at_b.ipv6.expect("an IPv6 address")
    }

    /// ICMPv6 from a's own address.
    fn icmpv6(&self, message: &[u8]) -> Payload {
        icmpv6(self.own6(), self.others6(), message)
    }
}

fn datagram4(source: Ipv4Addr) -> Payload {
    ipv4(source, NOBODYS, protocol::UDP, &udp(7, 7777, "a datagram"))
}

fn datagram6(source: Ipv6Addr) -> Payload {
    ipv6(source, NOBODYS6, protocol::UDP, &udp(7, 7777, "a datagram"))
}

/// Frames that speak for others: from whom they are said to be, and why they are dropped.
fn spoofed(pair: &Pair) -> Vec<(Fate, Payload)> {
    let Pair { at_a: a, at_b: b, .. } = pair;
    let (own, others) = (pair.own6(), pair.others6());
    let asked = (Mac::ZERO, NOBODYS);
    let says = |source, message: &[u8]| icmpv6(source, others, message);
    vec![
        (Is("ip_spoofed"), datagram4(b.ipv4)),
        (Is("ip_spoofed"), datagram4(NOBODYS)),
        (Is("ip_spoofed"), datagram4(GATEWAY)),
        (Is("ip_spoofed"), ipv4(b.ipv4, NOBODYS, protocol::TCP, &[0; 20])),
        (Is("ip_spoofed"), datagram6(others)),
        (Is("ip_spoofed"), datagram6(link_local(b.mac))),
        (Is("ip_spoofed"), datagram6(NOBODYS6)),
        (Is("ip_spoofed"), ipv6(others, NOBODYS6, protocol::TCP, &[0; 20])),
        (Is("arp_spoofed"), arp(1, (b.mac, a.ipv4), asked)),
        (Is("arp_spoofed"), arp(1, (a.mac, b.ipv4), asked)),
        (Is("arp_spoofed"), arp(2, (a.mac, NOBODYS), asked)),
        (Is("arp_spoofed"), arp(2, (a.mac, GATEWAY), asked)),
        (Is("neighbor_spoofed"), says(own, &discovery(ADVERTISEMENT, others, &[(2, a.mac)]))),
        (Is("neighbor_spoofed"), says(own, &discovery(ADVERTISEMENT, NOBODYS6, &[(2, a.mac)]))),
        (Is("neighbor_spoofed"), says(own, &discovery(ADVERTISEMENT, own, &[(2, b.mac)]))),
        (Is("neighbor_spoofed"), says(own, &discovery(ADVERTISEMENT, own, &[(2, a.mac), (2, b.mac)]))),
        (Is("neighbor_spoofed"), says(own, &discovery(ADVERTISEMENT, own, &[(2, a.mac); 3]))),
        (Is("neighbor_spoofed"), says(own, &discovery(SOLICITATION, others, &[(1, b.mac)]))),
        (Is("neighbor_spoofed"), says(Ipv6Addr::UNSPECIFIED, &discovery(SOLICITATION, others, &[]))),
        (Is("neighbor_spoofed"), {
            // Behind an extension header.
            let message = checked(own, others, &discovery(ADVERTISEMENT, others, &[(2, a.mac)]));
            let options = [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
            ipv6(own, others, protocol::DESTINATION_OPTIONS, &[&options, &message[..]].concat())
        }),
    ]
}

/// Frames that speak for the endpoint alone.
fn honest(pair: &Pair) -> Vec<(Fate, Payload)> {
    let Pair { at_a: a, .. } = pair;
    let (own, others, own_link_local) = (pair.own6(), pair.others6(), link_local(a.mac));
    let asked = (Mac::ZERO, NOBODYS);
    let says = |source, message: &[u8]| icmpv6(source, others, message);
    let payloads = vec![
        datagram4(a.ipv4),
        // One who has no address yet.
        ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, protocol::UDP, &udp(68, 67, "discover")),
        datagram6(own),
        datagram6(own_link_local),
        arp(1, (a.mac, a.ipv4), asked),
        arp(2, (a.mac, a.ipv4), asked),
        arp(1, (a.mac, Ipv4Addr::UNSPECIFIED), asked),
        says(own, &discovery(ADVERTISEMENT, own, &[(2, a.mac)])),
        says(own_link_local, &discovery(ADVERTISEMENT, own_link_local, &[(2, a.mac)])),
        says(own, &discovery(SOLICITATION, others, &[(1, a.mac)])),
        says(Ipv6Addr::UNSPECIFIED, &discovery(SOLICITATION, own, &[])),
    ];
    payloads.into_iter().map(|payload| (Passes, payload)).collect()
}

#[test]
fn an_endpoint_speaks_for_itself_alone() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        let (a, b) = (pair.at_a.mac, pair.at_b.mac);
        let cases = [honest(&pair), spoofed(&pair)].concat();
        pair.judge(&pair.tagged(&cases));
        // To everybody, and to a stranger, it is the same.
        for to in [Mac::BROADCAST, NOBODY] {
            let frames = cases.iter().map(|(fate, payload)| (*fate, behind(to, a, &[], payload)));
            pair.judge(&frames.collect::<Vec<_>>());
        }
        // The sender of the frame itself, whatever is in it.
        let frames = [NOBODY, b, Mac::ZERO].into_iter().flat_map(|source| {
            let reason = if source.is_zero() { "source_zero" } else { "source_spoofed" };
            [&[][..], &[PRIORITY], &[PRIORITY, Tag::customer(5)]]
                .map(|tags| (Is(reason), Frame::tagged(b, source, tags, "not a")))
        });
        let mut frames: Vec<_> = frames.collect();
        frames.push((Passes, Frame::new(b, a, "a itself")));
        pair.judge(&frames);
    }
}

#[test]
fn nothing_hides_behind_llc_and_snap() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        // Not even what would pass without: nobody sends that so.
        let hidden = [spoofed(&pair), honest(&pair)].concat();
        let mut cases: Vec<_> = hidden.iter().map(|(_, payload)| (Is("snap_encapsulated"), snap(payload))).collect();
        cases.push((Is("snap_encapsulated"), snap(&[&[0x81, 0, 0, 0][..], &hidden[0].1].concat())));
        // AppleTalk, IPX and IS-IS.
        cases.push((Passes, snap(&[&[0x80, 0x9b][..], &[7; 40]].concat())));
        cases.push((Passes, llc(&[&[0xe0, 0xe0, 3][..], &[7; 40]].concat())));
        cases.push((Passes, llc(&[&[0xfe, 0xfe, 3][..], &[7; 40]].concat())));
        pair.judge(&pair.tagged(&cases));
        // More tags than are looked behind.
        let deep = behind(pair.at_b.mac, pair.at_a.mac, &[PRIORITY; 3], &hidden[0].1);
        pair.judge(&[(Is("truncated"), deep)]);
    }
}

/// What routers, DHCP servers and bridges say, and others beside it.
fn roles(pair: &Pair) -> [(&'static str, Vec<Payload>, Vec<Payload>); 3] {
    let Pair { at_a: a, at_b: b, .. } = pair;
    let (own, others) = (pair.own6(), pair.others6());
    let of_igmp = |kind: u8| ipv4(a.ipv4, b.ipv4, protocol::IGMP, &[kind, 0, 0, 0, 239, 1, 2, 3]);
    let of_icmpv6 = |kind: u8| pair.icmpv6(&[&[kind, 0, 0, 0][..], &[0; 36]].concat());
    let from_port4 = |port: u16| ipv4(a.ipv4, b.ipv4, protocol::UDP, &udp(port, 68, "an offer"));
    let from_port6 = |port: u16| ipv6(own, others, protocol::UDP, &udp(port, 546, "an offer"));
    let router_alert = |kind: u8| {
        let message = checked(own, others, &[&[kind, 0, 0, 0][..], &[0; 24]].concat());
        let header = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
        ipv6(own, others, protocol::HOP_BY_HOP, &[&header, &message[..]].concat())
    };
    let in_a_fragment = {
        let message = checked(own, others, &[&[134, 0, 0, 0][..], &[0; 36]].concat());
        let header = [protocol::ICMPV6, 0, 0, 1, 0, 0, 0, 9];
        ipv6(own, others, protocol::FRAGMENT, &[&header, &message[..]].concat())
    };
    let per_vlan = llc(&[&[0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x0b][..], &[0; 35]].concat());
    [
        (
            "router_advertisement",
            vec![
                of_icmpv6(134),
                of_icmpv6(137),
                of_icmpv6(130),
                router_alert(130),
                router_alert(134),
                in_a_fragment,
                of_igmp(0x11),
            ],
            vec![of_icmpv6(133), of_icmpv6(128), of_icmpv6(131), router_alert(143), of_igmp(0x16), of_igmp(0x22)],
        ),
        ("dhcp_server", vec![from_port4(67), from_port6(547)], vec![from_port4(68), from_port6(546), from_port4(53)]),
        ("bpdu", vec![bpdu(), per_vlan], vec![llc(&[&[0xe0, 0xe0, 3][..], &[0; 35]].concat())]),
    ]
}

#[test]
fn endpoints_are_no_routers_dhcp_servers_or_bridges() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        for (reason, refused, others) in roles(&pair) {
            let refused = refused.into_iter().map(|payload| (Is(reason), payload));
            let cases: Vec<_> = refused.chain(others.into_iter().map(|payload| (Passes, payload))).collect();
            pair.judge(&pair.tagged(&cases));
        }
        // What hides behind more headers than are followed is what it may be.
        let hop = [protocol::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0];
        let last = [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        let of_headers = |count: usize| {
            let chain = [hop.repeat(count - 1), last.to_vec(), [&[128, 0, 0, 0][..], &[0; 36]].concat()].concat();
            ipv6(pair.own6(), pair.others6(), protocol::DESTINATION_OPTIONS, &chain)
        };
        pair.judge(&pair.tagged(&[(Passes, of_headers(2)), (Is("header_chain"), of_headers(3))]));
    }
}

#[test]
fn bpdus_stop_at_their_group_and_at_any_other() {
    let groups: [Mac; 3] =
        ["01:80:c2:00:00:00", "01:80:c2:00:00:10", "01:00:0c:cc:cc:cd"].map(|mac| mac.parse().unwrap());
    let to = |pair: &Pair, group: Mac, tags: &[Tag]| behind(group, pair.at_a.mac, tags, &bpdu());
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        let each = groups.into_iter().flat_map(|group| [&[][..], &[PRIORITY]].map(|tags| to(&pair, group, tags)));
        pair.judge(&each.map(|frame| (Is("bpdu"), frame)).collect::<Vec<_>>());
        // Without the guard, the group is a link's own as on any bridge, and the others are groups like all.
        let pair = Pair::new(datapath, &[], &["-o", "bpdu_guard=off"]);
        pair.judge(&[(Is("link_local"), to(&pair, groups[0], &[])), (Passes, to(&pair, groups[1], &[]))]);
        // A network that forwards them.
        let pair = Pair::new(datapath, &["-o", "group_fwd_mask=1"], &[]);
        pair.judge(&groups.map(|group| (Passes, to(&pair, group, &[]))));
        // Even there, an endpoint may be kept from it.
        let pair = Pair::new(datapath, &["-o", "group_fwd_mask=1"], &["-o", "bpdu_guard=on"]);
        pair.judge(&groups.map(|group| (Is("bpdu"), to(&pair, group, &[]))));
    }
}

#[test]
fn guards_can_be_switched_off_for_a_network_or_an_endpoint() {
    let own: [(&[&str], &[&str]); 2] = [(&["-o", "spoof_guard=off"], &[]), (&[], &["-o", "spoof_guard=off"])];
    for (network, endpoint) in own {
        let pair = Pair::new("auto", network, endpoint);
        let cases = [honest(&pair), spoofed(&pair)].concat();
        pair.judge(&pair.tagged(&cases.into_iter().map(|(_, payload)| (Passes, payload)).collect::<Vec<_>>()));
        let (a, b) = (pair.at_a.mac, pair.at_b.mac);
        pair.judge(&[
            (Passes, Frame::new(b, NOBODY, "from somebody behind a")),
            // Whose place is known stays there.
            (Is("source_spoofed"), Frame::new(Mac::BROADCAST, b, "as b")),
            (Passes, Frame::new(b, a, "a itself")),
        ]);
        // The other guards are as they were.
        for (reason, refused, _) in roles(&pair) {
            pair.judge(&pair.tagged(&refused.into_iter().map(|payload| (Is(reason), payload)).collect::<Vec<_>>()));
        }
    }
    for (option, index) in [("ra_guard=off", 0), ("dhcp_guard=off", 1), ("bpdu_guard=off", 2)] {
        for (network, endpoint) in [(&["-o", option][..], &[][..]), (&[], &["-o", option])] {
            let pair = Pair::new("auto", network, endpoint);
            for (other, (reason, said, _)) in roles(&pair).into_iter().enumerate() {
                let fate = if other == index { Passes } else { Is(reason) };
                pair.judge(&pair.tagged(&said.into_iter().map(|payload| (fate, payload)).collect::<Vec<_>>()));
            }
            pair.judge(&pair.tagged(&spoofed(&pair)));
        }
    }
    // What the endpoint was asked to be goes before what its network is.
    let pair = Pair::new("auto", &["-o", "spoof_guard=off"], &["-o", "spoof_guard=on"]);
    pair.judge(&pair.tagged(&spoofed(&pair)));
}

#[test]
fn who_is_behind_an_endpoint_is_learned_within_its_limit() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &["-o", "learning=on", "-o", "fdb_limit=2"]);
        let Pair { host, at_a, at_b, port_b, .. } = &pair;
        let nested = [1, 2, 3].map(|last| Mac([2, 0, 0, 0, 0x77, last]));
        // Its own packets and nobody else's: the addresses of endpoints stay theirs.
        let of = |source: Mac, payload: Payload| behind(at_b.mac, source, &[], &payload);
        let [first, second, third] = nested;
        for mac in [first, second] {
            pair.judge(&[
                (Passes, of(mac, datagram4(NOBODYS))),
                (Passes, of(mac, datagram6(link_local(mac)))),
                (Passes, of(mac, arp(1, (mac, NOBODYS), (Mac::ZERO, at_b.ipv4)))),
                (Is("ip_spoofed"), of(mac, datagram4(at_b.ipv4))),
                (Is("ip_spoofed"), of(mac, datagram6(pair.others6()))),
                (Is("arp_spoofed"), of(mac, arp(1, (mac, at_b.ipv4), (Mac::ZERO, NOBODYS)))),
                (Is("arp_spoofed"), of(mac, arp(1, (at_a.mac, NOBODYS), (Mac::ZERO, at_b.ipv4)))),
            ]);
        }
        pair.judge(&[(Is("source_spoofed"), of(at_b.mac, datagram4(NOBODYS)))]);
        let learned = || {
            let rows = host.fdb(&["--dynamic", "--port", &at_a.name]).into_iter();
            rows.map(|station| station.mac).collect::<Vec<_>>()
        };
        let failed = || host.counters(&at_a.name).learn_failed;
        assert_eq!((learned(), failed()), (vec![first, second], 0), "{datapath}");
        // Beyond the limit it speaks, as with a bridge of Linux (fdb_max_learned), but nothing is kept of it.
        pair.judge(&[(Passes, of(third, datagram4(NOBODYS)))]);
        assert_eq!((learned(), failed()), (vec![first, second], 1), "{datapath}");
        let answer = Frame::new(first, at_b.mac, "an answer");
        port_b.send(&answer);
        pair.port_a.expect(&answer);
        // There is room again where one is forgotten.
        host.ok(&["fdb", "del", &first.to_string(), "lan"]);
        pair.judge(&[(Passes, of(third, datagram4(NOBODYS)))]);
        assert_eq!((learned(), failed()), (vec![second, third], 1), "{datapath}");
    }
}
