//! What fits through a port.

use crate::packet::{Ethernet, Packet, ethertype};
use crate::tables::{Port, PortKind};

/// Bytes of a frame behind its Ethernet header and tags.
#[inline(always)]
pub(super) fn of<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> usize {
    frame.length().saturating_sub(ethernet.payload)
}

/// Whether a frame is longer than what may leave by a port. A GSO packet is as long as its segments where they go out on
/// a wire; between veths it passes whole, and its receiver takes it so.
#[inline(always)]
pub(super) fn is_too_big<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet, port: &Port) -> bool {
    if of(frame, ethernet) <= usize::from(port.mtu) || port.mtu == 0 {
        return false;
    }
    let segment = frame.segment();
    if segment == 0 {
        return true;
    }
    // The headers without options: a segment is at least as long as that.
    let headers = if ethernet.ethertype == ethertype::IPV6 { 60 } else { 40 };
    matches!(port.kind(), Some(PortKind::Uplink | PortKind::Parent)) && segment + headers > u32::from(port.mtu)
}
