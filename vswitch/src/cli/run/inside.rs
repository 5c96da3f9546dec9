//! The process that becomes the command: it goes into its namespaces, waits until they are attached, and executes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid, sethostname};

use super::{Setting, Word, failure, mounts};
use crate::cli::failure::Failure;

/// As shells have it.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// What the process is to do.
pub struct Errand<'a> {
    /// The command with its arguments.
    pub command: &'a [OsString],
    /// Whether it has namespaces of its own. On the host's network everything is the host's.
    pub own_namespaces: bool,
    /// The signals that were held when all began.
    pub held_before: SigSet,
    /// A directory that mounts can be made over.
    pub staging: PathBuf,
    /// Where the setting comes from.
    pub orders: OwnedFd,
    /// Where the leader hears from us.
    pub words: File,
}

impl Errand<'_> {
    /// Becomes the command. Returns only if it could not.
    pub fn carry_out(&mut self, guard: Pid) -> Failure {
        match self.prepare(guard) {
            Ok(()) => self.execute(),
            Err(failure) => failure,
        }
    }

    /// Tells the leader of a failure.
    pub fn tell(&mut self, failure: &Failure) {
        self.say(&Word::Failed(failure.error.clone(), failure.exit));
    }

    fn prepare(&mut self, guard: Pid) -> Result<(), Failure> {
        set_pdeathsig(Signal::SIGKILL).map_err(|errno| failure("tie the command to its guard", errno))?;
        if getppid() != guard {
            return Err(Failure::new("run", "the command's guard was killed (try again)"));
        }
        if self.own_namespaces {
            let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
            unshare(namespaces).map_err(refused)?;
        }
        self.say(&Word::Ready(getpid().as_raw()));
        let Some(setting) = self.setting()? else { return Ok(()) };
        sethostname(&setting.hostname).map_err(|errno| failure("set the hostname", errno))?;
        mounts::make(&setting, &self.staging).map_err(|error| Failure::new("mount", &error.to_string()))
    }

    /// Waits until the leader says to go on.
    fn setting(&self) -> Result<Option<Setting>, Failure> {
        let failed = |error: io::Error| failure("hear from vswitch", error);
        let mut line = String::new();
        BufReader::new(File::from(self.orders.try_clone().map_err(failed)?)).read_line(&mut line).map_err(failed)?;
        // Nothing, where it is gone.
        serde_json::from_str(&line).map_err(|error| failed(error.into()))
    }

    /// Executes the command. A signal that came meanwhile is for it. SIGPIPE, which Rust ignores, is seen to by `exec`.
    fn execute(&self) -> Failure {
        let Some((program, arguments)) = self.command.split_first() else {
            return Failure::new("usage", "no command (say which)");
        };
        if let Err(errno) = self.held_before.thread_set_mask() {
            return failure("let signals through", errno);
        }
        let error = Command::new(program).args(arguments).exec();
        let program = program.display();
        let (exit, message) = if error.kind() == io::ErrorKind::NotFound {
            (NOT_FOUND, format!("command not found: {program} (is it spelled right, and in PATH?)"))
        } else {
            (NOT_EXECUTABLE, format!("cannot execute {program}: {error} (is it a program that you may execute?)"))
        };
        Failure { exit, ..Failure::new("command", &message) }
    }

    fn say(&mut self, word: &Word) {
        let line = serde_json::to_string(word).unwrap_or_default();
        // A leader that is gone does not listen, and the guard ends this.
        let _ = writeln!(self.words, "{line}");
    }
}

fn refused(errno: Errno) -> Failure {
    if errno == Errno::EPERM {
        let message = "only root can make namespaces for a command (run it as root: `sudo vswitch run`)";
        return Failure::new("not_root", message);
    }
    failure("make namespaces for the command", errno)
}
