//! Network namespaces for one run. Their names contain the process id, short-lived threads enter
//! them, and their owner removes them.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    ops::Deref,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::{Scope, ScopedJoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::{
    command::{self, clean_up, ip},
    cpus::CLIENT_CPU,
};

/// A network namespace that is removed on drop.
#[derive(Debug)]
pub struct Netns(NetnsName);

impl Netns {
    /// Creates a namespace. Its name contains `role` and is unique across runs.
    pub fn create(role: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vsb{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        command::run(&mut ip(&format!("netns add {name}")))?;
        let netns = Self(NetnsName(name));
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Returns the name, for use without ownership.
    pub fn name(&self) -> NetnsName {
        self.0.clone()
    }
}

impl Deref for Netns {
    type Target = NetnsName;

    fn deref(&self) -> &NetnsName {
        &self.0
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        clean_up(&mut ip(&format!("netns del {}", self.0)));
    }
}

/// The name of a namespace under /run/netns.
#[derive(Clone, Debug)]
pub struct NetnsName(String);

impl fmt::Display for NetnsName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The part of the output of `ip -j link show` that is used here.
#[derive(Debug, Deserialize)]
pub struct Device {
    /// Index in its namespace.
    pub ifindex: u32,
    /// For a veth, the index of its peer in the peer's namespace.
    pub link_index: Option<u32>,
    /// MAC address.
    pub address: String,
}

impl NetnsName {
    /// Returns the path at which the namespace is mounted.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{self}"))
    }

    /// Runs `ip` in the namespace.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command::run(&mut ip(&format!("-n {self} {arguments}")))
    }

    /// Returns the command for any other program in the namespace. `nsenter` is used because `ip
    /// netns exec` remounts /sys and hides bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Returns a device in the namespace.
    pub fn device(&self, ifname: &str) -> Result<Device> {
        let json = self.ip(&format!("-j link show dev {ifname}"))?;
        let devices: Vec<Device> =
            serde_json::from_str(&json).with_context(|| format!("reading `ip -j link`: {json}"))?;
        devices.into_iter().next().with_context(|| format!("{ifname} is not in {self}"))
    }

    /// Returns the names of all devices in the namespace.
    pub fn devices(&self) -> Result<BTreeSet<String>> {
        // /proc/net shows the namespace of the process's first thread, so it is not used.
        let table = self.inside(CLIENT_CPU, || Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        Ok(table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect())
    }

    /// Runs `work` on a new thread in the namespace, pinned to one CPU.
    pub fn spawn<'scope, T: Send + 'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        cpu: usize,
        work: impl FnOnce() -> Result<T> + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, Result<T>> {
        let path = self.path();
        scope.spawn(move || {
            let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))?;
            pin(cpu)?;
            work()
        })
    }

    /// As [`spawn`](Self::spawn), and waits for the result.
    pub fn inside<T: Send>(&self, cpu: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| join(self.spawn(scope, cpu, work)))
    }
}

/// Returns the result of a thread. A panic in it becomes an error, so that the guards of the
/// calling thread run.
pub fn join<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a measuring thread panicked"))?
}

/// Pins the calling thread, and threads that it starts later, to one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning a thread to CPU {cpu}"))
}
