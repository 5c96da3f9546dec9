//! Weights: how many tests run at once. Most tests wait for grace periods of the kernel, so several
//! of them share a processor. A test with constant traffic delays these grace periods, and weighs
//! more.

use std::{
    cell::RefCell,
    num::NonZero,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// The weight that one processor carries.
const PER_PROCESSOR: usize = 3;

/// Tests that weigh more than 1, by the beginning of their names.
const HEAVY: [(&str, usize); 10] = [
    ("accounting_load::", 3),
    ("beside_firewalls::", 2),
    // Their leases are so short that a host loses its lease while it waits for a processor.
    ("cluster_lives::", 3),
    ("cluster", 2),
    ("concurrency::", 2),
    ("flood::", 2),
    ("overlay_encrypted::", 3),
    ("overlay_forged::", 2),
    ("takeover::", 3),
    ("traffic::", 2),
];

/// The weight of the tests that run.
static CARRIED: Mutex<usize> = Mutex::new(0);
static LIGHTER: Condvar = Condvar::new();

thread_local! {
    static SHARE: RefCell<Option<Share>> = const { RefCell::new(None) };
}

/// The weight of a running test. It is returned when the test's thread ends.
struct Share(usize);

impl Share {
    fn take(weight: usize) -> Self {
        let limit = PER_PROCESSOR * thread::available_parallelism().map_or(1, NonZero::get);
        let weight = weight.min(limit);
        let carried = CARRIED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut carried =
            LIGHTER.wait_while(carried, |carried| *carried + weight > limit).unwrap_or_else(PoisonError::into_inner);
        *carried += weight;
        Self(weight)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *CARRIED.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        LIGHTER.notify_all();
    }
}

/// Waits until the test of this thread may run beside the running ones. Only the first call waits.
/// libtest names the thread of a test after the test; threads with other names belong to a test that
/// is running already.
pub fn wait_for_turn() {
    let thread = thread::current();
    let Some(test) = thread.name().filter(|name| name.contains("::")) else { return };
    let weight = HEAVY.iter().find(|(beginning, _)| test.starts_with(beginning)).map_or(1, |(_, weight)| *weight);
    SHARE.with_borrow_mut(|share| {
        share.get_or_insert_with(|| Share::take(weight));
    });
}
