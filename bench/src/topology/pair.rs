//! Two containers that reach each other.

use super::variant::Variant;
use crate::{endpoint::Endpoint, instance::Instance, namespaces::Netns};

/// Two containers that reach each other.
pub struct Pair {
    /// The connection between them.
    pub variant: Variant,
    /// The sender.
    pub client: Endpoint,
    /// The receiver.
    pub server: Endpoint,
    // Dropped in this order: the switch before the namespaces that it works on.
    pub(crate) instance: Option<Instance>,
    /// The instances of two hosts.
    pub(super) instances: Vec<Instance>,
    pub(super) _namespaces: Vec<Netns>,
}

impl Pair {
    /// Creates a pair that no instance connects.
    pub(super) fn without_switch(variant: Variant, client: Endpoint, server: Endpoint, namespaces: Vec<Netns>) -> Self {
        Self { variant, client, server, instance: None, instances: Vec::new(), _namespaces: namespaces }
    }
}
