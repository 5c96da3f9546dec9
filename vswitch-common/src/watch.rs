//! What the programs tell the daemon by ring buffer: frames that somebody watches, and what the daemon has to know.

use crate::verdict::Decision;

/// What is to be shown of the frames that go through the switch. All zeros: nothing, and the programs do no more than
/// look here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Watch {
    /// 0 nothing, [`Watch::HEADERS`] or [`Watch::FRAMES`].
    pub mode: u32,
    /// Frames of this network alone; 0 of all.
    pub network: u32,
    /// Frames from and to this port alone; 0 of all.
    pub port: u32,
    /// 1 for dropped frames alone.
    pub drops: u32,
    /// 1 for frames as they leave, too.
    pub leaving: u32,
    /// Frames in one tick on one CPU, beyond which they are only counted.
    pub limit: u32,
}

impl Watch {
    /// The first [`Event::HEADERS`] bytes of each frame.
    pub const HEADERS: u32 = 1;
    /// The first [`Event::FRAME`] bytes of each frame.
    pub const FRAMES: u32 = 2;
}

/// What one CPU has shown in a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Watched {
    /// The tick.
    pub tick: u32,
    /// Frames shown in it.
    pub count: u32,
    /// Frames not shown, because they were too many or the ring was full, since the last that was.
    pub lost: u32,
}

/// The head of a record in a ring; the frame's bytes follow, `captured` of them, in a slot of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// What was decided. In a [`Event::LEAVING`] record `to` is the port that it leaves by.
    pub decision: Decision,
    /// One of [`Event::ENTERING`] and the like.
    pub kind: u32,
    /// The frame's bytes, a tag kept beside it not counted.
    pub length: u32,
    /// Bytes of the frame in this record.
    pub captured: u32,
    /// The tag kept beside the frame: TPID << 16 | TCI; 0 if there is none.
    pub tag: u32,
    /// Bytes of payload in each segment of a GSO packet; 0 for a plain frame.
    pub segment: u32,
    /// Frames not shown before this one.
    pub lost: u32,
}

impl Event {
    /// A frame as it came in, with its verdict.
    pub const ENTERING: u32 = 1;
    /// A frame as it leaves by `decision.to.port`.
    pub const LEAVING: u32 = 2;
    /// A frame about multicast groups, for the daemon.
    pub const SNOOPED: u32 = 3;
    /// The station of the decision moved too often and is held where it was.
    pub const HELD: u32 = 4;
    /// A frame that is longer than what may leave by `decision.to.port`; its sender is to be told.
    pub const TOO_BIG: u32 = 5;

    /// Bytes of a frame in a short slot.
    pub const HEADERS: usize = 192;
    /// Bytes of a frame in a long slot.
    pub const FRAME: usize = 1984;
}

/// A record of the ring of frames that are watched, or of that of what the daemon has to know.
#[repr(C)]
pub struct Record<const BYTES: usize> {
    /// What it is.
    pub event: Event,
    /// The frame, `event.captured` bytes of it.
    pub bytes: [u8; BYTES],
}

const _: () = {
    assert!(size_of::<Event>() == 72);
    assert!(size_of::<Record<{ Event::HEADERS }>>() == 72 + Event::HEADERS);
    assert!(size_of::<Watched>() == 12);
};

#[cfg(feature = "user")]
mod user {
    //! SAFETY of all below: `repr(C)` over integers without padding (sizes asserted above); any bit pattern is valid.
    #![expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
    use super::{Event, Watch, Watched};

    unsafe impl aya::Pod for Watch {}
    unsafe impl aya::Pod for Watched {}
    unsafe impl aya::Pod for Event {}
}
