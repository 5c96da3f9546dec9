//! Shared parts of the tests: etcd, hosts, endpoints and waiting.

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

/// Time limit for a condition. It must be long enough for a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Lease of hosts that join with [`join_with_short_lease`].
pub const SHORT_LEASE: Duration = Duration::from_secs(5);

/// Returns the record of a host with this name.
pub fn host(name: &str) -> Host {
    let id = HostId::random().expect("random bytes");
    Host { id, name: name.to_owned(), address: IpAddr::from([192, 0, 2, 1]), public_key: None }
}

/// Joins the cluster as a new host with this name.
pub async fn join(etcd: &Etcd, name: &str) -> Cluster {
    connect(etcd.options(), host(name)).await
}

/// Like [`join`], with a lease that is short enough to wait for, and long enough for a slow
/// machine.
pub async fn join_with_short_lease(etcd: &Etcd, name: &str) -> Cluster {
    connect(short_lease_options(etcd), host(name)).await
}

/// Returns options for all members, with the lease [`SHORT_LEASE`].
pub fn short_lease_options(etcd: &Etcd) -> Options {
    etcd.options().with_lease(SHORT_LEASE.as_secs()).expect("a lease")
}

/// Joins the cluster as this host.
pub async fn connect(options: Options, host: Host) -> Cluster {
    Cluster::connect(options, host).await.expect("etcd answers")
}

/// Returns a draft of a network.
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

/// Returns a new endpoint of a network.
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

/// Iterates over the addresses from 10.9.`third`.2 to 10.9.`third`.254.
pub fn candidates(third: u8) -> impl Iterator<Item = IpAddr> + Send {
    (2..255).map(move |last| IpAddr::from([10, 9, third, last]))
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Updates of a watcher, applied to a snapshot.
pub struct Observer {
    updates: Receiver<Update>,
    /// State of the cluster according to the updates.
    pub snapshot: Snapshot,
    /// Number of complete snapshots received, including the first.
    pub resyncs: usize,
}

impl Observer {
    /// Starts a watcher and waits for its first snapshot.
    pub async fn from(cluster: &Cluster) -> Self {
        let mut observer = Self { updates: cluster.watch(), snapshot: Snapshot::default(), resyncs: 0 };
        let first = observer.next().await;
        assert!(matches!(first, Update::Resync(_)), "the first update is {first:?}");
        observer
    }

    /// Waits for the next update and applies it.
    pub async fn next(&mut self) -> Update {
        let update = timeout(PATIENCE, self.updates.recv()).await.expect("an update in time").expect("a watcher");
        match update.clone() {
            Update::Resync(snapshot) => {
                self.snapshot = snapshot;
                self.resyncs += 1;
            }
            Update::HostUp(host) => assert_eq!(self.snapshot.hosts.insert(host.id, host), None, "a host joins once"),
            Update::HostChanged(host) => {
                assert!(self.snapshot.hosts.insert(host.id, host).is_some(), "the host had joined");
            }
            Update::HostGone(id) => assert!(self.snapshot.hosts.remove(&id).is_some(), "the host had joined"),
            Update::NetworkPut(network) => drop(self.snapshot.networks.insert(network.name.clone(), network)),
            Update::NetworkGone(id) => self.snapshot.networks.retain(|_, network| network.id != id),
            Update::EndpointPut(endpoint) => {
                assert!(
                    self.snapshot.networks.values().any(|network| network.id == endpoint.network),
                    "the network comes before its endpoints"
                );
                self.snapshot.endpoints.insert((endpoint.network, endpoint.id), endpoint);
            }
            Update::EndpointGone { network, endpoint } => {
                assert!(self.snapshot.endpoints.remove(&(network, endpoint)).is_some(), "the endpoint was announced");
            }
        }
        update
    }

    /// Applies updates until a condition holds.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; observed: {:?}", self.snapshot);
            self.next().await;
        }
    }

    /// Returns the sorted names of the hosts.
    pub fn hosts(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.snapshot.hosts.values().map(|host| host.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Returns the sorted names of the endpoints.
    pub fn endpoints(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.snapshot.endpoints.values().map(|endpoint| endpoint.name.as_str()).collect();
        names.sort_unstable();
        names
    }
}
