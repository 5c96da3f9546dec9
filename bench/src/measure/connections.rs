//! TCP connections per second: connect, one byte each way, close.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    command::stop_if_interrupted,
    cpus::CLIENT_CPU,
    namespaces::{NetnsName, join},
    serve::{CONCURRENT, PORT, TIME_LIMIT},
};

/// Connections per thread in one sample.
const CONNECTIONS: usize = 1_000;
/// Connections per thread before the measurement.
const WARM_UP: usize = 50;

/// Adjusts the sysctls of a namespace so that it can make connections during the whole run.
pub fn prepare(client: &NetnsName) -> Result<()> {
    client.inside(CLIENT_CPU, || {
        // A sample leaves 8,000 ports in TIME_WAIT for a minute. They may be reused after one
        // second.
        for (setting, value) in [("ip_local_port_range", "10000 65535"), ("tcp_tw_reuse", "1")] {
            let path = format!("/proc/sys/net/ipv4/{setting}");
            fs::write(&path, value).with_context(|| format!("writing {path}"))?;
        }
        Ok(())
    })
}

/// Returns the connections per second that were made, used and closed.
pub fn per_second(client: &NetnsName, server: Ipv4Addr) -> Result<f64> {
    let server = SocketAddr::from((server, PORT));
    connect_all(client, server, WARM_UP)?;
    let start = Instant::now();
    connect_all(client, server, CONNECTIONS)?;
    Ok((CONCURRENT * CONNECTIONS) as f64 / start.elapsed().as_secs_f64())
}

fn connect_all(client: &NetnsName, server: SocketAddr, count: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let connect_in_turn = move || {
            for number in 0..count {
                connect(server).with_context(|| format!("connection {number} to {server}"))?;
                if number.is_multiple_of(100) {
                    stop_if_interrupted()?;
                }
            }
            Ok(())
        };
        let threads: Vec<_> = (0..CONCURRENT).map(|_| client.spawn(scope, CLIENT_CPU, connect_in_turn)).collect();
        threads.into_iter().try_for_each(join)
    })
}

fn connect(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, TIME_LIMIT).context("connecting")?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    let mut byte = [0x5a];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte).context("waiting for the echoed byte")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::serve::answer;

    #[test]
    fn server_echoes_the_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| answer(listener.accept().unwrap().0));
            connect(address).unwrap();
        });
    }
}
