//! `run`: runs a command in a new network namespace, which is attached as long as the command runs.
//!
//! `run` uses three processes, so that nothing is left behind if one of them is killed. The leader
//! (this process) attaches the namespace and forwards signals. The guard ([`guard`]), a child of
//! the leader, is the parent of the command. It detaches the namespace when the command has exited,
//! and kills the command with all its descendants when the leader is gone. The command ([`inside`])
//! has its own process from the start, because the namespace is attached by its path
//! /proc/PID/ns/net. All three stay in the process group that the shell created, so the command
//! uses the terminal as if it had been started directly.

mod guard;
mod inside;
mod mounts;
mod signals;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::kill;
use nix::sys::signalfd::SignalFd;
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use serde::{Deserialize, Serialize};

use super::arguments::{AttachFlags, Run};
use super::failure::Failure;
use super::output::Output;
use crate::api::{Client, EndpointView, ErrorBody, NetworkDetails, path};
use crate::etc_files::{self, Etc};
use crate::model::{Driver, Instance};

/// The network if no `--network` is given.
const DEFAULT_NETWORK: &str = "bridge";
/// Time limit for a reply of a daemon that works on the request. Signals are not forwarded during
/// this time. A daemon that does not answer at all is found earlier, by the client.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A message from the command's process to the leader, as one line of JSON. `exec` closes the pipe.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChildMessage {
    /// The process with this id is in the namespace to attach.
    Ready(i32),
    /// The process failed with this error and exit status.
    Failed(ErrorBody, u8),
}

/// The contents of the command's namespaces, sent from the leader to the command's process as one
/// line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NamespaceSetup {
    hostname: String,
    hosts: String,
    resolv_conf: String,
}

/// Runs a command and returns its exit status.
pub fn run(arguments: Run, instance: &Instance, output: Output) -> Result<u8, Failure> {
    let Run { mut flags, command } = arguments;
    if let Some(hostname) = flags.hostname.as_deref().filter(|hostname| !etc_files::is_hostname(hostname)) {
        let message = format!("invalid hostname `{hostname}` (letters, digits, `-`, `_` and `.`, at most 64)");
        return Err(Failure::new("invalid_hostname", &message));
    }
    let network_name = flags.network.clone().unwrap_or_else(|| DEFAULT_NETWORK.to_owned());
    let network = network(instance, &network_name)?;
    let name = flags.name.get_or_insert_with(|| format!("run-{}", std::process::id())).clone();
    let hostname = flags.hostname.clone().unwrap_or_else(|| name.clone());

    let mut processes = start(&command, network.network.driver, instance, output)?;
    let process = match processes.read_message()? {
        Some(ChildMessage::Ready(process)) => process,
        Some(ChildMessage::Failed(error, exit)) => return Err(Failure { error, exit }),
        None => return Err(Failure::new("run", "the process of the command was killed (try again)")),
    };
    let endpoint = attach(instance, flags, process)?;
    let has_own_namespaces = network.network.driver != Driver::Host;
    let setup = has_own_namespaces.then(|| namespace_setup(&endpoint, &hostname));
    processes.send_setup(&endpoint, setup.as_ref())?;
    let failed = match processes.read_message()? {
        Some(ChildMessage::Failed(error, exit)) => Some(Failure { error, exit }),
        Some(ChildMessage::Ready(_)) | None => None,
    };
    let exit = processes.wait_for_exit().map_err(|error| failure("wait for the command", error))?;
    failed.map_or(Ok(exit), Err)
}

fn network(instance: &Instance, name: &str) -> Result<NetworkDetails, Failure> {
    request_with_time_limit(async {
        let mut client = Client::connect(instance).await?;
        Ok(client.get(&path(&["networks", name])).await?)
    })
}

fn attach(instance: &Instance, flags: AttachFlags, process: i32) -> Result<EndpointView, Failure> {
    let netns = PathBuf::from(format!("/proc/{process}/ns/net"));
    let request = super::endpoints::request(flags, netns);
    request_with_time_limit(async {
        let mut client = Client::connect(instance).await?;
        Ok(client.post("/endpoints", &request).await?)
    })
}

/// Runs a request to the daemon in a runtime of its own, which ends with the request. The process
/// must have a single thread when it forks.
fn request_with_time_limit<T>(request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut result = None;
    super::block_on(async {
        let reply = tokio::time::timeout(TIME_LIMIT, request).await;
        let timeout = || {
            Failure::new(
                "timeout",
                &format!(
                    "the daemon worked on the request for more than {} s (its log may say why)",
                    TIME_LIMIT.as_secs()
                ),
            )
        };
        result = Some(reply.map_err(|_| timeout())??);
        Ok(())
    })?;
    result.ok_or_else(|| Failure::new("timeout", "the daemon did not answer"))
}

/// Builds the hostname and the files for an endpoint. The name servers are the gateways of its
/// subnets. Without gateways, the resolv.conf has none.
fn namespace_setup(endpoint: &EndpointView, hostname: &str) -> NamespaceSetup {
    let addresses = [endpoint.ipv4.map(IpAddr::from), endpoint.ipv6.map(IpAddr::from)];
    let addresses: Vec<IpAddr> = addresses.into_iter().flatten().collect();
    let nameservers = &endpoint.nameservers;
    let host = if nameservers.is_empty() { String::new() } else { Etc::default().host_resolv_conf() };
    NamespaceSetup {
        hostname: hostname.to_owned(),
        hosts: etc_files::hosts(&addresses, &[hostname, &endpoint.name]),
        resolv_conf: etc_files::resolv_conf(nameservers, &host),
    }
}

/// The command's process and its guard, as seen by the leader.
struct Processes {
    /// The guard's process, `None` once it has been waited for.
    guard: Option<Pid>,
    signals: SignalFd,
    messages: BufReader<File>,
    setup_pipe: File,
    lifeline: Option<File>,
}

/// Starts the guard and the command's process. The latter enters its namespaces and waits.
fn start(command: &[OsString], driver: Driver, instance: &Instance, output: Output) -> Result<Processes, Failure> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| failure("create a pipe", errno));
    let (messages_out, messages_in) = pipe()?;
    let (setup_out, setup_in) = pipe()?;
    let (lifeline_out, lifeline_in) = pipe()?;
    let (signals, previous_mask) = signals::block().map_err(|errno| failure("block signals", errno))?;
    let leader = nix::unistd::getpid();
    // SAFETY: this process has one thread. The runtime of the earlier request is gone, and it used
    // this thread.
    match unsafe { fork() }.map_err(|errno| failure("start a process", errno))? {
        ForkResult::Parent { child } => Ok(Processes {
            guard: Some(child),
            signals,
            messages: BufReader::new(messages_out.into()),
            setup_pipe: setup_in.into(),
            lifeline: Some(lifeline_in.into()),
        }),
        ForkResult::Child => {
            // The guard must not keep a copy of the leader's pipe ends: a closed end tells the
            // other process that the leader is gone.
            drop::<[OwnedFd; 3]>([messages_out, setup_in, lifeline_in]);
            let process = inside::CommandProcess {
                command,
                own_namespaces: driver != Driver::Host,
                previous_mask,
                staging: instance.run_directory(),
                setup_pipe: setup_out,
                messages: messages_in.into(),
            };
            let exit = guard::guard(leader, &signals, lifeline_out.into(), process, instance, output);
            std::process::exit(exit.into())
        }
    }
}

impl Processes {
    /// Reads the next message of the command's process. Returns `None` if `exec` succeeded or the
    /// process died.
    fn read_message(&mut self) -> Result<Option<ChildMessage>, Failure> {
        let mut line = String::new();
        self.messages
            .read_line(&mut line)
            .map_err(|error| failure("read a message of the command's process", error))?;
        Ok(serde_json::from_str(&line).ok())
    }

    /// Sends the endpoint to detach at the end to the guard, and the setting to the command's
    /// process, which then continues.
    fn send_setup(&mut self, endpoint: &EndpointView, setup: Option<&NamespaceSetup>) -> Result<(), Failure> {
        if let Some(lifeline) = &mut self.lifeline {
            // A dead guard is detected by `wait`.
            let _ = writeln!(lifeline, "{}", endpoint.id);
        }
        let line = serde_json::to_string(&setup).map_err(|error| failure("encode the namespace setup", error))?;
        let _ = writeln!(self.setup_pipe, "{line}");
        Ok(())
    }

    /// Forwards signals until the guard exits. Returns the guard's exit status, which is the
    /// command's.
    fn wait_for_exit(mut self) -> io::Result<u8> {
        let Some(guard) = self.guard else { return Ok(0) };
        loop {
            let Some(received) = signals::next(&self.signals)? else { continue };
            match received {
                signals::Received::Child => {
                    if let Some((_, exit)) = wait(Some(guard), libc::WNOHANG)? {
                        self.guard = None;
                        return Ok(exit);
                    }
                }
                signals::Received::Sent { signal, .. } => {
                    // The guard is a child that has not been waited for, so its process id cannot
                    // have been reused.
                    let _ = kill(guard, signal);
                }
                signals::Received::FromTerminal => {}
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // The closed lifeline makes the guard end the command.
        self.lifeline = None;
        if let Some(guard) = self.guard.take() {
            while wait(Some(guard), 0) == Err(Errno::EINTR) {}
        }
    }
}

/// Waits for one child, or for any with `None`. Returns its process id and exit status. nix's
/// `waitpid` is not used, because it fails for real-time signals.
fn wait(child: Option<Pid>, flags: i32) -> Result<Option<(Pid, u8)>, Errno> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let ended = Errno::result(unsafe { libc::waitpid(child.map_or(-1, Pid::as_raw), &raw mut status, flags) })?;
    Ok((ended != 0).then(|| (Pid::from_raw(ended), exit_status(status))))
}

/// Converts a wait status into an exit status as shells do: 128 plus the signal for a killed
/// process.
fn exit_status(status: i32) -> u8 {
    let number = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn failure(action: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new("run", &format!("cannot {action}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_is_the_one_that_shells_use() {
        for (status, exit) in [(0, 0), (255 << 8, 255), (libc::SIGTERM, 143), (libc::SIGSEGV | 0x80, 139), (34, 162)] {
            assert_eq!(exit_status(status), exit);
        }
    }

    #[test]
    fn messages_between_processes_are_one_line() {
        let setup = NamespaceSetup { hostname: "web".into(), hosts: "a\nb\n".into(), resolv_conf: "c\n".into() };
        let line = serde_json::to_string(&Some(&setup)).expect("JSON");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Option<NamespaceSetup>>(&line).expect("understood"), Some(setup));
        let line = serde_json::to_string(&ChildMessage::Failed(ErrorBody::new("x", "a\nb"), 127)).expect("JSON");
        assert!(!line.contains('\n'));
        assert!(matches!(serde_json::from_str(&line), Ok(ChildMessage::Failed(_, 127))));
    }
}
