//! Packets on the underlay: which of them belong to a tunnel, whether they are valid, and which are
//! unwrapped here, before the host's stack sees them.

#[cfg(test)]
mod tests;

use super::tunnel::why_unknown;
use crate::packet::address::Address;
use crate::packet::ethernet::HEADER;
use crate::packet::vxlan::{UDP, VNI_VALID, VXLAN};
use crate::packet::{Ethernet, Packet, TunnelKey, ethertype, ipv4, ipv6, protocol};
use crate::tables::{PortNumber, Tables, TunnelEnd};
use crate::verdict::DropReason;

/// Bytes before the inner frame, behind an outer IPv4 header without options.
pub const INNER: usize = HEADER + ipv4::HEADER + UDP + VXLAN;

/// The two low bits of the second byte of an IPv4 header (RFC 3168, 5): a router on the path was
/// congested.
const CONGESTED: u8 = 3;

/// What happens to a packet on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Arrival {
    /// The tunnel metadata of a packet that is unwrapped; else zeros.
    pub key: TunnelKey,
    /// The action, one of [`arrival`].
    pub action: u32,
    /// For a drop the [`DropReason`]; else 0.
    pub reason: u32,
    /// The port that an unwrapped packet comes in by; else none.
    pub port: PortNumber,
    /// The device that a packet is sent into for GRO; else 0.
    pub receiver: u32,
    /// 1 if a packet that is unwrapped was marked as congested on the path, which its sender has to
    /// learn; else 0.
    pub congested: u32,
    /// 1 if a packet that passes to the host's stack may be a tunnel's, so that it gets the mark
    /// [`crate::tables::MARK_UNDERLAY`]; else 0.
    pub marked: u32,
}

/// The values of [`Arrival::action`].
pub mod arrival {
    /// To the host's stack: the packet is no tunnel's, or the tunnel's device unwraps it.
    pub const PASS: u32 = 0;
    /// Nowhere.
    pub const DROP: u32 = 1;
    /// Unwrapped and switched. The inner frame at [`super::INNER`] is for one station, and IPv4 but
    /// not TCP.
    pub const UNWRAP: u32 = 2;
    /// The same with TCP: unwrapped and sent into the receiver, behind which GRO merges packets.
    pub const GATHER: u32 = 3;
    /// To the tunnel's device, like all TCP from now on
    /// ([`crate::tables::TunnelEnd::GSO_ARRIVES`]).
    pub const GSO: u32 = 4;
}

impl Arrival {
    const PASS: Self = Self {
        key: TunnelKey::any_peer(0),
        action: arrival::PASS,
        reason: 0,
        port: PortNumber::NONE,
        receiver: 0,
        congested: 0,
        marked: 0,
    };

    /// To the host's stack, with the mark.
    const MARKED: Self = Self { marked: 1, ..Self::PASS };

    #[inline(always)]
    const fn drop(reason: DropReason) -> Self {
        Self { action: arrival::DROP, reason: reason as u32, ..Self::PASS }
    }
}

/// Decides about a packet on the underlay. Packets for other hosts, with tags, IP options,
/// extension headers or fragments, or with a header that cannot be read here, pass to the host's
/// stack.
///
/// Other IPv4 packets of tunnels are unwrapped here; TCP goes into a device of its own, behind
/// which GRO merges packets. Once a GSO packet has arrived (made by a driver or a virtual link),
/// all TCP passes to the host's stack. The choice is by protocol and address, so that all packets
/// of a flow take the same path and keep their order.
#[inline(always)]
pub fn arrive<P: Packet + ?Sized, T: Tables>(frame: &P, tables: &T) -> Arrival {
    let Ok(ethernet) = Ethernet::parse(frame) else { return Arrival::PASS };
    if ethernet.payload != HEADER || ethernet.tag.is_some() {
        return Arrival::PASS;
    }
    match ethernet.ethertype {
        ethertype::IPV4 => over_ipv4(frame, tables),
        ethertype::IPV6 => over_ipv6(frame, tables),
        _ => Arrival::PASS,
    }
}

#[inline(always)]
fn over_ipv4<P: Packet + ?Sized, T: Tables>(frame: &P, tables: &T) -> Arrival {
    let Some(header) = frame.read::<{ ipv4::HEADER }>(HEADER) else { return Arrival::PASS };
    let [vihl, service, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
    if protocol != protocol::UDP {
        return Arrival::PASS;
    }
    let at = HEADER + ipv4::HEADER;
    let (from, to) = (Address::mapped([s0, s1, s2, s3]), Address::mapped([d0, d1, d2, d3]));
    let end = tables.tunnel_end(to);
    if end.port == 0 {
        return Arrival::PASS;
    }
    if vihl != 0x45 || u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
        // Not read to its ports here. The tunnel's device drops it if its sender is no peer.
        return Arrival::MARKED;
    }
    let Some(outer) = outer(frame, at, end) else { return Arrival::PASS };
    match check(frame, at, outer, from, tables) {
        // A packet with a checksum passes to the host's stack, which verifies it.
        Ok((key, port)) if outer.checksum == 0 => {
            let (action, congested) = inner(frame, outer.end, service & CONGESTED == CONGESTED);
            match action {
                arrival::PASS | arrival::GSO => Arrival { action, ..Arrival::MARKED },
                _ => Arrival { key, action, port, receiver: outer.end.receiver, congested, ..Arrival::PASS },
            }
        }
        Ok(_) => Arrival::MARKED,
        Err(reason) => Arrival::drop(reason),
    }
}

#[inline(always)]
fn over_ipv6<P: Packet + ?Sized, T: Tables>(frame: &P, tables: &T) -> Arrival {
    let (Some(first), Some(from), Some(to)) =
        (frame.read::<8>(HEADER), frame.read(HEADER + 8), frame.read(HEADER + 24))
    else {
        return Arrival::PASS;
    };
    let (from, to) = (Address::new(from), Address::new(to));
    // Whatever the packet carries: these addresses exist inside WireGuard alone.
    if from.is_inner() || to.is_inner() {
        return Arrival::drop(DropReason::UnknownPeer);
    }
    let [_, _, _, _, _, _, next, _] = first;
    if matches!(next, protocol::TCP | protocol::ICMPV6) {
        return Arrival::PASS;
    }
    let end = tables.tunnel_end(to);
    if end.port == 0 {
        return Arrival::PASS;
    }
    if next != protocol::UDP {
        return Arrival::MARKED;
    }
    let at = HEADER + ipv6::HEADER;
    let Some(outer) = outer(frame, at, end) else { return Arrival::PASS };
    match check(frame, at, outer, from, tables) {
        Ok(_) => Arrival::MARKED,
        Err(reason) => Arrival::drop(reason),
    }
}

/// The fields of the outer UDP header that are used.
#[derive(Clone, Copy)]
pub(super) struct Outer {
    length: usize,
    checksum: u16,
    end: TunnelEnd,
}

/// Reads the UDP header at `at`, if the packet is for a tunnel that ends so.
#[inline(always)]
pub(super) fn outer<P: Packet + ?Sized>(frame: &P, at: usize, end: TunnelEnd) -> Option<Outer> {
    let [_, _, d0, d1, l0, l1, c0, c1] = frame.read(at)?;
    let ours = end.port != 0 && end.port == u16::from_be_bytes([d0, d1]);
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    ours.then_some(Outer { length, checksum: u16::from_ne_bytes([c0, c1]), end })
}

/// Checks that a VXLAN packet from a peer is behind the UDP header at `at`. Returns its key and
/// port, or the reason to drop it.
#[inline(always)]
pub(super) fn check<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    at: usize,
    outer: Outer,
    from: Address,
    tables: &T,
) -> Result<(TunnelKey, PortNumber), DropReason> {
    if outer.length < UDP + VXLAN + HEADER || frame.length() < at + outer.length {
        return Err(DropReason::VxlanHeader);
    }
    let Some([flags, r0, r1, r2, v0, v1, v2, r3]) = frame.read(at + UDP) else { return Err(DropReason::VxlanHeader) };
    if flags != VNI_VALID || r0 | r1 | r2 | r3 != 0 {
        return Err(DropReason::VxlanHeader);
    }
    let key = TunnelKey::new(from, u32::from_be_bytes([0, v0, v1, v2]));
    match tables.tunnel(&key) {
        Some(number) if number != PortNumber::NONE => Ok((key, number)),
        _ => Err(why_unknown(&key, tables)),
    }
}

/// Returns the action for the inner frame at [`INNER`], one of [`arrival`], and 1 if it has to be
/// marked as congested. A frame is unwrapped if it is for one station, IPv4 (the kernel takes the
/// inner packet for the IP version of the outer one) and no GSO packet.
#[inline(always)]
fn inner<P: Packet + ?Sized>(frame: &P, end: TunnelEnd, congested: bool) -> (u32, u32) {
    let pass = (arrival::PASS, 0);
    let Some([first, _]) = frame.read(INNER) else { return pass };
    let Some([t0, t1]) = frame.read(INNER + 12) else { return pass };
    let Some([_, service]) = frame.read(INNER + HEADER) else { return pass };
    let Some([_, carries]) = frame.read(INNER + HEADER + 8) else { return pass };
    if first & 1 != 0 || u16::from_be_bytes([t0, t1]) != ethertype::IPV4 {
        return pass;
    }
    // The sender does not support ECN, so no router should have marked the packet. The tunnel's
    // device drops it (RFC 6040, 4.2).
    if congested && service & CONGESTED == 0 {
        return pass;
    }
    let congested = u32::from(congested);
    if carries != protocol::TCP {
        return if frame.segment() == 0 { (arrival::UNWRAP, congested) } else { pass };
    }
    if end.receiver == 0 || end.flags & TunnelEnd::GSO_ARRIVES != 0 {
        return pass;
    }
    if frame.segment() != 0 { (arrival::GSO, 0) } else { (arrival::GATHER, congested) }
}
