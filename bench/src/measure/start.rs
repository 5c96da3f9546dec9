//! The time of `vswitch up`: on a host without state, and as a takeover after the daemon was killed.

use std::{path::Path, time::Instant};

use anyhow::Result;

use crate::{instance::Instance, namespaces::Netns};

/// Number of starts of each kind.
const STARTS: usize = 9;
/// Number of endpoints that a takeover finds.
const ENDPOINTS: usize = 10;

/// Times in seconds.
#[derive(Debug, Default)]
pub struct StartTimes {
    /// Times of `up` without recorded state.
    pub up: Vec<f64>,
    /// Times of `up` after the daemon was killed.
    pub takeover: Vec<f64>,
}

/// Starts instances in one namespace, one after another, and takes the last one over.
pub fn measure(vswitch: &Path) -> Result<StartTimes> {
    let mut times = StartTimes::default();
    let host = Netns::create("start-host")?;
    for _ in 0..STARTS {
        let start = Instant::now();
        let instance = Instance::up(vswitch, &host, &[])?;
        times.up.push(start.elapsed().as_secs_f64());
        instance.down()?;
    }
    // Declared first and so dropped last: the switch goes down while the namespaces still exist.
    let mut containers = Vec::with_capacity(ENDPOINTS);
    let instance = Instance::up(vswitch, &host, &[])?;
    for _ in 0..ENDPOINTS {
        let container = Netns::create("start")?;
        instance.attach(&container, &[])?;
        containers.push(container);
    }
    for _ in 0..STARTS {
        instance.kill()?;
        let start = Instant::now();
        instance.start(&[])?;
        times.takeover.push(start.elapsed().as_secs_f64());
    }
    instance.down()?;
    Ok(times)
}
