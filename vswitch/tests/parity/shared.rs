//! What the tests share: where they run, numbers for what is generated, and what goes by the clock.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, HashMap, Map, MapData};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use vswitch_common::tables::memory::MemoryTables;
use vswitch_common::tables::{FdbEntry, FdbKey, PortNumber, StormWindow};

/// A network namespace and a bpffs of this thread's own; both go with it.
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
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.bpffs);
    }
}

pub fn veth(name: &str) -> u32 {
    let peer = format!("{name}p");
    let status = Command::new("ip").args(["link", "add", name, "type", "veth", "peer", &peer]).status();
    assert!(status.expect("run ip").success(), "ip link add {name}");
    nix::net::if_::if_nametoindex(name).expect("the device just made")
}

/// Numbers that look random and are the same in every run (Marsaglia's xorshift64).
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

/// What changes by the clock, in the kernel's tables and ours: allowances that are used up, and a station that is held.
pub fn keep_up(sandbox: &Sandbox, tables: &mut MemoryTables, ports: u32, held: FdbKey, at: PortNumber) {
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
