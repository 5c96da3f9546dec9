//! One daemon among 1,000 hosts with 100,000 endpoints.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{
    hosts::Hosts,
    population::{ENDPOINTS, NETWORKS, Population},
};
use crate::{command::stop_if_interrupted, instance::Instance, namespaces::Netns, tables};

/// Networks in which the measured host has an endpoint.
const JOINED: usize = 4;
/// Number of times that all endpoints of these networks move to another host.
const MOVES: usize = 5;
/// Interval at which a condition is checked.
const INTERVAL: Duration = Duration::from_millis(20);
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Memory of the daemon in MB, times in seconds, and rates in thousands per second.
#[derive(Debug, Default)]
pub struct Scale {
    /// Memory without other hosts.
    pub alone: f64,
    /// Memory after all endpoints were added while the daemon ran.
    pub running: f64,
    /// Memory if all endpoints existed when the daemon started.
    pub started: f64,
    /// Time from the last write to the last FDB entry, if all endpoints are added while the daemon
    /// runs.
    pub lag: f64,
    /// Time that `up` takes, if all endpoints exist.
    pub up: f64,
    /// Time from the start of `up` until the daemon has received all endpoints.
    pub received: f64,
    /// Time from the start of `up` to the last FDB entry.
    pub catch_up: f64,
    /// Rate of endpoints written to etcd.
    pub written: f64,
    /// Rate of endpoints written to etcd, received by the daemon, and entered into its tables where
    /// needed.
    pub followed: f64,
    /// Rate of endpoints moved to another host, including their FDB entries.
    pub moved: f64,
}

/// Writes the simulated hosts into etcd while the daemon runs, moves endpoints, and restarts the
/// daemon.
pub fn scale(vswitch: &Path) -> Result<Scale> {
    // Declared first and so dropped last: the switch goes down while the namespaces still exist.
    let containers = (0..JOINED).map(|_| Netns::create("cluster-c")).collect::<Result<Vec<_>>>()?;
    let mut hosts = Hosts::build(1)?;
    // The route to the simulated hosts.
    hosts.namespaces[0].ip("route add 198.18.0.0/15 via 192.0.2.254")?;
    let mut population = Population::new();
    hosts.etcd.with_client(|runtime, client| runtime.block_on(population.write_networks(&client)))?;
    let instance = hosts.up(0, vswitch)?;
    hosts.instances.push(instance);
    let instance = &hosts.instances[0];
    wait_until("the networks exist", || Ok(status(instance)?.networks >= NETWORKS))?;
    for (number, container) in containers.iter().enumerate() {
        instance.attach(container, &["--network", &Population::network(number)])?;
    }
    let mut scale = Scale { alone: instance.resident_memory()?, ..Scale::default() };

    let all = (NETWORKS * ENDPOINTS) as f64 / 1e3;
    hosts.etcd.with_client(|runtime, client| runtime.block_on(population.write_hosts(&client)))?;
    let start = Instant::now();
    hosts.etcd.with_client(|runtime, client| runtime.block_on(population.write_endpoints(&client)))?;
    let written = Instant::now();
    wait_until_complete(instance)?;
    scale.lag = written.elapsed().as_secs_f64();
    scale.written = all / (written - start).as_secs_f64();
    scale.followed = all / start.elapsed().as_secs_f64();
    check_entries(instance, 0)?;
    scale.running = instance.resident_memory()?;

    let start = Instant::now();
    for moves in 1..=MOVES {
        hosts
            .etcd
            .with_client(|runtime, client| runtime.block_on(population.move_endpoints(&client, JOINED, moves)))?;
    }
    wait_until("the moves are in the tables", || Ok(check_entries(instance, MOVES).is_ok()))?;
    scale.moved = (JOINED * ENDPOINTS * MOVES) as f64 / 1e3 / start.elapsed().as_secs_f64();

    instance.run(&["down"])?;
    let start = Instant::now();
    instance.start(&["--cluster", &hosts.etcd.url()])?;
    scale.up = start.elapsed().as_secs_f64();
    wait_until("the daemon has received all endpoints", || {
        Ok(status(instance)?.received_endpoints() >= NETWORKS * ENDPOINTS)
    })?;
    scale.received = start.elapsed().as_secs_f64();
    wait_until_complete(instance)?;
    scale.catch_up = start.elapsed().as_secs_f64();
    check_entries(instance, MOVES)?;
    scale.started = instance.resident_memory()?;
    Ok(scale)
}

/// Waits until the daemon has received all endpoints and its tables contain those of its own
/// networks.
fn wait_until_complete(instance: &Instance) -> Result<()> {
    wait_until("all endpoints are in the tables", || {
        Ok(tables::remote_entries(instance)? >= JOINED * ENDPOINTS
            && status(instance)?.received_endpoints() >= NETWORKS * ENDPOINTS)
    })
}

/// Fails unless every endpoint in the networks of this host is behind the tunnel to its host after
/// `moves` moves.
fn check_entries(instance: &Instance, moves: usize) -> Result<()> {
    #[derive(Deserialize)]
    struct Row {
        mac: String,
        port: String,
    }
    for network in 0..JOINED {
        let name = Population::network(network);
        let json = instance.run(&["fdb", "show", "--static", "--network", &name, "--format", "json"])?;
        let rows: Vec<Row> = serde_json::from_str(&json).context("reading `fdb show`")?;
        let ports: BTreeMap<_, _> = rows.iter().map(|row| (row.mac.as_str(), row.port.as_str())).collect();
        for number in 0..ENDPOINTS {
            let mac = Population::mac(network, number);
            let host = Population::address(Population::host_of(network, number, moves)).to_string();
            let port = ports.get(mac.as_str());
            if port != Some(&host.as_str()) {
                bail!("endpoint {number} of {name} should be behind {host}, but is behind {port:?}");
            }
        }
    }
    Ok(())
}

/// The part of the output of `status` that is used here.
#[derive(Deserialize)]
struct Status {
    networks: usize,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct Cluster {
    endpoints: usize,
}

impl Status {
    fn received_endpoints(&self) -> usize {
        self.cluster.as_ref().map_or(0, |cluster| cluster.endpoints)
    }
}

fn status(instance: &Instance) -> Result<Status> {
    serde_json::from_str(&instance.run(&["status", "--format", "json"])?).context("reading `status`")
}

fn wait_until(description: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > TIME_LIMIT {
            bail!("condition not met within {TIME_LIMIT:?}: {description}");
        }
        stop_if_interrupted()?;
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}
