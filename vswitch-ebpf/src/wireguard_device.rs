//! The programs at the WireGuard device: packets of tunnels that come in are marked, and only
//! packets of tunnels go out.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use vswitch_common::forward::wireguard::admit;
use vswitch_common::tables::{DROP_REASONS, MARK_ENCRYPTED, PortNumber};
use vswitch_common::verdict::{Decision, action};

use crate::count::counted;
use crate::frame::TcFrame;
use crate::marks::mark_encrypted;
use crate::recording;
use crate::tables::KernelTables;

/// Marks a tunnel's packet that comes in, and drops any other. A dropped packet is counted but not
/// sent to observers, because it is no Ethernet frame.
#[inline(always)]
pub fn ingress(context: &TcContext) -> i32 {
    let refused = admit(&TcFrame::of_tc(context), &KernelTables);
    if recording::requested() {
        let decision = match refused {
            Some(reason) => Decision::drop(reason, PortNumber::NONE),
            None => Decision::new(action::PASS, PortNumber::NONE),
        };
        return recording::record(decision, 0) as i32;
    }
    match refused {
        Some(reason) => {
            counted(PortNumber::NONE, |counters| {
                counters.rx_frames += 1;
                counters.rx_bytes += u64::from(context.len());
                counters.drops[reason as usize % DROP_REASONS] += 1;
            });
            TC_ACT_SHOT
        }
        None => {
            mark_encrypted(context.skb.skb);
            TC_ACT_UNSPEC
        }
    }
}

/// Lets a packet out that a tunnel sent, and drops any other: the host's own packets on this
/// device, multicast reports, have no receiver.
#[inline(always)]
pub fn egress(context: &TcContext) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let mark = unsafe { (*context.skb.skb).mark };
    if mark & MARK_ENCRYPTED != 0 { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}
