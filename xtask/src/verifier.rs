//! `cargo xtask verifier`: the verifier's statistics of each program, on this and other kernels.

use anyhow::Result;
use clap::Args;

use crate::{
    cargo::{self, cargo},
    kernels::{self, Virtualization},
    programs,
    setup::{self, Purpose},
};

/// Arguments of `cargo xtask verifier`.
#[derive(Args)]
pub struct Options {
    /// A kernel of Debian (6.1, 6.12) or a vmlinuz instead of the running kernel; repeatable
    #[arg(long = "kernel", value_name = "VERSION|PATH")]
    kernels: Vec<String>,
}

/// Loads the programs as root, and prints a line for each.
pub fn verifier(options: &Options) -> Result<()> {
    setup::ensure(if options.kernels.is_empty() { Purpose::Build } else { Purpose::Test }, false)?;
    programs::run(cargo("build").args(["--package", "vswitch", "--example", "verifier"]))?;
    let example = cargo::target_directory().join("debug/examples/verifier");
    if options.kernels.is_empty() {
        return programs::run(&mut programs::as_root(example));
    }
    let mut virtualization = Virtualization::default();
    options.kernels.iter().try_for_each(|kernel| kernels::run(kernel, example.clone(), &mut virtualization))
}
