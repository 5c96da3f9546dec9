//! Tunnel metadata: what the outer header of a tunnel says about the frame inside.

use super::address::Address;

/// A VXLAN network (RFC 7348, 5) at one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct TunnelKey {
    /// The peer's address on the underlay; `::` stands for all peers.
    pub remote: Address,
    /// The VNI, 24 bits in host byte order.
    pub vni: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<TunnelKey>() == 24);

impl TunnelKey {
    /// Returns the key of a VNI at a peer.
    #[inline(always)]
    pub const fn new(remote: Address, vni: u32) -> Self {
        Self { remote, vni, reserved: 0 }
    }

    /// Returns the key whose entry says that some network here has the VNI.
    #[inline(always)]
    pub const fn any_peer(vni: u32) -> Self {
        Self::new(Address::UNSPECIFIED, vni)
    }

    /// Returns the words of a packet's control block (`skb->cb`) that stand for the metadata in a
    /// traced run, where there is no tunnel.
    #[inline(always)]
    pub const fn to_words(self) -> [u32; 5] {
        let [a, b, c, d] = self.remote.words();
        [self.vni, a, b, c, d]
    }

    /// Reads the words of [`TunnelKey::to_words`].
    #[inline(always)]
    pub const fn from_words(words: [u32; 5]) -> Self {
        let [vni, a, b, c, d] = words;
        Self::new(Address::of_words([a, b, c, d]), vni)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_written() {
        for remote in
            [Address::mapped([192, 0, 2, 7]), Address::new([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])]
        {
            let key = TunnelKey::new(remote, 0x01_02_03);
            assert_eq!(TunnelKey::from_words(key.to_words()), key);
        }
    }
}
