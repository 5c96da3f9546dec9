//! Traced runs: a second copy of the programs, loaded with `TRACED` set, records its decision and
//! does nothing else. The verifier removes this code from the copy that switches, because the
//! constant is frozen before it looks.

use vswitch_common::trace::{RECORDED, Trace};
use vswitch_common::verdict::Decision;

use crate::maps::TRACE;

/// Set by the loader for the copy that records.
#[unsafe(no_mangle)]
static TRACED: u32 = 0;

/// Returns whether this is the copy that records.
#[inline(always)]
pub fn requested() -> bool {
    // SAFETY: a valid static; volatile, because the compiler does not know the value that the
    // loader gives it.
    unsafe { core::ptr::read_volatile(&raw const TRACED) != 0 }
}

/// Records a decision and its tick. Returns the program's return value, [`RECORDED`] on success.
#[inline(always)]
pub fn record(decision: Decision, now: u32) -> u32 {
    match TRACE.set(0, Trace { decision, now }, 0) {
        Ok(()) => RECORDED,
        Err(_) => 0,
    }
}
