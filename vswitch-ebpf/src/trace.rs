//! Traced runs: a second copy of the programs, loaded with `TRACED` set, writes the decision down and does nothing else.
//! In the switching copy the verifier removes all of this, as the constant is frozen before it looks.

use vswitch_common::trace::{RECORDED, Trace};
use vswitch_common::verdict::Decision;

use crate::maps::TRACE;

/// Set by the loader for a copy that only records.
#[unsafe(no_mangle)]
static TRACED: u32 = 0;

/// Whether this is the copy that only records.
#[inline(always)]
pub fn requested() -> bool {
    // SAFETY: a valid static; volatile, as the loader gives it a value that the compiler does not know.
    unsafe { core::ptr::read_volatile(&raw const TRACED) != 0 }
}

/// Writes a decision and its second down; returns what tells the caller that it was.
#[inline(always)]
pub fn record(decision: Decision, now: u32) -> u32 {
    match TRACE.set(0, Trace { decision, now }, 0) {
        Ok(()) => RECORDED,
        Err(_) => 0,
    }
}
