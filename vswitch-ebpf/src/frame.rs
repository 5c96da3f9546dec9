//! Packet memory as a [`Packet`]: the same bounds check before every read, in a form that the verifier follows.

use core::arch::asm;
use core::intrinsics::is_val_statically_known;
use core::mem::offset_of;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use vswitch_common::packet::ethernet::{HEADER, TAG};
use vswitch_common::packet::ipv6;
use vswitch_common::packet::{Ethernet, MAX_OFFSET, Packet, Tag, TunnelKey};

use crate::tunnel;

/// A frame, by its context: its linear part, and what is kept beside it. Where it begins and ends is read anew for each
/// look at it: so the verifier does not tell paths apart by how far they have looked.
pub struct Frame<C>(*const C);

/// A packet in tc.
pub type TcFrame = Frame<__sk_buff>;

/// A frame in XDP: whole and with its tags in place (the daemon turns VLAN offload off where XDP runs).
pub type XdpFrame = Frame<xdp_md>;

/// Bytes up to the end of the IP addresses, behind as many tags as we follow.
const LOOKED_AT: usize = HEADER + 2 * TAG + ipv6::HEADER;

/// What the two contexts tell of a frame.
pub trait Context {
    /// Where in the context its first byte is pointed at.
    const START: usize;
    /// Where in the context its end is.
    const END: usize;
    /// Where in the context a number is that the verifier knows nothing of.
    const ANYTHING: usize;

    /// The tag kept beside it.
    fn tag(&self) -> Option<Tag>;
    /// Its length, if that is not the distance from start to end.
    fn length(&self) -> Option<usize>;
    /// Bytes of payload in each segment.
    fn segment(&self) -> u32;
    /// The mark.
    fn mark(&self) -> u32;
    /// What the tunnel said that it came out of.
    fn tunnel(context: *const Self) -> Option<TunnelKey>;
}

impl Context for __sk_buff {
    const START: usize = offset_of!(__sk_buff, data);
    const END: usize = offset_of!(__sk_buff, data_end);
    const ANYTHING: usize = offset_of!(__sk_buff, len);

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
        tunnel::said(context)
    }
}

impl Context for xdp_md {
    const START: usize = offset_of!(xdp_md, data);
    const END: usize = offset_of!(xdp_md, data_end);
    const ANYTHING: usize = offset_of!(xdp_md, ingress_ifindex);

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
    /// The frame of a program.
    #[inline(always)]
    pub fn of_xdp(context: &XdpContext) -> Self {
        Self(context.ctx)
    }
}

impl TcFrame {
    /// The packet of a program. Headers that lie in fragments are pulled into the linear part first; drivers and the
    /// stack put them there already in all but odd cases.
    #[inline(always)]
    pub fn of_tc(context: &TcContext) -> Self {
        if context.data() + LOOKED_AT > context.data_end()
            && context.data_end() - context.data() < context.len() as usize
        {
            // Fails where there is no memory: then it is read as far as it goes.
            let _ = context.pull_data(context.len().min(MAX_OFFSET as u32));
        }
        Self(context.skb.skb)
    }

    /// A packet whose headers have been looked at before.
    #[inline(always)]
    pub fn of_skb(skb: *const __sk_buff) -> Self {
        Self(skb)
    }

    /// The outermost tag, TPID << 16 | TCI; 0 if it has none.
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

    /// Where it begins and ends. The verifier makes pointers of these words of the context, if they are loaded just like
    /// that: the compiler would keep them from one look to the next, or cut them to the 32 bits that they have there.
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        let (start, end): (usize, usize);
        // SAFETY: two loads from the context.
        unsafe {
            asm!(
                "{start} = *(u32 *)({context} + {data})",
                "{end} = *(u32 *)({context} + {data_end})",
                start = out(reg) start,
                end = lateout(reg) end,
                context = in(reg) self.0,
                data = const C::START,
                data_end = const C::END,
                options(readonly, nostack, preserves_flags),
            );
        }
        (start, end)
    }
}

impl<C: Context> Packet for Frame<C> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let (start, end) = self.bounds();
        let start = start + within(offset);
        if start + N > end {
            return None;
        }
        if N.is_multiple_of(2) && offset.is_multiple_of(2) {
            // SAFETY: the N bytes from start are inside the packet, as checked just above. The kernel keeps the start of
            // a frame even (NET_IP_ALIGN is 0 or 2).
            return Some(unsafe { (*(start as *const Even<N>)).0 });
        }
        // SAFETY: as above; bytes need no alignment.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        let mut number = u64::from(number);
        // SAFETY: a load from the context, and a number that is changed twice in the same way.
        unsafe {
            asm!(
                "{anything} = *(u32 *)({context} + {place})",
                "{number} ^= {anything}",
                "{number} ^= {anything}",
                anything = out(reg) _,
                number = inout(reg) number,
                context = in(reg) self.0,
                place = const C::ANYTHING,
                options(readonly, nostack, preserves_flags),
            );
        }
        number as u32
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

/// An offset that was found to be at most [`MAX_OFFSET`], once more: where the compiler has put it on the stack meanwhile,
/// verifiers before kernel 6.8 have forgotten that it was. The compiler would leave that out.
#[inline(always)]
fn within(mut offset: usize) -> usize {
    const { assert!((MAX_OFFSET + 1).is_power_of_two()) };
    if !is_val_statically_known(offset) {
        // SAFETY: an AND of a register.
        unsafe {
            asm!("{offset} &= {most}", offset = inout(reg) offset, most = const MAX_OFFSET, options(pure, nomem, nostack));
        };
    }
    offset
}

/// Bytes at an even address, so that they are loaded two at a time.
#[repr(C, align(2))]
struct Even<const N: usize>([u8; N]);
