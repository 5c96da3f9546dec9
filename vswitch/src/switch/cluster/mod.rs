//! The cluster: what this host shares with others, and what they have, kept in line by what etcd tells.

mod endpoints;
mod follow;
mod networks;
mod others;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::sync::Mutex as AsyncMutex;

pub use others::Others;
use others::Place;
pub(in crate::switch) use others::addresses;
pub(in crate::switch) use views::elsewhere;

use super::{Switch, SwitchError};
use crate::cluster::{Cluster, Host};
use crate::datapath::Remote;
use crate::model::{Network, NetworkName};

/// This host's place in a cluster.
#[derive(Debug)]
pub struct Membership {
    cluster: Cluster,
    /// This host, as the others see it.
    host: Host,
    /// Held by whoever makes networks of the cluster here.
    placing: AsyncMutex<()>,
    /// What the programs know of other hosts' endpoints.
    remotes: AsyncMutex<BTreeMap<Place, Remote>>,
}

impl Membership {
    /// The place of `host`, which is registered or about to be.
    pub fn new(cluster: Cluster, host: Host) -> Self {
        Self { cluster, host, placing: AsyncMutex::default(), remotes: AsyncMutex::default() }
    }
}

impl Membership {
    /// Where this host's tunnels end.
    pub const fn address(&self) -> IpAddr {
        self.host.address
    }
}

impl Switch {
    /// The cluster, for a change in one of its networks.
    fn member_for(&self, network: &NetworkName) -> Result<&Membership, SwitchError> {
        self.membership.as_ref().ok_or_else(|| SwitchError::NoCluster(network.clone()))
    }

    /// Notes whether the address that others send to is none of this host's: one that starts while it is cut off may get it
    /// later.
    ///
    /// # Errors
    /// What the kernel does not tell.
    pub(in crate::switch) async fn note_address(&self) -> Result<(), SwitchError> {
        let Some(member) = &self.membership else { return Ok(()) };
        let address = member.address();
        let is_here = self.netlink.addresses(None).await?.iter().any(|(_, own)| own.addr() == address);
        let note = (!is_here).then(|| {
            format!(
                "{address}, by which the other hosts of the cluster know this one, is none of its addresses now (give it back to an \
                 interface, or start the daemon with another --advertise)"
            )
        });
        if let Some(note) = &note {
            tracing::warn!("{note}");
        }
        self.note("own address", note);
        Ok(())
    }

    /// Notes which networks are a cluster's where this daemon is in none, and returns that.
    pub(in crate::switch) fn note_without_cluster(&self) -> Option<String> {
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

    /// Takes back all that this host has in the cluster, where etcd answers; else that ends with its lease.
    pub async fn leave_cluster(&self) {
        let Some(member) = &self.membership else { return };
        if let Err(error) = member.cluster.leave().await {
            tracing::warn!("{error}");
        }
    }
}

/// What is to be said of these networks of a cluster where this daemon, of this process id, is in none.
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

/// Whether a network is the cluster's.
pub(super) fn is_shared(network: &Network) -> bool {
    network.overlay.is_some_and(|overlay| overlay.shared)
}
