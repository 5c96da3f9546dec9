//! A server in a process of its own, from the moment that it says that it listens to the end of this value.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// A server that listens.
#[derive(Debug)]
pub struct Listening(Child);

impl Listening {
    /// Starts it, and waits for a line with the word "listening".
    pub fn start(server: &mut Command) -> Result<Self> {
        // A process group of its own: the terminal's Ctrl-C is for us, who end it when its turn comes.
        server.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut started = Self(server.spawn().map_err(|error| command::not_started(server, &error))?);

        let stdout = started.0.stdout.take().context("the server's output is not ours")?;
        let mut lines = BufReader::new(stdout).lines();
        let listens = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening"));
        let mut stderr = started.0.stderr.take().context("the server's errors are not ours")?;
        if !listens {
            let mut words = String::new();
            stderr.read_to_string(&mut words)?;
            bail!("`{}` did not come to listen: {}", command::line(server), words.trim());
        }
        // What it says further is of no interest, but someone has to take it, or it stops when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Ok(started)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // nsenter has become the server by exec, so this ends the server itself.
        if self.0.kill().is_ok() {
            // Reaped, so that nothing of it is left; its status says only that we killed it.
            let _killed = self.0.wait();
        }
    }
}
