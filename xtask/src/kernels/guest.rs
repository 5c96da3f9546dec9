//! One virtual machine: booted, watched until all that it was started for has ended, stopped in any case.

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
    rootfs::{Script, Tidings},
};
use crate::{programs, setup::QEMU};

/// Hardware boots in a second or two. A machine whose KVM gets nowhere is not waited for much longer.
const KVM_PATIENCE: Duration = Duration::from_secs(15);

/// A virtual machine.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    pub initramfs: &'a Path,
    pub script: &'a Script,
    /// Where the kernel's own messages go, and those of the emulator.
    pub directory: &'a Path,
    /// How long it may take.
    pub limit: Duration,
}

/// What came out, if nothing failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    release: String,
    pub passed: u32,
    ignored: u32,
    filtered: u32,
    failed: u32,
    /// What the kernel itself complained about.
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
            write!(formatter, "; the kernel complained {} times: {first}", self.complaints.len())?;
        }
        Ok(())
    }
}

/// How often to try, where it is the emulator that fails.
const EMULATED_BOOTS: usize = 3;

/// What became of a boot.
enum Outcome {
    /// Init was never heard of.
    NeverBegan {
        reason: String,
    },
    Ended(Report),
}

impl Guest<'_> {
    /// On the processor itself; `None` if that does not work on this machine.
    pub fn boot_with_kvm(&self) -> Result<Option<Report>> {
        match self.boot("kvm", KVM_PATIENCE)? {
            Outcome::Ended(report) => Ok(Some(report)),
            Outcome::NeverBegan { .. } => Ok(None),
        }
    }

    /// On a processor emulated in software.
    pub fn boot_emulated(&self) -> Result<Report> {
        for _ in 1..EMULATED_BOOTS {
            match self.boot_emulated_once() {
                Err(error) if self.died_of_the_emulator() => eprintln!("booting once more, for {error:#}"),
                outcome => return outcome,
            }
        }
        self.boot_emulated_once()
    }

    fn boot_emulated_once(&self) -> Result<Report> {
        match self.boot("tcg", self.limit)? {
            Outcome::Ended(report) => Ok(report),
            Outcome::NeverBegan { reason } => {
                bail!("{reason}, and nothing ever ran in it{}", self.last_words())
            }
        }
    }

    /// Kernels patch code that another processor may be running: with a breakpoint first, which that processor then finds
    /// and asks about. The emulator now and then runs what it translated before, when nobody knows of it any more.
    fn died_of_the_emulator(&self) -> bool {
        let log = fs::read(self.kernel_log()).unwrap_or_default();
        String::from_utf8_lossy(&log).contains("Oops: int3")
    }

    fn boot(&self, accelerator: &str, patience: Duration) -> Result<Outcome> {
        let started = Instant::now();
        let mut machine = Machine::start(self.qemu(accelerator), &self.qemu_log())?;
        let mut report = Report { release: self.kernel.release.clone(), ..Report::default() };
        let mut begun = false;
        let failed = loop {
            let limit = if begun { self.limit } else { patience };
            let line = match machine.lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
                Ok(line) => line,
                Err(error) => {
                    let reason = match error {
                        RecvTimeoutError::Timeout => {
                            format!("Linux {} was stopped after {} s", self.kernel.release, limit.as_secs())
                        }
                        RecvTimeoutError::Disconnected => {
                            format!("Linux {} ended by itself ({})", self.kernel.release, machine.end()?)
                        }
                    };
                    if begun {
                        bail!("{reason}, and had not got to its end{}", self.last_words());
                    }
                    return Ok(Outcome::NeverBegan { reason });
                }
            };
            match self.script.tidings(&line) {
                Some(Tidings::Begun) => begun = true,
                Some(Tidings::Ended { failed }) => break failed,
                None => {
                    report.count(&line);
                    writeln!(io::stdout(), "{line}").context("printing what the tests print")?;
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
        // Nothing but two serial lines: the kernel's messages to a file, the tests' to us.
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
        // Kernels of that time do not come up with five levels of page tables under this emulator.
        qemu.args(["-cpu", "max,la57=off", "-smp", "2", "-m", "3072"]);
        qemu.arg("-serial").arg(format!("file:{}", self.kernel_log().display())).args(["-serial", "stdio"]);
        qemu.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        // An oops ends it at once, and a panic does not wait for somebody to read it.
        qemu.args(["-append", "console=ttyS0 panic=-1 oops=panic mitigations=off net.ifnames=0 random.trust_cpu=on"]);
        qemu
    }

    fn kernel_log(&self) -> PathBuf {
        self.directory.join("kernel.log")
    }

    fn qemu_log(&self) -> PathBuf {
        self.directory.join("qemu.log")
    }

    /// The ends of both logs.
    fn last_words(&self) -> String {
        let end = |log: PathBuf| {
            let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
            let lines: Vec<_> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(30)..].iter().map(|line| format!("\n    {line}"));
            if lines.is_empty() {
                String::new()
            } else {
                format!("\n  the end of {}:{}", log.display(), end.collect::<String>())
            }
        };
        [self.qemu_log(), self.kernel_log()].map(end).concat()
    }
}

impl Report {
    /// Adds up the lines with which the test harness ends.
    fn count(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        // `ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s`
        let rest = rest.split_once(". ").map_or("", |(_, rest)| rest);
        for part in rest.split(';') {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "filtered out" => self.filtered += number,
                _ => {}
            }
        }
    }
}

/// Lines of the kernel's log that tell of a fault of its own, which our programs may have caused.
fn complaints(log: &str) -> Vec<String> {
    let message = |line: &str| line.split_once("] ").map_or(line, |(_, message)| message).trim().to_owned();
    let faults = ["WARNING: CPU", "BUG: ", "Oops: ", "general protection fault"];
    log.lines().map(message).filter(|message| faults.iter().any(|fault| message.starts_with(fault))).collect()
}

/// The process, and what its tests print.
struct Machine {
    process: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let stderr = File::create(log).with_context(|| format!("making {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // SAFETY: between fork and exec only one system call is made, and it has no pointers.
        unsafe {
            // Whoever ends us ends it too.
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let mut process = command.spawn().with_context(|| format!("cannot run `{}`", programs::words(&command)))?;
        let stdout = process.stdout.take().context("its output")?;
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

    /// How it ended by itself.
    fn end(&mut self) -> Result<String> {
        Ok(self.process.wait().context("waiting for it")?.to_string())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to stop.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_results_are_added_up() {
        let mut report = Report { release: "6.1.0".to_owned(), ..Report::default() };
        report.count("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        report
            .count("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 9.99s");
        report.count("test passed; 7 passed");
        assert_eq!((report.passed, report.failed), (7, 2));
        assert_eq!(report.to_string(), "6.1.0: 7 tests passed, 1 ignored, 5 filtered out");
    }

    #[test]
    fn faults_of_the_kernel_are_seen_in_its_log() {
        let log = "[    0.1] Linux version 6.1\n\
                   [    4.2] WARNING: CPU: 1 PID: 77 at net/core/dev.c:1 dev_x+0x1/0x2\n\
                   [    4.3] clocksource: WARNING about nothing\n\
                   [    5.0] BUG: kernel NULL pointer dereference\n";
        let found = complaints(log);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].starts_with("BUG: kernel NULL"), "{found:?}");
    }
}
