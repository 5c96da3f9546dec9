//! The decision: what becomes of a frame that enters the switch. Read it top to bottom.

mod border;
mod early;
mod flood;
mod group;
mod guard;
mod size;
#[cfg(test)]
mod tests;
mod vlan;

pub use early::forward_early;
pub use flood::{Copied, Flooded};

use crate::packet::{Ethernet, Packet};
use crate::tables::{FdbKey, Port, PortKind, PortNumber, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action};

/// Which ports a program may be on, and whether it is XDP: what cannot come up is left out of it, and it is the faster.
mod side {
    use crate::tables::{Port, PortKind};

    pub const HOST: u8 = 1;
    pub const CONTAINER: u8 = 2;
    pub const UPLINK: u8 = 4;
    pub const ANY: u8 = HOST | CONTAINER | UPLINK;
    /// In XDP, which hands frames from device to device: never over the border to the host's stack.
    pub const EARLY: u8 = 8;

    /// Whether a port is one of those. The answer is no surprise: but should it ever be another, nothing passes.
    #[inline(always)]
    pub const fn has<const SIDE: u8>(port: &Port) -> bool {
        let side = match port.kind() {
            Some(PortKind::Host) => HOST,
            Some(PortKind::Container) => CONTAINER,
            Some(PortKind::Uplink) => UPLINK,
            None => 0,
        };
        SIDE & side != 0
    }
}

/// Decides about one frame that the device `ifindex` received at the tick `now` (see [`crate::tables::tick`]).
///
/// A pure function of its arguments: it changes neither frame nor tables. The caller carries the decision out.
#[inline(always)]
pub fn forward<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    decide::<P, T, { side::ANY }>(ifindex, frame, tables, now)
}

/// The same for a device that is the host's port.
#[inline(always)]
pub fn forward_from_host<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    decide::<P, T, { side::HOST }>(ifindex, frame, tables, now)
}

/// The same for a device that is a container's port.
#[inline(always)]
pub fn forward_from_container<P: Packet + ?Sized, T: Tables>(
    ifindex: u32,
    frame: &P,
    tables: &T,
    now: u32,
) -> Decision {
    decide::<P, T, { side::CONTAINER }>(ifindex, frame, tables, now)
}

/// The same for a device that is an uplink.
#[inline(always)]
pub fn forward_from_uplink<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    decide::<P, T, { side::UPLINK }>(ifindex, frame, tables, now)
}

/// The decision, for ports of these sides.
#[inline(always)]
fn decide<P: Packet + ?Sized, T: Tables, const SIDE: u8>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    let number = tables.port_of_device(ifindex);
    let Some(port) = tables.port(number) else {
        return Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
    };
    let port: &Port = &port;
    if !side::has::<SIDE>(port) {
        return Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
    }
    let nobody = FdbKey { network: port.network, ..Decision::new(action::DROP, number).station };
    let Ok(ethernet) = Ethernet::parse(frame) else {
        return Decision { station: nobody, ..Decision::drop(DropReason::Truncated, number) };
    };
    if let Some(refused) = refuse(frame, &ethernet, port, number) {
        return Decision { station: nobody, ..refused };
    }
    let Some(vlan) = vlan::of(&ethernet, port, number, tables) else {
        return Decision { station: nobody, ..Decision::drop(DropReason::VlanNotAllowed, number) };
    };
    let station = FdbKey { mac: ethernet.source, vlan, ..nobody };
    let dropped = |reason| Decision { station, ..Decision::drop(reason, number) };
    let learns = match source(&station, number, port, tables, now) {
        Source::Known => 0,
        Source::Learn => 1,
        Source::Spoofed => return dropped(DropReason::SourceSpoofed),
        Source::Held => return dropped(DropReason::StationHeld),
    };
    if SIDE & side::CONTAINER != 0
        && matches!(port.kind(), Some(PortKind::Container))
        && let Some(reason) = guard::check(frame, &ethernet, port, number, &station, tables)
    {
        return dropped(reason);
    }
    let decision = if ethernet.destination.is_multicast() {
        group::decide(frame, &ethernet, &station, number, port, tables)
    } else {
        unicast(frame, &ethernet, &FdbKey { mac: ethernet.destination, ..station }, number, port, tables)
    };
    let decision = border::guard::<P, T, SIDE>(decision, frame, &ethernet, port, tables);
    let decision = group::allowance(decision, &ethernet, port, tables, now);
    Decision { learns, station, ..decision }
}

/// Addresses that no switch forwards.
#[inline(always)]
fn refuse<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet, port: &Port, number: PortNumber) -> Option<Decision> {
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
        let [.., last] = ethernet.destination.0;
        return match port.kind() {
            Some(PortKind::Container) if port.has(Port::BPDU_GUARD) && guard::is_bpdu(frame, ethernet) => {
                Some(Decision::drop(DropReason::Bpdu, number))
            }
            _ if port.group_fwd_mask & (1 << (last & 0xf)) != 0 => None,
            // For the machine at the end of this link: on an uplink that is us (LLDP, LACP), elsewhere nobody.
            Some(PortKind::Uplink) => Some(Decision::new(action::PASS, number)),
            _ => Some(Decision::drop(DropReason::LinkLocal, number)),
        };
    }
    None
}

/// What the FDB says about a frame's sender.
enum Source {
    /// It is where we know it to be.
    Known,
    /// New, moved, or not refreshed in this tick.
    Learn,
    /// The address is somebody's behind another port, or not this endpoint's.
    Spoofed,
    /// It moved too often: it is held at another port.
    Held,
}

#[inline(always)]
fn source<T: Tables>(station: &FdbKey, number: PortNumber, port: &Port, tables: &T, now: u32) -> Source {
    let own = station.mac == port.mac;
    // The usual case, and no lookup: the endpoint itself speaks.
    if own && station.vlan == port.vlan {
        return Source::Known;
    }
    if !own && port.flags & (Port::SPOOF_GUARD | Port::LEARN) == Port::SPOOF_GUARD {
        return Source::Spoofed;
    }
    match tables.fdb(station) {
        Some(entry) if entry.port == number && (entry.is_static() || entry.seen == now) => Source::Known,
        Some(entry) if entry.port == number => Source::Learn,
        Some(entry) if entry.is_fixed() => Source::Spoofed,
        Some(entry) if entry.is_held(now) => Source::Held,
        // On a trunk the endpoint itself is learned in each VLAN.
        _ if own || port.has(Port::LEARN) => Source::Learn,
        _ => Source::Known,
    }
}

#[inline(always)]
fn unicast<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
) -> Decision {
    let unknown = Decision::new(action::FLOOD_UNKNOWN, number);
    let Some(entry) = tables.fdb(station) else {
        return unknown;
    };
    if entry.port == number && !port.has(Port::HAIRPIN) {
        // An uplink's own address: the host's stack on that device. Anybody else's: it is on its segment already.
        return match port.kind() {
            Some(PortKind::Uplink) if entry.is_static() => Decision::new(action::PASS, number),
            _ => Decision::drop(DropReason::SamePort, number),
        };
    }
    // A port that is gone, or whose number has gone to another network, is as good as an unknown station.
    let Some(target) = tables.port(entry.port) else {
        return unknown;
    };
    if target.network != port.network {
        return unknown;
    }
    if port.flags & target.flags & Port::ISOLATED != 0 && entry.port != number {
        return Decision::drop(DropReason::Isolated, number);
    }
    if size::is_too_big(frame, ethernet, &target) {
        return Decision::drop(DropReason::TooBig, number);
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
        tag: vlan::on_the_way_out(ethernet.tag, station.vlan, &target),
    };
    Decision { to, ..Decision::new(action::REDIRECT, number) }
}
