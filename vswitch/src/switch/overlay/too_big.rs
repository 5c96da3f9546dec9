//! ICMP errors for packets that are too long for a tunnel (RFC 792 and 1191; RFC 4443, 3.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
use vswitch_common::packet::ipv6::Ipv6;
use vswitch_common::packet::{Ethernet, ethertype, protocol};

/// The hop limit of the error. Its receiver is a neighbor, which may be a router.
const TTL: u8 = 64;
/// The least MTU of IPv4 and IPv6 (RFC 791, 3.2; RFC 8200, 5).
const LEAST: [u16; 2] = [68, 1280];
/// The bytes behind the IP header that a sender needs to identify the packet.
const NEEDED: usize = 8;

/// An ICMP error in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The receiver: the sender of the packet.
    pub to: IpAddr,
    /// The destination of the packet, which is the source of the error.
    pub of: IpAddr,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Builds the ICMP "fragmentation needed" or ICMPv6 "packet too big" reply to the sender of the
/// packet that starts with `bytes`, from the packet's destination. `tag` is the VLAN tag that was
/// kept beside the packet, TPID << 16 | TCI, or 0. `mtu` is the longest packet, without tags.
/// Returns `None` if no reply is allowed (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)) or the packet cannot
/// be parsed.
pub fn answer(bytes: &[u8], tag: u32, mtu: u16) -> Option<Answer> {
    let ethernet = Ethernet::parse(bytes).ok()?;
    if ethernet.source.is_multicast() || ethernet.destination.is_multicast() {
        return None;
    }
    let packet = bytes.get(ethernet.payload..)?;
    let (to, of, message) = match ethernet.ethertype {
        ethertype::IPV4 => to_ipv4(packet, mtu)?,
        ethertype::IPV6 => to_ipv6(bytes, ethernet.payload, mtu)?,
        _ => return None,
    };
    let mut frame = Vec::with_capacity(ethernet.payload + 4 + message.len());
    frame.extend(ethernet.source.0);
    frame.extend(ethernet.destination.0);
    if tag != 0 {
        frame.extend(tag.to_be_bytes());
    }
    // The tags in the frame, and the EtherType.
    frame.extend(bytes.get(12..ethernet.payload)?);
    frame.extend(message);
    Some(Answer { to, of, frame })
}

fn to_ipv4(packet: &[u8], mtu: u16) -> Option<(IpAddr, IpAddr, Vec<u8>)> {
    let header: [u8; 20] = packet.get(..20)?.try_into().ok()?;
    let length = usize::from(header[0] & 0xf) * 4;
    if header[0] >> 4 != 4 || length < header.len() || packet.len() < length + NEEDED {
        return None;
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let is_error = header[9] == protocol::ICMP && matches!(packet[length], 3 | 4 | 5 | 11 | 12);
    // A packet without DF gets here if the outer packet cannot be fragmented.
    if fragment & 0x1fff != 0 || is_error {
        return None;
    }
    let [source, destination] = [12, 16].map(|at| Ipv4Addr::from([0, 1, 2, 3].map(|byte| header[at + byte])));
    let not_a_host =
        |ip: Ipv4Addr| ip.octets()[0] == 0 || ip.is_loopback() || ip.is_multicast() || ip.octets()[0] >= 240;
    if not_a_host(source) || not_a_host(destination) {
        return None;
    }
    let told = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu.max(LEAST[0]) };
    let mut message = Vec::new();
    PacketBuilder::ipv4(destination.octets(), source.octets(), TTL)
        .icmpv4(Icmpv4Type::DestinationUnreachable(told))
        .write(&mut message, packet)
        .ok()?;
    Some((source.into(), destination.into(), message))
}

fn to_ipv6(bytes: &[u8], at: usize, mtu: u16) -> Option<(IpAddr, IpAddr, Vec<u8>)> {
    let header = Ipv6::parse(bytes, at).ok()?;
    let is_error = match bytes.get(header.payload) {
        _ if header.protocol != protocol::ICMPV6 || !header.complete => false,
        Some(kind) => *kind < 128 || *kind == 137,
        None => true,
    };
    let later = header.fragment_offset != 0;
    let not_a_host = |ip: Ipv6Addr| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    if is_error
        || later
        || not_a_host(header.source)
        || not_a_host(header.destination)
        || bytes.len() < header.payload + NEEDED
    {
        return None;
    }
    let told = Icmpv6Type::PacketTooBig { mtu: mtu.max(LEAST[1]).into() };
    let mut message = Vec::new();
    PacketBuilder::ipv6(header.destination.octets(), header.source.octets(), TTL)
        .icmpv6(told)
        .write(&mut message, bytes.get(at..)?)
        .ok()?;
    Some((header.source.into(), header.destination.into(), message))
}

#[cfg(test)]
mod tests;
