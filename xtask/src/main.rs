//! `cargo xtask VERB`: everything that is done to this repository, one verb each.

mod bench;
mod cargo;
mod ci;
mod demo;
mod engines;
mod kernels;
mod programs;
mod progress;
mod setup;
mod summary;
mod test;
mod times;
mod verifier;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Set-up, demo, tests and benches of vswitch")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building, running and testing vswitch needs and this machine lacks
    Setup(setup::Options),
    /// See two containers talk through the switch, beside a direct wire and a Linux bridge (two minutes)
    Demo(demo::Options),
    /// Check formatting and lints, run all tests, here and on older kernels
    Test(test::Options),
    /// What CI runs: `test`, where no part may be left out
    Ci,
    /// Run the end-to-end tests on other kernels, in virtual machines
    Kernels(kernels::Options),
    /// Run the tests with container engines, on all of Debian's versions of them
    Engines(engines::Options),
    /// What the kernel's verifier says of each program: instructions visited, stack, size
    Verifier(verifier::Options),
    /// Measure vswitch beside a direct wire, the Linux bridge and macvlan
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup(options) => setup::setup(&options),
        Verb::Demo(options) => demo::demo(&options),
        Verb::Test(options) => test::test(&options),
        Verb::Ci => ci::ci(),
        Verb::Kernels(options) => kernels::kernels(&options),
        Verb::Engines(options) => engines::engines(&options),
        Verb::Verifier(options) => verifier::verifier(&options),
        Verb::Bench(options) => bench::bench(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
