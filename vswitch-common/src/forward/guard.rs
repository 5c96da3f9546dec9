//! The guards: an endpoint sends frames in its own name alone, and is no router, DHCP server or
//! bridge.
//!
//! Every header that names a sender is checked where a receiver would look for it: behind tags,
//! behind LLC and SNAP, behind IPv6 extension headers.

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

/// UDP ports of DHCP servers and clients (RFC 2131, 4.1; RFC 8415, 7.2). Clients accept an answer
/// from any port, so what is sent to a client's port counts as an answer.
const DHCP: (u16, u16) = (67, 68);
const DHCPV6: (u16, u16) = (547, 546);

/// Bytes of a UDP header (RFC 768), a TCP header without options (RFC 9293, 3.1), an SCTP header (RFC
/// 9260, 3.1) and what all ICMPv6 messages have (RFC 4443, 2.1).
const UDP: usize = 8;
const TCP: usize = 20;
const SCTP: usize = 12;
const ICMPV6: usize = 4;

/// IGMP's membership query (RFC 9776, 4).
const MEMBERSHIP_QUERY: u8 = 0x11;

/// IPv6 extension headers that are followed, for example destination options and a fragment header.
/// A packet with more is dropped, because its transport header is hidden (RFC 7113, 3).
const MAX_EXTENSIONS: usize = 2;

/// Options of a neighbor solicitation or advertisement that are checked. One is usual; a message
/// with more is dropped.
const MAX_OPTIONS: usize = 2;

/// The sender of a frame, with what decides which addresses it may use.
struct Speaker<'a, T> {
    port: &'a Port,
    number: PortNumber,
    station: &'a FdbKey,
    tables: &'a T,
}

/// Returns why a frame of an endpoint is refused, `None` if it is not.
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
            // Stations do not send these on Ethernet, but some receivers accept them. They are
            // dropped unread.
            Llc::Snap(ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP) => Some(DropReason::SnapEncapsulated),
            Llc::Snap(tag) if is_tag(tag) => Some(DropReason::SnapEncapsulated),
            Llc::Snap(_) | Llc::Other => None,
            Llc::Truncated => Some(DropReason::Truncated),
        },
        // More tags than are read.
        tag if is_tag(tag) => Some(DropReason::Truncated),
        _ => None,
    }
}

impl<T: Tables> Speaker<'_, T> {
    /// Returns whether the sender may use an IPv6 address. If other stations may be behind the
    /// port, or in a VLAN whose addresses are unknown here, it may use any address that is not
    /// known to belong to another port.
    #[inline(always)]
    fn may_use(&self, address: Address) -> bool {
        if self.port.has(Port::BY_ADDRESS) {
            return self.is_known(address);
        }
        if !self.port.has(Port::LEARN) && self.station.vlan == self.port.vlan {
            let own = address == self.port.ipv6 || address == Address::link_local(self.port.mac);
            return own || self.has_elsewhere(address);
        }
        self.is_free_or_own(address)
    }

    /// The same for an IPv4 address.
    #[inline(always)]
    fn may_use4(&self, address: [u8; 4]) -> bool {
        if u32::from_ne_bytes(address) == self.port.ipv4 {
            return true;
        }
        if !self.port.has(Port::LEARN) && self.station.vlan == self.port.vlan {
            return self.has_elsewhere(Address::mapped(address));
        }
        self.is_free_or_own(Address::mapped(address))
    }

    /// Returns whether the address is known to be the endpoint's, here or in another network.
    #[inline(always)]
    fn is_known(&self, address: Address) -> bool {
        let key = NeighborKey { address, network: self.port.network, vlan: self.station.vlan, reserved: 0 };
        self.tables.neighbor(&key) == self.number || self.has_elsewhere(address)
    }

    /// Returns whether the endpoint has the address in another network.
    #[inline(always)]
    fn has_elsewhere(&self, address: Address) -> bool {
        self.tables.owns(&OwnKey { address, port: self.number, reserved: 0 })
    }

    /// Returns whether the address is not known to belong to another port.
    #[inline(always)]
    fn is_free_or_own(&self, address: Address) -> bool {
        let key = NeighborKey { address, network: self.port.network, vlan: self.station.vlan, reserved: 0 };
        let owner = self.tables.neighbor(&key);
        owner == PortNumber::NONE || owner == self.number
    }

    #[inline(always)]
    fn ipv4<P: Packet + ?Sized>(&self, frame: &P, at: usize) -> Option<DropReason> {
        let Some(header) = frame.read::<16>(at) else { return Some(DropReason::Truncated) };
        let [version, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3] = header;
        // A station without an address asks for one from 0.0.0.0.
        let source = [s0, s1, s2, s3];
        if self.port.has(Port::SPOOF_GUARD) && !self.may_use4(source) && source != [0; 4] {
            return Some(DropReason::IpSpoofed);
        }
        if !matches!(protocol, protocol::UDP | protocol::IGMP) || u16::from_be_bytes([f0, f1]) & 0x1fff != 0 {
            return None;
        }
        let length = usize::from(version & 0xf) * 4;
        let Some([t0, t1, t2, t3]) = frame.read(at + length) else { return Some(DropReason::Truncated) };
        if protocol == protocol::IGMP {
            let queries = t0 == MEMBERSHIP_QUERY && self.port.has(Port::RA_GUARD);
            return queries.then_some(DropReason::RouterAdvertisement);
        }
        // The ports must be in this packet, not behind its end: a receiver would take them from
        // another fragment.
        if usize::from(u16::from_be_bytes([l0, l1])) < length + UDP {
            return Some(DropReason::Truncated);
        }
        self.answers([t0, t1, t2, t3], DHCP)
    }

    #[inline(always)]
    fn ipv6<P: Packet + ?Sized>(&self, frame: &P, at: usize) -> Option<DropReason> {
        let (Some(first), Some(source)) = (frame.read::<8>(at), frame.read(at + 8)) else {
            return Some(DropReason::Truncated);
        };
        let source = Address::new(source);
        if self.port.has(Port::SPOOF_GUARD) && !self.may_use(source) && !source.is_unspecified6() {
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
            // It has no transport header. The first fragment was refused here, or the receiver
            // accepts no neighbor discovery in fragments (RFC 6980).
            return None;
        }
        if !walk.complete {
            return Some(DropReason::HeaderChain);
        }
        let length = u16::from_be_bytes([l0, l1]);
        if length == 0 && walk.protocol == protocol::TCP {
            // BIG TCP: the length is in a jumbo payload option (RFC 2675).
            return None;
        }
        // Receivers read no further than this. What the packet does not contain they would take from
        // another fragment (RFC 7112).
        let end = at + ipv6::HEADER + usize::from(length);
        let fixed = match walk.protocol {
            protocol::UDP => UDP,
            protocol::TCP => TCP,
            protocol::SCTP => SCTP,
            protocol::ICMPV6 => ICMPV6,
            _ => 0,
        };
        if walk.offset + fixed > end {
            return Some(DropReason::HeaderChain);
        }
        match walk.protocol {
            protocol::UDP => match frame.read(walk.offset) {
                Some(ports) => self.answers(ports, DHCPV6),
                None => Some(DropReason::Truncated),
            },
            protocol::ICMPV6 => self.icmpv6(frame, source, walk.offset, end),
            _ => None,
        }
    }

    /// Returns whether a datagram with these ports is an answer of a DHCP server.
    #[inline(always)]
    fn answers(&self, [s0, s1, d0, d1]: [u8; 4], (server, client): (u16, u16)) -> Option<DropReason> {
        let answers = u16::from_be_bytes([s0, s1]) == server || u16::from_be_bytes([d0, d1]) == client;
        (answers && self.port.has(Port::DHCP_GUARD)).then_some(DropReason::DhcpServer)
    }

    #[inline(always)]
    fn icmpv6<P: Packet + ?Sized>(&self, frame: &P, source: Address, at: usize, end: usize) -> Option<DropReason> {
        // Two bytes for the verifier, which cannot prove that a single byte at a variable offset
        // exists.
        let Some([kind, _]) = frame.read(at) else { return Some(DropReason::Truncated) };
        match kind {
            kind::ROUTER_ADVERTISEMENT | kind::REDIRECT | kind::LISTENER_QUERY => {
                return self.port.has(Port::RA_GUARD).then_some(DropReason::RouterAdvertisement);
            }
            kind::SOLICITATION | kind::ADVERTISEMENT if self.port.has(Port::SPOOF_GUARD) => {}
            _ => return None,
        }
        let Some(target) = frame.read(at + 8) else { return Some(DropReason::Truncated) };
        if at + neighbor::LENGTH > end {
            return Some(DropReason::Truncated);
        }
        // An advertisement claims its target. So does a solicitation of a station without an
        // address, which is about to take that one (RFC 4862, 5.4). Any other solicitation asks for
        // another station.
        let claims = kind == kind::ADVERTISEMENT || source.is_unspecified6();
        if claims && !self.may_use(Address::new(target)) {
            return Some(DropReason::NeighborSpoofed);
        }
        // In either message the link-layer addresses in the options are the sender's own.
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
                // A probe has the sender address 0.0.0.0 (RFC 5227, 2.1.1).
                let own = arp.sender_mac == self.station.mac && (self.may_use4(sender) || sender == [0; 4]);
                (!own).then_some(DropReason::ArpSpoofed)
            }
            Err(Malformed::Truncated) => Some(DropReason::Truncated),
            // Not IPv4 over Ethernet: no station here uses it.
            Err(_) => Some(DropReason::ArpSpoofed),
        }
    }
}

/// Returns whether a frame to a link-local group is a BPDU.
#[inline(always)]
pub(super) fn is_bpdu<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> bool {
    ethernet.ethertype <= llc::MAX_LENGTH && Llc::parse(frame, ethernet) == Llc::Bpdu
}
