//! The clock of the FDB.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use vswitch_common::tables::tick;

/// Returns the current tick.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a helper without arguments.
    tick(unsafe { bpf_ktime_get_coarse_ns() })
}
