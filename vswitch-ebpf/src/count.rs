//! Counts frames into the counters of ports.

use vswitch_common::tables::{DROP_REASONS, PortCounters, PortNumber};
use vswitch_common::verdict::{Decision, Delivery, action};

use crate::maps::COUNTERS;

/// Runs `count` on a port's counters on this CPU.
#[inline(always)]
pub fn counted(port: PortNumber, count: impl FnOnce(&mut PortCounters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(port.0) {
        // SAFETY: the entry is this CPU's own and lives as long as the map. A program that
        // interrupts another on the same CPU can lose a count between load and store, never corrupt
        // one.
        count(unsafe { &mut *counters });
    }
}

/// Counts a frame that left by a port.
#[inline(always)]
pub fn count_out(port: PortNumber, bytes: u64) {
    counted(port, |counters| {
        counters.tx_frames += 1;
        counters.tx_bytes += bytes;
    });
}

/// Counts a frame that could not be delivered by a port.
#[inline(always)]
pub fn count_failure(port: PortNumber) {
    counted(port, |counters| counters.tx_failed += 1);
}

/// Counts a frame that came in, and its verdict.
#[inline(always)]
pub fn count_in(decision: &Decision, bytes: u64) {
    counted(decision.ingress, |counters| {
        counters.rx_frames += 1;
        counters.rx_bytes += bytes;
        match decision.action {
            action::REDIRECT if decision.to.way == Delivery::LOCAL => counters.to_host += 1,
            action::REDIRECT => counters.forwarded += 1,
            // Also what only the host gets, because the port floods too much.
            _ if decision.reason != 0 => counters.drops[decision.reason as usize % DROP_REASONS] += 1,
            action::PASS => counters.passed += 1,
            action::ANSWER_ARP | action::ANSWER_NEIGHBOR | action::ANSWER_TOO_BIG => {
                counters.to_host += 1;
                counters.answered += 1;
            }
            action if action::is_flood(action) => counters.flooded += 1,
            _ => counters.drops[decision.reason as usize % DROP_REASONS] += 1,
        }
    });
}
