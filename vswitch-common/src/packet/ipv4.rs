//! The IPv4 header (RFC 791), with options and fragments.

use core::net::Ipv4Addr;

use super::{Malformed, Packet};

/// Bytes of the header without options.
pub const HEADER: usize = 20;

/// The fields of an IPv4 header that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// The source address.
    pub source: Ipv4Addr,
    /// The destination address.
    pub destination: Ipv4Addr,
    /// The protocol of the payload.
    pub protocol: u8,
    /// The length of header and payload in bytes, as the header says.
    pub total_length: u16,
    /// The offset of this fragment in bytes; 0 in whole packets and first fragments.
    pub fragment_offset: u16,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// The offset of the payload in bytes from the start of the frame.
    pub payload: usize,
}

impl Ipv4 {
    /// Parses the header at `offset`. The checksum is not verified; the receiving host does that.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(frame: &P, offset: usize) -> Result<Self, Malformed> {
        let bytes: [u8; HEADER] = frame.read(offset).ok_or(Malformed::Truncated)?;
        let [vihl, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = bytes;
        if vihl >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header = usize::from(vihl & 0x0f) * 4;
        let total_length = u16::from_be_bytes([l0, l1]);
        if header < HEADER || usize::from(total_length) < header {
            return Err(Malformed::Length);
        }
        if header > HEADER && frame.read::<1>(offset + header - 1).is_none() {
            return Err(Malformed::Truncated);
        }
        let fragment = u16::from_be_bytes([f0, f1]);
        Ok(Self {
            source: Ipv4Addr::new(s0, s1, s2, s3),
            destination: Ipv4Addr::new(d0, d1, d2, d3),
            protocol,
            total_length,
            fragment_offset: (fragment & 0x1fff) << 3,
            more_fragments: fragment & 0x2000 != 0,
            payload: offset + header,
        })
    }

    /// Returns whether the payload begins with the transport header, which is not so in a later
    /// fragment.
    #[inline(always)]
    pub const fn has_transport(&self) -> bool {
        self.fragment_offset == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::protocol;

    fn header() -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..20].copy_from_slice(&[
            0x46,
            0,
            0,
            28,
            0,
            1,
            0x20,
            3,
            64,
            protocol::UDP,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ]);
        bytes
    }

    #[test]
    fn options_and_fragments() {
        let ip = Ipv4::parse(header().as_slice(), 0).unwrap();
        assert_eq!((ip.payload, ip.fragment_offset, ip.more_fragments), (24, 24, true));
        assert!(!ip.has_transport());
        assert_eq!((ip.source, ip.destination), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
    }

    #[test]
    fn each_invalid_header_has_its_error() {
        for length in 0..24 {
            assert_eq!(Ipv4::parse(&header()[..length], 0), Err(Malformed::Truncated), "{length} bytes");
        }
        let mut wrong = header();
        wrong[0] = 0x66;
        assert_eq!(Ipv4::parse(wrong.as_slice(), 0), Err(Malformed::Version));
        wrong[0] = 0x44;
        assert_eq!(Ipv4::parse(wrong.as_slice(), 0), Err(Malformed::Length));
        wrong = header();
        wrong[3] = 23;
        assert_eq!(Ipv4::parse(wrong.as_slice(), 0), Err(Malformed::Length));
    }
}
