//! Interfaces of the host that networks use: uplinks of bridge networks, parents of macvlan and
//! ipvlan networks.

mod error;
mod follow;
mod parent;
mod uplink;

use std::sync::Arc;

use super::context::Context;
use super::multicast::Multicast;
pub use error::ParentError;
pub use parent::Requested;
pub use uplink::restore_uplink;

/// The uplinks and parents.
#[derive(Debug)]
pub struct Macvlan {
    context: Arc<Context>,
    multicast: Arc<Multicast>,
}

impl Macvlan {
    /// Returns the owner.
    pub fn new(context: Arc<Context>, multicast: Arc<Multicast>) -> Self {
        Self { context, multicast }
    }
}
