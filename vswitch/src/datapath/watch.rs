//! The rings by which the programs tell the daemon of frames and events.

use std::fmt;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Map, MapData, PerCpuValues, RingBuf};
use aya::util::nr_cpus;
use vswitch_common::watch::{Event, Watch, Watched};

use super::DatapathError;
use super::load::{Datapath, Pins};
use super::tables::set;

/// A ring. It is readable (poll, epoll) when there is a record.
pub struct Ring(RingBuf<MapData>);

/// The records that are there: the head of each, and the bytes of its frame. There may be more after the last one.
impl Iterator for Ring {
    type Item = (Event, Vec<u8>);

    fn next(&mut self) -> Option<(Event, Vec<u8>)> {
        let record = self.0.next()?;
        let (head, bytes) = record.split_at_checked(size_of::<Event>())?;
        // SAFETY: an Event's bytes, at no particular address; any bit pattern is valid.
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
    /// The ring of frames that are watched, from here on. It is large: whoever has read enough drops it.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn frames(&self) -> Result<Ring, DatapathError> {
        let mut ring = self.ring("FRAMES")?;
        // What the last one who read it has not waited for.
        while ring.0.next().is_some() {}
        Ok(ring)
    }

    /// The ring of what the daemon has to know. There is one reader of it.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn events(&self) -> Result<Ring, DatapathError> {
        self.ring("EVENTS")
    }

    fn ring(&self, table: &'static str) -> Result<Ring, DatapathError> {
        let ring = MapData::from_pin(Pins(&self.options.directory).map(table)).map(Map::RingBuf);
        ring.and_then(RingBuf::try_from).map(Ring).map_err(|cause| DatapathError::Table { table, cause })
    }

    /// Frames that were not shown and that no record in the ring of frames has told of yet.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn unshown(&self) -> Result<u64, DatapathError> {
        let watched = self.state().maps.watched.get(&0, 0);
        let watched = watched.map_err(|cause| DatapathError::Table { table: "WATCHED", cause })?;
        Ok(watched.iter().map(|cpu| u64::from(cpu.lost)).sum())
    }

    /// Says what is to be shown of frames from now on. The programs go on showing it when the daemon dies, to nobody:
    /// each start sets it anew.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_watch(&self, watch: Watch) -> Result<(), DatapathError> {
        let mut state = self.state();
        let maps = &mut state.maps;
        let failed = |table| move |cause| DatapathError::Table { table, cause };
        let before = maps.watch.get(&0, 0).map_err(failed("WATCH"))?;
        if before.mode == 0 && watch.mode != 0 {
            // What was not shown to those who watched before is nothing to whoever comes now.
            let nothing = |cpus| PerCpuValues::try_from(vec![Watched::default(); cpus]);
            let nothing = nr_cpus().map_err(|(_, cause)| cause).and_then(nothing);
            let nothing = nothing.map_err(|cause| failed("WATCHED")(cause.into()))?;
            maps.watched.set(0, nothing, 0).map_err(failed("WATCHED"))?;
        }
        set(&mut maps.watch, "WATCH", 0, watch)
    }
}
