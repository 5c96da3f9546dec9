//! Frames that are longer than what a tunnel takes.

use std::vec::Vec;

use super::super::tests::{A, B, HOST, NOW, decided, frame};
use super::super::tunnel_tests::{FAR, tables as without_mtus};
use super::*;
use crate::forward::{Copied, Flooded, forward, forward_early, half};
use crate::mac::Mac;
use crate::packet::{Tag, TunnelKey};
use crate::tables::memory::MemoryTables;
use crate::tables::{FdbEntry, FdbKey, NetworkNumber, PortNumber, VlanKey};
use crate::verdict::{Answer, Decision, Delivery, DropReason, Verdict};

/// What tunnels take.
const MTU: u16 = 1350;
/// The tunnels over IPv4 and IPv6, behind which the stations of [`FAR`] are.
const TUNNELS: [PortNumber; 2] = [PortNumber(7), PortNumber(8)];
const TOO_BIG: Verdict = Verdict::Drop(DropReason::TooBig);

/// A frame whose segments are so long.
struct Train {
    bytes: Vec<u8>,
    segment: u32,
}

impl Packet for Train {
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
    let train = Train { bytes, segment };
    let decision = forward(ifindex, &train, tables, NOW);
    let half = if ifindex == 13 { half::unicast_from_host } else { half::unicast_from_container };
    assert_eq!(half(ifindex, &train, tables, NOW), decision);
    decision
}

/// What becomes of a packet from container A into the tunnels over IPv4 and IPv6.
#[track_caller]
fn into(mtu: u16, packet: &[u8], segment: u32) -> [Verdict; 2] {
    let tables = tables_of(mtu);
    FAR.map(|far| decided(&of(&tables, 11, frame(far, A, packet), segment)))
}

fn goes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Redirect(Delivery { port, .. }) if TUNNELS.contains(port))
}

const TOLD: [Verdict; 2] = [Verdict::Answer(Answer::TooBig, TUNNELS[0]), Verdict::Answer(Answer::TooBig, TUNNELS[1])];

#[test]
fn who_must_not_be_cut_up_is_told_from_the_first_byte_too_much_on() {
    for packet in [|length| ipv4(DF, 17, &[], length), |length| ipv6(17, &[], length)] {
        assert!(into(MTU, &packet(MTU), 0).iter().all(goes));
        assert_eq!(into(MTU, &packet(MTU + 1), 0), TOLD);
        // The host does not reach who is behind a tunnel, and is told nothing.
        let decision = of(&tables_of(MTU), 13, frame(FAR[1], HOST, &packet(MTU + 1)), 0);
        assert_eq!(decided(&decision), Verdict::Drop(DropReason::Isolated));
    }
    // Without a limit all goes.
    assert!(into(0, &ipv4(DF, 17, &[], 9000), 0).iter().all(goes));
}

#[test]
fn tags_take_their_part_of_what_a_tunnel_takes() {
    // One with a priority alone, and what comes in a VLAN of its own, is tagged in the tunnel.
    let tables = |vlan: u16| {
        let mut tables = tables_of(MTU);
        tables.ports.get_mut(&PortNumber(1)).expect("A").vlan = VlanKey(vlan);
        for (number, mac) in TUNNELS.into_iter().zip(FAR) {
            let known = FdbKey { network: NetworkNumber(1), vlan: VlanKey(vlan), mac };
            tables.fdb.insert(known, FdbEntry { port: number, seen: NOW, ..FdbEntry::default() });
        }
        tables
    };
    let said = |vlan: u16, packet: &[u8], segment: u32| {
        FAR.map(|far| decided(&of(&tables(vlan), 11, frame(far, A, packet), segment)))
    };
    let priority = |packet: Vec<u8>| [&[0x81, 0, 0x20, 0][..], &packet].concat();
    let packet = |length| ipv4(DF, 17, &[], length);
    for length in [MTU - 4, MTU - 3] {
        let told = length > MTU - 4;
        for verdicts in [said(30, &packet(length), 0), said(0, &priority(packet(length)), 0)] {
            assert!(if told { verdicts == TOLD } else { verdicts.iter().all(goes) }, "{length}: {verdicts:?}");
        }
        // In segments of that length.
        let verdicts = said(30, &packet(30_000), u32::from(length) - 28);
        assert!(if told { verdicts == TOLD } else { verdicts.iter().all(goes) }, "{length}: {verdicts:?}");
    }
    let double = |length| [&[0x88, 0xa8, 0x20, 0, 0x81, 0, 0, 30][..], &packet(length)].concat();
    assert!(said(0, &double(MTU - 8), 0).iter().all(goes));
    assert_eq!(said(0, &double(MTU - 7), 0), TOLD);
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
fn xdp_leaves_the_answer_to_tcx() {
    let tables = tables_of(MTU);
    let bytes = frame(FAR[1], A, &ipv4(DF, 17, &[], MTU + 1));
    let decision = forward_early(11, PortKind::Container, &bytes[..], &tables, NOW);
    assert_eq!(decided(&decision), Verdict::Leave);
}

#[test]
fn who_may_be_cut_up_is_where_the_outer_packet_may_and_told_where_not() {
    for (flags, then) in [(0, TOLD[1]), (0x2000, TOLD[1]), (0x00b9, TOO_BIG), (0x20b9, TOO_BIG)] {
        let [over4, over6] = into(MTU, &ipv4(flags, 17, &[], 1450), 0);
        assert!(goes(&over4), "{flags:#x}");
        assert_eq!(over6, then, "{flags:#x}");
    }
    let [over4, over6] = into(MTU, &ipv4(0, 17, &[], 9000), 1400);
    assert!(goes(&over4));
    assert_eq!(over6, TOLD[1]);
    // Nobody is told of an error.
    assert_eq!(into(MTU, &ipv4(0, 1, &[3, 4], 1400), 0)[1], TOO_BIG);
}

/// Of the tunnels over IPv4 and IPv6, those that get a copy of a packet to all.
fn flooded(tables: &MemoryTables, packet: &[u8]) -> [bool; 2] {
    let bytes = frame(Mac::BROADCAST, A, packet);
    let decision = forward(11, &bytes[..], tables, NOW);
    let flooded = Flooded::new(&decision, &bytes[..], &tables.ports[&PortNumber(1)]);
    TUNNELS.map(|number| matches!(flooded.copy(&tables.ports[&number], number, tables), Copied::Tag(_)))
}

#[test]
fn floods_are_cut_up_where_what_goes_to_one_is() {
    let mut tables = tables_of(MTU);
    // Fragments of their sender's, and what has no DF; nothing of other protocols.
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
    // No port but a tunnel has them cut up.
    let b = tables.ports.get_mut(&PortNumber(2)).expect("B");
    b.mtu = MTU;
    let bytes = frame(Mac::BROADCAST, A, &ipv4(0, 17, &[], MTU + 1));
    let flooded = Flooded::new(&forward(11, &bytes[..], &tables, NOW), &bytes[..], &tables.ports[&PortNumber(1)]);
    assert_eq!(flooded.copy(&tables.ports[&PortNumber(2)], PortNumber(2), &tables), Copied::TooBig);
}

#[test]
fn wireguard_cuts_up_what_it_sends() {
    let mut tables = tables_of(MTU);
    let inner = [&[0xfd, 0x76, 0x73, 0x77, 0x69, 0x74][..], &[7; 10]].concat();
    let inner = crate::packet::address::Address::new(inner.try_into().expect("16 bytes"));
    tables.ports.get_mut(&TUNNELS[1]).expect("a tunnel").ipv6 = inner;
    let said = |packet: &[u8]| decided(&of(&tables, 11, frame(FAR[1], A, packet), 0));
    assert!(goes(&said(&ipv4(0, 17, &[], 1450))));
    assert_eq!(said(&ipv4(DF, 17, &[], 1450)), TOLD[1]);
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
        assert_eq!(into(MTU, &echo, 0), TOLD);
    }
    // The first fragment of a packet whose sender wants no further ones.
    assert_eq!(into(MTU, &ipv4(DF | 0x2000, 17, &[], 1400), 0), TOLD);
}

#[test]
fn what_is_not_ip_is_dropped() {
    for ethertype in [[8, 6], [0x88, 0xb5]] {
        let packet = [&ethertype[..], &[0; 1400]].concat();
        assert_eq!(into(MTU, &packet, 0), [TOO_BIG; 2]);
    }
}

#[test]
fn the_segments_of_a_train_are_measured_with_their_options() {
    // 20 + 32 bytes of headers, as TCP has them with timestamps.
    let tcp = |offset: u8| [&[0; 12][..], &[offset, 0], &[0; 40]].concat();
    for (offset, headers) in [(0x50, 40), (0x80, 52), (0xf0, 80)] {
        let packet = ipv4(DF, 6, &tcp(offset), 30_000);
        let most = u32::from(MTU) - headers;
        assert!(into(MTU, &packet, most).iter().all(goes), "{offset:#x}");
        assert_eq!(into(MTU, &packet, most + 1), TOLD, "{offset:#x}");
        let packet = ipv6(6, &tcp(offset), 30_000);
        assert!(into(MTU, &packet, most - 20).iter().all(goes), "{offset:#x}");
        assert_eq!(into(MTU, &packet, most - 19), TOLD, "{offset:#x}");
    }
    let udp = ipv4(DF, 17, &[], 30_000);
    assert!(into(MTU, &udp, u32::from(MTU) - 28).iter().all(goes));
    assert_eq!(into(MTU, &udp, u32::from(MTU) - 27), TOLD);
    // Between containers a train passes whole.
    let tables = tables_of(MTU);
    assert!(matches!(decided(&of(&tables, 11, frame(B, A, &udp), 1400)), Verdict::Redirect(_)));
}

#[test]
fn no_sender_makes_ipv6_packets_shorter_than_every_path_takes() {
    let small = 1230;
    let [over4, over6] = into(small, &ipv6(17, &[], LEAST_IPV6), 0);
    assert!(goes(&over4), "it goes in fragments of the outer packet");
    assert_eq!(over6, TOO_BIG);
    assert_eq!(into(small, &ipv6(17, &[], LEAST_IPV6 + 1), 0), TOLD);
    assert_eq!(into(small, &ipv4(DF, 17, &[], LEAST_IPV6), 0), TOLD);
}

#[test]
fn what_is_cut_short_is_not_trusted() {
    let whole = frame(FAR[0], A, &ipv4(DF, 1, &[8, 0], 1400));
    for kept in [14, 20, 22, 23, 33, 34, 35] {
        let tables = tables_of(10);
        let cut = whole[..kept].to_vec();
        // Never a panic, and an ICMP message whose kind is not there is not answered.
        let verdict = decided(&of(&tables, 11, cut, 0));
        if (24..36).contains(&kept) {
            assert_eq!(verdict, TOO_BIG, "{kept}");
        }
    }
    let group = frame(Mac::BROADCAST, A, &ipv4(DF, 17, &[], 1400));
    let decision = forward(11, &group[..], &tables_of(MTU), NOW);
    assert!(matches!(decided(&decision), Verdict::Flood(_)));
}
