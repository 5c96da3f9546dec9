//! Support for the tests with real engines: hosts that disturb neither the machine nor each other.

#[expect(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../../e2e/harness/command.rs"]
mod command;
mod docker;
mod host;
#[expect(dead_code, reason = "xtask uses the rest")]
pub mod roots;
#[path = "../../e2e/harness/stuck.rs"]
mod stuck;
#[path = "../../e2e/harness/weight.rs"]
mod weight;

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

pub use command::Outcome;
pub use docker::Docker;
pub use host::Host;

/// Longest time that a test waits for an event before it fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Calls `probe` until it returns a value, and returns that value. Panics after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    settles(what, || probe().ok_or("the probe found nothing"))
}

/// Calls `probe` until it succeeds, and returns its value. Panics after [`PATIENCE`] with the last
/// error.
#[track_caller]
pub fn settles<T, E: Debug>(what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(error) => assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {error:#?}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}
