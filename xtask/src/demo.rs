//! `cargo xtask demo`: traffic between two containers on the switch, beside a direct wire and a
//! Linux bridge.

use anyhow::Result;
use clap::Args;

use crate::{
    cargo, programs,
    setup::{self, Purpose},
};

/// Arguments of `cargo xtask demo`.
#[derive(Args)]
pub struct Options {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Passed on to `vswitch-bench demo`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Sets up, builds, and runs the demo.
pub fn demo(options: &Options) -> Result<()> {
    setup::ensure(Purpose::Run, options.yes)?;
    let bench = cargo::build_demo()?;
    programs::run(programs::as_root(bench).arg("demo").args(&options.rest))
}
