//! The FDB: stations are written by operators, learned by the programs, and aged by the daemon.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd as _;

use aya::maps::{Array, MapData, MapError};
use vswitch_common::tables::{FdbEntry, FdbKey, NetworkNumber, Port, PortNumber, Shares, tick, ticks_to_seconds};

use super::load::{Datapath, State};
use super::ports::PortTable;
use super::tables::{Maps, removed, set};
use super::{DatapathError, batch};

impl Datapath {
    /// Returns every station in the FDB. Reads without the lock, because a large FDB takes long to
    /// read.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn fdb(&self) -> Result<Vec<(FdbKey, FdbEntry)>, DatapathError> {
        batch::entries(self.fdb.fd().as_fd()).map_err(unread)
    }

    /// Returns the highest number of stations that can be learned.
    pub const fn learnable(&self) -> u32 {
        self.options.fdb_size
    }

    /// Returns the FDB entry of a station.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn fdb_entry(&self, key: &FdbKey) -> Result<Option<FdbEntry>, DatapathError> {
        match self.state().maps.fdb.get(key, 0) {
            Ok(entry) => Ok(Some(entry)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(cause) => Err(failed(cause)),
        }
    }

    /// Adds a static entry, which replaces a learned one. The entry is removed with its port.
    ///
    /// # Errors
    /// Returns the error of the kernel, for instance that the FDB is full.
    pub fn fdb_add_static(&self, key: FdbKey, port: PortNumber) -> Result<(), DatapathError> {
        self.state().write_by_hand(key, FdbEntry { port, flags: FdbEntry::STATIC, ..FdbEntry::default() })
    }

    /// Adds a sticky entry, which ages like a learned entry and does not move to another port while
    /// it exists.
    ///
    /// # Errors
    /// Returns the error of the kernel, for instance that the FDB is full.
    pub fn fdb_add_sticky(&self, key: FdbKey, port: PortNumber) -> Result<(), DatapathError> {
        let entry = FdbEntry { port, seen: Self::now(), flags: FdbEntry::STICKY, ..FdbEntry::default() };
        self.state().write_by_hand(key, entry)
    }

    /// Removes an entry, static or learned. Returns false if the entry does not exist.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn fdb_remove(&self, key: &FdbKey) -> Result<bool, DatapathError> {
        self.state().remove_station(key)
    }

    /// Removes the learned entries that `stale` selects, and those of ports that no longer exist.
    /// Returns the number of removed entries.
    ///
    /// # Errors
    /// Returns the error of the kernel.
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

    /// Removes the learned entries from which no frame came for the ageing time of their network, in
    /// seconds, and those of ports that no longer exist. An entry that has become static meanwhile
    /// stays. Returns the number of removed entries.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn age(&self, ageing: impl Fn(NetworkNumber) -> u32) -> Result<usize, DatapathError> {
        self.forget(|key, entry| Self::age_of(entry) >= u64::from(ageing(key.network)))
    }

    /// Returns the current tick on the clock of [`FdbEntry::seen`].
    pub fn now() -> u32 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        now.map_or(0, |now| tick(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64))
    }

    /// Returns the time in seconds since the last frame of a learned station.
    pub fn age_of(entry: &FdbEntry) -> u64 {
        ticks_to_seconds(Self::now().saturating_sub(entry.seen))
    }

    /// Reports whether a station moved too often and is currently held at its port.
    pub fn is_held(entry: &FdbEntry) -> bool {
        entry.is_held(Self::now())
    }
}

impl PortTable {
    /// Reads the stations that were written behind each port from the FDB. A port's own station is
    /// among them, which does no harm because it is removed with the port anyway.
    pub(super) fn read_stations(&mut self, fdb: &MapData) -> Result<(), DatapathError> {
        for (key, entry) in batch::entries::<FdbKey, FdbEntry>(fdb.fd().as_fd()).map_err(unread)? {
            if entry.flags & FdbEntry::REMOTE != 0 {
                self.remotes.entry(entry.port).or_default().insert(key);
            } else if entry.is_static_or_sticky() {
                self.by_hand.entry(entry.port).or_default().insert(key);
            }
        }
        Ok(())
    }
}

impl State {
    /// Removes the stations that `gone` selects. Returns the number of removed stations.
    pub(super) fn forget(&mut self, gone: impl Fn(&FdbKey, &FdbEntry) -> bool) -> Result<usize, DatapathError> {
        let stations = batch::entries(self.fdb.fd().as_fd()).map_err(unread)?;
        let mut count = 0;
        for (key, _) in stations.into_iter().filter(|(key, entry)| gone(key, entry)) {
            count += usize::from(self.remove_if(&key, |entry| gone(&key, entry))?);
        }
        Ok(count)
    }

    /// Removes a station if its present entry still satisfies `goes`.
    fn remove_if(&mut self, key: &FdbKey, goes: impl Fn(&FdbEntry) -> bool) -> Result<bool, DatapathError> {
        match self.maps.fdb.get(key, 0) {
            Ok(entry) if goes(&entry) => self.remove_station(key),
            _ => Ok(false),
        }
    }

    /// Writes a static FDB entry.
    pub(super) fn write_static(&mut self, key: FdbKey, port: PortNumber) -> Result<(), DatapathError> {
        self.write(key, FdbEntry { port, flags: FdbEntry::STATIC, ..FdbEntry::default() })
    }

    /// Writes an entry that does not count as learned, and records it, so that the removal of its
    /// port finds it.
    fn write_by_hand(&mut self, key: FdbKey, entry: FdbEntry) -> Result<(), DatapathError> {
        self.write(key, entry)?;
        self.ports.by_hand.entry(entry.port).or_default().insert(key);
        Ok(())
    }

    /// Removes the stations written by an operator behind a port that is removed.
    pub(super) fn forget_by_hand(&mut self, port: PortNumber) -> Result<(), DatapathError> {
        for station in self.ports.by_hand.remove(&port).unwrap_or_default() {
            self.remove_if(&station, |entry| entry.port == port)?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, key: FdbKey, entry: FdbEntry) -> Result<(), DatapathError> {
        if let Ok(before) = self.maps.fdb.get(&key, 0) {
            self.discount(&key, &before)?;
        }
        // A program that has just read a learned entry may write it back once more. The entry is
        // then written again.
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
            self.discount(key, &before)?;
        }
        Ok(gone)
    }

    /// Counts a removed learned station in FORGOTTEN, for its port and for the whole FDB, and for its
    /// network, because the programs limit the number of learned stations.
    fn discount(&mut self, key: &FdbKey, entry: &FdbEntry) -> Result<(), DatapathError> {
        if entry.is_static_or_sticky() {
            return Ok(());
        }
        let table = "FORGOTTEN";
        for index in [0, entry.port.0] {
            let forgotten =
                self.maps.forgotten.get(&index, 0).map_err(|cause| DatapathError::Table { table, cause })?;
            set(&mut self.maps.forgotten, table, index, forgotten + 1)?;
        }
        self.maps.count(Shares::forgotten(key.network), 1)
    }
}

impl Maps {
    /// Adds to an entry of NETWORK_STATIONS that the programs only read.
    fn count(&mut self, index: u32, stations: u64) -> Result<(), DatapathError> {
        let table = "NETWORK_STATIONS";
        let before = self.network_stations.get(&index, 0).map_err(|cause| DatapathError::Table { table, cause })?;
        set(&mut self.network_stations, table, index, before + stations)
    }

    /// Counts the learned stations of each network, whose programs did not count them. Programs that
    /// count are attached later.
    pub(super) fn count_by_network(&mut self, fdb: &MapData) -> Result<(), DatapathError> {
        let stations = batch::entries::<FdbKey, FdbEntry>(fdb.fd().as_fd()).map_err(unread)?;
        for (key, _) in stations.iter().filter(|(_, entry)| !entry.is_static_or_sticky()) {
            self.count(Shares::learned(key.network), 1)?;
        }
        Ok(())
    }

    /// Divides the stations that can be learned among the networks that learn.
    pub(super) fn set_shares(&mut self, learnable: u64, ports: &PortTable) -> Result<(), DatapathError> {
        let learn = ports.iter().filter(|(_, port)| port.has(Port::LEARN)).map(|(_, port)| port.network);
        let shares = Shares::of(learnable, learn.collect::<BTreeSet<_>>().len() as u64);
        set(&mut self.network_stations, "NETWORK_STATIONS", Shares::SURE, shares.sure)?;
        set(&mut self.network_stations, "NETWORK_STATIONS", Shares::KEPT, shares.kept)
    }
}

impl State {
    /// Divides the stations that can be learned anew, after a port was added or removed.
    pub(super) fn share(&mut self, learnable: u32) -> Result<(), DatapathError> {
        let learnable = u64::from(learnable);
        let failed = |cause| DatapathError::Table { table: "NETWORK_STATIONS", cause };
        let kept = self.maps.network_stations.get(&Shares::KEPT, 0).map_err(failed)?;
        self.maps.set_shares(learnable, &self.ports)?;
        let now = self.maps.network_stations.get(&Shares::KEPT, 0).map_err(failed)?;
        if now > kept { self.make_room(learnable.saturating_sub(now)) } else { Ok(()) }
    }

    /// Removes learned stations until at most `most` are left: those that were silent longest, of the
    /// networks that have more than their share. A network that begins to learn finds its share.
    fn make_room(&mut self, most: u64) -> Result<(), DatapathError> {
        let counted = |array: &Array<MapData, u64>| array.get(&0, 0).unwrap_or(0);
        if counted(&self.maps.learned).saturating_sub(counted(&self.maps.forgotten)) <= most {
            return Ok(());
        }
        let failed = |cause| DatapathError::Table { table: "NETWORK_STATIONS", cause };
        let sure = self.maps.network_stations.get(&Shares::SURE, 0).map_err(failed)?;
        let mut stations = batch::entries::<FdbKey, FdbEntry>(self.fdb.fd().as_fd()).map_err(unread)?;
        stations.retain(|(_, entry)| !entry.is_static_or_sticky());
        stations.sort_by_key(|(_, entry)| entry.seen);
        let mut counts = HashMap::<_, u64>::new();
        stations.iter().for_each(|(key, _)| *counts.entry(key.network).or_default() += 1);
        let mut over = (stations.len() as u64).saturating_sub(most);
        for (key, _) in stations {
            let count = counts.entry(key.network).or_default();
            if over == 0 || *count <= sure {
                continue;
            }
            if self.remove_if(&key, |entry| !entry.is_static_or_sticky())? {
                (*count, over) = (*count - 1, over - 1);
            }
        }
        Ok(())
    }
}

/// Returns the FDB key of a port's own station.
pub(super) fn station(port: &Port) -> FdbKey {
    FdbKey { network: port.network, vlan: port.vlan, mac: port.mac }
}

fn unread(error: io::Error) -> DatapathError {
    failed(MapError::IoError(error))
}

fn failed(cause: MapError) -> DatapathError {
    DatapathError::Table { table: "FDB", cause }
}
