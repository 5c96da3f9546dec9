//! The listeners of multicast groups in the programs' table.

use std::collections::BTreeSet;

use aya::maps::MapError;
use vswitch_common::tables::{ListenerKey, PortNumber};

use super::DatapathError;
use super::load::{Datapath, State};
use super::tables::removed;

impl Datapath {
    /// Returns every listener.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn listeners(&self) -> Result<BTreeSet<ListenerKey>, DatapathError> {
        self.state().listeners()
    }

    /// Makes a port a listener of a group.
    ///
    /// # Errors
    /// Returns the error of the kernel, for instance if the table already has
    /// [`vswitch_common::tables::MAX_LISTENERS`] entries.
    pub fn listen(&self, key: &ListenerKey) -> Result<(), DatapathError> {
        self.state().maps.listeners.insert(key, 1, 0).map_err(failed)
    }

    /// Removes a port from a group. Returns false if the port was no listener.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn unlisten(&self, key: &ListenerKey) -> Result<bool, DatapathError> {
        removed(self.state().maps.listeners.remove(key), "LISTENERS")
    }
}

impl State {
    fn listeners(&self) -> Result<BTreeSet<ListenerKey>, DatapathError> {
        self.maps.listeners.keys().map(|key| key.map_err(failed)).collect()
    }

    /// Removes a port from all groups.
    pub(super) fn stop_listening(&mut self, number: PortNumber) -> Result<(), DatapathError> {
        for key in self.listeners()?.iter().filter(|key| key.port == number) {
            removed(self.maps.listeners.remove(key), "LISTENERS")?;
        }
        Ok(())
    }
}

fn failed(cause: MapError) -> DatapathError {
    DatapathError::Table { table: "LISTENERS", cause }
}
