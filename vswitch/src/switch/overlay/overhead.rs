//! The bytes that a tunnel adds to a packet.

use std::net::IpAddr;

/// The bytes that a tunnel over IPv4 puts before an inner packet: its Ethernet header, VXLAN, UDP
/// and IP (RFC 7348, 5).
pub const OVERHEAD: u32 = 14 + 8 + 8 + 20;
/// The bytes that an IPv6 header is longer than an IPv4 header.
pub const IPV6_MORE: u32 = 20;

/// Returns the bytes that a tunnel to a peer puts before an inner packet.
pub const fn overhead(peer: IpAddr) -> u32 {
    OVERHEAD + if peer.is_ipv6() { IPV6_MORE } else { 0 }
}
