//! Overlay networks: the tunnels of each network to each peer, peers, encryption, and the entries
//! of endpoints on other hosts.

mod encryption;
mod ends;
mod error;
mod overhead;
mod path_mtu;
mod peers;
mod remotes;
mod too_big;
mod tunnels;
mod underlay;
mod wireguard;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::context::Context;
use super::multicast::Multicast;
use super::others::Place;
use crate::datapath::Remote;
use crate::observe::Observer;
pub use encryption::remove_guard;
pub use error::OverlayError;
pub use wireguard::Encryption;

/// The tunnels of the overlay networks.
#[derive(Debug)]
pub struct Overlay {
    context: Arc<Context>,
    multicast: Arc<Multicast>,
    observer: Arc<Observer>,
    /// The WireGuard device of the encrypted networks.
    pub encryption: Encryption,
    /// Held while the tunnels are updated.
    tunnelling: Mutex<()>,
    /// The entries of endpoints on other hosts that the datapath holds.
    remotes: Mutex<BTreeMap<Place, Remote>>,
}

impl Overlay {
    /// Returns the owner without any tunnel yet.
    pub fn new(
        context: Arc<Context>,
        multicast: Arc<Multicast>,
        observer: Arc<Observer>,
        encryption: Encryption,
    ) -> Self {
        let (tunnelling, remotes) = (Mutex::default(), Mutex::default());
        Self { context, multicast, observer, encryption, tunnelling, remotes }
    }
}
