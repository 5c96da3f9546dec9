//! The FDB: where stations are, written by hand, learned by the programs, forgotten by the daemon.

use std::io;
use std::os::fd::AsFd as _;

use aya::maps::{MapData, MapError};
use vswitch_common::tables::{FdbEntry, FdbKey, Port, PortNumber, tick, ticks_to_seconds};

use super::load::{Datapath, State};
use super::ports::PortTable;
use super::tables::{removed, set};
use super::{DatapathError, batch};

impl Datapath {
    /// Every station in the FDB. Nobody waits for it: a large one takes a while to read.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn fdb(&self) -> Result<Vec<(FdbKey, FdbEntry)>, DatapathError> {
        batch::entries(self.fdb.fd().as_fd()).map_err(unread)
    }

    /// How many stations can be learned in all.
    pub const fn learnable(&self) -> u32 {
        self.options.fdb_size
    }

    /// What the FDB has about one station.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn fdb_entry(&self, key: &FdbKey) -> Result<Option<FdbEntry>, DatapathError> {
        match self.state().maps.fdb.get(key, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(cause) => Err(failed(cause)),
        }
    }

    /// Writes a static entry, in place of a learned one if there is one. It goes with its port.
    ///
    /// # Errors
    /// What the kernel refused: the FDB is full.
    pub fn fdb_add_static(&self, key: FdbKey, port: PortNumber) -> Result<(), DatapathError> {
        self.state().write_by_hand(key, FdbEntry { port, flags: FdbEntry::STATIC, ..FdbEntry::default() })
    }

    /// Writes an entry that ages like a learned one, and does not move while it is there.
    ///
    /// # Errors
    /// What the kernel refused: the FDB is full.
    pub fn fdb_add_sticky(&self, key: FdbKey, port: PortNumber) -> Result<(), DatapathError> {
        let entry = FdbEntry { port, seen: Self::now(), flags: FdbEntry::STICKY, ..FdbEntry::default() };
        self.state().write_by_hand(key, entry)
    }

    /// Removes an entry, static or learned; false if there is none.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn fdb_remove(&self, key: &FdbKey) -> Result<bool, DatapathError> {
        self.state().remove_station(key)
    }

    /// Removes learned entries that `stale` names, and those of ports that are gone; returns how many.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn forget(&self, stale: impl Fn(&FdbKey, &FdbEntry) -> bool) -> Result<usize, DatapathError> {
        let stations = self.fdb()?;
        let mut state = self.state();
        let ports: Vec<PortNumber> = state.ports.iter().map(|(number, _)| number).collect();
        let gone = |entry: &FdbEntry| ports.binary_search(&entry.port).is_err();
        let mut count = 0;
        for (key, entry) in stations {
            if !entry.is_static() && (gone(&entry) || stale(&key, &entry)) {
                count += usize::from(
                    state.remove_if(&key, |entry| !entry.is_static() && (gone(entry) || stale(&key, entry)))?,
                );
            }
        }
        Ok(count)
    }

    /// Removes learned entries not heard for `ageing` seconds, and those of ports that are gone; returns how many.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn age(&self, ageing: u32) -> Result<usize, DatapathError> {
        self.forget(|_, entry| Self::age_of(entry) >= u64::from(ageing))
    }

    /// The time on the clock of [`FdbEntry::seen`].
    pub fn now() -> u32 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        now.map_or(0, |now| tick(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64))
    }

    /// How long ago a learned station was last heard, in seconds.
    pub fn age_of(entry: &FdbEntry) -> u64 {
        ticks_to_seconds(Self::now().saturating_sub(entry.seen))
    }

    /// Whether a station moved too often and is held where it is at the moment.
    pub fn is_held(entry: &FdbEntry) -> bool {
        entry.is_held(Self::now())
    }
}

impl PortTable {
    /// Reads back which stations were written behind ports; a port's own, which goes with it anyway, is among them.
    pub(super) fn read_stations(&mut self, fdb: &MapData) -> Result<(), DatapathError> {
        for (key, entry) in batch::entries::<FdbKey, FdbEntry>(fdb.fd().as_fd()).map_err(unread)? {
            if entry.flags & FdbEntry::REMOTE != 0 {
                self.remotes.entry(entry.port).or_default().insert(key);
            } else if entry.is_fixed() {
                self.by_hand.entry(entry.port).or_default().insert(key);
            }
        }
        Ok(())
    }
}

impl State {
    /// Removes the stations that `gone` names; returns how many.
    pub(super) fn forget(&mut self, gone: impl Fn(&FdbKey, &FdbEntry) -> bool) -> Result<usize, DatapathError> {
        let stations = batch::entries(self.fdb.fd().as_fd()).map_err(unread)?;
        let mut count = 0;
        for (key, _) in stations.into_iter().filter(|(key, entry)| gone(key, entry)) {
            count += usize::from(self.remove_if(&key, |entry| gone(&key, entry))?);
        }
        Ok(count)
    }

    /// Removes a station if it still is what is to go.
    fn remove_if(&mut self, key: &FdbKey, goes: impl Fn(&FdbEntry) -> bool) -> Result<bool, DatapathError> {
        match self.maps.fdb.get(key, 0) {
            Ok(entry) if goes(&entry) => self.remove_station(key),
            _ => Ok(false),
        }
    }

    /// Writes a static FDB entry.
    pub(super) fn fix(&mut self, key: FdbKey, port: PortNumber) -> Result<(), DatapathError> {
        self.write(key, FdbEntry { port, flags: FdbEntry::STATIC, ..FdbEntry::default() })
    }

    /// Writes an entry that is not counted as learned, and notes it: a port that goes has to find it.
    fn write_by_hand(&mut self, key: FdbKey, entry: FdbEntry) -> Result<(), DatapathError> {
        self.write(key, entry)?;
        self.ports.by_hand.entry(entry.port).or_default().insert(key);
        Ok(())
    }

    /// Forgets what was written behind a port that goes.
    pub(super) fn forget_by_hand(&mut self, port: PortNumber) -> Result<(), DatapathError> {
        for station in self.ports.by_hand.remove(&port).unwrap_or_default() {
            self.remove_if(&station, |entry| entry.port == port)?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, key: FdbKey, entry: FdbEntry) -> Result<(), DatapathError> {
        if let Ok(before) = self.maps.fdb.get(&key, 0) {
            self.discount(&before)?;
        }
        // A program that has just looked at a learned entry may write it back once more; then ours is written again.
        loop {
            self.maps.fdb.insert(key, entry, 0).map_err(failed)?;
            let written = self.maps.fdb.get(&key, 0).map_err(failed)?;
            if (written.port, written.flags) == (entry.port, entry.flags) {
                return Ok(());
            }
        }
    }

    fn remove_station(&mut self, key: &FdbKey) -> Result<bool, DatapathError> {
        let before = self.maps.fdb.get(key, 0);
        let gone = removed(self.maps.fdb.remove(key), "FDB")?;
        if let (true, Ok(before)) = (gone, before) {
            if let Some(written) = self.ports.by_hand.get_mut(&before.port) {
                written.remove(key);
            }
            self.discount(&before)?;
        }
        Ok(gone)
    }

    /// Counts a station that is learned no longer out, of its port and of all: the programs learn as many as may be.
    fn discount(&mut self, entry: &FdbEntry) -> Result<(), DatapathError> {
        if entry.is_fixed() {
            return Ok(());
        }
        let table = "FORGOTTEN";
        for index in [0, entry.port.0] {
            let forgotten =
                self.maps.forgotten.get(&index, 0).map_err(|cause| DatapathError::Table { table, cause })?;
            set(&mut self.maps.forgotten, table, index, forgotten + 1)?;
        }
        Ok(())
    }
}

/// The key of a port's own station.
pub(super) fn station(port: &Port) -> FdbKey {
    FdbKey { network: port.network, vlan: port.vlan, mac: port.mac }
}

fn unread(error: io::Error) -> DatapathError {
    failed(MapError::IoError(error))
}

fn failed(cause: MapError) -> DatapathError {
    DatapathError::Table { table: "FDB", cause }
}
