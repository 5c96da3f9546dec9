//! The guards: what an endpoint sends speaks for itself alone, and does not play the router, DHCP server or bridge.
//!
//! Every header that could speak for somebody is looked at, wherever a receiver would find it: behind tags, behind LLC
//! and SNAP, behind IPv6 extension headers.

#[cfg(test)]
mod tests;

use crate::packet::address::Address;
use crate::packet::arp::Arp;
use crate::packet::ethernet::is_tag;
use crate::packet::ipv6;
use crate::packet::llc::{self, Llc};
use crate::packet::neighbor::{self, kind};
use crate::packet::{Ethernet, Malformed, Packet, ethertype, protocol};
use crate::tables::{FdbKey, NeighborKey, OwnKey, Port, PortNumber, Tables};
use crate::verdict::DropReason;

/// UDP ports that DHCP servers send from (RFC 2131, 4.1; RFC 8415, 7.2).
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;

/// IGMP's membership query (RFC 9776, 4).
const MEMBERSHIP_QUERY: u8 = 0x11;

/// IPv6 extension headers that are followed: destination options and a fragment header, say. What
/// hides its transport header behind more is dropped (RFC 7113, 3).
const MAX_EXTENSIONS: usize = 2;

/// Options of a neighbor solicitation or advertisement that are looked at. One is usual.
const MAX_OPTIONS: usize = 2;

/// Who may say what.
struct Speaker<'a, T> {
    port: &'a Port,
    number: PortNumber,
    station: &'a FdbKey,
    tables: &'a T,
}

/// Why a frame of an endpoint is refused, if it is.
#[inline(always)]
pub(super) fn check<P: Packet + ?Sized, T: Tables>(
    frame: &P,
    ethernet: &Ethernet,
    port: &Port,
    number: PortNumber,
    station: &FdbKey,
    tables: &T,
) -> Option<DropReason> {
    if !port.has(Port::SPOOF_GUARD | Port::RA_GUARD | Port::DHCP_GUARD | Port::BPDU_GUARD) {
        return None;
    }
    let speaker = Speaker { port, number, station, tables };
    match ethernet.ethertype {
        ethertype::IPV4 => speaker.ipv4(frame, ethernet.payload),
        ethertype::IPV6 => speaker.ipv6(frame, ethernet.payload),
        ethertype::ARP => speaker.arp(frame, ethernet.payload),
        ..=llc::MAX_LENGTH => match Llc::parse(frame, ethernet) {
            Llc::Bpdu => port.has(Port::BPDU_GUARD).then_some(DropReason::Bpdu),
            // Nobody sends these so on Ethernet, and some receivers take them all the same: not looked into, but dropped.
            Llc::Snap(ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP) => Some(DropReason::SnapEncapsulated),
            Llc::Snap(tag) if is_tag(tag) => Some(DropReason::SnapEncapsulated),
            Llc::Snap(_) | Llc::Other => None,
            Llc::Truncated => Some(DropReason::Truncated),
        },
        // More tags than we look behind.
        tag if is_tag(tag) => Some(DropReason::Truncated),
        _ => None,
    }
}

impl<T: Tables> Speaker<'_, T> {
    /// Whether an address may be spoken for. Where others may be behind the port, or in a VLAN whose addresses nobody
    /// told us, that is any that is not known to be another port's.
    #[inline(always)]
    fn may_be(&self, address: Address) -> bool {
        if self.port.has(Port::BY_ADDRESS) {
            return self.is_known(address);
        }
        if !self.port.has(Port::LEARN) && self.station.vlan == self.port.vlan {
            let own = address == self.port.ipv6 || address == Address::link_local(self.port.mac);
            return own || self.has_elsewhere(address);
        }
        self.is_nobody_elses(address)
    }

    #[inline(always)]
    fn may_be4(&self, address: [u8; 4]) -> bool {
        if u32::from_ne_bytes(address) == self.port.ipv4 {
            return true;
        }
        if !self.port.has(Port::LEARN) && self.station.vlan == self.port.vlan {
            return self.has_elsewhere(Address::mapped(address));
        }
        self.is_nobody_elses(Address::mapped(address))
    }

    /// Whether it is one of those by which the endpoint is found.
    #[inline(always)]
    fn is_known(&self, address: Address) -> bool {
        let key = NeighborKey { address, network: self.port.network, vlan: self.station.vlan, reserved: 0 };
        self.tables.neighbor(&key) == self.number || self.has_elsewhere(address)
    }

    /// Whether it is the endpoint's address in another network.
    #[inline(always)]
    fn has_elsewhere(&self, address: Address) -> bool {
        self.tables.owns(&OwnKey { address, port: self.number, reserved: 0 })
    }

    #[inline(always)]
    fn is_nobody_elses(&self, address: Address) -> bool {
        let key = NeighborKey { address, network: self.port.network, vlan: self.station.vlan, reserved: 0 };
        let owner = self.tables.neighbor(&key);
        owner == PortNumber::NONE || owner == self.number
    }

    #[inline(always)]
    fn ipv4<P: Packet + ?Sized>(&self, frame: &P, at: usize) -> Option<DropReason> {
        let Some(header) = frame.read::<16>(at) else { return Some(DropReason::Truncated) };
        let [version, _, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3] = header;
        // One that has no address yet asks for it under 0.0.0.0.
        let source = [s0, s1, s2, s3];
        if self.port.has(Port::SPOOF_GUARD) && !self.may_be4(source) && source != [0; 4] {
            return Some(DropReason::IpSpoofed);
        }
        if !matches!(protocol, protocol::UDP | protocol::IGMP) || u16::from_be_bytes([f0, f1]) & 0x1fff != 0 {
            return None;
        }
        let transport = at + usize::from(version & 0xf) * 4;
        let Some([t0, t1]) = frame.read(transport) else { return Some(DropReason::Truncated) };
        if protocol == protocol::IGMP {
            let queries = t0 == MEMBERSHIP_QUERY && self.port.has(Port::RA_GUARD);
            return queries.then_some(DropReason::RouterAdvertisement);
        }
        let answers = u16::from_be_bytes([t0, t1]) == DHCP_SERVER && self.port.has(Port::DHCP_GUARD);
        answers.then_some(DropReason::DhcpServer)
    }

    #[inline(always)]
    fn ipv6<P: Packet + ?Sized>(&self, frame: &P, at: usize) -> Option<DropReason> {
        let (Some(first), Some(source)) = (frame.read::<8>(at), frame.read(at + 8)) else {
            return Some(DropReason::Truncated);
        };
        let source = Address::new(source);
        if self.port.has(Port::SPOOF_GUARD) && !self.may_be(source) && !source.is_unspecified6() {
            return Some(DropReason::IpSpoofed);
        }
        let [_, _, _, _, l0, l1, next, _] = first;
        if next == protocol::TCP {
            return None;
        }
        let Ok(walk) = ipv6::walk::<P, MAX_EXTENSIONS>(frame, next, at + ipv6::HEADER) else {
            return Some(DropReason::Truncated);
        };
        if walk.fragment_offset != 0 {
            // Without a transport header. Its receiver has refused the first fragment with us, or takes no neighbor
            // discovery in fragments (RFC 6980).
            return None;
        }
        if !walk.complete {
            return Some(DropReason::HeaderChain);
        }
        match walk.protocol {
            protocol::UDP => {
                let Some(port) = frame.read(walk.offset) else { return Some(DropReason::Truncated) };
                let answers = u16::from_be_bytes(port) == DHCPV6_SERVER && self.port.has(Port::DHCP_GUARD);
                answers.then_some(DropReason::DhcpServer)
            }
            protocol::ICMPV6 => {
                let end = at + ipv6::HEADER + usize::from(u16::from_be_bytes([l0, l1]));
                self.icmpv6(frame, source, walk.offset, end)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn icmpv6<P: Packet + ?Sized>(&self, frame: &P, source: Address, at: usize, end: usize) -> Option<DropReason> {
        // (Two bytes: of a single one at a place that varies the verifier does not know that it is there.)
        let Some([kind, _]) = frame.read(at) else { return Some(DropReason::Truncated) };
        match kind {
            kind::ROUTER_ADVERTISEMENT | kind::REDIRECT | kind::LISTENER_QUERY => {
                return self.port.has(Port::RA_GUARD).then_some(DropReason::RouterAdvertisement);
            }
            kind::SOLICITATION | kind::ADVERTISEMENT if self.port.has(Port::SPOOF_GUARD) => {}
            _ => return None,
        }
        let Some(target) = frame.read(at + 8) else { return Some(DropReason::Truncated) };
        // An advertisement speaks for its target; so does the solicitation of one who has no address yet, and means to
        // take that one (RFC 4862, 5.4). Other solicitations ask for somebody else.
        let speaks = kind == kind::ADVERTISEMENT || source.is_unspecified6();
        if speaks && !self.may_be(Address::new(target)) {
            return Some(DropReason::NeighborSpoofed);
        }
        // The link-layer addresses in the options: the sender's own, whichever message it is.
        let mut option = at + neighbor::LENGTH;
        for _ in 0..MAX_OPTIONS {
            if option >= end {
                return None;
            }
            let Some([kind, length, m0, m1, m2, m3, m4, m5]) = frame.read(option) else {
                return Some(DropReason::Truncated);
            };
            if matches!(kind, 1 | 2) && [m0, m1, m2, m3, m4, m5] != self.station.mac.0 || length == 0 {
                return Some(DropReason::NeighborSpoofed);
            }
            option += usize::from(length) * neighbor::OPTION;
        }
        (option < end).then_some(DropReason::NeighborSpoofed)
    }

    #[inline(always)]
    fn arp<P: Packet + ?Sized>(&self, frame: &P, at: usize) -> Option<DropReason> {
        if !self.port.has(Port::SPOOF_GUARD) {
            return None;
        }
        match Arp::parse(frame, at) {
            Ok(arp) => {
                let sender = arp.sender.octets();
                // A probe has no sender's address (RFC 5227, 2.1.1).
                let own = arp.sender_mac == self.station.mac && (self.may_be4(sender) || sender == [0; 4]);
                (!own).then_some(DropReason::ArpSpoofed)
            }
            Err(Malformed::Truncated) => Some(DropReason::Truncated),
            // Not IPv4 over Ethernet: whatever it says, nobody here is told so for good.
            Err(_) => Some(DropReason::ArpSpoofed),
        }
    }
}

/// Whether a frame to a link-local group is a BPDU.
#[inline(always)]
pub(super) fn is_bpdu<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> bool {
    ethernet.ethertype <= llc::MAX_LENGTH && Llc::parse(frame, ethernet) == Llc::Bpdu
}
