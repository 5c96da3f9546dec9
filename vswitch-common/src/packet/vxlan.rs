//! The headers of a tunnel over IPv4 before the inner frame: IPv4, UDP, VXLAN (RFC 7348, 5).

use super::{ethernet, ipv4, protocol};

/// Bytes of a UDP header (RFC 768).
pub const UDP: usize = 8;
/// Bytes of a VXLAN header.
pub const VXLAN: usize = 8;
/// Bytes of all headers behind the outer Ethernet header, including the inner Ethernet header.
pub const ROOM: usize = ipv4::HEADER + UDP + VXLAN + ethernet::HEADER;
/// The flag "VNI is valid" in the first byte of a VXLAN header.
pub const VNI_VALID: u8 = 0x08;

/// The TTL of outer packets.
const TTL: u8 = 64;
/// The first source port of tunnels: the 2^14 dynamic ports begin here (RFC 6335, 6).
const SOURCE_PORTS: u16 = 0xc000;
/// The ECN bits of the second byte of an IPv4 header (RFC 3168, 5).
const ECN: u8 = 3;
/// ECT(0): the sender supports ECN, and no router has marked the packet.
const CAPABLE: u8 = 2;

/// What the headers of an outer packet are made of.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// The IPv4 address of this host, in the byte order of the wire.
    pub source: u32,
    /// The IPv4 address of the peer, in the byte order of the wire.
    pub remote: u32,
    /// The UDP port that the peer's tunnel receives on, in host byte order.
    pub port: u16,
    /// The VNI.
    pub vni: u32,
    /// A hash of the inner flow. All packets of a flow have the same source port, and so the same
    /// path and receive queue.
    pub hash: u32,
    /// The identification of the packet, by which fragments are reassembled; in any byte order.
    pub id: u16,
    /// The second byte of the inner IP header.
    pub service: u8,
    /// The length of the inner frame in bytes.
    pub length: u16,
}

/// The headers before the inner Ethernet header. Every field is in the byte order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Headers {
    /// IPv4: version, header length, and the second byte.
    pub first: u16,
    /// IPv4: the length of the packet in bytes.
    pub length: u16,
    /// IPv4: the identification.
    pub id: u16,
    /// IPv4: 0, so that routers may fragment the packet.
    pub fragment: u16,
    /// IPv4: TTL and protocol.
    pub lives: u16,
    /// IPv4: the header checksum.
    pub checksum: u16,
    /// IPv4: the source address.
    pub source: u32,
    /// IPv4: the destination address.
    pub destination: u32,
    /// UDP: the source port.
    pub from: u16,
    /// UDP: the destination port.
    pub to: u16,
    /// UDP: the length of header and payload in bytes.
    pub udp_length: u16,
    /// UDP: 0 for no checksum (RFC 7348, 4.1).
    pub udp_checksum: u16,
    /// VXLAN: the flags.
    pub flags: u32,
    /// VXLAN: the VNI, and a byte of 0.
    pub vni: u32,
}

const _: () = assert!(size_of::<Headers>() + ethernet::HEADER == ROOM);

impl Outer {
    /// Returns the headers.
    #[inline(always)]
    pub fn headers(&self) -> Headers {
        let udp = self.length + (UDP + VXLAN) as u16;
        // The mark "congestion experienced" is not copied to the outer header, only that the sender
        // supports ECN (RFC 6040, 4.1).
        let ecn = if self.service & ECN == ECN { CAPABLE } else { self.service & ECN };
        let mut headers = Headers {
            first: (0x4500 | u16::from(ecn)).to_be(),
            length: (udp + ipv4::HEADER as u16).to_be(),
            id: self.id,
            fragment: 0,
            lives: u16::from_be_bytes([TTL, protocol::UDP]).to_be(),
            checksum: 0,
            source: self.source,
            destination: self.remote,
            from: (SOURCE_PORTS | (self.hash ^ self.hash >> 16) as u16 & !SOURCE_PORTS).to_be(),
            to: self.port.to_be(),
            udp_length: udp.to_be(),
            udp_checksum: 0,
            flags: (u32::from(VNI_VALID) << 24).to_be(),
            vni: (self.vni << 8).to_be(),
        };
        // The sum is the same in either byte order (RFC 1071, 2).
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
    fn the_headers_are_as_the_standards_say() {
        let (ours, peer) = (u32::from_ne_bytes([192, 0, 2, 1]), u32::from_ne_bytes([192, 0, 2, 2]));
        for (service, ecn) in [(0, 0), (0xb9, 1), (0xb8 | 2, 2), (3, 2)] {
            for length in [60, 1464, 65485] {
                let (vni, hash) = (0x01_02_03, 0x8765_4321);
                let outer = Outer { source: ours, remote: peer, port: 4789, vni, hash, id: 7, service, length };
                let h = outer.headers();
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
