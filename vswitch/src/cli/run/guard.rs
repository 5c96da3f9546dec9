//! The guard: the command's parent. It outlives the leader, and sees to it that nothing is left.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{ForkResult, Pid, fork, getpid};

use super::inside::Errand;
use super::signals::{self, Received};
use crate::api::{Client, ClientError, DetachRequest, Detached};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::model::Instance;

/// The exit status of a command that was killed (SIGKILL is 9).
const KILLED: u8 = 128 + 9;

/// Starts the command's process, guards it, and detaches what the leader has attached. Returns the exit status.
pub fn guard(
    leader: Pid,
    signals: &SignalFd,
    lifeline: File,
    mut errand: Errand<'_>,
    instance: &Instance,
    output: Output,
) -> u8 {
    // Whatever the command leaves without a parent is ours, to be found when all must end.
    let started = set_child_subreaper(true).and_then(|()| signals::hold_stops()).and_then(|()| {
        let guard = getpid();
        // SAFETY: a process just forked has one thread.
        Ok(match unsafe { fork() }? {
            ForkResult::Parent { child } => Some(child),
            ForkResult::Child => {
                let failure = errand.carry_out(guard);
                errand.tell(&failure);
                std::process::exit(failure.exit.into())
            }
        })
    });
    let command = match started {
        Ok(Some(command)) => command,
        Ok(None) => return KILLED,
        Err(errno) => {
            let failure = super::failure("start the command's process", errno);
            errand.tell(&failure);
            return failure.exit;
        }
    };
    // These are the command's: their closing tells what became of it.
    drop(errand);
    let exit = watch(command, leader, signals, &lifeline).unwrap_or_else(|_| {
        kill_all(command);
        KILLED
    });
    if let Some(endpoint) = attached(lifeline) {
        match super::answered(detach(instance, endpoint)) {
            Ok(()) => {}
            Err(failure) => output.fail(&failure),
        }
    }
    exit
}

/// Waits for the command's end, or brings it about when the leader is gone or has given up.
fn watch(command: Pid, leader: Pid, signals: &SignalFd, lifeline: &File) -> Result<u8, Errno> {
    loop {
        // Of the lifeline only its end matters here, which is always reported.
        let mut watched =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(lifeline.as_fd(), PollFlags::empty())];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        let [signalled, ended] = watched.map(|descriptor| descriptor.any().unwrap_or(true));
        if ended {
            kill_all(command);
            return Ok(KILLED);
        }
        if !signalled {
            continue;
        }
        match signals::next(signals)? {
            Some(Received::Child) => {
                if let Some(exit) = reap(command)? {
                    return Ok(exit);
                }
            }
            // Somebody else who sent it to the whole process group has sent it to the command, too.
            Some(Received::Sent { signal, by }) if by == leader => {
                // It is our child and not waited for, so the number is still its own.
                let _ = kill(command, signal);
            }
            Some(Received::Sent { .. } | Received::ByTerminal) | None => {}
        }
    }
}

/// Takes note of all children that have ended; the exit status of the command, if it is among them.
fn reap(command: Pid) -> Result<Option<u8>, Errno> {
    loop {
        match super::wait(None, libc::WNOHANG) {
            Ok(Some((process, exit))) if process == command => return Ok(Some(exit)),
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Ok(None) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}

/// Kills the command and all that descends from it: what loses its parent by that becomes our child, and is next.
fn kill_all(command: Pid) {
    let _ = kill(command, Signal::SIGKILL);
    loop {
        let children = children();
        for child in &children {
            let _ = kill(*child, Signal::SIGKILL);
        }
        // A child that came while we looked may be missing among them, so without any there is nothing to wait for.
        let flags = if children.is_empty() { libc::WNOHANG } else { 0 };
        if super::wait(None, flags) == Err(Errno::ECHILD) {
            return;
        }
    }
}

fn children() -> Vec<Pid> {
    let own = getpid();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let processes = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = processes.filter(|process: &i32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        parent(&stat) == Some(own)
    });
    children.map(Pid::from_raw).collect()
}

/// The parent in a line of /proc/PID/stat. The name in it, in parentheses, may hold anything.
fn parent(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

/// The endpoint that the leader has attached, by its id; none if the leader is gone before it had.
fn attached(lifeline: File) -> Option<String> {
    let mut line = String::new();
    BufReader::new(lifeline).read_line(&mut line).ok()?;
    line.strip_suffix('\n').map(str::to_owned)
}

async fn detach(instance: &Instance, endpoint: String) -> Result<(), Failure> {
    let request = DetachRequest { endpoint: Some(endpoint), ..DetachRequest::default() };
    let detached = async {
        let mut client = Client::connect(instance).await?;
        client.post::<Detached>("/detach", &request).await
    };
    match detached.await {
        // It is released when the switch is up again and finds the namespace gone.
        Ok(_) | Err(ClientError::NotRunning { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_whatever_the_name_is() {
        assert_eq!(parent("7 (sh) S 6 7 7 0"), Some(Pid::from_raw(6)));
        assert_eq!(parent("7 (a) R 1 (b) S 6 7"), Some(Pid::from_raw(6)));
        assert_eq!(parent(""), None);
    }
}
