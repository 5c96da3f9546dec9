//! Daemons that a host has beside the switch: D-Bus, firewalld, NetworkManager and Docker. Each is
//! the real one, in the network and mount namespace of the host, with files of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{Host, Outcome, Running, eventually, run, settles, spawn, unique};

/// The files of a host's daemons. It has to outlive the host.
pub struct Machine {
    directory: TempDir,
}

/// A started daemon. It ends when this value is dropped.
pub struct Service {
    name: &'static str,
    running: Option<Running>,
    /// The process that gets signals.
    process: Pid,
}

/// A Docker daemon with one container, which serves a page on a published port.
pub struct Docker {
    service: Option<Service>,
    directory: TempDir,
    cgroup: String,
}

/// The directories that daemons and their tools write to.
const COPIED: [&str; 6] =
    ["/etc/firewalld", "/etc/ufw", "/etc/NetworkManager", "/etc/docker", "/var/lib/NetworkManager", "/var/log"];

/// A bus without the restrictions of a machine's own, which name its users.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"#;

impl Machine {
    /// Returns the files, or `None` with a notice if one of these programs is not installed.
    pub fn with(programs: &[&str]) -> Option<Self> {
        for program in programs {
            let found = std::env::var("PATH").unwrap_or_default();
            if !std::env::split_paths(&found).any(|directory| directory.join(program).exists()) {
                eprintln!("SKIPPED: {program} is not installed on this machine (`cargo xtask setup` installs it)");
                return None;
            }
        }
        let directory = tempfile::Builder::new().prefix("vst-machine").tempdir().expect("a directory");
        fs::write(directory.path().join("bus.conf"), BUS).expect("a file of our own");
        Some(Self { directory })
    }

    /// Returns a host that has these files. Its instance is not started.
    pub fn host(&self) -> Host {
        Host::with_machine(self.directory.path(), &COPIED)
    }

    /// Writes a file in the host's own copy of a directory, like /etc/NetworkManager.
    pub fn write(&self, directory: &str, file: &str, text: &str) {
        let copy = self.directory.path().join(directory.trim_start_matches('/').replace('/', "-"));
        fs::write(copy.join(file), text).expect("a file of our own");
    }

    /// Starts the system bus.
    pub fn bus(&self, host: &Host) -> Service {
        let mut command = host.program("dbus-daemon");
        command.arg("--config-file").arg(self.directory.path().join("bus.conf")).args(["--nofork", "--nopidfile"]);
        let there = || program(host, "test", "-S /run/dbus/system_bus_socket").code == Some(0);
        Service::start("dbus-daemon", &mut command, there)
    }

    /// Starts firewalld.
    pub fn firewalld(&self, host: &Host) -> Service {
        let mut command = host.program("firewalld");
        command.args(["--nofork", "--nopid"]);
        Service::start("firewalld", &mut command, || program(host, "firewall-cmd", "--state").code == Some(0))
    }

    /// Starts NetworkManager. It sees the devices of the host in a /sys of its own, which is not
    /// writable, so that it does not wait for udev.
    pub fn network_manager(&self, host: &Host) -> Service {
        let script = "mount -t sysfs -o ro sysfs /sys && exec NetworkManager --no-daemon";
        let mut command = host.program("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", script]);
        let answers = || program(host, "nmcli", "-t general status").code == Some(0);
        Service::start("NetworkManager", &mut command, answers)
    }
}

/// Runs a program in the namespaces of a host.
#[track_caller]
pub fn program(host: &Host, program: &str, arguments: &str) -> Outcome {
    run(host.program(program).args(arguments.split_whitespace()))
}

impl Service {
    /// Starts a daemon and waits until it answers.
    #[track_caller]
    fn start(name: &'static str, command: &mut Command, mut answers: impl FnMut() -> bool) -> Self {
        let running = spawn(command);
        let process = running.id();
        let service = Self { name, running: Some(running), process };
        settles(&format!("{name} answers"), || {
            let printed = service.running.as_ref().map(Running::stderr).unwrap_or_default();
            if answers() { Ok(()) } else { Err(printed) }
        });
        service
    }

    /// Makes the daemon read its configuration again.
    pub fn hang_up(&self) {
        kill(self.process, Signal::SIGHUP).expect("the daemon runs");
    }

    /// Ends the daemon and waits for its end.
    #[track_caller]
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(running) = self.running.take() else { return };
        let _ended_already = kill(self.process, Signal::SIGTERM);
        if std::thread::panicking() {
            let _ended_already = kill(self.process, Signal::SIGKILL);
            return;
        }
        let outcome = running.outcome();
        assert!(matches!(outcome.code, None | Some(0 | 143)), "{}: {outcome:#?}", self.name);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

impl Docker {
    /// Returns a Docker that is not started.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("vst-docker").tempdir().expect("a directory");
        fs::write(directory.path().join("daemon.json"), "{}").expect("a file of our own");
        Self { service: None, directory, cgroup: unique("docker") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts dockerd in a pid namespace, so that its end also ends containerd and the container.
    #[track_caller]
    pub fn start(&mut self, host: &Host) {
        let mut command = host.program("unshare");
        command.args(["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
        command.args(["--", "dockerd", "--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        for (option, file) in
            [("--config-file", "daemon.json"), ("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            command.arg(option).arg(self.path(file));
        }
        command.arg("--host").arg(format!("unix://{}", self.path("socket").display()));
        command.args(["--cgroup-parent", &format!("/{}", self.cgroup)]);
        // dockerd does not start over the pid of a killed one.
        let _none = fs::remove_file(self.path("pid"));
        let mut service = Service::start("dockerd", &mut command, || self.try_client(&["version"]).code == Some(0));
        // unshare ignores SIGTERM and ends with its child.
        let children = format!("/proc/{0}/task/{0}/children", service.process);
        let child = eventually("dockerd has a pid", || {
            fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()
        });
        service.process = Pid::from_raw(child);
        self.service = Some(service);
    }

    /// Runs a container that serves a page with this text on a published port of the host.
    #[track_caller]
    pub fn serve(&self, port: u16, text: &str) {
        let root = self.path("root");
        for directory in ["bin", "www"] {
            fs::create_dir_all(root.join(directory)).expect("a directory of our own");
        }
        let busybox = std::env::split_paths(&std::env::var("PATH").unwrap_or_default())
            .map(|directory| directory.join("busybox"))
            .find(|file| file.exists());
        fs::copy(busybox.expect("busybox is installed"), root.join("bin/busybox")).expect("a copy");
        fs::write(root.join("www/index.html"), text).expect("a page");
        let archive = self.path("root.tar");
        super::command::ok(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."));
        self.client(&["import", &archive.display().to_string(), "web"]);
        let publish = format!("{port}:80");
        let httpd = ["web", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"];
        self.client(&[&["run", "-d", "--restart", "always", "--name", "web", "-p", &publish][..], &httpd].concat());
    }

    /// Runs a command of the client that must succeed.
    #[track_caller]
    pub fn client(&self, arguments: &[&str]) -> String {
        let outcome = self.try_client(arguments);
        assert_eq!(outcome.code, Some(0), "docker {arguments:?}: {outcome:#?}");
        outcome.stdout
    }

    /// Runs a command of the client.
    #[track_caller]
    pub fn try_client(&self, arguments: &[&str]) -> Outcome {
        let mut client = Command::new("docker");
        client.arg("--host").arg(format!("unix://{}", self.path("socket").display()));
        client.env("DOCKER_CONFIG", self.directory.path()).env_remove("DOCKER_CONTEXT").env_remove("DOCKER_TLS_VERIFY");
        run(client.args(arguments))
    }

    /// Makes the daemon read its configuration again.
    pub fn hang_up(&self) {
        self.service.as_ref().expect("it runs").hang_up();
    }

    /// Ends dockerd and its container.
    #[track_caller]
    pub fn stop(&mut self) {
        self.service.take().expect("it runs").stop();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        drop(self.service.take());
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_cgroup(&hierarchy.path().join(&self.cgroup));
        }
        remove_cgroup(&Path::new("/sys/fs/cgroup").join(&self.cgroup));
    }
}

/// Removes a cgroup with its children; its files disappear with it.
fn remove_cgroup(group: &Path) {
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_cgroup(&child.path());
        }
    }
    if group.is_dir() && !std::thread::panicking() {
        settles("the cgroup is empty", || fs::remove_dir(group));
    }
}
