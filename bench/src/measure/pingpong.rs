//! TCP request and response: 64 bytes there, 64 bytes back, one at a time.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::CLIENT_CPU;
use crate::{
    command::stop_if_interrupted,
    namespaces::join,
    statistics::quantile,
    topology::{Endpoint, Pair},
};

/// Of both ends. The scheduler puts them on one CPU by itself where it may choose; on two, each message would wake an idle CPU,
/// which takes 30 us on a virtual machine and hides whatever the switch takes.
const CPU: usize = CLIENT_CPU;
const MESSAGE: usize = 64;
const WARM_UP: usize = 2_000;
const ROUND_TRIPS: usize = 20_000;
/// No round trip takes this long; a lost connection must not hang the bench.
const PATIENCE: Duration = Duration::from_secs(5);

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrip {
    /// Half of them were at most this.
    pub p50: f64,
    /// All but one in a hundred were at most this.
    pub p99: f64,
}

/// Measures on a connection of its own.
pub fn round_trip(pair: &Pair) -> Result<RoundTrip> {
    between(&pair.client, &pair.server)
}

/// The same between any two ends.
pub fn between(client: &Endpoint, server: &Endpoint) -> Result<RoundTrip> {
    std::thread::scope(|scope| {
        // Bound before the client starts: it needs no retry.
        let listener = join(server.netns.spawn(scope, CPU, || {
            TcpListener::bind(SocketAddr::from((server.ipv4, 0))).context("listening for the ping-pong client")
        }))?;
        let address = listener.local_addr()?;
        let played = client.netns.spawn(scope, CPU, move || play(address));
        let answered = server.netns.spawn(scope, CPU, move || answer(&listener));
        let (played, answered) = (join(played), join(answered));
        // The client's error comes first: the server only sees that nobody called.
        let times = played?;
        answered?;
        Ok(times)
    })
}

fn answer(listener: &TcpListener) -> Result<()> {
    // The client's patience ends first and closes the connection, which ends the loop; accept alone could wait for ever.
    nix::sys::socket::setsockopt(
        listener,
        nix::sys::socket::sockopt::ReceiveTimeout,
        &nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0),
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

fn play(server: SocketAddr) -> Result<RoundTrip> {
    let mut stream =
        TcpStream::connect_timeout(&server, PATIENCE).with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut message = [0x5a; MESSAGE];
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for trip in 0..WARM_UP + ROUND_TRIPS {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message).context("waiting for the answer")?;
        if trip >= WARM_UP {
            times.push(start.elapsed().as_nanos() as u64);
        }
        if trip.is_multiple_of(1_000) {
            stop_if_interrupted()?;
        }
    }
    times.sort_unstable();
    let at = |fraction| quantile(&times, fraction).map(|nanoseconds| nanoseconds as f64 / 1e3).context("no round trip");
    Ok(RoundTrip { p50: at(0.50)?, p99: at(0.99)? })
}
