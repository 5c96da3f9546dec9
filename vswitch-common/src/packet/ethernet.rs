//! The Ethernet header and its VLAN tags (IEEE 802.3, 802.1Q, 802.1ad).

use super::{Malformed, Packet, ethertype};
use crate::mac::Mac;

/// Bytes of an Ethernet header without tags.
pub const HEADER: usize = 14;
/// Bytes of a VLAN tag.
pub const TAG: usize = 4;

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The EtherType: 0x8100 for a customer tag, 0x88a8 for a service tag.
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1 bit), VLAN id (12 bits); host byte order.
    pub tci: u16,
}

impl Tag {
    /// Returns the VLAN id, 0 to 4095.
    #[inline(always)]
    pub const fn id(self) -> u16 {
        self.tci & 0x0fff
    }

    /// Returns the priority code point, 0 to 7.
    #[inline(always)]
    pub const fn priority(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// Returns the VLAN as the FDB keys it. A tag with VLAN id 0 only carries a priority: the frame
    /// counts as untagged (802.1Q, 9.6).
    #[inline(always)]
    pub const fn key(self) -> VlanKey {
        match self.id() {
            0 => VlanKey::NONE,
            id if self.tpid == ethertype::SERVICE_VLAN => VlanKey(VlanKey::SERVICE | id),
            id => VlanKey(id),
        }
    }
}

/// The VLAN of a frame, as the FDB keys it: 0 for an untagged or priority-tagged frame, 1 to 4094
/// for an 802.1Q tag, the same with [`VlanKey::SERVICE`] set for an 802.1ad service tag. The two
/// kinds of tag are separate numberings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VlanKey(pub u16);

impl VlanKey {
    /// Untagged.
    pub const NONE: Self = Self(0);
    /// The bit that marks a service tag (802.1ad).
    pub const SERVICE: u16 = 0x1000;
}

/// An Ethernet header with its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// The destination address.
    pub destination: Mac,
    /// The source address.
    pub source: Mac,
    /// The first tag that counts: the outermost one that has a VLAN id, else the outermost. It is in
    /// the frame or kept beside it.
    pub tag: Option<Tag>,
    /// The EtherType behind at most two tags. Below 0x600 it is a length (802.3).
    pub ethertype: u16,
    /// The offset of the payload in bytes, in the frame as it is in memory.
    pub payload: usize,
    /// Whether the frame has a second tag.
    pub double: bool,
    /// The VLAN id of a second tag behind a tag with a VLAN id; 0 for none.
    pub inner: u16,
}

/// Returns whether an EtherType announces a VLAN tag as switches made them before 802.1ad. The core
/// does not read such a tag.
#[inline(always)]
pub const fn is_old_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x9100 | 0x9200 | 0x9300)
}

/// Returns whether an EtherType announces a VLAN tag.
#[inline(always)]
pub const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN)
}

impl Ethernet {
    /// Parses the header and at most two tags.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(frame: &P) -> Result<Self, Malformed> {
        let header: [u8; HEADER] = frame.read(0).ok_or(Malformed::Truncated)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = header;
        let mut ethernet = Self {
            destination: Mac([d0, d1, d2, d3, d4, d5]),
            source: Mac([s0, s1, s2, s3, s4, s5]),
            tag: frame.offloaded_tag(),
            ethertype: u16::from_be_bytes([t0, t1]),
            payload: HEADER,
            double: false,
            inner: 0,
        };
        if is_tag(ethernet.ethertype) {
            let tag = ethernet.take_tag(frame, HEADER)?;
            if let Some(outer) = ethernet.tag {
                ethernet.set_tags(outer, tag);
            } else {
                ethernet.tag = Some(tag);
                if is_tag(ethernet.ethertype) {
                    let second = ethernet.take_tag(frame, HEADER + TAG)?;
                    ethernet.set_tags(tag, second);
                }
            }
        }
        Ok(ethernet)
    }

    /// Takes in two tags. Receivers step over a tag that only carries a priority (802.1Q, 9.6).
    #[inline(always)]
    fn set_tags(&mut self, outer: Tag, second: Tag) {
        self.double = true;
        if outer.id() != 0 {
            self.inner = second.id();
        } else if second.id() != 0 {
            self.tag = Some(second);
        }
    }

    /// Returns the VLAN of the frame.
    #[inline(always)]
    pub fn vlan(&self) -> VlanKey {
        self.tag.map_or(VlanKey::NONE, Tag::key)
    }

    /// Steps over the tag at `offset`. Its TPID has been read already.
    #[inline(always)]
    fn take_tag<P: Packet + ?Sized>(&mut self, frame: &P, offset: usize) -> Result<Tag, Malformed> {
        let [c0, c1, t0, t1]: [u8; TAG] = frame.read(offset).ok_or(Malformed::Truncated)?;
        let tag = Tag { tpid: self.ethertype, tci: u16::from_be_bytes([c0, c1]) };
        self.ethertype = u16::from_be_bytes([t0, t1]);
        self.payload = offset + TAG;
        Ok(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&HEAD, rest].concat()
    }

    #[test]
    fn untagged() {
        let parsed = Ethernet::parse(frame(&[8, 0]).as_slice()).unwrap();
        assert_eq!((parsed.ethertype, parsed.payload, parsed.tag), (0x0800, 14, None));
        assert_eq!(parsed.destination, Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(parsed.source, Mac([2, 0, 0, 0, 0, 2]));
    }

    #[test]
    fn customer_service_and_double_tags() {
        let customer = Ethernet::parse(frame(&[0x81, 0, 0xa0, 30, 8, 6]).as_slice()).unwrap();
        assert_eq!((customer.vlan(), customer.ethertype, customer.payload), (VlanKey(30), 0x0806, 18));
        assert_eq!(customer.tag.unwrap().priority(), 5);
        let service = Ethernet::parse(frame(&[0x88, 0xa8, 0, 30, 8, 0]).as_slice()).unwrap();
        assert_eq!(service.vlan(), VlanKey(VlanKey::SERVICE | 30));
        let double = Ethernet::parse(frame(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9, 0x86, 0xdd]).as_slice()).unwrap();
        assert_eq!((double.vlan(), double.ethertype, double.payload), (VlanKey(0x1007), 0x86dd, 22));
    }

    #[test]
    fn priority_tag_is_untagged() {
        let parsed = Ethernet::parse(frame(&[0x81, 0, 0xe0, 0, 8, 0]).as_slice()).unwrap();
        assert_eq!(parsed.vlan(), VlanKey::NONE);
    }

    #[test]
    fn the_first_tag_with_a_vlan_counts() {
        for (tags, vlan, inner) in [
            (&[0x81, 0, 0xe0, 0, 0x81, 0, 0, 30][..], VlanKey(30), 0),
            (&[0x81, 0, 0, 0, 0x88, 0xa8, 0, 30], VlanKey(VlanKey::SERVICE | 30), 0),
            (&[0x88, 0xa8, 0, 0, 0x81, 0, 0, 30], VlanKey(30), 0),
            (&[0x81, 0, 0, 7, 0x81, 0, 0, 30], VlanKey(7), 30),
            (&[0x81, 0, 0, 7, 0x81, 0, 0xe0, 0], VlanKey(7), 0),
            (&[0x81, 0, 0xa0, 0, 0x81, 0, 0xe0, 0], VlanKey::NONE, 0),
        ] {
            let parsed = Ethernet::parse(frame(&[tags, &[8, 6]].concat()).as_slice()).unwrap();
            assert_eq!((parsed.vlan(), parsed.inner, parsed.payload), (vlan, inner, 22), "{tags:02x?}");
            assert_eq!(parsed.tag.unwrap().key(), vlan);
        }
    }

    #[test]
    fn truncated_anywhere() {
        let whole = frame(&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9, 0x86, 0xdd]);
        for length in 0..whole.len() {
            assert_eq!(Ethernet::parse(&whole[..length]), Err(Malformed::Truncated), "{length} bytes");
        }
    }
}
