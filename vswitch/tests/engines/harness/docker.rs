//! Docker in a host.

use std::cell::Cell;

use nix::unistd::Pid;

use super::{Host, eventually};

/// A Docker daemon and its client. It ends with the host.
pub struct Docker<'a> {
    host: &'a Host,
    options: String,
    /// dockerd's number in the host.
    process: Cell<Pid>,
}

impl<'a> Docker<'a> {
    /// Starts dockerd with these options, and imports the image `busybox`.
    #[track_caller]
    pub fn start(host: &'a Host, options: &str) -> Self {
        let docker = Self { host, options: options.to_owned(), process: Cell::new(Pid::from_raw(0)) };
        docker.start_again();
        docker.ok("import /usr/share/vswitch/busybox.tar busybox");
        docker
    }

    /// Starts dockerd after [`Self::stop`] or [`Self::kill`], and waits until it answers.
    #[track_caller]
    pub fn start_again(&self) {
        self.spawn();
        self.wait();
    }

    /// Starts dockerd without waiting for it.
    #[track_caller]
    pub fn spawn(&self) {
        self.process.set(self.host.daemon("dockerd", &format!("dockerd {}", self.options)));
    }

    /// Waits until dockerd answers.
    #[track_caller]
    pub fn wait(&self) {
        eventually("dockerd answers", || (self.host.run("docker version").code == Some(0)).then_some(()));
    }

    /// Runs a command of the client that must succeed. Returns what it prints.
    #[track_caller]
    pub fn ok(&self, arguments: &str) -> String {
        self.host.ok(&format!("docker {arguments}"))
    }

    /// Runs a command of the client that must fail. Returns the message.
    #[track_caller]
    pub fn fails(&self, arguments: &str) -> String {
        self.host.fails(&format!("docker {arguments}"))
    }

    /// Runs a command in a container, which must succeed.
    #[track_caller]
    pub fn exec(&self, container: &str, line: &str) -> String {
        self.ok(&format!("exec {container} {line}"))
    }

    /// Ends dockerd as an administrator does.
    #[track_caller]
    pub fn stop(&self) {
        self.end("TERM");
    }

    /// Ends dockerd and its containerd by force. The containers go on.
    #[track_caller]
    pub fn kill(&self) {
        self.end("KILL");
    }

    #[track_caller]
    fn end(&self, signal: &str) {
        let process = self.process.get();
        self.host.ok(&format!("kill -{signal} {process}; while [ -e /proc/{process} ]; do sleep 0.02; done"));
        if signal == "KILL" {
            self.host.ok("pkill -KILL -x containerd; while pidof containerd; do sleep 0.02; done; rm -f /run/docker.pid /var/run/docker.pid");
        }
    }
}
