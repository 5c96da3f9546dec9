//! Frames from outside (an uplink, a parent or a tunnel) that claim an IP address of a station of
//! this host: of an endpoint, or of the gateway.
//!
//! Receivers would believe the claim and send to its sender from then on. Questions pass: a probe or
//! a duplicate address detection claims nothing, and the owner of the address answers it.

#[cfg(test)]
mod tests;

use super::scope::Scope;
use crate::mac::Mac;
use crate::packet::address::Address;
use crate::packet::arp::Arp;
use crate::packet::neighbor::{self, kind};
use crate::packet::{Ethernet, Packet, ethertype, ipv6, protocol};
use crate::tables::{FdbKey, NeighborKey, Port, PortKind, PortNumber, Tables};
use crate::verdict::DropReason;
use crate::verifier::two_bytes;

/// IPv6 extension headers that are followed in a packet that may be neighbor discovery.
const MAX_EXTENSIONS: usize = 2;

/// The hop limit of all neighbor discovery. Receivers ignore a message with another one, because it
/// may have passed a router (RFC 4861, 7.1).
pub(super) const HOP_LIMIT: u8 = 255;

/// An address, and the MAC address that it is said to have.
struct Claim {
    /// The address; `::` if nothing is claimed.
    address: Address,
    /// The MAC address; zeros if it is not the only one that the packet names.
    mac: Mac,
    /// Why the frame is dropped if the address is that of a local station.
    reason: DropReason,
}

/// Returns why a frame that came in from outside is refused, `None` if it is not. XDP does not check
/// neighbor discovery and leaves it to tcx.
#[inline(always)]
pub(super) fn check<P: Packet + ?Sized, T: Tables, S: Scope>(
    frame: &P,
    ethernet: &Ethernet,
    station: &FdbKey,
    number: PortNumber,
    port: &Port,
    tables: &T,
) -> Option<DropReason> {
    // Behind a second tag is a network of its own, with other addresses.
    if ethernet.inner != 0 {
        return None;
    }
    let claim = match ethernet.ethertype {
        ethertype::ARP => of_arp(frame, ethernet.payload),
        ethertype::IPV6 if const { !S::HOOK.is_xdp() } => match two_bytes(frame, ethernet.payload + 6) {
            [next, HOP_LIMIT] if !matches!(next, protocol::TCP | protocol::UDP) => {
                of_ipv6(frame, ethernet.payload, next)
            }
            _ => return None,
        },
        _ => return None,
    };
    if claim.address.is_unspecified6() {
        return None;
    }
    let key = NeighborKey { address: claim.address, network: station.network, vlan: station.vlan, reserved: 0 };
    let owner = tables.neighbor(&key);
    if owner == number {
        return None;
    }
    let owner = tables.port(owner)?;
    if owner.network != port.network || matches!(owner.kind(), Some(PortKind::Tunnel)) {
        return None;
    }
    // A switch on the wire may send a child's own frame back to other children (VEPA).
    let reflected =
        matches!(port.kind(), Some(PortKind::Parent)) && ethernet.source == owner.mac && claim.mac == owner.mac;
    if reflected { None } else { Some(claim.reason) }
}

#[inline(always)]
fn of_arp<P: Packet + ?Sized>(frame: &P, at: usize) -> Claim {
    match Arp::parse(frame, at) {
        Ok(arp) if !arp.sender.is_unspecified() => {
            Claim { address: Address::mapped(arp.sender.octets()), mac: arp.sender_mac, reason: DropReason::ArpSpoofed }
        }
        // Not IPv4 over Ethernet, cut off, or a probe (RFC 5227, 2.1.1).
        _ => nothing(),
    }
}

#[inline(always)]
fn of_ipv6<P: Packet + ?Sized>(frame: &P, at: usize, next: u8) -> Claim {
    let Ok(walk) = ipv6::walk::<P, MAX_EXTENSIONS>(frame, next, at + ipv6::HEADER) else { return nothing() };
    // Receivers accept no neighbor discovery in fragments (RFC 6980).
    if walk.fragment_offset != 0 || walk.complete && walk.protocol != protocol::ICMPV6 {
        return nothing();
    }
    let Some(source) = frame.read(at + 8).map(Address::new) else { return nothing() };
    if !walk.complete {
        return Claim { address: source, mac: Mac::ZERO, reason: DropReason::HeaderChain };
    }
    let message = walk.offset;
    let [kind, _] = two_bytes(frame, message);
    let reason = DropReason::NeighborSpoofed;
    match kind {
        // Claims its target, whoever sends it.
        kind::ADVERTISEMENT => {
            let Some(target) = frame.read(message + 8).map(Address::new) else { return nothing() };
            Claim { address: target, mac: link_layer(frame, message), reason }
        }
        kind::SOLICITATION => Claim { address: source, mac: link_layer(frame, message), reason },
        kind::ROUTER_SOLICITATION | kind::ROUTER_ADVERTISEMENT | kind::REDIRECT => {
            Claim { address: source, mac: Mac::ZERO, reason }
        }
        _ => nothing(),
    }
}

/// Returns the link-layer address in the first option of a neighbor solicitation or advertisement.
#[inline(always)]
fn link_layer<P: Packet + ?Sized>(frame: &P, message: usize) -> Mac {
    match frame.read(message + neighbor::LENGTH) {
        Some([1 | 2, 1, m0, m1, m2, m3, m4, m5]) => Mac([m0, m1, m2, m3, m4, m5]),
        _ => Mac::ZERO,
    }
}

#[inline(always)]
fn nothing() -> Claim {
    Claim { address: Address::UNSPECIFIED, mac: Mac::ZERO, reason: DropReason::ArpSpoofed }
}
