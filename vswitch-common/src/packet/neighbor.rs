//! Neighbor discovery (RFC 4861): solicitations, and the advertisements that answer them.

use super::address::Address;
use super::{Packet, ipv6, protocol};
use crate::mac::Mac;

/// ICMPv6 types (RFC 2710, 3810, 4861).
pub mod kind {
    /// Multicast listener query.
    pub const LISTENER_QUERY: u8 = 130;
    /// Version 1 multicast listener report.
    pub const LISTENER_REPORT: u8 = 131;
    /// Version 1 multicast listener done.
    pub const LISTENER_DONE: u8 = 132;
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbor solicitation.
    pub const SOLICITATION: u8 = 135;
    /// Neighbor advertisement.
    pub const ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Version 2 multicast listener report.
    pub const LISTENER_REPORT_2: u8 = 143;
}

/// Bytes of a solicitation or advertisement without options.
pub const LENGTH: usize = 24;
/// Bytes of the option that holds a link-layer address.
pub const OPTION: usize = 8;
/// Bytes of an advertisement with its IPv6 header and the target's link-layer address.
pub const ANSWER: usize = ipv6::HEADER + LENGTH + OPTION;

/// A neighbor solicitation without extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The source address; `::` in duplicate address detection.
    pub source: Address,
    /// The target address.
    pub target: Address,
}

impl Solicitation {
    /// Parses the packet whose IPv6 header is at `offset`. `None` if it is no solicitation, or has
    /// passed a router.
    #[inline(always)]
    pub fn read<P: Packet + ?Sized>(frame: &P, offset: usize) -> Option<Self> {
        let [next, hops] = frame.read(offset + 6)?;
        let [kind, code] = frame.read(offset + ipv6::HEADER)?;
        if (next, hops, kind, code) != (protocol::ICMPV6, 255, kind::SOLICITATION, 0) {
            return None;
        }
        let source = Address::new(frame.read(offset + 8)?);
        Some(Self { source, target: Address::new(frame.read(offset + ipv6::HEADER + 8)?) })
    }

    /// Returns the answer: an advertisement for the target's station `mac`, with IPv6 header and
    /// checksum. It goes to the source, or to all nodes if the source has no address yet (RFC 4861,
    /// 7.2.4).
    #[inline(always)]
    pub fn advertisement(&self, mac: Mac, router: bool) -> [u8; ANSWER] {
        let solicited = !self.source.is_unspecified6();
        let destination = if solicited { self.source } else { Address::ALL_NODES };
        let [m0, m1, m2, m3, m4, m5] = mac.0;
        let flags = (if router { 0x80 } else { 0 }) | (if solicited { 0x40 } else { 0 }) | 0x20;
        let mut answer = [0; ANSWER];
        let (header, message) = answer.split_at_mut(ipv6::HEADER);
        header[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, (LENGTH + OPTION) as u8, protocol::ICMPV6, 255]);
        header[8..24].copy_from_slice(&self.target.octets());
        header[24..40].copy_from_slice(&destination.octets());
        message[..8].copy_from_slice(&[kind::ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0]);
        message[8..24].copy_from_slice(&self.target.octets());
        message[24..32].copy_from_slice(&[2, 1, m0, m1, m2, m3, m4, m5]);
        let sum = u32::from((LENGTH + OPTION) as u16)
            + u32::from(protocol::ICMPV6)
            + u32::from(u16::from_be_bytes([kind::ADVERTISEMENT, 0]))
            + u32::from(u16::from_be_bytes([flags, 0]))
            // The target is in the pseudo-header as the source, and in the message.
            + 2 * self.target.sum()
            + destination.sum()
            + u32::from(u16::from_be_bytes([2, 1]))
            + u32::from(u16::from_be_bytes([m0, m1]))
            + u32::from(u16::from_be_bytes([m2, m3]))
            + u32::from(u16::from_be_bytes([m4, m5]));
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let [c0, c1] = (!(sum as u16)).to_be_bytes();
        (message[2], message[3]) = (c0, c1);
        answer
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use etherparse::{Icmpv6Slice, IpNumber, Ipv6HeaderSlice};
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> Address {
        Address::new(text.parse::<Ipv6Addr>().expect("an address").octets())
    }

    fn solicitation(source: Address, target: Address) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
        packet.extend(source.octets());
        packet.extend(address("ff02::1:ff00:2").octets());
        packet.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(target.octets());
        packet
    }

    #[test]
    fn a_solicitation_is_read_and_others_are_not() {
        let (source, target) = (address("fd00::1"), address("fd00::2"));
        let packet = solicitation(source, target);
        assert_eq!(Solicitation::read(packet.as_slice(), 0), Some(Solicitation { source, target }));
        for (place, value) in [(6, 17), (7, 254), (40, 136), (41, 1)] {
            let mut other = packet.clone();
            other[place] = value;
            assert_eq!(Solicitation::read(other.as_slice(), 0), None, "byte {place}");
        }
        for length in 0..packet.len() {
            assert_eq!(Solicitation::read(&packet[..length], 0), None, "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn the_answer_is_a_valid_advertisement(source in any::<[u8; 16]>(), target in any::<[u8; 16]>(), mac in any::<[u8; 6]>(), router in any::<bool>(), asks in any::<bool>()) {
            let source = if asks { Address::new(source) } else { Address::UNSPECIFIED };
            let target = Address::new(target);
            let answer = Solicitation { source, target }.advertisement(Mac(mac), router);
            let header = Ipv6HeaderSlice::from_slice(&answer).expect("an IPv6 header");
            prop_assert_eq!((header.next_header(), header.hop_limit(), header.payload_length()), (IpNumber::IPV6_ICMP, 255, 32));
            prop_assert_eq!(header.source(), target.octets());
            let to = if source.is_unspecified6() { Address::ALL_NODES } else { source };
            prop_assert_eq!(header.destination(), to.octets());
            let message = Icmpv6Slice::from_slice(&answer[40..]).expect("an ICMPv6 message");
            let valid = message.icmp_type().calc_checksum(header.source(), header.destination(), message.payload());
            prop_assert_eq!(message.checksum(), valid.expect("short"));
            prop_assert_eq!(message.type_u8(), 136);
            prop_assert_eq!(answer[44], u8::from(router) << 7 | u8::from(!source.is_unspecified6()) << 6 | 0x20);
            prop_assert_eq!(&answer[64..66], &[2, 1]);
            prop_assert_eq!(&answer[66..72], &mac);
        }
    }
}
