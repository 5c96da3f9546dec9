//! `cargo xtask ci`: what CI runs.

use anyhow::Result;

use crate::test;

/// The same as `cargo xtask test`, but a part that cannot be run here is a failure.
pub fn ci() -> Result<()> {
    test::test(&test::Options::complete())
}
