//! TCP request and response: 64 bytes each way, one at a time.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    command::stop_if_interrupted, cpus::CLIENT_CPU, endpoint::Endpoint, namespaces::join, statistics::quantile,
    topology::Pair,
};

/// The CPU of both ends. The scheduler also chooses one CPU for both if it may. On two CPUs each
/// message would wake an idle CPU, which takes 30 us on a virtual machine and hides the cost of the
/// switch.
const CPU: usize = CLIENT_CPU;
const MESSAGE: usize = 64;
const WARM_UP: usize = 2_000;
const ROUND_TRIPS: usize = 20_000;
/// Time limit for a round trip, so that a lost connection does not block the bench.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrip {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// Measures on a new connection between the ends of a pair.
pub fn round_trip(pair: &Pair) -> Result<RoundTrip> {
    round_trip_between(&pair.client, &pair.server)
}

/// Measures on a new connection between any two endpoints.
pub fn round_trip_between(client: &Endpoint, server: &Endpoint) -> Result<RoundTrip> {
    std::thread::scope(|scope| {
        // The listener exists before the client starts, so the client needs no retry.
        let listener = join(server.netns.spawn(scope, CPU, || {
            TcpListener::bind(SocketAddr::from((server.ipv4, 0))).context("listening for the ping-pong client")
        }))?;
        let address = listener.local_addr()?;
        let client_result = client.netns.spawn(scope, CPU, move || run_client(address));
        let server_result = server.netns.spawn(scope, CPU, move || run_server(&listener));
        let (client_result, server_result) = (join(client_result), join(server_result));
        // The client's error is the cause, and is returned first. The server only sees a missing
        // client.
        let times = client_result?;
        server_result?;
        Ok(times)
    })
}

fn run_server(listener: &TcpListener) -> Result<()> {
    // A client that times out closes the connection, which ends the loop below. `accept` itself
    // could block forever.
    nix::sys::socket::setsockopt(
        listener,
        nix::sys::socket::sockopt::ReceiveTimeout,
        &nix::sys::time::TimeVal::new(TIME_LIMIT.as_secs().cast_signed(), 0),
    )?;
    let (mut stream, _) = listener.accept().context("waiting for the ping-pong client")?;
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).is_ok() {
        if stream.write_all(&message).is_err() {
            break;
        }
    }
    Ok(())
}

fn run_client(server: SocketAddr) -> Result<RoundTrip> {
    let mut stream =
        TcpStream::connect_timeout(&server, TIME_LIMIT).with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    let mut message = [0x5a; MESSAGE];
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for trip in 0..WARM_UP + ROUND_TRIPS {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message).context("waiting for the response")?;
        if trip >= WARM_UP {
            times.push(start.elapsed().as_nanos() as u64);
        }
        if trip.is_multiple_of(1_000) {
            stop_if_interrupted()?;
        }
    }
    times.sort_unstable();
    let at = |fraction| {
        quantile(&times, fraction).map(|nanoseconds| nanoseconds as f64 / 1e3).context("no round trip was measured")
    };
    Ok(RoundTrip { p50: at(0.50)?, p99: at(0.99)? })
}
