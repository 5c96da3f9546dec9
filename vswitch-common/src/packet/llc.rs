//! LLC and SNAP, the headers behind an 802.3 length (IEEE 802.2; RFC 1042).

use super::Packet;
use super::ethernet::Ethernet;

/// The largest value of the EtherType field that is a length.
pub const MAX_LENGTH: u16 = 1500;
/// Bytes of an LLC header with a SNAP header.
pub const SNAP: usize = 8;

/// The content of an 802.3 frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Llc {
    /// A BPDU of a spanning tree (IEEE 802.1D, 9), or of a spanning tree per VLAN.
    Bpdu,
    /// A packet of this EtherType, [`SNAP`] bytes further on.
    Snap(u16),
    /// Anything else.
    Other,
    /// The frame ends within the header.
    Truncated,
}

impl Llc {
    /// Parses the header behind an Ethernet header with a length in place of the EtherType.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> Self {
        let Some([dsap, ssap, control]) = frame.read(ethernet.payload) else { return Self::Truncated };
        match [dsap, ssap, control] {
            [0x42, 0x42, _] => Self::Bpdu,
            // The low bit of either byte is no part of the address. Receivers ignore it.
            [0xaa | 0xab, 0xaa | 0xab, _] => match frame.read(ethernet.payload + 3) {
                Some([0, 0, 0x0c, 0x01, 0x0b]) => Self::Bpdu,
                Some([_, _, _, t0, t1]) => Self::Snap(u16::from_be_bytes([t0, t1])),
                None => Self::Truncated,
            },
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &[u8]) -> Llc {
        let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0, 40][..], rest].concat();
        Llc::parse(frame.as_slice(), &Ethernet::parse(frame.as_slice()).expect("a header"))
    }

    #[test]
    fn bpdus_and_snap_are_recognised() {
        assert_eq!(parse(&[0x42, 0x42, 3]), Llc::Bpdu);
        assert_eq!(parse(&[0xaa, 0xaa, 3, 0, 0, 0x0c, 1, 0x0b]), Llc::Bpdu);
        assert_eq!(parse(&[0xaa, 0xaa, 3, 0, 0, 0, 8, 6]), Llc::Snap(0x0806));
        assert_eq!(parse(&[0xab, 0xaa, 3, 0, 0, 0xf8, 0x86, 0xdd]), Llc::Snap(0x86dd));
        assert_eq!(parse(&[0xe0, 0xe0, 3]), Llc::Other);
        assert_eq!(parse(&[0xaa, 0xaa, 3, 0, 0, 0, 8]), Llc::Truncated);
        assert_eq!(parse(&[0x42, 0x42]), Llc::Truncated);
    }
}
