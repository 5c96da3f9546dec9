//! The WireGuard device of this host.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use crate::model::Instance;
use crate::wireguard::{self, Device, PublicKey};

/// The WireGuard device of this host.
pub struct Encryption {
    /// The UDP port, the same on all peers.
    pub(super) port: u16,
    pub(super) device: AsyncMutex<Option<Device>>,
    /// The index of the device, to recognise its removal; 0 without a device.
    pub(super) index: AtomicU32,
    /// The public key, once it was read.
    pub(super) key: Mutex<Option<PublicKey>>,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("port", &self.port).field("index", &self.index).finish_non_exhaustive()
    }
}

impl Encryption {
    /// Returns the owner without a device.
    pub fn new(port: u16, instance: &Instance) -> Self {
        let file = instance.key_file();
        // An invalid file is reported when the key is needed.
        let key = file.exists().then(|| wireguard::load_or_create(&file).ok()).flatten();
        Self {
            port,
            device: AsyncMutex::default(),
            index: AtomicU32::new(0),
            key: Mutex::new(key.map(|key| key.public())),
        }
    }

    /// Returns whether this is the index of the device.
    pub fn is_device(&self, ifindex: u32) -> bool {
        ifindex != 0 && self.index.load(Ordering::Relaxed) == ifindex
    }

    /// Returns the public key of this host, if a key exists.
    pub fn key(&self) -> Option<PublicKey> {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
