//! `cargo xtask setup`: installs missing programs for building, running and testing vswitch.

mod distribution;
pub mod engines;
mod requirements;
mod services;
mod toolchain;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{cargo, programs, progress};
use distribution::Distribution;
pub use requirements::QEMU;
use requirements::Requirement;
pub use toolchain::nightly;
use toolchain::{BpfLinker, Nightly};

/// Arguments of `cargo xtask setup`.
#[derive(Args)]
pub struct Options {
    /// Install without asking
    #[arg(long)]
    yes: bool,
    /// Also make the root file system with Docker, podman and containerd, for the tests of engines
    #[arg(long)]
    engines: bool,
    /// With --engines: also those with older engines, LXC, Incus, nspawn and bubblewrap
    #[arg(long, requires = "engines")]
    all: bool,
}

/// The task for which the machine is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Building vswitch.
    Build,
    /// The demo and other verbs that start vswitch. Includes `Build`.
    Run,
    /// The tests, here and on other kernels. Includes `Run`.
    Test,
    /// The benchmark, with Docker for comparison. Includes `Run`.
    Bench,
}

impl Purpose {
    /// Returns whether this purpose includes the requirements of `other`.
    fn includes(self, other: Self) -> bool {
        match other {
            Self::Build => true,
            Self::Run => self != Self::Build,
            Self::Test | Self::Bench => self == other,
        }
    }
}

/// Installs the requirements of every verb except `bench`, which alone needs a Docker daemon.
pub fn setup(options: &Options) -> Result<()> {
    if !ensure(Purpose::Test, options.yes)? {
        eprintln!("setup: nothing is missing");
    }
    if options.engines { engines::make(engines::roots(options.all)).wait() } else { Ok(()) }
}

/// Installs missing requirements of a purpose. Returns whether any were missing.
pub fn ensure(purpose: Purpose, yes: bool) -> Result<bool> {
    let missing = Missing::find(purpose)?;
    if missing.is_empty() {
        return Ok(false);
    }
    let distribution = Distribution::here();
    if distribution != Distribution::Debian && !missing.requirements.is_empty() {
        bail!("{}", missing.advice(distribution));
    }
    eprintln!("setup: these requirements are missing and will be installed:\n{}", missing.list());
    if !yes && io::stdin().is_terminal() && !confirm()? {
        bail!(
            "nothing was installed (run `cargo xtask setup` to be asked again, or with `--yes` to install without asking)"
        );
    }
    missing.install()?;
    let still_missing = Missing::find(purpose)?;
    if !still_missing.is_empty() {
        bail!("these requirements are still missing after the installation:\n{}", still_missing.list());
    }
    eprintln!("setup: done");
    Ok(true)
}

/// The missing requirements.
struct Missing {
    requirements: Vec<Requirement>,
    rust_src: bool,
    bpf_linker: Option<BpfLinker>,
    nightly: Nightly,
}

impl Missing {
    fn find(purpose: Purpose) -> Result<Self> {
        let nightly = Nightly::find()?;
        let bpf_linker = BpfLinker::missing(nightly.llvm);
        let mut requirements = requirements::missing(purpose);
        if bpf_linker.is_some() {
            requirements.extend(requirements::missing_for_llvm(nightly.llvm));
        }
        Ok(Self { requirements, rust_src: !nightly.has_rust_src(), bpf_linker, nightly })
    }

    fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.rust_src && self.bpf_linker.is_none()
    }

    fn packages(&self, distribution: Distribution) -> Vec<String> {
        let mut packages: Vec<_> =
            self.requirements.iter().flat_map(|requirement| requirement.packages(distribution)).collect();
        packages.sort();
        packages.dedup();
        packages
    }

    /// Formats the planned installations, one per line.
    fn list(&self) -> String {
        let mut lines = Vec::new();
        let packages = self.packages(Distribution::Debian);
        if !packages.is_empty() {
            let command = if programs::is_root() { "apt-get" } else { "sudo apt-get" };
            lines.push(format!("  with {command}: {}", packages.join(" ")));
        }
        if self.rust_src {
            lines.push("  with rustup: rust-src of the nightly toolchain".to_owned());
        }
        if let Some(linker) = &self.bpf_linker {
            lines.push(format!("  with cargo: {linker}"));
        }
        lines.join("\n")
    }

    /// Formats the advice for a distribution whose packages are not installed by this program.
    fn advice(&self, distribution: Distribution) -> String {
        let descriptions: Vec<_> =
            self.requirements.iter().map(|requirement| requirement.description.as_str()).collect();
        let descriptions = descriptions.join(", ");
        let packages = self.packages(distribution).join(" ");
        let command = distribution.install_command().map_or_else(
            || format!("install them with your package manager; on Debian the packages are {packages}"),
            |command| format!("install them with `{command} {packages}`"),
        );
        format!(
            "setup installs packages only on Debian and derived distributions, and these are missing here: {descriptions} ({command}, then run this command again)"
        )
    }

    fn install(&self) -> Result<()> {
        let packages = self.packages(Distribution::Debian);
        if !packages.is_empty() {
            install_packages(&packages)?;
        }
        if self.rust_src {
            let mut rustup = Command::new("rustup");
            rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
            progress::step("rust-src", rustup, &log_path("rust-src"))
                .context("cannot install rust-src of the nightly toolchain, which the eBPF programs require")?;
        }
        if let Some(linker) = &self.bpf_linker {
            progress::step("bpf-linker", linker.install(self.nightly.llvm)?, &log_path("bpf-linker"))?;
        }
        Ok(())
    }
}

/// Arguments of `env`. apt-get asks no questions, and waits while another apt-get holds the lock.
const APT_GET: [&str; 4] = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"];

fn install_packages(packages: &[String]) -> Result<()> {
    if !programs::is_root() {
        // sudo asks for the password here, because the steps below have no terminal.
        eprintln!("setup: apt-get requires root and is run with sudo");
        programs::run(Command::new("sudo").arg("-v"))?;
    }
    // An unreachable source may be irrelevant. If it is not, the installation fails.
    if let Err(error) = progress::step("package lists", apt_get(&["update"]), &log_path("apt-get-update")) {
        eprintln!("setup: continuing with the old package lists: {error:#}");
    }
    if let Some(unknown) = packages.iter().find(|package| !distribution::apt_has(package)) {
        let hint = if unknown.starts_with("llvm-") || unknown.starts_with("libpolly-") {
            "add the repository of LLVM to the sources of apt, or install this LLVM in another way and set LLVM_PREFIX to its directory"
        } else {
            "add a repository with this package to the sources of apt"
        };
        bail!("apt has no package {unknown} ({hint})");
    }
    let mut install = services::without_starting_services("env");
    install.args(APT_GET).args(["install", "--yes", "--no-install-recommends"]).args(packages);
    progress::step("packages", install, &log_path("apt-get-install"))
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = programs::as_root("env");
    command.args(APT_GET).args(arguments);
    command
}

fn confirm() -> Result<bool> {
    eprint!("Install? [Y/n] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    // End of input counts as no.
    if io::stdin().read_line(&mut answer).context("reading the answer")? == 0 {
        return Ok(false);
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"))
}

fn log_path(name: &str) -> PathBuf {
    cargo::target_directory().join("setup").join(name).with_extension("log")
}
