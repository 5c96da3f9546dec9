//! The decision: what happens to a frame that enters the switch. Read [`forward`] and `decide` from
//! top to bottom; each step that is longer than a few lines has a file of its own.

mod announce;
mod claim;
mod flood;
mod group;
mod guard;
mod host_port;
mod parent;
mod scope;
mod size;
#[cfg(test)]
mod tests;
mod too_big;
mod tunnel;
#[cfg(test)]
mod tunnel_tests;
pub mod underlay;
mod vlan;
pub mod wireguard;
mod xdp;

pub use flood::{Copied, Flooded};
pub use size::tags;
pub use too_big::LEAST_IPV6;

use scope::{Everything, Hook, Scope};

use crate::packet::address::Address;
use crate::packet::{Ethernet, Packet};
use crate::tables::{FdbKey, MARK_UNDERLAY, OwnKey, Port, PortKind, PortNumber, Tables};
use crate::verdict::{Decision, Delivery, DropReason, action};
use crate::verifier;

/// Decides about one frame that the device `ifindex` received at the tick `now` (see
/// [`crate::tables::tick`]).
///
/// A pure function of its arguments: it changes neither the frame nor the tables. The caller
/// carries the decision out.
#[inline(always)]
pub fn forward<P: Packet + ?Sized, T: Tables>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    decide::<P, T, Everything>(ifindex, frame, tables, now)
}

/// Decides about a frame in XDP, before the kernel has made a packet of it, for a port of the kind
/// `ingress`.
///
/// A frame that XDP does not take is deferred ([`action::DEFER`]), untouched and uncounted, to the
/// tcx hook, which decides the same. See `xdp.rs` for the frames that XDP takes.
#[inline(always)]
pub fn forward_xdp<P: Packet + ?Sized, T: Tables>(
    ifindex: u32,
    ingress: PortKind,
    frame: &P,
    tables: &T,
    now: u32,
) -> Decision {
    let decision = match ingress {
        PortKind::Uplink => part::xdp_from_uplink(ifindex, frame, tables, now),
        PortKind::Parent => part::xdp_from_parent(ifindex, frame, tables, now),
        _ => part::xdp_from_container(ifindex, frame, tables, now),
    };
    if xdp::takes(&decision, ingress, frame) { decision } else { Decision::new(action::DEFER, PortNumber::NONE) }
}

/// The part of the decision that each program contains: for one kind of port, and for frames to one
/// station or for broadcast and multicast. A frame of another port, or of the other part, is
/// dropped. Broadcast and multicast from endpoints are decided in two steps: `guarded_group_from_*`
/// defers a frame that passes the guards to `group_from_*`.
pub mod part {
    use super::scope::{Cast, Hook, Phase, PortKinds, Scope};
    use super::{Decision, Packet, PortKind, Tables, decide};

    macro_rules! parts {
        ($($visibility:vis $name:ident: $port:ident, $cast:ident, $phase:ident, $hook:ident;)*) => {
            $(
                /// One part, by its name; see [`super::forward`].
                #[inline(always)]
                $visibility fn $name<P: Packet + ?Sized, T: Tables>(
                    ifindex: u32,
                    frame: &P,
                    tables: &T,
                    now: u32,
                ) -> Decision {
                    struct Part;
                    impl Scope for Part {
                        const PORTS: PortKinds = PortKinds::only(PortKind::$port);
                        const CAST: Cast = Cast::$cast;
                        const PHASE: Phase = Phase::$phase;
                        const HOOK: Hook = Hook::$hook;
                    }
                    decide::<P, T, Part>(ifindex, frame, tables, now)
                }
            )*
        };
    }

    parts! {
        pub unicast_from_host: Host, Unicast, Whole, Ingress;
        pub unicast_from_container: Container, Unicast, Whole, Ingress;
        pub unicast_from_uplink: Uplink, Unicast, Whole, Ingress;
        pub unicast_from_child: Child, Unicast, Whole, Ingress;
        pub unicast_from_parent: Parent, Unicast, Whole, Ingress;
        pub unicast_from_tunnel: Tunnel, Unicast, Whole, Ingress;
        pub group_from_host: Host, Group, Whole, Ingress;
        pub group_from_uplink: Uplink, Group, Whole, Ingress;
        pub group_from_parent: Parent, Group, Whole, Ingress;
        pub group_from_tunnel: Tunnel, Group, Whole, Ingress;
        pub guarded_group_from_container: Container, Group, Guards, Ingress;
        pub group_from_container: Container, Group, Rest, Ingress;
        pub guarded_group_from_child: Child, Group, Guards, Ingress;
        pub group_from_child: Child, Group, Rest, Ingress;
        pub to_parent: Parent, Any, Whole, EgressOfHost;
        pub through_parent: Parent, Any, Whole, EgressOfForwarded;
        pub(super) xdp_from_uplink: Uplink, Unicast, Whole, Xdp;
        pub(super) xdp_from_parent: Parent, Unicast, Whole, Xdp;
        pub(super) xdp_from_container: Container, Unicast, Whole, Xdp;
    }
}

/// The decision, as far as it is in a scope.
#[inline(always)]
fn decide<P: Packet + ?Sized, T: Tables, S: Scope>(ifindex: u32, frame: &P, tables: &T, now: u32) -> Decision {
    let number = if const { S::PORTS.has(PortKind::Tunnel) }
        && let Some(key) = frame.tunnel()
    {
        if !wireguard::is_genuine(&key, frame.mark()) {
            return Decision::drop(DropReason::UnknownPeer, PortNumber::NONE);
        }
        match tables.tunnel(&key) {
            Some(number) if number != PortNumber::NONE => number,
            _ => return Decision::drop(tunnel::why_unknown(&key, tables), PortNumber::NONE),
        }
    } else {
        tables.port_of_device(ifindex)
    };
    let Some(port) = tables.port(number) else {
        return Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
    };
    let port: &Port = &port;
    // Programs are attached to ports of their kind. Should another port ever come here, none of its
    // frames pass.
    if !port.kind().is_some_and(|kind| S::PORTS.has(kind)) {
        return Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
    }
    if const { S::PORTS.has(PortKind::Tunnel) } && port.has(Port::UNDERLAY) && frame.mark() & MARK_UNDERLAY == 0 {
        return Decision::drop(DropReason::UnknownPeer, PortNumber::NONE);
    }
    let unknown = FdbKey { network: port.network, ..Decision::new(action::DROP, number).station };
    // A parent stays the host's own interface: a frame that concerns no child is for the host to
    // judge.
    let is_parent = const { S::PORTS.has(PortKind::Parent) } && matches!(port.kind(), Some(PortKind::Parent));
    let passed = Decision { station: unknown, ..Decision::new(action::PASS, number) };
    let Ok(mut ethernet) = Ethernet::parse(frame) else {
        let truncated = Decision { station: unknown, ..Decision::drop(DropReason::Truncated, number) };
        return if is_parent { passed } else { truncated };
    };
    ethernet.payload = verifier::forget_payload(frame, ethernet.payload);
    let is_group = ethernet.destination.is_multicast();
    if !(if is_group { const { S::CAST.has_group() } } else { const { S::CAST.has_unicast() } }) {
        // In XDP this is no drop: groups are deferred to tcx.
        let action = if const { S::HOOK.is_xdp() } { action::DEFER } else { action::DROP };
        return Decision { station: unknown, reason: DropReason::UnknownPort as u32, ..Decision::new(action, number) };
    }
    if let Some(refused) = refuse::<P, S>(frame, &ethernet, port, number) {
        return if is_parent { passed } else { Decision { station: unknown, ..refused } };
    }
    let Some(vlan) = vlan::of(&ethernet, port, number, tables) else {
        return Decision { station: unknown, ..Decision::drop(vlan::why_not(&ethernet), number) };
    };
    let station = FdbKey { mac: ethernet.source, vlan, ..unknown };
    let dropped = |reason| Decision { station, ..Decision::drop(reason, number) };
    let own = station.mac == port.mac;
    if !own && port.flags & (Port::SPOOF_GUARD | Port::LEARN) == Port::SPOOF_GUARD {
        return dropped(DropReason::SourceSpoofed);
    }
    if const { S::PHASE.has_guards() && (S::PORTS.has(PortKind::Container) || S::PORTS.has(PortKind::Child)) }
        && matches!(port.kind(), Some(PortKind::Container | PortKind::Child))
        && let Some(reason) = guard::check(frame, &ethernet, port, number, &station, tables)
    {
        return dropped(reason);
    }
    if const { !S::PHASE.has_rest() } {
        return Decision::new(action::DEFER, number);
    }
    if const { S::HOOK.is_of_ingress() && S::PORTS.has_outside() }
        && matches!(port.kind(), Some(PortKind::Uplink | PortKind::Parent | PortKind::Tunnel))
        && let Some(reason) = claim::check::<P, T, S>(frame, &ethernet, &station, number, port, tables)
    {
        return dropped(reason);
    }
    if is_parent {
        let decision = if matches!(const { S::HOOK }, Hook::EgressOfForwarded) {
            parent::from_host::<P, T, true>(frame, &ethernet, &station, number, port, tables)
        } else if matches!(const { S::HOOK }, Hook::EgressOfHost) {
            parent::from_host::<P, T, false>(frame, &ethernet, &station, number, port, tables)
        } else if is_group {
            parent::group_from_parent(frame, &ethernet, &station, number, port, tables)
        } else {
            parent::from_parent(frame, &ethernet, &station, number, port, tables)
        };
        return Decision { station, ..decision };
    }
    let for_host = const { S::PORTS.has(PortKind::Uplink) && S::CAST.has_unicast() }
        && is_for_host(&ethernet, number, port, tables);
    let announces = || const { S::CAST.has_group() } && is_group && announce::announces(frame, &ethernet);
    let learns = match source(&station, number, port, tables, now, announces) {
        Source::Known => 0,
        Source::Learn => 1,
        Source::Announced => Decision::ANNOUNCED.into(),
        // The host's own traffic does not depend on the FDB.
        Source::Spoofed | Source::Held if for_host => 0,
        Source::Spoofed => return dropped(DropReason::SourceSpoofed),
        Source::Held => return dropped(DropReason::StationHeld),
    };
    let learns = frame.forget(learns) as u8;
    if const { S::PORTS.has(PortKind::Child) } && matches!(port.kind(), Some(PortKind::Child)) {
        let decision = if is_group {
            group::allowance(parent::group_from_child(number, port), &ethernet, port, tables, now)
        } else {
            parent::from_child(frame, &ethernet, &station, number, port, tables)
        };
        return Decision { learns, station, ..decision };
    }
    let decision = if for_host {
        Decision::new(action::PASS, number)
    } else if is_group {
        group::decide(frame, &ethernet, &station, number, port, tables)
    } else {
        unicast(frame, &ethernet, &FdbKey { mac: ethernet.destination, ..station }, number, port, tables)
    };
    let decision = host_port::check::<P, T, S>(decision, frame, &ethernet, port, tables);
    let decision = group::allowance(decision, &ethernet, port, tables, now);
    Decision { learns, station, ..decision }
}

/// Refuses addresses that no switch forwards.
#[inline(always)]
fn refuse<P: Packet + ?Sized, S: Scope>(
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
    if const { S::CAST.has_group() } && ethernet.destination.is_link_local() {
        let [.., last] = ethernet.destination.0;
        return match port.kind() {
            Some(PortKind::Container | PortKind::Child)
                if port.has(Port::BPDU_GUARD) && guard::is_bpdu(frame, ethernet) =>
            {
                Some(Decision::drop(DropReason::Bpdu, number))
            }
            _ if port.group_fwd_mask & (1 << (last & 0xf)) != 0 => None,
            // For the machine at the end of the link (LLDP, LACP): on an uplink that is this host.
            Some(PortKind::Uplink) => Some(Decision::new(action::PASS, number)),
            _ => Some(Decision::drop(DropReason::LinkLocal, number)),
        };
    }
    None
}

/// Returns whether a frame from the wire is for the host's stack on the uplink's interface: for the
/// interface's own station or another one of the host's there, in any VLAN.
#[inline(always)]
fn is_for_host<T: Tables>(ethernet: &Ethernet, number: PortNumber, port: &Port, tables: &T) -> bool {
    if !matches!(port.kind(), Some(PortKind::Uplink)) {
        return false;
    }
    let address = Address::link_local(ethernet.destination);
    ethernet.destination == port.mac
        || port.has(Port::HOST_STATIONS) && tables.owns(&OwnKey { address, port: number, reserved: 0 })
}

/// What the FDB says about the sender of a frame.
enum Source {
    /// The sender is at the port where the FDB has it.
    Known,
    /// The sender is new, has moved, or has not been refreshed in this tick.
    Learn,
    /// The sender has moved, and announces itself.
    Announced,
    /// The address belongs to a station behind another port.
    Spoofed,
    /// The sender moved too often and is held at another port.
    Held,
}

#[inline(always)]
fn source<T: Tables>(
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
    now: u32,
    announces: impl Fn() -> bool,
) -> Source {
    let own = station.mac == port.mac;
    // The usual case, without a lookup: the endpoint itself sends.
    if own && station.vlan == port.vlan {
        return Source::Known;
    }
    match tables.fdb(station) {
        Some(entry) if entry.port == number && (entry.is_static() || entry.seen == now) => Source::Known,
        Some(entry) if entry.port == number => Source::Learn,
        Some(entry) if entry.is_static_or_sticky() => Source::Spoofed,
        Some(entry) if own || port.has(Port::LEARN) => {
            let announced = announces();
            if entry.is_held(now) && !(announced && entry.is_silent(now)) {
                Source::Held
            } else if announced {
                Source::Announced
            } else if entry.is_settling(now) {
                Source::Known
            } else {
                Source::Learn
            }
        }
        Some(entry) if entry.is_held(now) => Source::Held,
        // On a trunk the endpoint itself is learned in each VLAN.
        None if own || port.has(Port::LEARN) => Source::Learn,
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
        // The uplink's own address is for the host's stack on that device. Any other station has
        // got the frame already, on its segment.
        return match port.kind() {
            Some(PortKind::Uplink) if entry.is_static() => Decision::new(action::PASS, number),
            _ => Decision::drop(DropReason::SamePort, number),
        };
    }
    // If the port is gone, or its number belongs to another network now, the station is unknown.
    let Some(target) = tables.port(entry.port) else {
        return unknown;
    };
    if target.network != port.network {
        return unknown;
    }
    if target.is_isolated_from(port.flags) && entry.port != number {
        return Decision::drop(DropReason::Isolated, number);
    }
    if size::is_too_big(frame, ethernet, station.vlan, &target) {
        match too_big::action_for(frame, ethernet, &target) {
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
        tag: vlan::tag_change(ethernet.tag, station.vlan, &target),
    };
    Decision { to, ..Decision::new(action::REDIRECT, number) }
}
