//! `cargo xtask kernels`: the end-to-end tests on other kernels, each in a virtual machine of its own.

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
};
use guest::{Guest, Report};
use image::{Kernel, NotToBeHad};
use rootfs::{Script, Task};

/// The kernels of Debian that every change is tried on: the oldest that we support, and one with tcx.
pub const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// What `cargo xtask kernels` takes.
#[derive(Args)]
pub struct Options {
    /// A kernel of Debian's (6.1, 6.12), or the path of a vmlinuz; may be given more than once [default: 6.1 and 6.12]
    #[arg(long = "kernel", value_name = "VERSION|PATH")]
    kernels: Vec<String>,
    /// Only the tests whose name contains this; may be given more than once
    #[arg(long = "test", value_name = "FILTER")]
    filters: Vec<String>,
    /// How many minutes a kernel may take
    #[arg(long, default_value_t = LIMIT_MINUTES)]
    minutes: u64,
}

const LIMIT_MINUTES: u64 = 30;

/// Boots them all, one after the other.
pub fn kernels(options: &Options) -> Result<()> {
    setup::ensure(Purpose::Test, false)?;
    let tests = cargo::build_end_to_end()?;
    let mut summary = Summary::default();
    let mut virtualization = Virtualization::default();
    let asked = options.kernels.iter().map(String::as_str);
    let kernels: Vec<_> = if options.kernels.is_empty() { KERNELS.to_vec() } else { asked.collect() };
    for kernel in kernels {
        let trial = Trial { kernel, filters: &options.filters, limit: Duration::from_secs(options.minutes * 60) };
        summary.step(&format!("Linux {kernel}"), || match trial.run(&tests, &mut virtualization) {
            // Asked for, so it is a failure here.
            Ending::NotRun(reason) => Ending::Failed(reason),
            ending => ending,
        });
    }
    summary.close()
}

/// The end-to-end tests on one kernel.
pub struct Trial<'a> {
    kernel: &'a str,
    filters: &'a [String],
    limit: Duration,
}

impl<'a> Trial<'a> {
    /// On one of Debian's.
    pub const fn new(kernel: &'a str, filters: &'a [String]) -> Self {
        Self { kernel, filters, limit: Duration::from_secs(LIMIT_MINUTES * 60) }
    }

    /// Boots it and runs them.
    pub fn run(&self, tests: &EndToEnd, virtualization: &mut Virtualization) -> Ending {
        match self.try_run(tests, virtualization) {
            Ok(report) => Ending::Passed(report.to_string()),
            Err(error) if error.is::<NotToBeHad>() => Ending::NotRun(error.to_string()),
            Err(error) => Ending::Failed(format!("{error:#}")),
        }
    }

    fn try_run(&self, tests: &EndToEnd, virtualization: &mut Virtualization) -> Result<Report> {
        let kernel = Kernel::get(self.kernel)?;
        let task = |(name, program): &(String, PathBuf)| Task {
            title: format!("     Running tests of {name} on Linux {}", kernel.release),
            program: program.clone(),
            // What is tested with etcd asks nothing more of the kernel than the rest does, and is no test where three of its
            // members share an emulated processor.
            arguments: ["--color", "never", "--skip", "cluster"]
                .map(str::to_owned)
                .into_iter()
                .chain(self.filters.iter().cloned())
                .collect(),
        };
        // The same.
        let tests_of_kernel = tests.tests.iter().filter(|(name, _)| name != "cluster");
        let script = Script::new(tests_of_kernel.map(task).collect());
        let report = virtualization.run(&kernel, &script, std::slice::from_ref(&tests.vswitch), self.limit)?;
        ensure!(report.passed > 0, "no test ran on Linux {}", kernel.release);
        Ok(report)
    }
}

/// Runs one program on another kernel.
pub fn run(kernel: &str, program: PathBuf, virtualization: &mut Virtualization) -> Result<()> {
    let kernel = Kernel::get(kernel)?;
    let title = format!("     Running {} on Linux {}", program.display(), kernel.release);
    let script = Script::new(vec![Task { title, program, arguments: Vec::new() }]);
    virtualization.run(&kernel, &script, &[], Duration::from_secs(LIMIT_MINUTES * 60))?;
    Ok(())
}

/// Whether virtual machines get the processor itself, or an emulated one. Kept between kernels: what does not work for
/// one does not work for the next.
pub struct Virtualization {
    kvm: bool,
}

impl Default for Virtualization {
    fn default() -> Self {
        Self { kvm: fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() }
    }
}

impl Virtualization {
    /// Boots a kernel, and runs what the script says.
    fn run(&mut self, kernel: &Kernel, script: &Script, others: &[PathBuf], limit: Duration) -> Result<Report> {
        let directory = cargo::target_directory().join("kernels/run").join(&kernel.release);
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        // Another xtask may be at the same kernel: one after the other.
        let lock = File::open(&directory).with_context(|| format!("opening {}", directory.display()))?;
        if lock.try_lock().is_err() {
            eprintln!("waiting for another xtask that runs Linux {}", kernel.release);
            lock.lock().with_context(|| format!("locking {}", directory.display()))?;
        }
        let initramfs = directory.join("initramfs.cpio");
        rootfs::build(kernel, script, others)?.write(&initramfs)?;
        self.boot(&Guest { kernel, initramfs: &initramfs, script, directory: &directory, limit })
    }

    /// Some machines have /dev/kvm and yet no virtual machine gets anywhere in it; they are noticed by that.
    fn boot(&mut self, guest: &Guest<'_>) -> Result<Report> {
        if self.kvm {
            if let Some(report) = guest.boot_with_kvm()? {
                return Ok(report);
            }
            eprintln!("KVM does not work here; going on with an emulated processor");
            self.kvm = false;
        }
        guest.boot_emulated()
    }
}
