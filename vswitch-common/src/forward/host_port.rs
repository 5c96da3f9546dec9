//! Checks of frames between a network and the host's stack, which routes between all networks: they
//! keep the networks apart.
//!
//! They hold whatever the host's firewall says. Frames from container to container are not checked
//! here.

#[cfg(test)]
mod tests;

use super::scope::Scope;
use crate::packet::address::Addresses;
use crate::packet::{Ethernet, Packet};
use crate::tables::{NetworkNumber, Port, PortKind, Subnet, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action};

/// Changes a decision by which a frame would pass between a network and the host's stack and must
/// not.
#[inline(always)]
pub(super) fn check<P: Packet + ?Sized, T: Tables, S: Scope>(
    decision: Decision,
    frame: &P,
    ethernet: &Ethernet,
    port: &Port,
    tables: &T,
) -> Decision {
    if const { S::HOOK.is_xdp() } {
        // XDP hands frames from device to device, never to the host's stack.
        return decision;
    }
    let ports = const { S::PORTS };
    // In the program of the host port the kind of the port need not be compared.
    let only_host = ports.has(PortKind::Host) && !ports.has(PortKind::Container) && !ports.has(PortKind::Uplink);
    if only_host || ports.has(PortKind::Host) && matches!(port.kind(), Some(PortKind::Host)) {
        if decision.action == action::DROP {
            return decision;
        }
        let ip = Addresses::read(frame, ethernet);
        return dropped_if(from_host(&ip, frame, port, tables), decision);
    }
    match decision.action {
        action::REDIRECT if const { S::CAST.has_unicast() } && decision.to.way == Delivery::LOCAL => {
            dropped_if(to_host(&Addresses::read(frame, ethernet), port, tables), decision)
        }
        action::FLOOD_GROUP | action::FLOOD_LISTENERS if const { S::CAST.has_group() } => {
            copy_to_host(decision, &Addresses::read(frame, ethernet), port, tables)
        }
        // Frames for the host on its own interface: only loopback addresses are stopped.
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

/// Returns why a packet of the host's stack may not enter the network of `port`: the host has
/// routed it from another network, or the network is internal.
#[inline(always)]
fn from_host<P: Packet + ?Sized, T: Tables>(ip: &Addresses, frame: &P, port: &Port, tables: &T) -> Option<DropReason> {
    match ip.kind {
        Addresses::OTHER => return None,
        Addresses::IP => {}
        _ => return Some(DropReason::Truncated),
    }
    let source = tables.subnet(ip.source);
    if let Some(from) = source.filter(|from| is_foreign(from, port.network)) {
        if frame.mark() & tables.published_mark() == 0 {
            return Some(DropReason::OtherNetwork);
        }
        // A published port is open to other networks, but not to the endpoints of an internal
        // network.
        if tables.network(from.network).is_internal() {
            return Some(DropReason::Internal);
        }
    }
    let own = is_gateway_of(source, port.network) || ip.source.is_link_local() || ip.source.is_unspecified6();
    (!own && tables.network(port.network).is_internal()).then_some(DropReason::Internal)
}

/// Returns why a packet of the network of `port` may not reach the host's stack.
#[inline(always)]
fn to_host<T: Tables>(ip: &Addresses, port: &Port, tables: &T) -> Option<DropReason> {
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
        // The host would send the packet back into the network, to another isolated endpoint.
        return (port.flags & Port::ISOLATED != 0).then_some(DropReason::Isolated);
    }
    // At the host port of the other network only the source address shows where the packet is from.
    // An address that does not show it is forged. With any other address the packet is refused
    // there, unless it answers a connection to a published port.
    let shows = tables.subnet(ip.source).is_some_and(|from| is_foreign(&from, to.network));
    (!shows).then_some(DropReason::OtherNetwork)
}

/// Changes the flood of a broadcast or multicast frame of which the host's stack may not get a
/// copy. The stack forwards no such frame (`ip_forward` and `ip6_forward` take PACKET_HOST alone),
/// but delivers a datagram in it to an address of its own, and with `route_localnet` also to
/// 127.0.0.1.
#[inline(always)]
fn copy_to_host<T: Tables>(decision: Decision, ip: &Addresses, port: &Port, tables: &T) -> Decision {
    let without_host = match ip.kind {
        Addresses::OTHER => false,
        Addresses::IP if is_martian(ip) => return Decision::drop(DropReason::Martian, decision.ingress),
        Addresses::IP => {
            tables.network(port.network).is_internal() && may_not_leave(ip, tables.subnet(ip.destination), port, tables)
        }
        _ => true,
    };
    let action = match decision.action {
        action if !without_host => action,
        action::FLOOD_LISTENERS => action::FLOOD_LISTENERS_EXCEPT_HOST,
        _ => action::FLOOD_EXCEPT_HOST,
    };
    Decision { action, ..decision }
}

/// Returns whether one of the addresses is a loopback address, which no packet on a network may
/// have.
#[inline(always)]
fn is_martian(ip: &Addresses) -> bool {
    ip.source.is_loopback() || ip.destination.is_loopback()
}

/// Returns whether the network is internal and the packet is not for the host's own address in it.
#[inline(always)]
fn may_not_leave<T: Tables>(ip: &Addresses, destination: Option<Subnet>, port: &Port, tables: &T) -> bool {
    let stays =
        is_gateway_of(destination, port.network) || ip.destination.is_link_local() || ip.destination.is_multicast6();
    !stays && tables.network(port.network).is_internal()
}

/// Returns whether a subnet belongs to the endpoints of another network. The host's own addresses
/// are in all networks.
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
