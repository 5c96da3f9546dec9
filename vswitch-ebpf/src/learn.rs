//! Learns stations into the FDB, within the limits of the switch and of each port.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use vswitch_common::tables::{FdbEntry, FdbKey, PortNumber};

use crate::count::counted;
use crate::maps::{FDB, FORGOTTEN, LEARNABLE, LEARNED, PORTS};

/// The kernel's error if the key exists already (errno-base.h).
const EEXIST: i32 = -17;

/// The sender of a frame.
#[repr(C)]
pub struct Heard {
    /// The station.
    pub station: FdbKey,
    /// The port that the frame came in by.
    pub port: PortNumber,
    /// The tick.
    pub now: u32,
}

/// The results of [`learn`].
pub mod learned {
    /// Nothing new was learned.
    pub const NOTHING: u32 = 0;
    /// The station is new, or has moved.
    pub const NEW: u32 = 1;
    /// The station moved too often and is held at its port from now on.
    pub const HELD: u32 = 2;
}

/// Writes a station into the FDB. Not inlined: it is called rarely, and the verifier walks the
/// callers' paths without it.
#[inline(never)]
pub fn learn(heard: &Heard) -> u32 {
    write(heard.station, heard.port, heard.now)
}

#[inline(always)]
fn write(key: FdbKey, port: PortNumber, now: u32) -> u32 {
    let before = match FDB.get_ptr_mut(key) {
        // SAFETY: the pointer is to an entry of the map. Only `seen` is written through it: if the
        // entry has been reused for another station meanwhile, that station is refreshed.
        Some(entry) => unsafe {
            if (*entry).is_static() {
                return learned::NOTHING;
            }
            if (*entry).port == port {
                (*entry).seen = now;
                return learned::NOTHING;
            }
            *entry
        },
        None => FdbEntry::default(),
    };
    if before.port == PortNumber::NONE {
        if is_full(PortNumber::NONE, LEARNABLE.get(0).copied()) || is_full(port, limit(port)) {
            counted(port, |counters| counters.learn_failed += 1);
            return learned::NOTHING;
        }
        let entry = FdbEntry { port, seen: now, ..FdbEntry::default() };
        let written = FDB.insert(key, entry, u64::from(BPF_NOEXIST));
        counted(port, |counters| match written {
            Ok(()) => counters.learned += 1,
            // Another CPU has learned it first.
            Err(EEXIST) => {}
            Err(_) => counters.learn_failed += 1,
        });
        if written.is_err() {
            return learned::NOTHING;
        }
        add(PortNumber::NONE, 1);
        add(port, 1);
        return learned::NEW;
    }
    let entry = before.moved(port, now);
    if entry.port == port && is_full(port, limit(port)) {
        counted(port, |counters| counters.learn_failed += 1);
        return learned::NOTHING;
    }
    if FDB.insert(key, entry, u64::from(BPF_EXIST)).is_err() {
        return learned::NOTHING;
    }
    if entry.port != port {
        return learned::HELD;
    }
    add(before.port, -1);
    add(port, 1);
    counted(port, |counters| counters.learned += 1);
    learned::NEW
}

/// Returns the number of stations that may be learned from a port.
#[inline(always)]
fn limit(port: PortNumber) -> Option<u64> {
    PORTS.get(port.0).map(|port| port.fdb_limit.into())
}

/// Returns whether the FDB has `limit` learned stations of a port; of all ports for number 0. Two
/// CPUs that ask at the same time may both find room for one more.
#[inline(always)]
fn is_full(port: PortNumber, limit: Option<u64>) -> bool {
    match (LEARNED.get(port.0), FORGOTTEN.get(port.0), limit) {
        (Some(learned), Some(forgotten), Some(limit)) => learned.wrapping_sub(*forgotten) as i64 >= limit as i64,
        _ => true,
    }
}

#[inline(always)]
fn add(port: PortNumber, stations: i64) {
    if let Some(learned) = LEARNED.get_ptr_mut(port.0) {
        // This target has no atomics of `core` but the one instruction behind this intrinsic.
        // SAFETY: an aligned word of a map that lives as long as the program, which all programs
        // change by this instruction.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(learned, stations as u64) };
    }
}
