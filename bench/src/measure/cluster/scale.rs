//! One daemon among 1,000 hosts with 100,000 endpoints.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{
    Hosts,
    population::{ENDPOINTS, NETWORKS, Population},
};
use crate::{command::stop_if_interrupted, instance::Instance, namespaces::Netns, tables};

/// Networks that the measured host has an endpoint in.
const JOINED: usize = 4;
/// How often all endpoints in these move to another host.
const MOVES: usize = 5;
/// How often it is looked.
const EVERY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(300);

/// What the daemon weighs in MB, how long it takes in seconds, and how fast it is in thousands a second.
#[derive(Debug, Default)]
pub struct Scale {
    /// Weight among nobody.
    pub alone: f64,
    /// Weight when all have come while it ran.
    pub running: f64,
    /// Weight when all were there when it started.
    pub started: f64,
    /// From the last write to the last entry, when all come while it runs.
    pub lag: f64,
    /// From `up` to its end, when all are there.
    pub up: f64,
    /// From `up` until it was told of all.
    pub told: f64,
    /// From `up` to the last entry.
    pub catch_up: f64,
    /// Endpoints written to etcd.
    pub written: f64,
    /// Endpoints written, told of, and in the tables where they are to be.
    pub followed: f64,
    /// Endpoints that moved to another host, in the tables.
    pub moved: f64,
}

/// Plays them into etcd while the daemon runs, has some move, and starts the daemon anew.
pub fn scale(vswitch: &Path) -> Result<Scale> {
    // Declared first, dropped last: the switch goes down while the namespaces still exist.
    let containers = (0..JOINED).map(|_| Netns::create("cluster-c")).collect::<Result<Vec<_>>>()?;
    let mut hosts = Hosts::build(1)?;
    // The way to the hosts that are played.
    hosts.machines[0].ip("route add 198.18.0.0/15 via 192.0.2.254")?;
    let mut population = Population::new();
    hosts.etcd.with_client(|runtime, client| runtime.block_on(population.write_networks(&client)))?;
    let instance = hosts.up(0, vswitch)?;
    hosts.instances.push(instance);
    let instance = &hosts.instances[0];
    until("the networks are there", || Ok(status(instance)?.networks >= NETWORKS))?;
    for (number, container) in containers.iter().enumerate() {
        instance.attach(container, &["--network", &Population::network(number)])?;
    }
    let mut scale = Scale { alone: instance.resident_memory()?, ..Scale::default() };

    let all = (NETWORKS * ENDPOINTS) as f64 / 1e3;
    hosts.etcd.with_client(|runtime, client| runtime.block_on(population.write_hosts(&client)))?;
    let start = Instant::now();
    hosts.etcd.with_client(|runtime, client| runtime.block_on(population.write_endpoints(&client)))?;
    let written = Instant::now();
    is_complete(instance)?;
    scale.lag = written.elapsed().as_secs_f64();
    scale.written = all / (written - start).as_secs_f64();
    scale.followed = all / start.elapsed().as_secs_f64();
    check(instance, 0)?;
    scale.running = instance.resident_memory()?;

    let start = Instant::now();
    for moves in 1..=MOVES {
        hosts.etcd.with_client(|runtime, client| runtime.block_on(population.move_on(&client, JOINED, moves)))?;
    }
    until("the moves are in the tables", || Ok(check(instance, MOVES).is_ok()))?;
    scale.moved = (JOINED * ENDPOINTS * MOVES) as f64 / 1e3 / start.elapsed().as_secs_f64();

    instance.run(&["down"])?;
    let start = Instant::now();
    instance.start(&["--cluster", &hosts.etcd.url()])?;
    scale.up = start.elapsed().as_secs_f64();
    until("it is told of all", || Ok(status(instance)?.told() >= NETWORKS * ENDPOINTS))?;
    scale.told = start.elapsed().as_secs_f64();
    is_complete(instance)?;
    scale.catch_up = start.elapsed().as_secs_f64();
    check(instance, MOVES)?;
    scale.started = instance.resident_memory()?;
    Ok(scale)
}

/// Waits until the daemon was told of all endpoints, and its tables hold those of its own networks.
fn is_complete(instance: &Instance) -> Result<()> {
    until("all endpoints are in the tables", || {
        Ok(tables::remotes(instance)? >= JOINED * ENDPOINTS && status(instance)?.told() >= NETWORKS * ENDPOINTS)
    })
}

/// Fails unless every endpoint in the networks of this host is behind the tunnel to where it is after so many moves.
fn check(instance: &Instance, moves: usize) -> Result<()> {
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
                bail!("endpoint {number} of {name} is on {host}, and not on {port:?}");
            }
        }
    }
    Ok(())
}

/// What `status` says, as far as we ask.
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
    fn told(&self) -> usize {
        self.cluster.as_ref().map_or(0, |cluster| cluster.endpoints)
    }
}

fn status(instance: &Instance) -> Result<Status> {
    serde_json::from_str(&instance.run(&["status", "--format", "json"])?).context("reading `status`")
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        stop_if_interrupted()?;
        std::thread::sleep(EVERY);
    }
    Ok(())
}
