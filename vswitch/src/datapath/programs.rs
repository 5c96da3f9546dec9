//! The eBPF programs of an instance: loaded when a port first needs them, pinned, and reused by the
//! next daemon.
//!
//! A program is pinned below `programs/GENERATION/` in the instance's bpffs. The generation
//! identifies the object that the program comes from and the maps that the program uses. A pin
//! found in the directory of the current generation was verified before and can be attached without
//! loading. Pins of other generations belong to an earlier version, or to maps that were replaced
//! since.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use aya::Ebpf;
use aya::maps::{Map, MapData, MapInfo, ProgramArray};
use aya::programs::{Program, ProgramError, SchedClassifier, Xdp as XdpProgram};
use aya_obj::programs::XdpAttachType;
use sha2::{Digest as _, Sha256};
use vswitch_common::map_layout;
use vswitch_common::tail_call::TailCall;

use super::DatapathError;
use super::hooks::Hook;
use super::load::{OBJECT, Pins, load, pin_error, remove_pin};
use super::log::{self, Logs};

/// The map of the programs that are tail-called.
pub(super) const TAIL_CALLS: &str = map_layout::TAIL_CALLS.name;

/// The programs in use, held by the descriptors of their pins. The parsed object, some megabytes of
/// instructions and types, is dropped after each load.
pub(super) struct Programs {
    /// The instance's bpffs.
    pub(super) root: PathBuf,
    /// The directory in which this generation is pinned.
    pub(super) directory: PathBuf,
    pub(super) fdb_entries: u32,
    pub(super) published_mark: u32,
    classifiers: BTreeMap<Hook, SchedClassifier>,
    xdp: BTreeMap<Hook, XdpProgram>,
    tail_calls: ProgramArray<MapData>,
    /// The logs of the programs that this daemon loaded.
    pub(super) logs: Logs,
}

impl Programs {
    /// Opens the directory of this object's programs for the pinned maps, and creates it if needed.
    /// Loads no program.
    pub(super) fn open(pins: &Pins<'_>, fdb_entries: u32, published_mark: u32) -> Result<Self, DatapathError> {
        let root = pins.0.to_owned();
        let path = pins.map("PORTS");
        let maps = MapInfo::from_pin(&path).map_err(|error| DatapathError::Pin { path, message: error.to_string() })?;
        let directory = pins.programs().join(generation(*log::level(), published_mark, maps.id()));
        if log::is_on() {
            // The log of a program that an earlier daemon loaded cannot be read, so such programs
            // are loaded again.
            remove_tree(&directory)?;
        }
        fs::create_dir_all(&directory).map_err(|error| pin_error(&directory, &error))?;
        let path = pins.map(TAIL_CALLS);
        let tail_calls = MapData::from_pin(&path)
            .and_then(|map| ProgramArray::try_from(Map::ProgramArray(map)))
            .map_err(|error| DatapathError::Pin { path, message: error.to_string() })?;
        Ok(Self {
            root,
            directory,
            fdb_entries,
            published_mark,
            classifiers: BTreeMap::new(),
            xdp: BTreeMap::new(),
            tail_calls,
            logs: Logs::default(),
        })
    }

    /// Returns the classifier of a hook, after loading it if necessary.
    pub(super) fn classifier(&mut self, hook: Hook) -> Result<&mut SchedClassifier, DatapathError> {
        self.ensure(&[hook])?;
        match self.classifiers.get_mut(&hook) {
            Some(program) => Ok(program),
            None => unreachable!("{} is a classifier", hook.program()),
        }
    }

    /// Returns the XDP program of a hook, after loading it if necessary.
    pub(super) fn xdp(&mut self, hook: Hook) -> Result<&mut XdpProgram, DatapathError> {
        self.ensure(&[hook])?;
        match self.xdp.get_mut(&hook) {
            Some(program) => Ok(program),
            None => unreachable!("{} is an XDP program", hook.program()),
        }
    }

    /// Returns the path at which a hook's program is pinned.
    pub(super) fn pin(&self, hook: Hook) -> PathBuf {
        self.directory.join(hook.program())
    }

    /// Loads the programs of these hooks and the programs that they tail-call, unless they are
    /// loaded already.
    ///
    /// # Errors
    /// Fails if the kernel refuses a program or a pin cannot be made. Programs that ran before then
    /// continue unchanged.
    pub(super) fn ensure(&mut self, hooks: &[Hook]) -> Result<(), DatapathError> {
        let open = |hook: &Hook| self.classifiers.contains_key(hook) || self.xdp.contains_key(hook);
        let wanted: Vec<Hook> = hooks.iter().copied().filter(|hook| !open(hook)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut missing: Vec<&'static str> = names(&wanted);
        missing.retain(|name| !self.directory.join(name).exists());
        if !missing.is_empty() {
            self.load(&missing)?;
        }
        for hook in wanted {
            let path = self.pin(hook);
            let failed = |error: ProgramError| DatapathError::Pin { path: path.clone(), message: error.to_string() };
            if hook.is_xdp() {
                let program = XdpProgram::from_pin(&path, XdpAttachType::Interface).map_err(failed)?;
                self.xdp.insert(hook, program);
            } else {
                self.classifiers.insert(hook, SchedClassifier::from_pin(&path).map_err(failed)?);
            }
        }
        Ok(())
    }

    fn load(&mut self, names: &[&'static str]) -> Result<(), DatapathError> {
        let mut ebpf = load(&Pins(&self.root), self.fdb_entries, self.published_mark, None)?;
        load_programs(&mut ebpf, names)?;
        // The tail-call table is filled before the calling programs are attached. From here on, the
        // programs of an earlier daemon call the new ones.
        set_tail_calls(&ebpf, names, &mut self.tail_calls)?;
        for name in names {
            let path = self.directory.join(name);
            let pinned = match ebpf.program_mut(name) {
                Some(program) => program.pin(&path),
                None => unreachable!("the object has a program {name}"),
            };
            pinned.map_err(|error| DatapathError::Pin { path, message: error.to_string() })?;
        }
        self.logs.add(&mut ebpf);
        Ok(())
    }

    /// Removes the pins of other generations, whose programs no longer run.
    pub(super) fn forget_others(&self) -> Result<(), DatapathError> {
        let directory = Pins(&self.root).programs();
        let found = fs::read_dir(&directory).map_err(|error| pin_error(&directory, &error))?;
        for entry in found.flatten().map(|entry| entry.path()).filter(|path| *path != self.directory) {
            // Versions up to 0.1 pinned their programs directly in this directory.
            if entry.is_dir() { remove_tree(&entry)? } else { remove_pin(&entry)? }
        }
        Ok(())
    }
}

/// Returns the name of the generation: a hash of this object, the log level, the mark of published
/// ports and the id of the map PORTS. The id of one map identifies all maps, because all are replaced together and the kernel
/// gives each map an id of its own.
fn generation(log_level: u8, published_mark: u32, ports: u32) -> String {
    let digest = Sha256::new()
        .chain_update(OBJECT)
        .chain_update([log_level])
        .chain_update(published_mark.to_le_bytes())
        .chain_update(ports.to_le_bytes());
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the names of the programs of these hooks and of the programs that they tail-call, each
/// once. The programs that take the verifier longest come first.
fn names(hooks: &[Hook]) -> Vec<&'static str> {
    let called = |call: &TailCall| hooks.iter().any(|hook| hook.tail_calls().contains(call));
    let called = TailCall::ALL.into_iter().filter(called).map(TailCall::program);
    called.chain(hooks.iter().map(|hook| hook.program())).collect()
}

/// Loads programs into the kernel, in parallel on all CPUs. Decision 14 lists the instructions that
/// the verifier visits for each.
fn load_programs(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<(), DatapathError> {
    let mut found: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let waiting: VecDeque<_> = names.iter().map(|name| (*name, found.remove(name))).collect();
    let waiting = Mutex::new(waiting);
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((program, to_load)) = next else { return Ok(()) };
            let loaded = match to_load {
                Some(Program::SchedClassifier(classifier)) => classifier.load(),
                Some(Program::Xdp(xdp)) => xdp.load(),
                _ => unreachable!("the object has a program {program}"),
            };
            if let Err(cause) = loaded {
                waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
                return Err(DatapathError::Program { program, cause });
            }
        }
    };
    thread::scope(|scope| {
        let others = thread::available_parallelism().map_or(1, NonZero::get).min(names.len()) - 1;
        let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let own = work();
        let ended = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.fold(own, Result::and)
    })
}

/// Puts the tail-called programs among `names` into the tail-call table, which then holds a
/// reference to each.
fn set_tail_calls(ebpf: &Ebpf, names: &[&str], table: &mut ProgramArray<MapData>) -> Result<(), DatapathError> {
    for call in TailCall::ALL.into_iter().filter(|call| names.contains(&call.program())) {
        let program = call.program();
        let Some(Program::SchedClassifier(loaded)) = ebpf.program(program) else {
            unreachable!("the object has a program {program}")
        };
        let loaded = loaded.fd().map_err(|cause| DatapathError::Program { program, cause })?;
        let set = table.set(call as u32, loaded, 0);
        set.map_err(|cause| DatapathError::Table { table: TAIL_CALLS, cause })?;
    }
    Ok(())
}

/// Loads a hook's programs from a separate object with a separate tail-call table, unless they are
/// loaded already.
pub(super) fn load_apart(
    ebpf: &mut Ebpf,
    hook: Hook,
    tail_calls: &mut ProgramArray<MapData>,
) -> Result<(), DatapathError> {
    let is_loaded = |name: &str| match ebpf.program(name) {
        Some(Program::SchedClassifier(program)) => program.fd().is_ok(),
        Some(Program::Xdp(program)) => program.fd().is_ok(),
        _ => false,
    };
    let missing: Vec<&'static str> = names(&[hook]).into_iter().filter(|name| !is_loaded(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    load_programs(ebpf, &missing)?;
    set_tail_calls(ebpf, &missing, tail_calls)
}

fn remove_tree(directory: &Path) -> Result<(), DatapathError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(pin_error(directory, &error)),
        _ => Ok(()),
    }
}
