//! `cargo xtask bench`: the full measurement, beside a direct wire, the Linux bridge and macvlan.

use anyhow::Result;
use clap::Args;

use crate::{
    cargo, programs,
    setup::{self, Purpose},
};

/// What `cargo xtask bench` takes.
#[derive(Args)]
pub struct Options {
    /// Passed on to `vswitch-bench run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Sets up, builds, and measures.
pub fn bench(options: &Options) -> Result<()> {
    setup::ensure(Purpose::Run, false)?;
    let bench = cargo::build_release()?;
    programs::run(programs::as_root(bench).arg("run").args(&options.rest))
}
