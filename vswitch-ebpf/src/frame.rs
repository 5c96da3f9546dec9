//! Packet memory as a [`Packet`]: the same bounds check before every read, in a form that the verifier follows.

use core::arch::asm;
use core::mem::offset_of;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::programs::{TcContext, XdpContext};
use vswitch_common::packet::ethernet::{HEADER, TAG};
use vswitch_common::packet::ipv6;
use vswitch_common::packet::{Ethernet, MAX_OFFSET, Packet, Tag};

/// The linear part of a frame, and what is kept beside it. Where it begins and ends is read anew for each look at it: so
/// the verifier does not tell paths apart by how far they have looked.
pub struct Frame {
    tag: Option<Tag>,
    /// Null in XDP.
    skb: *const __sk_buff,
    /// Null in tc.
    xdp: *const xdp_md,
}

/// Bytes up to the end of the IP addresses, behind as many tags as we follow.
const LOOKED_AT: usize = HEADER + 2 * TAG + ipv6::HEADER;

impl Frame {
    /// A frame in XDP: whole and with its tags in place (the daemon turns VLAN offload off where XDP runs).
    #[inline(always)]
    pub fn of_xdp(context: &XdpContext) -> Self {
        Self { tag: None, skb: core::ptr::null(), xdp: context.ctx }
    }

    /// A packet in tc. Headers that lie in fragments are pulled into the linear part first; drivers and the stack
    /// put them there already in all but odd cases.
    #[inline(always)]
    pub fn of_tc(context: &TcContext) -> Self {
        if context.data() + LOOKED_AT > context.data_end()
            && context.data_end() - context.data() < context.len() as usize
        {
            // Fails where there is no memory: then it is read as far as it goes.
            let _ = context.pull_data(context.len().min(MAX_OFFSET as u32));
        }
        // SAFETY: the context's skb pointer is valid as long as the program runs.
        let skb = unsafe { &*context.skb.skb };
        let tag = (skb.vlan_present != 0)
            .then_some(Tag { tpid: u16::from_be(skb.vlan_proto as u16), tci: skb.vlan_tci as u16 });
        Self { tag, skb, xdp: core::ptr::null() }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // The verifier makes pointers of these words of the context, if they are loaded just like that: the compiler
        // would keep them from one look to the next, or cut them to the 32 bits that they have in the context.
        macro_rules! load {
            ($context:expr, $type:ty, $field:ident) => {{
                let pointer: usize;
                // SAFETY: a load from the context, which is valid as long as the program runs.
                unsafe {
                    asm!(
                        "{pointer} = *(u32 *)({context} + {offset})",
                        pointer = out(reg) pointer,
                        context = in(reg) $context,
                        offset = const offset_of!($type, $field),
                        options(readonly, nostack, preserves_flags),
                    );
                }
                pointer
            }};
        }
        if self.skb.is_null() {
            (load!(self.xdp, xdp_md, data), load!(self.xdp, xdp_md, data_end))
        } else {
            (load!(self.skb, __sk_buff, data), load!(self.skb, __sk_buff, data_end))
        }
    }

    /// The outermost tag of a packet in tc, TPID << 16 | TCI; 0 if it has none.
    #[inline(always)]
    pub fn tag_word(&self) -> u32 {
        let tag = Ethernet::parse(self).ok().and_then(|ethernet| ethernet.tag);
        tag.map_or(0, |tag| u32::from(tag.tpid) << 16 | u32::from(tag.tci))
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let (start, end) = self.bounds();
        let start = start + offset;
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
    fn offloaded_tag(&self) -> Option<Tag> {
        self.tag
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: null or the context's skb, which is valid as long as the program runs.
        unsafe { self.skb.as_ref() }.map_or_else(
            || {
                let (start, end) = self.bounds();
                end - start
            },
            |skb| skb.len as usize,
        )
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.skb.as_ref() }.map_or(0, |skb| skb.gso_size)
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: null or the context's skb, which is valid as long as the program runs.
        unsafe { self.skb.as_ref() }.map_or(0, |skb| skb.mark)
    }
}

/// Bytes at an even address, so that they are loaded two at a time.
#[repr(C, align(2))]
struct Even<const N: usize>([u8; N]);
