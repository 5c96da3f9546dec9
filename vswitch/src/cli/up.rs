//! `up`: starts the daemon and returns once it serves.
//!
//! The daemon is this program, started again in a session of its own. It reports on stdout, a pipe,
//! that it serves or why it failed. After that its stdout is the log, like its stderr.

mod differing;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vswitch_common::tables::MARK_PUBLISHED;

use super::arguments::{ClusterFlags, DatapathMode, Up};
use super::failure::Failure;
use super::output::{Output, print_text};
use crate::api::{Client, ClientError, ErrorBody, Repaired, Status};
use crate::cluster;
use crate::daemon::{self, ClusterOptions, DaemonError, Options};
use crate::datapath::Mode;
use crate::lock::{Lock, LockError};
use crate::model::{Instance, Subnet};
use crate::switch::Restored;

/// The pool of subnets if no `--pool` is given.
const DEFAULT_POOL: &str = "10.201.0.0/16";
/// The UDP port of VXLAN (IANA; RFC 7348, 8).
const VXLAN_PORT: u16 = 4789;
/// The UDP port of WireGuard. It differs from the usual 51820 so that other users of WireGuard keep
/// that, and is in the dynamic range, which is never assigned (RFC 6335, 6).
const WIREGUARD_PORT: u16 = 51_872;
/// Time limit for another `up` or `down` of the same instance.
const TIME_LIMIT: Duration = Duration::from_secs(25);
/// Time limit for a sign of life of a daemon that starts.
const SILENCE: Duration = Duration::from_secs(20);
/// Interval at which the lock is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The message from the daemon to the `up` that started it, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StartMessage {
    /// The daemon still works on its start.
    Working,
    Ready(Restored),
    Failed(ErrorBody),
}

/// The output of `up`.
#[derive(Debug, Serialize)]
struct Report {
    instance: String,
    /// False if the daemon was running already.
    started: bool,
    /// What was missing on the host and is there again, if the daemon was running already.
    mended: Vec<String>,
    #[serde(flatten)]
    restored: Restored,
}

pub fn run(arguments: &Up, instance: &Instance, output: Output) -> Result<(), Failure> {
    if arguments.detached {
        return run_daemon(arguments, instance);
    }
    // Invalid cluster flags are reported even if a daemon is running already.
    cluster(&arguments.cluster)?;
    if let Some(status) = running_status(instance)? {
        daemon::check_namespace(instance)?;
        return report_running(arguments, status, instance, output);
    }
    if arguments.foreground {
        return run_in_foreground(arguments, instance);
    }
    daemon::check_machine()?;
    let started_at = Instant::now();
    loop {
        // A `down` that has just finished may have removed the directory.
        daemon::make_run_directory(instance)?;
        let message = match Lock::acquire(&instance.lock_file()) {
            // The lock is free. The daemon acquires it itself.
            Ok(lock) => {
                drop(lock);
                start(arguments, instance)?
            }
            Err(error) => StartMessage::Failed(Failure::from(DaemonError::from(error)).error),
        };
        match message {
            StartMessage::Ready(restored) => {
                let instance = instance.name().to_string();
                return report(&Report { instance, started: true, mended: Vec::new(), restored }, output);
            }
            // Another `up` was faster, or a `down` is not done yet.
            StartMessage::Failed(error) if error.code == lock_held_code() && started_at.elapsed() < TIME_LIMIT => {
                if let Some(status) = running_status(instance)? {
                    return report_running(arguments, status, instance, output);
                }
                thread::sleep(RETRY_INTERVAL);
            }
            StartMessage::Failed(error) => return Err(Failure::reported(error)),
            StartMessage::Working => {}
        }
    }
}

fn lock_held_code() -> &'static str {
    DaemonError::Lock(LockError::Held).code()
}

/// Returns the status of the running daemon, if there is one.
fn running_status(instance: &Instance) -> Result<Option<Status>, Failure> {
    let mut status = None;
    super::block_on(async {
        let asked = async { Client::connect(instance).await?.get("/status").await };
        match asked.await {
            Ok(answer) => status = Some(answer),
            Err(error @ ClientError::NotAnswering(_)) => return Err(error.into()),
            // No daemon, or no permission to ask it. Whether that matters shows when the daemon is
            // started.
            Err(_) => {}
        }
        Ok(())
    })?;
    Ok(status)
}

/// Has the running daemon mend what other programs took from the host's side of its networks.
fn repair(instance: &Instance) -> Result<Repaired, Failure> {
    let mut repaired = Repaired::default();
    super::block_on(async {
        let asked = async { Client::connect(instance).await?.post("/repair", &()).await };
        match asked.await {
            Ok(answer) => repaired = answer,
            // A daemon of an earlier version.
            Err(ClientError::Refused(error)) if error.code == "no_such_path" => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    })?;
    Ok(repaired)
}

/// Reports that the daemon is running already, and which of the given options it does not run with.
fn report_running(arguments: &Up, status: Status, instance: &Instance, output: Output) -> Result<(), Failure> {
    let differing = differing::differing_options(arguments, &status, instance);
    if !differing.is_empty() {
        let command = instance.command();
        eprintln!(
            "note: the running daemon was not started with {} (to apply the options: `{command} down`, then `{command} up` with them)",
            differing.join(", ")
        );
    }
    let Repaired { mended } = repair(instance)?;
    report(&Report { instance: status.instance, started: false, mended, restored: Restored::default() }, output)
}

fn report(report: &Report, output: Output) -> Result<(), Failure> {
    for warning in &report.restored.warnings {
        eprintln!("vswitch: {warning}");
    }
    if output.quiet {
        return print_text(&format!("{}\n", report.instance));
    }
    output.print(report, |report| {
        let Report { instance, started, mended, restored } = report;
        if !started {
            let mended = mended.iter().map(|mended| format!("mended: {mended}\n"));
            return format!("vswitch is up already (instance {instance})\n") + &mended.collect::<String>();
        }
        let mut text = format!("vswitch is up (instance {instance}");
        for (count, action) in [(restored.running, "taken over"), (restored.attached, "attached again")] {
            if count > 0 {
                text += &format!(", {count} {} {action}", if count == 1 { "endpoint" } else { "endpoints" });
            }
        }
        text += ")\n";
        for release in &restored.released {
            text += &format!("endpoint {} is released: {}\n", release.endpoint, release.reason);
        }
        text
    })
}

/// Starts the daemon and waits for its message.
fn start(arguments: &Up, instance: &Instance) -> Result<StartMessage, Failure> {
    let failed = |action: &str, error: &io::Error| Failure::new("start", &format!("cannot {action}: {error}"));
    let log = instance.log_file();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|error| failed(&format!("open {}", log.display()), &error))?;
    let program = std::env::current_exe().map_err(|error| failed("find the path of this program", &error))?;
    let mut command = Command::new(program);
    command.args(["--instance", instance.name().as_str(), "up", "--detached"]);
    command.args(daemon_arguments(arguments).into_iter().flat_map(|(option, value)| [option.into(), value]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/");
    let mut child = command.spawn().map_err(|error| failed("start the daemon", &error))?;
    let message = child.stdout.take().map_or(Err(RecvTimeoutError::Disconnected), last_message);
    if matches!(message, Err(RecvTimeoutError::Timeout)) {
        let process = child.id();
        let message = format!(
            "the daemon gives no sign of life during its start (`kill -CONT {process}` if it is stopped; else `kill -9 {process}`, then `{}`; see {})",
            instance.command() + " up",
            instance.log_file().display()
        );
        return Err(Failure::new("not_answering", &message));
    }
    if !matches!(message, Ok(StartMessage::Ready(_))) {
        // A daemon that failed removes what it created before it exits.
        child.wait().map_err(|error| failed("wait for the daemon", &error))?;
    }
    message.map_err(|_| {
        let message = format!("the daemon died during its start (see {})", instance.log_file().display());
        Failure::new("start", &message)
    })
}

/// Returns the message with which the start of a daemon ends. Waits for as long as the daemon gives
/// signs of life.
fn last_message(stdout: ChildStdout) -> Result<StartMessage, RecvTimeoutError> {
    let (sender, messages) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let message = line.ok().and_then(|line| serde_json::from_str::<StartMessage>(&line).ok());
            let Some(message) = message else { return };
            let is_last = !matches!(message, StartMessage::Working);
            if sender.send(message).is_err() || is_last {
                return;
            }
        }
    });
    loop {
        match messages.recv_timeout(SILENCE)? {
            StartMessage::Working => {}
            last => return Ok(last),
        }
    }
}

/// Runs the daemon in the process that [`start`] started.
fn run_daemon(arguments: &Up, instance: &Instance) -> Result<(), Failure> {
    // Fails only for a process group leader. A new child is not one.
    let _ = nix::unistd::setsid();
    log_to_stderr();
    let up = Arc::new(Mutex::new(true));
    // No sign of life may follow the last message.
    let tell_last = |message: &StartMessage| {
        let mut up = up.lock().unwrap_or_else(PoisonError::into_inner);
        send_to_parent(message);
        *up = false;
        // `up` exits after this message, so later output goes to the log.
        if let Err(error) = nix::unistd::dup2_stdout(io::stderr()) {
            tracing::warn!("cannot redirect stdout to the log: {error}");
        }
    };
    let still_up = up.clone();
    let working = move || {
        let up = still_up.lock().unwrap_or_else(PoisonError::into_inner);
        if *up {
            send_to_parent(&StartMessage::Working);
        }
        *up
    };
    let outcome = daemon::run(&options(arguments, instance)?, working, |restored| {
        tell_last(&StartMessage::Ready(restored.clone()));
    });
    outcome.map_err(|error| {
        let failure = Failure::from(error);
        tell_last(&StartMessage::Failed(failure.error.clone()));
        failure
    })
}

fn send_to_parent(message: &StartMessage) {
    let line = serde_json::to_string(message).unwrap_or_default();
    // If `up` was killed, the message is lost and the daemon starts anyway.
    let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
}

fn run_in_foreground(arguments: &Up, instance: &Instance) -> Result<(), Failure> {
    log_to_stderr();
    let ready = |_: &Restored| daemon::notify(&[sd_notify::NotifyState::Ready]);
    Ok(daemon::run(&options(arguments, instance)?, || false, ready)?)
}

fn options(arguments: &Up, instance: &Instance) -> Result<Options, Failure> {
    let pools = if arguments.pool.is_empty() { default_pool().into_iter().collect() } else { arguments.pool.clone() };
    Ok(Options {
        instance: instance.clone(),
        mode: arguments.datapath.unwrap_or_default().mode(),
        pools,
        fdb_size: arguments.fdb_size,
        published_mark: arguments.published_mark.unwrap_or(MARK_PUBLISHED),
        vxlan_port: arguments.vxlan_port.unwrap_or(VXLAN_PORT),
        wireguard_port: arguments.wireguard_port.unwrap_or(WIREGUARD_PORT),
        cluster: cluster(&arguments.cluster)?,
        advertise: arguments.cluster.advertise,
    })
}

/// Returns the cluster options, or `None` without `--cluster`.
fn cluster(flags: &ClusterFlags) -> Result<Option<ClusterOptions>, Failure> {
    let Some(url) = &flags.cluster else { return Ok(None) };
    let etcd = || {
        let mut etcd = cluster::Options::parse(url)?;
        etcd = etcd.with_tls(flags.cluster_ca.clone(), flags.cluster_cert.clone(), flags.cluster_key.clone())?;
        if let (Some(user), Some(password)) = (&flags.cluster_user, &flags.cluster_password_file) {
            etcd = etcd.with_user(user.clone(), password.clone());
        }
        if let Some(prefix) = &flags.cluster_prefix {
            etcd = etcd.with_prefix(prefix)?;
        }
        if let Some(seconds) = flags.cluster_lease {
            etcd = etcd.with_lease(seconds)?;
        }
        Ok::<_, cluster::InvalidOptions>(etcd)
    };
    let etcd = etcd().map_err(|error| Failure::new("invalid_cluster", &error.to_string()))?;
    Ok(Some(ClusterOptions { etcd }))
}

/// Returns the arguments of `up` that are passed to the daemon, one entry per option and value.
/// File paths are made absolute, because the daemon has another working directory.
fn daemon_arguments(arguments: &Up) -> Vec<(&'static str, OsString)> {
    let file = |path: &Option<PathBuf>| {
        let path = path.as_ref()?;
        Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()).into_os_string())
    };
    let flags = &arguments.cluster;
    let given = [
        ("--datapath", arguments.datapath.map(|mode| mode.name().into())),
        ("--fdb-size", arguments.fdb_size.map(|size| size.to_string().into())),
        ("--published-mark", arguments.published_mark.map(|mark| format!("{mark:#x}").into())),
        ("--vxlan-port", arguments.vxlan_port.map(|port| port.to_string().into())),
        ("--wireguard-port", arguments.wireguard_port.map(|port| port.to_string().into())),
        ("--cluster", flags.cluster.clone().map(OsString::from)),
        ("--advertise", flags.advertise.map(|address| address.to_string().into())),
        ("--cluster-ca", file(&flags.cluster_ca)),
        ("--cluster-cert", file(&flags.cluster_cert)),
        ("--cluster-key", file(&flags.cluster_key)),
        ("--cluster-user", flags.cluster_user.clone().map(OsString::from)),
        ("--cluster-password-file", file(&flags.cluster_password_file)),
        ("--cluster-prefix", flags.cluster_prefix.clone().map(OsString::from)),
        ("--cluster-lease", flags.cluster_lease.map(|seconds| seconds.to_string().into())),
    ];
    let pools = arguments.pool.iter().map(|pool| ("--pool", pool.to_string().into()));
    given.into_iter().filter_map(|(option, value)| Some((option, value?))).chain(pools).collect()
}

fn default_pool() -> Option<Subnet> {
    DEFAULT_POOL.parse().ok()
}

/// Logs to stderr. The environment variable `VSWITCH_LOG` sets the level: `debug`, `vswitch=trace`
/// and the like.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .with_env_var("VSWITCH_LOG")
        .from_env_lossy();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    // Fails if a subscriber is set already; one per process is enough.
    let _ = subscriber.try_init();
}

impl DatapathMode {
    const fn mode(self) -> Mode {
        match self {
            Self::Auto => Mode::Auto,
            Self::Tc => Mode::Tc,
            Self::Xdp => Mode::Xdp,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_pool_is_a_valid_subnet() {
        assert_eq!(default_pool().map(|pool| pool.to_string()).as_deref(), Some(DEFAULT_POOL));
    }

    #[test]
    fn start_message_is_one_line_of_json() {
        for message in [
            StartMessage::Working,
            StartMessage::Ready(Restored::default()),
            StartMessage::Failed(ErrorBody::new("x", "a\nb")),
        ] {
            let line = serde_json::to_string(&message).expect("JSON");
            assert!(!line.contains('\n'));
            assert!(serde_json::from_str::<StartMessage>(&line).is_ok(), "{line}");
        }
    }
}
