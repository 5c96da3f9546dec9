//! `cargo xtask setup`: installs what building, running and testing vswitch needs, and this machine lacks.

mod distribution;
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

/// What `cargo xtask setup` takes.
#[derive(Args)]
pub struct Options {
    /// Install without asking
    #[arg(long)]
    yes: bool,
}

/// What the machine is to be made ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Building vswitch.
    Build,
    /// The demo, and whatever starts vswitch; includes building it.
    Run,
    /// The tests here and on other kernels; includes running it.
    Test,
    /// The benchmark, beside Docker; includes running it.
    Bench,
}

impl Purpose {
    /// Whether what `other` needs is needed for this, too.
    fn includes(self, other: Self) -> bool {
        match other {
            Self::Build => true,
            Self::Run => self != Self::Build,
            Self::Test | Self::Bench => self == other,
        }
    }
}

/// Everything, for every verb but `bench`: nobody gets a Docker daemon who did not ask to be compared with one.
pub fn setup(options: &Options) -> Result<()> {
    if !ensure(Purpose::Test, options.yes)? {
        eprintln!("setup: everything is there");
    }
    Ok(())
}

/// Sees to it that the machine is ready; whether anything had to be done.
pub fn ensure(purpose: Purpose, yes: bool) -> Result<bool> {
    let missing = Missing::find(purpose)?;
    if missing.is_nothing() {
        return Ok(false);
    }
    let distribution = Distribution::here();
    if distribution != Distribution::Debian && !missing.requirements.is_empty() {
        bail!("{}", missing.advice(distribution));
    }
    eprintln!("setup: missing on this machine, to be installed:\n{}", missing.list());
    if !yes && io::stdin().is_terminal() && !agreed()? {
        bail!("nothing was installed (`cargo xtask setup` asks again, with `--yes` it does not ask)");
    }
    missing.install()?;
    let still = Missing::find(purpose)?;
    if !still.is_nothing() {
        bail!("after the installation this is still missing:\n{}", still.list());
    }
    eprintln!("setup: done");
    Ok(true)
}

/// What the machine lacks.
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

    fn is_nothing(&self) -> bool {
        self.requirements.is_empty() && !self.rust_src && self.bpf_linker.is_none()
    }

    fn packages(&self, distribution: Distribution) -> Vec<String> {
        let mut packages: Vec<_> =
            self.requirements.iter().flat_map(|requirement| requirement.packages(distribution)).collect();
        packages.sort();
        packages.dedup();
        packages
    }

    /// What is going to be done, a line each.
    fn list(&self) -> String {
        let mut lines = Vec::new();
        let packages = self.packages(Distribution::Debian);
        if !packages.is_empty() {
            let how = if programs::is_root() { "apt-get" } else { "sudo apt-get" };
            lines.push(format!("  with {how}: {}", packages.join(" ")));
        }
        if self.rust_src {
            lines.push("  with rustup: rust-src of the nightly toolchain".to_owned());
        }
        if let Some(linker) = &self.bpf_linker {
            lines.push(format!("  with cargo: {linker}"));
        }
        lines.join("\n")
    }

    /// What to do by hand on a distribution whose packages we do not install.
    fn advice(&self, distribution: Distribution) -> String {
        let what: Vec<_> = self.requirements.iter().map(|requirement| requirement.what.as_str()).collect();
        let what = what.join(", ");
        let packages = self.packages(distribution).join(" ");
        let how = distribution.install_command().map_or_else(
            || format!("install them with your package manager; on Debian the packages are {packages}"),
            |command| format!("install them with `{command} {packages}`"),
        );
        format!(
            "setup installs packages on Debian and its kin only, and this machine lacks {what} ({how}, then run this again)"
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
            progress::step("rust-src", rustup, &log("rust-src"))
                .context("the nightly toolchain's rust-src cannot be fetched; the eBPF programs need it")?;
        }
        if let Some(linker) = &self.bpf_linker {
            progress::step("bpf-linker", linker.install(self.nightly.llvm)?, &log("bpf-linker"))?;
        }
        Ok(())
    }
}

/// For `env`: apt-get asks nothing, and waits for another one to end.
const APT_GET: [&str; 4] = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"];

fn install_packages(packages: &[String]) -> Result<()> {
    if !programs::is_root() {
        // Here, where a password can be typed: the steps below have no terminal.
        eprintln!("setup: apt-get needs root, and is run with sudo");
        programs::run(Command::new("sudo").arg("-v"))?;
    }
    // One source that cannot be reached need not be the one that matters: the installation decides.
    if let Err(error) = progress::step("package lists", apt_get(&["update"]), &log("apt-get-update")) {
        eprintln!("setup: going on with the old package lists: {error:#}");
    }
    if let Some(unknown) = packages.iter().find(|package| !distribution::apt_has(package)) {
        let hint = if unknown.starts_with("llvm-") || unknown.starts_with("libpolly-") {
            "add LLVM's own repository to apt's sources, or install that LLVM otherwise and set LLVM_PREFIX to where it is"
        } else {
            "add a source that has it to apt's sources"
        };
        bail!("apt knows no package {unknown} ({hint})");
    }
    let mut install = services::none_started("env");
    install.args(APT_GET).args(["install", "--yes", "--no-install-recommends"]).args(packages);
    progress::step("packages", install, &log("apt-get-install"))
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = programs::as_root("env");
    command.args(APT_GET).args(arguments);
    command
}

fn agreed() -> Result<bool> {
    eprint!("Install? [Y/n] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    // No line at all is no agreement.
    if io::stdin().read_line(&mut answer).context("reading the answer")? == 0 {
        return Ok(false);
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"))
}

fn log(name: &str) -> PathBuf {
    cargo::target_directory().join("setup").join(name).with_extension("log")
}
