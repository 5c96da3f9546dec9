//! `serve`: the server of TCP connections, which echoes one byte per connection.

use std::{
    io::{Read as _, Write as _, stdout},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{cpus::server_cpu, namespaces::pin};

/// The port of the server.
pub const PORT: u16 = 7000;
/// Number of concurrent connections, and of threads at each end.
pub const CONCURRENT: usize = 8;
/// Time limit for a connection.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Arguments of the server.
#[derive(Args)]
pub struct Serve {
    /// The CPU to run on
    #[arg(long)]
    cpu: usize,
    /// The port to listen on
    #[arg(long, default_value_t = PORT)]
    port: u16,
}

impl Serve {
    /// Returns the arguments of this binary that start the server on the server's CPU.
    pub fn arguments() -> [String; 3] {
        ["serve".to_owned(), "--cpu".to_owned(), server_cpu().to_string()]
    }
}

/// Echoes one byte per connection until the process is killed.
pub fn serve(options: &Serve) -> Result<ExitCode> {
    pin(options.cpu)?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port)).context("listening for connections")?;
    println!("listening on {}", listener.local_addr()?);
    stdout().flush()?;
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT {
            scope.spawn(|| {
                loop {
                    // A client that disconnects early must not stop the server.
                    if let Ok((stream, _)) = listener.accept() {
                        let _gone = answer(stream);
                    }
                }
            });
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// Echoes one byte and waits until the client closes the connection.
pub fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    // The client closes first, as usual, so that its end stays in TIME_WAIT and not the server's.
    stream.read_exact(&mut byte)?;
    Ok(())
}
