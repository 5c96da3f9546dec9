//! How long one attach takes, whole command included, and what the daemon weighs.

use std::{net::Ipv4Addr, path::Path, time::Instant};

use anyhow::Result;

use crate::{
    command,
    instance::Instance,
    namespaces::Netns,
    topology::{Netfilter, attach_by_ip, host_with_bridge},
};

/// Endpoints attached, one after another.
pub const ENDPOINTS: usize = 50;

/// Times in milliseconds, memory in MB.
#[derive(Debug, Default)]
pub struct Attaches {
    /// `vswitch attach`, one value each.
    pub vswitch: Vec<f64>,
    /// The five `ip` commands that connect a namespace to a Linux bridge, one value for all five.
    pub by_ip: Vec<f64>,
    /// The daemon, before the first attach.
    pub memory_empty: Option<f64>,
    /// The daemon, with all of them attached.
    pub memory_full: Option<f64>,
}

/// Attaches [`ENDPOINTS`] namespaces to a switch and as many to a bridge, in turns.
pub fn attaches(vswitch: Option<&Path>) -> Result<Attaches> {
    let mut attaches = Attaches::default();
    // Declared first, dropped last: the switch goes down while the namespaces still exist.
    let mut containers = Vec::with_capacity(2 * ENDPOINTS);
    let bridge = host_with_bridge("attach-bridge", Netfilter::Default)?;
    let host = Netns::create("attach-host")?;
    let instance = vswitch.map(|binary| Instance::up(binary, &host, &[])).transpose()?;
    attaches.memory_empty = instance.as_ref().map(Instance::resident_memory).transpose()?;

    for number in 0..ENDPOINTS {
        if let Some(instance) = &instance {
            let container = Netns::create("attach-v")?;
            let mut attach = instance.command();
            attach.args(["attach", "--netns"]).arg(container.path());
            let start = Instant::now();
            command::run(&mut attach)?;
            attaches.vswitch.push(milliseconds(start));
            containers.push(container);
        }
        let container = Netns::create("attach-i")?;
        let start = Instant::now();
        attach_by_ip(&bridge, &format!("port{number}"), &container, Ipv4Addr::new(10, 99, 0, 2 + number as u8))?;
        attaches.by_ip.push(milliseconds(start));
        containers.push(container);
    }
    attaches.memory_full = instance.as_ref().map(Instance::resident_memory).transpose()?;
    Ok(attaches)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
