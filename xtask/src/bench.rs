//! `cargo xtask bench`: measures everything beside a direct wire, the Linux bridge, macvlan and
//! Docker.

use anyhow::Result;
use clap::Args;

use crate::{
    cargo, programs,
    setup::{self, Purpose},
};

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    /// Passed on to `vswitch-bench run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Sets up, builds, and measures.
pub fn bench(options: &Options) -> Result<()> {
    setup::ensure(purpose(&options.rest), false)?;
    let bench = cargo::build_release()?;
    programs::run(programs::as_root(bench).arg("run").args(&options.rest))
}

/// Returns what must be installed: Docker only for measurements beside it.
fn purpose(rest: &[String]) -> Purpose {
    let mut only = rest.iter().zip(rest.iter().skip(1)).filter(|(option, _)| *option == "--only").peekable();
    let all = only.peek().is_none();
    if all || only.any(|(_, what)| what == "published") { Purpose::Bench } else { Purpose::Run }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_is_installed_only_to_measure_published_ports() {
        let purpose = |rest: &str| purpose(&rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(purpose("--rounds 3"), Purpose::Bench);
        assert_eq!(purpose("--only tcp1 --only published"), Purpose::Bench);
        assert_eq!(purpose("--only tcp1 --only frames"), Purpose::Run);
    }
}
