//! What the programs send to the daemon by ring buffers: frames for observers, and events.

use crate::verdict::Decision;

/// Which frames the programs send to observers (the map `WATCH`). Zeros: none, and the programs
/// only read this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FrameFilter {
    /// 0 for no frames, [`FrameFilter::HEADERS`] or [`FrameFilter::FRAMES`].
    pub mode: u32,
    /// Frames of this network alone; 0 for all networks.
    pub network: u32,
    /// Frames from and to this port alone; 0 for all ports.
    pub port: u32,
    /// 1 for dropped frames alone.
    pub drops: u32,
    /// 1 for frames as they leave as well.
    pub leaving: u32,
    /// Frames in one tick on one CPU; further frames are only counted.
    pub limit: u32,
}

impl FrameFilter {
    /// The first [`Event::HEADERS`] bytes of each frame.
    pub const HEADERS: u32 = 1;
    /// The first [`Event::FRAME`] bytes of each frame.
    pub const FRAMES: u32 = 2;
}

/// How many frames one CPU has sent to observers in a tick (the map `WATCHED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Shown {
    /// The tick.
    pub tick: u32,
    /// Frames sent in that tick.
    pub count: u32,
    /// Frames not sent since the last one that was, because they were beyond the limit or the ring
    /// was full.
    pub lost: u32,
}

/// The head of a record in a ring. `captured` bytes of the frame follow, in a slot of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// The decision. In a record of the kind [`Event::LEAVING`], `to` is the port that the frame
    /// leaves by.
    pub decision: Decision,
    /// The kind of record, [`Event::ENTERING`] and the like.
    pub kind: u32,
    /// The length of the frame in bytes, without a tag kept beside it.
    pub length: u32,
    /// Bytes of the frame in this record.
    pub captured: u32,
    /// The tag kept beside the frame, TPID << 16 | TCI; 0 for none.
    pub tag: u32,
    /// Bytes of payload in each segment of a GSO packet; 0 for any other frame.
    pub segment: u32,
    /// Frames not sent before this one.
    pub lost: u32,
}

impl Event {
    /// A frame as it came in, with its decision.
    pub const ENTERING: u32 = 1;
    /// A frame as it leaves by `decision.to.port`.
    pub const LEAVING: u32 = 2;
    /// A frame about multicast groups, for the daemon's table of listeners.
    pub const SNOOPED: u32 = 3;
    /// The station of the decision moved too often and is held at its port.
    pub const HELD: u32 = 4;
    /// A frame that is longer than `decision.to.port` may send. The daemon sends the ICMP error.
    pub const TOO_BIG: u32 = 5;

    /// Bytes of a frame in a short slot.
    pub const HEADERS: usize = 192;
    /// Bytes of a frame in a long slot.
    pub const FRAME: usize = 1984;
}

/// A record of the ring of observed frames or of the ring of events.
#[repr(C)]
pub struct Record<const BYTES: usize> {
    /// The head.
    pub event: Event,
    /// The first `event.captured` bytes of the frame.
    pub bytes: [u8; BYTES],
}

const _: () = {
    assert!(size_of::<Event>() == 72);
    assert!(size_of::<Record<{ Event::HEADERS }>>() == 72 + Event::HEADERS);
    assert!(size_of::<Shown>() == 12);
};

#[cfg(feature = "user")]
mod user {
    //! SAFETY of all below: `repr(C)` over integers without padding (sizes asserted above); any bit
    //! pattern is valid.
    #![expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
    use super::{Event, FrameFilter, Shown};

    unsafe impl aya::Pod for FrameFilter {}
    unsafe impl aya::Pod for Shown {}
    unsafe impl aya::Pod for Event {}
}
