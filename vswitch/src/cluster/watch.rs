//! The watcher: all there is, and then what changes. It goes on where it was when a connection breaks, and begins anew when
//! etcd has forgotten what came between.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::client::Shared;
use super::error::ClusterError;
use super::snapshot::{Reader, Snapshot, Update};

/// How long the watcher waits after a failure before it tries again.
const PAUSE: Duration = Duration::from_millis(200);

const WATCH: &str = "to see what other hosts do";

/// Why following ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// Something was missed.
    Gap,
    /// The stream broke, and can be taken up again.
    Broken,
}

/// Follows the cluster.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    updates: mpsc::Sender<Update>,
    reader: Reader,
    all: Snapshot,
    /// The revision that `all` is of.
    revision: i64,
    /// The etcd cluster that it is of.
    cluster: u64,
}

impl Watcher {
    /// One that has seen nothing yet.
    pub(super) fn new(shared: Arc<Shared>, updates: mpsc::Sender<Update>) -> Self {
        Self { shared, updates, reader: Reader::default(), all: Snapshot::default(), revision: 0, cluster: 0 }
    }

    /// Follows until nobody listens any more.
    pub(super) async fn run(mut self) {
        let updates = self.updates.clone();
        tokio::select! {
            () = updates.closed() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            match self.begin().await {
                Ok(()) => {
                    if !self.send(Update::Resync(self.all.clone())).await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!("the cluster cannot be read: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            }
            loop {
                match self.stream().await {
                    End::Closed => return,
                    End::Gap => {
                        sleep(PAUSE).await;
                        break;
                    }
                    End::Broken => sleep(PAUSE).await,
                }
            }
        }
    }

    /// Reads all there is at one revision.
    async fn begin(&mut self) -> Result<(), ClusterError> {
        let keys = &self.shared.keys;
        let hosts = self.shared.etcd.read(WATCH, &keys.hosts(), None).await?;
        let at = Some(hosts.revision);
        let networks = self.shared.etcd.read(WATCH, &keys.networks(), at).await?;
        let endpoints = self.shared.etcd.read(WATCH, &keys.endpoints(), at).await?;
        self.all = Snapshot::default();
        for found in hosts.found.iter().chain(&networks.found).chain(&endpoints.found) {
            self.all.put(&mut self.reader, keys, found.key(), found.value());
        }
        (self.revision, self.cluster) = (hosts.revision, hosts.cluster);
        self.count();
        Ok(())
    }

    /// Follows one stream until it ends.
    async fn stream(&mut self) -> End {
        let from = self.revision + 1;
        let mut stream = match self.shared.etcd.watch(WATCH, &self.shared.keys.all(), from).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!("the cluster cannot be watched: {error}");
                return End::Broken;
            }
        };
        loop {
            match self.next(&mut stream).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    async fn next(&mut self, stream: &mut WatchStream) -> Result<(), End> {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(End::Broken),
            Err(error) => {
                tracing::debug!("the watch of the cluster broke: {error}");
                return Err(End::Broken);
            }
        };
        if response.compact_revision() > 0 || self.is_another(&response).await {
            tracing::info!(revision = self.revision, "etcd has forgotten what came next; all is read anew");
            return Err(End::Gap);
        }
        if response.canceled() {
            tracing::debug!("etcd ended the watch of the cluster: {}", response.cancel_reason());
            self.shared.etcd.log_in_again().await;
            return Err(End::Broken);
        }
        self.apply(&response).await
    }

    /// Whether it comes from an etcd that was made anew, and has not seen what we have.
    async fn is_another(&self, response: &WatchResponse) -> bool {
        let Some(header) = response.header() else { return false };
        if header.cluster_id() != self.cluster {
            return true;
        }
        // One member may lag behind; what is read is of all of them.
        let is_behind = response.created() && header.revision() < self.revision;
        let hosts = self.shared.keys.hosts();
        is_behind && self.shared.etcd.read(WATCH, &hosts, None).await.is_ok_and(|read| read.revision < self.revision)
    }

    async fn apply(&mut self, response: &WatchResponse) -> Result<(), End> {
        let keys = &self.shared.keys;
        let mut updates = Vec::new();
        for event in response.events() {
            let Some(key_value) = event.kv() else { continue };
            updates.extend(match event.event_type() {
                EventType::Put => self.all.put(&mut self.reader, keys, key_value.key(), key_value.value()),
                EventType::Delete => self.all.delete(&mut self.reader, keys, key_value.key()),
            });
            self.revision = self.revision.max(key_value.mod_revision());
        }
        // Without events it says how far there were none; with events, more may follow of the same revision as the header's.
        if response.events().is_empty()
            && !response.created()
            && let Some(header) = response.header()
        {
            self.revision = self.revision.max(header.revision());
        }
        self.shared.etcd.monitor.saw(self.revision);
        self.count();
        for update in updates {
            if !self.send(update).await {
                return Err(End::Closed);
            }
        }
        Ok(())
    }

    fn count(&self) {
        self.shared.etcd.monitor.note(|health| health.hosts = self.all.hosts.len());
    }

    async fn send(&self, update: Update) -> bool {
        self.updates.send(update).await.is_ok()
    }
}
