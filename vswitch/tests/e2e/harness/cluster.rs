//! Hosts of one cluster: the hosts of a [`Cloud`], and an etcd on the same underlay.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Deref,
    sync::Arc,
};

use serde::Deserialize;
use tokio::runtime;

use super::{Answer, Attached, Cloud, Etcd, Family, Frame, Mac, Netns, ask, settles};

/// The hosts, and etcd in a namespace of its own. The hosts are dropped first.
pub struct Clustered {
    pub cloud: Cloud,
    pub etcd: Etcd,
    /// The namespace in which etcd runs.
    pub store: Arc<Netns>,
    /// The cluster lease in seconds: how long the records of a silent host are kept.
    lease: &'static str,
}

/// The cluster part of `status`.
#[derive(Clone, Debug, Deserialize)]
pub struct ClusterStatus {
    pub connected: bool,
    pub registered: bool,
    /// Number of all hosts of the cluster.
    pub hosts: usize,
    /// Number of the endpoints of other hosts.
    pub endpoints: usize,
    /// Number of changes that wait for etcd.
    pub pending: usize,
    pub conflicts: Vec<String>,
}

/// A row of `peer ls` on a host of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Member {
    pub address: IpAddr,
    pub host: Option<String>,
}

impl Deref for Clustered {
    type Target = Cloud;

    fn deref(&self) -> &Cloud {
        &self.cloud
    }
}

impl Clustered {
    /// A lease short enough for a test to wait until it expires.
    pub const BRIEF: &str = "3";
    /// A lease that does not expire while a daemon is dead in a test, even on a slow machine.
    pub const LONG: &str = "120";
    /// The subnets of the network `net`.
    pub const SUBNETS: [&str; 4] = ["--subnet", "10.10.0.0/16", "--subnet", "fd00:10::/64"];
    /// etcd's port number on the underlay, above those of the hosts.
    const STORE: usize = 19;

    /// Returns `count` hosts whose instances are not started, and a running etcd.
    pub fn down(count: usize, family: Family) -> Self {
        Self::new(count, family, Self::LONG, false, 1)
    }

    /// Returns the same with an etcd that accepts only TLS.
    pub fn with_tls(count: usize) -> Self {
        Self::new(count, Family::V4, Self::LONG, true, 1)
    }

    fn new(count: usize, family: Family, lease: &'static str, tls: bool, members: usize) -> Self {
        let cloud = Cloud::down(count, family);
        let store = Arc::new(Netns::new("etcd"));
        cloud.plug(&store, Self::STORE);
        let addresses: Vec<IpAddr> = (20..20 + members).map(|number| Cloud::address(family, number)).collect();
        for address in &addresses {
            let (length, flags) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
            store.ip(&format!("address add {address}/{length} dev under0 {flags}"));
        }
        let netns = store.clone();
        let etcd = Etcd::at(&addresses, tls, move || netns.command("etcd"));
        let mut cluster = Self { cloud, etcd, store, lease };
        cluster.start_etcd();
        cluster
    }

    /// Returns hosts whose instances are up, with the network `net` and a container in it on each
    /// host. Every host has the FDB entries of all containers of the others.
    #[track_caller]
    pub fn up(count: usize, family: Family, lease: &'static str) -> Self {
        Self::with(count, family, lease, &[], 1)
    }

    /// Returns the same with an etcd of three members.
    #[track_caller]
    pub fn with_three_members(count: usize, family: Family, lease: &'static str) -> Self {
        Self::with(count, family, lease, &[], 3)
    }

    /// Returns the same with an encrypted network.
    #[track_caller]
    pub fn encrypted(count: usize, family: Family, lease: &'static str) -> Self {
        Self::with(count, family, lease, &["-o", "encrypted=true"], 1)
    }

    #[track_caller]
    fn with(count: usize, family: Family, lease: &'static str, network: &[&str], members: usize) -> Self {
        let mut cluster = Self::new(count, family, lease, false, members);
        (0..count).for_each(|number| drop(cluster.join(number)));
        cluster.hosts[0].ok(&[&["network", "create", "-d", "overlay"], network, &Self::SUBNETS[..], &["net"]].concat());
        for number in 0..count {
            cluster.wait_for_network(number, "net");
            let container = Netns::new(&format!("c{number}"));
            let flags = ["--network", "net", "--name", &format!("c{number}")];
            let at = cluster.hosts[number].attach(&container, &flags);
            cluster.cloud.at.push(at);
            cluster.cloud.containers.push(container);
        }
        for (one, other) in cluster.pairs() {
            cluster.wait_for_entry(one, cluster.at[other].mac, other);
        }
        cluster
    }

    /// Returns the flags for `up`.
    pub fn flags(&self, number: usize) -> Vec<String> {
        let words = ["--cluster", &self.etcd.url(), "--cluster-lease", self.lease];
        // The last host gets no --advertise: it advertises the address from which it reaches etcd.
        let advertise = (number + 1 < self.hosts.len()).then(|| ["--advertise".to_owned(), self.peer(number)]);
        words.into_iter().map(str::to_owned).chain(advertise.into_iter().flatten()).collect()
    }

    /// Starts the instance of a host as a member of the cluster, and returns what `up` prints.
    #[track_caller]
    pub fn join(&self, number: usize) -> String {
        let flags = self.flags(number);
        self.hosts[number].start(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts the members of etcd that are not running, and waits until etcd answers.
    pub fn start_etcd(&mut self) {
        let etcd = &mut self.etcd;
        self.store.inside(|| runtime().block_on(etcd.start_all()));
    }

    /// Waits until a restarted member of etcd has caught up. Stopping another member before that
    /// would cost etcd its quorum.
    pub fn wait_for_etcd_member(&self, member: usize) {
        let options = self.etcd.options_of(member);
        settles(&format!("member {member} of etcd has caught up"), || {
            self.store.inside(|| {
                runtime().block_on(async {
                    // Only a member that has a leader and all its data answers this.
                    let mut client = etcd_client::Client::connect(options.urls(), None).await?;
                    client.get("/", None).await.map(drop)
                })
            })
        });
    }

    /// Turns on authentication in etcd, with the user `vswitch` and the password `secret`.
    pub fn require_users(&self) {
        self.store.inside(|| runtime().block_on(self.etcd.need_users()));
    }

    /// Makes etcd refuse all writes, as an etcd with a full disk does, or accept them again.
    pub fn set_etcd_full(&self, full: bool) {
        let action = if full { etcd_client::AlarmAction::Activate } else { etcd_client::AlarmAction::Deactivate };
        self.store.inside(|| {
            runtime().block_on(async {
                let mut client = self.etcd.client(None).await.expect("a client");
                client.alarm(action, etcd_client::AlarmType::Nospace, None).await.expect("an answer");
            });
        });
    }

    /// Returns the keys below `/vswitch/BELOW/` in etcd, without that prefix.
    pub fn keys(&self, below: &str) -> Vec<String> {
        let prefix = format!("/vswitch/{below}/");
        let keys = self.store.inside(|| {
            runtime().block_on(async {
                let mut client = self.etcd.client(None).await.expect("a client");
                let options = etcd_client::GetOptions::new().with_prefix().with_keys_only();
                let found = client.get(prefix.as_str(), Some(options)).await.expect("an answer");
                found.kvs().iter().map(|found| found.key_str().expect("text").to_owned()).collect::<Vec<_>>()
            })
        });
        keys.into_iter().filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned())).collect()
    }

    /// Returns the cluster part of a host's `status`.
    #[track_caller]
    pub fn status(&self, number: usize) -> ClusterStatus {
        #[derive(Deserialize)]
        struct Status {
            cluster: ClusterStatus,
        }
        self.hosts[number].json::<Status>(&["status"]).cluster
    }

    /// Waits until a host is connected to etcd and registered, has no pending changes, and sees
    /// `hosts` hosts.
    #[track_caller]
    pub fn wait_until_joined(&self, number: usize, hosts: usize) {
        settles(&format!("host {number} is registered and sees {hosts} hosts"), || {
            let status = self.status(number);
            if status.connected && status.registered && status.hosts == hosts && status.pending == 0 {
                Ok(())
            } else {
                Err(status)
            }
        });
    }

    /// Returns the other hosts in a host's `peer ls`, sorted.
    #[track_caller]
    pub fn members(&self, number: usize) -> Vec<Member> {
        let mut members: Vec<Member> = self.hosts[number].json(&["peer", "ls"]);
        members.sort();
        members
    }

    /// Waits until a host has a network.
    #[track_caller]
    pub fn wait_for_network(&self, number: usize, name: &str) {
        settles(&format!("host {number} has network {name}"), || {
            let networks = self.networks(number);
            if networks.iter().any(|network| network == name) { Ok(()) } else { Err(networks) }
        });
    }

    /// Waits until a host no longer has a network.
    #[track_caller]
    pub fn wait_for_no_network(&self, number: usize, name: &str) {
        settles(&format!("host {number} does not have network {name}"), || {
            let networks = self.networks(number);
            if networks.iter().all(|network| network != name) { Ok(()) } else { Err(networks) }
        });
    }

    /// Returns the names of a host's networks.
    #[track_caller]
    pub fn networks(&self, number: usize) -> Vec<String> {
        #[derive(Deserialize)]
        struct Row {
            name: String,
        }
        let rows: Vec<Row> = self.hosts[number].json(&["network", "ls"]);
        rows.into_iter().map(|row| row.name).collect()
    }

    /// Returns the port of a station's static FDB entry on a host. Hosts of a cluster learn these
    /// entries from etcd.
    #[track_caller]
    pub fn static_port_of(&self, number: usize, mac: Mac) -> Option<String> {
        let stations = self.hosts[number].fdb(&["--static"]);
        stations.into_iter().find(|station| station.mac == mac).map(|station| station.port)
    }

    /// Waits until a host has a static FDB entry that maps a station to another host.
    #[track_caller]
    pub fn wait_for_entry(&self, number: usize, mac: Mac, other: usize) {
        let expected = Some(self.peer(other));
        settles(&format!("host {number} has a static entry for {mac} at host {other}"), || {
            let port = self.static_port_of(number, mac);
            if port == expected { Ok(()) } else { Err(port) }
        });
    }

    /// Waits until a host has no static FDB entry for a station.
    #[track_caller]
    pub fn wait_for_no_entry(&self, number: usize, mac: Mac) {
        settles(&format!("host {number} has no static entry for {mac}"), || {
            self.static_port_of(number, mac).map_or(Ok(()), Err)
        });
    }

    /// Waits until a host's container resolves this name to the addresses of an endpoint on another
    /// host.
    #[track_caller]
    pub fn wait_for_name(&self, number: usize, name: &str, at: &Attached) {
        let server = self.at[number].nameservers[0];
        for (kind, answer) in [("A", Answer::of(&[&at.ipv4])), ("AAAA", Answer::of(&[&at.ipv6.expect("an address")]))] {
            settles(&format!("{name} is resolved on host {number}"), || {
                let found = ask(&self.containers[number], server, name, kind);
                if found == answer { Ok(()) } else { Err(found) }
            });
        }
    }

    /// Waits until a host's container no longer resolves this name.
    #[track_caller]
    pub fn wait_for_no_name(&self, number: usize, name: &str) {
        let server = self.at[number].nameservers[0];
        settles(&format!("{name} is not resolved on host {number}"), || {
            let found = ask(&self.containers[number], server, name, "A");
            if found.data.is_empty() { Ok(()) } else { Err(found) }
        });
    }

    /// Waits until a host's `peer ls` has exactly these hosts, with their hostnames.
    #[track_caller]
    pub fn wait_for_members(&self, number: usize, others: &[usize]) {
        let expected: Vec<Member> = others
            .iter()
            .map(|other| Member { address: Cloud::address(self.family, *other), host: Some(Cloud::hostname(*other)) })
            .collect();
        settles(&format!("host {number} has exactly the members {others:?}"), || {
            let members = self.members(number);
            if members == expected { Ok(()) } else { Err(members) }
        });
    }

    /// Connects a host to the underlay, or disconnects it.
    pub fn set_link(&self, number: usize, on: bool) {
        self.underlay.ip(&format!("link set u{number} {}", if on { "up" } else { "down" }));
    }
}

/// Returns the destination of a VXLAN packet and the frame in it; `None` for any other frame.
pub fn decapsulate(frame: &Frame) -> Option<(IpAddr, Frame)> {
    let bytes = &frame.0;
    let (to, udp): (IpAddr, usize) = match bytes.get(12..14)? {
        [0x08, 0x00] if bytes.get(23) == Some(&17) => (Ipv4Addr::from(octets::<4>(bytes, 30)?).into(), 34),
        [0x86, 0xdd] if bytes.get(20) == Some(&17) => (Ipv6Addr::from(octets::<16>(bytes, 38)?).into(), 54),
        _ => return None,
    };
    let is_vxlan = octets::<2>(bytes, udp + 2)? == 4789_u16.to_be_bytes();
    is_vxlan.then_some((to, Frame(bytes.get(udp + 16..)?.to_vec())))
}

fn octets<const LENGTH: usize>(bytes: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    bytes.get(at..at + LENGTH)?.try_into().ok()
}

/// Builds a runtime that runs on this thread only, because a socket belongs to the namespace of the
/// thread that opens it.
fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
