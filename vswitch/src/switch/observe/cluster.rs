//! The state of the cluster.

use crate::cluster::SharedEndpoint;
use crate::model::{HostId, NetworkId};
use crate::switch::info::{ClusterStatus, RemoteEndpoint};
use crate::switch::observe::Observe;
use crate::switch::state::State;

/// Returns the endpoints of a network on other hosts, by name.
pub fn elsewhere(state: &State, network: NetworkId) -> Vec<RemoteEndpoint> {
    let host = |id| state.others.hosts.get(&id);
    let name = |id| host(id).map_or_else(|| HostId::short(&id), |host| host.name.clone());
    let info = |endpoint: &SharedEndpoint| RemoteEndpoint {
        name: endpoint.name.clone(),
        host: name(endpoint.host),
        address: host(endpoint.host).map(|host| host.address),
        mac: endpoint.mac,
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
    };
    let mut endpoints: Vec<_> = state.others.of_network(network).map(info).collect();
    endpoints.sort_by(|one, other| one.name.cmp(&other.name));
    endpoints
}

impl Observe {
    /// Returns the state of the cluster, or `None` without one.
    pub fn cluster_status(&self) -> Option<ClusterStatus> {
        let member = self.context.membership.as_ref()?;
        let health = member.cluster.health();
        let (hosts, endpoints) = {
            let state = self.context.snapshot();
            (state.others.hosts.len() + 1, state.others.count())
        };
        Some(ClusterStatus { host: member.host.clone(), etcd: member.cluster.addresses(), health, hosts, endpoints })
    }
}
