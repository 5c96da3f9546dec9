//! Endpoints: attach, connect, detach, disconnect, and what follows from the loss of a device or of
//! the daemon.

mod attach;
mod detach;
mod publish;
mod request;
mod restore;
mod settle;
mod undo;

use std::sync::Arc;

use tokio::sync::Mutex;

use super::context::Context;
use super::etcd::Etcd;
use super::macvlan::Macvlan;
use super::multicast::Multicast;
use super::nat::Nat;
pub use detach::Selection;
pub use request::{NewConnection, NewEndpoint};
pub use restore::Release;

/// The endpoints of this host.
#[derive(Debug)]
pub struct Endpoints {
    context: Arc<Context>,
    multicast: Arc<Multicast>,
    nat: Arc<Nat>,
    macvlan: Arc<Macvlan>,
    etcd: Arc<Etcd>,
    /// Held while the settings that an endpoint's networks share are updated.
    settling: Mutex<()>,
}

impl Endpoints {
    /// Returns the owner.
    pub fn new(
        context: Arc<Context>,
        multicast: Arc<Multicast>,
        nat: Arc<Nat>,
        macvlan: Arc<Macvlan>,
        etcd: Arc<Etcd>,
    ) -> Self {
        Self { context, multicast, nat, macvlan, etcd, settling: Mutex::default() }
    }
}
