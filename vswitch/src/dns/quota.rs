//! Bounds of what is used at once, by one client and by all: one that wants everything leaves room for the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many for each client, and so many for all.
#[derive(Debug)]
pub(super) struct Quota<Client: Eq + Hash> {
    each: usize,
    all: usize,
    used: Mutex<Used<Client>>,
}

#[derive(Debug)]
struct Used<Client> {
    by: HashMap<Client, usize>,
    total: usize,
}

/// One of them, given back when dropped.
#[derive(Debug)]
pub(super) struct Share<Client: Eq + Hash> {
    quota: Arc<Quota<Client>>,
    client: Client,
}

impl<Client: Copy + Eq + Hash> Quota<Client> {
    /// `each` for one client, `all` for all of them.
    pub(super) fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { each, all, used: Mutex::new(Used { by: HashMap::new(), total: 0 }) })
    }

    /// Takes one, if there is one left for the client.
    pub(super) fn take(self: &Arc<Self>, client: Client) -> Option<Share<Client>> {
        let mut used = self.used();
        let own = used.by.get(&client).copied().unwrap_or(0);
        if own >= self.each || used.total >= self.all {
            return None;
        }
        used.by.insert(client, own + 1);
        used.total += 1;
        Some(Share { quota: self.clone(), client })
    }
}

impl<Client: Eq + Hash> Quota<Client> {
    fn used(&self) -> MutexGuard<'_, Used<Client>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Client: Eq + Hash> Drop for Share<Client> {
    fn drop(&mut self) {
        let mut used = self.quota.used();
        used.total -= 1;
        if let Some(own) = used.by.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                used.by.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_what_is_left_for_others() {
        let quota = Quota::new(2, 3);
        let first: Vec<_> = (0..3).map_while(|_| quota.take('a')).collect();
        assert_eq!(first.len(), 2);
        let second: Vec<_> = (0..3).map_while(|_| quota.take('b')).collect();
        assert_eq!(second.len(), 1);
        assert!(quota.take('c').is_none());
        drop(first);
        assert!(quota.take('c').is_some());
        drop(second);
        assert_eq!(quota.used().total, 0);
        assert!(quota.used().by.is_empty());
    }
}
