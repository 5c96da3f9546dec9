//! The membership of this host in a cluster.

use std::net::IpAddr;

use crate::cluster::{Cluster, Host};
use crate::model::Network;

/// The membership of this host in a cluster.
#[derive(Debug)]
pub struct Membership {
    pub(super) cluster: Cluster,
    /// This host, as the others see it.
    pub(super) host: Host,
}

impl Membership {
    /// Returns the membership of `host`, which is registered or about to be.
    pub fn new(cluster: Cluster, host: Host) -> Self {
        Self { cluster, host }
    }

    /// Returns the address that the tunnels of this host end at.
    pub const fn address(&self) -> IpAddr {
        self.host.address
    }
}

/// Returns whether a network belongs to the cluster.
pub fn is_shared(network: &Network) -> bool {
    network.overlay().is_some_and(|overlay| overlay.shared)
}
