//! Tests of the ICMP errors, parsed with etherparse; the checksums are added up separately.

use etherparse::{Icmpv4Type, Icmpv6Type, LinkSlice, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;

const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const FAR: [u8; 6] = [2, 0, 0, 0, 1, 1];

fn ethernet(ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&FAR[..], &SENDER, &ethertype, packet].concat()
}

/// An IPv4 packet with DF, captured as far as the program does.
fn four(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 5, 0x78, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 10, 1, 2, 10, 10, 2, 2];
    packet.extend((0..158).map(|byte| byte as u8));
    change(&mut packet);
    ethernet([8, 0], &packet)
}

fn six(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 5, 0x50, 17, 64];
    for last in [1, 2] {
        packet.extend([0xfd, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last, 2]);
    }
    packet.extend((0..138).map(|byte| byte as u8));
    change(&mut packet);
    ethernet([0x86, 0xdd], &packet)
}

/// Returns the Internet checksum over these bytes, which is 0 if they include a correct checksum
/// (RFC 1071).
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut total: u32 = words.sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

#[test]
fn the_error_for_an_ipv4_packet_comes_from_its_destination() {
    let bytes = four(|_| {});
    let answer = answer(&bytes, 0, 1350).expect("an answer");
    assert_eq!((answer.to.to_string(), answer.of.to_string()), ("10.10.1.2".to_owned(), "10.10.2.2".to_owned()));
    let parsed = SlicedPacket::from_ethernet(&answer.frame).expect("a packet");
    let Some(LinkSlice::Ethernet2(link)) = parsed.link else { panic!("{:?}", parsed.link) };
    assert_eq!((link.destination(), link.source()), (SENDER, FAR));
    let Some(NetSlice::Ipv4(ip)) = &parsed.net else { panic!("{:?}", parsed.net) };
    assert_eq!((ip.header().source(), ip.header().destination()), ([10, 10, 2, 2], [10, 10, 1, 2]));
    let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else { panic!("{:?}", parsed.transport) };
    let told = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1350 };
    assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(told));
    assert_eq!(icmp.payload(), &bytes[14..], "all that is there of the packet itself");
    assert_eq!(sum(&[&answer.frame[14..34]]), 0);
    assert_eq!(sum(&[&answer.frame[34..]]), 0);
}

#[test]
fn the_error_for_an_ipv6_packet_comes_from_its_destination() {
    let bytes = six(|_| {});
    let answer = answer(&bytes, 0, 1330).expect("an answer");
    assert_eq!((answer.to.to_string(), answer.of.to_string()), ("fd00:10::102".to_owned(), "fd00:10::202".to_owned()));
    let parsed = SlicedPacket::from_ethernet(&answer.frame).expect("a packet");
    let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!("{:?}", parsed.transport) };
    assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1330 });
    assert_eq!(icmp.payload(), &bytes[14..]);
    let message = &answer.frame[54..];
    let length = u32::try_from(message.len()).expect("a length").to_be_bytes();
    assert_eq!(sum(&[&answer.frame[22..54], &length, &[0, 0, 0, 58], message]), 0);
}

#[test]
fn the_error_has_the_tags_of_the_packet() {
    let tagged = |tags: &[u8]| [&FAR[..], &SENDER, tags, &four(|_| {})[12..]].concat();
    let plain = answer(&four(|_| {}), 0, 1350).expect("an answer").frame;
    for (inside, beside) in [(&[0x81, 0, 0x60, 7][..], 0), (&[], 0x8100_6007), (&[0x81, 0, 0, 9], 0x88a8_0007)] {
        let told = answer(&tagged(inside), beside, 1350).expect("an answer").frame;
        let outer = if beside == 0 { Vec::new() } else { beside.to_be_bytes().to_vec() };
        assert_eq!(told, [&plain[..12], &outer, inside, &plain[12..]].concat());
    }
}

#[test]
fn the_reported_mtu_is_at_least_the_minimum_of_its_family() {
    let told = |bytes: &[u8]| answer(bytes, 0, 40).expect("an answer").frame;
    assert_eq!(told(&four(|_| {}))[40..42], 68_u16.to_be_bytes());
    assert_eq!(told(&six(|_| {}))[58..62], 1280_u32.to_be_bytes());
}

#[test]
fn errors_fragments_and_groups_are_not_answered() {
    let silent = |bytes: Vec<u8>| assert_eq!(answer(&bytes, 0, 1350), None, "{bytes:x?}");
    for kind in [3, 4, 5, 11, 12] {
        silent(four(|packet| (packet[9], packet[20]) = (1, kind)));
    }
    assert!(answer(&four(|packet| (packet[9], packet[20]) = (1, 8)), 0, 1350).is_some(), "an echo request");
    for kind in [1, 2, 3, 4, 137] {
        silent(six(|packet| (packet[6], packet[40]) = (58, kind)));
        // The same message behind an extension header.
        silent(six(|packet| {
            packet[6] = 0;
            packet[40..42].copy_from_slice(&[58, 0]);
            packet[48] = kind;
        }));
    }
    assert!(answer(&six(|packet| (packet[6], packet[40]) = (58, 128)), 0, 1350).is_some());
    // Fragments after the first get no reply. The flags of other IPv4 packets do not matter.
    for flags in [0, 0x20] {
        assert!(answer(&four(|packet| packet[6] = flags), 0, 1350).is_some(), "{flags:x}");
    }
    silent(four(|packet| packet[7] = 1));
    silent(four(|packet| packet[6..8].copy_from_slice(&[0x20, 1])));
    silent(six(|packet| {
        packet[6] = 44;
        packet[40..44].copy_from_slice(&[17, 0, 0, 8]);
    }));
    // Packets from or to unspecified, loopback, multicast and broadcast addresses get no reply.
    for place in [12, 16] {
        for address in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            silent(four(|packet| packet[place..place + 4].copy_from_slice(&address)));
        }
    }
    for place in [8, 24] {
        for address in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, "ff02::1".parse().expect("an address")] {
            silent(six(|packet| packet[place..place + 16].copy_from_slice(&address.octets())));
        }
    }
    for place in [0, 6] {
        let mut bytes = four(|_| {});
        bytes[place] |= 1;
        silent(bytes);
    }
}

#[test]
fn malformed_packets_are_not_answered() {
    let silent = |bytes: &[u8]| assert_eq!(answer(bytes, 0, 1350), None, "{bytes:x?}");
    silent(&four(|packet| packet[0] = 0x65));
    silent(&four(|packet| packet[0] = 0x44));
    silent(&six(|packet| packet[0] = 0x40));
    silent(&ethernet([8, 6], &[0; 100]));
    for length in 0..14 + 28 {
        silent(&four(|_| {})[..length]);
    }
    for length in 0..14 + 48 {
        silent(&six(|_| {})[..length]);
    }
    assert!(answer(&four(|_| {})[..14 + 28], 0, 1350).is_some());
    assert!(answer(&six(|_| {})[..14 + 48], 0, 1350).is_some());
}

proptest! {
    #[test]
    fn arbitrary_bytes_cause_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tag: u32, mtu: u16) {
        for start in [vec![], four(|_| {})[..14].to_vec(), six(|_| {})[..14].to_vec()] {
            let bytes = [&start[..], &bytes].concat();
            if let Some(answer) = answer(&bytes, tag, mtu) {
                prop_assert!(answer.frame.len() > bytes.len() && answer.frame.len() < bytes.len() + 60);
            }
        }
    }
}
