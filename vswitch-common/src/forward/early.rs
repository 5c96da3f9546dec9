//! The share of the decision that XDP takes, before the kernel has made a packet of the frame.

use super::forward;
use crate::packet::{Ethernet, Packet, ip_protocol, protocol};
use crate::tables::{Port, PortKind, Tables};
use crate::verdict::{Decision, Verdict};

/// Decides about a frame in XDP; `None` leaves it, untouched and uncounted, to tcx, which decides the same way.
///
/// XDP takes what it can carry out: drops, and known unicast into a container whose veth has NAPI. On an uplink it
/// leaves TCP to tcx: GRO runs in between, and is worth more than the early redirect. The choice is by protocol, so
/// that all frames of a flow go the same way and keep their order.
#[inline(always)]
pub fn forward_early<P: Packet + ?Sized, T: Tables>(
    ifindex: u32,
    ingress: PortKind,
    frame: &P,
    tables: &T,
    now: u32,
) -> Option<Decision> {
    let decision = forward(ifindex, frame, tables, now);
    match decision.verdict {
        Verdict::Redirect(to) if matches!(to.kind, PortKind::Container) && to.flags & Port::XDP_EGRESS != 0 => {
            let gro_helps = matches!(ingress, PortKind::Uplink) && is_or_may_be_tcp(frame);
            (!gro_helps).then_some(decision)
        }
        Verdict::Drop(_) if decision.ingress.0 != 0 => Some(decision),
        _ => None,
    }
}

#[inline(always)]
fn is_or_may_be_tcp<P: Packet + ?Sized>(frame: &P) -> bool {
    let Ok(ethernet) = Ethernet::parse(frame) else {
        return false;
    };
    match ip_protocol(frame, &ethernet) {
        Some(number) => number == protocol::TCP,
        // Not IP; or IPv6 whose headers could not be followed: not worth a special path.
        None => ethernet.ethertype == crate::packet::ethertype::IPV6,
    }
}
