//! An etcd of three members in a namespace, which ends with this; and its own client.

use std::{
    fs::File,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use etcd_client::Client;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{
    command::{self, stop_if_interrupted},
    measure::CLIENT_CPU,
    namespaces::Netns,
};

/// How long three members may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The members, and the namespace that they are in.
pub struct Etcd {
    members: Vec<Child>,
    directory: TempDir,
    netns: Netns,
}

impl Etcd {
    /// The last byte of the first member's address; the others' follow.
    pub const FIRST: usize = 101;

    /// Starts it in a namespace that has the first address already, and waits until it answers.
    pub fn start(netns: Netns) -> Result<Self> {
        // In memory: this is to measure switches, and no disk.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?;
        for address in &addresses()[1..] {
            netns.ip(&format!("address add {address}/24 dev under0"))?;
        }
        let mut etcd = Self { members: Vec::new(), directory, netns };
        let name = |number: usize| format!("m{number}");
        let [clients, peers] = [2379, 2380].map(|port| addresses().map(|address| format!("http://{address}:{port}")));
        let all: Vec<_> = peers.iter().enumerate().map(|(number, peer)| format!("{}={peer}", name(number))).collect();
        for number in 0..all.len() {
            let log = File::create(etcd.directory.path().join(format!("{}.log", name(number))))?;
            let mut member = etcd.netns.command("etcd");
            member
                .args(["--name", &name(number), "--logger", "zap", "--log-level", "warn"])
                .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
                .args(["--listen-peer-urls", &peers[number], "--initial-advertise-peer-urls", &peers[number]])
                .args(["--listen-client-urls", &clients[number], "--advertise-client-urls", &clients[number]])
                .arg("--data-dir")
                .arg(etcd.directory.path().join(name(number)))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            let child = member.spawn().map_err(|error| command::not_started(&member, &error))?;
            etcd.members.push(child);
        }
        etcd.wait()?;
        Ok(etcd)
    }

    /// As `--cluster` takes it.
    pub fn url(&self) -> String {
        format!("etcd://{}", addresses().map(|address| format!("{address}:2379")).join(","))
    }

    /// Runs what uses its client, on a thread in its namespace: there the sockets are.
    pub fn with_client<T: Send>(&self, work: impl FnOnce(&Runtime, Client) -> Result<T> + Send) -> Result<T> {
        self.netns.inside(CLIENT_CPU, || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let urls = addresses().map(|address| format!("http://{address}:2379"));
            let client = runtime.block_on(Client::connect(urls, None)).context("connecting to etcd")?;
            work(&runtime, client)
        })
    }

    fn wait(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let answer = self.with_client(|runtime, mut client| Ok(runtime.block_on(client.get("/", None))?));
            let Err(error) = answer else { return Ok(()) };
            if start.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.directory.path().join("m0.log")).unwrap_or_default();
                bail!("etcd does not answer within {PATIENCE:?}: {error:#}: {log}");
            }
            stop_if_interrupted()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended by itself.
            let _gone = member.kill();
            let _reaped = member.wait();
        }
    }
}

fn addresses() -> [Ipv4Addr; 3] {
    [0, 1, 2].map(|number| Ipv4Addr::new(192, 0, 2, Etcd::FIRST as u8 + number))
}
