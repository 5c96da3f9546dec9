//! A Docker daemon for this run alone: in the namespace of one "host", with its state in a directory of its own.
//!
//! It runs in mount and pid namespaces of its own. So what it mounts is nobody else's, the machine's /run and /etc/docker stay
//! as they are, and its end is the end of containerd, the shims and the containers, too.

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
    instance::serving,
    namespaces::{Netns, NetnsName},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of its log that are shown when it does not start.
const LAST_WORDS: usize = 30;
/// Hides from dockerd what is the machine's: sockets and locks in /run, and /etc/docker, where it would write its key.
const START: &str =
    "mount -t tmpfs tmpfs /run && { ! [ -d /etc/docker ] || mount -t tmpfs tmpfs /etc/docker; } && exec dockerd \"$@\"";

/// A running dockerd.
pub struct Docker {
    daemon: Child,
    cgroup: String,
    directory: TempDir,
}

impl Docker {
    /// Starts one for the namespace `host`, and waits until it answers.
    pub fn start(host: &NetnsName) -> Result<Self> {
        for program in ["dockerd", "docker", "containerd"] {
            command::require(program).with_context(|| {
                format!("{program} comes with Debian's docker.io, which `cargo xtask bench` installs")
            })?;
        }
        let directory = tempfile::Builder::new().prefix("vswitch-bench-docker").tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let programs = at("bin");
        fs::create_dir(&programs)?;
        prefer_iptables(&programs)?;
        // Without a file of its own it reads the machine's.
        fs::write(at("daemon.json"), "{}")?;

        let log = File::create(at("log"))?;
        let cgroup = format!("vswitch-bench-{}", std::process::id());
        let mut dockerd = host.command("unshare");
        dockerd.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        dockerd.args(["--", "sh", "-c", START, "dockerd"]);
        for (option, file) in
            [("--config-file", "daemon.json"), ("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            dockerd.arg(option).arg(at(file));
        }
        dockerd.arg("--host").arg(format!("unix://{}", at(SOCKET).display()));
        // No network in these: vfs works on any file system, cgroupfs without systemd.
        dockerd.args(["--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        dockerd.args(["--cgroup-parent", &format!("/{cgroup}")]);
        dockerd.env("PATH", path_with(&programs)?);
        dockerd.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A process group of its own: the terminal's Ctrl-C is for us.
        let daemon = dockerd.process_group(0).spawn().map_err(|error| command::not_started(&dockerd, &error))?;

        let mut docker = Self { daemon, cgroup, directory };
        docker.wait_until_it_answers()?;
        Ok(docker)
    }

    /// An image of these programs and the libraries that they need; made here, without any registry.
    pub fn image(&self, programs: &[&Path]) -> Result<String> {
        let archive = image::archive(self.directory.path(), programs)?;
        let name = "vswitch-bench";
        command::run(self.client().arg("import").arg(archive).arg(name))?;
        Ok(name.to_owned())
    }

    /// The command that runs a program of an image in a container which publishes a port of the same number, until it ends.
    pub fn run(&self, image: &str, port: u16, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut run = self.client();
        // Docker's filter of system calls would slow down the server; it is the network that is compared.
        run.args(["run", "--rm", "--security-opt", "seccomp=unconfined", "--publish", &format!("{port}:{port}")]);
        run.arg(image).arg(command::find(program.as_ref())?);
        Ok(run)
    }

    fn client(&self) -> Command {
        let mut client = Command::new("docker");
        client.arg("--host").arg(format!("unix://{}", self.socket().display()));
        // Whatever the user has set for another daemon is not for this one.
        client.env("DOCKER_CONFIG", self.directory.path()).env_remove("DOCKER_CONTEXT").env_remove("DOCKER_TLS_VERIFY");
        client
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if command::output(self.client().arg("version"))?.status.success() {
                return Ok(());
            }
            let ended = self.daemon.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let outcome = ended.map_or_else(|| "does not answer".to_owned(), |status| format!("ended ({status})"));
                bail!("dockerd {outcome}; the end of its log:\n{}", self.last_words());
            }
            stop_if_interrupted()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }
}

const SOCKET: &str = "docker.sock";

impl Drop for Docker {
    fn drop(&mut self) {
        let outcome = match serving(&self.socket()) {
            // The first process of its pid namespace: the kernel ends the others with it, and unshare waits for that.
            Ok(dockerd) => kill(Pid::from_raw(dockerd), Signal::SIGKILL).map_err(anyhow::Error::from),
            Err(_) => self.daemon.kill().map_err(anyhow::Error::from),
        };
        if let Err(error) = outcome.and_then(|()| Ok(self.daemon.wait()?)) {
            eprintln!("vswitch-bench: left behind: dockerd (process {}): {error}", self.daemon.id());
        }
        cgroups::remove(&self.cgroup);
        // What TempDir says of a failure nobody would see.
        if let Err(error) = fs::remove_dir_all(self.directory.path()) {
            eprintln!("vswitch-bench: left behind: {}: {error}", self.directory.path().display());
        }
    }
}

/// Docker calls `iptables`: nf_tables behind it where the kernel has that, the old kind otherwise. Tried with the rule that
/// Docker cannot do without, in a namespace that is thrown away.
fn prefer_iptables(programs: &Path) -> Result<()> {
    let probe = Netns::create("iptables")?;
    let works = |program: &str| {
        let mut rule = probe.command(program);
        rule.args(["-t", "nat", "-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "RETURN"]);
        command::output(&mut rule)
    };
    let mut words = Vec::new();
    for flavour in ["-nft", "-legacy"] {
        let outcome = works(&format!("iptables{flavour}"))?;
        if outcome.status.success() {
            for family in ["iptables", "ip6tables"] {
                if let Ok(file) = command::find(format!("{family}{flavour}").as_ref()) {
                    std::os::unix::fs::symlink(file, programs.join(family))?;
                }
            }
            return Ok(());
        }
        words.push(String::from_utf8_lossy(&outcome.stderr).trim().to_owned());
    }
    // Where there is one kind only, it has no other name.
    if !works("iptables")?.status.success() {
        bail!("no kind of iptables can do NAT here: {}", words.join("; "));
    }
    Ok(())
}

fn path_with(first: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(first.to_owned()).chain(std::env::split_paths(&path)))
        .context("PATH cannot be extended")
}
