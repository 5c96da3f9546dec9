//! macvlan and ipvlan: endpoints (children) on the segment of an interface of the host (their
//! parent).
//!
//! The parent stays the host's own interface: a frame that is for no child passes unchanged.
//! Nothing is learned from the wire. A frame from a child to an unknown station goes out on the
//! wire.

#[cfg(test)]
mod tests;

use super::{size, vlan};
use crate::mac::Mac;
use crate::packet::address::Address;
use crate::packet::{Ethernet, Packet, ethertype};
use crate::tables::{FdbKey, NeighborKey, Port, PortKind, PortNumber, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action};

/// Decides about a frame from a child to one station.
#[inline(always)]
pub(super) fn from_child<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
) -> Decision {
    let network = tables.network(port.network);
    let Some(parent) = tables.port(network.parent) else {
        return Decision::drop(DropReason::ParentGone, number);
    };
    let routed = port.has(Port::ROUTED);
    if routed && !matches!(ethernet.ethertype, ethertype::IPV4 | ethertype::IPV6) {
        return Decision::drop(DropReason::NotRouted, number);
    }
    let to_parent = ethernet.destination == parent.mac;
    let out = |way| by_parent::<P>(frame, ethernet, station, number, network.parent, &parent, way);
    let child = child_for(frame, ethernet, station, parent.mac, parent.flags | port.flags, tables);
    if let Some(target) = tables.port(child).filter(|target| is_child_in(target, port, station)) {
        if (port.flags | target.flags) & Port::APART == 0 {
            return to_child::<P>(frame, ethernet, station, number, port, child, &target);
        }
        // Only by way of the wire, where a switch may send the frame back.
        if !port.has(Port::REFLECTED) && port.has(Port::APART) && to_parent {
            return Decision::drop(DropReason::Isolated, number);
        }
        return out(if routed { Delivery::ROUTED } else { 0 });
    }
    if routed {
        // The neighbor table has the host's own addresses with the port of the parent.
        let host = child == network.parent;
        if host && !port.has(Port::HOST_ACCESS) {
            return Decision::drop(DropReason::HostAccess, number);
        }
        return out(if host || port.has(Port::STACK) { Delivery::LOCAL } else { Delivery::ROUTED });
    }
    if to_parent && !port.has(Port::PASSTHRU) {
        if port.has(Port::HOST_ACCESS) {
            return out(Delivery::LOCAL);
        }
        if !port.has(Port::APART) {
            return Decision::drop(DropReason::HostAccess, number);
        }
    }
    out(0)
}

/// Decides about a frame from a child to a group.
#[inline(always)]
pub(super) fn group_from_child(number: PortNumber, port: &Port) -> Decision {
    if port.has(Port::ROUTED) {
        return Decision::drop(DropReason::NotRouted, number);
    }
    Decision::new(action::FLOOD_GROUP, number)
}

/// Decides about a frame from the wire to one station.
#[inline(always)]
pub(super) fn from_parent<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
) -> Decision {
    let pass = Decision::new(action::PASS, number);
    let child = if port.has(Port::PASSTHRU) {
        tables.network(port.network).only
    } else {
        child_for(frame, ethernet, station, port.mac, port.flags, tables)
    };
    let Some(target) = tables.port(child).filter(|target| is_child_in(target, port, station)) else {
        return pass;
    };
    if target.has(Port::STACK) {
        return pass;
    }
    // A private child gets no frame of another child, even by way of the wire.
    if target.flags & (Port::APART | Port::REFLECTED) == Port::APART
        && sender(frame, ethernet, station, port, tables) != Sender::Wire
    {
        return Decision::drop(DropReason::SourceSpoofed, number);
    }
    to_child::<P>(frame, ethernet, station, number, port, child, &target)
}

/// Decides about a frame from the wire to a group: children get copies, and the host gets the frame
/// in any case.
#[inline(always)]
pub(super) fn group_from_parent<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
) -> Decision {
    match sender(frame, ethernet, station, port, tables) {
        Sender::Wire => Decision::new(action::FLOOD_GROUP, number),
        Sender::Host => {
            let to = Delivery { way: Delivery::ALL, ..Decision::new(0, number).to };
            Decision { to, ..Decision::new(action::FLOOD_REFLECTED, number) }
        }
        Sender::Child(child, flags) => {
            if flags & (Port::APART | Port::REFLECTED) == Port::APART {
                // A private child's frame is for no other child.
                return Decision::new(action::PASS, number);
            }
            // If the sender is not apart, the other children that are not apart have got copies
            // directly.
            let way = if flags & Port::APART != 0 { Delivery::ALL } else { 0 };
            let to = Delivery { port: child, way, ..Decision::new(0, number).to };
            Decision { to, ..Decision::new(action::FLOOD_REFLECTED, number) }
        }
    }
}

/// Decides about a frame that the host sends out by a parent: to a child that the host reaches, or
/// out on the wire. A frame that the host forwards for others also reaches children behind the
/// host's stack (`Port::STACK`).
#[inline(always)]
pub(super) fn from_host<P: Packet + ?Sized, T: Tables, const FORWARDED: bool>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
) -> Decision {
    if ethernet.destination.is_multicast() {
        return Decision::new(action::FLOOD_CHILDREN, number);
    }
    let child = child_for(frame, ethernet, station, port.mac, port.flags, tables);
    let open = if FORWARDED { Port::HOST_ACCESS | Port::STACK } else { Port::HOST_ACCESS };
    let target = tables.port(child).filter(|target| is_child_in(target, port, station) && target.has(open));
    let Some(target) = target else {
        return Decision::new(action::PASS, number);
    };
    let reached = to_child::<P>(frame, ethernet, station, number, port, child, &target);
    let way = if reached.action == action::REDIRECT { Delivery::FRONT } else { 0 };
    Decision { to: Delivery { way, ..reached.to }, ..reached }
}

/// Returns whether a port is a child in the network of another port.
#[inline(always)]
fn is_child_of(target: &Port, port: &Port) -> bool {
    matches!(target.kind(), Some(PortKind::Child)) && target.network == port.network
}

/// The same, in the VLAN of the frame.
#[inline(always)]
fn is_child_in(target: &Port, port: &Port, station: &FdbKey) -> bool {
    is_child_of(target, port) && target.vlan == station.vlan
}

/// Returns the port of the child that a frame is for: by the IP address if the destination is the
/// parent's MAC address and some children are found by IP address, else by the MAC address.
#[inline(always)]
fn child_for<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    parent: Mac,
    flags: u32,
    tables: &T,
) -> PortNumber {
    if ethernet.destination == parent {
        if flags & Port::BY_ADDRESS == 0 {
            return PortNumber::NONE;
        }
        let address = address_of(frame, ethernet, &End::DESTINATION);
        return tables.neighbor(&NeighborKey { address, network: station.network, vlan: station.vlan, reserved: 0 });
    }
    match tables.fdb(&FdbKey { mac: ethernet.destination, ..*station }) {
        Some(entry) => entry.port,
        None => PortNumber::NONE,
    }
}

/// The offsets of the source or destination address in a packet, in bytes behind the Ethernet
/// header.
struct End {
    ipv4: usize,
    ipv6: usize,
    arp: usize,
}

impl End {
    const SOURCE: Self = Self { ipv4: 12, ipv6: 8, arp: 14 };
    const DESTINATION: Self = Self { ipv4: 16, ipv6: 24, arp: 24 };
}

/// Returns the source or destination IP address of a frame, by which stations with one MAC address
/// are told apart; `::` if it has none.
#[inline(always)]
fn address_of<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet, end: &End) -> Address {
    let at = match ethernet.ethertype {
        ethertype::IPV6 => {
            return frame.read(ethernet.payload + end.ipv6).map_or(Address::UNSPECIFIED, Address::new);
        }
        ethertype::IPV4 => end.ipv4,
        ethertype::ARP => end.arp,
        _ => return Address::UNSPECIFIED,
    };
    frame.read(ethernet.payload + at).map_or(Address::UNSPECIFIED, Address::mapped)
}

/// The sender of a frame that comes in from the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// A station on the wire.
    Wire,
    /// A child, with its flags: a switch on the wire has sent the frame back.
    Child(PortNumber, u32),
    /// The host, whose frame was sent back in the same way; or a child with the host's MAC address
    /// and an unknown IP address.
    Host,
}

#[inline(always)]
fn sender<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    port: &Port,
    tables: &T,
) -> Sender {
    let own = ethernet.source == port.mac;
    let child = if own {
        let address = address_of(frame, ethernet, &End::SOURCE);
        tables.neighbor(&NeighborKey { address, network: station.network, vlan: station.vlan, reserved: 0 })
    } else {
        match tables.fdb(station) {
            Some(entry) => entry.port,
            None => PortNumber::NONE,
        }
    };
    match tables.port(child).filter(|sender| is_child_of(sender, port)) {
        Some(sender) => Sender::Child(child, sender.flags),
        None if own => Sender::Host,
        None => Sender::Wire,
    }
}

/// Delivers to a child.
#[inline(always)]
fn to_child<P: Packet + ?Sized>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    child: PortNumber,
    target: &Port,
) -> Decision {
    if child == number {
        return Decision::drop(DropReason::SamePort, number);
    }
    if target.flags & port.flags & Port::ISOLATED != 0 {
        return Decision::drop(DropReason::Isolated, number);
    }
    if size::is_too_big(frame, ethernet, station.vlan, target) {
        return Decision::drop(DropReason::TooBig, number);
    }
    let to = Delivery {
        port: child,
        ifindex: target.egress_ifindex,
        kind: target.kind,
        xdp: (target.flags & Port::XDP_EGRESS) as u8,
        way: 0,
        tag: vlan::tag_change(ethernet.tag, station.vlan, target),
    };
    Decision { to, ..Decision::new(action::REDIRECT, number) }
}

/// Sends a child's frame out by the parent, or into the host's stack there.
#[inline(always)]
fn by_parent<P: Packet + ?Sized>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    by: PortNumber,
    parent: &Port,
    way: u8,
) -> Decision {
    if way == 0 && size::is_too_big(frame, ethernet, station.vlan, parent) {
        return Decision::drop(DropReason::TooBig, number);
    }
    let to = Delivery {
        port: by,
        ifindex: parent.egress_ifindex,
        kind: parent.kind,
        xdp: 0,
        way,
        tag: vlan::tag_change(ethernet.tag, station.vlan, parent),
    };
    Decision { to, ..Decision::new(action::REDIRECT, number) }
}
