//! What becomes of a frame that is longer than what a port may send: who sends into a tunnel cannot know how long the path
//! lets its packets be, and is told.

use crate::packet::{Ethernet, Packet, ethertype, ipv6, protocol};
use crate::tables::{Port, PortKind};
use crate::verdict::action;

use super::size::{self, ipv4_header, word};

#[cfg(test)]
mod tests;

/// Every path takes an IPv6 packet of this length, and no sender makes shorter ones (RFC 8200, 5).
pub const LEAST_IPV6: u16 = 1280;

/// "Don't fragment", in the third word of an IPv4 header (RFC 791, 3.1).
const DF: u32 = 0x4000;
/// The fragment offset beside it.
const OFFSET: u32 = 0x1fff;

/// The action: [`action::REDIRECT`] where it goes its way all the same, in fragments of the outer packet.
#[inline(always)]
pub(super) fn becomes<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet, port: &Port) -> u32 {
    if !matches!(port.kind(), Some(PortKind::Tunnel)) {
        return action::DROP;
    }
    let may_be = may_be_cut_up(frame, ethernet);
    if may_be && cuts_up(port) {
        return action::REDIRECT;
    }
    let at = ethernet.payload;
    match ethernet.ethertype {
        ethertype::IPV4 => {
            let fragment = word(frame, at + 6, 0);
            let icmp = word(frame, at + 8, 0) & 0xff == u32::from(protocol::ICMP);
            let kind = at + ipv4_header(frame, at) as usize;
            // RFC 1122, 3.2.2: never about an error, nor about a later fragment.
            if fragment & OFFSET != 0 || icmp && is_error4(frame, kind) { action::DROP } else { action::ANSWER_TOO_BIG }
        }
        ethertype::IPV6 => {
            let icmp = word(frame, at + 6, 0) >> 8 == u32::from(protocol::ICMPV6);
            // RFC 4443, 2.4 (e). Who could not make it shorter need not hear of it.
            if may_be || icmp && is_error6(frame, at + ipv6::HEADER) { action::DROP } else { action::ANSWER_TOO_BIG }
        }
        _ => action::DROP,
    }
}

/// Whether outer packets of a tunnel are cut up where they are too long. Only the sender of an IPv6 packet may do that, and the
/// tunnel does not. WireGuard, which sends its own, does.
#[inline(always)]
pub(super) fn cuts_up(port: &Port) -> bool {
    matches!(port.kind(), Some(PortKind::Tunnel)) && (port.ipv6.is_mapped() || port.ipv6.is_inner())
}

/// Whether a frame may go its way in fragments of the outer packet: its sender let it be cut up, or could not make it shorter.
#[inline(always)]
pub(super) fn may_be_cut_up<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> bool {
    match ethernet.ethertype {
        ethertype::IPV4 => word(frame, ethernet.payload + 6, 0) & DF == 0,
        ethertype::IPV6 => frame.segment() == 0 && size::of(frame, ethernet) <= usize::from(LEAST_IPV6),
        _ => false,
    }
}

/// Whether an ICMP message tells of an error; one that cannot be read counts as such.
#[inline(always)]
fn is_error4<P: Packet + ?Sized>(frame: &P, offset: usize) -> bool {
    let kind = word(frame, offset, 0x0300) >> 8;
    // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// The same for ICMPv6; a redirect is no error, and is not answered either (RFC 4443, 2.4 (e.2)).
#[inline(always)]
fn is_error6<P: Packet + ?Sized>(frame: &P, offset: usize) -> bool {
    let kind = word(frame, offset, 0x0100) >> 8;
    kind < 128 || kind == 137
}
