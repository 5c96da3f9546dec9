//! How the cluster is, as `status` shows it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;

/// How the cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Since when etcd cannot be reached, and why; `None` while it can.
    pub unreachable: Option<Outage>,
    /// Whether this host is registered: its lease is alive, as far as it knows.
    pub registered: bool,
    /// How many members etcd has, as it said last.
    pub members: usize,
    /// How many hosts the cluster has, this one included, as the watcher saw last; 0 without a watcher.
    pub hosts: usize,
    /// The newest revision of etcd's that was seen.
    pub revision: i64,
    /// How many releases wait for etcd.
    pub pending: usize,
    /// What this host has and cannot announce, a line each: another took it, or its network is gone.
    pub conflicts: Vec<String>,
}

/// Since when something does not work, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Since when.
    pub since: OffsetDateTime,
    /// Why.
    pub why: String,
}

/// The health, as all parts of the client keep it up.
#[derive(Debug)]
pub(super) struct Monitor {
    health: Mutex<Health>,
}

impl Monitor {
    /// Before the first contact.
    pub(super) fn new() -> Self {
        let outage = Outage { since: OffsetDateTime::now_utc(), why: "it has not answered yet".to_owned() };
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

    /// A copy.
    pub(super) fn snapshot(&self) -> Health {
        self.lock().clone()
    }

    /// etcd has answered.
    pub(super) fn reached(&self) {
        let outage = self.lock().unreachable.take();
        if let Some(outage) = outage {
            tracing::info!(since = %outage.since, "etcd answers");
        }
    }

    /// The newest revision, if this is newer.
    pub(super) fn saw(&self, revision: i64) {
        let mut health = self.lock();
        health.revision = health.revision.max(revision);
    }

    /// etcd has not answered.
    pub(super) fn failed(&self, why: &str) {
        let mut health = self.lock();
        match &mut health.unreachable {
            // Since the first time, and for the latest reason.
            Some(outage) => why.clone_into(&mut outage.why),
            None => {
                health.unreachable = Some(Outage { since: OffsetDateTime::now_utc(), why: why.to_owned() });
                drop(health);
                tracing::warn!(why, "etcd cannot be reached; existing traffic goes on");
            }
        }
    }

    /// Changes what the other fields say.
    pub(super) fn note(&self, change: impl FnOnce(&mut Health)) {
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
    fn an_outage_keeps_its_beginning_and_the_latest_reason() {
        let monitor = Monitor::new();
        monitor.reached();
        assert_eq!(monitor.snapshot().unreachable, None);
        monitor.failed("refused");
        let first = monitor.snapshot().unreachable.expect("an outage");
        monitor.failed("no leader");
        let second = monitor.snapshot().unreachable.expect("an outage");
        assert_eq!((second.since, second.why.as_str()), (first.since, "no leader"));
        monitor.saw(7);
        monitor.saw(3);
        assert_eq!(monitor.snapshot().revision, 7);
    }
}
