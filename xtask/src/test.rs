//! `cargo xtask test`: formatting, lints, documentation, all tests here, and the end-to-end tests on older kernels.

use std::{env, process::Command};

use anyhow::Result;
use clap::Args;

use crate::{
    cargo::{self, HOST_PACKAGES, cargo},
    kernels::{self, Trial, Virtualization},
    programs,
    setup::{self, Purpose},
    summary::{Ending, Summary},
};

/// The tests that are run again on other kernels: what depends on the kernel's age, from the hooks to the last trace of
/// them, and what asks for more than kernels without modules have. `cargo xtask kernels` runs all; without KVM that takes
/// half an hour.
const OF_KERNELS: [&str; 14] = [
    "accounting::every_frame_is_accounted_for_with_tc",
    "attach::three_containers",
    "connect::traffic_in_one_network",
    "down::down_leaves",
    "overlay_forged::a_packet",
    "overlay_forged::nobody_on_a_host",
    "parent_vlans::networks_of_both",
    "a_pair_of_veth",
    "this_kernel",
    "the_loaded_programs",
    "a_replayed_packet",
    "hosts_of_either_kind",
    "nothing_of_what_is_sent",
    "the_kernels_device",
];

/// Those for the oldest alone: it has no tcx, and the later one has the hooks that are tested here.
const OF_THE_OLDEST: [&str; 11] = [
    "down::down_cleans",
    "fdb::endpoints_are_known",
    "fdb::link_local",
    "guards::an_endpoint_speaks",
    "isolation::the_host_routes_nothing",
    "multicast::one_listener_of_ten",
    "ipvlan::l3s_is_for",
    "macvlan::broadcasts_are_heard",
    "published::a_port_is_reached_from_all",
    "suppress::kernels_find",
    "vlan_ports::an_uplink_carries",
];

/// What `cargo xtask test` takes.
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
    /// All of it, and no part may be left out.
    pub fn complete() -> Self {
        Self { complete: true, ..Self::default() }
    }
}

/// Runs every step, whatever became of those before it.
pub fn test(options: &Options) -> Result<()> {
    setup::ensure(if options.no_kernels { Purpose::Run } else { Purpose::Test }, options.yes)?;
    let mut summary = Summary::default();
    if options.filters.is_empty() {
        summary.step("fmt", || programs::run(cargo("fmt").args(["--all", "--check"])).into());
        summary.step("clippy", || programs::run(&mut clippy()).into());
        summary.step("clippy of the eBPF programs", || programs::run(&mut clippy_for_bpf()).into());
        summary.step("doc", || programs::run(&mut doc()).into());
    }
    summary.step("tests", || programs::run(&mut tests(&options.filters)).into());
    if !options.no_kernels {
        let complete = options.complete || env::var_os("CI").is_some();
        match cargo::build_end_to_end() {
            Ok(tests) => {
                let mut virtualization = Virtualization::default();
                for kernel in kernels::KERNELS {
                    let of_kernel = of_kernel(kernel);
                    let filters = if options.filters.is_empty() { &of_kernel } else { &options.filters };
                    summary.step(&format!("tests on Linux {kernel}"), || {
                        match Trial::new(kernel, filters).run(&tests, &mut virtualization) {
                            Ending::NotRun(reason) if complete => Ending::Failed(reason),
                            ending => ending,
                        }
                    });
                }
            }
            Err(error) => summary.step("tests on other kernels", || Err(error).into()),
        }
    }
    summary.close()
}

/// What is run on one of the other kernels.
fn of_kernel(kernel: &str) -> Vec<String> {
    let [oldest, ..] = kernels::KERNELS;
    let more = if kernel == oldest { &OF_THE_OLDEST[..] } else { &[] };
    OF_KERNELS.iter().chain(more).map(|&test| test.to_owned()).collect()
}

fn clippy() -> Command {
    let mut command = cargo("clippy");
    command.args(HOST_PACKAGES).args(["--all-targets", "--", "--deny", "warnings"]);
    command
}

/// For the BPF target, with what aya-build says to the compiler.
fn clippy_for_bpf() -> Command {
    let mut command = setup::nightly("cargo", &["clippy", "--package", "vswitch-ebpf", "--release"]);
    command.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]);
    command.arg(cargo::target_directory().join("bpf-clippy")).args(["--", "--deny", "warnings"]);
    command.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));
    command.current_dir(cargo::root());
    command
}

/// Links in the documentation that lead nowhere.
fn doc() -> Command {
    let mut command = cargo("doc");
    command.args(HOST_PACKAGES).args(["--no-deps", "--document-private-items"]);
    // Comments on options are what --help prints, <PLACEHOLDERS> and all.
    command.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::invalid_html_tags");
    command
}

fn tests(filters: &[String]) -> Command {
    let mut command = cargo("test");
    command.args(HOST_PACKAGES).args(["--no-fail-fast", "--"]).args(filters);
    if !programs::is_root() {
        // Namespaces and eBPF programs are root's; what cargo builds stays ours.
        let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", env::consts::ARCH.to_uppercase());
        command.env(runner, "sudo --preserve-env");
    }
    command
}
