//! TCP throughput by iperf3, with one server per pair for the whole run and one client per sample.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{
    command,
    cpus::{CLIENT_CPU, server_cpu},
    endpoint::Endpoint,
    listening::{IPERF3_SERVER, ListeningServer},
    namespaces::NetnsName,
    topology::Pair,
};

/// An iperf3 server in the receiving container, stopped on drop.
pub struct Server {
    _child: ListeningServer,
}

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
    /// Starts a server in the receiving container and waits until it listens.
    pub fn start(pair: &Pair) -> Result<Self> {
        Self::start_at(&pair.server)
    }

    /// Starts a server at `endpoint` and waits until it listens.
    pub fn start_at(endpoint: &Endpoint) -> Result<Self> {
        command::require_program("iperf3")?;
        let mut iperf = endpoint.netns.command("iperf3");
        iperf.args(IPERF3_SERVER).args(["--bind", &endpoint.ipv4.to_string()]);
        Ok(Self { _child: ListeningServer::start(&mut iperf)? })
    }
}

/// Returns the throughput that the receiver counted, in Gbit/s. The [`Server`] of the pair must be
/// running.
pub fn gigabits_per_second(pair: &Pair, streams: u32, seconds: u32) -> Result<f64> {
    gigabits_per_second_to(&pair.client.netns, pair.server.ipv4, streams, seconds)
}

/// Returns the throughput that the receiver counted, in Gbit/s, from a namespace to the address of
/// a server or of a published port.
pub fn gigabits_per_second_to(client: &NetnsName, server: Ipv4Addr, streams: u32, seconds: u32) -> Result<f64> {
    let mut iperf = client.command("iperf3");
    iperf.args(["--json", "--client", &server.to_string()]);
    iperf.args(["--parallel", &streams.to_string(), "--time", &seconds.to_string()]);
    iperf.args(["--affinity", &format!("{CLIENT_CPU},{}", server_cpu())]);
    let output = command::output(&mut iperf)?;

    let json = String::from_utf8_lossy(&output.stdout);
    let report: Report = serde_json::from_str(&json).with_context(|| {
        format!(
            "iperf3 printed no JSON ({}): {}{}",
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
