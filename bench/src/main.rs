//! `vswitch-bench`: vswitch beside a direct wire, the Linux bridge and macvlan, in turns within one run.

mod bpf;
mod command;
mod demo;
mod docker;
mod goals;
mod instance;
mod listening;
mod machine;
mod measure;
mod namespaces;
mod operators;
mod report;
mod run;
mod statistics;
mod tables;
mod topology;

use std::{path::PathBuf, process::ExitCode};

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
    /// Two containers talk through a switch of their own, beside a wire and a Linux bridge (about 40 seconds).
    ///
    /// Example: vswitch-bench demo
    Demo(demo::Options),
    /// The full measurement: a table, result.json and a plot.
    ///
    /// Example: vswitch-bench run --rounds 3 --only tcp1 --only frames --check
    Run(run::Options),
    /// The server of the connections that `run` counts; started by it, in containers.
    #[command(hide = true)]
    Serve(measure::connections::Serve),
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
            // In a container, where no guard waits for a signal.
            Self::Serve(options) => measure::connections::serve(&options),
            Self::Demo(options) => as_root(|| demo::demo(&options)),
            Self::Run(options) => as_root(|| run::run(&options)),
        }
    }
}

/// What makes namespaces and switches, and removes them when a signal comes.
fn as_root(perform: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces and eBPF programs need root (start it with sudo)");
    }
    command::watch_for_interrupts()?;
    perform()
}

/// The `vswitch` to try: the one asked for, else the one built beside this binary.
fn vswitch_binary(asked: Option<&PathBuf>) -> Result<PathBuf> {
    let path = match asked {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("vswitch"),
    };
    if !path.is_file() {
        bail!("no vswitch at {} (build it with `cargo build --release`, or say --vswitch PATH)", path.display());
    }
    Ok(path)
}
