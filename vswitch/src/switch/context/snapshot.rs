//! The state and its published snapshot. Changes are decided under a lock. Everything that only
//! reads, DNS and the counters' names among it, reads the snapshot of the last change and takes no
//! part in the lock.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use crate::switch::state::State;

/// The state, with a snapshot of it.
#[derive(Debug, Default)]
pub struct Published {
    state: Mutex<State>,
    /// The state as of the last change. Held only to copy or to replace the pointer.
    snapshot: RwLock<Arc<State>>,
}

/// The locked state. A change is published when the guard is dropped, before the lock is open.
#[derive(Debug)]
pub struct StateGuard<'a> {
    state: MutexGuard<'a, State>,
    snapshot: &'a RwLock<Arc<State>>,
    changed: bool,
}

impl Published {
    /// Locks the state.
    pub fn lock(&self) -> StateGuard<'_> {
        // Every change under the lock is complete before any code in it could panic.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        StateGuard { state, snapshot: &self.snapshot, changed: false }
    }

    /// Returns whether another thread has locked the state.
    pub fn is_locked(&self) -> bool {
        matches!(self.state.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Returns the snapshot of the last change.
    pub fn snapshot(&self) -> Arc<State> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Deref for StateGuard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.changed = true;
        &mut self.state
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if !self.changed {
            return;
        }
        let mut next = Arc::new(self.state.clone());
        std::mem::swap(&mut next, &mut *self.snapshot.write().unwrap_or_else(PoisonError::into_inner));
        // The snapshot before is freed here, after its lock is open.
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use time::OffsetDateTime;

    use super::*;
    use crate::model::Peer;
    use crate::switch::state::PeerEntry;

    fn peer(last: u8) -> (IpAddr, PeerEntry) {
        let address = IpAddr::from([192, 0, 2, last]);
        (address, PeerEntry::new(Peer::new(address, OffsetDateTime::UNIX_EPOCH)))
    }

    #[test]
    fn a_change_is_published_when_it_is_complete() {
        let published = Published::default();
        let (one, two) = (peer(1), peer(2));
        let before = published.snapshot();
        let mut state = published.lock();
        state.peers.insert(one.0, one.1);
        // A reader does not wait for the lock, and sees no half of the change.
        assert!(published.snapshot().peers.is_empty());
        state.peers.insert(two.0, two.1);
        drop(state);
        assert_eq!((published.snapshot().peers.len(), before.peers.len()), (2, 0));
    }

    #[test]
    fn a_lock_without_a_change_publishes_nothing() {
        let published = Published::default();
        let before = published.snapshot();
        assert!(published.lock().peers.is_empty());
        assert!(Arc::ptr_eq(&before, &published.snapshot()));
    }
}
