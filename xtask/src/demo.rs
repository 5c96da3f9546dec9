//! `cargo xtask demo`: two containers talk through the switch, beside a direct wire and a Linux bridge.

use anyhow::Result;
use clap::Args;

use crate::{
    cargo, programs,
    setup::{self, Purpose},
};

/// What `cargo xtask demo` takes.
#[derive(Args)]
pub struct Options {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Passed on to `vswitch-bench demo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Sets up, builds, and shows it.
pub fn demo(options: &Options) -> Result<()> {
    setup::ensure(Purpose::Run, options.yes)?;
    let bench = cargo::build_release()?;
    programs::run(programs::as_root(bench).arg("demo").args(&options.rest))
}
