//! Learning: stations into the FDB, as many as may be.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use aya_log_ebpf::debug;
use vswitch_common::tables::{FdbEntry, FdbKey, PortNumber};

use crate::act::counted;
use crate::maps::{FDB, FORGOTTEN, LEARNABLE, LEARNED, PORTS};

/// The kernel's answer where the key is there already (errno-base.h).
const EEXIST: i32 = -17;

/// Writes a station into the FDB; true if it moved too often and is held where it was from now on. The key comes by
/// value: a decision whose address is handed to a helper would live in memory as a whole, unused fields and all, which
/// the verifier refuses.
#[inline(always)]
pub fn learn<C: EbpfContext>(context: &C, key: FdbKey, port: PortNumber, now: u32) -> bool {
    let before = match FDB.get_ptr_mut(key) {
        // SAFETY: the pointer is to an entry of the map. Only `seen` is written through it: should the entry have
        // been recycled for another station meanwhile, that one counts as heard, no more.
        Some(entry) => unsafe {
            if (*entry).is_static() {
                return false;
            }
            if (*entry).port == port {
                (*entry).seen = now;
                return false;
            }
            *entry
        },
        None => FdbEntry::default(),
    };
    if before.port == PortNumber::NONE {
        if is_full(PortNumber::NONE, LEARNABLE.get(0).copied()) || is_full(port, limit(port)) {
            counted(port, |counters| counters.learn_failed += 1);
            return false;
        }
        let entry = FdbEntry { port, seen: now, ..FdbEntry::default() };
        let written = FDB.insert(key, entry, u64::from(BPF_NOEXIST));
        counted(port, |counters| match written {
            Ok(()) => counters.learned += 1,
            // Another CPU was first.
            Err(EEXIST) => {}
            Err(_) => counters.learn_failed += 1,
        });
        if written.is_ok() {
            add(PortNumber::NONE, 1);
            add(port, 1);
        }
        debug!(context, "learned {:mac} in network {} on port {}", key.mac.0, key.network.0, port.0);
        return false;
    }
    let entry = before.moved(port, now);
    if entry.port == port && is_full(port, limit(port)) {
        counted(port, |counters| counters.learn_failed += 1);
        return false;
    }
    if FDB.insert(key, entry, u64::from(BPF_EXIST)).is_err() {
        return false;
    }
    if entry.port != port {
        return true;
    }
    add(before.port, -1);
    add(port, 1);
    counted(port, |counters| counters.learned += 1);
    debug!(context, "{:mac} in network {} moved to port {}", key.mac.0, key.network.0, port.0);
    false
}

/// How many stations may be learned from a port.
#[inline(always)]
fn limit(port: PortNumber) -> Option<u64> {
    PORTS.get(port.0).map(|port| port.fdb_limit.into())
}

/// Whether as many stations of a port are in the FDB as may be; of all ports for number 0. Two CPUs that ask at the
/// same time may both be told that there is room for one more.
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
        // SAFETY: an aligned word of a map that lives as long as the program; all programs change it like this. Not by
        // core's atomics: this target has none but the one instruction behind this.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(learned, stations as u64) };
    }
}
