//! ARP requests and neighbor solicitations for known addresses are answered by the instance and not
//! flooded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, RawPort, Tag, eventually,
    packets::{
        ADVERTISEMENT, Payload, SOLICITATION, arp, behind, discovery, icmpv6, icmpv6_checksum, link_local,
        solicited_nodes,
    },
    ping,
};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const TO_ALL_NODES: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// A container that asks, one whose address is known, and a bystander that must not receive the
/// question.
struct Segment<'a> {
    host: &'a Host,
    number: u8,
    containers: [Netns; 3],
    at: [Attached; 3],
    ports: [RawPort; 3],
}

impl<'a> Segment<'a> {
    /// Creates network `lan{number}` with these options, and endpoints with these flags.
    fn new(host: &'a Host, number: u8, options: &[&str], flags: [&[&str]; 3]) -> Self {
        let [ipv4, ipv6] = [format!("10.135.{number}.0/24"), format!("fd00:135:{number}::/64")];
        let network = format!("lan{number}");
        let create = ["network", "create", "--subnet", &ipv4, "--subnet", &ipv6];
        host.ok(&[&create, options, &[network.as_str()]].concat());
        let containers = ["asker", "known", "bystander"].map(Netns::new);
        let at = std::array::from_fn(|index| {
            host.attach(&containers[index], &[&["--network", &*network], flags[index]].concat())
        });
        let ports = containers.each_ref().map(|container| RawPort::open(container, "eth0"));
        Self { host, number, containers, at, ports }
    }

    /// Returns an address of the network with this last byte.
    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 135, self.number, last)
    }

    fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    fn own_mac(&self) -> Mac {
        self.at[0].mac
    }

    fn own6(&self) -> Ipv6Addr {
        self.at[0].ipv6.expect("an IPv6 address")
    }

    /// Returns the MAC address of the host in the network.
    fn gateway_mac(&self) -> Mac {
        let network = format!("lan{}", self.number);
        let stations = self.host.fdb(&["--network", &network, "--static"]).into_iter();
        let host = stations.into_iter().find(|station| station.port.ends_with(&format!("-{network}")));
        host.expect("the station of the host").mac
    }

    /// Sends a question, and asserts that this answer arrives and that no other port receives the
    /// question.
    #[track_caller]
    fn assert_answered(&self, question: &Frame, answer: &Frame) {
        self.ports[0].send(question);
        self.ports[0].expect(answer);
        // A broadcast that arrives after the question would have.
        let mark = Frame::new(Mac::BROADCAST, self.own_mac(), "mark");
        // The mark may be in another VLAN than the question, but all of these ports receive
        // untagged frames.
        self.ports[0].send(&mark);
        for port in &self.ports[1..] {
            let heard = port.expect(&mark);
            assert!(!heard.contains(question), "{question:02x?} was flooded");
        }
        // There is one answer, and only from the instance.
        let again = self.ports[0].pending();
        assert!(!again.contains(answer), "answered twice: {answer:02x?}");
    }

    /// Sends a question, and asserts that all other ports receive it.
    #[track_caller]
    fn assert_flooded(&self, question: &Frame) {
        self.ports[0].send(question);
        for port in &self.ports[1..] {
            port.expect(question);
        }
    }

    fn question4(&self, tags: &[Tag], target: Ipv4Addr) -> Frame {
        let question = arp(1, (self.own_mac(), self.at[0].ipv4), (Mac::ZERO, target));
        behind(Mac::BROADCAST, self.own_mac(), tags, &question)
    }

    fn answer4(&self, tags: &[Tag], target: Ipv4Addr, mac: Mac) -> Frame {
        let answer = arp(2, (mac, target), (self.own_mac(), self.at[0].ipv4));
        behind(self.own_mac(), mac, tags, &answer)
    }

    fn question6(&self, tags: &[Tag], target: Ipv6Addr) -> Frame {
        let (group, to) = solicited_nodes(target);
        let question = icmpv6(self.own6(), group, &discovery(SOLICITATION, target, &[(1, self.own_mac())]));
        behind(to, self.own_mac(), tags, &question)
    }

    fn answer6(&self, tags: &[Tag], target: Ipv6Addr, mac: Mac, router: bool) -> Frame {
        let answer = advertisement(self.own6(), target, mac, if router { 0xe0 } else { 0x60 });
        behind(self.own_mac(), mac, tags, &answer)
    }
}

/// Returns a neighbor advertisement with these flags: router (0x80), solicited (0x40), override
/// (0x20).
fn advertisement(to: Ipv6Addr, target: Ipv6Addr, mac: Mac, flags: u8) -> Payload {
    let mut message = discovery(ADVERTISEMENT, target, &[(2, mac)]);
    message[4] = flags;
    let packet = icmpv6(target, to, &message);
    // A receiver must accept the checksum of the expected frame.
    assert_eq!(icmpv6_checksum(target, to, &packet[42..]), [0, 0]);
    packet
}

#[test]
fn questions_for_known_addresses_are_answered_and_not_flooded() {
    let host = &Host::up(&[]);
    let segment = Segment::new(host, 0, &[], [&[]; 3]);
    check_questions_for_the_gateway(&segment);
    check_questions_for_known_addresses(&segment);
    check_duplicate_address_detection(host);
    check_that_a_trunk_is_answered_in_the_vlan_of_the_question(host);
    // Suppression can be switched off.
    check_without_suppression(&Segment::new(host, 3, &["-o", "arp_suppress=off"], [&[]; 3]));
    check_without_suppression(&Segment::new(host, 4, &[], [&["-o", "arp_suppress=off"], &[], &[]]));
}

fn check_questions_for_known_addresses(segment: &Segment<'_>) {
    let known = &segment.at[1];
    let known6 = known.ipv6.expect("an IPv6 address");
    segment.assert_answered(&segment.question4(&[], known.ipv4), &segment.answer4(&[], known.ipv4, known.mac));
    for target in [known6, link_local(known.mac)] {
        segment.assert_answered(&segment.question6(&[], target), &segment.answer6(&[], target, known.mac, false));
    }
    // With padding, as short frames have on a wire.
    let mut padded = segment.question4(&[], known.ipv4);
    let mut answer = segment.answer4(&[], known.ipv4, known.mac);
    for frame in [&mut padded, &mut answer] {
        frame.0.resize(60, 0);
    }
    segment.assert_answered(&padded, &answer);
    // The answer to a priority-tagged question has the same tag.
    let tags = [Tag { tpid: 0x8100, tci: 0xa000 }];
    segment.assert_answered(&segment.question4(&tags, known.ipv4), &segment.answer4(&tags, known.ipv4, known.mac));
    segment.assert_answered(&segment.question6(&tags, known6), &segment.answer6(&tags, known6, known.mac, false));

    // Questions for unknown addresses are flooded, and so are announcements of the sender's own
    // address.
    segment.assert_flooded(&segment.question4(&[], segment.address(99)));
    let unused6 = Ipv6Addr::from_bits(segment.own6().to_bits() | 0xff00);
    segment.assert_flooded(&segment.question6(&[], unused6));
    segment.assert_flooded(&segment.question4(&[], segment.at[0].ipv4));
    // A detached endpoint is no longer known.
    segment.host.ok(&["detach", &segment.at[1].name]);
    let question = segment.question4(&[], segment.at[1].ipv4);
    segment.ports[0].send(&question);
    segment.ports[2].expect(&question);
}

fn check_questions_for_the_gateway(segment: &Segment<'_>) {
    let mac = segment.gateway_mac();
    let gateway6 = segment.at[0].gateway6.expect("an IPv6 gateway");
    segment.assert_answered(&segment.question4(&[], segment.gateway()), &segment.answer4(&[], segment.gateway(), mac));
    segment.assert_answered(&segment.question6(&[], gateway6), &segment.answer6(&[], gateway6, mac, true));
}

#[test]
fn kernels_find_their_neighbors_by_the_answers() {
    let host = Host::up(&[]);
    let segment = Segment::new(&host, 0, &[], [&[]; 3]);
    let [asker, known, _] = &segment.containers;
    let [at_asks, at_known, _] = &segment.at;
    segment.ports.iter().for_each(|port| drop(port.pending()));
    let targets: [(IpAddr, Mac); 4] = [
        (at_known.ipv4.into(), at_known.mac),
        (at_known.ipv6.unwrap().into(), at_known.mac),
        (segment.gateway().into(), segment.gateway_mac()),
        (at_asks.gateway6.unwrap().into(), segment.gateway_mac()),
    ];
    for (target, mac) in targets {
        ping(asker, target);
        let family = if target.is_ipv4() { "-4" } else { "-6" };
        let neighbors = asker.ip_json(&format!("{family} neigh show dev eth0"));
        let found = neighbors.iter().find(|neighbor| neighbor["dst"] == target.to_string());
        let lladdr = found.and_then(|neighbor| neighbor["lladdr"].as_str()).map(str::to_owned);
        assert_eq!(lladdr, Some(mac.to_string()), "{target}: {neighbors:?}");
    }
    ping(known, at_asks.ipv4);
    ping(known, at_asks.ipv6.unwrap());
    ping(&segment.host.netns, at_known.ipv4);
    ping(&segment.host.netns, at_known.ipv6.unwrap());
    // None of these questions was flooded.
    let mark = Frame::new(Mac::BROADCAST, at_asks.mac, "mark");
    segment.ports[0].send(&mark);
    let heard = segment.ports[2].expect(&mark);
    let questions: Vec<_> = heard.iter().filter(|Frame(bytes)| is_question(bytes)).collect();
    assert!(questions.is_empty(), "{questions:02x?}");
}

/// Reports whether a frame is an ARP request, or a neighbor solicitation from a sender with an
/// address.
fn is_question(bytes: &[u8]) -> bool {
    match bytes.get(12..14) {
        Some([0x08, 0x06]) => bytes[21] == 1,
        Some([0x86, 0xdd]) => bytes.get(54) == Some(&SOLICITATION) && bytes[22..38] != [0; 16],
        _ => false,
    }
}

fn check_duplicate_address_detection(host: &Host) {
    let segment = Segment::new(host, 1, &[], [&["-o", "spoof_guard=off"], &[], &[]]);
    let known = &segment.at[1];
    let target = known.ipv6.expect("an IPv6 address");
    // Duplicate address detection (RFC 4862, 5.4): the answer goes to all nodes and is not marked
    // as solicited.
    let (group, to) = solicited_nodes(target);
    let detection = icmpv6(Ipv6Addr::UNSPECIFIED, group, &discovery(SOLICITATION, target, &[]));
    let question = behind(to, segment.own_mac(), &[], &detection);
    let answer = behind(TO_ALL_NODES, known.mac, &[], &advertisement(ALL_NODES, target, known.mac, 0x20));
    segment.assert_answered(&question, &answer);
    // The kernel of a container accepts the answer.
    let netns = &segment.containers[0];
    netns.set("net/ipv6/conf/eth0/accept_dad", "1");
    netns.ip(&format!("-6 address add {target}/64 dev eth0"));
    eventually("the kernel detects the duplicate", || {
        let shown = netns.ip("-6 address show dev eth0");
        shown.lines().any(|line| line.contains(&target.to_string()) && line.contains("dadfailed")).then_some(())
    });
}

fn check_without_suppression(segment: &Segment<'_>) {
    let known = &segment.at[1];
    segment.assert_flooded(&segment.question4(&[], known.ipv4));
    segment.assert_flooded(&segment.question6(&[], known.ipv6.unwrap()));
    // The known container answers itself.
    segment.ports[0].expect_such("an answer", |Frame(bytes)| {
        bytes[6..14] == [&known.mac.0[..], &[0x08, 0x06]].concat() && bytes[21] == 2
    });
    ping(&segment.containers[0], known.ipv4);
    ping(&segment.containers[0], known.ipv6.unwrap());
}

fn check_that_a_trunk_is_answered_in_the_vlan_of_the_question(host: &Host) {
    let vlan = [Tag::customer(10)];
    let segment = Segment::new(host, 2, &[], [&["--trunk", "10,20"], &["--vlan", "10"], &["--trunk", "10,20"]]);
    let known = &segment.at[1];
    let known6 = known.ipv6.expect("an IPv6 address");
    let bystander = &segment.ports[2];
    let with_priority = [Tag { tpid: 0x8100, tci: 0x600a }];
    for tags in [&vlan, &with_priority] {
        let exchanges = [
            (segment.question4(tags, known.ipv4), segment.answer4(tags, known.ipv4, known.mac)),
            (segment.question6(tags, known6), segment.answer6(tags, known6, known.mac, false)),
        ];
        for (question, answer) in exchanges {
            segment.ports[0].send(&question);
            segment.ports[0].expect(&answer);
            let mark = Frame::tagged(Mac::BROADCAST, segment.own_mac(), &vlan, "mark");
            segment.ports[0].send(&mark);
            assert!(!bystander.expect(&mark).contains(&question), "{question:02x?} was flooded");
        }
    }
    // The address is unknown in VLAN 20 and outside VLANs. The bystander's address is known outside
    // VLANs.
    for tags in [&[Tag::customer(20)][..], &[]] {
        let question = segment.question4(tags, known.ipv4);
        segment.ports[0].send(&question);
        bystander.expect(&question);
        segment.ports[1].pending();
    }
    let at = &segment.at[2];
    segment.ports[0].send(&segment.question4(&[], at.ipv4));
    segment.ports[0].expect(&segment.answer4(&[], at.ipv4, at.mac));
}
