//! What the header of a tunnel said about a frame that came out of it.

use super::address::Address;

/// A VXLAN network (RFC 7348, 5) as one peer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct TunnelKey {
    /// The peer's address on the underlay; `::` stands for all of them.
    pub remote: Address,
    /// The VNI, 24 bits in host byte order.
    pub vni: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<TunnelKey>() == 24);

impl TunnelKey {
    /// The key of a VNI at a peer.
    #[inline(always)]
    pub const fn new(remote: Address, vni: u32) -> Self {
        Self { remote, vni, reserved: 0 }
    }

    /// The key that says that some network here has the VNI.
    #[inline(always)]
    pub const fn anybody(vni: u32) -> Self {
        Self::new(Address::UNSPECIFIED, vni)
    }
}
