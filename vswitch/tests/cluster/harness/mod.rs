//! What the tests share: etcd, hosts, and patience.

mod certificates;
mod etcd;

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout};
use vswitch::cluster::{Cluster, Host, NetworkDraft, Options, SharedEndpoint, SharedNetwork, Snapshot, Update};
use vswitch::model::{EndpointId, HostId, SubnetConfig};

pub use self::certificates::Certificates;
pub use self::etcd::Etcd;

/// How long a condition may take: nothing that a slow machine breaks.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The lease of hosts that join briefly.
pub const BRIEF: Duration = Duration::from_secs(5);

/// A host that is called `name`.
pub fn host(name: &str) -> Host {
    let id = HostId::random().expect("random bytes");
    Host { id, name: name.to_owned(), address: IpAddr::from([192, 0, 2, 1]), public_key: None }
}

/// Joins as a host that is called `name`.
pub async fn join(etcd: &Etcd, name: &str) -> Cluster {
    connect(etcd.options(), host(name)).await
}

/// The same with a lease that a test can outwait, and a slow machine can keep.
pub async fn join_briefly(etcd: &Etcd, name: &str) -> Cluster {
    connect(brief(etcd), host(name)).await
}

/// How to reach all members, with such a lease.
pub fn brief(etcd: &Etcd) -> Options {
    etcd.options().with_lease(BRIEF.as_secs()).expect("a lease")
}

/// Joins as this host.
pub async fn connect(options: Options, host: Host) -> Cluster {
    Cluster::connect(options, host).await.expect("etcd is there")
}

/// A network to be created.
pub fn draft(name: &str, subnet: &str) -> NetworkDraft {
    let subnet = SubnetConfig::new(subnet.parse().expect("a subnet"), None, None).expect("a configuration");
    NetworkDraft {
        name: name.parse().expect("a name"),
        vni: None,
        subnets: vec![subnet],
        internal: false,
        options: [].into(),
        labels: [].into(),
    }
}

/// An endpoint of a network.
pub fn endpoint(network: &SharedNetwork, name: &str) -> SharedEndpoint {
    let id = EndpointId::random().expect("random bytes");
    SharedEndpoint {
        id,
        network: network.id,
        host: HostId::from_bytes([0; 32]),
        name: name.parse().expect("a name"),
        aliases: Vec::new(),
        mac: "02:00:00:00:00:01".parse().expect("an address"),
        ipv4: None,
        ipv6: None,
        vlan: 0,
    }
}

/// The addresses from 10.9.`third`.2 on, to .254.
pub fn candidates(third: u8) -> impl Iterator<Item = IpAddr> + Send {
    (2..255).map(move |last| IpAddr::from([10, 9, third, last]))
}

/// Waits until it is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What a watcher has told so far.
pub struct Seen {
    updates: Receiver<Update>,
    /// All there is by what was told.
    pub all: Snapshot,
    /// How often all there is was told anew, the first time included.
    pub resyncs: usize,
}

impl Seen {
    /// Watches, and waits for the first snapshot.
    pub async fn from(cluster: &Cluster) -> Self {
        let mut seen = Self { updates: cluster.watch(), all: Snapshot::default(), resyncs: 0 };
        let first = seen.next().await;
        assert!(matches!(first, Update::Resync(_)), "the first is {first:?}");
        seen
    }

    /// The next update.
    pub async fn next(&mut self) -> Update {
        let update = timeout(PATIENCE, self.updates.recv()).await.expect("an update in time").expect("a watcher");
        match update.clone() {
            Update::Resync(all) => {
                self.all = all;
                self.resyncs += 1;
            }
            Update::HostUp(host) => assert_eq!(self.all.hosts.insert(host.id, host), None, "up once"),
            Update::HostChanged(host) => assert!(self.all.hosts.insert(host.id, host).is_some(), "it was up"),
            Update::HostGone(id) => assert!(self.all.hosts.remove(&id).is_some(), "it was up"),
            Update::NetworkPut(network) => drop(self.all.networks.insert(network.name.clone(), network)),
            Update::NetworkGone(id) => self.all.networks.retain(|_, network| network.id != id),
            Update::EndpointPut(endpoint) => {
                assert!(
                    self.all.networks.values().any(|network| network.id == endpoint.network),
                    "its network came first"
                );
                self.all.endpoints.insert((endpoint.network, endpoint.id), endpoint);
            }
            Update::EndpointGone { network, endpoint } => {
                assert!(self.all.endpoints.remove(&(network, endpoint)).is_some(), "it was there");
            }
        }
        update
    }

    /// Takes updates until it is so.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; there is {:?}", self.all);
            self.next().await;
        }
    }

    /// The names of the hosts.
    pub fn hosts(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.all.hosts.values().map(|host| host.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// The names of the endpoints.
    pub fn endpoints(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.all.endpoints.values().map(|endpoint| endpoint.name.as_str()).collect();
        names.sort_unstable();
        names
    }
}
