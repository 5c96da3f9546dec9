//! Broadcast and multicast: answered by the switch, sent to listeners, or flooded.

use crate::packet::address::Address;
use crate::packet::arp::{self, Arp};
use crate::packet::neighbor::{Solicitation, kind};
use crate::packet::{Ethernet, Packet, ethertype, ipv6, protocol};
use crate::tables::{FdbKey, NeighborKey, Port, PortKind, PortNumber, StormClass, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action};
use crate::verifier::two_bytes;

/// Types of IGMP messages (RFC 9776, 4; RFC 2236; RFC 1112).
mod igmp {
    pub const QUERY: u8 = 0x11;
    pub const REPORT_1: u8 = 0x12;
    pub const REPORT_2: u8 = 0x16;
    pub const LEAVE: u8 = 0x17;
    pub const REPORT_3: u8 = 0x22;
}

/// Decides about a frame to a group address.
#[inline(always)]
pub(super) fn decide<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
) -> Decision {
    if port.has(Port::ARP_SUPPRESS)
        && !ethernet.double
        && let Some(answer) = answer(frame, ethernet, station, number, port, tables)
    {
        return answer;
    }
    if !port.has(Port::SNOOPING) {
        return Decision::new(action::FLOOD_GROUP, number);
    }
    let (action, snoops) = match ethernet.ethertype {
        ethertype::IPV4 => of_ipv4(frame, ethernet.payload),
        ethertype::IPV6 => of_ipv6(frame, ethernet.payload),
        _ => (action::FLOOD_GROUP, 0),
    };
    Decision { snoops: frame.forget(snoops) as u8, ..Decision::new(frame.forget(action), number) }
}

/// Restricts a flood beyond the port's allowance to the host, and sets the [`StormClass`] that
/// another flood is counted in.
#[inline(always)]
pub(super) fn allowance<T: Tables>(
    decision: Decision,
    ethernet: &Ethernet,
    port: &Port,
    tables: &T,
    now: u32,
) -> Decision {
    if port.storm == 0 {
        return decision;
    }
    let class = match decision.action {
        action::FLOOD_UNKNOWN => StormClass::Unknown,
        action::FLOOD_GROUP
        | action::FLOOD_EXCEPT_HOST
        | action::FLOOD_LISTENERS
        | action::FLOOD_LISTENERS_EXCEPT_HOST
        | action::FLOOD_ROUTERS => match ethernet.destination.is_broadcast() {
            true => StormClass::Broadcast,
            false => StormClass::Multicast,
        },
        _ => return decision,
    } as u8;
    if tables.storm(decision.ingress, class.into()).is_used_up(port.storm, now) {
        return beyond_allowance(decision, port);
    }
    Decision { storm: class.into(), ..decision }
}

/// Returns what becomes of a flood beyond the port's allowance: the host gets what is for it, and
/// no other port gets a copy. The frame is counted as dropped.
#[inline(always)]
fn beyond_allowance(decision: Decision, port: &Port) -> Decision {
    let dropped = Decision::drop(DropReason::Storm, decision.ingress);
    let for_host = match decision.action {
        action::FLOOD_GROUP | action::FLOOD_LISTENERS => match port.kind() {
            Some(PortKind::Container | PortKind::Uplink) => true,
            Some(PortKind::Child) => port.has(Port::HOST_ACCESS),
            _ => false,
        },
        _ => false,
    };
    if for_host {
        let way = if decision.action == action::FLOOD_LISTENERS { Delivery::LISTENING } else { 0 };
        return Decision { action: action::FLOOD_HOST, to: Delivery { way, ..decision.to }, ..dropped };
    }
    // The interface is the host's, too, which gets every frame on it.
    if matches!(port.kind(), Some(PortKind::Uplink)) { Decision { action: action::PASS, ..dropped } } else { dropped }
}

/// Returns the answer to an ARP request or neighbor solicitation for an address of a known station
/// that the sender may reach.
#[inline(always)]
fn answer<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
) -> Option<Decision> {
    let (action, target) = match ethernet.ethertype {
        ethertype::ARP => {
            let arp = Arp::parse(frame, ethernet.payload).ok()?;
            // A request for the sender's own address announces the address to all stations (RFC
            // 5227, 3).
            if arp.operation != arp::REQUEST || arp.sender == arp.target {
                return None;
            }
            (action::ANSWER_ARP, Address::mapped(arp.target.octets()))
        }
        ethertype::IPV6 => (action::ANSWER_NEIGHBOR, Solicitation::read(frame, ethernet.payload)?.target),
        _ => return None,
    };
    let key = NeighborKey { address: target, network: station.network, vlan: station.vlan, reserved: 0 };
    let owner = tables.neighbor(&key);
    let target = tables.port(owner)?;
    if owner == number || target.network != port.network || target.is_isolated_from(port.flags) {
        return None;
    }
    let to = Delivery { port: owner, ..Decision::new(action, number).to };
    Some(Decision { to, ..Decision::new(action, number) })
}

/// Returns the action for an IPv4 packet to a group, and 1 if the daemon gets a copy.
#[inline(always)]
fn of_ipv4<P: Packet + ?Sized>(frame: &P, at: usize) -> (u32, u32) {
    let flood = (action::FLOOD_GROUP, 0);
    let Some([version]) = frame.read(at) else { return flood };
    let Some([carries]) = frame.read(at + 9) else { return flood };
    if carries == protocol::IGMP {
        return match two_bytes(frame, at + usize::from(version & 0xf) * 4) {
            [igmp::QUERY, _] => (action::FLOOD_GROUP, 1),
            [igmp::REPORT_1 | igmp::REPORT_2 | igmp::LEAVE | igmp::REPORT_3, _] => (action::FLOOD_ROUTERS, 1),
            _ => flood,
        };
    }
    let Some(group) = frame.read(at + 16).map(Address::mapped) else { return flood };
    if group.is_multicast4() && !group.is_group_of_all() { (action::FLOOD_LISTENERS, 0) } else { flood }
}

/// The same for an IPv6 packet.
#[inline(always)]
fn of_ipv6<P: Packet + ?Sized>(frame: &P, at: usize) -> (u32, u32) {
    let flood = (action::FLOOD_GROUP, 0);
    let Some([next]) = frame.read(at + 6) else { return flood };
    if next == protocol::HOP_BY_HOP && two_bytes(frame, at + ipv6::HEADER) == [protocol::ICMPV6, 0] {
        // Behind a hop-by-hop header with the router alert option (RFC 3810, 5).
        match two_bytes(frame, at + ipv6::HEADER + 8) {
            [kind::LISTENER_QUERY, _] => return (action::FLOOD_GROUP, 1),
            [kind::LISTENER_REPORT | kind::LISTENER_DONE | kind::LISTENER_REPORT_2, _] => {
                return (action::FLOOD_ROUTERS, 1);
            }
            _ => {}
        }
    }
    let Some(group) = frame.read(at + 24).map(Address::new) else { return flood };
    if group.is_multicast6() && !group.is_group_of_all() { (action::FLOOD_LISTENERS, 0) } else { flood }
}

/// Returns whether a port gets all multicast: a multicast router is behind it, or an uplink, where
/// listeners may be whose reports do not come here.
#[inline(always)]
pub(super) const fn has_router(port: &Port) -> bool {
    port.has(Port::ROUTER) || matches!(port.kind(), Some(PortKind::Uplink))
}
