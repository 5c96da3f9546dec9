//! Hosts of a cluster, each in its own namespace.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::etcd::Etcd;
use crate::{instance::Instance, namespaces::Netns};

/// Hosts on one underlay, with etcd beside them. Instances are dropped before their namespaces.
pub(super) struct Hosts {
    pub(super) instances: Vec<Instance>,
    /// The namespaces of the hosts.
    pub(super) namespaces: Vec<Netns>,
    pub(super) etcd: Etcd,
    _underlay: Netns,
}

impl Hosts {
    /// Creates `count` hosts without starting their daemons.
    pub(super) fn build(count: usize) -> Result<Self> {
        let underlay = Netns::create("cluster-under")?;
        underlay.ip("link add br0 type bridge mcast_snooping 0")?;
        underlay.ip("link set br0 up")?;
        let connect = |number: usize, netns: &Netns| {
            underlay.ip(&format!("link add u{number} type veth peer name under0 netns {}", netns.name()))?;
            underlay.ip(&format!("link set u{number} master br0 up"))?;
            netns.ip("link set under0 up")?;
            netns.ip(&format!("address add 192.0.2.{}/24 dev under0", number + 1))
        };
        let namespaces = (0..count).map(|_| Netns::create("cluster-host")).collect::<Result<Vec<_>>>()?;
        for (number, netns) in namespaces.iter().enumerate() {
            connect(number, netns)?;
        }
        let etcd_netns = Netns::create("cluster-etcd")?;
        connect(Etcd::FIRST - 1, &etcd_netns)?;
        let etcd = Etcd::start(etcd_netns)?;
        Ok(Self { instances: Vec::new(), namespaces, etcd, _underlay: underlay })
    }

    /// Starts the daemon of a host.
    pub(super) fn up(&self, number: usize, vswitch: &Path) -> Result<Instance> {
        let netns = &self.namespaces[number];
        Instance::up(vswitch, netns, &["--cluster", &self.etcd.url()]).with_context(|| format!("host {number}"))
    }
}
