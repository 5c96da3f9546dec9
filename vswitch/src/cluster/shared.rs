//! The state that all parts of the client share, and the transactions under the lease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Txn, TxnResponse};
use tokio::sync::{Notify, RwLock, watch};
use tokio::time::{Instant, timeout_at};

use super::claims::Claims;
use super::error::ClusterError;
use super::etcd::{DEADLINE, Etcd};
use super::keys::{Key, Keys};
use super::options::Options;
use super::owned::Owned;
use super::queue::Queue;
use super::records::{Host, Owner, SharedEndpoint};
use crate::model::{HostId, NetworkId};

/// Keep-alives per lease period: the lease survives the loss of two in a row.
pub(super) const KEEP_ALIVES_PER_LEASE: u32 = 3;

/// Result of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// etcd has carried it out.
    Done,
    /// It is queued until etcd answers. Otherwise it takes effect when this host's lease expires.
    Later,
}

/// State shared by the calls, the keeper of the lease, and the watchers.
pub(super) struct Shared {
    pub(super) etcd: Etcd,
    pub(super) keys: Keys,
    pub(super) id: HostId,
    /// Interval between two keep-alives.
    pub(super) keep_alive_interval: Duration,
    host: Mutex<Host>,
    owned: Mutex<Owned>,
    /// Lease of this host; `None` while it has none, as far as the host knows.
    pub(super) lease: watch::Sender<Option<i64>>,
    /// Wakes the keeper of the lease before its interval ends.
    pub(super) wake: Notify,
    /// Claims hold it shared, announcements and releases hold it exclusively, so that a key cannot
    /// be claimed while it is being released.
    pub(super) claim_lock: RwLock<()>,
    /// Requests for addresses.
    pub(super) addresses: Queue,
    /// Requests that create networks.
    pub(super) networks: Queue,
}

impl Shared {
    pub(super) async fn new(options: Options, host: Host) -> Result<Arc<Self>, ClusterError> {
        Ok(Arc::new(Self {
            keys: Keys::new(options.prefix()),
            id: host.id,
            keep_alive_interval: options.lease() / KEEP_ALIVES_PER_LEASE,
            etcd: Etcd::new(options).await?,
            host: Mutex::new(host),
            owned: Mutex::default(),
            lease: watch::Sender::new(None),
            wake: Notify::new(),
            claim_lock: RwLock::default(),
            addresses: Queue::default(),
            networks: Queue::default(),
        }))
    }

    /// Locks the claims of this host.
    pub(super) fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns this host's record as JSON.
    pub(super) fn host_json(&self) -> Result<String, ClusterError> {
        to_json(&self.keys.encode(&Key::Host(self.id)), &*self.host())
    }

    /// Returns the builder of this host's transactions.
    pub(super) fn claims(&self) -> Claims<'_> {
        Claims { keys: &self.keys, host: self.id }
    }

    /// Runs a transaction that attaches keys to this host's lease, and returns the response and
    /// that lease. If the lease was lost, repeats the transaction under the next one.
    ///
    /// # Errors
    /// Those of [`Etcd::txn`]. [`ClusterError::LeaseLost`] if this host gets no lease in time.
    pub(super) async fn with_lease(
        &self,
        purpose: &str,
        write: impl Fn(i64) -> Txn,
    ) -> Result<(TxnResponse, i64), ClusterError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let lease = self.wait_for_lease(deadline, purpose).await?;
            match self.etcd.txn(purpose, write(lease)).await {
                Err(ClusterError::LeaseLost) => self.mark_lease_lost(lease),
                answer => return Ok((answer?, lease)),
            }
        }
    }

    /// Returns the lease. Waits for a new one until the deadline.
    async fn wait_for_lease(&self, deadline: Instant, purpose: &str) -> Result<i64, ClusterError> {
        let mut lease = self.lease.subscribe();
        if let Ok(Ok(lease)) = timeout_at(deadline, lease.wait_for(Option::is_some)).await
            && let Some(lease) = *lease
        {
            return Ok(lease);
        }
        // Send a request: the error of etcd explains the missing lease better than a timeout.
        self.etcd.members(purpose).await?;
        Err(ClusterError::LeaseLost)
    }

    /// Notes that the lease does not exist any more. The keeper then requests a new one.
    pub(super) fn mark_lease_lost(&self, lease: i64) {
        let changed = self.lease.send_if_modified(|current| {
            let is_current = *current == Some(lease);
            if is_current {
                *current = None;
            }
            is_current
        });
        if changed {
            self.wake.notify_one();
        }
    }

    /// Returns the name and address of a host, or its short id if it has no record.
    pub(super) async fn host_name(&self, purpose: &str, id: HostId) -> Result<String, ClusterError> {
        let found = self.etcd.get(purpose, &self.keys.encode(&Key::Host(id))).await?;
        let host = found.and_then(|found| serde_json::from_slice::<Host>(found.value()).ok());
        Ok(host.map_or_else(|| id.short(), |host| host.to_string()))
    }

    /// Describes an owner for error messages: its endpoint and host.
    ///
    /// # Errors
    /// Those of etcd.
    pub(super) async fn describe_owner(
        &self,
        purpose: &str,
        network: NetworkId,
        owner: &str,
    ) -> Result<String, ClusterError> {
        let Ok(owner) = owner.parse::<Owner>() else { return Ok(format!("`{owner}`")) };
        let host = self.host_name(purpose, owner.host).await?;
        let found = self.etcd.get(purpose, &self.keys.encode(&Key::Endpoint(network, owner.endpoint))).await?;
        let endpoint = found.and_then(|found| serde_json::from_slice::<SharedEndpoint>(found.value()).ok());
        // An endpoint that is still being attached has no record yet.
        let endpoint = endpoint.map_or_else(|| owner.endpoint.short(), |endpoint| endpoint.name.to_string());
        Ok(format!("endpoint {endpoint} on host {host}"))
    }
}

/// Serialises a record as JSON. `key` is for the error message.
///
/// # Errors
/// [`ClusterError::Record`].
pub(super) fn to_json(key: &str, record: &impl serde::Serialize) -> Result<String, ClusterError> {
    let failed = |error: serde_json::Error| ClusterError::Record { key: key.to_owned(), message: error.to_string() };
    serde_json::to_string(record).map_err(failed)
}
