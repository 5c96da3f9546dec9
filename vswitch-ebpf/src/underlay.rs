//! The underlay: what is a tunnel's and not sound goes no further, what is worth it is unwrapped here.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_skb_adjust_room, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use vswitch_common::forward::half;
use vswitch_common::forward::underlay::{Arrival, INNER, arrival, arrive};
use vswitch_common::packet::ethernet::HEADER;
use vswitch_common::packet::{Packet, Tag, TunnelKey};
use vswitch_common::tables::PortNumber;
use vswitch_common::verdict::{Decision, action};

use crate::act;
use crate::frame::TcFrame;
use crate::tables::KernelTables;
use crate::{now, trace};

/// An inner frame that has been unwrapped here.
struct Unwrapped {
    frame: TcFrame,
    key: TunnelKey,
}

impl Packet for Unwrapped {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.frame.read(offset)
    }

    #[inline(always)]
    fn offloaded_tag(&self) -> Option<Tag> {
        None
    }

    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        self.frame.forget(number)
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.frame.length()
    }

    #[inline(always)]
    fn tunnel(&self) -> Option<TunnelKey> {
        Some(self.key)
    }
}

/// Judges a packet on the underlay, and carries that out.
#[inline(always)]
pub fn take(context: &TcContext) -> i32 {
    let Arrival { key, what, reason } = arrive(&TcFrame::of_tc(context), &KernelTables);
    match what {
        arrival::UNWRAP => {}
        arrival::DROP => {
            let decision = Decision { reason, ..Decision::new(action::DROP, PortNumber::NONE) };
            if trace::requested() {
                return trace::record(decision, 0) as i32;
            }
            return act::tc(context, &decision, 0);
        }
        _ => return TC_ACT_UNSPEC,
    }
    if !unwrap(context) {
        return TC_ACT_SHOT;
    }
    let now = now();
    let frame = Unwrapped { frame: TcFrame::of_tc(context), key };
    let decision = half::unicast_from_tunnel(0, &frame, &KernelTables, now);
    if trace::requested() {
        return trace::record(decision, now) as i32;
    }
    act::tc(context, &decision, now)
}

/// Takes the outer headers off: all but Ethernet's, which becomes the inner one. False if the kernel refuses, and then the
/// packet is no use any more.
#[inline(always)]
fn unwrap(context: &TcContext) -> bool {
    let Some(inner) = TcFrame::of_tc(context).read::<HEADER>(INNER) else { return false };
    // SAFETY: the context is valid as long as the program runs, and the bytes are as many as said. The helper takes away what
    // is behind the first header.
    unsafe {
        bpf_skb_adjust_room(context.skb.skb, -(INNER as i32), BPF_ADJ_ROOM_MAC, 0) == 0
            && bpf_skb_store_bytes(context.skb.skb, 0, inner.as_ptr().cast(), HEADER as u32, 0) == 0
    }
}
