//! Loading and pinning: a fresh start, or the takeover of what an earlier daemon left running.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::io;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use aya::maps::{Array, Map, MapData, MapInfo, ProgramArray};
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use vswitch_common::carrier::Carrier;
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, ListenerKey, MAX_LISTENERS, MAX_NEIGHBORS, MAX_OWNED, MAX_PORTS, MAX_REMOTES, MAX_SUBNETS,
    MAX_TRUNK_VLANS, MAX_TUNNELS, MAX_UNDERLAY, NEAR_DEVICES, Neighbor, NeighborKey, Network, OwnKey, Port,
    PortCounters, StormWindow, Subnet, TunnelEnd, Way,
};
use vswitch_common::watch::{Watch, Watched};

use super::hooks::{self, Hook, TcHook};
use super::log::{self, Logger};
use super::ports::PortTable;
use super::programs::Programs;
use super::tables::{Maps, set};
use super::{DatapathError, Options};

/// The eBPF object that build.rs made.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vswitch-ebpf"));

/// The pinned maps with the sizes of their keys and values in bytes, and their entries (0: as many as the FDB has): the
/// layout that a takeover relies on.
const MAPS: [(&str, usize, usize, u32); 23] = [
    ("DEVICES", 4, 4, NEAR_DEVICES),
    ("FAR_DEVICES", 4, 4, MAX_PORTS),
    ("PORTS", 4, size_of::<Port>(), MAX_PORTS),
    ("NETWORKS", 4, size_of::<Network>(), MAX_PORTS),
    ("FDB", size_of::<FdbKey>(), size_of::<FdbEntry>(), 0),
    ("COUNTERS", 4, size_of::<PortCounters>(), MAX_PORTS),
    ("SUBNETS", size_of::<u32>() + size_of::<Address>(), size_of::<Subnet>(), MAX_SUBNETS),
    ("LEARNED", 4, 8, MAX_PORTS),
    ("FORGOTTEN", 4, 8, MAX_PORTS),
    ("LEARNABLE", 4, 8, 1),
    ("NEIGHBORS", size_of::<NeighborKey>(), size_of::<Neighbor>(), MAX_NEIGHBORS),
    ("OWNED", size_of::<OwnKey>(), 4, MAX_OWNED),
    ("TRUNKS", 4, 4, MAX_TRUNK_VLANS),
    ("LISTENERS", size_of::<ListenerKey>(), 4, MAX_LISTENERS),
    ("TUNNELS", size_of::<TunnelKey>(), 4, MAX_TUNNELS),
    ("UNDERLAY", size_of::<Address>(), size_of::<TunnelEnd>(), MAX_UNDERLAY),
    ("WAYS", 4, size_of::<Way>(), MAX_PORTS),
    ("STORMS", 4, size_of::<StormWindow>(), StormWindow::ENTRIES),
    (CARRIERS, 4, 4, Carrier::ALL.len() as u32),
    ("WATCH", 4, size_of::<Watch>(), 1),
    ("WATCHED", 4, size_of::<Watched>(), 1),
    ("FRAMES", 0, 0, FRAMES_RING),
    ("EVENTS", 0, 0, EVENTS_RING),
];

/// The programs that the others call by their tails.
const CARRIERS: &str = "CARRIERS";

/// Bytes of the ring of frames that are watched, as the object has it.
const FRAMES_RING: u32 = 4 << 20;
/// Bytes of the ring of what the daemon has to know.
const EVENTS_RING: u32 = 256 << 10;

/// Entries of the FDB that are never learned: static ones find room however many stations there are.
const STATIC_ROOM: u32 = 4 * MAX_PORTS;

/// The switch in the kernel. All methods may be called from any thread; each is a few bpf(2) calls.
pub struct Datapath {
    pub(super) options: Options,
    pub(super) tc: TcHook,
    pub(super) taken_over: bool,
    /// The FDB once more, to be read without the lock.
    pub(super) fdb: MapData,
    pub(super) state: Mutex<State>,
}

/// What the methods share.
pub(super) struct State {
    pub(super) programs: Programs,
    pub(super) logger: Option<Logger>,
    /// The FDB once more, to be read as a whole.
    pub(super) fdb: MapData,
    pub(super) maps: Maps,
    pub(super) ports: PortTable,
    /// The devices that lead to peers, with our program on them.
    pub(super) underlay: BTreeSet<u32>,
    /// The device behind which TCP of tunnels is gathered, with our program on it.
    pub(super) receiver: Option<u32>,
}

/// Where things are pinned in the instance's bpffs.
#[derive(Debug)]
pub(super) struct Pins<'a>(pub(super) &'a Path);

impl Pins<'_> {
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.0.join("maps").join(name)
    }

    pub(super) fn program(&self, hook: Hook) -> PathBuf {
        self.0.join("programs").join(hook.program())
    }

    pub(super) fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    pub(super) fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", hook.program()))
    }
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath").field("options", &self.options).field("tc", &self.tc).finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs. Where an earlier daemon of this instance has left its maps and links pinned, the new
    /// programs take the place of the old ones in the same links, on the same maps: no frame is lost. Maps of another
    /// layout (another version's) are replaced by empty ones; adding the ports and setting the networks again fills
    /// them.
    ///
    /// # Errors
    /// [`DatapathError::Load`], [`DatapathError::Program`] or [`DatapathError::Pin`]; then nothing has changed, unless
    /// replacing the programs of existing links failed half-way, in which case the rest keep the old programs.
    pub fn open(options: Options) -> Result<Self, DatapathError> {
        let pins = Pins(&options.directory);
        for directory in ["maps", "programs", "links"] {
            let path = options.directory.join(directory);
            fs::create_dir_all(&path).map_err(|error| pin_error(&path, &error))?;
        }
        let taken_over = keep_matching_maps(&pins, options.fdb_entries())?;
        let mut ebpf = load(&pins, options.fdb_entries(), None)?;
        for hook in Hook::ALL {
            pin_program(&mut ebpf, hook, &pins)?;
        }
        let tc = TcHook::of_this_kernel();
        let mut maps = Maps::take(&mut ebpf)?;
        // Before the programs that call it: an older daemon's call the new one from now on, as they would their own.
        set_carriers(&ebpf, &mut maps.carriers)?;
        set(&mut maps.learnable, "LEARNABLE", 0, u64::from(options.fdb_size))?;
        let mut ports = PortTable::read(&maps)?;
        let fdb = || {
            let path = pins.map("FDB");
            MapData::from_pin(&path).map_err(|error| DatapathError::Pin { path, message: error.to_string() })
        };
        ports.read_stations(&fdb()?)?;
        let mut programs = Programs::pinned(&pins)?;
        hooks::replace_programs(&mut programs, tc, &pins, &ports)?;
        let underlay = hooks::replace_on_underlay(&mut programs, &pins)?;
        let logger = log::of(&mut ebpf);
        let state = State { programs, logger, fdb: fdb()?, maps, ports, underlay, receiver: None };
        let state = Mutex::new(state);
        Ok(Self { tc, taken_over, fdb: fdb()?, state, options })
    }

    /// Room in the FDB of an earlier daemon, in learned stations, where one has left its maps pinned.
    pub fn fdb_size(directory: &Path) -> Option<u32> {
        let learnable = MapData::from_pin(Pins(directory).map("LEARNABLE")).ok()?;
        let learnable: Array<MapData, u64> = Map::Array(learnable).try_into().ok()?;
        u32::try_from(learnable.get(&0, 0).ok()?).ok()
    }

    /// Whether an earlier daemon that has left its maps pinned was in a cluster.
    pub fn was_in_cluster(directory: &Path) -> bool {
        let entries = MapInfo::from_pin(Pins(directory).map("FDB")).map(|info| info.max_entries());
        let learnable = Self::fdb_size(directory);
        matches!((entries, learnable), (Ok(entries), Some(learnable)) if entries > learnable + STATIC_ROOM)
    }

    /// Whether ports of an earlier daemon were found running.
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }
}

impl Options {
    /// Room in the FDB in all.
    pub(super) const fn fdb_entries(&self) -> u32 {
        self.fdb_size + STATIC_ROOM + if self.cluster { MAX_REMOTES } else { 0 }
    }
}

/// Loads the object on the pinned maps, and the programs into the kernel. With `traced`, a copy that only records.
pub(super) fn load(pins: &Pins<'_>, fdb_entries: u32, traced: Option<&u32>) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    // Our programs look at packets and maps alone: nothing in them is relocated against the kernel's own types.
    loader.btf(None).verifier_log_level(VerifierLogLevel::STATS).map_max_entries("FDB", fdb_entries);
    for (name, ..) in MAPS {
        // The copy that only records calls its own: the others would carry out what they decide.
        if traced.is_none() || name != CARRIERS {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    if let Some(traced) = traced {
        loader.override_global("TRACED", traced, true);
    }
    loader.override_global("AYA_LOG_LEVEL", log::level(), false);
    let mut ebpf = loader.load(OBJECT).map_err(DatapathError::Load)?;
    load_programs(&mut ebpf)?;
    Ok(ebpf)
}

/// Loads all programs, on all CPUs: the verifier needs seconds for them (decision 14), and goes through each by itself.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let mut found: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
    // The longest first: it is a carrier.
    let names = Carrier::ALL.map(Carrier::program).into_iter().chain(Hook::ALL.map(Hook::program));
    let waiting: VecDeque<_> = names.map(|name| (name, found.remove(name))).collect();
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
        let others = thread::available_parallelism().map_or(1, NonZero::get) - 1;
        let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let own = work();
        let ended = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.fold(own, Result::and)
    })
}

/// Leaves pinned maps where they are if all have this version's layout, and says so; removes them otherwise.
fn keep_matching_maps(pins: &Pins<'_>, fdb_entries: u32) -> Result<bool, DatapathError> {
    let fits = |&(name, key, value, entries): &(&str, usize, usize, u32)| {
        let Ok(info) = MapInfo::from_pin(pins.map(name)) else { return false };
        let entries = if entries == 0 { fdb_entries } else { entries };
        (info.key_size(), info.value_size(), info.max_entries()) == (key as u32, value as u32, entries)
    };
    if MAPS.iter().all(fits) {
        return Ok(true);
    }
    for (name, ..) in MAPS {
        remove_pin(&pins.map(name))?;
    }
    Ok(false)
}

/// Puts the programs in place that the others call. The pinned map keeps them when we go.
pub(super) fn set_carriers(ebpf: &Ebpf, carriers: &mut ProgramArray<MapData>) -> Result<(), DatapathError> {
    for carrier in Carrier::ALL {
        let program = carrier.program();
        let Some(Program::SchedClassifier(loaded)) = ebpf.program(program) else {
            unreachable!("the object has a program {program}")
        };
        let loaded = loaded.fd().map_err(|cause| DatapathError::Program { program, cause })?;
        let set = carriers.set(carrier as u32, loaded, 0);
        set.map_err(|cause| DatapathError::Table { table: CARRIERS, cause })?;
    }
    Ok(())
}

fn pin_program(ebpf: &mut Ebpf, hook: Hook, pins: &Pins<'_>) -> Result<(), DatapathError> {
    let path = pins.program(hook);
    remove_pin(&path)?;
    let pinned = match ebpf.program_mut(hook.program()) {
        Some(program) => program.pin(&path),
        None => unreachable!("loaded above"),
    };
    pinned.map_err(|error| DatapathError::Pin { path, message: error.to_string() })
}

/// Removes a pin, if it is there.
pub(super) fn remove_pin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(pin_error(path, &error)),
        _ => Ok(()),
    }
}

pub(super) fn pin_error(path: &Path, error: &io::Error) -> DatapathError {
    DatapathError::Pin { path: path.to_owned(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    #[test]
    fn building_without_bpf_linker_says_how_to_get_it() {
        // The build script that made OBJECT lies beside its output, in a folder of this package.
        let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).expect("target/PROFILE/build");
        let scripts = fs::read_dir(builds).expect("read it").filter_map(Result::ok).filter_map(|entry| {
            let script = entry.path().join("build-script-build");
            let ours = entry.file_name().to_string_lossy().starts_with("vswitch-");
            Some((script.metadata().ok()?.modified().ok()?, script)).filter(|_| ours)
        });
        let (_, script): (_, PathBuf) = scripts.max().expect("the build script of this package");
        let nowhere = tempfile::tempdir().expect("an empty folder");
        let run = Command::new(script).env("PATH", nowhere.path()).env("OUT_DIR", nowhere.path()).output();
        let run = run.expect("run the build script");
        assert!(!run.status.success());
        let message = String::from_utf8_lossy(&run.stderr);
        assert!(message.contains("bpf-linker is not in PATH") && message.contains("cargo xtask setup"), "{message}");
        assert_eq!(fs::read_dir(nowhere.path()).expect("read it").count(), 0, "nothing is left behind");
    }
}
