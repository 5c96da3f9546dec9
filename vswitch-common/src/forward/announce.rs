//! Announcements: a station tells all others where it is, for example after a virtual machine or the
//! address of a router (VRRP) has moved to another port.

use crate::packet::arp::Arp;
use crate::packet::neighbor::kind;
use crate::packet::{Ethernet, Packet, ethertype, ipv6, protocol};
use crate::verifier::two_bytes;

/// The flag of a neighbor advertisement that answers a solicitation (RFC 4861, 4.4).
const SOLICITED: u8 = 0x40;

/// Returns whether the sender of a frame to a group announces itself: by an ARP packet about its own
/// address (RFC 5227, 3; RFC 9568, 8.2.2), by an unsolicited neighbor advertisement (RFC 4861, 7.2.6), or
/// by RARP, as hypervisors do after a migration.
#[inline(always)]
pub(super) fn announces<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> bool {
    match ethernet.ethertype {
        ethertype::RARP => true,
        ethertype::ARP => match Arp::parse(frame, ethernet.payload) {
            Ok(arp) => arp.sender == arp.target && arp.sender_mac == ethernet.source,
            Err(_) => false,
        },
        ethertype::IPV6 => {
            let message = ethernet.payload + ipv6::HEADER;
            let [flags, _] = two_bytes(frame, message + 4);
            two_bytes(frame, ethernet.payload + 6) == [protocol::ICMPV6, 255]
                && two_bytes(frame, message) == [kind::ADVERTISEMENT, 0]
                && flags & SOLICITED == 0
        }
        _ => false,
    }
}
