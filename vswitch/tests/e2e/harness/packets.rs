//! Packets built byte by byte, valid and invalid ones. A payload starts with the EtherType.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Frame, Mac, Tag};

/// IP protocol numbers.
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const FRAGMENT: u8 = 44;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Neighbor discovery (RFC 4861).
pub const SOLICITATION: u8 = 135;
pub const ADVERTISEMENT: u8 = 136;

/// The part of a frame from the EtherType on.
pub type Payload = Vec<u8>;

/// Builds an IPv4 packet with a valid checksum and the DF flag.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Payload {
    let [l0, l1] = (20 + payload.len() as u16).to_be_bytes();
    let mut header = vec![0x45, 0, l0, l1, 0, 1, 0x40, 0, 64, protocol, 0, 0];
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    [&[0x08, 0x00], &header[..], payload].concat()
}

/// Builds an IPv6 packet. `protocol` is the first Next Header value.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> Payload {
    let [l0, l1] = (payload.len() as u16).to_be_bytes();
    let header = [0x86, 0xdd, 0x60, 0, 0, 0, l0, l1, protocol, 255];
    [&header, &source.octets()[..], &destination.octets(), payload].concat()
}

/// Builds an IPv6 packet with an ICMPv6 message in it, and fills in the checksum.
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Payload {
    ipv6(source, destination, protocol::ICMPV6, &checked(source, destination, message))
}

/// Returns an ICMPv6 message with its checksum filled in.
pub fn checked(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let sum = icmpv6_checksum(source, destination, &message);
    message[2..4].copy_from_slice(&sum);
    message
}

/// Computes the checksum of an ICMPv6 message (RFC 4443, 2.3). The result is zero if the message
/// holds a valid checksum.
pub fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> [u8; 2] {
    let length = (message.len() as u32).to_be_bytes();
    checksum(&[&source.octets(), &destination.octets(), &length, &[0, 0, 0, protocol::ICMPV6], message])
}

/// Builds a UDP datagram without a checksum.
pub fn udp(source: u16, destination: u16, text: &str) -> Vec<u8> {
    let length = 8 + text.len() as u16;
    let mut datagram: Vec<u8> = [source, destination, length, 0].into_iter().flat_map(u16::to_be_bytes).collect();
    datagram.extend(text.as_bytes());
    datagram
}

/// Builds an ARP packet. Operation 1 is a request, 2 a reply.
pub fn arp(operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Payload {
    let mut packet = vec![0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, address) in [sender, target] {
        packet.extend(mac.0);
        packet.extend(address.octets());
    }
    packet
}

/// Builds a neighbor solicitation or advertisement with these link-layer address options: 1 is the
/// source's address, 2 the target's.
pub fn discovery(kind: u8, target: Ipv6Addr, options: &[(u8, Mac)]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    for (option, mac) in options {
        message.extend([*option, 1]);
        message.extend(mac.0);
    }
    message
}

/// Builds a frame with a payload behind VLAN tags, the outer tag first.
pub fn behind(destination: Mac, source: Mac, tags: &[Tag], payload: &[u8]) -> Frame {
    let tags: Vec<u8> = tags.iter().flat_map(|tag| [tag.tpid.to_be_bytes(), tag.tci.to_be_bytes()].concat()).collect();
    Frame::raw(destination, source, &[&tags, payload].concat())
}

/// Puts a payload behind a length field, LLC and SNAP (RFC 1042).
pub fn snap(payload: &[u8]) -> Payload {
    llc(&[&[0xaa, 0xaa, 3, 0, 0, 0], payload].concat())
}

/// Puts an LLC packet behind its length field.
pub fn llc(packet: &[u8]) -> Payload {
    [&(packet.len() as u16).to_be_bytes(), packet].concat()
}

/// Returns a configuration BPDU (IEEE 802.1D, 9.3.1) behind its LLC header.
pub fn bpdu() -> Payload {
    llc(&[&[0x42, 0x42, 3][..], &[0; 35]].concat())
}

/// Returns the link-local address derived from a MAC address (RFC 4291, appendix A).
pub fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let end = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(end))
}

/// Returns the solicited-node group of an address (RFC 4291, 2.7.1) and the MAC address of that
/// group.
pub fn solicited_nodes(target: Ipv6Addr) -> (Ipv6Addr, Mac) {
    let [.., x, y, z] = target.octets();
    let group = 0xff02_0000_0000_0000_0000_0001_ff00_0000 | u128::from(u32::from_be_bytes([0, x, y, z]));
    (Ipv6Addr::from_bits(group), Mac([0x33, 0x33, 0xff, x, y, z]))
}

/// Computes the Internet checksum (RFC 1071). All parts but the last must have an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
