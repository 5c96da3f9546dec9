//! The cluster: what this host shares with others, and what they have, kept in line by what etcd tells.

mod endpoints;
mod follow;
mod networks;
mod others;
mod views;

use std::collections::BTreeMap;
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

    /// Takes back all that this host has in the cluster, where etcd answers; else that ends with its lease.
    pub async fn leave_cluster(&self) {
        let Some(member) = &self.membership else { return };
        if let Err(error) = member.cluster.leave().await {
            tracing::warn!("{error}");
        }
    }
}

/// Whether a network is the cluster's.
pub(super) fn is_shared(network: &Network) -> bool {
    network.overlay.is_some_and(|overlay| overlay.shared)
}
