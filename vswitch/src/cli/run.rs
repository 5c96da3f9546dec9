//! `run`: a command in a network namespace of its own, attached for as long as the command lasts.
//!
//! Three processes, so that nothing is left whichever of them is killed. This one, the leader, attaches and passes
//! signals on. Its child, the guard ([`guard`]), has the command as its child; it detaches when the command has ended,
//! and ends the command with all its offspring when the leader is gone. The command ([`inside`]) is a process of its own
//! from the start, because the namespace is attached by its path /proc/PID/ns/net. All stay in the process group that
//! the shell made, so the terminal is the command's as if it had been started alone.

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
use crate::etc::{self, Etc};
use crate::model::{Driver, Instance};

/// The network that nobody has to name.
const DEFAULT_NETWORK: &str = "bridge";
/// How long the daemon may take for an answer. Signals wait as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the command's process tells the leader, a line each. When it has become the command, the pipe is closed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    /// This process is in the namespace that is to be attached.
    Ready(i32),
    /// It could not go on, with the exit status for that.
    Failed(ErrorBody, u8),
}

/// What the command finds in its namespaces; what the leader tells its process, in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    hostname: String,
    hosts: String,
    resolv_conf: String,
}

/// Runs a command and returns its exit status.
pub fn run(arguments: Run, instance: &Instance, output: Output) -> Result<u8, Failure> {
    let Run { mut flags, command } = arguments;
    if let Some(hostname) = flags.hostname.as_deref().filter(|hostname| !etc::is_hostname(hostname)) {
        let message = format!("invalid hostname `{hostname}` (letters, digits, `-`, `_` and `.`, at most 64)");
        return Err(Failure::new("invalid_hostname", &message));
    }
    let wanted = flags.network.clone().unwrap_or_else(|| DEFAULT_NETWORK.to_owned());
    let network = network(instance, &wanted)?;
    let name = flags.name.get_or_insert_with(|| format!("run-{}", std::process::id())).clone();
    let hostname = flags.hostname.clone().unwrap_or_else(|| name.clone());

    let mut started = start(&command, network.network.driver, instance, output)?;
    let process = match started.word()? {
        Some(Word::Ready(process)) => process,
        Some(Word::Failed(error, exit)) => return Err(Failure { error, exit }),
        None => return Err(Failure::new("run", "the process for the command was killed (try again)")),
    };
    let endpoint = attach(instance, flags, process)?;
    let own = network.network.driver != Driver::Host;
    let setting = own.then(|| setting(&endpoint, &hostname));
    started.go(&endpoint, setting.as_ref())?;
    let failed = match started.word()? {
        Some(Word::Failed(error, exit)) => Some(Failure { error, exit }),
        Some(Word::Ready(_)) | None => None,
    };
    let exit = started.see_through().map_err(|error| failure("wait for the command", error))?;
    failed.map_or(Ok(exit), Err)
}

fn network(instance: &Instance, name: &str) -> Result<NetworkDetails, Failure> {
    answered(async {
        let mut client = Client::connect(instance).await?;
        Ok(client.get(&path(&["networks", name])).await?)
    })
}

fn attach(instance: &Instance, flags: AttachFlags, process: i32) -> Result<EndpointView, Failure> {
    let netns = PathBuf::from(format!("/proc/{process}/ns/net"));
    let request = super::endpoints::request(flags, netns);
    answered(async {
        let mut client = Client::connect(instance).await?;
        Ok(client.post("/endpoints", &request).await?)
    })
}

/// Asks the daemon, in a runtime for this alone: there must be no thread when processes are forked.
fn answered<T>(question: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut answer = None;
    super::asking(async {
        let timely = tokio::time::timeout(PATIENCE, question).await;
        let late = || Failure::new("timeout", &format!("the daemon did not answer within {} s", PATIENCE.as_secs()));
        answer = Some(timely.map_err(|_| late())??);
        Ok(())
    })?;
    answer.ok_or_else(|| Failure::new("timeout", "the daemon did not answer"))
}

/// What belongs to an endpoint. It asks the gateways of its subnets; without any, nobody.
fn setting(endpoint: &EndpointView, hostname: &str) -> Setting {
    let addresses = [endpoint.ipv4.map(IpAddr::from), endpoint.ipv6.map(IpAddr::from)];
    let addresses: Vec<IpAddr> = addresses.into_iter().flatten().collect();
    let nameservers = &endpoint.nameservers;
    let host = if nameservers.is_empty() { String::new() } else { Etc::default().host_resolv_conf() };
    Setting {
        hostname: hostname.to_owned(),
        hosts: etc::hosts(&addresses, &[hostname, &endpoint.name]),
        resolv_conf: etc::resolv_conf(nameservers, &host),
    }
}

/// The command's process and its guard, seen from the leader.
struct Started {
    /// Until it has been waited for.
    guard: Option<Pid>,
    signals: SignalFd,
    words: BufReader<File>,
    orders: File,
    lifeline: Option<File>,
}

/// Starts both. The command's process goes into its namespaces and waits.
fn start(command: &[OsString], driver: Driver, instance: &Instance, output: Output) -> Result<Started, Failure> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| failure("make a pipe", errno));
    let (words_out, words_in) = pipe()?;
    let (orders_out, orders_in) = pipe()?;
    let (lifeline_out, lifeline_in) = pipe()?;
    let (signals, held_before) = signals::hold().map_err(|errno| failure("hold signals", errno))?;
    let leader = nix::unistd::getpid();
    // SAFETY: this process has one thread: the runtime that asked the daemon is gone, and it ran on this one.
    match unsafe { fork() }.map_err(|errno| failure("start a process", errno))? {
        ForkResult::Parent { child } => Ok(Started {
            guard: Some(child),
            signals,
            words: BufReader::new(words_out.into()),
            orders: orders_in.into(),
            lifeline: Some(lifeline_in.into()),
        }),
        ForkResult::Child => {
            // Whose end is noticed by these being closed must be the only one who has them.
            drop::<[OwnedFd; 3]>([words_out, orders_in, lifeline_in]);
            let errand = inside::Errand {
                command,
                own_namespaces: driver != Driver::Host,
                held_before,
                staging: instance.run_directory(),
                orders: orders_out,
                words: words_in.into(),
            };
            let exit = guard::guard(leader, &signals, lifeline_out.into(), errand, instance, output);
            std::process::exit(exit.into())
        }
    }
}

impl Started {
    /// The next word of the command's process; none if it has become the command, or is dead.
    fn word(&mut self) -> Result<Option<Word>, Failure> {
        let mut line = String::new();
        self.words.read_line(&mut line).map_err(|error| failure("hear from the command's process", error))?;
        Ok(serde_json::from_str(&line).ok())
    }

    /// Tells the guard what is to be detached in the end, and then the command's process to go on.
    fn go(&mut self, endpoint: &EndpointView, setting: Option<&Setting>) -> Result<(), Failure> {
        if let Some(lifeline) = &mut self.lifeline {
            // A guard that is dead is found when it is waited for.
            let _ = writeln!(lifeline, "{}", endpoint.id);
        }
        let line = serde_json::to_string(&setting).map_err(|error| failure("tell the setting", error))?;
        let _ = writeln!(self.orders, "{line}");
        Ok(())
    }

    /// Passes signals on until the guard has ended: its exit status is the command's.
    fn see_through(mut self) -> io::Result<u8> {
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
                    // It is our child and not waited for, so the number is still its own.
                    let _ = kill(guard, signal);
                }
                signals::Received::ByTerminal => {}
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // That is how the guard learns that the command shall end.
        self.lifeline = None;
        if let Some(guard) = self.guard.take() {
            while wait(Some(guard), 0) == Err(Errno::EINTR) {}
        }
    }
}

/// Waits for a child, or for any: which one has ended, and its exit status. Not by nix, which fails for real-time signals.
fn wait(child: Option<Pid>, flags: i32) -> Result<Option<(Pid, u8)>, Errno> {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let ended = Errno::result(unsafe { libc::waitpid(child.map_or(-1, Pid::as_raw), &raw mut status, flags) })?;
    Ok((ended != 0).then(|| (Pid::from_raw(ended), exit_status(status))))
}

/// As shells have it.
fn exit_status(status: i32) -> u8 {
    let number = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn failure(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new("run", &format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_those_of_shells() {
        for (status, exit) in [(0, 0), (255 << 8, 255), (libc::SIGTERM, 143), (libc::SIGSEGV | 0x80, 139), (34, 162)] {
            assert_eq!(exit_status(status), exit);
        }
    }

    #[test]
    fn what_is_told_is_one_line() {
        let setting = Setting { hostname: "web".into(), hosts: "a\nb\n".into(), resolv_conf: "c\n".into() };
        let line = serde_json::to_string(&Some(&setting)).expect("JSON");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Option<Setting>>(&line).expect("understood"), Some(setting));
        let line = serde_json::to_string(&Word::Failed(ErrorBody::new("x", "a\nb"), 127)).expect("JSON");
        assert!(!line.contains('\n'));
        assert!(matches!(serde_json::from_str(&line), Ok(Word::Failed(_, 127))));
    }
}
