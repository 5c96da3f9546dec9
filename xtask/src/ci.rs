//! `cargo xtask ci`: what CI runs.

use anyhow::Result;

use crate::test;

/// Runs `cargo xtask test`. A part that cannot run on this machine is a failure.
pub fn ci() -> Result<()> {
    test::test(&test::Options::complete())
}
