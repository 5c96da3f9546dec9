//! `vswitch-bench`: compares vswitch with a direct wire, the Linux bridge and macvlan, alternating
//! within one run.
#![cfg_attr(
    not(feature = "full"),
    expect(dead_code, unused_imports, reason = "the demo needs a part of the measurements")
)]

mod api;
mod bpf;
mod command;
mod cpus;
mod demo;
mod docker;
mod endpoint;
mod goals;
mod instance;
mod listening;
mod machine;
mod measure;
mod namespaces;
mod report;
mod results;
#[cfg(feature = "full")]
mod run;
mod serve;
mod statistics;
mod tables;
mod topology;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "vswitch-bench", version, about = "vswitch beside a direct wire, the Linux bridge and macvlan")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show two containers on vswitch beside a direct wire and a Linux bridge (about 40 seconds).
    ///
    /// Example: vswitch-bench demo
    Demo(demo::Options),
    /// Measure everything and write a table, result.json and a plot.
    ///
    /// Example: vswitch-bench run --rounds 3 --only tcp1 --only frames --check
    #[cfg(feature = "full")]
    Run(run::Options),
    /// The server for the connections that `run` counts. `run` starts it in containers.
    #[command(hide = true)]
    Serve(serve::Serve),
}

fn main() -> ExitCode {
    match Cli::parse().verb.perform() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vswitch-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Verb {
    fn perform(self) -> Result<ExitCode> {
        match self {
            // The server runs in a container, where no guards wait for a signal.
            Self::Serve(options) => serve::serve(&options),
            Self::Demo(options) => as_root(|| demo::demo(&options)),
            #[cfg(feature = "full")]
            Self::Run(options) => as_root(|| run::run(&options)),
        }
    }
}

/// Runs a verb that creates namespaces and switches. It requires root, and cleans up after a
/// signal.
fn as_root(perform: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and eBPF programs require root (run this command with sudo)");
    }
    command::install_signal_handlers()?;
    perform()
}
