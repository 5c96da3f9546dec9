//! Parses frames: Ethernet with its tags, ARP, IPv4, IPv6 and the first bytes of transport headers.
//!
//! All parsers read through [`Packet`], which checks bounds, so that the same code parses a byte
//! slice in a test and packet memory in the kernel. Only the bytes that are read are copied.

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

pub use ethernet::{Ethernet, Tag, VlanKey};
pub use tunnel::TunnelKey;

/// The largest offset of a read. No header that is read begins beyond it, and the verifier knows
/// from it how far a read can reach.
pub const MAX_OFFSET: usize = 511;

/// A frame that can be read, from the first byte of its Ethernet header.
pub trait Packet {
    /// Returns the `N` bytes at `offset`, `None` if the frame is shorter or `offset` is above
    /// [`MAX_OFFSET`].
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Returns the VLAN tag that the device or the kernel has taken out of the frame and keeps
    /// beside it.
    fn offloaded_tag(&self) -> Option<Tag>;

    /// Returns the same number, without the verifier's knowledge of its value (see
    /// [`crate::verifier`]).
    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        number
    }

    /// Returns the length of the frame in bytes, without a tag kept beside it.
    fn length(&self) -> usize;

    /// Returns the bytes of payload in each segment of a GSO packet; 0 for any other frame.
    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    /// Returns the mark (`skb->mark`); 0 for a frame without one.
    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    /// Returns the tunnel metadata of a frame that came out of a tunnel, `None` for any other.
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

/// A frame in memory, with what the kernel keeps beside a frame.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The frame; out of a tunnel, the inner frame.
    pub bytes: &'a [u8],
    /// The mark; out of a tunnel, the mark of the outer packet.
    pub mark: u32,
    /// The tunnel metadata, if the frame came out of a tunnel.
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

/// The error of a header that is cut off or contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The frame ends within the header.
    Truncated,
    /// The version field is that of another protocol.
    Version,
    /// The header's length is less than its fixed part, or more than the packet.
    Length,
}

/// The known EtherTypes (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP (RFC 903).
    pub const RARP: u16 = 0x8035;
    /// A customer VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag (802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
}

/// The known IP protocol numbers (IANA).
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

/// Returns the IP protocol of a frame, `None` if it is not IP or its headers cannot be followed to
/// the end. A later fragment has the protocol of its packet.
#[inline(always)]
pub fn ip_protocol<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> Option<u8> {
    match ethernet.ethertype {
        ethertype::IPV4 => frame.read(ethernet.payload + 9).map(|[protocol]| protocol),
        ethertype::IPV6 => ipv6::transport_protocol(frame, ethernet.payload),
        _ => None,
    }
}
