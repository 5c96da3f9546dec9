//! The cluster, as it is shown.

use crate::api::ClusterView;
use crate::switch::Switch;

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
