//! Each guard: frames that must pass, and frames that must not.

use std::vec::Vec;

use super::*;
use crate::forward::forward;
use crate::forward::tests::{A, B, NOW, STRANGER, decided, frame, tables};
use crate::mac::Mac;
use crate::packet::neighbor::Solicitation;
use crate::tables::memory::MemoryTables;
use crate::tables::{NetworkNumber, VlanKey};
use crate::verdict::{Answer, Flood, Verdict};

const OWN: [u8; 4] = [10, 1, 0, 2];
const OTHERS: [u8; 4] = [10, 1, 0, 3];
const NOBODYS: [u8; 4] = [10, 1, 0, 99];

fn six(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// Tables with A and B, all guards on, and their addresses.
fn guarded(change: impl Fn(&mut Port)) -> MemoryTables {
    let mut tables = tables();
    for (number, last) in [(1, 2), (2, 3)] {
        let port = tables.ports.get_mut(&PortNumber(number)).expect("a port");
        port.flags = Port::SPOOF_GUARD | Port::RA_GUARD | Port::DHCP_GUARD | Port::BPDU_GUARD;
        port.ipv4 = u32::from_ne_bytes([10, 1, 0, last]);
        port.ipv6 = Address::new(six(last));
        change(port);
        let known = [Address::mapped([10, 1, 0, last]), Address::new(six(last)), Address::link_local(port.mac)];
        for address in known {
            let key = NeighborKey { address, network: NetworkNumber(1), vlan: VlanKey::NONE, reserved: 0 };
            tables.neighbors.insert(key, PortNumber(number));
        }
    }
    tables
}

fn verdict(tables: &MemoryTables, source: Mac, rest: &[u8]) -> Verdict {
    decided(&forward(11, frame(Mac::BROADCAST, source, rest).as_slice(), tables, NOW))
}

fn dropped(tables: &MemoryTables, rest: &[u8]) -> Option<DropReason> {
    match verdict(tables, A, rest) {
        Verdict::Drop(reason) => Some(reason),
        _ => None,
    }
}

fn ipv4(source: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let [f0, f1] = fragment.to_be_bytes();
    let mut packet = std::vec![8, 0, 0x45, 0, 0, 60, 0, 0, f0, f1, 64, protocol, 0, 0];
    packet.extend(source);
    packet.extend([10, 1, 0, 1]);
    packet.extend(payload);
    packet
}

/// A UDP datagram from a port to port 9, which has no meaning to the guards.
fn udp(port: u16) -> Vec<u8> {
    datagram(port, 9)
}

fn datagram(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 8]].concat()
}

fn ipv6(source: [u8; 16], chain: &[u8], payload: &[u8]) -> Vec<u8> {
    let (first, rest) = chain.split_first().expect("a header");
    let mut packet = std::vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, (rest.len() + payload.len()) as u8, *first, 255];
    packet.extend(source);
    packet.extend(six(1));
    packet.extend(rest);
    packet.extend(payload);
    packet
}

fn arp(sender_mac: Mac, sender: [u8; 4]) -> Vec<u8> {
    let mut packet = std::vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(sender_mac.0);
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend([10, 1, 0, 1]);
    packet
}

/// A neighbor solicitation (135) or advertisement (136) with a link-layer address in each option.
fn discovery(kind: u8, target: [u8; 16], options: &[Mac]) -> Vec<u8> {
    let mut message = std::vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    for mac in options {
        message.extend([1, 1]);
        message.extend(mac.0);
    }
    message
}

#[test]
fn ip_packets_must_have_the_endpoints_own_addresses() {
    let tables = guarded(|_| {});
    let own_link_local = Address::link_local(A).octets();
    let passes = [ipv4(OWN, 6, 0, &[0; 20]), ipv4([0; 4], 17, 0, &udp(68)), ipv6(six(2), &[6], &[0; 20])];
    for packet in passes.iter().chain([&ipv6(own_link_local, &[17], &udp(5))]) {
        assert_eq!(dropped(&tables, packet), None, "{packet:02x?}");
    }
    for packet in [
        ipv4(OTHERS, 6, 0, &[0; 20]),
        ipv4(NOBODYS, 6, 0, &[0; 20]),
        ipv6(six(3), &[6], &[0; 20]),
        ipv6(Address::link_local(B).octets(), &[6], &[0; 20]),
    ] {
        assert_eq!(dropped(&tables, &packet), Some(DropReason::IpSpoofed), "{packet:02x?}");
        // Behind one and two priority tags.
        for tags in [&[0x81_u8, 0, 0, 0][..], &[0x81, 0, 0xe0, 0, 0x88, 0xa8, 0, 0]] {
            assert_eq!(dropped(&tables, &[tags, &packet].concat()), Some(DropReason::IpSpoofed));
        }
        // Behind SNAP or three tags, which are not read.
        let snap = [&[0, 60, 0xaa, 0xaa, 3, 0, 0, 0][..], &packet].concat();
        assert_eq!(dropped(&tables, &snap), Some(DropReason::SnapEncapsulated));
        let deep = [&[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0][..], &packet].concat();
        assert_eq!(dropped(&tables, &deep), Some(DropReason::Truncated));
    }
    assert_eq!(verdict(&tables, STRANGER, &passes[0]), Verdict::Drop(DropReason::SourceSpoofed));
    let mut elsewhere = guarded(|_| {});
    elsewhere.owned.insert(OwnKey { address: Address::mapped(NOBODYS), port: PortNumber(1), reserved: 0 });
    assert_eq!(dropped(&elsewhere, &ipv4(NOBODYS, 6, 0, &[0; 20])), None, "the endpoint's address in another network");
    assert_eq!(dropped(&elsewhere, &arp(A, NOBODYS)), None);
    let off = guarded(|port| port.flags = Port::LEARN);
    assert_eq!(dropped(&off, &ipv4(OTHERS, 6, 0, &[0; 20])), None);
}

#[test]
fn a_port_with_learning_may_use_addresses_not_known_elsewhere() {
    let nested = guarded(|port| port.flags |= Port::LEARN);
    for source in [A, STRANGER] {
        let of = |packet: Vec<u8>| verdict(&nested, source, &packet);
        assert!(matches!(of(ipv4(NOBODYS, 6, 0, &[0; 20])), Verdict::Flood(_)));
        assert!(matches!(of(ipv6(six(99), &[6], &[0; 20])), Verdict::Flood(_)));
        assert!(matches!(of(arp(source, NOBODYS)), Verdict::Flood(_)));
        assert_eq!(of(ipv4(OTHERS, 6, 0, &[0; 20])), Verdict::Drop(DropReason::IpSpoofed));
        assert_eq!(of(ipv6(six(3), &[6], &[0; 20])), Verdict::Drop(DropReason::IpSpoofed));
        assert_eq!(of(arp(source, OTHERS)), Verdict::Drop(DropReason::ArpSpoofed));
        assert_eq!(of(arp(B, NOBODYS)), Verdict::Drop(DropReason::ArpSpoofed));
    }
    // The address of another endpoint is refused.
    assert_eq!(verdict(&nested, B, &arp(B, NOBODYS)), Verdict::Drop(DropReason::SourceSpoofed));
}

#[test]
fn arp_must_name_the_endpoint_as_its_sender() {
    let tables = guarded(|_| {});
    assert_eq!(dropped(&tables, &arp(A, OWN)), None);
    assert_eq!(dropped(&tables, &arp(A, [0; 4])), None, "a probe");
    for packet in [arp(A, OTHERS), arp(B, OWN), arp(A, NOBODYS)] {
        assert_eq!(dropped(&tables, &packet), Some(DropReason::ArpSpoofed), "{packet:02x?}");
    }
    let mut foreign = arp(A, OWN);
    foreign[3] = 6;
    assert_eq!(dropped(&tables, &foreign), Some(DropReason::ArpSpoofed), "another kind of hardware");
    for length in 2..30 {
        assert_eq!(dropped(&tables, &arp(A, OWN)[..length]), Some(DropReason::Truncated), "{length} bytes");
    }
}

#[test]
fn neighbor_discovery_must_name_the_endpoint_as_its_sender() {
    let tables = guarded(|_| {});
    let reason = |source, message: &[u8]| dropped(&tables, &ipv6(source, &[58], message));
    let spoofed = Some(DropReason::NeighborSpoofed);
    assert_eq!(reason(six(2), &discovery(135, six(3), &[A])), None, "asks for another station");
    assert_eq!(reason(six(2), &discovery(135, six(3), &[B])), spoofed);
    assert_eq!(reason(six(2), &discovery(135, six(3), &[A, B])), spoofed, "in a second option");
    assert_eq!(reason(six(2), &discovery(135, six(3), &[A, A, A])), spoofed, "in more options than are checked");
    assert_eq!(reason([0; 16], &discovery(135, six(2), &[])), None, "checks its own address for duplicates");
    assert_eq!(reason([0; 16], &discovery(135, six(3), &[])), spoofed, "claims another station's address");
    assert_eq!(reason(six(2), &discovery(136, six(2), &[A])), None);
    assert_eq!(reason(six(2), &discovery(136, Address::link_local(A).octets(), &[A])), None);
    assert_eq!(reason(six(2), &discovery(136, six(3), &[A])), spoofed);
    assert_eq!(reason(six(2), &discovery(136, six(2), &[B])), spoofed);
    let mut endless = discovery(136, six(2), &[A]);
    endless[25] = 0;
    assert_eq!(reason(six(2), &endless), spoofed, "an option without length");
    assert_eq!(reason(six(2), &discovery(136, six(2), &[A])[..20]), Some(DropReason::Truncated));
    let options = ipv6(six(2), &[60, 58, 0, 1, 4, 0, 0, 0, 0], &discovery(136, six(3), &[A]));
    assert_eq!(dropped(&tables, &options), spoofed, "behind an extension header");
}

#[test]
fn endpoints_are_no_routers_dhcp_servers_or_bridges() {
    let tables = guarded(|_| {});
    let off = guarded(|port| port.flags = Port::SPOOF_GUARD);
    let routers = Some(DropReason::RouterAdvertisement);
    let server = Some(DropReason::DhcpServer);
    let fragment = [58, 0, 0, 1, 0, 0, 0, 0];
    let cases = [
        (ipv6(six(2), &[58], &[134, 0, 0, 0, 0, 0, 0, 0]), routers),
        (ipv6(six(2), &[58], &[137, 0, 0, 0, 0, 0, 0, 0]), routers),
        (ipv6(six(2), &[0, 58, 0, 5, 2, 0, 0, 1, 0], &[130, 0, 0, 0, 0, 0, 0, 0]), routers),
        (ipv6(six(2), &[&[44], &fragment[..]].concat(), &[134, 0, 0, 0, 0, 0, 0, 0]), routers),
        (ipv4(OWN, 2, 0, &[0x11, 0, 0, 0, 0, 0, 0, 0]), routers),
        (ipv4(OWN, 17, 0, &udp(67)), server),
        (ipv6(six(2), &[17], &udp(547)), server),
        (std::vec![0, 38, 0x42, 0x42, 3, 0, 0], Some(DropReason::Bpdu)),
        (std::vec![0, 60, 0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x0b], Some(DropReason::Bpdu)),
    ];
    for (packet, reason) in cases {
        assert_eq!(dropped(&tables, &packet), reason, "{packet:02x?}");
        assert_eq!(dropped(&off, &packet), None, "with the guard off: {packet:02x?}");
        let tagged = [&[0x81, 0, 0, 0][..], &packet].concat();
        assert_eq!(dropped(&tables, &tagged), reason, "behind a tag: {packet:02x?}");
    }
    for packet in [
        ipv6(six(2), &[58], &[133, 0, 0, 0, 0, 0, 0, 0]),
        ipv6(six(2), &[58], &[128, 0, 0, 0, 0, 0, 0, 0]),
        ipv4(OWN, 2, 0, &[0x16, 0, 0, 0, 0, 0, 0, 0]),
        ipv4(OWN, 17, 0, &udp(68)),
        ipv6(six(2), &[17], &udp(546)),
        ipv4(OWN, 17, 100, &udp(67)),
        std::vec![0, 38, 0xe0, 0xe0, 3, 0, 0],
    ] {
        assert_eq!(dropped(&tables, &packet), None, "{packet:02x?}");
    }
    let hop = [60, 0, 1, 4, 0, 0, 0, 0];
    let chain = [&[60][..], &hop, &hop, &[58, 0, 1, 4, 0, 0, 0, 0]].concat();
    assert_eq!(dropped(&tables, &ipv6(six(2), &chain, &[134, 0, 0, 0])), Some(DropReason::HeaderChain));
    let bpdu = frame(Mac([1, 0x80, 0xc2, 0, 0, 0]), A, &[0, 38, 0x42, 0x42, 3]);
    assert_eq!(decided(&forward(11, bpdu.as_slice(), &tables, NOW)), Verdict::Drop(DropReason::Bpdu));
    let through = guarded(|port| (port.flags, port.group_fwd_mask) = (Port::SPOOF_GUARD, 1));
    assert_eq!(decided(&forward(11, bpdu.as_slice(), &through, NOW)), Verdict::Flood(Flood::Group));
}

#[test]
fn an_answer_of_a_dhcp_server_is_known_by_either_port() {
    let tables = guarded(|_| {});
    let server = Some(DropReason::DhcpServer);
    for (source, destination, reason) in
        [(67, 68, server), (1067, 68, server), (67, 67, server), (68, 67, None), (68, 9, None)]
    {
        let packet = ipv4(OWN, 17, 0, &datagram(source, destination));
        assert_eq!(dropped(&tables, &packet), reason, "{source} to {destination}");
        let first = ipv4(OWN, 17, 0x2000, &datagram(source, destination));
        assert_eq!(dropped(&tables, &first), reason, "a first fragment, {source} to {destination}");
    }
    for (source, destination, reason) in
        [(547, 546, server), (1547, 546, server), (547, 547, server), (546, 547, None), (546, 9, None)]
    {
        let packet = ipv6(six(2), &[17], &datagram(source, destination));
        assert_eq!(dropped(&tables, &packet), reason, "{source} to {destination}");
        let first = ipv6(six(2), &[44, 17, 0, 0, 1, 0, 0, 0, 9], &datagram(source, destination));
        assert_eq!(dropped(&tables, &first), reason, "a first fragment, {source} to {destination}");
    }
    let mut short = ipv4(OWN, 17, 0x2000, &datagram(7, 7));
    short[5] = 24;
    assert_eq!(dropped(&tables, &short), Some(DropReason::Truncated), "the ports are in another fragment");
}

#[test]
fn an_ipv6_packet_ends_where_its_payload_length_says() {
    let tables = guarded(|_| {});
    let with_length = |mut packet: Vec<u8>, length: u16| {
        packet.splice(6..8, length.to_be_bytes());
        packet
    };
    let chain = Some(DropReason::HeaderChain);
    // A first fragment whose transport header is behind the end of the packet: what the guards
    // would read there is not what the receiver puts together.
    let options: &[u8] = &[44, 60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0];
    let first = ipv6(six(2), options, &datagram(7, 7));
    assert_eq!(dropped(&tables, &first), None);
    for length in [8, 16, 16 + 4, 16 + 7] {
        assert_eq!(dropped(&tables, &with_length(first.clone(), length)), chain, "{length} bytes");
    }
    let tcp = ipv6(six(2), &[44, 6, 0, 0, 1, 0, 0, 0, 9], &[0; 24]);
    assert_eq!(dropped(&tables, &tcp), None);
    assert_eq!(dropped(&tables, &with_length(tcp, 8 + 16)), chain);
    let message = ipv6(six(2), &[44, 58, 0, 0, 1, 0, 0, 0, 9], &[128, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(dropped(&tables, &message), None);
    assert_eq!(dropped(&tables, &with_length(message, 8)), chain);
    // A payload length of zero belongs to a jumbogram, whose real length is in an option. The
    // kernel sends TCP so (BIG TCP).
    let jumbo = |next: u8| [&[0, next, 0][..], &[0xc2, 4, 0, 1, 0, 0]].concat();
    let advertisement = ipv6(six(2), &jumbo(58), &discovery(136, six(2), &[B]));
    assert_eq!(dropped(&tables, &with_length(advertisement, 0)), chain);
    assert_eq!(dropped(&tables, &with_length(ipv6(six(2), &jumbo(17), &datagram(547, 9)), 0)), chain);
    assert_eq!(dropped(&tables, &with_length(ipv6(six(2), &jumbo(6), &[0; 20]), 0)), None);
    let nothing = ipv6(six(2), &[59], &[0; 4]);
    assert_eq!(dropped(&tables, &with_length(nothing, 0)), None, "no next header");
    let cut = ipv6(six(2), &[58], &discovery(136, six(2), &[A]));
    assert_eq!(dropped(&tables, &with_length(cut, 16)), Some(DropReason::Truncated), "within its target");
}

#[test]
fn the_host_and_the_wire_are_not_guarded() {
    let tables = guarded(|_| {});
    let offer = frame(Mac::BROADCAST, STRANGER, &ipv4(OTHERS, 17, 0, &udp(67)));
    assert!(matches!(decided(&forward(14, offer.as_slice(), &tables, NOW)), Verdict::Flood(_)));
}

#[test]
fn requests_for_known_addresses_are_answered() {
    let tables = guarded(|port| port.flags |= Port::ARP_SUPPRESS);
    let asks = |target: [u8; 4]| {
        let mut request = arp(A, OWN);
        request.splice(26.., target);
        verdict(&tables, A, &request)
    };
    assert_eq!(asks(OTHERS), Verdict::Answer(Answer::Arp, PortNumber(2)));
    assert_eq!(asks(NOBODYS), Verdict::Flood(Flood::Group));
    assert_eq!(asks(OWN), Verdict::Flood(Flood::Group), "an announcement");
    let solicits = |target: u8| {
        let packet = ipv6(six(2), &[58], &discovery(135, six(target), &[A]));
        let to = frame(Mac([0x33, 0x33, 0xff, 0, 0, target]), A, &packet);
        decided(&forward(11, to.as_slice(), &tables, NOW))
    };
    assert_eq!(solicits(3), Verdict::Answer(Answer::Neighbor, PortNumber(2)));
    assert_eq!(solicits(99), Verdict::Flood(Flood::Group));
    let isolated = guarded(|port| port.flags |= Port::ARP_SUPPRESS | Port::ISOLATED);
    let mut request = arp(A, OWN);
    request.splice(26.., OTHERS);
    assert_eq!(verdict(&isolated, A, &request), Verdict::Flood(Flood::Group));
    let packet = ipv6(six(2), &[58], &discovery(135, six(3), &[A]));
    let whole = frame(B, A, &packet);
    let read = Solicitation::read(whole.as_slice(), 14).expect("a solicitation");
    assert_eq!((read.source.octets(), read.target.octets()), (six(2), six(3)));
}
