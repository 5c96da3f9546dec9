//! Questions for known addresses are answered by the switch, and nobody else hears them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, RawPort, Tag, eventually,
    packets::{
        ADVERTISEMENT, Payload, SOLICITATION, arp, behind, discovery, icmpv6, icmpv6_checksum, link_local,
        solicited_nodes,
    },
    ping,
};

const NOBODYS: Ipv4Addr = Ipv4Addr::new(10, 135, 0, 99);
const NOBODYS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x135, 0, 0, 0, 0, 0, 0x99);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 135, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const TO_ALL_NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// One that asks, one that is asked for, and one that must hear nothing of it.
struct Segment {
    host: Host,
    containers: [Netns; 3],
    at: [Attached; 3],
    ports: [RawPort; 3],
}

impl Segment {
    /// With flags for the network, and for each endpoint.
    fn new(network: &[&str], flags: [&[&str]; 3]) -> Self {
        let host = Host::up(&[]);
        let create = ["network", "create", "--subnet", "10.135.0.0/24", "--subnet", "fd00:135::/64"];
        host.ok(&[&create, network, &["lan"]].concat());
        let containers = ["asks", "known", "bystander"].map(Netns::new);
        let at = std::array::from_fn(|index| {
            host.attach(&containers[index], &[&["--network", "lan"], flags[index]].concat())
        });
        let ports = containers.each_ref().map(|container| RawPort::open(container, "eth0"));
        Self { host, containers, at, ports }
    }

    fn mac(&self) -> Mac {
        self.at[0].mac
    }

    fn own6(&self) -> Ipv6Addr {
        self.at[0].ipv6.expect("an IPv6 address")
    }

    /// Where the host's own station is.
    fn gateway_mac(&self) -> Mac {
        let stations = self.host.fdb(&["--network", "lan", "--static"]).into_iter();
        let host = stations.into_iter().find(|station| station.port.ends_with("-lan"));
        host.expect("the host's own station").mac
    }

    /// Asks, and expects this answer at the one that asked; nobody else hears of it.
    #[track_caller]
    fn is_answered(&self, question: &Frame, answer: &Frame) {
        self.ports[0].send(question);
        self.ports[0].expect(answer);
        // A broadcast that comes after it.
        let mark = Frame::new(Mac::BROADCAST, self.mac(), "mark");
        // Not in the same VLAN as the question, perhaps; all of these ports have untagged frames.
        self.ports[0].send(&mark);
        for port in &self.ports[1..] {
            let heard = port.expect(&mark);
            assert!(!heard.contains(question), "{question:02x?} was flooded");
        }
        // Once, and by nobody but the switch.
        let again = self.ports[0].pending();
        assert!(!again.contains(answer), "answered twice: {answer:02x?}");
    }

    /// Asks, and everybody hears it.
    #[track_caller]
    fn is_flooded(&self, question: &Frame) {
        self.ports[0].send(question);
        for port in &self.ports[1..] {
            port.expect(question);
        }
    }

    fn asks4(&self, tags: &[Tag], target: Ipv4Addr) -> Frame {
        let question = arp(1, (self.mac(), self.at[0].ipv4), (Mac::ZERO, target));
        behind(Mac::BROADCAST, self.mac(), tags, &question)
    }

    fn answer4(&self, tags: &[Tag], target: Ipv4Addr, mac: Mac) -> Frame {
        let answer = arp(2, (mac, target), (self.mac(), self.at[0].ipv4));
        behind(self.mac(), mac, tags, &answer)
    }

    fn asks6(&self, tags: &[Tag], target: Ipv6Addr) -> Frame {
        let (group, to) = solicited_nodes(target);
        let question = icmpv6(self.own6(), group, &discovery(SOLICITATION, target, &[(1, self.mac())]));
        behind(to, self.mac(), tags, &question)
    }

    fn answer6(&self, tags: &[Tag], target: Ipv6Addr, mac: Mac, router: bool) -> Frame {
        let answer = advertisement(self.own6(), target, mac, if router { 0xe0 } else { 0x60 });
        behind(self.mac(), mac, tags, &answer)
    }
}

/// A neighbor advertisement with these flags: router (0x80), solicited (0x40), override (0x20).
fn advertisement(to: Ipv6Addr, target: Ipv6Addr, mac: Mac, flags: u8) -> Payload {
    let mut message = discovery(ADVERTISEMENT, target, &[(2, mac)]);
    message[4] = flags;
    let packet = icmpv6(target, to, &message);
    // The frame that is compared with what arrives has the checksum that a receiver finds good.
    assert_eq!(icmpv6_checksum(target, to, &packet[42..]), [0, 0]);
    packet
}

#[test]
fn what_is_known_is_answered_and_heard_by_nobody_else() {
    let segment = Segment::new(&[], [&[]; 3]);
    let known = &segment.at[1];
    let known6 = known.ipv6.expect("an IPv6 address");
    segment.is_answered(&segment.asks4(&[], known.ipv4), &segment.answer4(&[], known.ipv4, known.mac));
    for target in [known6, link_local(known.mac)] {
        segment.is_answered(&segment.asks6(&[], target), &segment.answer6(&[], target, known.mac, false));
    }
    // With padding, as short frames have it on a wire.
    let mut padded = segment.asks4(&[], known.ipv4);
    let mut answer = segment.answer4(&[], known.ipv4, known.mac);
    for frame in [&mut padded, &mut answer] {
        frame.0.resize(60, 0);
    }
    segment.is_answered(&padded, &answer);
    // A tag with a priority alone comes back.
    let tags = [Tag { tpid: 0x8100, tci: 0xa000 }];
    segment.is_answered(&segment.asks4(&tags, known.ipv4), &segment.answer4(&tags, known.ipv4, known.mac));
    segment.is_answered(&segment.asks6(&tags, known6), &segment.answer6(&tags, known6, known.mac, false));

    // For what is not known, everybody is asked; an announcement of one's own is for everybody, too.
    segment.is_flooded(&segment.asks4(&[], NOBODYS));
    segment.is_flooded(&segment.asks6(&[], NOBODYS6));
    segment.is_flooded(&segment.asks4(&[], segment.at[0].ipv4));
    // One that has gone is known no more.
    segment.host.ok(&["detach", &segment.at[1].name]);
    let question = segment.asks4(&[], segment.at[1].ipv4);
    segment.ports[0].send(&question);
    segment.ports[2].expect(&question);
}

#[test]
fn the_gateway_is_answered_for() {
    let segment = Segment::new(&[], [&[]; 3]);
    let mac = segment.gateway_mac();
    let gateway6 = segment.at[0].gateway6.expect("an IPv6 gateway");
    segment.is_answered(&segment.asks4(&[], GATEWAY), &segment.answer4(&[], GATEWAY, mac));
    segment.is_answered(&segment.asks6(&[], gateway6), &segment.answer6(&[], gateway6, mac, true));
}

#[test]
fn kernels_find_their_neighbors_by_the_answers() {
    let segment = Segment::new(&[], [&[]; 3]);
    let [asks, known, _] = &segment.containers;
    let [at_asks, at_known, _] = &segment.at;
    segment.ports.iter().for_each(|port| drop(port.pending()));
    let targets: [(IpAddr, Mac); 4] = [
        (at_known.ipv4.into(), at_known.mac),
        (at_known.ipv6.unwrap().into(), at_known.mac),
        (GATEWAY.into(), segment.gateway_mac()),
        (at_asks.gateway6.unwrap().into(), segment.gateway_mac()),
    ];
    for (target, mac) in targets {
        ping(asks, target);
        let family = if target.is_ipv4() { "-4" } else { "-6" };
        let neighbors = asks.ip_json(&format!("{family} neigh show dev eth0"));
        let found = neighbors.iter().find(|neighbor| neighbor["dst"] == target.to_string());
        let lladdr = found.and_then(|neighbor| neighbor["lladdr"].as_str()).map(str::to_owned);
        assert_eq!(lladdr, Some(mac.to_string()), "{target}: {neighbors:?}");
    }
    ping(known, at_asks.ipv4);
    ping(known, at_asks.ipv6.unwrap());
    ping(&segment.host.netns, at_known.ipv4);
    ping(&segment.host.netns, at_known.ipv6.unwrap());
    // Not one of these questions was flooded.
    let mark = Frame::new(Mac::BROADCAST, at_asks.mac, "mark");
    segment.ports[0].send(&mark);
    let heard = segment.ports[2].expect(&mark);
    let questions: Vec<_> = heard.iter().filter(|Frame(bytes)| is_question(bytes)).collect();
    assert!(questions.is_empty(), "{questions:02x?}");
}

/// An ARP request, or a solicitation of one who has an address.
fn is_question(bytes: &[u8]) -> bool {
    match bytes.get(12..14) {
        Some([0x08, 0x06]) => bytes[21] == 1,
        Some([0x86, 0xdd]) => bytes.get(54) == Some(&SOLICITATION) && bytes[22..38] != [0; 16],
        _ => false,
    }
}

#[test]
fn one_who_means_to_take_anothers_address_is_told() {
    let segment = Segment::new(&[], [&["-o", "spoof_guard=off"], &[], &[]]);
    let known = &segment.at[1];
    let target = known.ipv6.expect("an IPv6 address");
    // Duplicate address detection (RFC 4862, 5.4): the answer is to all nodes, and not solicited.
    let (group, to) = solicited_nodes(target);
    let detection = icmpv6(Ipv6Addr::UNSPECIFIED, group, &discovery(SOLICITATION, target, &[]));
    let question = behind(to, segment.mac(), &[], &detection);
    let answer = behind(TO_ALL_NODES, known.mac, &[], &advertisement(ALL_NODES, target, known.mac, 0x20));
    segment.is_answered(&question, &answer);
    // The kernel of a container takes it for what it is.
    let netns = &segment.containers[0];
    netns.set("net/ipv6/conf/eth0/accept_dad", "1");
    netns.ip(&format!("-6 address add {target}/64 dev eth0"));
    eventually("the kernel finds the duplicate", || {
        let shown = netns.ip("-6 address show dev eth0");
        shown.lines().any(|line| line.contains(&target.to_string()) && line.contains("dadfailed")).then_some(())
    });
}

#[test]
fn it_can_be_switched_off() {
    let off: [(&[&str], &[&str]); 2] = [(&["-o", "arp_suppress=off"], &[]), (&[], &["-o", "arp_suppress=off"])];
    for (network, asks) in off {
        let segment = Segment::new(network, [asks, &[], &[]]);
        let known = &segment.at[1];
        segment.is_flooded(&segment.asks4(&[], known.ipv4));
        segment.is_flooded(&segment.asks6(&[], known.ipv6.unwrap()));
        // Answered by the one that is asked for.
        segment.ports[0].expect_such("an answer", |Frame(bytes)| {
            bytes[6..14] == [&known.mac.0[..], &[0x08, 0x06]].concat() && bytes[21] == 2
        });
        ping(&segment.containers[0], known.ipv4);
        ping(&segment.containers[0], known.ipv6.unwrap());
    }
}

#[test]
fn a_trunk_is_answered_in_the_vlan_that_it_asks_in() {
    let vlan = [Tag::customer(10)];
    let segment = Segment::new(&[], [&["--trunk", "10,20"], &["--vlan", "10"], &["--trunk", "10,20"]]);
    let known = &segment.at[1];
    let known6 = known.ipv6.expect("an IPv6 address");
    let bystander = &segment.ports[2];
    let with_priority = [Tag { tpid: 0x8100, tci: 0x600a }];
    for tags in [&vlan, &with_priority] {
        let exchanges = [
            (segment.asks4(tags, known.ipv4), segment.answer4(tags, known.ipv4, known.mac)),
            (segment.asks6(tags, known6), segment.answer6(tags, known6, known.mac, false)),
        ];
        for (question, answer) in exchanges {
            segment.ports[0].send(&question);
            segment.ports[0].expect(&answer);
            let mark = Frame::tagged(Mac::BROADCAST, segment.mac(), &vlan, "mark");
            segment.ports[0].send(&mark);
            assert!(!bystander.expect(&mark).contains(&question), "{question:02x?} was flooded");
        }
    }
    // It is not there in another VLAN, nor where there is none; and where the bystander is, it is known.
    for tags in [&[Tag::customer(20)][..], &[]] {
        let question = segment.asks4(tags, known.ipv4);
        segment.ports[0].send(&question);
        bystander.expect(&question);
        segment.ports[1].pending();
    }
    let at = &segment.at[2];
    segment.ports[0].send(&segment.asks4(&[], at.ipv4));
    segment.ports[0].expect(&segment.answer4(&[], at.ipv4, at.mac));
}
