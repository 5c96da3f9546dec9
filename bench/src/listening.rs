//! A server process that is known to listen and is killed on drop.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// Arguments of an iperf3 server. With `--forceflush` it reports at once that it listens, even into
/// a pipe.
pub const IPERF3_SERVER: [&str; 2] = ["--server", "--forceflush"];

/// A listening server.
#[derive(Debug)]
pub struct ListeningServer(Child);

impl ListeningServer {
    /// Starts the server and waits for an output line with the word "listening".
    pub fn start(server: &mut Command) -> Result<Self> {
        // In its own process group the server does not receive the terminal's Ctrl-C.
        server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut started = Self(server.spawn().map_err(|error| command::start_error(server, &error))?);

        let stdout = started.0.stdout.take().context("the server has no stdout pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        let is_listening = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening"));
        let mut stderr = started.0.stderr.take().context("the server has no stderr pipe")?;
        if !is_listening {
            let mut output = String::new();
            stderr.read_to_string(&mut output)?;
            bail!("`{}` exited before it listened: {}", command::command_line(server), output.trim());
        }
        // The rest of the output is read and discarded, because the server would block on a full
        // pipe.
        std::thread::spawn(move || lines.for_each(drop));
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Ok(started)
    }
}

impl Drop for ListeningServer {
    fn drop(&mut self) {
        // nsenter became the server by exec, so this kills the server itself.
        if self.0.kill().is_ok() {
            // The server is reaped. Its exit status only says that it was killed.
            let _killed = self.0.wait();
        }
    }
}
