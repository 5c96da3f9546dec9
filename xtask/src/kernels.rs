//! `cargo xtask kernels`: runs the end-to-end tests on other kernels, each in a virtual machine.

mod archive;
mod guest;
mod image;
pub mod libraries;
mod modules;
mod rootfs;

use std::{
    fs::{self, File},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{
    cargo::{self, EndToEnd},
    setup::{self, Purpose},
    summary::{Ending, Summary},
    times::{self, Times},
};
use guest::{Guest, Report};
use image::{Kernel, Unavailable};
use rootfs::{Script, Task};

/// The Debian kernels on which every change is tested: the oldest supported one, and one with tcx.
pub const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Arguments of `cargo xtask kernels`.
#[derive(Args)]
pub struct Options {
    /// A Debian kernel (6.1, 6.12) or the path of a vmlinuz; may be repeated [default: 6.1 and
    /// 6.12]
    #[arg(long = "kernel", value_name = "VERSION|PATH")]
    kernels: Vec<String>,
    /// Run only tests whose name contains this; may be repeated
    #[arg(long = "test", value_name = "FILTER")]
    filters: Vec<String>,
    /// Time limit per kernel in minutes
    #[arg(long, default_value_t = LIMIT_MINUTES)]
    minutes: u64,
}

const LIMIT_MINUTES: u64 = 30;

/// Boots the kernels one after the other.
pub fn kernels(options: &Options) -> Result<()> {
    setup::ensure(Purpose::Test, false)?;
    let tests = cargo::build_end_to_end()?;
    let mut summary = Summary::default();
    let mut virtualization = Virtualization::default();
    let mut times = Times::default();
    let requested = options.kernels.iter().map(String::as_str);
    let kernels: Vec<_> = if options.kernels.is_empty() { KERNELS.to_vec() } else { requested.collect() };
    for kernel in kernels {
        let trial = Trial { kernel, filters: &options.filters, limit: Duration::from_secs(options.minutes * 60) };
        summary.step(&format!("Linux {kernel}"), || match trial.run(&tests, &mut virtualization, &mut times) {
            // The kernel was requested, so a kernel that cannot be booted is a failure.
            Ending::NotRun(reason) => Ending::Failed(reason),
            ending => ending,
        });
    }
    times.write(&cargo::target_directory().join("kernel-test-times.tsv"))?;
    eprintln!("\nThe slowest tests:\n{times}");
    summary.close()
}

/// The end-to-end tests on one kernel.
pub struct Trial<'a> {
    kernel: &'a str,
    filters: &'a [String],
    limit: Duration,
}

impl<'a> Trial<'a> {
    /// Creates a trial of one Debian kernel.
    pub const fn new(kernel: &'a str, filters: &'a [String]) -> Self {
        Self { kernel, filters, limit: Duration::from_secs(LIMIT_MINUTES * 60) }
    }

    /// Boots the kernel and runs the tests.
    pub fn run(&self, tests: &EndToEnd, virtualization: &mut Virtualization, times: &mut Times) -> Ending {
        match self.try_run(tests, virtualization, times) {
            Ok(report) => Ending::Passed(report.to_string()),
            Err(error) if error.is::<Unavailable>() => Ending::NotRun(error.to_string()),
            Err(error) => Ending::Failed(format!("{error:#}")),
        }
    }

    fn try_run(&self, tests: &EndToEnd, virtualization: &mut Virtualization, times: &mut Times) -> Result<Report> {
        let kernel = Kernel::get(self.kernel)?;
        let task = |(name, program): &(String, PathBuf)| Task {
            title: format!("     Running tests of {name} on Linux {}", kernel.release),
            program: program.clone(),
            // Tests with etcd use no other kernel features than the rest, and are unreliable when
            // three members of etcd share an emulated processor.
            arguments: times::REPORT
                .into_iter()
                .chain(["--color", "never", "--skip", "cluster"])
                .map(str::to_owned)
                .chain(self.filters.iter().cloned())
                .collect(),
        };
        // The test binary `cluster` is left out for the same reason.
        let tests_of_kernel = tests.tests.iter().filter(|(name, _)| name != "cluster");
        let script = Script::new(tests_of_kernel.map(task).collect());
        let report = virtualization.run(&kernel, &script, std::slice::from_ref(&tests.vswitch), self.limit, times)?;
        ensure!(report.passed > 0, "no test ran on Linux {}", kernel.release);
        Ok(report)
    }
}

/// Runs one program on another kernel.
pub fn run(kernel: &str, program: PathBuf, virtualization: &mut Virtualization) -> Result<()> {
    let kernel = Kernel::get(kernel)?;
    let title = format!("     Running {} on Linux {}", program.display(), kernel.release);
    let script = Script::new(vec![Task { title, program, arguments: Vec::new() }]);
    let limit = Duration::from_secs(LIMIT_MINUTES * 60);
    virtualization.run(&kernel, &script, &[], limit, &mut Times::default())?;
    Ok(())
}

/// Whether virtual machines use KVM or an emulated processor. The value is kept between kernels,
/// because KVM that fails for one kernel fails for the next.
pub struct Virtualization {
    kvm: bool,
}

impl Default for Virtualization {
    fn default() -> Self {
        Self { kvm: fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() }
    }
}

impl Virtualization {
    /// Boots a kernel and runs the script.
    fn run(
        &mut self,
        kernel: &Kernel,
        script: &Script,
        others: &[PathBuf],
        limit: Duration,
        times: &mut Times,
    ) -> Result<Report> {
        let directory = cargo::target_directory().join("kernels/run").join(&kernel.release);
        fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        // Another xtask may run the same kernel. The lock makes them take turns.
        let lock = File::open(&directory).with_context(|| format!("opening {}", directory.display()))?;
        if lock.try_lock().is_err() {
            eprintln!("waiting for another xtask that is running Linux {}", kernel.release);
            lock.lock().with_context(|| format!("locking {}", directory.display()))?;
        }
        let initramfs = directory.join("initramfs.cpio");
        rootfs::build(kernel, script, others)?.write(&initramfs)?;
        self.boot(&Guest { kernel, initramfs: &initramfs, script, directory: &directory, limit }, times)
    }

    /// Boots with KVM, and if that fails with an emulated processor. Some machines have /dev/kvm,
    /// but no virtual machine boots with it.
    fn boot(&mut self, guest: &Guest<'_>, times: &mut Times) -> Result<Report> {
        if self.kvm {
            if let Some(report) = guest.boot_with_kvm(times)? {
                return Ok(report);
            }
            eprintln!("KVM does not work on this machine; continuing with an emulated processor");
            self.kvm = false;
        }
        guest.boot_emulated(times)
    }
}
