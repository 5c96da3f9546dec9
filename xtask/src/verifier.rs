//! `cargo xtask verifier`: what the kernel's verifier says of each program, here and on other kernels.

use anyhow::Result;
use clap::Args;

use crate::{
    cargo::{self, cargo},
    kernels::{self, Virtualization},
    programs,
    setup::{self, Purpose},
};

/// What `cargo xtask verifier` takes.
#[derive(Args)]
pub struct Options {
    /// On this kernel of Debian's (6.1, 6.12) or vmlinuz instead of the running one; may be given more than once
    #[arg(long = "kernel", value_name = "VERSION|PATH")]
    kernels: Vec<String>,
}

/// Loads the programs, which root must do, and prints a line for each.
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
