//! The process that becomes the command: it enters new namespaces, waits until they are attached,
//! and executes the command.

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

use super::{ChildMessage, NamespaceSetup, failure, mounts};
use crate::cli::failure::Failure;

/// Exit statuses of shells for a command that cannot be executed and for one that does not exist.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The task of the command's process.
pub struct CommandProcess<'a> {
    /// The command with its arguments.
    pub command: &'a [OsString],
    /// Whether the command gets its own namespaces. On the network `host` it uses those of the
    /// host.
    pub own_namespaces: bool,
    /// The signal mask before `run` blocked signals.
    pub previous_mask: SigSet,
    /// A directory over which a tmpfs can be mounted.
    pub staging: PathBuf,
    /// The pipe from which the setting is read.
    pub setup_pipe: OwnedFd,
    /// The pipe to the leader.
    pub messages: File,
}

impl CommandProcess<'_> {
    /// Executes the command. Returns only on failure.
    pub fn run(&mut self, guard: Pid) -> Failure {
        match self.prepare(guard) {
            Ok(()) => self.execute(),
            Err(failure) => failure,
        }
    }

    /// Reports a failure to the leader.
    pub fn report_failure(&mut self, failure: &Failure) {
        self.send(&ChildMessage::Failed(failure.error.clone(), failure.exit));
    }

    fn prepare(&mut self, guard: Pid) -> Result<(), Failure> {
        set_pdeathsig(Signal::SIGKILL).map_err(|errno| failure("set the parent-death signal of the command", errno))?;
        if getppid() != guard {
            return Err(Failure::new("run", "the guard of the command was killed (try again)"));
        }
        if self.own_namespaces {
            let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
            unshare(namespaces).map_err(unshare_failure)?;
        }
        self.send(&ChildMessage::Ready(getpid().as_raw()));
        let Some(setup) = self.read_setup()? else { return Ok(()) };
        sethostname(&setup.hostname).map_err(|errno| failure("set the hostname", errno))?;
        mounts::mount_files(&setup, &self.staging).map_err(|error| Failure::new("mount", &error.to_string()))
    }

    /// Waits for the setting from the leader.
    fn read_setup(&self) -> Result<Option<NamespaceSetup>, Failure> {
        let read_failure = |error: io::Error| failure("read the namespace setup", error);
        let mut line = String::new();
        BufReader::new(File::from(self.setup_pipe.try_clone().map_err(read_failure)?))
            .read_line(&mut line)
            .map_err(read_failure)?;
        // The line is empty if the leader is gone.
        serde_json::from_str(&line).map_err(|error| read_failure(error.into()))
    }

    /// Executes the command. Pending signals are delivered to it when they are unblocked. Rust
    /// ignores SIGPIPE, and `exec` restores its default action.
    fn execute(&self) -> Failure {
        let Some((program, arguments)) = self.command.split_first() else {
            return Failure::new("usage", "no command given (add a command)");
        };
        if let Err(errno) = self.previous_mask.thread_set_mask() {
            return failure("unblock signals", errno);
        }
        let error = Command::new(program).args(arguments).exec();
        let program = program.display();
        let (exit, message) = if error.kind() == io::ErrorKind::NotFound {
            (NOT_FOUND, format!("command not found: {program} (check the spelling and PATH)"))
        } else {
            (NOT_EXECUTABLE, format!("cannot execute {program}: {error} (check that it is an executable program)"))
        };
        Failure { exit, ..Failure::new("command", &message) }
    }

    fn send(&mut self, message: &ChildMessage) {
        let line = serde_json::to_string(message).unwrap_or_default();
        // If the leader is gone, the guard kills this process.
        let _ = writeln!(self.messages, "{line}");
    }
}

fn unshare_failure(errno: Errno) -> Failure {
    if errno == Errno::EPERM {
        let message = "only root can create namespaces for a command (use `sudo vswitch run`)";
        return Failure::new("not_root", message);
    }
    failure("create namespaces for the command", errno)
}
