//! Hosts that share networks through etcd: how soon a new endpoint is reached from another host, and what a daemon weighs and
//! how fast it follows where there are 1,000 hosts with 100,000 endpoints.

mod etcd;
mod population;
mod reach;
mod scale;

use anyhow::{Context as _, Result};

use self::etcd::Etcd;
use crate::{instance::Instance, namespaces::Netns};

pub use reach::{ATTACHES, reach};
pub use scale::scale;

/// Hosts on one underlay, with etcd beside them. Switches go before what they are in.
struct Hosts {
    instances: Vec<Instance>,
    /// The namespaces of the hosts.
    machines: Vec<Netns>,
    etcd: Etcd,
    _underlay: Netns,
}

impl Hosts {
    /// So many, whose switches are not up.
    fn build(count: usize) -> Result<Self> {
        let underlay = Netns::create("cluster-under")?;
        underlay.ip("link add br0 type bridge mcast_snooping 0")?;
        underlay.ip("link set br0 up")?;
        let plug = |number: usize, netns: &Netns| {
            underlay.ip(&format!("link add u{number} type veth peer name under0 netns {}", netns.name()))?;
            underlay.ip(&format!("link set u{number} master br0 up"))?;
            netns.ip("link set under0 up")?;
            netns.ip(&format!("address add 192.0.2.{}/24 dev under0", number + 1))
        };
        let machines = (0..count).map(|_| Netns::create("cluster-host")).collect::<Result<Vec<_>>>()?;
        for (number, machine) in machines.iter().enumerate() {
            plug(number, machine)?;
        }
        let store = Netns::create("cluster-etcd")?;
        plug(Etcd::FIRST - 1, &store)?;
        let etcd = Etcd::start(store)?;
        Ok(Self { instances: Vec::new(), machines, etcd, _underlay: underlay })
    }

    /// Starts the switch of a host.
    fn up(&self, number: usize, vswitch: &std::path::Path) -> Result<Instance> {
        let machine = &self.machines[number];
        Instance::up(vswitch, machine, &["--cluster", &self.etcd.url()]).with_context(|| format!("host {number}"))
    }
}
