//! What happens to a frame that is longer than a port may send. The sender of a frame into a tunnel
//! cannot know the path's MTU, so it gets an ICMP error.

use crate::packet::{Ethernet, Packet, ethertype, ipv6, protocol};
use crate::tables::{Port, PortKind};
use crate::verdict::action;
use crate::verifier::word;

use super::size::{self, ipv4_header};

#[cfg(test)]
mod tests;

/// The least MTU of a path for IPv6. No sender has to make shorter packets (RFC 8200, 5).
pub const LEAST_IPV6: u16 = 1280;

/// The flag "don't fragment" in the fourth 16-bit word of an IPv4 header (RFC 791, 3.1).
const DF: u32 = 0x4000;
/// The fragment offset in the same word.
const OFFSET: u32 = 0x1fff;

/// Returns the action: [`action::REDIRECT`] if the frame goes into the tunnel all the same, in
/// fragments of the outer packet.
#[inline(always)]
pub(super) fn action_for<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet, port: &Port) -> u32 {
    if !matches!(port.kind(), Some(PortKind::Tunnel)) {
        return action::DROP;
    }
    let may_be = may_be_fragmented(frame, ethernet);
    if may_be && fragments(port) {
        return action::REDIRECT;
    }
    let at = ethernet.payload;
    match ethernet.ethertype {
        ethertype::IPV4 => {
            let fragment = word(frame, at + 6, 0);
            let icmp = word(frame, at + 8, 0) & 0xff == u32::from(protocol::ICMP);
            let kind = at + ipv4_header(frame, at) as usize;
            // RFC 1122, 3.2.2: no error is sent about an ICMP error or a later fragment.
            if fragment & OFFSET != 0 || icmp && is_error4(frame, kind) { action::DROP } else { action::ANSWER_TOO_BIG }
        }
        ethertype::IPV6 => {
            let icmp = word(frame, at + 6, 0) >> 8 == u32::from(protocol::ICMPV6);
            // RFC 4443, 2.4 (e). A sender that cannot make the packet shorter gets no error either.
            if may_be || icmp && is_error6(frame, at + ipv6::HEADER) { action::DROP } else { action::ANSWER_TOO_BIG }
        }
        _ => action::DROP,
    }
}

/// Returns whether the outer packets of a tunnel are fragmented where they are too long. Only the
/// sender of an IPv6 packet may fragment it, and the tunnel does not. WireGuard fragments the
/// packets that it sends itself.
#[inline(always)]
pub(super) fn fragments(port: &Port) -> bool {
    matches!(port.kind(), Some(PortKind::Tunnel)) && (port.peer().is_mapped() || port.peer().is_inner())
}

/// Returns whether a frame may travel in fragments of the outer packet: its sender allows
/// fragments, or cannot make it shorter.
#[inline(always)]
pub(super) fn may_be_fragmented<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> bool {
    match ethernet.ethertype {
        ethertype::IPV4 => word(frame, ethernet.payload + 6, 0) & DF == 0,
        ethertype::IPV6 => frame.segment() == 0 && size::of(frame, ethernet) <= usize::from(LEAST_IPV6),
        _ => false,
    }
}

/// Returns whether an ICMP message reports an error. An unreadable message counts as one.
#[inline(always)]
fn is_error4<P: Packet + ?Sized>(frame: &P, offset: usize) -> bool {
    let kind = word(frame, offset, 0x0300) >> 8;
    // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// The same for ICMPv6. A redirect is no error, but is not answered either (RFC 4443, 2.4 (e.2)).
#[inline(always)]
fn is_error6<P: Packet + ?Sized>(frame: &P, offset: usize) -> bool {
    let kind = word(frame, offset, 0x0100) >> 8;
    kind < 128 || kind == 137
}
