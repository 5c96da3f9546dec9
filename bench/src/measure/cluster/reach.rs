//! The time until a new endpoint is reached from another host.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use vswitch::api::AttachRequest;

use super::hosts::Hosts;
use crate::{
    api::Api,
    cpus::server_cpu,
    namespaces::{Netns, join},
};

/// Number of endpoints that are attached in a row.
pub const ATTACHES: usize = 50;
const NETWORK: &str = "all";
const PORT: u16 = 9;
/// Interval between attempts to reach the endpoint, which is the accuracy of the figure.
const INTERVAL: Duration = Duration::from_micros(500);
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Times in milliseconds, one value per attach.
#[derive(Debug, Default)]
pub struct Reach {
    /// From the request to the response.
    pub attach: Vec<f64>,
    /// From the response to the first reply of the endpoint, or 0 if the reply came first.
    pub from_return: Vec<f64>,
    /// From the request to the first reply of the endpoint.
    pub from_start: Vec<f64>,
}

/// Attaches [`ATTACHES`] endpoints to one host. An endpoint on another host tries to reach each of
/// them from the start.
pub fn reach(vswitch: &Path) -> Result<Reach> {
    // Declared first and so dropped last: the switches go down while the namespaces still exist.
    let prober = Netns::create("cluster-asker")?;
    let mut containers = Vec::new();
    let mut hosts = Hosts::build(2)?;
    for number in 0..2 {
        let instance = hosts.up(number, vswitch)?;
        hosts.instances.push(instance);
    }
    hosts.instances[0].run(&["network", "create", "-d", "overlay", "--subnet", "10.98.0.0/16", NETWORK])?;
    let start = Instant::now();
    while let Err(error) = hosts.instances[1].run(&["network", "inspect", NETWORK]) {
        if start.elapsed() > TIME_LIMIT {
            return Err(error).context("the network does not appear on the other host");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    hosts.instances[1].attach(&prober, &["--network", NETWORK])?;
    let mut api = Api::connect(&hosts.instances[0])?;
    let mut reach = Reach::default();
    for number in 0..ATTACHES {
        let container = Netns::create("cluster-c")?;
        let address = Ipv4Addr::new(10, 98, 1, number as u8 + 1);
        let mac = format!("02:00:00:00:98:{number:02x}");
        // The neighbor entry is static, because the kernel retries its resolution only once a
        // second, which would hide the time of the switch.
        prober.ip(&format!("neigh replace {address} lladdr {mac} nud permanent dev eth0"))?;
        let request = AttachRequest {
            netns: container.path(),
            network: Some(NETWORK.to_owned()),
            ip: Some(address.to_string()),
            mac: Some(mac),
            ..AttachRequest::default()
        };
        let stop = AtomicBool::new(false);
        let (started, returned, replied) = std::thread::scope(|scope| {
            let probe = prober.spawn(scope, server_cpu(), || first_reply((address, PORT).into(), &stop));
            let started = Instant::now();
            let attached = api.post("/endpoints", &request);
            let returned = Instant::now();
            if attached.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            let replied = join(probe);
            attached?;
            anyhow::Ok((started, returned, replied?))
        })?;
        let milliseconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        reach.attach.push(milliseconds(started, returned));
        reach.from_return.push(milliseconds(returned, replied));
        reach.from_start.push(milliseconds(started, replied));
        containers.push(container);
    }
    // The connection is closed before its daemon stops.
    drop(api);
    drop(hosts);
    Ok(reach)
}

/// Returns the time of the first reply. No socket listens on the port, so the new endpoint replies
/// with an ICMP error.
fn first_reply(target: SocketAddr, stop: &AtomicBool) -> Result<Instant> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(INTERVAL))?;
    let start = Instant::now();
    while start.elapsed() < TIME_LIMIT && !stop.load(Ordering::Relaxed) {
        // Either call may report the refusal.
        for outcome in [socket.send(b"?").map(drop), socket.recv(&mut [0; 8]).map(drop)] {
            match outcome {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(Instant::now()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                outcome => outcome?,
            }
        }
    }
    bail!("{target} was not reached within {TIME_LIMIT:?}");
}
