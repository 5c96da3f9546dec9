//! A host with two networks and two uplinks, in which the rules are applied as the daemon does it.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use vswitch::model::{Instance, Protocol};
use vswitch::nat::{Nat, NatError, NatNetwork, NatStatus, PortForward, Wanted};

use crate::harness::{Netns, run, unique};

/// Addresses by their owner, IPv4 and IPv6.
pub const A1: [&str; 2] = ["10.91.1.2", "fd00:91:1::2"];
pub const A2: [&str; 2] = ["10.91.1.3", "fd00:91:1::3"];
pub const B1: [&str; 2] = ["10.91.2.2", "fd00:91:2::2"];
pub const UPLINK: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
pub const CLIENT: [&str; 2] = ["192.0.2.9", "2001:db8:1::9"];
pub const UPLINK2: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];
pub const CLIENT2: [&str; 2] = ["198.51.100.9", "2001:db8:2::9"];

/// Two networks, `vsw-a` with two containers and `vsw-b` with one, and two machines on the wires
/// outside.
pub struct Scene {
    pub host: Netns,
    pub a1: Netns,
    pub a2: Netns,
    pub b1: Netns,
    pub client: Netns,
    pub client2: Netns,
}

impl Scene {
    pub fn new() -> Self {
        let [host, a1, a2, b1, client, client2] = ["host", "a1", "a2", "b1", "client", "client2"].map(Netns::new);
        let scene = Self { host, a1, a2, b1, client, client2 };
        // A new namespace inherits the setting of this machine, where a Docker may have enabled it.
        scene.host.set("net/ipv4/ip_forward", "0");
        for (network, gateways) in [("a", ["10.91.1.1", "fd00:91:1::1"]), ("b", ["10.91.2.1", "fd00:91:2::1"])] {
            let device = format!("vsw-{network}");
            scene.host.ip(&format!("link add {device} type bridge"));
            add_addresses(&scene.host, &device, gateways);
        }
        // A Linux bridge, which stands for our network, would pass bridged frames to nftables.
        for program in ["iptables", "ip6tables"] {
            let setting = format!("/proc/sys/net/bridge/bridge-nf-call-{program}");
            if std::path::Path::new(&setting).exists() {
                scene.host.inside(|| std::fs::write(&setting, "0")).expect("root can write the setting");
            }
        }
        let containers = [(&scene.a1, "a", A1), (&scene.a2, "a", A2), (&scene.b1, "b", B1)];
        for (number, (container, network, own)) in containers.into_iter().enumerate() {
            let port = format!("port{number}");
            scene.host.wire(&port, container, "eth0");
            scene.host.ip(&format!("link set {port} master vsw-{network}"));
            add_addresses(container, "eth0", own);
            let subnet = if network == "a" { 1 } else { 2 };
            container.ip(&format!("route add default via 10.91.{subnet}.1"));
            container.ip(&format!("-6 route add default via fd00:91:{subnet}::1"));
        }
        for (device, client, near, far) in
            [("up0", &scene.client, UPLINK, CLIENT), ("up1", &scene.client2, UPLINK2, CLIENT2)]
        {
            scene.host.wire(device, client, "eth0");
            add_addresses(&scene.host, device, near);
            add_addresses(client, "eth0", far);
        }
        scene
    }

    /// Returns both networks.
    pub fn networks(&self) -> Vec<NatNetwork> {
        [("a", 1), ("b", 2)]
            .map(|(name, number)| {
                let subnets = [format!("10.91.{number}.0/24"), format!("fd00:91:{number}::/64")];
                let servers = [format!("10.91.{number}.1"), format!("fd00:91:{number}::1")];
                NatNetwork {
                    device: format!("vsw-{name}"),
                    subnets: subnets.map(|subnet| subnet.parse().expect("a subnet")).into(),
                    masquerade: true,
                    names: servers.map(|server| server.parse().expect("an address")).into(),
                    ..NatNetwork::default()
                }
            })
            .into()
    }

    /// Returns both networks and these forwards.
    pub fn wanted(&self, forwards: &[Vec<PortForward>]) -> Wanted {
        Wanted { networks: self.networks(), forwards: forwards.concat(), tunnels: None }
    }

    /// Runs `nft` in the host.
    #[track_caller]
    pub fn nft(&self, arguments: &str) -> String {
        self.program("nft", arguments)
    }

    /// Runs a program in the host, which must succeed.
    #[track_caller]
    pub fn program(&self, program: &str, arguments: &str) -> String {
        let outcome = run(self.host.command(program).args(arguments.split_whitespace()));
        assert_eq!(outcome.code, Some(0), "{program} {arguments}: {outcome:#?}");
        outcome.stdout
    }

    /// Returns a setting of the host.
    pub fn setting(&self, name: &str) -> String {
        let path = format!("/proc/sys/{name}");
        let value = self.host.inside(|| std::fs::read_to_string(&path));
        value.unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
    }
}

/// Returns the forwards for one published port of the first container, for IPv4 and IPv6.
pub fn publish(protocol: Protocol, host_port: u16, to_port: u16) -> Vec<PortForward> {
    A1.map(|to| forward(protocol, None, host_port, to, to_port)).into()
}

pub fn forward(protocol: Protocol, host_ip: Option<&str>, host_port: u16, to: &str, to_port: u16) -> PortForward {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    PortForward {
        device: "vsw-a".to_owned(),
        protocol,
        host_ip: host_ip.map(address),
        host_port,
        to: address(to),
        to_port,
        masquerade: false,
    }
}

fn add_addresses(netns: &Netns, device: &str, addresses: [&str; 2]) {
    netns.ip(&format!("address add {}/24 dev {device}", addresses[0]));
    netns.ip(&format!("-6 address add {}/64 dev {device} nodad", addresses[1]));
    netns.ip(&format!("link set {device} up"));
}

type Job = Box<dyn FnOnce(Arc<Nat>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The work of the daemon in the namespace of a host. Everything that it created is removed
/// together with the host.
pub struct Daemon {
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    instance: Instance,
}

impl Daemon {
    /// Starts a daemon that only applies rules when requested.
    pub fn new(host: &Netns) -> Self {
        Self::start(host, false)
    }

    /// Starts a daemon that also restores what other programs change.
    pub fn following(host: &Netns) -> Self {
        Self::start(host, true)
    }

    fn start(host: &Netns, follow: bool) -> Self {
        let instance = Instance::new(unique("o").parse().expect("a name"));
        let namespace = std::fs::File::open(host.path()).expect("the host's namespace");
        let (jobs, mut queue) = unbounded_channel::<Job>();
        let nat = Arc::new(Nat::new(&instance));
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering a namespace of our own");
            // All work runs on this thread, so that everything it opens and starts is in the
            // namespace.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                if follow {
                    tokio::spawn(nat.clone().follow());
                }
                while let Some(job) = queue.recv().await {
                    job(nat.clone()).await;
                }
            });
        });
        Self { jobs: Some(jobs), thread: Some(thread), instance }
    }

    #[track_caller]
    pub fn apply(&self, wanted: Wanted) {
        self.try_apply(wanted).expect("the rules are applied");
    }

    pub fn try_apply(&self, wanted: Wanted) -> Result<(), NatError> {
        self.run_job(move |nat| Box::pin(async move { nat.apply(wanted).await }))
    }

    pub fn status(&self) -> NatStatus {
        self.run_job(|nat| Box::pin(async move { nat.status() }))
    }

    pub fn remove(&self) {
        let instance = self.instance.clone();
        let removed = self.run_job(|_| Box::pin(async move { vswitch::nat::remove(&instance).await }));
        removed.expect("the rules are removed");
    }

    pub fn table(&self) -> String {
        self.instance.nft_table()
    }

    pub fn chain(&self) -> String {
        self.instance.iptables_chain()
    }

    pub fn input_chain(&self) -> String {
        self.instance.iptables_input_chain()
    }

    fn run_job<T: Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Nat>) -> Pin<Box<dyn Future<Output = T>>> + Send + 'static,
    ) -> T {
        let (sender, receiver) = mpsc::channel();
        let job: Job = Box::new(move |nat| {
            let work = work(nat);
            Box::pin(async move { sender.send(work.await).expect("the caller waits") })
        });
        let jobs = self.jobs.as_ref().expect("the daemon runs until it is dropped");
        assert!(jobs.send(job).is_ok(), "the daemon's thread failed");
        receiver.recv().expect("the daemon's thread finishes the job")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the daemon's thread failed");
        }
    }
}
