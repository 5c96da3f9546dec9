//! The ring buffers through which the programs send frames and events to the daemon.

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Map, MapData, PerCpuValues, RingBuf};
use aya::util::nr_cpus;
use vswitch_common::observe::{Event, FrameFilter, Shown};

use super::DatapathError;
use super::load::{Datapath, Pins};
use super::tables::set;

/// A ring buffer. It is readable (poll, epoll) when it has a record.
pub struct Ring(RingBuf<MapData>);

/// Iterates over the available records: the head of each record, and the bytes of its frame. More
/// records may arrive after the last one.
impl Iterator for Ring {
    type Item = (Event, Vec<u8>);

    fn next(&mut self) -> Option<(Event, Vec<u8>)> {
        let record = self.0.next()?;
        let (head, bytes) = record.split_at_checked(size_of::<Event>())?;
        // SAFETY: `head` has the size of an Event and no particular alignment; any bit pattern is
        // valid.
        let event = unsafe { head.as_ptr().cast::<Event>().read_unaligned() };
        Some((event, bytes.get(..event.captured as usize).unwrap_or(bytes).to_vec()))
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ring").field(&self.0.as_raw_fd()).finish()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Datapath {
    /// Opens the ring of observed frames, without the records that are already in it. The ring is
    /// large, so a reader drops it when it has finished.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn frames(&self) -> Result<Ring, DatapathError> {
        let mut ring = self.ring("FRAMES")?;
        // Discards the records that the previous reader did not read.
        while ring.0.next().is_some() {}
        Ok(ring)
    }

    /// Opens the ring of events for the daemon. It has one reader.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn events(&self) -> Result<Ring, DatapathError> {
        self.ring("EVENTS")
    }

    fn ring(&self, table: &'static str) -> Result<Ring, DatapathError> {
        let ring = MapData::from_pin(Pins(&self.options.directory).map(table)).map(Map::RingBuf);
        ring.and_then(RingBuf::try_from).map(Ring).map_err(|cause| DatapathError::Table { table, cause })
    }

    /// Returns the number of observed frames that were lost and that no record in the ring of
    /// frames has reported yet.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn unshown(&self) -> Result<u64, DatapathError> {
        let watched = self.state().maps.watched.get(&0, 0);
        let watched = watched.map_err(|cause| DatapathError::Table { table: "WATCHED", cause })?;
        Ok(watched.iter().map(|cpu| u64::from(cpu.lost)).sum())
    }

    /// Sets the filter of the frames that the programs send to the ring. The programs keep the
    /// filter when the daemon dies, so each start of the daemon sets it again.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn set_watch(&self, watch: FrameFilter) -> Result<(), DatapathError> {
        let mut state = self.state();
        let maps = &mut state.maps;
        let failed = |table| move |cause| DatapathError::Table { table, cause };
        let before = maps.watch.get(&0, 0).map_err(failed("WATCH"))?;
        if before.mode == 0 && watch.mode != 0 {
            // Frames that earlier observers lost do not count for a new observer.
            let nothing = |cpus| PerCpuValues::try_from(vec![Shown::default(); cpus]);
            let nothing = nr_cpus().map_err(|(_, cause)| cause).and_then(nothing);
            let nothing = nothing.map_err(|cause| failed("WATCHED")(cause.into()))?;
            maps.watched.set(0, nothing, 0).map_err(failed("WATCHED"))?;
        }
        set(&mut maps.watch, "WATCH", 0, watch)
    }
}
