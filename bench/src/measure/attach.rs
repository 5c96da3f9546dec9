//! The time of one `vswitch attach` command, and the memory of the daemon.

use std::{net::Ipv4Addr, path::Path, time::Instant};

use anyhow::Result;

use crate::{
    command,
    instance::Instance,
    namespaces::Netns,
    topology::{Netfilter, attach_to_bridge, create_bridge_host},
};

/// Number of endpoints that are attached in a row.
pub const ENDPOINTS: usize = 50;

/// Times in milliseconds and memory in MB.
#[derive(Debug, Default)]
pub struct AttachTimes {
    /// Times of `vswitch attach`.
    pub vswitch: Vec<f64>,
    /// Times of the five `ip` commands that connect a namespace to a Linux bridge, one value for
    /// all five.
    pub bridge: Vec<f64>,
    /// Memory of the daemon before the first attach.
    pub memory_empty: Option<f64>,
    /// Memory of the daemon with all endpoints attached.
    pub memory_full: Option<f64>,
}

/// Attaches [`ENDPOINTS`] namespaces to a switch and as many to a bridge, alternating.
pub fn measure(vswitch: Option<&Path>) -> Result<AttachTimes> {
    let mut times = AttachTimes::default();
    // Declared first and so dropped last: the switch goes down while the namespaces still exist.
    let mut containers = Vec::with_capacity(2 * ENDPOINTS);
    let bridge = create_bridge_host("attach-bridge", Netfilter::Default)?;
    let host = Netns::create("attach-host")?;
    let instance = vswitch.map(|binary| Instance::up(binary, &host, &[])).transpose()?;
    times.memory_empty = instance.as_ref().map(Instance::resident_memory).transpose()?;

    for number in 0..ENDPOINTS {
        if let Some(instance) = &instance {
            let container = Netns::create("attach-v")?;
            let mut attach = instance.command();
            attach.args(["attach", "--netns"]).arg(container.path());
            let start = Instant::now();
            command::run(&mut attach)?;
            times.vswitch.push(milliseconds(start));
            containers.push(container);
        }
        let container = Netns::create("attach-i")?;
        let start = Instant::now();
        attach_to_bridge(&bridge, &format!("port{number}"), &container, Ipv4Addr::new(10, 99, 0, 2 + number as u8))?;
        times.bridge.push(milliseconds(start));
        containers.push(container);
    }
    times.memory_full = instance.as_ref().map(Instance::resident_memory).transpose()?;
    Ok(times)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
