//! Peers of the userspace backend, with look-up by public key, session index and inner address.

use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use boringtun::noise::Tunn;

use super::super::PeerStatus;
use super::super::keys::{KEY_LENGTH, PublicKey};

/// Number of low bits of a session index that distinguish the sessions of one peer. The other bits
/// identify the peer (boringtun, `Handshake::inc_index`).
const SESSION_BITS: u32 = 8;
/// Number of peer indices: the other 24 bits.
const INDICES: u32 = 1 << (u32::BITS - SESSION_BITS);

/// A peer.
pub(super) struct Peer {
    pub(super) key: PublicKey,
    pub(super) inner: Ipv6Addr,
    endpoint: Mutex<SocketAddr>,
    tunnel: Mutex<Tunn>,
    /// Time of the latest handshake that was noticed. boringtun forgets it when the session ends.
    handshake: Mutex<Option<SystemTime>>,
    received: AtomicU64,
    sent: AtomicU64,
}

impl Peer {
    pub(super) fn new(key: PublicKey, endpoint: SocketAddr, tunnel: Tunn) -> Arc<Self> {
        Arc::new(Self {
            key,
            inner: key.inner_address(),
            endpoint: Mutex::new(endpoint),
            tunnel: Mutex::new(tunnel),
            handshake: Mutex::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        })
    }

    /// Returns the configured endpoint. It does not follow the source of the peer's packets.
    pub(super) fn endpoint(&self) -> SocketAddr {
        *lock(&self.endpoint)
    }

    pub(super) fn move_to(&self, endpoint: SocketAddr) {
        *lock(&self.endpoint) = endpoint;
    }

    pub(super) fn tunnel(&self) -> MutexGuard<'_, Tunn> {
        lock(&self.tunnel)
    }

    /// Counts an authentic datagram from the peer.
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a datagram to the peer.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Records and returns the time of the latest handshake.
    pub(super) fn note_handshake(&self, tunnel: &Tunn) -> Option<SystemTime> {
        let mut latest = lock(&self.handshake);
        if let Some(age) = tunnel.time_since_last_handshake() {
            *latest = SystemTime::now().checked_sub(age);
        }
        *latest
    }

    pub(super) fn status(&self) -> PeerStatus {
        let last_handshake = self.note_handshake(&self.tunnel());
        PeerStatus {
            key: self.key,
            endpoint: Some(self.endpoint()),
            last_handshake,
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

/// All peers.
#[derive(Default)]
pub(super) struct Peers {
    by_key: HashMap<[u8; KEY_LENGTH], (u32, Arc<Peer>)>,
    by_index: HashMap<u32, Arc<Peer>>,
    by_inner: HashMap<Ipv6Addr, Arc<Peer>>,
}

impl Peers {
    pub(super) fn by_key(&self, key: &[u8; KEY_LENGTH]) -> Option<&Arc<Peer>> {
        self.by_key.get(key).map(|(_, peer)| peer)
    }

    /// Returns the peer that has the session with this index.
    pub(super) fn by_session(&self, index: u32) -> Option<&Arc<Peer>> {
        self.by_index.get(&(index >> SESSION_BITS))
    }

    pub(super) fn by_inner(&self, address: Ipv6Addr) -> Option<&Arc<Peer>> {
        self.by_inner.get(&address)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_index.values()
    }

    /// Returns a random index that no peer has.
    pub(super) fn free_index(&self) -> u32 {
        loop {
            let index = rand::random::<u32>() % INDICES;
            if !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }

    /// Adds a peer under an index from [`Peers::free_index`].
    pub(super) fn insert(&mut self, index: u32, peer: Arc<Peer>) {
        self.by_index.insert(index, peer.clone());
        self.by_inner.insert(peer.inner, peer.clone());
        self.by_key.insert(*peer.key.bytes(), (index, peer));
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        if let Some((index, peer)) = self.by_key.remove(key.bytes()) {
            self.by_index.remove(&index);
            self.by_inner.remove(&peer.inner);
        }
    }
}

/// Locks a mutex. Ignores poisoning, because every change under these locks is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
