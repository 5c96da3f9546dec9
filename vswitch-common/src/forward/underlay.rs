//! What arrives on the underlay: which packets are a tunnel's, whether they are sound, and which of them are worth unwrapping
//! before the host's stack has seen them.

#[cfg(test)]
mod tests;

use super::stranger;
use crate::packet::address::Address;
use crate::packet::ethernet::HEADER;
use crate::packet::vxlan::{UDP, VNI_VALID, VXLAN};
use crate::packet::{Ethernet, Packet, TunnelKey, ethertype, ipv4, ipv6, protocol};
use crate::tables::{PortNumber, Tables, TunnelEnd};
use crate::verdict::DropReason;

/// Bytes before the inner frame, where an IPv4 header without options is the outer one.
pub const INNER: usize = HEADER + ipv4::HEADER + UDP + VXLAN;

/// The two low bits of IPv4's second byte (RFC 3168, 5): a router on the way was congested.
const CONGESTED: u8 = 3;

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
    /// For a packet that is to be unwrapped, the port that it comes in by; else none.
    pub port: PortNumber,
    /// For a packet that is to be gathered, the device that it goes into; else 0.
    pub receiver: u32,
    /// 1 if a packet that is to be unwrapped met congestion on its way, which its sender has to hear of; else 0.
    pub congested: u32,
    /// 0.
    pub reserved: u32,
}

/// What [`Arrival::what`] says.
pub mod arrival {
    /// Nothing to do with us, or for the tunnel's device to unwrap.
    pub const LEAVE: u32 = 0;
    /// It goes nowhere.
    pub const DROP: u32 = 1;
    /// The inner frame is [`super::INNER`] bytes on: to one station, IPv4, and not TCP.
    pub const UNWRAP: u32 = 2;
    /// The same, and TCP: for the receiver, behind which GRO makes few packets of many.
    pub const GATHER: u32 = 3;
    /// For the tunnel's device, as will be all TCP from now on ([`crate::tables::TunnelEnd::TRAINS`]).
    pub const TRAIN: u32 = 4;
}

impl Arrival {
    const LEAVE: Self = Self {
        key: TunnelKey::anybody(0),
        what: arrival::LEAVE,
        reason: 0,
        port: PortNumber::NONE,
        receiver: 0,
        congested: 0,
        reserved: 0,
    };

    #[inline(always)]
    const fn drop(reason: DropReason) -> Self {
        Self { what: arrival::DROP, reason: reason as u32, ..Self::LEAVE }
    }
}

/// Judges a packet. Packets for other hosts, and those whose headers are not plain (tags, IP options, extension headers,
/// fragments), are left to the host, as are those of which not all that counts can be read here.
///
/// What is worth it is unwrapped here, TCP for a device of its own behind which GRO makes few packets of many. Where trains of
/// segments arrive (a driver or a virtual wire has made them), TCP is left to the host: the first of them says so for all that
/// comes later. So the choice is by protocol and address, and all packets of a flow go the same way and keep their order.
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
    let [vihl, service, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
    if vihl != 0x45 || protocol != protocol::UDP || u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
        return Arrival::LEAVE;
    }
    let at = HEADER + ipv4::HEADER;
    let (from, to) = (Address::mapped([s0, s1, s2, s3]), Address::mapped([d0, d1, d2, d3]));
    let Some(outer) = outer(frame, at, to, tables) else { return Arrival::LEAVE };
    match judge(frame, at, outer, from, tables) {
        // With a checksum, somebody has to verify it.
        Ok((key, port)) if outer.checksum == 0 => {
            let (what, congested) = way_in(frame, outer.end, service & CONGESTED == CONGESTED);
            match what {
                arrival::LEAVE | arrival::TRAIN => Arrival { what, ..Arrival::LEAVE },
                _ => Arrival { key, what, port, receiver: outer.end.receiver, congested, ..Arrival::LEAVE },
            }
        }
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
    end: TunnelEnd,
}

/// The UDP header at `at`, if its packet is a tunnel's and for an address of ours.
#[inline(always)]
pub(super) fn outer<P: Packet + ?Sized, T: Tables>(frame: &P, at: usize, to: Address, tables: &T) -> Option<Outer> {
    let [_, _, d0, d1, l0, l1, c0, c1] = frame.read(at)?;
    let end = tables.tunnel_end(to);
    let ours = end.port != 0 && end.port == u16::from_be_bytes([d0, d1]);
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    ours.then_some(Outer { length, checksum: u16::from_ne_bytes([c0, c1]), end })
}

/// Whether what is behind the UDP header at `at` is a VXLAN packet from a peer: its key and the port, or what is wrong with it.
#[inline(always)]
pub(super) fn judge<P: Packet + ?Sized, T: Tables>(
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
        _ => Err(stranger(&key, tables)),
    }
}

/// Which way the inner frame at [`INNER`] goes, one of [`arrival`], and whether it has to be marked as congested. Unwrapped here
/// is what goes to one station, is IPv4 (the kernel takes it for what the outer packet is), and no train of segments.
#[inline(always)]
fn way_in<P: Packet + ?Sized>(frame: &P, end: TunnelEnd, congested: bool) -> (u32, u32) {
    let leave = (arrival::LEAVE, 0);
    let Some([first, _]) = frame.read(INNER) else { return leave };
    let Some([t0, t1]) = frame.read(INNER + 12) else { return leave };
    let Some([_, service]) = frame.read(INNER + HEADER) else { return leave };
    let Some([_, carries]) = frame.read(INNER + HEADER + 8) else { return leave };
    if first & 1 != 0 || u16::from_be_bytes([t0, t1]) != ethertype::IPV4 {
        return leave;
    }
    // It knows nothing of congestion, and should not have met it: the device drops such packets (RFC 6040, 4.2).
    if congested && service & CONGESTED == 0 {
        return leave;
    }
    let congested = u32::from(congested);
    if carries != protocol::TCP {
        return if frame.segment() == 0 { (arrival::UNWRAP, congested) } else { leave };
    }
    if end.receiver == 0 || end.flags & TunnelEnd::TRAINS != 0 {
        return leave;
    }
    if frame.segment() != 0 { (arrival::TRAIN, 0) } else { (arrival::GATHER, congested) }
}
