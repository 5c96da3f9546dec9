//! The size of a frame, against what a port may send.

use crate::packet::{Ethernet, Packet, ethernet, ethertype, ipv6, protocol};
use crate::tables::{Port, PortKind, VlanKey};
use crate::verifier::word;

/// Returns the bytes of a frame behind its Ethernet header and tags.
#[inline(always)]
pub(super) fn of<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> usize {
    frame.length().saturating_sub(ethernet.payload)
}

/// Returns the bytes of tags that count against a port's MTU, for a frame of a VLAN that came in
/// with `came_with` tags. In a tunnel tags take part of what the path lets through; elsewhere they
/// do not count.
#[inline(always)]
pub fn tags(came_with: u32, vlan: VlanKey, port: &Port) -> u32 {
    if !matches!(port.kind(), Some(PortKind::Tunnel)) {
        return 0;
    }
    // A tunnel takes no tags off.
    came_with.max(u32::from(vlan != port.vlan)) * ethernet::TAG as u32
}

/// Returns whether a frame of a VLAN is longer than a port may send. A GSO packet counts as long as
/// its segments where they go out on a wire or into a tunnel. Between veths it passes whole, and
/// its receiver accepts it whole.
#[inline(always)]
pub(super) fn is_too_big<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet, vlan: VlanKey, port: &Port) -> bool {
    let tags = tags(u32::from(ethernet.tag.is_some()) + u32::from(ethernet.double), vlan, port);
    if of(frame, ethernet) as u32 + tags <= u32::from(port.mtu) || port.mtu == 0 {
        return false;
    }
    let segment = frame.segment();
    if segment == 0 {
        return true;
    }
    if matches!(port.kind(), Some(PortKind::Tunnel)) {
        // Exact to the byte: no router on the path reports a longer packet to its sender.
        return segment + headers(frame, ethernet) + tags > u32::from(port.mtu);
    }
    // The headers without options: a segment is at least that long.
    let headers = if ethernet.ethertype == ethertype::IPV6 { 60 } else { 40 };
    matches!(port.kind(), Some(PortKind::Uplink | PortKind::Parent)) && segment + headers > u32::from(port.mtu)
}

/// Returns the bytes of headers of each segment of a GSO packet, without the Ethernet header.
#[inline(always)]
fn headers<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> u32 {
    let at = ethernet.payload;
    let six = ethernet.ethertype == ethertype::IPV6;
    let length = if six { ipv6::HEADER as u32 } else { ipv4_header(frame, at) };
    let carries = if six { word(frame, at + 6, 0) >> 8 } else { word(frame, at + 8, 0) & 0xff };
    if carries == u32::from(protocol::UDP) {
        return length + 8;
    }
    if carries == u32::from(protocol::TCP) {
        return length + (word(frame, at + length as usize + 12, 0x5000) >> 12) * 4;
    }
    // Behind extension headers, or unreadable: at least as many as TCP has.
    length + 20
}

/// Returns the length of an IPv4 header, as it says itself.
#[inline(always)]
pub(super) fn ipv4_header<P: Packet + ?Sized>(frame: &P, offset: usize) -> u32 {
    (word(frame, offset, 0x4500) >> 8 & 0xf) * 4
}
