//! Network namespaces made for one run: named after it, entered by short-lived threads, removed by their owner.

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
    measure::CLIENT_CPU,
};

/// A network namespace that exists for as long as this value does.
#[derive(Debug)]
pub struct Netns(NetnsName);

impl Netns {
    /// Makes a namespace whose name tells its role and cannot meet another run's.
    pub fn create(role: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vsb{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        command::run(&mut ip(&format!("netns add {name}")))?;
        let netns = Self(NetnsName(name));
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The name, for those who use the namespace without owning it.
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

/// What `ip -j link show` says of a device, as far as we ask.
#[derive(Debug, Deserialize)]
pub struct Device {
    /// Index within its namespace.
    pub ifindex: u32,
    /// For a veth: the index of its peer, in the peer's namespace.
    pub link_index: Option<u32>,
    /// MAC address.
    pub address: String,
}

impl NetnsName {
    /// Where the namespace is mounted.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{self}"))
    }

    /// `ip` inside.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command::run(&mut ip(&format!("-n {self} {arguments}")))
    }

    /// Any other program inside. `nsenter` and not `ip netns exec`, which would remount /sys and hide bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// A device inside.
    pub fn device(&self, ifname: &str) -> Result<Device> {
        let json = self.ip(&format!("-j link show dev {ifname}"))?;
        let devices: Vec<Device> =
            serde_json::from_str(&json).with_context(|| format!("reading `ip -j link`: {json}"))?;
        devices.into_iter().next().with_context(|| format!("{ifname} is not in {self}"))
    }

    /// The names of all devices inside.
    pub fn devices(&self) -> Result<BTreeSet<String>> {
        // Not /proc/net, which shows the namespace of the process's first thread.
        let table = self.inside(CLIENT_CPU, || Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        Ok(table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect())
    }

    /// Runs `work` on a thread of its own inside the namespace and on one CPU.
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

/// The result of a thread; a panic in it becomes an error, so that the guards of this one run.
pub fn join<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a measuring thread panicked"))?
}

/// Keeps the calling thread, and those that it starts, on one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning a thread to CPU {cpu}"))
}
