//! The destination of observed frames.

use std::io;

use crate::api::FrameView;

/// A destination of observed frames: a terminal, a pipe or a capture file.
pub(super) trait Sink {
    /// Writes a frame.
    fn frame(&mut self, frame: &FrameView) -> io::Result<()>;
    /// Writes how many frames are missing.
    fn lost(&mut self, frames: u64) -> io::Result<()>;
    /// Writes everything that is buffered.
    fn flush(&mut self) -> io::Result<()>;
}
