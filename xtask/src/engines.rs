//! `cargo xtask engines`: the tests with real engines, on all root file systems.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    cargo::cargo,
    programs,
    setup::{
        self, Purpose,
        engines::{self, ALL_REQUIRED},
    },
    test,
};

/// Arguments of `cargo xtask engines`.
#[derive(Args)]
pub struct Options {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Run only the tests whose name contains one of these
    filters: Vec<String>,
}

/// Runs the tests. A missing engine is a failure.
pub fn engines(options: &Options) -> Result<()> {
    setup::ensure(Purpose::Test, options.yes)?;
    let roots = engines::make(engines::roots(true));
    let package = ["--package", "vswitch", "--test", "engines"];
    programs::run(cargo("test").args(package).arg("--no-run"))?;
    roots.wait().context("making the root file systems")?;
    let mut tests = cargo("test");
    tests.args(package).arg("--").args(&options.filters).env(ALL_REQUIRED, "1");
    programs::run(test::as_root(&mut tests))
}
