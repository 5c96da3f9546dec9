//! This host in the cluster.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Txn, TxnResponse};
use tokio::sync::{Notify, RwLock, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::claims::Claims;
use super::error::ClusterError;
use super::etcd::{DEADLINE, Etcd, put};
use super::health::Health;
use super::keys::{Key, Keys};
use super::options::Options;
use super::owned::{Claim, Owned};
use super::queue::Queue;
use super::records::{Host, SharedEndpoint};
use super::session;
use super::snapshot::Update;
use super::watch::Watcher;
use crate::model::HostId;

/// How many updates wait for whoever watches.
const UPDATES: usize = 256;
/// No lease of etcd's: those are not 0.
const NO_LEASE: i64 = 0;

/// Whether something was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It was.
    Done,
    /// It will be as soon as etcd answers; or it ends with this host's lease.
    Later,
}

/// This host in the cluster. When it is dropped, nothing is taken back: what this host has ends with its lease, unless it is
/// announced again before ([`Cluster::leave`] takes it back at once).
pub struct Cluster {
    pub(super) shared: Arc<Shared>,
    /// Aborted when dropped.
    tasks: Mutex<JoinSet<()>>,
}

/// What the calls, the keeper of the lease and the watcher have in common.
pub(super) struct Shared {
    pub(super) etcd: Etcd,
    pub(super) keys: Keys,
    pub(super) id: HostId,
    /// How long after one sign of life the next is due.
    pub(super) beat: Duration,
    host: Mutex<Host>,
    owned: Mutex<Owned>,
    /// The lease, while it is alive as far as we know.
    pub(super) lease: watch::Sender<Option<i64>>,
    /// Wakes the keeper of the lease before its time.
    pub(super) wake: Notify,
    /// Claims share it, announcing again and taking back have it for themselves: what is taken back must not be claimed at
    /// the same moment.
    pub(super) order: RwLock<()>,
    /// Those who want an address.
    pub(super) addresses: Queue,
    /// Those who create a network.
    pub(super) networks: Queue,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("host", &self.shared.id).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Registers this host under a lease, and keeps it alive. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClusterError::File`] for a file that the options name, [`ClusterError::Unreachable`], [`ClusterError::Tls`] or
    /// [`ClusterError::Auth`] if etcd cannot be used.
    pub async fn connect(options: Options, host: Host) -> Result<Self, ClusterError> {
        let shared = Shared::new(options, host).await?;
        let lease = session::register(&shared).await?;
        Ok(Self::with(shared, Some(lease)))
    }

    /// The same where etcd need not answer yet: the host is registered as soon as it does. To be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`ClusterError::File`] for a file that the options name.
    pub async fn start(options: Options, host: Host) -> Result<Self, ClusterError> {
        Ok(Self::with(Shared::new(options, host).await?, None))
    }

    fn with(shared: Arc<Shared>, lease: Option<i64>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(session::keep(shared.clone(), lease));
        Self { shared, tasks: Mutex::new(tasks) }
    }

    /// The updates: first all there is, then what changes; after a gap all there is once more. They end when the receiver
    /// is dropped, or this. To be called within a tokio runtime.
    pub fn watch(&self) -> mpsc::Receiver<Update> {
        let (sender, receiver) = mpsc::channel(UPDATES);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose receivers are gone.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(Watcher::new(self.shared.clone(), sender).run());
        receiver
    }

    /// How the cluster is. Asks nobody.
    pub fn health(&self) -> Health {
        let mut health = self.shared.etcd.monitor.snapshot();
        health.registered = self.shared.lease.borrow().is_some();
        let owned = self.shared.owned();
        health.pending = owned.pending_count();
        health.conflicts = owned.conflicts();
        health
    }

    /// Tells the others something new of this host: its tunnel's address, its key. Its id stays.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`] and the like; the others will know all the same when this host registers again.
    pub async fn update_host(&self, host: Host) -> Result<(), ClusterError> {
        *self.shared.host() = Host { id: self.shared.id, ..host };
        let doing = "to tell the others of this host";
        let key = self.shared.keys.encode(&Key::Host(self.shared.id));
        let json = self.shared.host_json()?;
        let write = |lease| Txn::new().and_then([put(&key, json.as_str(), Some(lease))]);
        self.shared.with_lease(doing, write).await.map(drop)
    }

    /// Notes that this host has an endpoint with these addresses, which was announced by an earlier process or not at all:
    /// it is announced as soon as etcd answers, if nobody else has the addresses or the name by then
    /// ([`Health::conflicts`]).
    pub fn announce_later(&self, endpoint: SharedEndpoint, addresses: &[IpAddr]) {
        let shared = &*self.shared;
        let endpoint = SharedEndpoint { host: shared.id, ..endpoint };
        {
            let mut owned = shared.owned();
            for address in addresses {
                owned.hold(Claim::Address(endpoint.network, *address, endpoint.id), NO_LEASE);
            }
            owned.hold(Claim::Endpoint(endpoint), NO_LEASE);
        }
        shared.wake.notify_one();
    }

    /// Where etcd is, as the options say it.
    pub fn addresses(&self) -> String {
        self.shared.etcd.addresses()
    }

    /// Takes back all that this host has, and its registration, at once.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`] and the like; then it ends with the lease.
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

impl Shared {
    async fn new(options: Options, host: Host) -> Result<Arc<Self>, ClusterError> {
        Ok(Arc::new(Self {
            keys: Keys::new(options.prefix()),
            id: host.id,
            beat: options.lease() / session::BEATS,
            etcd: Etcd::new(options).await?,
            host: Mutex::new(host),
            owned: Mutex::default(),
            lease: watch::Sender::new(None),
            wake: Notify::new(),
            order: RwLock::default(),
            addresses: Queue::default(),
            networks: Queue::default(),
        }))
    }

    /// What this host has.
    pub(super) fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This host's record as it is written.
    pub(super) fn host_json(&self) -> Result<String, ClusterError> {
        json(&self.keys.encode(&Key::Host(self.id)), &*self.host())
    }

    /// The transactions of this host.
    pub(super) fn claims(&self) -> Claims<'_> {
        Claims { keys: &self.keys, host: self.id }
    }

    /// Carries out a transaction that attaches keys to this host's lease; once more with a new one if it was lost.
    /// Returns the lease, too.
    ///
    /// # Errors
    /// Those of [`Etcd::txn`]; [`ClusterError::LeaseLost`] if there is none in time.
    pub(super) async fn with_lease(
        &self,
        doing: &str,
        write: impl Fn(i64) -> Txn,
    ) -> Result<(TxnResponse, i64), ClusterError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let lease = self.lease_by(deadline, doing).await?;
            match self.etcd.txn(doing, write(lease)).await {
                Err(ClusterError::LeaseLost) => self.lost(lease),
                answer => return Ok((answer?, lease)),
            }
        }
    }

    /// The lease, or the one that is on its way.
    async fn lease_by(&self, deadline: Instant, doing: &str) -> Result<i64, ClusterError> {
        let mut lease = self.lease.subscribe();
        if let Ok(Ok(lease)) = timeout_at(deadline, lease.wait_for(Option::is_some)).await
            && let Some(lease) = *lease
        {
            return Ok(lease);
        }
        // Why not: etcd says it better than a clock.
        self.etcd.members(doing).await?;
        Err(ClusterError::LeaseLost)
    }

    /// The lease is not there any more; the keeper gets another.
    pub(super) fn lost(&self, lease: i64) {
        let is_news = self.lease.send_if_modified(|current| {
            let is_this = *current == Some(lease);
            if is_this {
                *current = None;
            }
            is_this
        });
        if is_news {
            self.wake.notify_one();
        }
    }

    /// The name of a host with its address, or its id if it is gone.
    pub(super) async fn host_name(&self, doing: &str, id: HostId) -> Result<String, ClusterError> {
        let found = self.etcd.get(doing, &self.keys.encode(&Key::Host(id))).await?;
        let host = found.and_then(|found| serde_json::from_slice::<Host>(found.value()).ok());
        Ok(host.map_or_else(|| id.short(), |host| host.to_string()))
    }
}

/// A record as it is written.
///
/// # Errors
/// [`ClusterError::Record`].
pub(super) fn json(key: &str, record: &impl serde::Serialize) -> Result<String, ClusterError> {
    let failed = |error: serde_json::Error| ClusterError::Record { key: key.to_owned(), message: error.to_string() };
    serde_json::to_string(record).map_err(failed)
}
