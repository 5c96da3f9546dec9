//! Learns stations into the FDB, within the limits of the switch, of each network and of each port.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use vswitch_common::tables::{FdbEntry, FdbKey, NetworkNumber, PortNumber, Shares};

use crate::count::counted;
use crate::maps::{FDB, FORGOTTEN, LEARNABLE, LEARNED, NETWORK_STATIONS, PORTS};

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
    /// 1 if the station has moved and announced itself; else 0.
    pub announced: u32,
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
    write(heard.station, heard.port, heard.now, heard.announced != 0)
}

#[inline(always)]
fn write(key: FdbKey, port: PortNumber, now: u32, announced: bool) -> u32 {
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
        let learnable = LEARNABLE.get(0).copied();
        if is_full(PortNumber::NONE, learnable) || is_full(port, limit(port)) || is_used_up(key.network, learnable) {
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
        if let Some(learned) = NETWORK_STATIONS.get_ptr_mut(Shares::learned(key.network)) {
            add_to(learned, 1);
        }
        return learned::NEW;
    }
    let entry = before.moved(port, now, announced);
    if entry.port == port && is_full(port, limit(port)) {
        counted(port, |counters| counters.learn_failed += 1);
        return learned::NOTHING;
    }
    if FDB.insert(key, entry, u64::from(BPF_EXIST)).is_err() {
        return learned::NOTHING;
    }
    if entry.port != before.port {
        add(before.port, -1);
        add(entry.port, 1);
        counted(entry.port, |counters| counters.learned += 1);
    }
    if entry.is_held(now) { learned::HELD } else { learned::NEW }
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

/// Returns whether a network has learned what it may, see [`Shares`].
#[inline(always)]
fn is_used_up(network: NetworkNumber, learnable: Option<u64>) -> bool {
    let at = |index| NETWORK_STATIONS.get(index).copied().unwrap_or(0);
    let shares = Shares { sure: at(Shares::SURE), kept: at(Shares::KEPT) };
    let own = at(Shares::learned(network)).wrapping_sub(at(Shares::forgotten(network)));
    let learned = LEARNED.get(0).copied().unwrap_or(0).wrapping_sub(FORGOTTEN.get(0).copied().unwrap_or(0));
    shares.are_used_up(own, learned, learnable.unwrap_or(0))
}

#[inline(always)]
fn add(port: PortNumber, stations: i64) {
    if let Some(learned) = LEARNED.get_ptr_mut(port.0) {
        add_to(learned, stations);
    }
}

/// Changes a counter of a map.
#[inline(always)]
fn add_to(counter: *mut u64, stations: i64) {
    // This target has no atomics of `core` but the one instruction behind this intrinsic.
    // SAFETY: the pointer is to an aligned word of a map that lives as long as the program, which all
    // programs change by this instruction.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, stations as u64) };
}
