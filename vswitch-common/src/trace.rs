//! The record of a traced run of a loaded program.

use crate::verdict::Decision;

/// The return value of a traced program that has recorded its decision. It is no verdict of tc or
/// XDP.
pub const RECORDED: u32 = 77;

/// A recorded decision. `repr(C)`, no padding, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Trace {
    /// The decision.
    pub decision: Decision,
    /// The tick of the decision.
    pub now: u32,
}

const _: () = assert!(size_of::<Trace>() == 44);

// SAFETY: repr(C) over integers without padding (size asserted above); any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Trace {}
