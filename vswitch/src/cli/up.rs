//! `up`: starts the daemon and returns when it serves.
//!
//! The daemon is this program again, in a session of its own. It tells on its stdout, a pipe, that it serves or why it
//! cannot; then its stdout is its log, like its stderr.

mod differing;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::arguments::{ClusterFlags, DatapathMode, Up};
use super::failure::Failure;
use super::output::{Output, say};
use crate::api::{Client, ErrorBody, Status};
use crate::cluster;
use crate::daemon::{self, ClusterOptions, DaemonError, Options};
use crate::datapath::Mode;
use crate::lock::{Lock, LockError};
use crate::model::{Instance, Subnet};
use crate::switch::Restored;

/// Where subnets are taken from if nobody says.
const DEFAULT_POOL: &str = "10.201.0.0/16";
/// The UDP port of VXLAN (IANA; RFC 7348, 8).
const VXLAN_PORT: u16 = 4789;
/// The UDP port of WireGuard, beside that of other users of it (51820), in the range that nobody is given (RFC 6335, 6).
const WIREGUARD_PORT: u16 = 51_872;
/// How long another `up` or `down` of the same instance may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether that is done.
const PAUSE: Duration = Duration::from_millis(50);

/// What the daemon tells the `up` that started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Ready(Restored),
    Failed(ErrorBody),
}

/// What `up` prints.
#[derive(Debug, Serialize)]
struct Report {
    instance: String,
    /// False if it was up already.
    started: bool,
    #[serde(flatten)]
    restored: Restored,
}

pub fn run(arguments: &Up, instance: &Instance, output: Output) -> Result<(), Failure> {
    if arguments.detached {
        return be_daemon(arguments, instance);
    }
    // Nonsense is told at once, whoever runs.
    cluster(&arguments.cluster)?;
    if let Some(status) = running(instance)? {
        daemon::check_namespace(instance)?;
        return report_running(arguments, status, instance, output);
    }
    if arguments.foreground {
        return in_foreground(arguments, instance);
    }
    daemon::check_machine()?;
    let begun = Instant::now();
    loop {
        // Whoever took it down a moment ago may have taken this with it.
        daemon::make_run_directory(instance)?;
        let word = match Lock::acquire(&instance.lock_file()) {
            // Nobody has it: it is for the daemon to take.
            Ok(lock) => {
                drop(lock);
                start(arguments, instance)?
            }
            Err(error) => Word::Failed(Failure::from(DaemonError::from(error)).error),
        };
        match word {
            Word::Ready(restored) => {
                return report(&Report { instance: instance.name().to_string(), started: true, restored }, output);
            }
            // Another `up` was a little faster, or a `down` is not quite done.
            Word::Failed(error) if error.code == locked() && begun.elapsed() < PATIENCE => {
                if let Some(status) = running(instance)? {
                    return report_running(arguments, status, instance, output);
                }
                std::thread::sleep(PAUSE);
            }
            Word::Failed(error) => return Err(Failure::told(error)),
        }
    }
}

fn locked() -> &'static str {
    DaemonError::Lock(LockError::Held).code()
}

/// The state of the daemon, if one runs.
fn running(instance: &Instance) -> Result<Option<Status>, Failure> {
    let mut status = None;
    let asked = super::asking(async {
        let mut client = Client::connect(instance).await?;
        status = Some(client.get("/status").await?);
        Ok(())
    });
    match asked {
        // Nobody there, or not for us: whether that matters is found out by starting.
        Ok(()) | Err(_) => Ok(status),
    }
}

/// Says that it is up already, and with which of the options that are given it is not.
fn report_running(arguments: &Up, status: Status, instance: &Instance, output: Output) -> Result<(), Failure> {
    let differing = differing::differing(arguments, &status, instance);
    if !differing.is_empty() {
        let command = instance.command();
        eprintln!(
            "note: it runs with the options it was started with, not with {} (`{command} down`, then `{command} up` with the new ones)",
            differing.join(", ")
        );
    }
    report(&Report { instance: status.instance, started: false, restored: Restored::default() }, output)
}

fn report(report: &Report, output: Output) -> Result<(), Failure> {
    for warning in &report.restored.warnings {
        eprintln!("vswitch: {warning}");
    }
    if output.quiet {
        return say(&format!("{}\n", report.instance));
    }
    output.print(report, |report| {
        let Report { instance, started, restored } = report;
        if !started {
            return format!("vswitch is up already (instance {instance})\n");
        }
        let mut text = format!("vswitch is up (instance {instance}");
        for (count, what) in [(restored.running, "taken over"), (restored.attached, "attached again")] {
            if count > 0 {
                text += &format!(", {count} {} {what}", if count == 1 { "endpoint" } else { "endpoints" });
            }
        }
        text += ")\n";
        for release in &restored.released {
            text += &format!("endpoint {} is released: {}\n", release.endpoint, release.reason);
        }
        text
    })
}

/// Starts the daemon, and waits for its word.
fn start(arguments: &Up, instance: &Instance) -> Result<Word, Failure> {
    let failed = |what: &str, error: &io::Error| Failure::new("start", &format!("cannot {what}: {error}"));
    let log = instance.log_file();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|error| failed(&format!("open {}", log.display()), &error))?;
    let program = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
    let mut command = Command::new(program);
    command.args(["--instance", instance.name().as_str(), "up", "--detached"]);
    command.args(daemon_arguments(arguments).into_iter().flat_map(|(option, value)| [option.into(), value]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/");
    let mut child = command.spawn().map_err(|error| failed("start the daemon", &error))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(|error| failed("hear from the daemon", &error))?;
    }
    let word: Result<Word, _> = serde_json::from_str(&line);
    if !matches!(word, Ok(Word::Ready(_))) {
        // It ends, and what it made is gone when it has.
        child.wait().map_err(|error| failed("wait for the daemon", &error))?;
    }
    word.map_err(|_| {
        let message = format!("the daemon died as it started (see {})", instance.log_file().display());
        Failure::new("start", &message)
    })
}

/// The daemon itself, started by [`start`].
fn be_daemon(arguments: &Up, instance: &Instance) -> Result<(), Failure> {
    // Fails only for the leader of a process group, which a child just started is not.
    let _ = nix::unistd::setsid();
    log_to_stderr();
    let outcome = daemon::run(&options(arguments, instance)?, |restored| {
        tell(&Word::Ready(restored.clone()));
        // From here on nobody listens but the log.
        if let Err(error) = nix::unistd::dup2_stdout(io::stderr()) {
            tracing::warn!("stdout cannot be the log: {error}");
        }
    });
    outcome.map_err(|error| {
        let failure = Failure::from(error);
        tell(&Word::Failed(failure.error.clone()));
        failure
    })
}

fn tell(word: &Word) {
    let line = serde_json::to_string(word).unwrap_or_default();
    // An `up` that was killed does not listen; the daemon is started all the same.
    let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
}

fn in_foreground(arguments: &Up, instance: &Instance) -> Result<(), Failure> {
    log_to_stderr();
    Ok(daemon::run(&options(arguments, instance)?, |_| daemon::notify(&[sd_notify::NotifyState::Ready]))?)
}

fn options(arguments: &Up, instance: &Instance) -> Result<Options, Failure> {
    let pools = if arguments.pool.is_empty() { default_pool().into_iter().collect() } else { arguments.pool.clone() };
    Ok(Options {
        instance: instance.clone(),
        mode: arguments.datapath.unwrap_or_default().mode(),
        pools,
        fdb_size: arguments.fdb_size,
        vxlan_port: arguments.vxlan_port.unwrap_or(VXLAN_PORT),
        wireguard_port: arguments.wireguard_port.unwrap_or(WIREGUARD_PORT),
        cluster: cluster(&arguments.cluster)?,
    })
}

/// The cluster, if one is named.
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
    Ok(Some(ClusterOptions { etcd, advertise: flags.advertise }))
}

/// What the daemon is to be told of what `up` was given, option by option. Files by their whole paths: it has another working
/// directory.
fn daemon_arguments(arguments: &Up) -> Vec<(&'static str, OsString)> {
    let file = |path: &Option<PathBuf>| {
        let path = path.as_ref()?;
        Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()).into_os_string())
    };
    let flags = &arguments.cluster;
    let given = [
        ("--datapath", arguments.datapath.map(|mode| mode.name().into())),
        ("--fdb-size", arguments.fdb_size.map(|size| size.to_string().into())),
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

/// `VSWITCH_LOG` says how much: `debug`, `vswitch=trace` and the like.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .with_env_var("VSWITCH_LOG")
        .from_env_lossy();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    // Once a process.
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
    fn the_default_pool_is_one() {
        assert_eq!(default_pool().map(|pool| pool.to_string()).as_deref(), Some(DEFAULT_POOL));
    }

    #[test]
    fn the_daemons_word_is_one_line_and_understood() {
        for word in [Word::Ready(Restored::default()), Word::Failed(ErrorBody::new("x", "a\nb"))] {
            let line = serde_json::to_string(&word).expect("JSON");
            assert!(!line.contains('\n'));
            assert!(serde_json::from_str::<Word>(&line).is_ok(), "{line}");
        }
    }
}
