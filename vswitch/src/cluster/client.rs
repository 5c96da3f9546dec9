//! Membership of this host in the cluster.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::Txn;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::ClusterError;
use super::etcd::put;
use super::health::Health;
use super::keys::Key;
use super::options::Options;
use super::owned::Claim;
use super::records::{Host, SharedEndpoint};
use super::session;
use super::shared::Shared;
use super::snapshot::Update;
use super::watch::Watcher;

/// Number of updates that are buffered for a receiver of [`Cluster::watch`].
const UPDATE_BUFFER: usize = 256;
/// Placeholder for "under no lease": etcd's lease ids are not 0.
const NO_LEASE: i64 = 0;

/// Membership of this host in the cluster. Dropping it releases nothing: the keys of this host
/// expire with its lease, unless a later process announces them again. [`Cluster::leave`] releases
/// them at once.
pub struct Cluster {
    pub(super) shared: Arc<Shared>,
    /// Keeper of the lease, and watchers. Aborted on drop.
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("host", &self.shared.id).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Registers this host under a lease and keeps the lease alive. Requires a tokio runtime.
    ///
    /// # Errors
    /// [`ClusterError::File`] for a file that the options name. [`ClusterError::Unreachable`],
    /// [`ClusterError::Tls`] or [`ClusterError::Auth`] if etcd cannot be used.
    pub async fn connect(options: Options, host: Host) -> Result<Self, ClusterError> {
        let shared = Shared::new(options, host).await?;
        let lease = session::register(&shared).await?;
        Ok(Self::with_keeper(shared, Some(lease)))
    }

    /// Like [`Cluster::connect`], but does not wait for etcd: the host is registered as soon as
    /// etcd answers. Requires a tokio runtime.
    ///
    /// # Errors
    /// [`ClusterError::File`] for a file that the options name.
    pub async fn start(options: Options, host: Host) -> Result<Self, ClusterError> {
        Ok(Self::with_keeper(Shared::new(options, host).await?, None))
    }

    fn with_keeper(shared: Arc<Shared>, lease: Option<i64>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(session::keep_registered(shared.clone(), lease));
        Self { shared, tasks: Mutex::new(tasks) }
    }

    /// Returns a stream of updates: a complete snapshot, then each change, and a new snapshot after
    /// every gap. The stream ends when the receiver or this `Cluster` is dropped. Requires a tokio
    /// runtime.
    pub fn watch(&self) -> mpsc::Receiver<Update> {
        let (sender, receiver) = mpsc::channel(UPDATE_BUFFER);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Collect watchers whose receivers were dropped.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(Watcher::new(self.shared.clone(), sender).run());
        receiver
    }

    /// Returns the state of the cluster without a request to etcd.
    pub fn health(&self) -> Health {
        let mut health = self.shared.etcd.monitor.snapshot();
        health.registered = self.shared.lease.borrow().is_some();
        let owned = self.shared.owned();
        health.pending = owned.pending_count();
        health.conflicts = owned.conflicts();
        health
    }

    /// Replaces this host's record, for example with a new tunnel address or public key. The id
    /// stays the same.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`] and other errors of etcd. The new record is then written when
    /// this host registers again.
    pub async fn update_host(&self, host: Host) -> Result<(), ClusterError> {
        *self.shared.host() = Host { id: self.shared.id, ..host };
        let purpose = "to update the record of this host";
        let key = self.shared.keys.encode(&Key::Host(self.shared.id));
        let json = self.shared.host_json()?;
        let write = |lease| Txn::new().and_then([put(&key, json.as_str(), Some(lease))]);
        self.shared.with_lease(purpose, write).await.map(drop)
    }

    /// Records an endpoint and its addresses as claims of this host that are not announced yet, for
    /// example those of an earlier process. They are announced as soon as etcd answers. If another
    /// endpoint holds an address or the name by then, the claim becomes a conflict
    /// ([`Health::conflicts`]).
    pub fn announce_later(&self, endpoint: SharedEndpoint, addresses: &[IpAddr]) {
        let shared = &*self.shared;
        let endpoint = SharedEndpoint { host: shared.id, ..endpoint };
        {
            let mut owned = shared.owned();
            for address in addresses {
                owned.record(Claim::Address(endpoint.network, *address, endpoint.id), NO_LEASE);
            }
            owned.record(Claim::Endpoint(endpoint), NO_LEASE);
        }
        shared.wake.notify_one();
    }

    /// Returns the addresses of etcd as in the options.
    pub fn addresses(&self) -> String {
        self.shared.etcd.addresses()
    }

    /// Revokes this host's lease, which deletes its registration and all its claims at once.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`] and other errors of etcd. The keys then expire with the lease.
    pub async fn leave(&self) -> Result<(), ClusterError> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        let lease = self.shared.lease.send_replace(None);
        let Some(lease) = lease else { return Ok(()) };
        match self.shared.etcd.revoke("to leave the cluster", lease).await {
            Ok(()) | Err(ClusterError::LeaseLost) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
