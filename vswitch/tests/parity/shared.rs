//! Shared by the tests: the sandbox, entries that are written into the tables of both the kernel
//! and the core, reproducible random numbers, and the comparison of decisions.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, HashMap, Map, MapData};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use vswitch::datapath::{Datapath, DatapathError, Mode, Options, PortRules, PortSpec, SHORTEST};
use vswitch_common::packet::address::Address;
use vswitch_common::tables::memory::MemoryTables;
use vswitch_common::tables::{FdbEntry, FdbKey, MARK_PUBLISHED, NeighborKey, OwnKey, PortNumber, StormWindow, VlanKey};
use vswitch_common::trace::Trace;
use vswitch_common::verdict::Decision;

/// A network namespace and a bpffs of this thread. Both are removed with it.
pub struct Sandbox {
    pub bpffs: PathBuf,
}

impl Sandbox {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads eBPF programs and needs root");
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare the network namespace");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bpffs = std::env::temp_dir().join(format!("vswitch-parity-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&bpffs).expect("make the mount point");
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).expect("mount a bpffs");
        Self { bpffs }
    }

    /// Loads the programs, or takes them over.
    pub fn datapath(&self) -> Datapath {
        let options = Options {
            directory: self.bpffs.clone(),
            mode: Mode::Auto,
            fdb_size: 4096,
            cluster: false,
            published_mark: MARK_PUBLISHED,
        };
        Datapath::open(options).expect("load the programs")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.bpffs);
    }
}

/// Makes a veth pair and returns the ifindex of the end `name`.
pub fn veth(name: &str) -> u32 {
    let peer = format!("{name}p");
    let status = Command::new("ip").args(["link", "add", name, "type", "veth", "peer", &peer]).status();
    assert!(status.expect("run ip").success(), "ip link add {name}");
    nix::net::if_::if_nametoindex(name).expect("the device just made")
}

/// Returns the rules of an endpoint with all guards.
pub fn guarded() -> PortRules {
    PortRules {
        learning: false,
        spoof_guard: true,
        ra_guard: true,
        dhcp_guard: true,
        bpdu_guard: true,
        storm_pps: 1000,
        ..PortRules::default()
    }
}

/// Converts an address to that of the tables.
fn table_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(four) => Address::mapped(four.octets()),
        IpAddr::V6(six) => Address::new(six.octets()),
    }
}

/// Writes the addresses of a port into the core's tables, and `made`, which is formed from its MAC
/// address.
pub fn add_neighbors(tables: &mut MemoryTables, number: PortNumber, spec: &PortSpec, made: Option<Address>) {
    for address in spec.addresses.iter().copied().map(table_address).chain(made) {
        let key = NeighborKey { address, network: spec.network, vlan: VlanKey(spec.rules.vlan), reserved: 0 };
        tables.neighbors.insert(key, number);
    }
}

/// Gives a port an address in another network, from which it may send here as well, in both tables.
pub fn add_elsewhere(datapath: &Datapath, tables: &mut MemoryTables, number: PortNumber, address: Ipv4Addr) {
    datapath.set_addresses_elsewhere(number, &[address.into()]).expect("set the addresses");
    tables.owned.insert(OwnKey { address: table_address(address.into()), port: number, reserved: 0 });
}

/// Writes a learned station into both tables.
pub fn add_station(datapath: &Datapath, tables: &mut MemoryTables, key: FdbKey, port: PortNumber) {
    datapath.fdb_add_static(key, port).expect("write the station");
    tables.fdb.insert(key, FdbEntry { port, flags: FdbEntry::STATIC, ..FdbEntry::default() });
}

/// The number of compared decisions.
#[derive(Default)]
pub struct Compared {
    pub compared: usize,
    /// Frames that the kernel refuses for a test run.
    pub refused: usize,
}

impl Compared {
    /// Returns the core's decision, after checking that the kernel's is equal in every field.
    /// `None` if the kernel refuses the frame.
    pub fn agreed(
        &mut self,
        context: &str,
        kernel: Result<Trace, DatapathError>,
        frame: &[u8],
        core: impl Fn(u32) -> Decision,
    ) -> Option<Decision> {
        match kernel {
            Ok(kernel) => {
                let core = core(kernel.now);
                assert_eq!(kernel.decision, core, "{context}: {frame:02x?}");
                self.compared += 1;
                Some(core)
            }
            // The kernel's test run refuses short packets that a program gets on the wire.
            Err(DatapathError::TraceRefused { .. }) if frame.len() < SHORTEST + 40 => {
                self.refused += 1;
                None
            }
            Err(error) => panic!("{context}: {error}: {frame:02x?}"),
        }
    }
}

/// Pseudorandom numbers, the same in every run (Marsaglia's xorshift64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Renews the entries that expire, in both tables: used up allowances, and a held station.
pub fn renew(sandbox: &Sandbox, tables: &mut MemoryTables, ports: u32, held: FdbKey, at: PortNumber) {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).expect("the clock");
    let now = vswitch_common::tables::tick(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64);
    let pin = |name: &str| MapData::from_pin(sandbox.bpffs.join("maps").join(name)).expect("a pinned table");
    let mut storms: Array<_, StormWindow> = Array::try_from(Map::Array(pin("STORMS"))).expect("its layout");
    for port in 1..=ports {
        for class in 1..=3 {
            let window = StormWindow { tick: now, count: 2 };
            storms.set(StormWindow::index(PortNumber(port), class), window, 0).expect("write");
            tables.storms.insert((PortNumber(port), class), window);
        }
    }
    let mut fdb: HashMap<_, FdbKey, FdbEntry> = HashMap::try_from(Map::HashMap(pin("FDB"))).expect("its layout");
    let entry = FdbEntry { port: at, seen: now, flags: FdbEntry::HELD, since: now, ..FdbEntry::default() };
    fdb.insert(held, entry, 0).expect("write");
    tables.fdb.insert(held, entry);
}
