//! The guard: the parent of the command. It outlives the leader and cleans up.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{ForkResult, Pid, fork, getpid};

use super::inside::CommandProcess;
use super::signals::{self, Received};
use crate::api::{Client, ClientError, DetachRequest, Detached};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::model::Instance;

/// The exit status of a command that was killed (SIGKILL is 9).
const KILLED: u8 = 128 + 9;

/// Starts the command's process, waits for it and detaches the endpoint of the leader. Returns the
/// exit status.
pub fn guard(
    leader: Pid,
    signals: &SignalFd,
    lifeline: File,
    mut process: CommandProcess<'_>,
    instance: &Instance,
    output: Output,
) -> u8 {
    // Orphaned descendants of the command become children of the guard, so that `kill_all` finds
    // them.
    let started = set_child_subreaper(true).and_then(|()| signals::block_stop_signals()).and_then(|()| {
        let guard = getpid();
        // SAFETY: a process that was just forked has one thread.
        Ok(match unsafe { fork() }? {
            ForkResult::Parent { child } => Some(child),
            ForkResult::Child => {
                let failure = process.run(guard);
                process.report_failure(&failure);
                std::process::exit(failure.exit.into())
            }
        })
    });
    let command = match started {
        Ok(Some(command)) => command,
        Ok(None) => return KILLED,
        Err(errno) => {
            let failure = super::failure("start the command's process", errno);
            process.report_failure(&failure);
            return failure.exit;
        }
    };
    // The pipe ends belong to the command's process. The guard closes its copies, so that the
    // leader sees when they close.
    drop(process);
    let exit = wait_for_command(command, leader, signals, &lifeline).unwrap_or_else(|_| {
        kill_all(command);
        KILLED
    });
    if let Some(endpoint) = read_endpoint(lifeline) {
        match super::request_with_time_limit(detach(instance, endpoint)) {
            Ok(()) => {}
            Err(failure) => output.print_failure(&failure),
        }
    }
    exit
}

/// Waits until the command exits. Kills it when the leader closes the lifeline, by exiting or on an
/// error.
fn wait_for_command(command: Pid, leader: Pid, signals: &SignalFd, lifeline: &File) -> Result<u8, Errno> {
    loop {
        // Only the hang-up of the lifeline matters here, which poll(2) always reports.
        let mut descriptors =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(lifeline.as_fd(), PollFlags::empty())];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        let [signalled, leader_gone] = descriptors.map(|descriptor| descriptor.any().unwrap_or(true));
        if leader_gone {
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
            // Only signals from the leader are forwarded. Another sender that signalled the process
            // group has reached the command too.
            Some(Received::Sent { signal, sender }) if sender == leader => {
                // The command is a child that has not been waited for, so its process id cannot
                // have been reused.
                let _ = kill(command, signal);
            }
            Some(Received::Sent { .. } | Received::FromTerminal) | None => {}
        }
    }
}

/// Reaps all children that have exited. Returns the exit status of the command if it is among them.
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

/// Kills the command and all its descendants. Orphans become children of this process and are
/// killed in the next round.
fn kill_all(command: Pid) {
    let _ = kill(command, Signal::SIGKILL);
    loop {
        let children = children();
        for child in &children {
            let _ = kill(*child, Signal::SIGKILL);
        }
        // The list may miss a child that was forked during the scan. So an empty list is no reason
        // to block.
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
        parent_of(&stat) == Some(own)
    });
    children.map(Pid::from_raw).collect()
}

/// Returns the parent from a line of /proc/PID/stat. The process name in parentheses may contain
/// any character.
fn parent_of(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

/// Returns the id of the endpoint that the leader attached, or `None` if the leader exited before
/// it attached one.
fn read_endpoint(lifeline: File) -> Option<String> {
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
        // If the daemon is not running, its next start releases the endpoint, because the namespace
        // no longer exists.
        Ok(_) | Err(ClientError::NotRunning { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_is_found_after_any_process_name() {
        assert_eq!(parent_of("7 (sh) S 6 7 7 0"), Some(Pid::from_raw(6)));
        assert_eq!(parent_of("7 (a) R 1 (b) S 6 7"), Some(Pid::from_raw(6)));
        assert_eq!(parent_of(""), None);
    }
}
