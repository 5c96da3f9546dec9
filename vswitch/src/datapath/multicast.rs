//! Who listens to which multicast group, as the programs know it.

use std::collections::BTreeSet;

use aya::maps::MapError;
use vswitch_common::tables::{ListenerKey, PortNumber};

use super::DatapathError;
use super::load::{Datapath, State};
use super::tables::removed;

impl Datapath {
    /// Every listener.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn listeners(&self) -> Result<BTreeSet<ListenerKey>, DatapathError> {
        self.state().listeners()
    }

    /// Makes a port a listener of a group.
    ///
    /// # Errors
    /// What the kernel refused: there are [`vswitch_common::tables::MAX_LISTENERS`] already.
    pub fn listen(&self, key: &ListenerKey) -> Result<(), DatapathError> {
        self.state().maps.listeners.insert(key, 1, 0).map_err(failed)
    }

    /// Makes it none any more; false if it was none.
    ///
    /// # Errors
    /// What the kernel refused.
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
