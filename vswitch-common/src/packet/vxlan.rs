//! What a tunnel over IPv4 puts before an inner frame: IPv4, UDP, VXLAN (RFC 7348, 5).

use super::{ethernet, ipv4, protocol};
use crate::tables::Way;

/// Bytes of a UDP header (RFC 768), and of VXLAN's behind it.
pub const UDP: usize = 8;
/// The same.
pub const VXLAN: usize = 8;
/// Bytes of all headers behind the outer Ethernet header, the inner Ethernet header with them.
pub const ROOM: usize = ipv4::HEADER + UDP + VXLAN + ethernet::HEADER;
/// The one flag of VXLAN's header, in the first of its bytes: the VNI is valid.
pub const VNI_VALID: u8 = 0x08;

/// How many routers an outer packet may meet.
const TTL: u8 = 64;
/// The ports that a tunnel sends from begin here: those for private use, of which there are 2^14 (RFC 6335, 6).
const SENDERS: u16 = 0xc000;
/// The two low bits of IPv4's second byte (RFC 3168, 5), and the one of two values that a router has not written.
const ECN: u8 = 3;
const CAPABLE: u8 = 2;

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// The peer, in the order of the wire.
    pub remote: u32,
    /// The VNI.
    pub vni: u32,
    /// A hash of the inner flow: its packets have one sender's port, and so one way and one receive queue.
    pub hash: u32,
    /// The number by which fragments find each other, in whatever order.
    pub id: u16,
    /// The second byte of the inner IP header.
    pub service: u8,
    /// Bytes of the inner frame.
    pub length: u16,
}

/// The headers before the inner Ethernet header, every field in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Headers {
    /// The version and the header's length, and the second byte.
    pub first: u16,
    /// Bytes of the packet.
    pub length: u16,
    /// The number of the packet.
    pub id: u16,
    /// 0: routers may cut it.
    pub fragment: u16,
    /// TTL and protocol.
    pub lives: u16,
    /// Of the IPv4 header.
    pub checksum: u16,
    /// From where.
    pub source: u32,
    /// Where to.
    pub destination: u32,
    /// UDP's port there.
    pub from: u16,
    /// And here.
    pub to: u16,
    /// Bytes from the UDP header on.
    pub udp_length: u16,
    /// 0: none (RFC 7348, 4.1).
    pub udp_checksum: u16,
    /// VXLAN's flags.
    pub flags: u32,
    /// The VNI, and a byte of 0.
    pub vni: u32,
}

const _: () = assert!(size_of::<Headers>() + ethernet::HEADER == ROOM);

impl Outer {
    /// The headers.
    #[inline(always)]
    pub fn headers(&self, way: &Way) -> Headers {
        let udp = self.length + (UDP + VXLAN) as u16;
        // That there is congestion is told outside by routers alone; that the sender would understand, here (RFC 6040, 4.1).
        let ecn = if self.service & ECN == ECN { CAPABLE } else { self.service & ECN };
        let mut headers = Headers {
            first: (0x4500 | u16::from(ecn)).to_be(),
            length: (udp + ipv4::HEADER as u16).to_be(),
            id: self.id,
            fragment: 0,
            lives: u16::from_be_bytes([TTL, protocol::UDP]).to_be(),
            checksum: 0,
            source: way.source,
            destination: self.remote,
            from: (SENDERS | (self.hash ^ self.hash >> 16) as u16 & !SENDERS).to_be(),
            to: way.port.to_be(),
            udp_length: udp.to_be(),
            udp_checksum: 0,
            flags: (u32::from(VNI_VALID) << 24).to_be(),
            vni: (self.vni << 8).to_be(),
        };
        // The sum is the same in either order of bytes (RFC 1071, 2).
        let mut sum =
            [headers.first, headers.length, headers.id, headers.lives].into_iter().map(u32::from).sum::<u32>();
        for address in [headers.source, headers.destination] {
            sum += (address & 0xffff) + (address >> 16);
        }
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        headers.checksum = !(sum as u16);
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_are_those_of_the_standards() {
        let (ours, peer) = (u32::from_ne_bytes([192, 0, 2, 1]), u32::from_ne_bytes([192, 0, 2, 2]));
        let way = Way { source: ours, ifindex: 3, port: 4789, mtu: 1450 };
        for (service, ecn) in [(0, 0), (0xb9, 1), (0xb8 | 2, 2), (3, 2)] {
            for length in [60, 1464, 65485] {
                let outer = Outer { remote: peer, vni: 0x01_02_03, hash: 0x8765_4321, id: 7, service, length };
                let h = outer.headers(&way);
                let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
                let ip = bytes(&[h.first, h.length, h.id, h.fragment, h.lives, h.checksum]);
                let ip = [ip, h.source.to_ne_bytes().to_vec(), h.destination.to_ne_bytes().to_vec()].concat();
                let words = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
                let sum: u32 = words.sum();
                assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum (RFC 1071)");
                let [l0, l1] = (length + 36).to_be_bytes();
                assert_eq!(ip[..4], [0x45, ecn, l0, l1]);
                assert_eq!(ip[6..10], [0, 0, 64, 17]);
                assert_eq!(ip[12..], [192, 0, 2, 1, 192, 0, 2, 2]);
                let udp = bytes(&[h.from, h.to, h.udp_length, h.udp_checksum]);
                let [l0, l1] = (length + 16).to_be_bytes();
                assert_eq!(udp, [0xc4, 0x44, 0x12, 0xb5, l0, l1, 0, 0]);
                assert_eq!((h.flags.to_ne_bytes(), h.vni.to_ne_bytes()), ([8, 0, 0, 0], [1, 2, 3, 0]));
            }
        }
    }
}
