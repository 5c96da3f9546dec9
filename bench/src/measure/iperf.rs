//! TCP throughput by iperf3: one server per pair for the whole run, one client per sample.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{CLIENT_CPU, server_cpu};
use crate::{
    command,
    listening::Listening,
    namespaces::NetnsName,
    topology::{Endpoint, Pair},
};

/// An iperf3 server in the receiving container, stopped with this value.
pub struct Server {
    _child: Listening,
}

/// The arguments of a server: it says at once that it listens, pipe or not.
pub const SERVER: [&str; 2] = ["--server", "--forceflush"];

#[derive(Deserialize)]
struct Report {
    error: Option<String>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct End {
    sum_received: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    bits_per_second: f64,
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(pair: &Pair) -> Result<Self> {
        Self::start_at(&pair.server)
    }

    /// The same at any end.
    pub fn start_at(end: &Endpoint) -> Result<Self> {
        command::require("iperf3")?;
        let mut iperf = end.netns.command("iperf3");
        iperf.args(SERVER).args(["--bind", &end.ipv4.to_string()]);
        Ok(Self { _child: Listening::start(&mut iperf)? })
    }
}

/// What the receiver counted, in Gbit/s. The pair's [`Server`] must be running.
pub fn gigabits_per_second(pair: &Pair, streams: u32, seconds: u32) -> Result<f64> {
    from_to(&pair.client.netns, pair.server.ipv4, streams, seconds)
}

/// What the receiver counted, in Gbit/s, from a namespace to an address where a server listens, or seems to.
pub fn from_to(client: &NetnsName, server: Ipv4Addr, streams: u32, seconds: u32) -> Result<f64> {
    let mut iperf = client.command("iperf3");
    iperf.args(["--json", "--client", &server.to_string()]);
    iperf.args(["--parallel", &streams.to_string(), "--time", &seconds.to_string()]);
    iperf.args(["--affinity", &format!("{CLIENT_CPU},{}", server_cpu())]);
    let output = command::output(&mut iperf)?;

    let json = String::from_utf8_lossy(&output.stdout);
    let report: Report = serde_json::from_str(&json).with_context(|| {
        format!(
            "iperf3 said no JSON ({}): {}{}",
            output.status,
            json.trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        )
    })?;
    if let Some(error) = report.error {
        bail!("iperf3: {error}");
    }
    let received = report.end.and_then(|end| end.sum_received).context("iperf3's report has no end.sum_received")?;
    Ok(received.bits_per_second / 1e9)
}
