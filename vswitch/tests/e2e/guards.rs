//! Each guard is tested with frames that must pass and frames that must be dropped.

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
const SERVICE_PRIORITY: Tag = Tag { tpid: 0x88a8, tci: 0 };
const UNKNOWN: Mac = Mac([2, 0, 0, 0, 0x99, 1]);
const UNUSED4: Ipv4Addr = Ipv4Addr::new(10, 131, 0, 99);
const UNUSED6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x131, 0, 0, 0, 0, 0, 0x99);
/// The gateway address of the network, which belongs to no endpoint.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 131, 0, 1);

/// The expected outcome of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    /// Dropped for this reason.
    Dropped(&'static str),
}
use Fate::{Dropped, Passes};

/// Two endpoints. The frames are sent by a.
struct Pair {
    host: Host,
    at_a: Attached,
    at_b: Attached,
    port_a: RawPort,
    port_b: RawPort,
    _containers: [Netns; 2],
}

impl Pair {
    /// Creates the network with the flags `network`, and attaches a with the flags `sender`.
    fn new(datapath: &str, network: &[&str], sender: &[&str]) -> Self {
        let host = Host::up(&["--datapath", datapath]);
        // Without these options, the switch would answer frames itself or deliver them to group
        // members only, and b would not receive every frame that passes.
        let create = ["network", "create", "--subnet", "10.131.0.0/24", "--subnet", "fd00:131::/64"];
        let open = ["-o", "arp_suppress=off", "-o", "mcast_snooping=off"];
        host.ok(&[&create[..], &open, network, &["lan"]].concat());
        let containers = ["a", "b"].map(Netns::new);
        let at_a = host.attach(&containers[0], &[&["--network", "lan"], sender].concat());
        // Frames to unknown stations go to ports that learn.
        let at_b = host.attach(&containers[1], &["--network", "lan", "-o", "learning=on"]);
        let [port_a, port_b] = containers.each_ref().map(|container| RawPort::open(container, "eth0"));
        Self { host, at_a, at_b, port_a, port_b, _containers: containers }
    }

    /// Sends frames from a and checks the outcome of each: b receives exactly the frames that must
    /// pass, and each drop is counted under its reason.
    #[track_caller]
    fn check(&self, cases: &[(Fate, Frame)]) {
        let before = self.host.counters(&self.at_a.name);
        for (_, frame) in cases {
            self.port_a.send(frame);
        }
        let mut expected = BTreeMap::<&str, u64>::new();
        for (fate, _) in cases {
            if let Dropped(reason) = fate {
                *expected.entry(reason).or_default() += 1;
            }
        }
        let (passing, dropped): (Vec<_>, Vec<_>) = cases.iter().partition(|(fate, _)| *fate == Passes);
        let others = self.port_b.expect_all(passing.into_iter().map(|(_, frame)| frame));
        settles("drops are counted by reason", || {
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

    /// Builds frames from a to b with these payloads: untagged, and behind one and two priority tags.
    /// The expected outcome is the same for all.
    fn tagged(&self, cases: &[(Fate, Payload)]) -> Vec<(Fate, Frame)> {
        let stacks: [&[Tag]; 4] = [&[], &[PRIORITY], &[SERVICE_PRIORITY, PRIORITY], &[PRIORITY, PRIORITY]];
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

    /// An ICMPv6 message from a's own address.
    fn icmpv6(&self, message: &[u8]) -> Payload {
        icmpv6(self.own6(), self.others6(), message)
    }
}

fn datagram4(source: Ipv4Addr) -> Payload {
    ipv4(source, UNUSED4, protocol::UDP, &udp(7, 7777, "a datagram"))
}

fn datagram6(source: Ipv6Addr) -> Payload {
    ipv6(source, UNUSED6, protocol::UDP, &udp(7, 7777, "a datagram"))
}

/// Payloads that claim addresses of others, with the expected drop reason.
fn spoofed(pair: &Pair) -> Vec<(Fate, Payload)> {
    let Pair { at_a: a, at_b: b, .. } = pair;
    let (own, others) = (pair.own6(), pair.others6());
    let target = (Mac::ZERO, UNUSED4);
    let message_from = |source, message: &[u8]| icmpv6(source, others, message);
    vec![
        (Dropped("ip_spoofed"), datagram4(b.ipv4)),
        (Dropped("ip_spoofed"), datagram4(UNUSED4)),
        (Dropped("ip_spoofed"), datagram4(GATEWAY)),
        (Dropped("ip_spoofed"), ipv4(b.ipv4, UNUSED4, protocol::TCP, &[0; 20])),
        (Dropped("ip_spoofed"), datagram6(others)),
        (Dropped("ip_spoofed"), datagram6(link_local(b.mac))),
        (Dropped("ip_spoofed"), datagram6(UNUSED6)),
        (Dropped("ip_spoofed"), ipv6(others, UNUSED6, protocol::TCP, &[0; 20])),
        (Dropped("arp_spoofed"), arp(1, (b.mac, a.ipv4), target)),
        (Dropped("arp_spoofed"), arp(1, (a.mac, b.ipv4), target)),
        (Dropped("arp_spoofed"), arp(2, (a.mac, UNUSED4), target)),
        (Dropped("arp_spoofed"), arp(2, (a.mac, GATEWAY), target)),
        (Dropped("neighbor_spoofed"), message_from(own, &discovery(ADVERTISEMENT, others, &[(2, a.mac)]))),
        (Dropped("neighbor_spoofed"), message_from(own, &discovery(ADVERTISEMENT, UNUSED6, &[(2, a.mac)]))),
        (Dropped("neighbor_spoofed"), message_from(own, &discovery(ADVERTISEMENT, own, &[(2, b.mac)]))),
        (Dropped("neighbor_spoofed"), message_from(own, &discovery(ADVERTISEMENT, own, &[(2, a.mac), (2, b.mac)]))),
        (Dropped("neighbor_spoofed"), message_from(own, &discovery(ADVERTISEMENT, own, &[(2, a.mac); 3]))),
        (Dropped("neighbor_spoofed"), message_from(own, &discovery(SOLICITATION, others, &[(1, b.mac)]))),
        (Dropped("neighbor_spoofed"), message_from(Ipv6Addr::UNSPECIFIED, &discovery(SOLICITATION, others, &[]))),
        (Dropped("neighbor_spoofed"), {
            // Behind an extension header.
            let message = checked(own, others, &discovery(ADVERTISEMENT, others, &[(2, a.mac)]));
            let options = [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
            ipv6(own, others, protocol::DESTINATION_OPTIONS, &[&options, &message[..]].concat())
        }),
    ]
}

/// Payloads that claim only the endpoint's own addresses.
fn honest(pair: &Pair) -> Vec<(Fate, Payload)> {
    let Pair { at_a: a, .. } = pair;
    let (own, others, own_link_local) = (pair.own6(), pair.others6(), link_local(a.mac));
    let target = (Mac::ZERO, UNUSED4);
    let message_from = |source, message: &[u8]| icmpv6(source, others, message);
    let payloads = vec![
        datagram4(a.ipv4),
        // From a client that has no address yet.
        ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, protocol::UDP, &udp(68, 67, "discover")),
        datagram6(own),
        datagram6(own_link_local),
        arp(1, (a.mac, a.ipv4), target),
        arp(2, (a.mac, a.ipv4), target),
        arp(1, (a.mac, Ipv4Addr::UNSPECIFIED), target),
        message_from(own, &discovery(ADVERTISEMENT, own, &[(2, a.mac)])),
        message_from(own_link_local, &discovery(ADVERTISEMENT, own_link_local, &[(2, a.mac)])),
        message_from(own, &discovery(SOLICITATION, others, &[(1, a.mac)])),
        message_from(Ipv6Addr::UNSPECIFIED, &discovery(SOLICITATION, own, &[])),
    ];
    payloads.into_iter().map(|payload| (Passes, payload)).collect()
}

#[test]
fn an_endpoint_can_use_only_its_own_addresses() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        let (a, b) = (pair.at_a.mac, pair.at_b.mac);
        let cases = [honest(&pair), spoofed(&pair)].concat();
        pair.check(&pair.tagged(&cases));
        // The outcome is the same for broadcasts and for an unknown destination.
        for to in [Mac::BROADCAST, UNKNOWN] {
            let frames = cases.iter().map(|(fate, payload)| (*fate, behind(to, a, &[], payload)));
            pair.check(&frames.collect::<Vec<_>>());
        }
        // The source address of the frame itself is checked regardless of its payload.
        let frames = [UNKNOWN, b, Mac::ZERO].into_iter().flat_map(|source| {
            let reason = if source.is_zero() { "source_zero" } else { "source_spoofed" };
            [&[][..], &[PRIORITY], &[PRIORITY, PRIORITY]]
                .map(|tags| (Dropped(reason), Frame::tagged(b, source, tags, "not from a")))
        });
        let mut frames: Vec<_> = frames.collect();
        frames.push((Passes, Frame::new(b, a, "from a")));
        pair.check(&frames);
    }
}

#[test]
fn payloads_encapsulated_in_snap_are_dropped() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        // Payloads that would pass otherwise are dropped as well, because no regular host sends
        // them in SNAP.
        let hidden = [spoofed(&pair), honest(&pair)].concat();
        let mut cases: Vec<_> =
            hidden.iter().map(|(_, payload)| (Dropped("snap_encapsulated"), snap(payload))).collect();
        cases.push((Dropped("snap_encapsulated"), snap(&[&[0x81, 0, 0, 0][..], &hidden[0].1].concat())));
        // AppleTalk, IPX and IS-IS.
        cases.push((Passes, snap(&[&[0x80, 0x9b][..], &[7; 40]].concat())));
        cases.push((Passes, llc(&[&[0xe0, 0xe0, 3][..], &[7; 40]].concat())));
        cases.push((Passes, llc(&[&[0xfe, 0xfe, 3][..], &[7; 40]].concat())));
        pair.check(&pair.tagged(&cases));
        // A frame with more tags than the parser follows.
        let deep = behind(pair.at_b.mac, pair.at_a.mac, &[PRIORITY; 3], &hidden[0].1);
        pair.check(&[(Dropped("truncated"), deep)]);
    }
}

/// By drop reason: payloads that only routers, DHCP servers or bridges may send, and similar
/// payloads that must pass.
fn role_messages(pair: &Pair) -> [(&'static str, Vec<Payload>, Vec<Payload>); 3] {
    let Pair { at_a: a, at_b: b, .. } = pair;
    let (own, others) = (pair.own6(), pair.others6());
    let of_igmp = |kind: u8| ipv4(a.ipv4, b.ipv4, protocol::IGMP, &[kind, 0, 0, 0, 239, 1, 2, 3]);
    let of_icmpv6 = |kind: u8| pair.icmpv6(&[&[kind, 0, 0, 0][..], &[0; 36]].concat());
    let over4 = |from: u16, to: u16| ipv4(a.ipv4, b.ipv4, protocol::UDP, &udp(from, to, "an offer"));
    let over6 = |from: u16, to: u16| ipv6(own, others, protocol::UDP, &udp(from, to, "an offer"));
    let first_fragment = |from: u16, to: u16| {
        let header = [protocol::UDP, 0, 0, 1, 0, 0, 0, 9];
        ipv6(own, others, protocol::FRAGMENT, &[&header, &udp(from, to, "a part of an offer")[..]].concat())
    };
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
        (
            "dhcp_server",
            // Clients accept an answer from any port, as udhcpc does.
            vec![
                over4(67, 68),
                over4(1067, 68),
                over4(67, 67),
                over6(547, 546),
                over6(1547, 546),
                over6(547, 547),
                first_fragment(1547, 546),
            ],
            vec![over4(68, 67), over6(546, 547), over4(53, 7777), over4(68, 7777), first_fragment(546, 547)],
        ),
        ("bpdu", vec![bpdu(), per_vlan], vec![llc(&[&[0xe0, 0xe0, 3][..], &[0; 35]].concat())]),
    ]
}

#[test]
fn messages_of_routers_dhcp_servers_and_bridges_are_dropped() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        for (reason, refused, others) in role_messages(&pair) {
            let refused = refused.into_iter().map(|payload| (Dropped(reason), payload));
            let cases: Vec<_> = refused.chain(others.into_iter().map(|payload| (Passes, payload))).collect();
            pair.check(&pair.tagged(&cases));
        }
        // A packet with more extension headers than the parser follows is dropped, because it may
        // hide such a message.
        let hop = [protocol::DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0];
        let last = [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        let with_headers = |count: usize| {
            let chain = [hop.repeat(count - 1), last.to_vec(), [&[128, 0, 0, 0][..], &[0; 36]].concat()].concat();
            ipv6(pair.own6(), pair.others6(), protocol::DESTINATION_OPTIONS, &chain)
        };
        pair.check(&pair.tagged(&[(Passes, with_headers(2)), (Dropped("header_chain"), with_headers(3))]));
    }
}

#[test]
fn a_priority_tag_hides_no_vlan_from_an_endpoint_without_a_trunk() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        // The payload of a frame from a's own addresses, which passes otherwise.
        let payload = datagram4(pair.at_a.ipv4);
        let tag = |tpid: u16| Tag { tpid, tci: 30 };
        let hidden: [&[Tag]; 5] = [
            &[PRIORITY, tag(0x8100)],
            &[PRIORITY, tag(0x88a8)],
            &[SERVICE_PRIORITY, tag(0x8100)],
            &[PRIORITY, tag(0x9100)],
            &[tag(0x8100)],
        ];
        let mut cases = Vec::new();
        for to in [pair.at_b.mac, Mac::BROADCAST, UNKNOWN] {
            cases.extend(hidden.map(|tags| (Dropped("vlan_not_allowed"), behind(to, pair.at_a.mac, tags, &payload))));
            let deep = behind(to, pair.at_a.mac, &[PRIORITY, PRIORITY, tag(0x8100)], &payload);
            cases.push((Dropped("truncated"), deep));
        }
        pair.check(&cases);
    }
    // A trunk is in the VLAN behind the priority tag, or is not.
    let pair = Pair::new("tc", &[], &["--trunk", "30"]);
    let trunk = Netns::new("trunk");
    let at_trunk = pair.host.attach(&trunk, &["--network", "lan", "--trunk", "30"]);
    let port_trunk = RawPort::open(&trunk, "eth0");
    let of = |id: u16| {
        behind(at_trunk.mac, pair.at_a.mac, &[PRIORITY, Tag::customer(id)], &[&[0x88, 0xb5][..], &[7; 46]].concat())
    };
    pair.check(&[(Dropped("vlan_not_allowed"), of(31))]);
    pair.port_a.send(&of(30));
    port_trunk.expect(&of(30));
}

#[test]
fn an_ipv6_packet_ends_where_its_payload_length_says() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        let (own, others) = (pair.own6(), pair.others6());
        let with_length = |mut packet: Payload, length: u16| {
            packet[6..8].copy_from_slice(&length.to_be_bytes());
            packet
        };
        // A first fragment that ends in front of its transport header: behind its end is one that the
        // guards would like, and the receiver takes the next fragment's.
        let chain = [&[protocol::DESTINATION_OPTIONS, 0, 0, 1, 0, 0, 0, 9][..], &[protocol::UDP, 0, 1, 4, 0, 0, 0, 0]];
        let first = ipv6(own, others, protocol::FRAGMENT, &[&chain.concat(), &udp(7, 7777, "harmless")[..]].concat());
        // A jumbogram without its option: its length is not what the header says.
        let hop = [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        let message = checked(own, others, &discovery(ADVERTISEMENT, own, &[(2, pair.at_b.mac)]));
        let endless = ipv6(own, others, protocol::HOP_BY_HOP, &[&hop[..], &message].concat());
        pair.check(&pair.tagged(&[
            (Passes, first.clone()),
            (Dropped("header_chain"), with_length(first.clone(), 16)),
            (Dropped("header_chain"), with_length(first, 16 + 4)),
            (Dropped("neighbor_spoofed"), endless.clone()),
            (Dropped("header_chain"), with_length(endless, 0)),
        ]));
    }
}

#[test]
fn bpdus_are_dropped_whatever_their_destination_group() {
    let groups: [Mac; 3] =
        ["01:80:c2:00:00:00", "01:80:c2:00:00:10", "01:00:0c:cc:cc:cd"].map(|mac| mac.parse().unwrap());
    let to = |pair: &Pair, group: Mac, tags: &[Tag]| behind(group, pair.at_a.mac, tags, &bpdu());
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &[]);
        let each = groups.into_iter().flat_map(|group| [&[][..], &[PRIORITY]].map(|tags| to(&pair, group, tags)));
        pair.check(&each.map(|frame| (Dropped("bpdu"), frame)).collect::<Vec<_>>());
        // Without the guard, the bridge group is link-local as on any bridge, and the others are
        // ordinary groups.
        let pair = Pair::new(datapath, &[], &["-o", "bpdu_guard=off"]);
        pair.check(&[(Dropped("link_local"), to(&pair, groups[0], &[])), (Passes, to(&pair, groups[1], &[]))]);
        // A network that forwards the bridge group.
        let pair = Pair::new(datapath, &["-o", "group_fwd_mask=1"], &[]);
        pair.check(&groups.map(|group| (Passes, to(&pair, group, &[]))));
        // The guard of an endpoint drops BPDUs in such a network, too.
        let pair = Pair::new(datapath, &["-o", "group_fwd_mask=1"], &["-o", "bpdu_guard=on"]);
        pair.check(&groups.map(|group| (Dropped("bpdu"), to(&pair, group, &[]))));
    }
}

#[test]
fn guards_can_be_switched_off_for_a_network_or_an_endpoint() {
    let own: [(&[&str], &[&str]); 2] = [(&["-o", "spoof_guard=off"], &[]), (&[], &["-o", "spoof_guard=off"])];
    for (network, endpoint) in own {
        let pair = Pair::new("auto", network, endpoint);
        let cases = [honest(&pair), spoofed(&pair)].concat();
        pair.check(&pair.tagged(&cases.into_iter().map(|(_, payload)| (Passes, payload)).collect::<Vec<_>>()));
        let (a, b) = (pair.at_a.mac, pair.at_b.mac);
        pair.check(&[
            (Passes, Frame::new(b, UNKNOWN, "from a nested station")),
            // The address of another endpoint cannot be claimed even without the guard.
            (Dropped("source_spoofed"), Frame::new(Mac::BROADCAST, b, "from b's address")),
            (Passes, Frame::new(b, a, "from a")),
        ]);
        // The other guards are still on.
        for (reason, refused, _) in role_messages(&pair) {
            pair.check(
                &pair.tagged(&refused.into_iter().map(|payload| (Dropped(reason), payload)).collect::<Vec<_>>()),
            );
        }
    }
    for (option, index) in [("ra_guard=off", 0), ("dhcp_guard=off", 1), ("bpdu_guard=off", 2)] {
        for (network, endpoint) in [(&["-o", option][..], &[][..]), (&[], &["-o", option])] {
            let pair = Pair::new("auto", network, endpoint);
            for (other, (reason, payloads, _)) in role_messages(&pair).into_iter().enumerate() {
                let fate = if other == index { Passes } else { Dropped(reason) };
                pair.check(&pair.tagged(&payloads.into_iter().map(|payload| (fate, payload)).collect::<Vec<_>>()));
            }
            pair.check(&pair.tagged(&spoofed(&pair)));
        }
    }
    // The option of an endpoint overrides that of its network.
    let pair = Pair::new("auto", &["-o", "spoof_guard=off"], &["-o", "spoof_guard=on"]);
    pair.check(&pair.tagged(&spoofed(&pair)));
}

#[test]
fn nested_stations_are_learned_up_to_the_fdb_limit() {
    for datapath in ["tc", "xdp"] {
        let pair = Pair::new(datapath, &[], &["-o", "learning=on", "-o", "fdb_limit=2"]);
        let Pair { host, at_a, at_b, port_b, .. } = &pair;
        let nested = [1, 2, 3].map(|last| Mac([2, 0, 0, 0, 0x77, last]));
        // A nested station may use its own addresses, but not those of endpoints.
        let of = |source: Mac, payload: Payload| behind(at_b.mac, source, &[], &payload);
        let [first, second, third] = nested;
        for mac in [first, second] {
            pair.check(&[
                (Passes, of(mac, datagram4(UNUSED4))),
                (Passes, of(mac, datagram6(link_local(mac)))),
                (Passes, of(mac, arp(1, (mac, UNUSED4), (Mac::ZERO, at_b.ipv4)))),
                (Dropped("ip_spoofed"), of(mac, datagram4(at_b.ipv4))),
                (Dropped("ip_spoofed"), of(mac, datagram6(pair.others6()))),
                (Dropped("arp_spoofed"), of(mac, arp(1, (mac, at_b.ipv4), (Mac::ZERO, UNUSED4)))),
                (Dropped("arp_spoofed"), of(mac, arp(1, (at_a.mac, UNUSED4), (Mac::ZERO, at_b.ipv4)))),
            ]);
        }
        pair.check(&[(Dropped("source_spoofed"), of(at_b.mac, datagram4(UNUSED4)))]);
        let learned = || {
            let rows = host.fdb(&["--dynamic", "--port", &at_a.name]).into_iter();
            rows.map(|station| station.mac).collect::<Vec<_>>()
        };
        let failed = || host.counters(&at_a.name).learn_failed;
        assert_eq!((learned(), failed()), (vec![first, second], 0), "{datapath}");
        // Frames of stations beyond the limit pass, as on a Linux bridge (fdb_max_learned), but the
        // stations are not learned.
        pair.check(&[(Passes, of(third, datagram4(UNUSED4)))]);
        assert_eq!((learned(), failed()), (vec![first, second], 1), "{datapath}");
        let answer = Frame::new(first, at_b.mac, "a reply");
        port_b.send(&answer);
        pair.port_a.expect(&answer);
        // Another station can be learned once an entry is removed.
        host.ok(&["fdb", "del", &first.to_string(), "lan"]);
        pair.check(&[(Passes, of(third, datagram4(UNUSED4)))]);
        assert_eq!((learned(), failed()), (vec![second, third], 1), "{datapath}");
    }
}
