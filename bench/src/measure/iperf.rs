//! TCP throughput by iperf3: one server per pair for the whole run, one client per sample.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{CLIENT_CPU, server_cpu};
use crate::{command, topology::Pair};

/// An iperf3 server in the receiving container, stopped with this value.
pub struct Server(Child);

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
        command::require("iperf3")?;
        let mut iperf = pair.server.netns.command("iperf3");
        iperf.args(["--server", "--forceflush", "--bind", &pair.server.ipv4.to_string()]);
        iperf.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = Self(iperf.spawn().map_err(|error| command::not_started(&iperf, &error))?);

        let stdout = server.0.stdout.take().context("iperf3's output is not ours")?;
        let mut lines = BufReader::new(stdout).lines();
        let listens = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening"));
        if !listens {
            let mut words = String::new();
            server.0.stderr.take().context("iperf3's errors are not ours")?.read_to_string(&mut words)?;
            bail!("the iperf3 server did not start: {}", words.trim());
        }
        // Its reports are of no interest, but someone has to take them, or it stops when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // nsenter has become iperf3 by exec, so this ends the server itself.
        if self.0.kill().is_ok() {
            // Reaped, so that nothing of it is left; its status says only that we killed it.
            let _killed = self.0.wait();
        }
    }
}

/// What the receiver counted, in Gbit/s. The pair's [`Server`] must be running.
pub fn gigabits_per_second(pair: &Pair, streams: u32, seconds: u32) -> Result<f64> {
    let mut iperf = pair.client.netns.command("iperf3");
    iperf.args(["--json", "--client", &pair.server.ipv4.to_string()]);
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
