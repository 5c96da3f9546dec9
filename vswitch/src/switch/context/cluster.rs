//! The cluster of this host, as far as a change of a single network or endpoint needs it.

use std::collections::BTreeSet;

use crate::cluster::ClusterError;
use crate::model::{EndpointName, HostId, Network, NetworkId, NetworkName};
use crate::switch::context::Context;
use crate::switch::error::SwitchError;
use crate::switch::membership::{Membership, is_shared};
use crate::switch::state::State;

/// The most endpoints that an error names.
const MOST_NAMED: usize = 8;

impl Context {
    /// Removes a network from the cluster. A network that the cluster does not have is no error.
    pub async fn remove_shared(&self, network: &Network) -> Result<(), SwitchError> {
        if !is_shared(network) {
            return Ok(());
        }
        // Without a cluster, the network is this host's alone.
        let Some(member) = &self.membership else { return Ok(()) };
        match member.cluster.remove_network(&network.name, network.id).await {
            Ok(()) | Err(ClusterError::NetworkNotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the error for the removal of a network of the cluster with these endpoints on this
    /// host; it also names the known endpoints of other hosts. `None` for a network of this host
    /// alone.
    pub fn shared_in_use(&self, state: &State, network: &Network, here: &[EndpointName]) -> Option<ClusterError> {
        let member = self.membership.as_ref().filter(|_| is_shared(network))?;
        let own = here.iter().map(|name| format!("{name} on host {}", member.host));
        let host = |id: HostId| state.others.hosts.get(&id).map_or_else(|| id.short(), ToString::to_string);
        let others = state.others.of_network(network.id);
        let others = others.map(|endpoint| format!("{} on host {}", endpoint.name, host(endpoint.host)));
        let mut endpoints: Vec<String> = own.chain(others).collect();
        endpoints.sort();
        endpoints.truncate(MOST_NAMED + 1);
        if let Some(one_too_many) = endpoints.get_mut(MOST_NAMED) {
            "and more".clone_into(one_too_many);
        }
        Some(ClusterError::NetworkInUse { network: network.name.clone(), endpoints })
    }

    /// Forgets that a network of the cluster was removed, once it is gone from this host.
    pub fn forget_shared(&self, id: NetworkId) {
        self.state().others.removed.remove(&id);
        self.note(&note_about(id), None);
    }

    /// Returns the membership, for a change in a network of the cluster.
    pub fn member_for(&self, network: &NetworkName) -> Result<&Membership, SwitchError> {
        self.membership.as_ref().ok_or_else(|| SwitchError::NoCluster(network.clone()))
    }

    /// Notes that no interface has the address that the other hosts send to. A host that starts
    /// without its network may get the address later.
    ///
    /// # Errors
    /// The addresses cannot be read.
    pub async fn note_address(&self) -> Result<(), SwitchError> {
        const ABOUT: &str = "own address";
        let Some(address) = self.advertise else { return Ok(()) };
        let is_here = self.netlink.addresses(None).await?.iter().any(|(_, own)| own.addr() == address);
        let others = if self.membership.is_some() { "the other hosts of the cluster know" } else { "other hosts know" };
        let note = (!is_here).then(|| {
            format!(
                "{address}, by which {others} this one, is none of its addresses now (give it back to an interface, or start the \
                 daemon with another --advertise)"
            )
        });
        if let Some(note) = note.as_ref().filter(|_| !self.has_note(ABOUT)) {
            tracing::warn!("{note}");
        }
        self.note(ABOUT, note);
        Ok(())
    }

    /// Notes, and returns, which networks belong to a cluster while this daemon is in none.
    pub fn note_without_cluster(&self) -> Option<String> {
        if self.membership.is_some() {
            return None;
        }
        let names: BTreeSet<String> = {
            let state = self.state();
            let shared = state.networks.values().filter(|entry| is_shared(&entry.record));
            shared.map(|entry| entry.record.name.to_string()).collect()
        };
        let note = without_cluster(&names.into_iter().collect::<Vec<_>>(), std::process::id());
        self.note("without cluster", note.clone());
        note
    }

    /// Releases everything of this host in the cluster. While etcd is unreachable, that ends with
    /// the lease.
    pub async fn leave_cluster(&self) {
        let Some(member) = &self.membership else { return };
        if let Err(error) = member.cluster.leave().await {
            tracing::warn!("{error}");
        }
    }
}

/// Returns the note on networks of a cluster, for a daemon with this process id that is in none.
fn without_cluster(names: &[String], pid: u32) -> Option<String> {
    let (what, their) = match names {
        [] => return None,
        [name] => (format!("1 network ({name}) is"), "its"),
        names => (format!("{} networks ({}) are", names.len(), names.join(", ")), "their"),
    };
    Some(format!(
        "{what} a cluster's, and this daemon is in none: {their} endpoints here do not reach other hosts (`kill {pid}` ends the \
         daemon alone; then start it with `up --cluster`, as before)"
    ))
}

/// Returns the subject of the note on a network of the cluster.
pub fn note_about(id: NetworkId) -> String {
    format!("cluster network {id}")
}
