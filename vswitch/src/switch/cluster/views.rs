//! The cluster, as it is shown.

use crate::api::{ClusterView, ElsewhereView};
use crate::cluster::SharedEndpoint;
use crate::model::{HostId, NetworkId};
use crate::switch::Switch;
use crate::switch::state::State;

/// The endpoints of a network on other hosts, by name.
pub(in crate::switch) fn elsewhere(state: &State, network: NetworkId) -> Vec<ElsewhereView> {
    let host = |id| state.others.hosts.get(&id);
    let name = |id| host(id).map_or_else(|| HostId::short(&id), |host| host.name.clone());
    let view = |endpoint: &SharedEndpoint| ElsewhereView {
        name: endpoint.name.to_string(),
        host: name(endpoint.host),
        address: host(endpoint.host).map(|host| host.address),
        mac: endpoint.mac.to_string(),
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
    };
    let mut views: Vec<_> = state.others.of_network(network).map(view).collect();
    views.sort_by(|one, other| one.name.cmp(&other.name));
    views
}

impl Switch {
    /// How the cluster is; `None` without one.
    pub(in crate::switch) fn cluster_view(&self) -> Option<ClusterView> {
        let member = self.membership.as_ref()?;
        let health = member.cluster.health();
        let (hosts, endpoints) = {
            let state = self.state();
            (state.others.hosts.len() + 1, state.others.count())
        };
        Some(ClusterView {
            host: member.host.id,
            name: member.host.name.clone(),
            address: member.host.address,
            etcd: member.cluster.addresses(),
            connected: health.unreachable.is_none(),
            away_since: health.unreachable.as_ref().map(|outage| outage.since),
            why: health.unreachable.map(|outage| outage.why),
            registered: health.registered,
            members: health.members,
            hosts,
            endpoints,
            revision: health.revision,
            pending: health.pending,
            conflicts: health.conflicts,
        })
    }
}
