//! The device of WireGuard: tunnels' packets come in by it and are marked, and nothing that a tunnel did not send goes out.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use vswitch_common::forward::wireguard::admit;
use vswitch_common::tables::{DROP_REASONS, MARK_ENCRYPTED, PortNumber};
use vswitch_common::verdict::{Decision, action};

use crate::act::counted;
use crate::frame::TcFrame;
use crate::tables::KernelTables;
use crate::trace;

/// Marks what is a tunnel's, and drops the rest. It is no frame: what is dropped is counted, and not shown.
#[inline(always)]
pub fn take_in(context: &TcContext) -> i32 {
    let refused = admit(&TcFrame::of_tc(context), &KernelTables);
    if trace::requested() {
        let decision = match refused {
            Some(reason) => Decision::drop(reason, PortNumber::NONE),
            None => Decision::new(action::PASS, PortNumber::NONE),
        };
        return trace::record(decision, 0) as i32;
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
            // SAFETY: the context's skb pointer is valid as long as the program runs.
            unsafe { (*context.skb.skb).mark |= MARK_ENCRYPTED };
            TC_ACT_UNSPEC
        }
    }
}

/// Lets what a tunnel sent pass. What the host itself has to say on this device (multicast reports) nobody waits for.
#[inline(always)]
pub fn let_out(context: &TcContext) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let mark = unsafe { (*context.skb.skb).mark };
    if mark & MARK_ENCRYPTED != 0 { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}
