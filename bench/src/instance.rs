//! An instance of vswitch for one run. It is taken down, with everything that it created, on drop.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    net::Ipv4Addr,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::{
    command::{self, clean_up},
    endpoint::Endpoint,
    namespaces::NetnsName,
};

/// A running daemon that serves one namespace.
pub struct Instance {
    binary: PathBuf,
    name: String,
    host: NetnsName,
}

/// The part of the output of `vswitch attach --format json` that is used here.
#[derive(Debug, Deserialize)]
pub struct Attached {
    ifname: String,
    ipv4: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
}

impl Attached {
    /// Returns the attached interface as an endpoint of a topology.
    pub fn endpoint(&self, netns: &NetnsName) -> Endpoint {
        Endpoint { netns: netns.clone(), ifname: self.ifname.clone(), ipv4: self.ipv4 }
    }
}

impl Attached {
    /// Returns the gateway of the network, which also answers DNS queries.
    pub fn gateway(&self) -> Result<Ipv4Addr> {
        self.gateway.context("the endpoint has no gateway")
    }
}

impl Instance {
    /// Starts a daemon for the namespace `host`.
    pub fn up(binary: &Path, host: &NetnsName, options: &[&str]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // The guard exists before the daemon, so that a failed start is cleaned up too.
        let instance = Self { binary: binary.to_owned(), name, host: host.clone() };
        instance.start(options)?;
        Ok(instance)
    }

    /// Starts the daemon, for the first time or again after `down`.
    pub fn start(&self, options: &[&str]) -> Result<()> {
        // The output goes to a file. A pipe would stay open for the life of the daemon, and reading
        // it would never end.
        let mut output = tempfile::tempfile()?;
        let mut up = self.host.command(&self.binary);
        up.args(["--instance", &self.name, "up"]).args(options);
        up.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        // In its own process group the daemon does not receive the terminal's Ctrl-C. Dropping the
        // instance takes it down in order.
        let status = up.process_group(0).status().map_err(|error| command::start_error(&up, &error))?;
        command::stop_if_interrupted()?;
        if !status.success() {
            bail!("`vswitch up` failed ({status}): {}", read_all(&mut output)?.trim());
        }
        Ok(())
    }

    /// Returns the namespace that the instance serves.
    pub fn host(&self) -> &NetnsName {
        &self.host
    }

    /// Runs a `vswitch` command for this instance and returns its output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        command::run(self.command().args(arguments))
    }

    /// Returns a `vswitch` command with `--instance` set.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["--instance", &self.name]);
        command
    }

    /// Attaches a namespace.
    pub fn attach(&self, container: &NetnsName, options: &[&str]) -> Result<Attached> {
        let mut attach = self.command();
        attach.args(["attach", "--format", "json", "--netns"]).arg(container.path()).args(options);
        let json = command::run(&mut attach)?;
        serde_json::from_str(&json).with_context(|| format!("reading the output of `vswitch attach`: {json}"))
    }

    /// Returns the path at which the program `name` is pinned: below a directory for the version of
    /// the programs, of which an instance has one. Version 0.1 pinned it right in `programs`.
    pub fn pinned(&self, name: &str) -> PathBuf {
        let programs = self.directory().join("bpf/programs");
        let versions = std::fs::read_dir(&programs).into_iter().flatten().flatten();
        let mut pins = versions.map(|version| version.path().join(name));
        pins.find(|pin| pin.exists()).unwrap_or_else(|| programs.join(name))
    }

    /// Returns the path at which the map `name` is pinned.
    pub fn pinned_map(&self, name: &str) -> PathBuf {
        self.directory().join("bpf/maps").join(name)
    }

    /// Returns the name for `--instance`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id of the daemon.
    pub fn daemon(&self) -> Result<i32> {
        server_process_id(&self.directory().join("api.sock"))
    }

    /// Kills the daemon and returns when the process has ended. Frames flow on.
    pub fn kill(&self) -> Result<()> {
        let daemon = self.daemon()?;
        kill(Pid::from_raw(daemon), Signal::SIGKILL).context("killing the daemon")?;
        // The daemon is no child of this process. A zombie has given up its lock already.
        let ended = |stat: &str| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
        while std::fs::read_to_string(format!("/proc/{daemon}/stat")).is_ok_and(|stat| !ended(&stat)) {
            command::stop_if_interrupted()?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Takes the instance down. Fails if its directories are left behind.
    pub fn down(self) -> Result<()> {
        self.run(&["down", "--purge"])?;
        let leftovers: Vec<_> = self.directories().into_iter().filter(|directory| directory.exists()).collect();
        if !leftovers.is_empty() {
            bail!("`vswitch down --purge` left {leftovers:?} behind");
        }
        Ok(())
    }

    /// Returns the resident memory of the daemon in MB (10^6 bytes).
    pub fn resident_memory(&self) -> Result<f64> {
        let daemon = self.daemon()?;
        let status = std::fs::read_to_string(format!("/proc/{daemon}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 =
            line.and_then(|line| line.trim().strip_suffix("kB")).context("no VmRSS in /proc")?.trim().parse()?;
        Ok(kib * 1024.0 / 1e6)
    }

    fn directory(&self) -> PathBuf {
        Path::new("/run/vswitch").join(&self.name)
    }

    fn directories(&self) -> [PathBuf; 2] {
        [self.directory(), Path::new("/var/lib/vswitch").join(&self.name)]
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Without a run directory, `up` failed and cleaned up after itself.
        if self.directory().exists() {
            clean_up(self.command().args(["down", "--purge"]));
        }
        for directory in self.directories() {
            if directory.exists() {
                eprintln!("vswitch-bench: `vswitch down --purge` left {} behind", directory.display());
            }
        }
    }
}

/// Returns the path of the `vswitch` binary: the given one, or the one beside this binary.
pub fn vswitch_binary(given: Option<&PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("vswitch"),
    };
    if !path.is_file() {
        bail!("no vswitch binary at {} (build it with `cargo build --release`, or use --vswitch PATH)", path.display());
    }
    Ok(path)
}

/// Returns the process id of the server of a Unix socket, as seen in the pid namespace of this
/// process.
pub fn server_process_id(socket: &Path) -> Result<i32> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    Ok(getsockopt(&stream, PeerCredentials).context("reading the process id of the server")?.pid())
}

fn read_all(file: &mut File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}
