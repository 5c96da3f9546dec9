//! A Docker daemon for one run, in the namespace of one "host" and with its state in its own
//! directory.
//!
//! dockerd runs in its own mount and pid namespaces. So its mounts are private, /run and
//! /etc/docker of the machine stay unchanged, and its end also ends containerd, the shims and the
//! containers.

mod cgroups;
mod image;

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    command::{self, stop_if_interrupted},
    instance::server_process_id,
    namespaces::{Netns, NetnsName},
};

const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Number of log lines in the error if dockerd does not start.
const LOG_LINES: usize = 30;
/// Hides files of the machine from dockerd: sockets and locks in /run, and /etc/docker, where
/// dockerd would write its key.
const START_SCRIPT: &str =
    "mount -t tmpfs tmpfs /run && { ! [ -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker; } && exec dockerd \"$@\"";

/// A running dockerd.
pub struct Docker {
    daemon: Child,
    cgroup: String,
    directory: TempDir,
}

impl Docker {
    /// Starts dockerd in the namespace `host` and waits until it answers.
    pub fn start(host: &NetnsName) -> Result<Self> {
        for program in ["dockerd", "docker", "containerd"] {
            command::require_program(program).with_context(|| {
                format!("{program} comes with Debian's docker.io, which `cargo xtask bench` installs")
            })?;
        }
        let directory = tempfile::Builder::new().prefix("vswitch-bench-docker").tempdir()?;
        let path_of = |name: &str| directory.path().join(name);
        let programs = path_of("bin");
        fs::create_dir(&programs)?;
        select_iptables(&programs)?;
        // Without this file dockerd would read the machine's configuration.
        fs::write(path_of("daemon.json"), "{}")?;

        let log = File::create(path_of("log"))?;
        let cgroup = format!("vswitch-bench-{}", std::process::id());
        let mut dockerd = host.command("unshare");
        dockerd.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        dockerd.args(["--", "sh", "-c", START_SCRIPT, "dockerd"]);
        for (option, file) in
            [("--config-file", "daemon.json"), ("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            dockerd.arg(option).arg(path_of(file));
        }
        dockerd.arg("--host").arg(format!("unix://{}", path_of(SOCKET).display()));
        // These settings do not affect the network: vfs works on any file system, and cgroupfs
        // works without systemd.
        dockerd.args(["--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        dockerd.args(["--cgroup-parent", &format!("/{cgroup}")]);
        dockerd.env("PATH", path_with(&programs)?);
        dockerd.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // In its own process group dockerd does not receive the terminal's Ctrl-C.
        let daemon = dockerd.process_group(0).spawn().map_err(|error| command::start_error(&dockerd, &error))?;

        let mut docker = Self { daemon, cgroup, directory };
        docker.wait_until_ready()?;
        Ok(docker)
    }

    /// Imports an image of these programs and their libraries, without a registry. Returns its
    /// name.
    pub fn image(&self, programs: &[&Path]) -> Result<String> {
        let archive = image::archive(self.directory.path(), programs)?;
        let name = "vswitch-bench";
        command::run(self.client().arg("import").arg(archive).arg(name))?;
        Ok(name.to_owned())
    }

    /// Returns the command that runs a program of an image in a container, which publishes `port`
    /// under the same number.
    pub fn run(&self, image: &str, port: u16, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut run = self.client();
        // Docker's filter of system calls would slow down the server, and only the networks are
        // compared.
        run.args(["run", "--rm", "--security-opt", "seccomp=unconfined", "--publish", &format!("{port}:{port}")]);
        run.arg(image).arg(command::find_program(program.as_ref())?);
        Ok(run)
    }

    fn client(&self) -> Command {
        let mut client = Command::new("docker");
        client.arg("--host").arg(format!("unix://{}", self.socket().display()));
        // Settings of the user for another Docker daemon must not apply.
        client.env("DOCKER_CONFIG", self.directory.path()).env_remove("DOCKER_CONTEXT").env_remove("DOCKER_TLS_VERIFY");
        client
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if command::output(self.client().arg("version"))?.status.success() {
                return Ok(());
            }
            let ended = self.daemon.try_wait()?;
            if ended.is_some() || start.elapsed() > TIME_LIMIT {
                let outcome = ended.map_or_else(|| "does not answer".to_owned(), |status| format!("exited ({status})"));
                bail!("dockerd {outcome}; the end of its log:\n{}", self.log_tail());
            }
            stop_if_interrupted()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

const SOCKET: &str = "docker.sock";

impl Drop for Docker {
    fn drop(&mut self) {
        let outcome = match server_process_id(&self.socket()) {
            // This is the first process of its pid namespace. The kernel kills all others with it,
            // and unshare waits for that.
            Ok(dockerd) => kill(Pid::from_raw(dockerd), Signal::SIGKILL).map_err(anyhow::Error::from),
            Err(_) => self.daemon.kill().map_err(anyhow::Error::from),
        };
        if let Err(error) = outcome.and_then(|()| Ok(self.daemon.wait()?)) {
            eprintln!("vswitch-bench: left behind: dockerd (process {}): {error}", self.daemon.id());
        }
        cgroups::remove(&self.cgroup);
        // `TempDir` would not report a failure.
        if let Err(error) = fs::remove_dir_all(self.directory.path()) {
            eprintln!("vswitch-bench: left behind: {}: {error}", self.directory.path().display());
        }
    }
}

/// Makes Docker's `iptables` the nf_tables variant if the kernel supports it, otherwise the legacy
/// one. Each is tried in a temporary namespace, with a rule that Docker requires.
fn select_iptables(programs: &Path) -> Result<()> {
    let probe = Netns::create("iptables")?;
    let try_rule = |program: &str| {
        let mut rule = probe.command(program);
        rule.args(["-t", "nat", "-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "RETURN"]);
        command::output(&mut rule)
    };
    let mut errors = Vec::new();
    for variant in ["-nft", "-legacy"] {
        let outcome = try_rule(&format!("iptables{variant}"))?;
        if outcome.status.success() {
            for family in ["iptables", "ip6tables"] {
                if let Ok(file) = command::find_program(format!("{family}{variant}").as_ref()) {
                    std::os::unix::fs::symlink(file, programs.join(family))?;
                }
            }
            return Ok(());
        }
        errors.push(String::from_utf8_lossy(&outcome.stderr).trim().to_owned());
    }
    // On a system with only one variant, it is called just `iptables`.
    if !try_rule("iptables")?.status.success() {
        bail!("no iptables variant supports NAT on this machine: {}", errors.join("; "));
    }
    Ok(())
}

fn path_with(first: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(first.to_owned()).chain(std::env::split_paths(&path)))
        .context("cannot extend PATH")
}
