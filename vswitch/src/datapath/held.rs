//! Held host ports: the programs at bind(2), and their tables.
//!
//! The programs are attached to the root of the control groups by pinned links, and run for the
//! binds of all processes. They look at the ports of one network namespace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use aya::maps::{Array, HashMap, MapData, MapError};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, CgroupSockAddrAttachType, Program};
use aya::sys::SyscallError;
use vswitch_common::held::HeldKey;

use super::batch;
use super::load::{Pins, load, pin_error, remove_pin};
use super::programs::Programs;
use super::tables::{open, removed, set};
use super::{Datapath, DatapathError};

/// The programs at bind(2), by the names in the object.
const PROGRAMS: [(&str, CgroupSockAddrAttachType); 2] =
    [("hold_ipv4", CgroupSockAddrAttachType::Bind4), ("hold_ipv6", CgroupSockAddrAttachType::Bind6)];

/// The tables of held ports.
pub(super) struct HeldMaps {
    words: Array<MapData, u64>,
    at: HashMap<MapData, HeldKey, u32>,
    namespace: Array<MapData, u64>,
}

impl HeldMaps {
    /// Opens the pinned maps.
    pub(super) fn open(pins: &Pins<'_>) -> Result<Self, DatapathError> {
        Ok(Self { words: open(pins, "HELD")?, at: open(pins, "HELD_AT")?, namespace: open(pins, "HELD_IN")? })
    }
}

impl Datapath {
    /// Attaches the programs at bind(2) to the root of the control groups at `cgroup`. They refuse
    /// binds in the network namespace with this cookie. Programs of an earlier daemon are replaced:
    /// at every moment at least one of both runs.
    ///
    /// # Errors
    /// The kernel refuses a program, or another program has reserved the control group for itself.
    pub fn hold_binds(&self, cgroup: &Path, namespace: u64) -> Result<(), DatapathError> {
        set(&mut self.held().namespace, "HELD_IN", 0, namespace)?;
        let programs = self.load_bind_programs()?;
        let pins = Pins(&self.options.directory);
        let root =
            File::open(cgroup).map_err(|source| DatapathError::OpenCgroup { path: cgroup.to_owned(), source })?;
        for (name, mut program) in programs {
            let failed = |cause| DatapathError::AttachToCgroup {
                program: name,
                path: cgroup.to_owned(),
                cause: Box::new(cause),
            };
            let pin = pins.links().join(name);
            let info = program.info().map_err(failed)?;
            if attached(&pin).is_some_and(|attached| attached == info.id()) {
                continue;
            }
            // Links always permit other programs beside theirs; the kernel refuses the flag.
            let id = program.attach(&root, CgroupAttachMode::Single).map_err(failed)?;
            let link = FdLink::try_from(program.take_link(id).map_err(failed)?);
            let link = link.map_err(|error| DatapathError::Pin { path: pin.clone(), message: error.to_string() })?;
            // The link of an earlier program stays until the new one has its name.
            let beside = pins.links().join(format!("{name}_new"));
            remove_pin(&beside)?;
            link.pin(&beside)
                .map_err(|error| DatapathError::Pin { path: beside.clone(), message: error.to_string() })?;
            fs::rename(&beside, &pin).map_err(|error| pin_error(&pin, &error))?;
        }
        Ok(())
    }

    /// Reports whether programs at bind(2) are attached, those of an earlier daemon included.
    pub fn holds_binds(&self) -> bool {
        let links = Pins(&self.options.directory).links();
        PROGRAMS.iter().any(|(name, _)| links.join(name).exists())
    }

    /// Loads the programs at bind(2), or opens them if they are loaded.
    pub(super) fn load_bind_programs(&self) -> Result<Vec<(&'static str, CgroupSockAddr)>, DatapathError> {
        let mut programs = self.programs();
        let Programs { root, directory, fdb_entries, published_mark, .. } = &*programs;
        if PROGRAMS.iter().any(|(name, _)| !directory.join(name).exists()) {
            let mut ebpf = load(&Pins(root), *fdb_entries, *published_mark, None)?;
            for (name, _) in PROGRAMS {
                let path = directory.join(name);
                remove_pin(&path)?;
                let Some(Program::CgroupSockAddr(program)) = ebpf.program_mut(name) else {
                    unreachable!("the object has a program {name}")
                };
                program.load().map_err(|cause| DatapathError::Program { program: name, cause })?;
                program.pin(&path).map_err(|error| DatapathError::Pin { path, message: error.to_string() })?;
            }
            programs.logs.add(&mut ebpf);
        }
        let open = |(name, kind)| {
            let path = programs.directory.join(name);
            let program = CgroupSockAddr::from_pin(&path, kind);
            let program = program.map_err(|error| DatapathError::Pin { path, message: error.to_string() })?;
            Ok((name, program))
        };
        PROGRAMS.into_iter().map(open).collect()
    }

    /// Returns the words of the first table, by index.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn held_words(&self) -> Result<Vec<u64>, DatapathError> {
        let mut words: Vec<(u32, u64)> = self.read_whole("HELD")?;
        words.sort_unstable();
        Ok(words.into_iter().map(|(_, word)| word).collect())
    }

    /// Returns the entries of the second table.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn held_at(&self) -> Result<BTreeMap<HeldKey, u32>, DatapathError> {
        Ok(self.read_whole("HELD_AT")?.into_iter().collect())
    }

    fn read_whole<K: aya::Pod, V: aya::Pod>(&self, table: &'static str) -> Result<Vec<(K, V)>, DatapathError> {
        let map = Pins(&self.options.directory).open_map(table)?;
        batch::entries(map.fd().as_fd()).map_err(|io_error| {
            let cause = MapError::SyscallError(SyscallError { call: "bpf_map_lookup_batch", io_error });
            DatapathError::Table { table, cause }
        })
    }

    /// Writes a word of the first table.
    ///
    /// # Errors
    /// The kernel refuses the change.
    pub fn set_held_word(&self, index: u32, word: u64) -> Result<(), DatapathError> {
        set(&mut self.held().words, "HELD", index, word)
    }

    /// Writes an entry of the second table, or removes it.
    ///
    /// # Errors
    /// The table is full.
    pub fn set_held_at(&self, key: HeldKey, entry: Option<u32>) -> Result<(), DatapathError> {
        let mut held = self.held();
        match entry {
            Some(entry) => {
                held.at.insert(key, entry, 0).map_err(|cause| DatapathError::Table { table: "HELD_AT", cause })
            }
            None => removed(held.at.remove(&key), "HELD_AT").map(drop),
        }
    }

    fn held(&self) -> MutexGuard<'_, HeldMaps> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the id of the program that a pinned link has attached. Returns `None` if there is no such
/// link, or if its control group is gone.
fn attached(pin: &Path) -> Option<u32> {
    let link = FdLink::from(aya::programs::links::PinnedLink::from_pin(pin).ok()?);
    Some(link.info().ok()?.program_id())
}
