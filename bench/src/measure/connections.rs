//! TCP connections per second: connect, a byte each way, close.

use std::{
    fs,
    io::{Read as _, Write as _, stdout},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{CLIENT_CPU, server_cpu};
use crate::{
    command::stop_if_interrupted,
    namespaces::{NetnsName, join, pin},
};

/// Where the server listens.
pub const PORT: u16 = 7000;
/// At a time, and as many threads at either end.
const AT_A_TIME: usize = 8;
/// In one sample, of each thread.
const CONNECTIONS: usize = 1_000;
/// Of each thread, before the clock starts.
const WARM_UP: usize = 50;
/// No connection takes this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the server takes.
#[derive(Args)]
pub struct Serve {
    /// The CPU that it stays on
    #[arg(long)]
    cpu: usize,
    /// Where it listens
    #[arg(long, default_value_t = PORT)]
    port: u16,
}

impl Serve {
    /// The arguments of this binary that start a server beside the clients of this run.
    pub fn arguments() -> [String; 3] {
        ["serve".to_owned(), "--cpu".to_owned(), server_cpu().to_string()]
    }
}

/// Answers each connection's byte until the process is killed.
pub fn serve(options: &Serve) -> Result<ExitCode> {
    pin(options.cpu)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port)).context("listening for connections")?;
    println!("listening on {}", listener.local_addr()?);
    stdout().flush()?;
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    // A client that went away is no reason to stop serving the others.
                    if let Ok((stream, _)) = listener.accept() {
                        let _gone = answer(stream);
                    }
                }
            });
        }
    });
    Ok(ExitCode::SUCCESS)
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    // The client closes first, as clients do, so that its end waits in TIME_WAIT and not the server's.
    stream.read_exact(&mut byte)?;
    Ok(())
}

/// Lets a namespace make connections for as long as the bench runs: its own ports, its own settings.
pub fn prepare(client: &NetnsName) -> Result<()> {
    client.inside(CLIENT_CPU, || {
        // A sample leaves 8,000 ports in TIME_WAIT for a minute; they may be used again when a second has passed.
        for (setting, value) in [("ip_local_port_range", "10000 65535"), ("tcp_tw_reuse", "1")] {
            let path = format!("/proc/sys/net/ipv4/{setting}");
            fs::write(&path, value).with_context(|| format!("writing {path}"))?;
        }
        Ok(())
    })
}

/// Connections that were made, used and closed in a second.
pub fn per_second(client: &NetnsName, server: Ipv4Addr) -> Result<f64> {
    let server = SocketAddr::from((server, PORT));
    connect_all(client, server, WARM_UP)?;
    let start = Instant::now();
    connect_all(client, server, CONNECTIONS)?;
    Ok((AT_A_TIME * CONNECTIONS) as f64 / start.elapsed().as_secs_f64())
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
        let threads: Vec<_> = (0..AT_A_TIME).map(|_| client.spawn(scope, CLIENT_CPU, connect_in_turn)).collect();
        threads.into_iter().try_for_each(join)
    })
}

fn connect(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0x5a];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte).context("waiting for the byte to come back")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_gets_its_byte_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| answer(listener.accept().unwrap().0));
            connect(address).unwrap();
        });
    }
}
