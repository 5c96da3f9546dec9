//! State of the cluster, as `status` shows it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;

/// State of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Outage of etcd; `None` while etcd is reachable.
    pub unreachable: Option<Outage>,
    /// Whether this host is registered: its lease is alive, as far as the host knows.
    pub registered: bool,
    /// Number of members of etcd, as etcd last reported it.
    pub members: usize,
    /// Number of hosts in the cluster, this one included, as the watcher last saw it; 0 without a
    /// watcher.
    pub hosts: usize,
    /// Newest revision seen in an answer of etcd.
    pub revision: i64,
    /// Number of queued releases.
    pub pending: usize,
    /// Claims that cannot be announced, one line each: another host has taken the key, or the
    /// network was removed.
    pub conflicts: Vec<String>,
}

/// Begin and reason of an outage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Time of the first failure.
    pub since: OffsetDateTime,
    /// Reason of the latest failure.
    pub reason: String,
}

/// Health, updated by all parts of the client.
#[derive(Debug)]
pub(super) struct Monitor {
    health: Mutex<Health>,
}

impl Monitor {
    /// Returns the state before the first contact: etcd counts as unreachable.
    pub(super) fn new() -> Self {
        let outage = Outage { since: OffsetDateTime::now_utc(), reason: "no answer yet".to_owned() };
        let health = Health {
            unreachable: Some(outage),
            registered: false,
            members: 0,
            hosts: 0,
            revision: 0,
            pending: 0,
            conflicts: Vec::new(),
        };
        Self { health: Mutex::new(health) }
    }

    /// Returns a copy.
    pub(super) fn snapshot(&self) -> Health {
        self.lock().clone()
    }

    /// Notes that etcd has answered.
    pub(super) fn note_success(&self) {
        let outage = self.lock().unreachable.take();
        if let Some(outage) = outage {
            tracing::info!(since = %outage.since, "etcd is reachable again");
        }
    }

    /// Raises the newest revision; a lower value is ignored.
    pub(super) fn note_revision(&self, revision: i64) {
        let mut health = self.lock();
        health.revision = health.revision.max(revision);
    }

    /// Notes that etcd has not answered.
    pub(super) fn note_failure(&self, reason: &str) {
        let mut health = self.lock();
        match &mut health.unreachable {
            // Keep the time of the first failure, and the latest reason.
            Some(outage) => reason.clone_into(&mut outage.reason),
            None => {
                health.unreachable = Some(Outage { since: OffsetDateTime::now_utc(), reason: reason.to_owned() });
                drop(health);
                tracing::warn!(reason, "etcd is unreachable; existing traffic goes on");
            }
        }
    }

    /// Changes other fields.
    pub(super) fn update(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_keeps_its_start_time_and_the_latest_reason() {
        let monitor = Monitor::new();
        monitor.note_success();
        assert_eq!(monitor.snapshot().unreachable, None);
        monitor.note_failure("refused");
        let first = monitor.snapshot().unreachable.expect("an outage");
        monitor.note_failure("no leader");
        let second = monitor.snapshot().unreachable.expect("an outage");
        assert_eq!((second.since, second.reason.as_str()), (first.since, "no leader"));
        monitor.note_revision(7);
        monitor.note_revision(3);
        assert_eq!(monitor.snapshot().revision, 7);
    }
}
