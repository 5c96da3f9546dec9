//! The border between a network and the host's stack, which routes between all networks: here they are kept apart.
//!
//! It holds whatever the host's firewall says. Frames from container to container do not come here.

#[cfg(test)]
mod tests;

use super::side;
use crate::packet::address::Addresses;
use crate::packet::{Ethernet, Packet};
use crate::tables::{MARK_PUBLISHED, NetworkNumber, Port, PortKind, Subnet, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action};

/// Changes a decision if the frame would cross the border and must not.
#[inline(always)]
pub(super) fn guard<P: Packet + ?Sized, T: Tables, const SIDE: u16>(
    decision: Decision,
    frame: &P,
    ethernet: &Ethernet,
    port: &Port,
    tables: &T,
) -> Decision {
    if SIDE & side::EARLY != 0 {
        return decision;
    }
    // Which it is, if only one can be, is known before the program runs.
    let only_host = SIDE & (side::HOST | side::CONTAINER | side::UPLINK) == side::HOST;
    if only_host || SIDE & side::HOST != 0 && matches!(port.kind(), Some(PortKind::Host)) {
        if decision.action == action::DROP {
            return decision;
        }
        let ip = Addresses::read(frame, ethernet);
        return dropped_if(enter(&ip, frame, port, tables), decision);
    }
    match decision.action {
        action::REDIRECT if SIDE & side::UNICAST != 0 && decision.to.way == Delivery::LOCAL => {
            dropped_if(leave(&Addresses::read(frame, ethernet), port, tables), decision)
        }
        action::FLOOD_GROUP | action::FLOOD_LISTENERS if SIDE & side::GROUP != 0 => {
            copy(decision, &Addresses::read(frame, ethernet), port, tables)
        }
        // The host's own frames on its own interface, whatever the network: loopback addresses alone are stopped.
        action::PASS => {
            let martian = is_martian(&Addresses::read(frame, ethernet));
            dropped_if(if martian { Some(DropReason::Martian) } else { None }, decision)
        }
        _ => decision,
    }
}

#[inline(always)]
fn dropped_if(reason: Option<DropReason>, decision: Decision) -> Decision {
    match reason {
        Some(reason) => Decision::drop(reason, decision.ingress),
        None => decision,
    }
}

/// From the host's stack into the network of `port`: what the host has routed comes from no other network.
#[inline(always)]
fn enter<P: Packet + ?Sized, T: Tables>(ip: &Addresses, frame: &P, port: &Port, tables: &T) -> Option<DropReason> {
    match ip.kind {
        Addresses::OTHER => return None,
        Addresses::IP => {}
        _ => return Some(DropReason::Truncated),
    }
    let source = tables.subnet(ip.source);
    if let Some(from) = source.filter(|from| is_foreign(from, port.network)) {
        if frame.mark() & MARK_PUBLISHED == 0 {
            return Some(DropReason::OtherNetwork);
        }
        // A published port is open to other networks, and still no way out of an internal one.
        if tables.network(from.network).is_internal() {
            return Some(DropReason::Internal);
        }
    }
    let own = is_gateway_of(source, port.network) || ip.source.is_link_local() || ip.source.is_unspecified6();
    (!own && tables.network(port.network).is_internal()).then_some(DropReason::Internal)
}

/// From a network to the host's stack.
#[inline(always)]
fn leave<T: Tables>(ip: &Addresses, port: &Port, tables: &T) -> Option<DropReason> {
    match ip.kind {
        Addresses::OTHER => return None,
        Addresses::IP if is_martian(ip) => return Some(DropReason::Martian),
        Addresses::IP => {}
        _ => return Some(DropReason::Truncated),
    }
    let destination = tables.subnet(ip.destination);
    if may_not_leave(ip, destination, port, tables) {
        return Some(DropReason::Internal);
    }
    let to = destination.filter(|to| !to.is_gateway())?;
    if to.network == port.network {
        // The host would send it back into the network, to an endpoint that is isolated like this one.
        return (port.flags & Port::ISOLATED != 0).then_some(DropReason::Isolated);
    }
    // At the border of that network only the source tells where it is from. One that would not tell is forged; one that
    // does is refused there, unless it answers a connection to a published port.
    let tells = tables.subnet(ip.source).is_some_and(|from| is_foreign(&from, to.network));
    (!tells).then_some(DropReason::OtherNetwork)
}

/// A broadcast or multicast of which the host's stack would get a copy. It forwards no such frame (`ip_forward` and
/// `ip6_forward` take PACKET_HOST alone), but delivers a datagram to an address of its own that came in one: hence to
/// 127.0.0.1 too, once `route_localnet` is on.
#[inline(always)]
fn copy<T: Tables>(decision: Decision, ip: &Addresses, port: &Port, tables: &T) -> Decision {
    let apart = match ip.kind {
        Addresses::OTHER => false,
        Addresses::IP if is_martian(ip) => return Decision::drop(DropReason::Martian, decision.ingress),
        Addresses::IP => {
            tables.network(port.network).is_internal() && may_not_leave(ip, tables.subnet(ip.destination), port, tables)
        }
        _ => true,
    };
    let action = match decision.action {
        action if !apart => action,
        action::FLOOD_LISTENERS => action::FLOOD_LISTENERS_APART,
        _ => action::FLOOD_APART,
    };
    Decision { action, ..decision }
}

/// A loopback address where none can be.
#[inline(always)]
fn is_martian(ip: &Addresses) -> bool {
    ip.source.is_loopback() || ip.destination.is_loopback()
}

/// Whether this is an internal network, and the packet for anything but the host's own address in it.
#[inline(always)]
fn may_not_leave<T: Tables>(ip: &Addresses, destination: Option<Subnet>, port: &Port, tables: &T) -> bool {
    let stays =
        is_gateway_of(destination, port.network) || ip.destination.is_link_local() || ip.destination.is_multicast6();
    !stays && tables.network(port.network).is_internal()
}

/// An address of another network's endpoints. The host's own addresses are in all networks.
#[inline(always)]
fn is_foreign(subnet: &Subnet, network: NetworkNumber) -> bool {
    subnet.network != network && !subnet.is_gateway()
}

#[inline(always)]
fn is_gateway_of(subnet: Option<Subnet>, network: NetworkNumber) -> bool {
    match subnet {
        Some(subnet) => subnet.network == network && subnet.is_gateway(),
        None => false,
    }
}
