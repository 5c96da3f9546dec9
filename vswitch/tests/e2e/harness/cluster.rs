//! Hosts of one cluster: those of a [`Cloud`], and an etcd of three members beside them on the underlay.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Deref,
    sync::Arc,
};

use serde::Deserialize;
use tokio::runtime;

use super::{Answer, Attached, Cloud, Etcd, Family, Frame, Mac, Netns, ask, settles};

/// The hosts, and etcd in a namespace of its own. The hosts go first.
pub struct Clustered {
    pub cloud: Cloud,
    pub etcd: Etcd,
    /// Where etcd is.
    pub store: Arc<Netns>,
    /// How long a host that is silent keeps what it has, in seconds.
    lease: &'static str,
}

/// What `status` says of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct ClusterStatus {
    pub connected: bool,
    pub registered: bool,
    /// All of them.
    pub hosts: usize,
    /// Those of the other hosts.
    pub endpoints: usize,
    /// What waits for etcd.
    pub pending: usize,
    pub conflicts: Vec<String>,
}

/// A row of `peer ls` as hosts of a cluster have it.
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
    /// A lease that a test can outwait.
    pub const BRIEF: &str = "3";
    /// A lease that no daemon is dead for longer than, however slow the machine is.
    pub const LONG: &str = "120";
    /// The subnets of the network `net`.
    pub const SUBNETS: [&str; 4] = ["--subnet", "10.10.0.0/16", "--subnet", "fd00:10::/64"];
    /// etcd's place on the underlay, beyond the hosts.
    const STORE: usize = 19;

    /// So many hosts whose switches are not up, and etcd, which answers.
    pub fn down(count: usize, family: Family) -> Self {
        Self::beside(count, family, Self::LONG, false)
    }

    /// The same with an etcd that speaks TLS alone.
    pub fn with_tls(count: usize) -> Self {
        Self::beside(count, Family::V4, Self::LONG, true)
    }

    fn beside(count: usize, family: Family, lease: &'static str, tls: bool) -> Self {
        let cloud = Cloud::down(count, family);
        let store = Arc::new(Netns::new("etcd"));
        cloud.plug(&store, Self::STORE);
        let addresses = [20, 21, 22].map(|number| Cloud::address(family, number));
        for address in addresses {
            let (length, flags) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
            store.ip(&format!("address add {address}/{length} dev under0 {flags}"));
        }
        let place = store.clone();
        let etcd = Etcd::at(addresses, tls, move || place.command("etcd"));
        let mut cluster = Self { cloud, etcd, store, lease };
        cluster.start_etcd();
        cluster
    }

    /// Hosts whose switches are up, with the network `net`, a container in it on each, and all told of all.
    #[track_caller]
    pub fn up(count: usize, family: Family, lease: &'static str) -> Self {
        Self::with(count, family, lease, &[])
    }

    /// The same, whose network is encrypted.
    #[track_caller]
    pub fn encrypted(count: usize, family: Family, lease: &'static str) -> Self {
        Self::with(count, family, lease, &["-o", "encrypted=true"])
    }

    #[track_caller]
    fn with(count: usize, family: Family, lease: &'static str, network: &[&str]) -> Self {
        let mut cluster = Self::beside(count, family, lease, false);
        (0..count).for_each(|number| drop(cluster.join(number)));
        cluster.hosts[0].ok(&[&["network", "create", "-d", "overlay"], network, &Self::SUBNETS[..], &["net"]].concat());
        for number in 0..count {
            cluster.has_network(number, "net");
            let container = Netns::new(&format!("c{number}"));
            let flags = ["--network", "net", "--name", &format!("c{number}")];
            let at = cluster.hosts[number].attach(&container, &flags);
            cluster.cloud.at.push(at);
            cluster.cloud.containers.push(container);
        }
        for (one, other) in cluster.pairs() {
            cluster.knows(one, cluster.at[other].mac, other);
        }
        cluster
    }

    /// Flags for `up`.
    pub fn flags(&self, number: usize) -> Vec<String> {
        let words = ["--cluster", &self.etcd.url(), "--cluster-lease", self.lease];
        // The last goes by the way to etcd.
        let advertise = (number + 1 < self.hosts.len()).then(|| ["--advertise".to_owned(), self.peer(number)]);
        words.into_iter().map(str::to_owned).chain(advertise.into_iter().flatten()).collect()
    }

    /// Has a host's switch join.
    #[track_caller]
    pub fn join(&self, number: usize) -> String {
        let flags = self.flags(number);
        self.hosts[number].start(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts the members of etcd that are not running, and waits until it answers.
    pub fn start_etcd(&mut self) {
        let etcd = &mut self.etcd;
        self.store.inside(|| runtime().block_on(etcd.start_all()));
    }

    /// Waits until a member of etcd that was started again has caught up: before, the next one would be one too many.
    pub fn in_step(&self, member: usize) {
        let options = self.etcd.options_of(member);
        settles("the member is in step", || {
            self.store.inside(|| {
                runtime().block_on(async {
                    // Answered by a member that has a leader and all that it has.
                    let mut client = etcd_client::Client::connect(options.urls(), None).await?;
                    client.get("/", None).await.map(drop)
                })
            })
        });
    }

    /// Has users needed: `vswitch`, whose password is `secret`.
    pub fn need_users(&self) {
        self.store.inside(|| runtime().block_on(self.etcd.need_users()));
    }

    /// Has etcd refuse all that it would have to write, as one does whose disk is full; or no more.
    pub fn fill_etcd(&self, full: bool) {
        let action = if full { etcd_client::AlarmAction::Activate } else { etcd_client::AlarmAction::Deactivate };
        self.store.inside(|| {
            runtime().block_on(async {
                let mut client = self.etcd.client(None).await.expect("a client");
                client.alarm(action, etcd_client::AlarmType::Nospace, None).await.expect("an answer");
            });
        });
    }

    /// The keys that etcd has below this one, without the prefix that they have in common.
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

    /// What `status` of a host says of the cluster.
    #[track_caller]
    pub fn status(&self, number: usize) -> ClusterStatus {
        #[derive(Deserialize)]
        struct Status {
            cluster: ClusterStatus,
        }
        self.hosts[number].json::<Status>(&["status"]).cluster
    }

    /// Waits until a host says that it has etcd, and sees so many hosts.
    #[track_caller]
    pub fn is_joined(&self, number: usize, hosts: usize) {
        settles("it is in the cluster", || {
            let status = self.status(number);
            if status.connected && status.registered && status.hosts == hosts && status.pending == 0 {
                Ok(())
            } else {
                Err(status)
            }
        });
    }

    /// The other hosts, as one has them.
    #[track_caller]
    pub fn members(&self, number: usize) -> Vec<Member> {
        let mut members: Vec<Member> = self.hosts[number].json(&["peer", "ls"]);
        members.sort();
        members
    }

    /// Waits until a host has a network.
    #[track_caller]
    pub fn has_network(&self, number: usize, name: &str) {
        settles(&format!("host {number} has network {name}"), || {
            let there = self.networks(number);
            if there.iter().any(|network| network == name) { Ok(()) } else { Err(there) }
        });
    }

    /// Waits until a host does not have it any more.
    #[track_caller]
    pub fn has_no_network(&self, number: usize, name: &str) {
        settles(&format!("host {number} does not have network {name}"), || {
            let there = self.networks(number);
            if there.iter().all(|network| network != name) { Ok(()) } else { Err(there) }
        });
    }

    /// The names of a host's networks.
    #[track_caller]
    pub fn networks(&self, number: usize) -> Vec<String> {
        #[derive(Deserialize)]
        struct Row {
            name: String,
        }
        let rows: Vec<Row> = self.hosts[number].json(&["network", "ls"]);
        rows.into_iter().map(|row| row.name).collect()
    }

    /// Where a host was told that a station is.
    #[track_caller]
    pub fn told(&self, number: usize, mac: Mac) -> Option<String> {
        let stations = self.hosts[number].fdb(&["--static"]);
        stations.into_iter().find(|station| station.mac == mac).map(|station| station.port)
    }

    /// Waits until a host was told that a station is on another.
    #[track_caller]
    pub fn knows(&self, number: usize, mac: Mac, other: usize) {
        let there = Some(self.peer(other));
        settles(&format!("host {number} knows {mac} to be on host {other}"), || {
            let told = self.told(number, mac);
            if told == there { Ok(()) } else { Err(told) }
        });
    }

    /// Waits until a host was told that a station is nowhere.
    #[track_caller]
    pub fn forgets(&self, number: usize, mac: Mac) {
        settles(&format!("host {number} forgets {mac}"), || self.told(number, mac).map_or(Ok(()), Err));
    }

    /// Waits until a host's container finds an endpoint of another by this name.
    #[track_caller]
    pub fn finds(&self, number: usize, name: &str, at: &Attached) {
        let server = self.at[number].nameservers[0];
        for (kind, answer) in [("A", Answer::of(&[&at.ipv4])), ("AAAA", Answer::of(&[&at.ipv6.expect("an address")]))] {
            settles(&format!("{name} is found on host {number}"), || {
                let told = ask(&self.containers[number], server, name, kind);
                if told == answer { Ok(()) } else { Err(told) }
            });
        }
    }

    /// Waits until a host's container does not find this name any more.
    #[track_caller]
    pub fn finds_none(&self, number: usize, name: &str) {
        let server = self.at[number].nameservers[0];
        settles(&format!("{name} is not found on host {number}"), || {
            let told = ask(&self.containers[number], server, name, "A");
            if told.data.is_empty() { Ok(()) } else { Err(told) }
        });
    }

    /// Waits until a host has these others, by name, and no more.
    #[track_caller]
    pub fn has_members(&self, number: usize, others: &[usize]) {
        let expected: Vec<Member> = others
            .iter()
            .map(|other| Member { address: Cloud::address(self.family, *other), host: Some(Cloud::hostname(*other)) })
            .collect();
        settles(&format!("host {number} has {others:?}"), || {
            let members = self.members(number);
            if members == expected { Ok(()) } else { Err(members) }
        });
    }

    /// Takes a host off the underlay, or plugs it in again.
    pub fn plugged(&self, number: usize, on: bool) {
        self.underlay.ip(&format!("link set u{number} {}", if on { "up" } else { "down" }));
    }
}

/// Where a packet of the tunnels goes, and the frame in it; `None` if it is none.
pub fn tunnelled(frame: &Frame) -> Option<(IpAddr, Frame)> {
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

/// A runtime of this thread alone: a socket is in the namespace of the thread that opens it.
fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
