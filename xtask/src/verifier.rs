//! `cargo xtask verifier`: what the kernel's verifier says of each program.

use anyhow::Result;

use crate::{
    cargo::cargo,
    programs,
    setup::{self, Purpose},
};

/// Loads the programs, which root must do, and prints a line for each.
pub fn verifier() -> Result<()> {
    setup::ensure(Purpose::Build, false)?;
    programs::run(cargo("build").args(["--package", "vswitch", "--example", "verifier"]))?;
    programs::run(&mut programs::as_root(crate::cargo::target_directory().join("debug/examples/verifier")))
}
