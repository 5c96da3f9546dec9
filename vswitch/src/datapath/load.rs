//! Loads and pins the maps and programs: a fresh start, or the takeover of the maps and programs of
//! an earlier daemon.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use aya::maps::{Array, Map, MapData, MapInfo};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use vswitch_common::map_layout::{self, MapLayout};
use vswitch_common::tables::{MAX_PORTS, MAX_REMOTES, PortKind};

use super::held::HeldMaps;
use super::hooks::{self, Hook, TcHook};
use super::log;
use super::ports::PortTable;
use super::programs::Programs;
use super::tables::{Maps, set};
use super::{DatapathError, Options};

/// The eBPF object, built by build.rs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vswitch-ebpf"));

/// FDB entries that learning cannot use, so that static entries find room however many stations
/// were learned.
const STATIC_ROOM: u32 = 4 * MAX_PORTS;

/// The kernel datapath of an instance. All methods may be called from any thread; each makes a few
/// bpf(2) calls.
pub struct Datapath {
    pub(super) options: Options,
    pub(super) tc: TcHook,
    pub(super) taken_over: bool,
    /// A second descriptor of the FDB, which is read without the lock.
    pub(super) fdb: MapData,
    /// The programs. The lock is held as long as the verifier runs. It is taken before that of the
    /// state, never while the state is locked.
    pub(super) programs: Mutex<Programs>,
    pub(super) state: Mutex<State>,
    pub(super) held: Mutex<HeldMaps>,
}

/// The state that the methods share.
pub(super) struct State {
    /// A second descriptor of the FDB, to read the map as a whole.
    pub(super) fdb: MapData,
    pub(super) maps: Maps,
    pub(super) ports: PortTable,
    /// The devices that lead to peers and have our program.
    pub(super) underlay: BTreeSet<u32>,
    /// The device with our program behind which GRO merges the TCP packets of tunnels.
    pub(super) receiver: Option<u32>,
}

/// The paths of the pins in the instance's bpffs.
#[derive(Debug)]
pub(super) struct Pins<'a>(pub(super) &'a Path);

impl Pins<'_> {
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.0.join("maps").join(name)
    }

    pub(super) fn open_map(&self, name: &str) -> Result<MapData, DatapathError> {
        let path = self.map(name);
        MapData::from_pin(&path).map_err(|error| DatapathError::Pin { path, message: error.to_string() })
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.0.join("programs")
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
    /// Opens the maps, or creates them. Programs are loaded when the first port needs them.
    ///
    /// If an earlier daemon of this instance left its maps and links pinned, its programs stay if
    /// this daemon has the same programs. Otherwise new programs replace the old ones in the same
    /// links, on the same maps. No frame is lost in either case. Maps of another layout (of another
    /// version) are replaced by empty maps, which are filled when the ports are added and the
    /// networks are set again.
    ///
    /// # Errors
    /// Returns [`DatapathError::Load`], [`DatapathError::Program`] or [`DatapathError::Pin`].
    /// Nothing has changed then, unless the replacement of the programs of existing links failed
    /// half-way, in which case the remaining links keep the old programs.
    pub fn open(options: Options) -> Result<Self, DatapathError> {
        let pins = Pins(&options.directory);
        for directory in ["maps", "programs", "links"] {
            let path = options.directory.join(directory);
            fs::create_dir_all(&path).map_err(|error| pin_error(&path, &error))?;
        }
        let taken_over = keep_matching_maps(&pins, options.fdb_entries())?;
        // An earlier version does not have all maps.
        let complete = map_layout::ALL.iter().all(|map| pins.map(map.name).exists());
        if !complete {
            load(&pins, options.fdb_entries(), options.published_mark, None)?;
        }
        let tc = TcHook::of_this_kernel();
        let mut maps = Maps::pinned(&pins)?;
        set(&mut maps.learnable, "LEARNABLE", 0, u64::from(options.fdb_size))?;
        let mut ports = PortTable::read(&maps)?;
        let fdb = || pins.open_map("FDB");
        ports.read_stations(&fdb()?)?;
        if !complete {
            maps.count_by_network(&fdb()?)?;
        }
        maps.set_shares(u64::from(options.fdb_size), &ports)?;
        let mut programs = Programs::open(&pins, options.fdb_entries(), options.published_mark)?;
        programs.ensure(&hooks::in_use(tc, &pins, &ports)?)?;
        hooks::replace_programs(&mut programs, tc, &pins, &ports)?;
        let underlay = hooks::replace_on_underlay(&mut programs, &pins)?;
        programs.forget_others()?;
        let state = Mutex::new(State { fdb: fdb()?, maps, ports, underlay, receiver: None });
        let held = Mutex::new(HeldMaps::open(&pins)?);
        Ok(Self { tc, taken_over, fdb: fdb()?, programs: Mutex::new(programs), state, held, options })
    }

    /// Returns the number of stations that the FDB of an earlier daemon can learn, if that daemon
    /// left its maps pinned.
    pub fn fdb_size(directory: &Path) -> Option<u32> {
        let learnable = MapData::from_pin(Pins(directory).map("LEARNABLE")).ok()?;
        let learnable: Array<MapData, u64> = Map::Array(learnable).try_into().ok()?;
        u32::try_from(learnable.get(&0, 0).ok()?).ok()
    }

    /// Reports whether an earlier daemon that left its maps pinned was in a cluster. Only then the
    /// FDB has more entries than learned and static stations need.
    pub fn was_in_cluster(directory: &Path) -> bool {
        let entries = MapInfo::from_pin(Pins(directory).map("FDB")).map(|info| info.max_entries());
        let learnable = Self::fdb_size(directory);
        matches!((entries, learnable), (Ok(entries), Some(learnable)) if entries > learnable + STATIC_ROOM)
    }

    /// Loads the programs of all hooks, attached or not, to check that this kernel accepts them.
    ///
    /// # Errors
    /// Returns [`DatapathError::Program`] for the first program that the kernel refuses.
    pub fn load_all(&self) -> Result<(), DatapathError> {
        self.programs().ensure(&Hook::ALL)?;
        self.load_bind_programs().map(drop)
    }

    /// Returns the path at which the tc program of a kind of port is pinned once it is loaded.
    pub fn program_pin(&self, kind: PortKind) -> PathBuf {
        self.programs().pin(Hook::tc(kind))
    }

    /// Reports whether the maps of an earlier daemon were found and taken over.
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }
}

impl Datapath {
    /// Returns the bit of a packet's mark for connections to published ports.
    pub const fn published_mark(&self) -> u32 {
        self.options.published_mark
    }
}

impl Options {
    /// Returns the size of the FDB in entries.
    pub(super) const fn fdb_entries(&self) -> u32 {
        self.fdb_size + STATIC_ROOM + if self.cluster { MAX_REMOTES } else { 0 }
    }
}

/// Parses the object with the pinned maps, and creates the maps that are missing. With `traced`,
/// the programs are a recording copy.
pub(super) fn load(
    pins: &Pins<'_>,
    fdb_entries: u32,
    published_mark: u32,
    traced: Option<&u32>,
) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    // Our programs access only packets and maps, so no code is relocated against the kernel's BTF
    // types.
    loader.btf(None).verifier_log_level(VerifierLogLevel::STATS).map_max_entries("FDB", fdb_entries);
    for MapLayout { name, .. } in map_layout::ALL {
        // A recording copy tail-calls recording copies: the regular programs would carry out their
        // decisions.
        if traced.is_none() || name != map_layout::TAIL_CALLS.name {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    if let Some(traced) = traced {
        loader.override_global("TRACED", traced, true);
    }
    loader.override_global("PUBLISHED_MARK", &published_mark, true);
    loader.override_global("AYA_LOG_LEVEL", log::level(), false);
    loader.load(OBJECT).map_err(DatapathError::Load)
}

/// Keeps the pinned maps and returns true if all of them have this version's layout. Maps that
/// earlier versions do not have may be missing. Removes all of them otherwise.
fn keep_matching_maps(pins: &Pins<'_>, fdb_entries: u32) -> Result<bool, DatapathError> {
    let fits = |map: &MapLayout| {
        if map_layout::LATER.contains(&map.name) && !pins.map(map.name).exists() {
            return true;
        }
        let Ok(info) = MapInfo::from_pin(pins.map(map.name)) else { return false };
        let entries = if map.entries == 0 { fdb_entries } else { map.entries };
        (info.key_size() as usize, info.value_size() as usize, info.max_entries()) == (map.key, map.value, entries)
    };
    if map_layout::ALL.iter().all(fits) {
        return Ok(true);
    }
    for MapLayout { name, .. } in map_layout::ALL {
        remove_pin(&pins.map(name))?;
    }
    Ok(false)
}

/// Removes a pin, if it exists.
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
        // The build script that built OBJECT is next to its output, in a folder of this package.
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
