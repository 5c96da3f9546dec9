//! `cargo xtask test`: formatting, lints, documentation, all tests on this kernel, and those that
//! depend on the kernel on older ones.

use std::{env, num::NonZero, process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{
    cargo::{self, EndToEnd, HOST_PACKAGES, cargo},
    kernels::{self, Trial, Virtualization},
    programs,
    setup::{self, Purpose, engines},
    summary::{Ending, Summary},
    times::{self, Times},
};

/// The tests that also run on every other kernel: does it accept the programs, and do they work with
/// the drivers that a kernel without modules lacks (WireGuard, VLAN devices)? `cargo xtask kernels`
/// runs all tests.
const OF_KERNELS: [&str; 10] = [
    "attach::three_containers",
    "overlay_forged::a_packet",
    "parent_vlans::networks_of_both",
    "a_veth_pair_is_created",
    "this_kernel",
    "programs_of_another_version",
    "a_replayed_packet",
    "hosts_with_different_backends",
    "traffic_is_not_readable",
    "the_kernel_device_outlives",
];

/// Further tests for the oldest kernel. It has no tcx, so the programs are filters of clsact there.
/// The later kernel has the same hooks as this one.
const OF_THE_OLDEST: [&str; 16] = [
    "accounting::every_frame_is_accounted_for_with_tc",
    "connect::traffic_in_one_network",
    "down::down_cleans",
    "down::down_leaves",
    "fdb::endpoints_have_static",
    "fdb::link_local",
    "guards::an_endpoint_can_use",
    "ipvlan::l3s_traffic",
    "isolation::the_host_does_not_route",
    "macvlan::broadcasts_reach",
    "multicast::one_listener_of_ten",
    "overlay_forged::only_tunnels",
    "published::a_port_is_reached_from_all",
    "suppress::kernels_find",
    "the_loaded_programs",
    "vlan_ports::an_uplink_carries",
];

/// The most failed tests that are repeated. More are a fault that no busy machine explains.
const MOST_REPEATED: usize = 4;

/// Arguments of `cargo xtask test`.
#[derive(Args, Default)]
pub struct Options {
    /// Leave out the virtual machines with older kernels
    #[arg(long)]
    no_kernels: bool,
    /// A part that cannot be run on this machine is a failure (as where CI=true)
    #[arg(long)]
    complete: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// Run only the tests whose name contains one of these, and no lints
    filters: Vec<String>,
}

impl Options {
    /// Returns the options of a complete run: no part may be left out.
    pub fn complete() -> Self {
        Self { complete: true, ..Self::default() }
    }
}

/// Runs every step, also after a failure.
pub fn test(options: &Options) -> Result<()> {
    setup::ensure(if options.no_kernels { Purpose::Run } else { Purpose::Test }, options.yes)?;
    let mut summary = Summary::default();
    // The root file system is made while cargo compiles.
    let roots = engines::make(engines::roots(false));
    if options.filters.is_empty() {
        summary.step("fmt", || programs::run(cargo("fmt").args(["--all", "--check"])).into());
        summary.step("clippy", || programs::run(&mut clippy()).into());
        summary.step("clippy of the eBPF programs", || programs::run(&mut clippy_for_bpf()).into());
        summary.step("doc", || programs::run(&mut doc()).into());
    }
    let mut times = Times::default();
    summary.step("build of the tests", || programs::run(cargo("test").args(HOST_PACKAGES).args(["--no-run"])).into());
    summary.step("root of engines", || roots.wait().into());
    summary.step("tests", || {
        repeating(&mut times, |times, repeated| {
            let mut tests = match repeated {
                None => tests(&options.filters, &[&format!("--test-threads={}", threads())]),
                Some(failed) => tests(failed, &["--exact", "--test-threads=1"]),
            };
            programs::run_reading(&mut tests, |line| times.read(line)).into()
        })
    });
    if options.filters.is_empty() {
        summary.step("documentation tests", || programs::run(cargo("test").args(HOST_PACKAGES).arg("--doc")).into());
    }
    if !options.no_kernels {
        let complete = options.complete || env::var_os("CI").is_some();
        match cargo::build_end_to_end() {
            Ok(tests) => {
                if options.filters.is_empty() {
                    summary.step("names of tests for other kernels", || each_names_a_test(&tests).into());
                }
                let mut virtualization = Virtualization::default();
                for kernel in kernels::KERNELS {
                    let of_kernel = of_kernel(kernel);
                    let filters = if options.filters.is_empty() { &of_kernel } else { &options.filters };
                    summary.step(&format!("tests on Linux {kernel}"), || {
                        let ending = repeating(&mut times, |times, repeated| {
                            Trial::new(kernel, repeated.unwrap_or(filters)).run(&tests, &mut virtualization, times)
                        });
                        match ending {
                            Ending::NotRun(reason) if complete => Ending::Failed(reason),
                            ending => ending,
                        }
                    });
                }
            }
            Err(error) => summary.step("tests on other kernels", || Err(error).into()),
        }
    }
    let file = cargo::target_directory().join("test-times.tsv");
    times.write(&file)?;
    eprintln!("\nThe slowest tests (all are in {}):\n{times}", file.display());
    summary.close()
}

/// Returns the filters for one of the other kernels.
fn of_kernel(kernel: &str) -> Vec<String> {
    let [oldest, ..] = kernels::KERNELS;
    let more = if kernel == oldest { &OF_THE_OLDEST[..] } else { &[] };
    OF_KERNELS.iter().chain(more).map(|&test| test.to_owned()).collect()
}

/// Checks that each filter for other kernels still selects a test: a test that was renamed would no
/// longer run there, and nothing would report it.
fn each_names_a_test(tests: &EndToEnd) -> Result<()> {
    let lists = tests.tests.iter().map(|(name, program)| {
        let list = programs::output(Command::new(program).arg("--list"));
        list.with_context(|| format!("listing the tests of {name}"))
    });
    let listed = lists.collect::<Result<String>>()?;
    let of_nothing: Vec<_> =
        OF_KERNELS.iter().chain(&OF_THE_OLDEST).filter(|filter| !listed.contains(**filter)).collect();
    ensure!(of_nothing.is_empty(), "no test has a name with {of_nothing:?} (correct the lists in xtask/src/test.rs)");
    Ok(())
}

fn clippy() -> Command {
    let mut command = cargo("clippy");
    command.args(HOST_PACKAGES).args(["--all-targets", "--", "--deny", "warnings"]);
    command
}

/// Returns the call of clippy for the BPF target, with the compiler flags of aya-build.
fn clippy_for_bpf() -> Command {
    let mut command = setup::nightly("cargo", &["clippy", "--package", "vswitch-ebpf", "--release"]);
    command.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]);
    command.arg(cargo::target_directory().join("bpf-clippy")).args(["--", "--deny", "warnings"]);
    command.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));
    command.current_dir(cargo::root());
    command
}

/// Returns the check of the documentation for broken links.
fn doc() -> Command {
    let mut command = cargo("doc");
    command.args(HOST_PACKAGES).args(["--no-deps", "--document-private-items"]);
    // Comments of options are printed by --help and contain <PLACEHOLDERS>.
    command.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::invalid_html_tags");
    command
}

/// Runs tests. If a few fail, runs those once more, one after the other: on a busy machine a test
/// can lose a frame to another one. Such a test is named in the summary, because it is a fault of
/// the test or of the switch all the same. A test that fails twice fails the step.
fn repeating(times: &mut Times, mut run: impl FnMut(&mut Times, Option<&[String]>) -> Ending) -> Ending {
    times.begin();
    let first = run(times, None);
    let failed = times.failed().map(<[String]>::to_vec).unwrap_or_default();
    if !matches!(first, Ending::Failed(_)) || failed.is_empty() || failed.len() > MOST_REPEATED {
        return first;
    }
    eprintln!("==> FAILED, and repeated alone: {}", failed.join(", "));
    times.begin();
    match run(times, Some(&failed)) {
        Ending::Passed(_) => Ending::Passed(format!("BUT FAILED AT FIRST, passed alone: {}", failed.join(", "))),
        ending => ending,
    }
}

/// Returns the call of the tests whose names match a filter.
fn tests(filters: &[String], arguments: &[&str]) -> Command {
    let mut command = cargo("test");
    command.args(HOST_PACKAGES).args(["--lib", "--bins", "--tests", "--no-fail-fast", "--"]);
    command.args(times::REPORT).args(arguments).args(filters);
    as_root(&mut command);
    command
}

/// Makes a call of cargo run the test programs as root: namespaces and eBPF programs need it. What
/// cargo builds keeps its owner.
pub fn as_root(command: &mut Command) -> &mut Command {
    let root = if programs::is_root() { "" } else { "sudo --preserve-env " };
    let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", env::consts::ARCH.to_uppercase());
    command.env(runner, format!("{root}env {}", times::REPORT_ENVIRONMENT))
}

/// Returns how many tests run at once: most of them wait for grace periods of the kernel. End-to-end
/// tests that keep a processor busy have weights (vswitch/tests/e2e/harness/weight.rs).
fn threads() -> usize {
    3 * thread::available_parallelism().map_or(1, NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs programs that print these lines, one a run, and returns the ending and the repeated
    /// tests.
    fn repeated(outputs: &[&str]) -> (Ending, Vec<String>) {
        let mut again = Vec::new();
        let mut outputs = outputs.iter();
        let ending = repeating(&mut Times::default(), |times, tests| {
            again.extend(tests.into_iter().flatten().cloned());
            let output = outputs.next().expect("a run more than expected");
            times.read("Running tests/e2e/main.rs (target/debug/deps/e2e-12)");
            output.lines().for_each(|line| times.read(line));
            let failed = output.contains("FAILED").then(|| Ending::Failed("status 101".to_owned()));
            failed.unwrap_or_else(|| Ending::Passed(String::new()))
        });
        assert_eq!(outputs.next(), None, "a run less than expected");
        (ending, again)
    }

    const PASSED: &str = "test b ... ok <1.000s>\ntest result: ok.";
    const FAILED: &str = "test a ... ok <1.000s>\ntest b ... FAILED <1.000s>\ntest result: FAILED.";

    #[test]
    fn a_failed_test_is_repeated_once_and_named() {
        assert_eq!(repeated(&[PASSED]), (Ending::Passed(String::new()), vec![]));
        let (ending, again) = repeated(&[FAILED, PASSED]);
        assert!(matches!(&ending, Ending::Passed(remark) if remark.ends_with("passed alone: b")), "{ending:?}");
        assert_eq!(again, ["b"]);
        assert!(matches!(repeated(&[FAILED, FAILED]).0, Ending::Failed(_)));
    }

    #[test]
    fn many_failures_and_crashes_are_not_repeated() {
        let many: String = (0..=MOST_REPEATED).map(|number| format!("test t{number} ... FAILED <1.0s>\n")).collect();
        assert!(matches!(repeated(&[&(many + "test result: FAILED.")]).0, Ending::Failed(_)));
        let crashed = "test b ... FAILED <1.000s>";
        assert!(matches!(repeated(&[crashed]).0, Ending::Failed(_)), "the program printed no result");
    }
}
