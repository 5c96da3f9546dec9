//! The decision: what becomes of a frame that enters the switch. Read it top to bottom.

mod border;
mod early;
#[cfg(test)]
mod tests;

pub use early::forward_early;

use crate::packet::{Ethernet, Packet};
use crate::tables::{FdbEntry, FdbKey, Port, PortKind, PortNumber, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action, tag};

/// Decides about one frame that the device `ifindex` received at the tick `now` (see [`crate::tables::tick`]).
///
/// A pure function of its arguments: it changes neither frame nor tables. The caller carries the decision out.
#[inline(always)]
pub fn forward<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    decide::<P, T, { border::ANY }>(ifindex, frame, tables, now)
}

/// The same for a device that is the host's port: with half of the code, which a program is the faster for.
#[inline(always)]
pub fn forward_from_host<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    decide::<P, T, { border::FROM_HOST }>(ifindex, frame, tables, now)
}

/// The same for a device that is a container's or an uplink's port: with the other half.
#[inline(always)]
pub fn forward_from_station<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    decide::<P, T, { border::FROM_STATION }>(ifindex, frame, tables, now)
}

/// The decision, with the parts of the border to the host's stack that `BORDER` names.
#[inline(always)]
fn decide<P: Packet + ?Sized, T: Tables, const BORDER: u8>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    let number = tables.port_of_device(ifindex);
    let Some(port) = tables.port(number) else {
        return Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
    };
    if !border::is_watched::<BORDER>(&port) {
        return Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
    }
    let Ok(ethernet) = Ethernet::parse(frame) else {
        return Decision::drop(DropReason::Truncated, number);
    };
    if let Some(refused) = refuse(&ethernet, &port, number) {
        return refused;
    }
    let station = FdbKey { network: port.network, vlan: ethernet.vlan(), mac: ethernet.source };
    let learns = match source(&station, number, &port, tables, now) {
        Source::Known => 0,
        Source::Learn => 1,
        Source::Spoofed => return Decision { station, ..Decision::drop(DropReason::SourceSpoofed, number) },
    };
    let decision = if ethernet.destination.is_multicast() {
        Decision::new(action::FLOOD_GROUP, number)
    } else {
        unicast(&FdbKey { mac: ethernet.destination, ..station }, number, &port, tables)
    };
    let decision = border::guard::<P, T, BORDER>(decision, frame, &ethernet, &port, tables);
    Decision { learns: u8::from(learns != 0), station, ..decision }
}

/// Addresses that no switch forwards.
#[inline(always)]
fn refuse(ethernet: &Ethernet, port: &Port, number: PortNumber) -> Option<Decision> {
    if ethernet.source.is_multicast() {
        return Some(Decision::drop(DropReason::SourceMulticast, number));
    }
    if ethernet.source.is_zero() {
        return Some(Decision::drop(DropReason::SourceZero, number));
    }
    if ethernet.destination.is_zero() {
        return Some(Decision::drop(DropReason::DestinationZero, number));
    }
    if ethernet.destination.is_link_local() {
        // For the machine at the end of this link: on an uplink that is us (LLDP, LACP), elsewhere nobody.
        return Some(match port.kind() {
            Some(PortKind::Uplink) => Decision::new(action::PASS, number),
            _ => Decision::drop(DropReason::LinkLocal, number),
        });
    }
    None
}

/// What the FDB says about a frame's sender.
enum Source {
    /// It is where we know it to be.
    Known,
    /// New, moved, or not refreshed in this tick.
    Learn,
    /// The address belongs to somebody behind another port.
    Spoofed,
}

#[inline(always)]
fn source<T: Tables>(station: &FdbKey, number: PortNumber, port: &Port, tables: &T, now: u32) -> Source {
    // The usual case, and no lookup: the endpoint itself speaks.
    if station.mac == port.mac && station.vlan.0 == 0 && matches!(port.kind(), Some(PortKind::Container)) {
        return Source::Known;
    }
    match tables.fdb(station) {
        Some(entry) if entry.is_static() && entry.port == number => Source::Known,
        Some(entry) if entry.is_static() => Source::Spoofed,
        Some(FdbEntry { port, seen, .. }) if port == number && seen == now => Source::Known,
        _ => Source::Learn,
    }
}

#[inline(always)]
fn unicast<T: Tables>(station: &FdbKey, number: PortNumber, port: &Port, tables: &T) -> Decision {
    let unknown = Decision::new(action::FLOOD_UNKNOWN, number);
    let Some(entry) = tables.fdb(station) else {
        return unknown;
    };
    if entry.port == number {
        // An uplink's own address: the host's stack on that device. Anybody else's: it is on its segment already.
        return match port.kind() {
            Some(PortKind::Uplink) if entry.is_static() => Decision::new(action::PASS, number),
            _ => Decision::drop(DropReason::SamePort, number),
        };
    }
    // A port that is gone, or whose number has gone to another network, is as good as an unknown station.
    let Some(target) = tables.port(entry.port).filter(|target| target.network == port.network) else {
        return unknown;
    };
    if port.flags & target.flags & Port::ISOLATED != 0 {
        return Decision::drop(DropReason::Isolated, number);
    }
    let local = match target.kind() {
        Some(PortKind::Host) => true,
        Some(PortKind::Uplink) => target.mac == station.mac,
        _ => false,
    };
    let to = Delivery {
        port: entry.port,
        ifindex: target.egress_ifindex,
        kind: target.kind,
        xdp: (target.flags & Port::XDP_EGRESS) as u8,
        local: u8::from(local),
        tag: tag::KEEP,
    };
    Decision { to, ..Decision::new(action::REDIRECT, number) }
}
