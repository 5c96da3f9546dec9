//! Packets on the underlay, over tables in memory.

use super::*;
use crate::packet::Tag;
use crate::packet::address::Address;
use crate::tables::memory::MemoryTables;
use crate::tables::{NetworkNumber, Port, PortKind};

const PORT: u16 = 4789;
const VNI: u32 = 0x01_02_03;
const PEER: [u8; 4] = [192, 0, 2, 2];
const OURS: [u8; 4] = [192, 0, 2, 1];
const RECEIVER: u32 = 7;

fn tables() -> MemoryTables {
    let mut tables = MemoryTables::default();
    let port = Port {
        network: NetworkNumber(1),
        kind: PortKind::Tunnel as u8,
        ipv6: Address::mapped(PEER),
        ..Port::default()
    };
    tables.add_tunnel(PortNumber(5), port, VNI);
    let six = Port { ipv6: Address::new(peer6()), ..port };
    tables.add_tunnel(PortNumber(6), six, VNI);
    let end = TunnelEnd { port: PORT, flags: 0, receiver: RECEIVER };
    tables.underlay.insert(Address::mapped(OURS), end);
    tables.underlay.insert(Address::new(ours6()), end);
    tables
}

fn ours6() -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[15]) = (0xfd, 1);
    address
}

fn peer6() -> [u8; 16] {
    let mut address = ours6();
    address[15] = 2;
    address
}

/// Returns an inner IPv4 frame of a protocol.
fn inner(carries: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45];
    frame.resize(HEADER + 60, 0);
    frame[HEADER + 9] = carries;
    frame
}

fn udp_and_vxlan(inner: &[u8]) -> Vec<u8> {
    let length = (UDP + VXLAN + inner.len()) as u16;
    let mut bytes = vec![0xc0, 0];
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, VNI_VALID, 0, 0, 0, 1, 2, 3, 0]);
    bytes.extend(inner);
    bytes
}

fn over4(inner: &[u8]) -> Vec<u8> {
    let behind = udp_and_vxlan(inner);
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0];
    frame.extend(((ipv4::HEADER + behind.len()) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol::UDP, 0, 0]);
    frame.extend(PEER);
    frame.extend(OURS);
    frame.extend(behind);
    frame
}

fn over6(inner: &[u8]) -> Vec<u8> {
    let behind = udp_and_vxlan(inner);
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x86, 0xdd, 0x60, 0, 0, 0];
    frame.extend((behind.len() as u16).to_be_bytes());
    frame.extend([protocol::UDP, 64]);
    frame.extend(peer6());
    frame.extend(ours6());
    frame.extend(behind);
    frame
}

fn of(frame: &[u8]) -> Arrival {
    arrive(frame, &tables())
}

const DROPPED: u32 = DropReason::VxlanHeader as u32;

/// A GSO packet with segments of 1024 bytes.
struct Gso<'a>(&'a [u8]);

impl Packet for Gso<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.read(offset)
    }

    fn offloaded_tag(&self) -> Option<Tag> {
        None
    }

    fn length(&self) -> usize {
        self.0.length()
    }

    fn segment(&self) -> u32 {
        1024
    }
}

#[test]
fn packets_other_than_tcp_are_unwrapped_and_tcp_goes_into_the_receiver() {
    for (carries, what) in [(17, arrival::UNWRAP), (1, arrival::UNWRAP), (protocol::TCP, arrival::GATHER)] {
        let arrival = of(&over4(&inner(carries)));
        assert_eq!((arrival.action, arrival.key), (what, TunnelKey::new(Address::mapped(PEER), VNI)));
        assert_eq!((arrival.port, arrival.receiver, arrival.congested), (PortNumber(5), RECEIVER, 0));
    }
    for carries in [protocol::UDP, protocol::TCP] {
        assert_eq!(of(&over6(&inner(carries))), Arrival::MARKED);
        let mut group = inner(carries);
        group[0] = 0xff;
        assert_eq!(of(&over4(&group)), Arrival::MARKED);
        let mut arp = inner(carries);
        (arp[12], arp[13]) = (8, 6);
        assert_eq!(of(&over4(&arp)), Arrival::MARKED);
        // The host's stack has to verify the checksum.
        let mut summed = over4(&inner(carries));
        summed[HEADER + ipv4::HEADER + 6] = 1;
        assert_eq!(of(&summed), Arrival::MARKED);
    }
}

#[test]
fn after_a_gso_packet_tcp_passes_to_the_host() {
    let (mut tables, tcp) = (tables(), over4(&inner(protocol::TCP)));
    assert_eq!(arrive(&Gso(&tcp), &tables), Arrival { action: arrival::GSO, ..Arrival::MARKED });
    assert_eq!(arrive(&Gso(&over4(&inner(protocol::UDP))), &tables), Arrival::MARKED, "a GSO packet that is not TCP");
    for end in [
        TunnelEnd { port: PORT, flags: TunnelEnd::GSO_ARRIVES, receiver: RECEIVER },
        TunnelEnd { port: PORT, flags: 0, receiver: 0 },
    ] {
        tables.underlay.insert(Address::mapped(OURS), end);
        assert_eq!(arrive(&Gso(&tcp), &tables), Arrival::MARKED);
        assert_eq!(arrive(&*tcp, &tables), Arrival::MARKED);
        assert_eq!(arrive(&*over4(&inner(protocol::UDP)), &tables).action, arrival::UNWRAP);
    }
}

#[test]
fn congestion_is_copied_to_inner_packets_of_senders_with_ecn() {
    for carries in [protocol::UDP, protocol::TCP] {
        for (outside, inside) in (0..4_u8).flat_map(|outside| (0..4_u8).map(move |inside| (outside, inside))) {
            let mut frame = over4(&inner(carries));
            (frame[HEADER + 1], frame[INNER + HEADER + 1]) = (0xb8 | outside, inside);
            let arrival = of(&frame);
            if (outside, inside) == (3, 0) {
                assert_eq!(arrival, Arrival::MARKED, "the device drops it");
            } else {
                assert_eq!(arrival.congested == 1, outside == 3, "{outside} {inside}");
                assert_ne!(arrival.action, arrival::PASS, "{outside} {inside}");
            }
        }
    }
}

#[test]
fn each_reserved_bit_and_each_missing_byte_is_a_drop() {
    for (frame, at) in [(over4(&inner(17)), 42), (over6(&inner(17)), 62)] {
        for bit in (0..32).chain(56..64) {
            let mut frame = frame.clone();
            frame[at + bit / 8] ^= 0x80 >> (bit % 8);
            let arrival = of(&frame);
            assert_eq!((arrival.action, arrival.reason), (arrival::DROP, DROPPED), "bit {bit}");
        }
        // The frame is cut off.
        for length in at..frame.len() {
            let arrival = of(&frame[..length]);
            assert_eq!((arrival.action, arrival.reason), (arrival::DROP, DROPPED), "{length} bytes");
        }
        // The length in the UDP header ends within the inner Ethernet header.
        for length in 0..UDP + VXLAN + HEADER {
            let mut frame = frame.clone();
            frame[at - 4..at - 2].copy_from_slice(&(length as u16).to_be_bytes());
            assert_eq!(of(&frame).reason, DROPPED, "{length} bytes of UDP");
        }
    }
}

#[test]
fn unknown_peers_and_unknown_vnis_have_different_reasons() {
    let mut stranger = over4(&inner(17));
    stranger[29] = 99;
    assert_eq!((of(&stranger).action, of(&stranger).reason), (arrival::DROP, DropReason::UnknownPeer as u32));
    let mut unknown = over4(&inner(17));
    unknown[INNER - 2] = 99;
    assert_eq!((of(&unknown).action, of(&unknown).reason), (arrival::DROP, DropReason::UnknownVni as u32));
}

#[test]
fn packets_for_other_hosts_pass() {
    let whole = over4(&inner(17));
    let changed = |at: usize, value: u8| {
        let mut frame = whole.clone();
        frame[at] = value;
        of(&frame)
    };
    // Another host's address, another port, another protocol, no IP.
    for (at, value) in [(33, 99), (37, 0), (23, protocol::TCP), (13, 6)] {
        assert_eq!(changed(at, value), Arrival::PASS, "byte {at}");
    }
    // With options, or in fragments, a packet may be a tunnel's.
    for (at, value) in [(14, 0x46), (20, 0x20), (21, 1)] {
        assert_eq!(changed(at, value), Arrival::MARKED, "byte {at}");
        let mut other = whole.clone();
        (other[at], other[33]) = (value, 99);
        assert_eq!(of(&other), Arrival::PASS, "for another host");
    }
    let six = over6(&inner(17));
    for (next, expected) in
        [(44, Arrival::MARKED), (60, Arrival::MARKED), (protocol::TCP, Arrival::PASS), (58, Arrival::PASS)]
    {
        let mut frame = six.clone();
        frame[20] = next;
        assert_eq!(of(&frame), expected, "next header {next}");
    }
    for length in 0..42 {
        assert_eq!(of(&whole[..length]), Arrival::PASS, "{length} bytes");
    }
}

#[test]
fn inner_wireguard_addresses_are_dropped_on_the_underlay() {
    let inside = [0xfd, 0x76, 0x73, 0x77, 0x69, 0x74, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    for carries in [protocol::UDP, protocol::TCP, protocol::FRAGMENT, protocol::ICMPV6, protocol::HOP_BY_HOP] {
        for at in [HEADER + 8, HEADER + 24] {
            let mut frame = over6(&inner(protocol::UDP));
            frame[HEADER + 6] = carries;
            frame[at..at + 16].copy_from_slice(&inside);
            assert_eq!(of(&frame), Arrival::drop(DropReason::UnknownPeer), "{carries} at {at}");
        }
    }
}
