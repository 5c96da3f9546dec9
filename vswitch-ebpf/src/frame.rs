//! Packet memory as the core's [`Packet`]. Every read is checked against the packet's bounds in a
//! form that the verifier follows.

use core::mem::offset_of;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use vswitch_common::packet::ethernet::{HEADER, TAG};
use vswitch_common::packet::ipv6;
use vswitch_common::packet::{Ethernet, MAX_OFFSET, Packet, Tag, TunnelKey};
use vswitch_common::verifier::bpf::{self, Offsets};

use crate::tunnel_key;

/// A frame, by the context of the program: its linear part, and what the kernel keeps beside it.
pub struct Frame<C>(*const C);

/// A packet in tc.
pub type TcFrame = Frame<__sk_buff>;

/// A frame in XDP: whole, with its tags in place (the daemon turns VLAN offload off where XDP
/// runs).
pub type XdpFrame = Frame<xdp_md>;

/// Bytes up to the end of the IP addresses, behind as many tags as are read.
const READ: usize = HEADER + 2 * TAG + ipv6::HEADER;

/// The context of a program, and what it tells about a frame.
pub trait Context: Sized {
    /// Where the context has what [`bpf`] reads.
    type Offsets: Offsets;

    /// Returns the tag kept beside the frame.
    fn tag(&self) -> Option<Tag>;
    /// Returns the length, `None` if it is the distance from start to end.
    fn length(&self) -> Option<usize>;
    /// Returns the bytes of payload in each segment of a GSO packet; 0 for any other frame.
    fn segment(&self) -> u32;
    /// Returns the mark.
    fn mark(&self) -> u32;
    /// Returns the tunnel metadata.
    fn tunnel(context: *const Self) -> Option<TunnelKey>;
}

/// The offsets of `struct __sk_buff`.
pub struct SkbOffsets;

impl Offsets for SkbOffsets {
    const DATA: usize = offset_of!(__sk_buff, data);
    const DATA_END: usize = offset_of!(__sk_buff, data_end);
    const UNKNOWN: usize = offset_of!(__sk_buff, len);
}

impl Context for __sk_buff {
    type Offsets = SkbOffsets;

    #[inline(always)]
    fn tag(&self) -> Option<Tag> {
        (self.vlan_present != 0)
            .then_some(Tag { tpid: u16::from_be(self.vlan_proto as u16), tci: self.vlan_tci as u16 })
    }

    #[inline(always)]
    fn length(&self) -> Option<usize> {
        Some(self.len as usize)
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        self.gso_size
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        self.mark
    }

    #[inline(always)]
    fn tunnel(context: *const Self) -> Option<TunnelKey> {
        tunnel_key::read(context)
    }
}

/// The offsets of `struct xdp_md`.
pub struct XdpOffsets;

impl Offsets for XdpOffsets {
    const DATA: usize = offset_of!(xdp_md, data);
    const DATA_END: usize = offset_of!(xdp_md, data_end);
    const UNKNOWN: usize = offset_of!(xdp_md, ingress_ifindex);
}

impl Context for xdp_md {
    type Offsets = XdpOffsets;

    #[inline(always)]
    fn tag(&self) -> Option<Tag> {
        None
    }

    #[inline(always)]
    fn length(&self) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn tunnel(_context: *const Self) -> Option<TunnelKey> {
        None
    }
}

impl XdpFrame {
    /// Returns the frame of a program.
    #[inline(always)]
    pub fn of_xdp(context: &XdpContext) -> Self {
        Self(context.ctx)
    }
}

impl TcFrame {
    /// Returns the packet of a program. Headers that are not in the linear part are pulled into it
    /// first; drivers and the stack have put them there in all but rare cases.
    #[inline(always)]
    pub fn of_tc(context: &TcContext) -> Self {
        if context.data() + READ > context.data_end() && context.data_end() - context.data() < context.len() as usize {
            // Fails if there is no memory. Then the linear part is read.
            let _ = context.pull_data(context.len().min(MAX_OFFSET as u32));
        }
        Self(context.skb.skb)
    }

    /// Returns a packet whose headers are in the linear part already.
    #[inline(always)]
    pub fn of_skb(skb: *const __sk_buff) -> Self {
        Self(skb)
    }

    /// Returns the outermost tag, TPID << 16 | TCI; 0 for none.
    #[inline(always)]
    pub fn tag_word(&self) -> u32 {
        let tag = Ethernet::parse(self).ok().and_then(|ethernet| ethernet.tag);
        tag.map_or(0, |tag| u32::from(tag.tpid) << 16 | u32::from(tag.tci))
    }
}

impl<C: Context> Frame<C> {
    #[inline(always)]
    fn context(&self) -> &C {
        // SAFETY: the context is valid as long as the program runs.
        unsafe { &*self.0 }
    }

    /// Returns where the packet begins and ends. Loaded anew for each read.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context is that of the program that runs.
        unsafe { bpf::packet_bounds::<C::Offsets>(self.0.cast()) }
    }
}

impl<C: Context> Packet for Frame<C> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let (start, end) = self.bounds();
        let start = start + bpf::bound_offset(offset);
        if start + N > end {
            return None;
        }
        if N.is_multiple_of(2) && offset.is_multiple_of(2) {
            // SAFETY: the N bytes from start are inside the packet, as checked just above. The
            // kernel keeps the start of a frame even (NET_IP_ALIGN is 0 or 2).
            return Some(unsafe { (*(start as *const Even<N>)).0 });
        }
        // SAFETY: as above; bytes need no alignment.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        // SAFETY: the context is that of the program that runs.
        unsafe { bpf::forget::<C::Offsets>(self.0.cast(), number) }
    }

    #[inline(always)]
    fn offloaded_tag(&self) -> Option<Tag> {
        self.context().tag()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.context().length().unwrap_or_else(|| {
            let (start, end) = self.bounds();
            end - start
        })
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        self.context().segment()
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        self.context().mark()
    }

    #[inline(always)]
    fn tunnel(&self) -> Option<TunnelKey> {
        C::tunnel(self.0)
    }
}

/// Bytes at an even address, which are loaded two at a time.
#[repr(C, align(2))]
struct Even<const N: usize>([u8; N]);
