//! The share of the decision that XDP takes, before the kernel has made a packet of the frame.

use super::{decide, side};
use crate::packet::{Ethernet, Packet, ip_protocol, protocol};
use crate::tables::{PortKind, PortNumber, Tables};
use crate::verdict::{Decision, action, tag};

/// Decides about a frame in XDP; [`action::LEAVE`] leaves it, untouched and uncounted, to tcx, which decides the same.
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
) -> Decision {
    // What XDP takes goes from one device to another: it never comes to the border.
    let decision = match ingress {
        PortKind::Uplink => {
            decide::<P, T, { side::UPLINK | side::UNICAST | side::EARLY | side::WHOLE }>(ifindex, frame, tables, now)
        }
        PortKind::Parent => {
            decide::<P, T, { side::PARENT | side::UNICAST | side::EARLY | side::WHOLE }>(ifindex, frame, tables, now)
        }
        _ => {
            decide::<P, T, { side::CONTAINER | side::UNICAST | side::EARLY | side::WHOLE }>(ifindex, frame, tables, now)
        }
    };
    let takes = match decision.action {
        action::REDIRECT => {
            let kind = match ingress {
                PortKind::Parent => PortKind::Child,
                _ => PortKind::Container,
            };
            let reachable = decision.to.kind == kind as u8 && decision.to.xdp != 0 && decision.to.tag == tag::KEEP;
            reachable && !(matches!(ingress, PortKind::Uplink | PortKind::Parent) && is_or_may_be_tcp(frame))
        }
        action::DROP => decision.ingress.0 != 0,
        _ => false,
    };
    if takes { decision } else { Decision::new(action::LEAVE, PortNumber::NONE) }
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
