//! Reading frames: Ethernet with its tags, ARP, IPv4, IPv6 and the first bytes of transport headers.
//!
//! Everything here reads through [`Packet`], a bounds-checked window, so that the same code parses a byte slice in a
//! test and packet memory under the eBPF verifier. Nothing is copied but the few bytes looked at.

pub mod address;
pub mod arp;
pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod llc;
pub mod neighbor;
pub mod transport;
pub mod tunnel;
pub mod vxlan;

pub use ethernet::{Ethernet, Tag};
pub use tunnel::TunnelKey;

/// No header that we look at begins beyond this offset. It also tells the verifier how far a read can reach.
pub const MAX_OFFSET: usize = 511;

/// A frame that can be read, from the first byte of its Ethernet header.
pub trait Packet {
    /// The `N` bytes at `offset`, or `None` if the frame is shorter or `offset` is above [`MAX_OFFSET`].
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The VLAN tag that the device or the kernel has taken out of the frame and keeps beside it.
    fn offloaded_tag(&self) -> Option<Tag>;

    /// The same number, of which a verifier does not know any more on which path it came to be: it walks on once, not once
    /// for each number that it may be.
    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        number
    }

    /// Bytes of the frame, a tag kept beside it not counted.
    fn length(&self) -> usize;

    /// Bytes of payload in each segment that a GSO packet is cut into; 0 for a frame that leaves as it is.
    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    /// The mark that the host's stack has put on it; 0 for a bare frame.
    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    /// What the tunnel said that it came out of; `None` for a frame that came out of none.
    #[inline(always)]
    fn tunnel(&self) -> Option<TunnelKey> {
        None
    }
}

/// A frame in memory, without offloads.
impl Packet for [u8] {
    #[inline]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    #[inline]
    fn offloaded_tag(&self) -> Option<Tag> {
        None
    }

    #[inline]
    fn length(&self) -> usize {
        self.len()
    }
}

/// A frame in memory, with what the kernel has beside one.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The frame; of one that came out of a tunnel, the inner one.
    pub bytes: &'a [u8],
    /// The mark; a frame that came out of a tunnel has it from its outer packet.
    pub mark: u32,
    /// What the outer header said, if it came out of a tunnel.
    pub tunnel: Option<TunnelKey>,
}

impl Packet for Received<'_> {
    #[inline]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.read(offset)
    }

    #[inline]
    fn offloaded_tag(&self) -> Option<Tag> {
        None
    }

    #[inline]
    fn length(&self) -> usize {
        self.bytes.length()
    }

    #[inline]
    fn mark(&self) -> u32 {
        self.mark
    }

    #[inline]
    fn tunnel(&self) -> Option<TunnelKey> {
        self.tunnel
    }
}

/// A header ended before its time, or contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The frame ends within the header.
    Truncated,
    /// The header's version field is another protocol's.
    Version,
    /// The header says it is shorter than its fixed part, or longer than the packet.
    Length,
}

/// The EtherTypes that we know (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// A customer VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag (802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
}

/// The IP protocol numbers that we know (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200, 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// IGMP (RFC 9776).
    pub const IGMP: u8 = 2;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200, 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200, 4.5).
    pub const FRAGMENT: u8 = 44;
    /// IPsec authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options (RFC 8200, 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// Mobility header (RFC 6275, 6.1).
    pub const MOBILITY: u8 = 135;
}

/// The IP protocol that a frame carries, or `None` if it is not IP, or its headers cannot be followed to the end.
/// A fragment has the protocol of its packet, wherever it was cut.
#[inline(always)]
pub fn ip_protocol<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> Option<u8> {
    match ethernet.ethertype {
        ethertype::IPV4 => frame.read(ethernet.payload + 9).map(|[protocol]| protocol),
        ethertype::IPV6 => ipv6::transport_protocol(frame, ethernet.payload),
        _ => None,
    }
}
