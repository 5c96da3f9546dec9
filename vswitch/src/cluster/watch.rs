//! The watcher: reports a snapshot of the cluster, then every change. Resumes at the last revision
//! when a connection breaks, and starts with a new snapshot when etcd has compacted the revisions
//! in between.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::error::ClusterError;
use super::shared::Shared;
use super::snapshot::{RecordReader, Snapshot, Update};

/// Pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

const TO_WATCH: &str = "to watch the other hosts";

/// Reason why a stream ended.
enum StreamEnd {
    /// The receiver of the updates was dropped.
    Closed,
    /// Changes were missed; a new snapshot is needed.
    Gap,
    /// The stream broke and can be resumed.
    Broken,
}

/// Follows the changes of the cluster.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    updates: mpsc::Sender<Update>,
    reader: RecordReader,
    snapshot: Snapshot,
    /// Revision of `snapshot`.
    revision: i64,
    /// Id of the etcd cluster that `snapshot` was read from.
    cluster: u64,
}

impl Watcher {
    /// Returns a watcher that has read nothing yet.
    pub(super) fn new(shared: Arc<Shared>, updates: mpsc::Sender<Update>) -> Self {
        Self {
            shared,
            updates,
            reader: RecordReader::default(),
            snapshot: Snapshot::default(),
            revision: 0,
            cluster: 0,
        }
    }

    /// Runs until the receiver of the updates is dropped.
    pub(super) async fn run(mut self) {
        let updates = self.updates.clone();
        tokio::select! {
            () = updates.closed() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        loop {
            match self.read_snapshot().await {
                Ok(()) => {
                    if !self.send(Update::Resync(self.snapshot.clone())).await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!("cannot read the cluster: {error}");
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
            loop {
                match self.follow_stream().await {
                    StreamEnd::Closed => return,
                    StreamEnd::Gap => {
                        sleep(RETRY_PAUSE).await;
                        break;
                    }
                    StreamEnd::Broken => sleep(RETRY_PAUSE).await,
                }
            }
        }
    }

    /// Reads all records at one revision.
    async fn read_snapshot(&mut self) -> Result<(), ClusterError> {
        let keys = &self.shared.keys;
        let hosts = self.shared.etcd.read(TO_WATCH, &keys.hosts(), None).await?;
        let revision = Some(hosts.revision);
        let networks = self.shared.etcd.read(TO_WATCH, &keys.networks(), revision).await?;
        let endpoints = self.shared.etcd.read(TO_WATCH, &keys.endpoints(), revision).await?;
        self.snapshot = Snapshot::default();
        for entry in hosts.entries.iter().chain(&networks.entries).chain(&endpoints.entries) {
            self.snapshot.put(&mut self.reader, keys, entry.key(), entry.value());
        }
        (self.revision, self.cluster) = (hosts.revision, hosts.cluster);
        self.report_host_count();
        Ok(())
    }

    /// Follows one stream until it ends.
    async fn follow_stream(&mut self) -> StreamEnd {
        let from = self.revision + 1;
        let mut stream = match self.shared.etcd.watch(TO_WATCH, &self.shared.keys.all(), from).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!("cannot watch the cluster: {error}");
                return StreamEnd::Broken;
            }
        };
        loop {
            match self.process_next(&mut stream).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    async fn process_next(&mut self, stream: &mut WatchStream) -> Result<(), StreamEnd> {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Err(StreamEnd::Broken),
            Err(error) => {
                tracing::debug!("the watch of the cluster failed: {error}");
                return Err(StreamEnd::Broken);
            }
        };
        if response.compact_revision() > 0 || self.is_other_state(&response).await {
            tracing::info!(revision = self.revision, "etcd has no record of the next changes; a new snapshot is read");
            return Err(StreamEnd::Gap);
        }
        if response.canceled() {
            tracing::debug!("etcd ended the watch of the cluster: {}", response.cancel_reason());
            self.shared.etcd.renew_token().await;
            return Err(StreamEnd::Broken);
        }
        self.apply(&response).await
    }

    /// Reports whether the response comes from a new etcd cluster, or from one that was set back to
    /// an older revision.
    async fn is_other_state(&self, response: &WatchResponse) -> bool {
        let Some(header) = response.header() else { return false };
        if header.cluster_id() != self.cluster {
            return true;
        }
        // A single member may lag behind. A linearizable read shows the state of the whole etcd
        // cluster.
        let is_behind = response.created() && header.revision() < self.revision;
        let hosts = self.shared.keys.hosts();
        is_behind && self.shared.etcd.read(TO_WATCH, &hosts, None).await.is_ok_and(|read| read.revision < self.revision)
    }

    async fn apply(&mut self, response: &WatchResponse) -> Result<(), StreamEnd> {
        let keys = &self.shared.keys;
        let mut updates = Vec::new();
        for event in response.events() {
            let Some(key_value) = event.kv() else { continue };
            updates.extend(match event.event_type() {
                EventType::Put => self.snapshot.put(&mut self.reader, keys, key_value.key(), key_value.value()),
                EventType::Delete => self.snapshot.delete(&mut self.reader, keys, key_value.key()),
            });
            self.revision = self.revision.max(key_value.mod_revision());
        }
        // The header's revision of a response without events (a progress notification) is complete.
        // With events, more events of the header's revision may follow.
        if response.events().is_empty()
            && !response.created()
            && let Some(header) = response.header()
        {
            self.revision = self.revision.max(header.revision());
        }
        self.shared.etcd.monitor.note_revision(self.revision);
        self.report_host_count();
        for update in updates {
            if !self.send(update).await {
                return Err(StreamEnd::Closed);
            }
        }
        Ok(())
    }

    fn report_host_count(&self) {
        self.shared.etcd.monitor.update(|health| health.hosts = self.snapshot.hosts.len());
    }

    async fn send(&self, update: Update) -> bool {
        self.updates.send(update).await.is_ok()
    }
}
