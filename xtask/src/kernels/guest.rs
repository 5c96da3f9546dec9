//! A virtual machine. It is booted, observed until its script has ended, and always stopped.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    image::Kernel,
    rootfs::{Progress, Script},
};
use crate::{programs, setup::QEMU, times::Times};

/// Time limit for the first output with KVM. A machine boots in one or two seconds, and KVM that
/// makes no progress is given up.
const KVM_TIME_LIMIT: Duration = Duration::from_secs(15);

/// A virtual machine.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    pub initramfs: &'a Path,
    pub script: &'a Script,
    /// Directory for the logs of the kernel and the emulator.
    pub directory: &'a Path,
    /// Time limit of the whole run.
    pub limit: Duration,
}

/// The result of a run without failures.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    release: String,
    pub passed: u32,
    ignored: u32,
    filtered: u32,
    failed: u32,
    /// Warnings and errors in the kernel log.
    complaints: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {} tests passed", self.release, self.passed)?;
        if self.ignored > 0 {
            write!(formatter, ", {} ignored", self.ignored)?;
        }
        if self.filtered > 0 {
            write!(formatter, ", {} filtered out", self.filtered)?;
        }
        if let Some(first) = self.complaints.first() {
            write!(formatter, "; {} faults in the kernel log, first: {first}", self.complaints.len())?;
        }
        Ok(())
    }
}

/// Number of attempts if the emulator is the cause of the failure.
const EMULATED_BOOTS: usize = 3;

/// The result of a boot.
enum Outcome {
    /// Init produced no output.
    NeverStarted {
        reason: String,
    },
    Ended(Report),
}

impl Guest<'_> {
    /// Boots with KVM. Returns `None` if KVM does not work on this machine.
    pub fn boot_with_kvm(&self, times: &mut Times) -> Result<Option<Report>> {
        match self.boot("kvm", KVM_TIME_LIMIT, times)? {
            Outcome::Ended(report) => Ok(Some(report)),
            Outcome::NeverStarted { .. } => Ok(None),
        }
    }

    /// Boots with a processor emulated in software.
    pub fn boot_emulated(&self, times: &mut Times) -> Result<Report> {
        for _ in 1..EMULATED_BOOTS {
            match self.boot_emulated_once(times) {
                Err(error) if self.failed_in_the_emulator() => {
                    eprintln!("booting again after an error of the emulator: {error:#}");
                }
                outcome => return outcome,
            }
        }
        self.boot_emulated_once(times)
    }

    fn boot_emulated_once(&self, times: &mut Times) -> Result<Report> {
        match self.boot("tcg", self.limit, times)? {
            Outcome::Ended(report) => Ok(report),
            Outcome::NeverStarted { reason } => {
                bail!("{reason} before init started{}", self.log_tails())
            }
        }
    }

    /// Returns whether the kernel died of a stale breakpoint, an error of the emulator. The kernel
    /// patches code that another processor may be running by inserting a breakpoint first, whose
    /// handler knows the patched address. The emulator sometimes executes the old translation with
    /// the breakpoint when the patch is done and the handler no longer knows the address.
    fn failed_in_the_emulator(&self) -> bool {
        let log = fs::read(self.kernel_log()).unwrap_or_default();
        String::from_utf8_lossy(&log).contains("Oops: int3")
    }

    fn boot(&self, accelerator: &str, start_limit: Duration, times: &mut Times) -> Result<Outcome> {
        let start = Instant::now();
        let mut machine = Machine::start(self.qemu(accelerator), &self.qemu_log())?;
        let mut report = Report { release: self.kernel.release.clone(), ..Report::default() };
        let mut started = false;
        let failed = loop {
            let limit = if started { self.limit } else { start_limit };
            let line = match machine.lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok(line) => line,
                Err(error) => {
                    let reason = match error {
                        RecvTimeoutError::Timeout => {
                            format!("Linux {} was stopped after {} s", self.kernel.release, limit.as_secs())
                        }
                        RecvTimeoutError::Disconnected => {
                            format!("Linux {} exited ({})", self.kernel.release, machine.wait()?)
                        }
                    };
                    if started {
                        bail!("{reason} before the script ended{}", self.log_tails());
                    }
                    return Ok(Outcome::NeverStarted { reason });
                }
            };
            match self.script.progress(&line) {
                Some(Progress::Started) => started = true,
                Some(Progress::Ended { failed }) => break failed,
                None => {
                    report.count(&line);
                    times.read(&line);
                    writeln!(io::stdout(), "{line}").context("printing the output of the tests")?;
                }
            }
        };
        report.complaints = complaints(&String::from_utf8_lossy(&fs::read(self.kernel_log()).unwrap_or_default()));
        match (failed, report.failed) {
            (0, _) => Ok(Outcome::Ended(report)),
            (_, 0) => bail!("{failed} programs failed on Linux {}", self.kernel.release),
            (_, tests) => bail!("{tests} tests failed on Linux {}", self.kernel.release),
        }
    }

    fn qemu(&self, accelerator: &str) -> Command {
        let mut qemu = Command::new(QEMU);
        // The machine has only two serial lines. The kernel's goes to a file, the tests' to this
        // process.
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "pc",
            "-accel",
            accelerator,
        ]);
        // Kernels of that time do not boot with five-level page tables under this emulator.
        qemu.args(["-cpu", "max,la57=off", "-smp", "2", "-m", "3072"]);
        qemu.arg("-serial").arg(format!("file:{}", self.kernel_log().display())).args(["-serial", "stdio"]);
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        // An oops or a panic ends the machine at once.
        qemu.args(["-append", "console=ttyS0 panic=-1 oops=panic mitigations=off net.ifnames=0 random.trust_cpu=on"]);
        qemu
    }

    fn kernel_log(&self) -> PathBuf {
        self.directory.join("kernel.log")
    }

    fn qemu_log(&self) -> PathBuf {
        self.directory.join("qemu.log")
    }

    /// Returns the last lines of both logs.
    fn log_tails(&self) -> String {
        let tail = |log: PathBuf| {
            let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].iter().map(|line| format!("\n    {line}"));
            if lines.is_empty() {
                String::new()
            } else {
                format!("\n  the end of {}:{}", log.display(), tail.collect::<String>())
            }
        };
        [self.qemu_log(), self.kernel_log()].map(tail).concat()
    }
}

impl Report {
    /// Adds the numbers of a result line of the test harness.
    fn count(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        // `ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s`
        let rest = rest.split_once(". ").map_or("", |(_, rest)| rest);
        for part in rest.split(';') {
            let Some((number, kind)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match kind {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "filtered out" => self.filtered += number,
                _ => {}
            }
        }
    }
}

/// Returns the lines of the kernel log that report a fault of the kernel, which vswitch's programs
/// may have caused.
fn complaints(log: &str) -> Vec<String> {
    let message = |line: &str| line.split_once("] ").map_or(line, |(_, message)| message).trim().to_owned();
    let faults = ["WARNING: CPU", "BUG: ", "Oops: ", "general protection fault"];
    log.lines().map(message).filter(|message| faults.iter().any(|fault| message.starts_with(fault))).collect()
}

/// The process of the emulator, and the lines of its second serial port.
struct Machine {
    process: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let stderr = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // SAFETY: between fork and exec only one system call is made, and it has no pointers.
        unsafe {
            // The emulator is killed if this process dies.
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let mut process = command.spawn().with_context(|| format!("cannot run `{}`", programs::words(&command)))?;
        let stdout = process.stdout.take().context("the emulator has no stdout pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { process, lines })
    }

    /// Waits for the process and returns its exit status as text.
    fn wait(&mut self) -> Result<String> {
        Ok(self.process.wait().context("waiting for the emulator")?.to_string())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_results_are_summed() {
        let mut report = Report { release: "6.1.0".to_owned(), ..Report::default() };
        report.count("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        report
            .count("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 9.99s");
        report.count("test passed; 7 passed");
        assert_eq!((report.passed, report.failed), (7, 2));
        assert_eq!(report.to_string(), "6.1.0: 7 tests passed, 1 ignored, 5 filtered out");
    }

    #[test]
    fn kernel_faults_are_found_in_the_log() {
        let log = "[    0.1] Linux version 6.1\n\
                   [    4.2] WARNING: CPU: 1 PID: 77 at net/core/dev.c:1 dev_x+0x1/0x2\n\
                   [    4.3] clocksource: WARNING about nothing\n\
                   [    5.0] BUG: kernel NULL pointer dereference\n";
        let found = complaints(log);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].starts_with("BUG: kernel NULL"), "{found:?}");
    }
}
