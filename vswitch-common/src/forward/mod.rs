//! The decision: what becomes of a frame that enters the switch. Read it top to bottom.

mod border;
mod early;
mod flood;
mod group;
mod guard;
mod parent;
mod size;
#[cfg(test)]
mod tests;
mod too_big;
#[cfg(test)]
mod tunnel_tests;
pub mod underlay;
mod vlan;
pub mod wireguard;

pub use early::forward_early;
pub use flood::{Copied, Flooded};
pub use size::tags;
pub use too_big::LEAST_IPV6;

use crate::packet::{Ethernet, Packet, TunnelKey};
use crate::tables::{FdbKey, Port, PortKind, PortNumber, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action};

/// Which ports a program may be on, which frames it gets, and whether it is XDP: what cannot come up is left out of it, and
/// it is the faster.
mod side {
    use crate::tables::{Port, PortKind};

    pub const HOST: u16 = 1;
    pub const CONTAINER: u16 = 2;
    pub const UPLINK: u16 = 4;
    pub const PARENT: u16 = 256;
    pub const CHILD: u16 = 512;
    /// Frames to a single station.
    pub const UNICAST: u16 = 16;
    /// Broadcast and multicast.
    pub const GROUP: u16 = 32;
    /// The guards of containers are looked at.
    pub const GUARDS: u16 = 64;
    /// So is all that comes behind them; without it, what passes them is left to who looks at that.
    pub const REST: u16 = 128;
    pub const WHOLE: u16 = GUARDS | REST;
    pub const ANY: u16 = HOST | CONTAINER | UPLINK | PARENT | CHILD | TUNNEL | UNICAST | GROUP | WHOLE;
    /// In XDP, which hands frames from device to device: never over the border to the host's stack.
    pub const EARLY: u16 = 8;
    /// On its way out by a parent.
    pub const OUT: u16 = 1024;
    /// Not the host's own: it forwards it for others.
    pub const FORWARDED: u16 = 2048;
    /// Out of a tunnel: the port is found by what the tunnel says, not by the device.
    pub const TUNNEL: u16 = 4096;

    /// Whether a port is one of those. The answer is no surprise: but should it ever be another, nothing passes.
    #[inline(always)]
    pub const fn has<const SIDE: u16>(port: &Port) -> bool {
        let side = match port.kind() {
            Some(PortKind::Host) => HOST,
            Some(PortKind::Container) => CONTAINER,
            Some(PortKind::Uplink) => UPLINK,
            Some(PortKind::Parent) => PARENT,
            Some(PortKind::Child) => CHILD,
            Some(PortKind::Tunnel) => TUNNEL,
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

/// The halves of the decision that one program has: for a device that is one kind of port, about frames to one station or
/// about broadcast and multicast. A frame of the other half, or a port of another kind, is dropped. What containers send to
/// groups is decided about in two steps, `guarded_group_from_container` first: it leaves what passes the guards to the other.
pub mod half {
    use super::{Decision, Packet, Tables, decide, side};

    macro_rules! halves {
        ($($name:ident: $side:expr;)*) => {
            $(
                /// One half, by its name; see [`super::forward`].
                #[inline(always)]
                pub fn $name<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
                    decide::<P, T, { $side }>(ifindex, frame, tables, now)
                }
            )*
        };
    }

    halves! {
        unicast_from_host: side::HOST | side::UNICAST | side::WHOLE;
        unicast_from_container: side::CONTAINER | side::UNICAST | side::WHOLE;
        unicast_from_uplink: side::UPLINK | side::UNICAST | side::WHOLE;
        group_from_host: side::HOST | side::GROUP | side::WHOLE;
        group_from_uplink: side::UPLINK | side::GROUP | side::WHOLE;
        guarded_group_from_container: side::CONTAINER | side::GROUP | side::GUARDS;
        group_from_container: side::CONTAINER | side::GROUP | side::REST;
        unicast_from_child: side::CHILD | side::UNICAST | side::WHOLE;
        guarded_group_from_child: side::CHILD | side::GROUP | side::GUARDS;
        group_from_child: side::CHILD | side::GROUP | side::REST;
        unicast_from_parent: side::PARENT | side::UNICAST | side::WHOLE;
        group_from_parent: side::PARENT | side::GROUP | side::WHOLE;
        through_parent: side::PARENT | side::OUT | side::FORWARDED | side::UNICAST | side::GROUP | side::WHOLE;
        unicast_from_tunnel: side::TUNNEL | side::UNICAST | side::WHOLE;
        group_from_tunnel: side::TUNNEL | side::GROUP | side::WHOLE;
        to_parent: side::PARENT | side::OUT | side::UNICAST | side::GROUP | side::WHOLE;
    }
}

/// The decision, for ports of these sides.
#[inline(always)]
fn decide<P: Packet + ?Sized, T: Tables, const SIDE: u16>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    let number = if SIDE & side::TUNNEL != 0
        && let Some(key) = frame.tunnel()
    {
        if !wireguard::is_genuine(&key, frame.mark()) {
            return Decision::drop(DropReason::UnknownPeer, PortNumber::NONE);
        }
        match tables.tunnel(&key) {
            Some(number) if number != PortNumber::NONE => number,
            _ => return Decision::drop(stranger(&key, tables), PortNumber::NONE),
        }
    } else {
        tables.port_of_device(ifindex)
    };
    let Some(port) = tables.port(number) else {
        return Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
    };
    let port: &Port = &port;
    if !side::has::<SIDE>(port) {
        return Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
    }
    let nobody = FdbKey { network: port.network, ..Decision::new(action::DROP, number).station };
    // The host's own interface: what we have nothing to do with is for the host to judge.
    let is_parent = SIDE & side::PARENT != 0 && matches!(port.kind(), Some(PortKind::Parent));
    let passed = Decision { station: nobody, ..Decision::new(action::PASS, number) };
    let Ok(mut ethernet) = Ethernet::parse(frame) else {
        let truncated = Decision { station: nobody, ..Decision::drop(DropReason::Truncated, number) };
        return if is_parent { passed } else { truncated };
    };
    ethernet.payload = frame.forget(ethernet.payload as u32) as usize & MAX_PAYLOAD;
    let is_group = ethernet.destination.is_multicast();
    if SIDE & (if is_group { side::GROUP } else { side::UNICAST }) == 0 {
        // In XDP that is no drop: groups are left to tcx.
        let action = if SIDE & side::EARLY != 0 { action::LEAVE } else { action::DROP };
        return Decision { station: nobody, reason: DropReason::UnknownPort as u32, ..Decision::new(action, number) };
    }
    if let Some(refused) = refuse::<P, SIDE>(frame, &ethernet, port, number) {
        return if is_parent { passed } else { Decision { station: nobody, ..refused } };
    }
    let Some(vlan) = vlan::of(&ethernet, port, number, tables) else {
        return Decision { station: nobody, ..Decision::drop(DropReason::VlanNotAllowed, number) };
    };
    let station = FdbKey { mac: ethernet.source, vlan, ..nobody };
    let dropped = |reason| Decision { station, ..Decision::drop(reason, number) };
    let own = station.mac == port.mac;
    if !own && port.flags & (Port::SPOOF_GUARD | Port::LEARN) == Port::SPOOF_GUARD {
        return dropped(DropReason::SourceSpoofed);
    }
    if SIDE & side::GUARDS != 0
        && SIDE & (side::CONTAINER | side::CHILD) != 0
        && matches!(port.kind(), Some(PortKind::Container | PortKind::Child))
        && let Some(reason) = guard::check(frame, &ethernet, port, number, &station, tables)
    {
        return dropped(reason);
    }
    if SIDE & side::REST == 0 {
        return Decision::new(action::LEAVE, number);
    }
    if is_parent {
        let decision = if SIDE & side::FORWARDED != 0 {
            parent::from_host::<P, T, true>(frame, &ethernet, &station, number, port, tables)
        } else if SIDE & side::OUT != 0 {
            parent::from_host::<P, T, false>(frame, &ethernet, &station, number, port, tables)
        } else if is_group {
            parent::group_from_parent(frame, &ethernet, &station, number, port, tables)
        } else {
            parent::from_parent(frame, &ethernet, &station, number, port, tables)
        };
        return Decision { station, ..decision };
    }
    let learns = match source(&station, number, port, tables, now) {
        Source::Known => 0,
        Source::Learn => 1,
        Source::Spoofed => return dropped(DropReason::SourceSpoofed),
        Source::Held => return dropped(DropReason::StationHeld),
    };
    let learns = frame.forget(learns) as u8;
    if SIDE & side::CHILD != 0 && matches!(port.kind(), Some(PortKind::Child)) {
        let decision = if is_group {
            group::allowance(parent::group_from_child(number, port), &ethernet, port, tables, now)
        } else {
            parent::from_child(frame, &ethernet, &station, number, port, tables)
        };
        return Decision { learns, station, ..decision };
    }
    let decision = if is_group {
        group::decide(frame, &ethernet, &station, number, port, tables)
    } else {
        unicast(frame, &ethernet, &FdbKey { mac: ethernet.destination, ..station }, number, port, tables)
    };
    let decision = border::guard::<P, T, SIDE>(decision, frame, &ethernet, port, tables);
    let decision = group::allowance(decision, &ethernet, port, tables, now);
    Decision { learns, station, ..decision }
}

/// Why a frame is dropped that came out of a tunnel and has no port.
#[inline(always)]
fn stranger<T: Tables>(key: &TunnelKey, tables: &T) -> DropReason {
    match tables.tunnel(&TunnelKey::anybody(key.vni)) {
        Some(_) => DropReason::UnknownPeer,
        None => DropReason::UnknownVni,
    }
}

/// No less than where a payload begins, behind two tags, and all ones: so that it is a bound and no more.
const MAX_PAYLOAD: usize = 31;

/// Addresses that no switch forwards.
#[inline(always)]
fn refuse<P: Packet + ?Sized, const SIDE: u16>(
    frame: &P,
    ethernet: &Ethernet,
    port: &Port,
    number: PortNumber,
) -> Option<Decision> {
    if ethernet.source.is_multicast() {
        return Some(Decision::drop(DropReason::SourceMulticast, number));
    }
    if ethernet.source.is_zero() {
        return Some(Decision::drop(DropReason::SourceZero, number));
    }
    if ethernet.destination.is_zero() {
        return Some(Decision::drop(DropReason::DestinationZero, number));
    }
    if SIDE & side::GROUP != 0 && ethernet.destination.is_link_local() {
        let [.., last] = ethernet.destination.0;
        return match port.kind() {
            Some(PortKind::Container | PortKind::Child)
                if port.has(Port::BPDU_GUARD) && guard::is_bpdu(frame, ethernet) =>
            {
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
    /// The address is somebody's behind another port.
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
    if target.is_kept_from(port.flags) && entry.port != number {
        return Decision::drop(DropReason::Isolated, number);
    }
    if size::is_too_big(frame, ethernet, station.vlan, &target) {
        match too_big::becomes(frame, ethernet, &target) {
            action::REDIRECT => {}
            action::ANSWER_TOO_BIG => {
                let to = Delivery { port: entry.port, ..Decision::new(action::ANSWER_TOO_BIG, number).to };
                return Decision { to, ..Decision::new(action::ANSWER_TOO_BIG, number) };
            }
            _ => return Decision::drop(DropReason::TooBig, number),
        }
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
        way: if local { Delivery::LOCAL } else { 0 },
        tag: vlan::on_the_way_out(ethernet.tag, station.vlan, &target),
    };
    Decision { to, ..Decision::new(action::REDIRECT, number) }
}
