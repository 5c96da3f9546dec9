//! Frames that are longer than a tunnel may send.

use std::vec::Vec;

use super::super::tests::{A, B, HOST, NOW, decided, frame};
use super::super::tunnel_tests::{FAR, tables as without_mtus};
use super::*;
use crate::forward::{Copied, Flooded, forward, forward_xdp, part};
use crate::mac::Mac;
use crate::packet::{Tag, TunnelKey};
use crate::tables::memory::MemoryTables;
use crate::tables::{FdbEntry, FdbKey, NetworkNumber, PortNumber, VlanKey};
use crate::verdict::{Answer, Decision, Delivery, DropReason, Verdict};

/// The MTU of the tunnels.
const MTU: u16 = 1350;
/// The ports of the tunnels over IPv4 and IPv6 to the stations of [`FAR`].
const TUNNELS: [PortNumber; 2] = [PortNumber(7), PortNumber(8)];
const TOO_BIG: Verdict = Verdict::Drop(DropReason::TooBig);

/// A GSO packet.
struct Gso {
    bytes: Vec<u8>,
    segment: u32,
}

impl Packet for Gso {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes[..].read(offset)
    }

    fn offloaded_tag(&self) -> Option<Tag> {
        None
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn segment(&self) -> u32 {
        self.segment
    }

    fn tunnel(&self) -> Option<TunnelKey> {
        None
    }
}

fn tables_of(mtu: u16) -> MemoryTables {
    let mut tables = without_mtus();
    for number in TUNNELS {
        tables.ports.get_mut(&number).expect("a tunnel").mtu = mtu;
    }
    tables
}

fn ipv4(flags: u32, protocol: u8, rest: &[u8], length: u16) -> Vec<u8> {
    let [a, b] = length.to_be_bytes();
    let [.., c, d] = flags.to_be_bytes();
    let header = [0x45, 0, a, b, 0, 0, c, d, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let mut packet = [&header[..], rest].concat();
    packet.resize(length.into(), 0);
    [&[8, 0][..], &packet].concat()
}

fn ipv6(next: u8, rest: &[u8], length: u16) -> Vec<u8> {
    let [a, b] = (length - 40).to_be_bytes();
    let mut packet = [&[0x60, 0, 0, 0, a, b, next, 64][..], &[0xfd; 32], rest].concat();
    packet.resize(length.into(), 0);
    [&[0x86, 0xdd][..], &packet].concat()
}

#[track_caller]
fn of(tables: &MemoryTables, ifindex: u32, bytes: Vec<u8>, segment: u32) -> Decision {
    let packet = Gso { bytes, segment };
    let decision = forward(ifindex, &packet, tables, NOW);
    let part = if ifindex == 13 { part::unicast_from_host } else { part::unicast_from_container };
    assert_eq!(part(ifindex, &packet, tables, NOW), decision);
    decision
}

/// Returns the verdicts of a packet from container A into the tunnels over IPv4 and IPv6.
#[track_caller]
fn into(mtu: u16, packet: &[u8], segment: u32) -> [Verdict; 2] {
    let tables = tables_of(mtu);
    FAR.map(|far| decided(&of(&tables, 11, frame(far, A, packet), segment)))
}

fn goes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Redirect(Delivery { port, .. }) if TUNNELS.contains(port))
}

const ANSWERED: [Verdict; 2] =
    [Verdict::Answer(Answer::TooBig, TUNNELS[0]), Verdict::Answer(Answer::TooBig, TUNNELS[1])];

#[test]
fn packets_that_may_not_be_fragmented_are_answered_from_one_byte_too_many() {
    for packet in [|length| ipv4(DF, 17, &[], length), |length| ipv6(17, &[], length)] {
        assert!(into(MTU, &packet(MTU), 0).iter().all(goes));
        assert_eq!(into(MTU, &packet(MTU + 1), 0), ANSWERED);
        // The host does not reach stations behind tunnels, and gets no answer.
        let decision = of(&tables_of(MTU), 13, frame(FAR[1], HOST, &packet(MTU + 1)), 0);
        assert_eq!(decided(&decision), Verdict::Drop(DropReason::Isolated));
    }
    // Without an MTU every length passes.
    assert!(into(0, &ipv4(DF, 17, &[], 9000), 0).iter().all(goes));
}

#[test]
fn tags_count_against_the_mtu_of_a_tunnel() {
    // A frame with a priority tag, or of a VLAN other than the tunnel's, is tagged in the tunnel.
    let tables = |vlan: u16| {
        let mut tables = tables_of(MTU);
        tables.ports.get_mut(&PortNumber(1)).expect("A").vlan = VlanKey(vlan);
        for (number, mac) in TUNNELS.into_iter().zip(FAR) {
            let known = FdbKey { network: NetworkNumber(1), vlan: VlanKey(vlan), mac };
            tables.fdb.insert(known, FdbEntry { port: number, seen: NOW, ..FdbEntry::default() });
        }
        tables
    };
    let sent = |vlan: u16, packet: &[u8], segment: u32| {
        FAR.map(|far| decided(&of(&tables(vlan), 11, frame(far, A, packet), segment)))
    };
    let priority = |packet: Vec<u8>| [&[0x81, 0, 0x20, 0][..], &packet].concat();
    let packet = |length| ipv4(DF, 17, &[], length);
    for length in [MTU - 4, MTU - 3] {
        let answered = length > MTU - 4;
        for verdicts in [sent(30, &packet(length), 0), sent(0, &priority(packet(length)), 0)] {
            assert!(if answered { verdicts == ANSWERED } else { verdicts.iter().all(goes) }, "{length}: {verdicts:?}");
        }
        // In segments of that length.
        let verdicts = sent(30, &packet(30_000), u32::from(length) - 28);
        assert!(if answered { verdicts == ANSWERED } else { verdicts.iter().all(goes) }, "{length}: {verdicts:?}");
    }
    let double = |length| [&[0x88, 0xa8, 0x20, 0, 0x81, 0, 0, 30][..], &packet(length)].concat();
    assert!(sent(30, &double(MTU - 8), 0).iter().all(goes));
    assert_eq!(sent(30, &double(MTU - 7), 0), ANSWERED);
    // Copies of a flood.
    for (length, count) in [(MTU - 4, 2), (MTU - 3, 0)] {
        let bytes = frame(Mac::BROADCAST, A, &packet(length));
        let decision = forward(11, &bytes[..], &tables(30), NOW);
        let flooded = Flooded::new(&decision, &bytes[..], &tables(30).ports[&PortNumber(1)]);
        let tunnels = TUNNELS.map(|number| flooded.copy(&tables(30).ports[&number], number, &tables(30)));
        let copies = tunnels.iter().filter(|copied| matches!(copied, Copied::Tag(_))).count();
        assert_eq!(copies, count, "{length}: {tunnels:?}");
    }
}

#[test]
fn xdp_defers_the_answer_to_tcx() {
    let tables = tables_of(MTU);
    let bytes = frame(FAR[1], A, &ipv4(DF, 17, &[], MTU + 1));
    let decision = forward_xdp(11, PortKind::Container, &bytes[..], &tables, NOW);
    assert_eq!(decided(&decision), Verdict::Defer);
}

#[test]
fn packets_are_fragmented_where_both_inner_and_outer_packet_may_be() {
    for (flags, then) in [(0, ANSWERED[1]), (0x2000, ANSWERED[1]), (0x00b9, TOO_BIG), (0x20b9, TOO_BIG)] {
        let [over4, over6] = into(MTU, &ipv4(flags, 17, &[], 1450), 0);
        assert!(goes(&over4), "{flags:#x}");
        assert_eq!(over6, then, "{flags:#x}");
    }
    let [over4, over6] = into(MTU, &ipv4(0, 17, &[], 9000), 1400);
    assert!(goes(&over4));
    assert_eq!(over6, ANSWERED[1]);
    // An ICMP error is not answered.
    assert_eq!(into(MTU, &ipv4(0, 1, &[3, 4], 1400), 0)[1], TOO_BIG);
}

/// Returns whether the tunnels over IPv4 and IPv6 get a copy of a broadcast packet.
fn flooded(tables: &MemoryTables, packet: &[u8]) -> [bool; 2] {
    let bytes = frame(Mac::BROADCAST, A, packet);
    let decision = forward(11, &bytes[..], tables, NOW);
    let flooded = Flooded::new(&decision, &bytes[..], &tables.ports[&PortNumber(1)]);
    TUNNELS.map(|number| matches!(flooded.copy(&tables.ports[&number], number, tables), Copied::Tag(_)))
}

#[test]
fn floods_are_fragmented_as_unicast_is() {
    let mut tables = tables_of(MTU);
    // Fragments and packets without DF; no other protocols.
    for (packet, expected) in [
        (ipv4(0, 17, &[], MTU), [true, true]),
        (ipv4(DF, 17, &[], MTU), [true, true]),
        (ipv4(0, 17, &[], MTU + 1), [true, false]),
        (ipv4(0x2000, 17, &[], MTU + 1), [true, false]),
        (ipv4(0x00b9, 17, &[], MTU + 1), [true, false]),
        (ipv4(DF, 17, &[], MTU + 1), [false, false]),
        (ipv6(17, &[], MTU + 1), [false, false]),
        ([&[0x88, 0xb5][..], &[0; 1400]].concat(), [false, false]),
    ] {
        assert_eq!(flooded(&tables, &packet), expected, "{:x?}", &packet[..12]);
    }
    assert_eq!(flooded(&tables_of(1230), &ipv6(17, &[], LEAST_IPV6)), [true, false]);
    // Only tunnels fragment.
    let b = tables.ports.get_mut(&PortNumber(2)).expect("B");
    b.mtu = MTU;
    let bytes = frame(Mac::BROADCAST, A, &ipv4(0, 17, &[], MTU + 1));
    let flooded = Flooded::new(&forward(11, &bytes[..], &tables, NOW), &bytes[..], &tables.ports[&PortNumber(1)]);
    assert_eq!(flooded.copy(&tables.ports[&PortNumber(2)], PortNumber(2), &tables), Copied::TooBig);
}

#[test]
fn wireguard_fragments_its_packets() {
    let mut tables = tables_of(MTU);
    let inner = [&[0xfd, 0x76, 0x73, 0x77, 0x69, 0x74][..], &[7; 10]].concat();
    let inner = crate::packet::address::Address::new(inner.try_into().expect("16 bytes"));
    tables.ports.get_mut(&TUNNELS[1]).expect("a tunnel").ipv6 = inner;
    let sent = |packet: &[u8]| decided(&of(&tables, 11, frame(FAR[1], A, packet), 0));
    assert!(goes(&sent(&ipv4(0, 17, &[], 1450))));
    assert_eq!(sent(&ipv4(DF, 17, &[], 1450)), ANSWERED[1]);
}

#[test]
fn errors_and_later_fragments_are_not_answered() {
    for kind in [3, 4, 5, 11, 12] {
        assert_eq!(into(MTU, &ipv4(DF, 1, &[kind, 0], 1400), 0), [TOO_BIG; 2], "{kind}");
    }
    for kind in [1, 2, 3, 4, 127, 137] {
        assert_eq!(into(MTU, &ipv6(58, &[kind, 0], 1400), 0), [TOO_BIG; 2], "{kind}");
    }
    assert_eq!(into(MTU, &ipv4(DF | 1, 17, &[], 1400), 0), [TOO_BIG; 2]);
    for echo in [ipv4(DF, 1, &[8, 0], 1400), ipv4(DF, 1, &[0, 0], 1400), ipv6(58, &[128, 0], 1400)] {
        assert_eq!(into(MTU, &echo, 0), ANSWERED);
    }
    // The first fragment of a packet with DF.
    assert_eq!(into(MTU, &ipv4(DF | 0x2000, 17, &[], 1400), 0), ANSWERED);
}

#[test]
fn frames_that_are_not_ip_are_dropped() {
    for ethertype in [[8, 6], [0x88, 0xb5]] {
        let packet = [&ethertype[..], &[0; 1400]].concat();
        assert_eq!(into(MTU, &packet, 0), [TOO_BIG; 2]);
    }
}

#[test]
fn segments_are_measured_with_their_header_options() {
    // For example 20 + 32 bytes of headers, as TCP has with timestamps.
    let tcp = |offset: u8| [&[0; 12][..], &[offset, 0], &[0; 40]].concat();
    for (offset, headers) in [(0x50, 40), (0x80, 52), (0xf0, 80)] {
        let packet = ipv4(DF, 6, &tcp(offset), 30_000);
        let most = u32::from(MTU) - headers;
        assert!(into(MTU, &packet, most).iter().all(goes), "{offset:#x}");
        assert_eq!(into(MTU, &packet, most + 1), ANSWERED, "{offset:#x}");
        let packet = ipv6(6, &tcp(offset), 30_000);
        assert!(into(MTU, &packet, most - 20).iter().all(goes), "{offset:#x}");
        assert_eq!(into(MTU, &packet, most - 19), ANSWERED, "{offset:#x}");
    }
    let udp = ipv4(DF, 17, &[], 30_000);
    assert!(into(MTU, &udp, u32::from(MTU) - 28).iter().all(goes));
    assert_eq!(into(MTU, &udp, u32::from(MTU) - 27), ANSWERED);
    // Between containers a GSO packet passes whole.
    let tables = tables_of(MTU);
    assert!(matches!(decided(&of(&tables, 11, frame(B, A, &udp), 1400)), Verdict::Redirect(_)));
}

#[test]
fn ipv6_packets_of_the_least_mtu_are_not_answered() {
    let small = 1230;
    let [over4, over6] = into(small, &ipv6(17, &[], LEAST_IPV6), 0);
    assert!(goes(&over4), "in fragments of the outer packet");
    assert_eq!(over6, TOO_BIG);
    assert_eq!(into(small, &ipv6(17, &[], LEAST_IPV6 + 1), 0), ANSWERED);
    assert_eq!(into(small, &ipv4(DF, 17, &[], LEAST_IPV6), 0), ANSWERED);
}

#[test]
fn truncated_packets_are_not_answered() {
    let whole = frame(FAR[0], A, &ipv4(DF, 1, &[8, 0], 1400));
    for kept in [14, 20, 22, 23, 33, 34, 35] {
        let tables = tables_of(10);
        let cut = whole[..kept].to_vec();
        // No panic, and an ICMP message without its type is not answered.
        let verdict = decided(&of(&tables, 11, cut, 0));
        if (24..36).contains(&kept) {
            assert_eq!(verdict, TOO_BIG, "{kept}");
        }
    }
    let group = frame(Mac::BROADCAST, A, &ipv4(DF, 17, &[], 1400));
    let decision = forward(11, &group[..], &tables_of(MTU), NOW);
    assert!(matches!(decided(&decision), Verdict::Flood(_)));
}
