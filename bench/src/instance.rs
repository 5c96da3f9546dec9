//! An instance of vswitch for this run alone, taken down with everything that it made.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    net::Ipv4Addr,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Deserialize;

use crate::{
    command::{self, clean_up},
    namespaces::NetnsName,
    topology::Endpoint,
};

/// A running daemon that serves one namespace.
pub struct Instance {
    binary: PathBuf,
    name: String,
    host: NetnsName,
}

/// What `vswitch attach --format json` answers, as far as we ask.
#[derive(Debug, Deserialize)]
pub struct Attached {
    ifname: String,
    ipv4: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
}

impl Attached {
    /// The endpoint as a topology sees it.
    pub fn endpoint(&self, netns: &NetnsName) -> Endpoint {
        Endpoint { netns: netns.clone(), ifname: self.ifname.clone(), ipv4: self.ipv4 }
    }
}

impl Attached {
    /// The network's gateway, where its names are answered.
    pub fn gateway(&self) -> Result<Ipv4Addr> {
        self.gateway.context("the endpoint has no gateway")
    }
}

impl Instance {
    /// Starts a daemon for the namespace `host`.
    pub fn up(binary: &Path, host: &NetnsName, options: &[&str]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // The guard exists before the daemon does: a start that fails half-way is taken down as well.
        let instance = Self { binary: binary.to_owned(), name, host: host.clone() };
        instance.start(options)?;
        Ok(instance)
    }

    /// Starts its daemon: the first, or another one after `down`.
    pub fn start(&self, options: &[&str]) -> Result<()> {
        // Its words go to a file: a pipe would stay open for as long as the daemon lives, and we would wait for its end.
        let mut words = tempfile::tempfile()?;
        let mut up = self.host.command(&self.binary);
        up.args(["--instance", &self.name, "up"]).args(options);
        up.stdin(std::process::Stdio::null()).stdout(words.try_clone()?).stderr(words.try_clone()?);
        // A process group of its own: the terminal's Ctrl-C is for us, who then take the daemon down in order.
        let status = up.process_group(0).status().map_err(|error| command::not_started(&up, &error))?;
        command::stop_if_interrupted()?;
        if !status.success() {
            bail!("`vswitch up` failed ({status}): {}", read_all(&mut words)?.trim());
        }
        Ok(())
    }

    /// The namespace that it serves.
    pub fn host(&self) -> &NetnsName {
        &self.host
    }

    /// Runs one command of the command line.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        command::run(self.command().args(arguments))
    }

    /// The command line, aimed at this instance.
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
        serde_json::from_str(&json).with_context(|| format!("reading the answer of `vswitch attach`: {json}"))
    }

    /// Where the instance pinned its program `name`.
    pub fn pinned(&self, name: &str) -> PathBuf {
        self.directory().join("bpf/programs").join(name)
    }

    /// Where the instance pinned its map `name`.
    pub fn pinned_map(&self, name: &str) -> PathBuf {
        self.directory().join("bpf/maps").join(name)
    }

    /// Its name, as `--instance` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id of the daemon.
    pub fn daemon(&self) -> Result<i32> {
        serving(&self.directory().join("api.sock"))
    }

    /// Takes it down, and fails where something of it is left in the file system.
    pub fn down(self) -> Result<()> {
        self.run(&["down", "--purge"])?;
        let left: Vec<_> = self.directories().into_iter().filter(|directory| directory.exists()).collect();
        if !left.is_empty() {
            bail!("`vswitch down --purge` left {left:?}");
        }
        Ok(())
    }

    /// Resident memory of the daemon in MB (10^6 bytes).
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
        // Without a run directory `up` has failed and cleaned up after itself.
        if self.directory().exists() {
            clean_up(self.command().args(["down", "--purge"]));
        }
        for directory in self.directories() {
            if directory.exists() {
                eprintln!("vswitch-bench: `vswitch down --purge` left {}", directory.display());
            }
        }
    }
}

/// Who serves a Unix socket; its process id in our own pid namespace.
pub fn serving(socket: &Path) -> Result<i32> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    Ok(getsockopt(&stream, PeerCredentials).context("asking who serves the socket")?.pid())
}

fn read_all(file: &mut File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}
