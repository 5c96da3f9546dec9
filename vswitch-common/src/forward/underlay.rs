//! What arrives on the underlay: which packets are a tunnel's, whether they are sound, and which of them are worth unwrapping
//! before the host's stack has seen them.

#[cfg(test)]
mod tests;

use super::stranger;
use crate::packet::address::Address;
use crate::packet::ethernet::HEADER;
use crate::packet::{Ethernet, Packet, TunnelKey, ethertype, ipv4, ipv6, protocol};
use crate::tables::{PortNumber, Tables};
use crate::verdict::DropReason;

/// Bytes of a UDP header (RFC 768), and of VXLAN's behind it (RFC 7348, 5).
const UDP: usize = 8;
const VXLAN: usize = 8;

/// The one flag of VXLAN's header, in the first of its bytes: the VNI is valid.
const VNI_VALID: u8 = 0x08;

/// Bytes before the inner frame, where an IPv4 header without options is the outer one.
pub const INNER: usize = HEADER + ipv4::HEADER + UDP + VXLAN;

/// What becomes of a packet on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Arrival {
    /// For a packet that is to be unwrapped, what its header says; else zeros.
    pub key: TunnelKey,
    /// One of [`arrival`].
    pub what: u32,
    /// For a drop the [`DropReason`]; else 0.
    pub reason: u32,
}

/// What [`Arrival::what`] says.
pub mod arrival {
    /// Nothing to do with us, or for the tunnel's device to unwrap.
    pub const LEAVE: u32 = 0;
    /// It goes nowhere.
    pub const DROP: u32 = 1;
    /// The inner frame is [`super::INNER`] bytes on: to one station, IPv4, and not TCP.
    pub const UNWRAP: u32 = 2;
}

impl Arrival {
    const LEAVE: Self = Self { key: TunnelKey::anybody(0), what: arrival::LEAVE, reason: 0 };

    #[inline(always)]
    const fn drop(reason: DropReason) -> Self {
        Self { what: arrival::DROP, reason: reason as u32, ..Self::LEAVE }
    }
}

/// Judges a packet. Packets for other hosts, and those whose headers are not plain (tags, IP options, extension headers,
/// fragments), are left to the host, as are those of which not all that counts can be read here.
///
/// TCP is left to the host, too: behind the tunnel's device GRO makes few packets of many. The choice is by protocol, so that
/// all packets of a flow go the same way and keep their order.
#[inline(always)]
pub fn arrive<P: Packet + ?Sized, T: Tables>(frame: &P, tables: &T) -> Arrival {
    let Ok(ethernet) = Ethernet::parse(frame) else { return Arrival::LEAVE };
    if ethernet.payload != HEADER || ethernet.tag.is_some() {
        return Arrival::LEAVE;
    }
    match ethernet.ethertype {
        ethertype::IPV4 => over_ipv4(frame, tables),
        ethertype::IPV6 => over_ipv6(frame, tables),
        _ => Arrival::LEAVE,
    }
}

#[inline(always)]
fn over_ipv4<P: Packet + ?Sized, T: Tables>(frame: &P, tables: &T) -> Arrival {
    let Some(header) = frame.read::<{ ipv4::HEADER }>(HEADER) else { return Arrival::LEAVE };
    let [vihl, _, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
    if vihl != 0x45 || protocol != protocol::UDP || u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
        return Arrival::LEAVE;
    }
    let at = HEADER + ipv4::HEADER;
    let (from, to) = (Address::mapped([s0, s1, s2, s3]), Address::mapped([d0, d1, d2, d3]));
    let Some(outer) = outer(frame, at, to, tables) else { return Arrival::LEAVE };
    match judge(frame, at, outer, from, tables) {
        // With a checksum, somebody has to verify it.
        Ok(key) if outer.checksum == 0 && is_worth_it(frame) => Arrival { key, what: arrival::UNWRAP, reason: 0 },
        Ok(_) => Arrival::LEAVE,
        Err(reason) => Arrival::drop(reason),
    }
}

#[inline(always)]
fn over_ipv6<P: Packet + ?Sized, T: Tables>(frame: &P, tables: &T) -> Arrival {
    let (Some(first), Some(from), Some(to)) =
        (frame.read::<8>(HEADER), frame.read(HEADER + 8), frame.read(HEADER + 24))
    else {
        return Arrival::LEAVE;
    };
    let (from, to) = (Address::new(from), Address::new(to));
    // Whatever it carries: these addresses are nowhere but inside WireGuard.
    if from.is_inner() || to.is_inner() {
        return Arrival::drop(DropReason::UnknownPeer);
    }
    let [_, _, _, _, _, _, next, _] = first;
    if next != protocol::UDP {
        return Arrival::LEAVE;
    }
    let at = HEADER + ipv6::HEADER;
    let Some(outer) = outer(frame, at, to, tables) else { return Arrival::LEAVE };
    match judge(frame, at, outer, from, tables) {
        Ok(_) => Arrival::LEAVE,
        Err(reason) => Arrival::drop(reason),
    }
}

/// What counts of a UDP header.
#[derive(Clone, Copy)]
pub(super) struct Outer {
    length: usize,
    checksum: u16,
}

/// The UDP header at `at`, if its packet is a tunnel's and for an address of ours.
#[inline(always)]
pub(super) fn outer<P: Packet + ?Sized, T: Tables>(frame: &P, at: usize, to: Address, tables: &T) -> Option<Outer> {
    let [_, _, d0, d1, l0, l1, c0, c1] = frame.read(at)?;
    let port = tables.tunnel_port(to);
    let ours = port != 0 && port == u16::from_be_bytes([d0, d1]);
    ours.then_some(Outer { length: usize::from(u16::from_be_bytes([l0, l1])), checksum: u16::from_ne_bytes([c0, c1]) })
}

/// Whether what is behind the UDP header at `at` is a VXLAN packet from a peer: its key, or what is wrong with it.
#[inline(always)]
pub(super) fn judge<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    at: usize,
    outer: Outer,
    from: Address,
    tables: &T,
) -> Result<TunnelKey, DropReason> {
    if outer.length < UDP + VXLAN + HEADER || frame.length() < at + outer.length {
        return Err(DropReason::VxlanHeader);
    }
    let Some([flags, r0, r1, r2, v0, v1, v2, r3]) = frame.read(at + UDP) else { return Err(DropReason::VxlanHeader) };
    if flags != VNI_VALID || r0 | r1 | r2 | r3 != 0 {
        return Err(DropReason::VxlanHeader);
    }
    let key = TunnelKey::new(from, u32::from_be_bytes([0, v0, v1, v2]));
    match tables.tunnel(&key) {
        Some(number) if number != PortNumber::NONE => Ok(key),
        _ => Err(stranger(&key, tables)),
    }
}

/// Whether the inner frame at [`INNER`] is one that is faster unwrapped here: not a train of segments, to one station, IPv4
/// (the kernel takes it for what the outer packet is), and not TCP.
#[inline(always)]
fn is_worth_it<P: Packet + ?Sized>(frame: &P) -> bool {
    if frame.segment() != 0 {
        return false;
    }
    let Some([first, _]) = frame.read(INNER) else { return false };
    let Some([t0, t1]) = frame.read(INNER + 12) else { return false };
    let Some([_, carries]) = frame.read(INNER + HEADER + 8) else { return false };
    first & 1 == 0 && u16::from_be_bytes([t0, t1]) == ethertype::IPV4 && carries != protocol::TCP
}
