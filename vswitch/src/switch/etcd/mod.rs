//! The networks and endpoints that this host shares with the other hosts of the cluster, and those
//! of the other hosts, updated from etcd.

mod endpoints;
mod follow;
mod networks;

use std::sync::Arc;

use tokio::sync::Mutex;

use super::context::Context;
use super::networks::Networks;
use super::overlay::Overlay;

/// The networks and endpoints of the cluster.
#[derive(Debug)]
pub struct Etcd {
    context: Arc<Context>,
    overlay: Arc<Overlay>,
    networks: Arc<Networks>,
    /// Held while networks of the cluster are created on this host.
    placing: Mutex<()>,
}

impl Etcd {
    /// Returns the owner.
    pub fn new(context: Arc<Context>, overlay: Arc<Overlay>, networks: Arc<Networks>) -> Self {
        Self { context, overlay, networks, placing: Mutex::default() }
    }
}
