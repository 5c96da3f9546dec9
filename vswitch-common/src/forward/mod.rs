//! The decision: what becomes of a frame that enters the switch. Read it top to bottom.

mod early;
#[cfg(test)]
mod tests;

pub use early::forward_early;

use crate::packet::{Ethernet, Packet};
use crate::tables::{FdbEntry, FdbKey, Port, PortKind, PortNumber, Tables};
use crate::verdict::{Decision, Delivery, DropReason, Flood, Verdict};

/// Decides about one frame that the device `ifindex` received at second `now` (CLOCK_MONOTONIC).
///
/// A pure function of its arguments: it changes neither frame nor tables. The caller carries the decision out.
#[inline(always)]
pub fn forward<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    let number = tables.port_of_device(ifindex);
    let Some(port) = tables.port(number) else {
        return dropped(PortNumber::NONE, DropReason::UnknownPort);
    };
    let Ok(ethernet) = Ethernet::parse(frame) else {
        return dropped(number, DropReason::Truncated);
    };
    if let Some(verdict) = refuse(&ethernet, &port) {
        return Decision { verdict, ingress: number, learn: None };
    }
    let station = FdbKey { network: port.network, vlan: ethernet.vlan(), mac: ethernet.source };
    let learn = match source(&station, number, &port, tables, now) {
        Source::Known => None,
        Source::Learn => Some(station),
        Source::Spoofed => return dropped(number, DropReason::SourceSpoofed),
    };
    let verdict = if ethernet.destination.is_multicast() {
        Verdict::Flood(Flood::Group)
    } else {
        unicast(&FdbKey { mac: ethernet.destination, ..station }, number, &port, tables)
    };
    Decision { verdict, ingress: number, learn }
}

#[inline(always)]
const fn dropped(ingress: PortNumber, reason: DropReason) -> Decision {
    Decision { verdict: Verdict::Drop(reason), ingress, learn: None }
}

/// Addresses that no switch forwards.
#[inline(always)]
fn refuse(ethernet: &Ethernet, port: &Port) -> Option<Verdict> {
    if ethernet.source.is_multicast() {
        return Some(Verdict::Drop(DropReason::SourceMulticast));
    }
    if ethernet.source.is_zero() {
        return Some(Verdict::Drop(DropReason::SourceZero));
    }
    if ethernet.destination.is_zero() {
        return Some(Verdict::Drop(DropReason::DestinationZero));
    }
    if ethernet.destination.is_link_local() {
        // For the machine at the end of this link: on an uplink that is us (LLDP, LACP), elsewhere nobody.
        return Some(match port.kind() {
            Some(PortKind::Uplink) => Verdict::Pass,
            _ => Verdict::Drop(DropReason::LinkLocal),
        });
    }
    None
}

/// What the FDB says about a frame's sender.
enum Source {
    /// It is where we know it to be.
    Known,
    /// New, moved, or not refreshed in this second.
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
fn unicast<T: Tables>(station: &FdbKey, number: PortNumber, port: &Port, tables: &T) -> Verdict {
    let Some(entry) = tables.fdb(station) else {
        return Verdict::Flood(Flood::UnknownUnicast);
    };
    if entry.port == number {
        // An uplink's own address: the host's stack on that device. Anybody else's: it is on its segment already.
        return match port.kind() {
            Some(PortKind::Uplink) if entry.is_static() => Verdict::Pass,
            _ => Verdict::Drop(DropReason::SamePort),
        };
    }
    // A port that is gone, or whose number has gone to another network, is as good as an unknown station.
    let Some(target) = tables.port(entry.port).filter(|target| target.network == port.network) else {
        return Verdict::Flood(Flood::UnknownUnicast);
    };
    let Some(kind) = target.kind() else {
        return Verdict::Flood(Flood::UnknownUnicast);
    };
    Verdict::Redirect(Delivery {
        port: entry.port,
        ifindex: target.egress_ifindex,
        kind,
        flags: target.flags,
        local: matches!(kind, PortKind::Host) || (matches!(kind, PortKind::Uplink) && target.mac == station.mac),
    })
}
