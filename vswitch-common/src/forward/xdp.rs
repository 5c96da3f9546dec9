//! The frames that XDP takes.
//!
//! XDP takes what it can carry out: drops, and known unicast into an endpoint whose veth has NAPI.
//! On an uplink or a parent it defers TCP to tcx: GRO runs in between, and is worth more than the
//! early redirect. It also defers what may be neighbor discovery, which tcx checks. The choice is by
//! protocol, so that all frames of a flow take the same path and keep their order.

use super::claim::HOP_LIMIT;
use crate::packet::{Ethernet, Packet, ethertype, ip_protocol, protocol};
use crate::tables::PortKind;
use crate::verdict::{Decision, action, tag};
use crate::verifier::two_bytes;

/// Returns whether XDP takes a frame with this decision, which came in by a port of the kind
/// `ingress`.
#[inline(always)]
pub(super) fn takes<P: Packet + ?Sized>(decision: &Decision, ingress: PortKind, frame: &P) -> bool {
    match decision.action {
        action::REDIRECT => {
            let kind = match ingress {
                PortKind::Parent => PortKind::Child,
                _ => PortKind::Container,
            };
            let reachable = decision.to.kind == kind as u8 && decision.to.xdp != 0 && decision.to.tag == tag::KEEP;
            reachable && !(matches!(ingress, PortKind::Uplink | PortKind::Parent) && is_for_tcx(frame))
        }
        action::DROP => decision.ingress.0 != 0,
        _ => false,
    }
}

#[inline(always)]
fn is_for_tcx<P: Packet + ?Sized>(frame: &P) -> bool {
    let Ok(ethernet) = Ethernet::parse(frame) else {
        return false;
    };
    match ip_protocol(frame, &ethernet) {
        Some(protocol::ICMPV6) => {
            let [_, hops] = two_bytes(frame, ethernet.payload + 6);
            hops == HOP_LIMIT
        }
        Some(number) => number == protocol::TCP,
        // Not IP, or IPv6 with headers that cannot be followed. The latter is too rare for a path
        // of its own.
        None => ethernet.ethertype == ethertype::IPV6,
    }
}
