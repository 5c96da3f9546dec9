//! Broadcast and multicast: answered by the switch, for those who listen, or for everybody.

use crate::packet::address::Address;
use crate::packet::arp::{self, Arp};
use crate::packet::neighbor::{Solicitation, kind};
use crate::packet::{Ethernet, Packet, ethertype, ipv6, protocol};
use crate::tables::{FdbKey, NeighborKey, Port, PortKind, PortNumber, StormClass, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action};

/// IGMP's messages (RFC 9776, 4; RFC 2236; RFC 1112).
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

/// Drops a flood that is more than the port's allowance, and says what the others are to be counted as.
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
        | action::FLOOD_APART
        | action::FLOOD_LISTENERS
        | action::FLOOD_LISTENERS_APART
        | action::FLOOD_ROUTERS => match ethernet.destination.is_broadcast() {
            true => StormClass::Broadcast,
            false => StormClass::Multicast,
        },
        _ => return decision,
    } as u8;
    let used = tables.storm(decision.ingress, class.into());
    if used.tick == now && used.count >= port.storm {
        return Decision::drop(DropReason::Storm, decision.ingress);
    }
    Decision { storm: class.into(), ..decision }
}

/// The answer to an ARP request or neighbor solicitation for an address whose owner is known, and may be reached.
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
            // One who asks for its own address announces it (RFC 5227, 3): that is for all.
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
    if owner == number || target.network != port.network || target.is_kept_from(port.flags) {
        return None;
    }
    let to = Delivery { port: owner, ..Decision::new(action, number).to };
    Some(Decision { to, ..Decision::new(action, number) })
}

/// What becomes of an IPv4 packet to a group, and whether the daemon is to see it.
#[inline(always)]
fn of_ipv4<P: Packet + ?Sized>(frame: &P, at: usize) -> (u32, u32) {
    let everybody = (action::FLOOD_GROUP, 0);
    let Some([version]) = frame.read(at) else { return everybody };
    let Some([carries]) = frame.read(at + 9) else { return everybody };
    if carries == protocol::IGMP {
        return match read2(frame, at + usize::from(version & 0xf) * 4) {
            [igmp::QUERY, _] => (action::FLOOD_GROUP, 1),
            [igmp::REPORT_1 | igmp::REPORT_2 | igmp::LEAVE | igmp::REPORT_3, _] => (action::FLOOD_ROUTERS, 1),
            _ => everybody,
        };
    }
    let Some(group) = frame.read(at + 16).map(Address::mapped) else { return everybody };
    if group.is_multicast4() && !group.is_group_of_all() { (action::FLOOD_LISTENERS, 0) } else { everybody }
}

/// Two bytes, or what matches nothing here: compared without being there, they would be an unset register to the
/// verifier, which it refuses.
#[inline(always)]
fn read2<P: Packet + ?Sized>(frame: &P, offset: usize) -> [u8; 2] {
    frame.read(offset).unwrap_or([0; 2])
}

#[inline(always)]
fn of_ipv6<P: Packet + ?Sized>(frame: &P, at: usize) -> (u32, u32) {
    let everybody = (action::FLOOD_GROUP, 0);
    let Some([next]) = frame.read(at + 6) else { return everybody };
    if next == protocol::HOP_BY_HOP && read2(frame, at + ipv6::HEADER) == [protocol::ICMPV6, 0] {
        // With the router alert in front (RFC 3810, 5).
        match read2(frame, at + ipv6::HEADER + 8) {
            [kind::LISTENER_QUERY, _] => return (action::FLOOD_GROUP, 1),
            [kind::LISTENER_REPORT | kind::LISTENER_DONE | kind::LISTENER_REPORT_2, _] => {
                return (action::FLOOD_ROUTERS, 1);
            }
            _ => {}
        }
    }
    let Some(group) = frame.read(at + 24).map(Address::new) else { return everybody };
    if group.is_multicast6() && !group.is_group_of_all() { (action::FLOOD_LISTENERS, 0) } else { everybody }
}

/// Whether a port of this kind may have somebody behind it that listens and never says so.
#[inline(always)]
pub(super) const fn has_router(port: &Port) -> bool {
    port.has(Port::ROUTER) || matches!(port.kind(), Some(PortKind::Uplink))
}
