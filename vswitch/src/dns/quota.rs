//! Concurrent-use limits per client and in total, so that one client cannot use up a resource.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counter of the resources in use, with a limit per client and a total limit.
#[derive(Debug)]
pub(super) struct Quota<Client: Eq + Hash> {
    per_client: usize,
    total: usize,
    used: Mutex<Used<Client>>,
}

#[derive(Debug)]
struct Used<Client> {
    per_client: HashMap<Client, usize>,
    total: usize,
}

/// One unit of a quota, released when dropped.
#[derive(Debug)]
pub(super) struct Share<Client: Eq + Hash> {
    quota: Arc<Quota<Client>>,
    client: Client,
}

impl<Client: Copy + Eq + Hash> Quota<Client> {
    /// Creates a quota of `per_client` units per client and `total` units in total.
    pub(super) fn new(per_client: usize, total: usize) -> Arc<Self> {
        Arc::new(Self { per_client, total, used: Mutex::new(Used { per_client: HashMap::new(), total: 0 }) })
    }

    /// Takes one unit for the client, or returns `None` if a limit is reached.
    pub(super) fn acquire(self: &Arc<Self>, client: Client) -> Option<Share<Client>> {
        let mut used = self.used();
        let count = used.per_client.get(&client).copied().unwrap_or(0);
        if count >= self.per_client || used.total >= self.total {
            return None;
        }
        used.per_client.insert(client, count + 1);
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
        if let Some(count) = used.per_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                used.per_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_use_up_the_total_quota() {
        let quota = Quota::new(2, 3);
        let first: Vec<_> = (0..3).map_while(|_| quota.acquire('a')).collect();
        assert_eq!(first.len(), 2);
        let second: Vec<_> = (0..3).map_while(|_| quota.acquire('b')).collect();
        assert_eq!(second.len(), 1);
        assert!(quota.acquire('c').is_none());
        drop(first);
        assert!(quota.acquire('c').is_some());
        drop(second);
        assert_eq!(quota.used().total, 0);
        assert!(quota.used().per_client.is_empty());
    }
}
