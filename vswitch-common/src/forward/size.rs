//! What fits through a port.

use crate::packet::{Ethernet, Packet, ethernet, ethertype, ipv6, protocol};
use crate::tables::{Port, PortKind, VlanKey};

/// Bytes of a frame behind its Ethernet header and tags.
#[inline(always)]
pub(super) fn of<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> usize {
    frame.length().saturating_sub(ethernet.payload)
}

/// Bytes of the tags of a frame that came with so many, where it leaves by a port as one of a VLAN. In a tunnel they take their
/// part of what the path lets through; elsewhere they are beside the MTU.
#[inline(always)]
pub fn tags(came_with: u32, vlan: VlanKey, port: &Port) -> u32 {
    if !matches!(port.kind(), Some(PortKind::Tunnel)) {
        return 0;
    }
    // A tunnel takes none off.
    came_with.max(u32::from(vlan != port.vlan)) * ethernet::TAG as u32
}

/// Whether a frame of a VLAN is longer than what may leave by a port. A GSO packet is as long as its segments where they go out on
/// a wire or into a tunnel; between veths it passes whole, and its receiver takes it so.
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
        // To the byte: of what is too long for the path, nobody else would tell its sender.
        return segment + headers(frame, ethernet) + tags > u32::from(port.mtu);
    }
    // The headers without options: a segment is at least as long as that.
    let headers = if ethernet.ethertype == ethertype::IPV6 { 60 } else { 40 };
    matches!(port.kind(), Some(PortKind::Uplink | PortKind::Parent)) && segment + headers > u32::from(port.mtu)
}

/// Bytes of headers that each segment of a GSO packet has, behind Ethernet's.
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
    // Behind extension headers, or not to be read: at least as many as TCP's.
    length + 20
}

/// The length that an IPv4 header says it has.
#[inline(always)]
pub(super) fn ipv4_header<P: Packet + ?Sized>(frame: &P, offset: usize) -> u32 {
    (word(frame, offset, 0x4500) >> 8 & 0xf) * 4
}

/// The two bytes at an offset, or `otherwise`. By way of memory: the compiler would leave a register unset where the bytes
/// are not there and it knows what comes of that, and the verifier refuses to compute with it.
#[inline(always)]
pub(super) fn word<P: Packet + ?Sized>(frame: &P, offset: usize, otherwise: u16) -> u32 {
    let bytes = frame.read(offset).unwrap_or(otherwise.to_be_bytes());
    core::hint::black_box(u32::from(u16::from_be_bytes(bytes)))
}
