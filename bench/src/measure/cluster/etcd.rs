//! An etcd with three members in a namespace, stopped on drop, and a client for it.

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
    cpus::CLIENT_CPU,
    namespaces::Netns,
};

/// Time limit for the members to answer.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The members and their namespace.
pub struct Etcd {
    members: Vec<Child>,
    directory: TempDir,
    netns: Netns,
}

impl Etcd {
    /// The last byte of the first member's address. The other members have the next ones.
    pub const FIRST: usize = 101;

    /// Starts etcd in a namespace that already has the first address, and waits until it answers.
    pub fn start(netns: Netns) -> Result<Self> {
        // The data is kept in memory, so that the disk does not affect the results.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?;
        for address in &addresses()[1..] {
            netns.ip(&format!("address add {address}/24 dev under0"))?;
        }
        let mut etcd = Self { members: Vec::new(), directory, netns };
        let name = |number: usize| format!("m{number}");
        let [clients, peers] = [2379, 2380].map(|port| addresses().map(|address| format!("http://{address}:{port}")));
        let cluster: Vec<_> =
            peers.iter().enumerate().map(|(number, peer)| format!("{}={peer}", name(number))).collect();
        for number in 0..cluster.len() {
            let log = File::create(etcd.directory.path().join(format!("{}.log", name(number))))?;
            let mut member = etcd.netns.command("etcd");
            member
                .args(["--name", &name(number), "--logger", "zap", "--log-level", "warn"])
                .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
                .args(["--listen-peer-urls", &peers[number], "--initial-advertise-peer-urls", &peers[number]])
                .args(["--listen-client-urls", &clients[number], "--advertise-client-urls", &clients[number]])
                .arg("--data-dir")
                .arg(etcd.directory.path().join(name(number)))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            let child = member.spawn().map_err(|error| command::start_error(&member, &error))?;
            etcd.members.push(child);
        }
        etcd.wait_until_ready()?;
        Ok(etcd)
    }

    /// Returns the URL for `--cluster`.
    pub fn url(&self) -> String {
        format!("etcd://{}", addresses().map(|address| format!("{address}:2379")).join(","))
    }

    /// Runs `work` with a client, on a thread in the namespace of etcd, because sockets belong to
    /// the namespace that creates them.
    pub fn with_client<T: Send>(&self, work: impl FnOnce(&Runtime, Client) -> Result<T> + Send) -> Result<T> {
        self.netns.inside(CLIENT_CPU, || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let urls = addresses().map(|address| format!("http://{address}:2379"));
            let client = runtime.block_on(Client::connect(urls, None)).context("connecting to etcd")?;
            work(&runtime, client)
        })
    }

    fn wait_until_ready(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let answer = self.with_client(|runtime, mut client| Ok(runtime.block_on(client.get("/", None))?));
            let Err(error) = answer else { return Ok(()) };
            if start.elapsed() > TIME_LIMIT {
                let log = std::fs::read_to_string(self.directory.path().join("m0.log")).unwrap_or_default();
                bail!("etcd does not answer within {TIME_LIMIT:?}: {error:#}: {log}");
            }
            stop_if_interrupted()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            // The member may have exited already.
            let _gone = member.kill();
            let _reaped = member.wait();
        }
    }
}

fn addresses() -> [Ipv4Addr; 3] {
    [0, 1, 2].map(|number| Ipv4Addr::new(192, 0, 2, Etcd::FIRST as u8 + number))
}
