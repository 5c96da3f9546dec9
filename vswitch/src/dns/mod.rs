//! DNS server of each network, on the network's gateway addresses. It answers the names of
//! endpoints and forwards all other queries to the host's resolvers.
//!
//! A query passes `listen` (sockets), `answer` (the decision, without I/O) and, for names of no
//! endpoint, `upstream` (the host's resolvers). `hickory-proto` parses and encodes messages.
//! `hickory-server` is not used for three reasons: it does not limit TCP connections, it answers
//! the queries of one connection in sequence, and it re-encodes forwarded answers. This server
//! forwards the records of an answer unchanged, including unknown record types.

mod answer;
mod error;
mod health;
mod listen;
mod message;
mod quota;
mod resolvers;
mod rotation;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

pub use self::error::{DnsError, Transport};
use self::listen::{Listener, Network};
use self::quota::Quota;
pub use self::resolvers::ResolverFiles;
use self::upstream::Upstream;
use crate::model::NetworkId;

/// Names and addresses of endpoints. The switch implements this trait; its functions must return
/// quickly and never block.
pub trait Names: Send + Sync + 'static {
    /// Returns the addresses of `name` (lower case, without the final dot) for the client at
    /// `client` in `network`. `None` means that no endpoint has this name and that another resolver
    /// may know it. IPv4 and IPv6 addresses may be mixed in any stable order; the server rotates
    /// them.
    fn addresses(&self, network: NetworkId, client: IpAddr, name: &str) -> Option<Vec<IpAddr>>;
    /// Returns the name of an endpoint's address, without the final dot, for the client at `client`
    /// in `network`.
    fn name_of(&self, network: NetworkId, client: IpAddr, address: IpAddr) -> Option<String>;
    /// Reports whether `client` is an endpoint of `network`, or this host itself. All other clients
    /// are refused.
    fn admits(&self, network: NetworkId, client: IpAddr) -> bool;
    /// Reports whether `address` is in a subnet of the switch. Reverse queries for such an address
    /// are never forwarded.
    fn is_ours(&self, network: NetworkId, address: IpAddr) -> bool;
    /// Reports whether queries for other names may be forwarded to the host's resolvers; false for
    /// `--internal` networks.
    fn forwards(&self, network: NetworkId) -> bool;
}

/// Port number of DNS (RFC 1035 section 4.2).
const PORT: u16 = 53;

/// Limits on connections, forwarded queries and waiting times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of TCP connections of a network: per client, and in total.
    connections: (usize, usize),
    /// Maximum number of queries that wait for the host's resolvers, each with a socket of its own:
    /// per client, and in total over all networks.
    forwards: (usize, usize),
    /// Maximum time for a TCP client to send a query or to read an answer.
    idle_timeout: Duration,
    /// Maximum time for one resolver to answer.
    attempt_timeout: Duration,
    /// Time after which the next resolver is asked, too.
    patience: Duration,
    /// Maximum time for all resolvers together. Clients wait 5 s (glibc, musl), so SERVFAIL must be
    /// sent before that.
    forward_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: (16, 128),
            forwards: (64, 512),
            idle_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            patience: Duration::from_millis(500),
            forward_timeout: Duration::from_millis(4500),
        }
    }
}

/// DNS servers of all networks. Clones share the same servers; the servers stop when the last clone
/// is dropped.
#[derive(Clone)]
pub struct DnsServer {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    limits: Limits,
    port: u16,
    state: Mutex<State>,
    /// Lock that serializes calls of `serve`.
    serve_lock: tokio::sync::Mutex<()>,
}

/// State that the servers of all networks share.
struct Shared {
    names: Arc<dyn Names>,
    upstream: Upstream,
    forwards: Arc<Quota<(NetworkId, IpAddr)>>,
    /// Addresses of this server, which are excluded as resolvers so that no query is forwarded to
    /// the server itself.
    own_addresses: Mutex<BTreeSet<IpAddr>>,
}

#[derive(Default)]
struct State {
    networks: BTreeMap<NetworkId, ServedNetwork>,
    /// Tasks that are stopping. Their sockets stay open until they have finished.
    stopping: Vec<JoinHandle<()>>,
}

struct ServedNetwork {
    network: Arc<Network>,
    listeners: BTreeMap<IpAddr, Listener>,
}

impl DnsServer {
    /// Creates a server that serves no network yet.
    pub fn new(names: Arc<dyn Names>, resolvers: ResolverFiles) -> Self {
        Self::with_port(names, resolvers, PORT, Limits::default())
    }

    /// Creates a server on another port than 53. The host's resolvers are then asked at that port
    /// as well.
    pub(crate) fn with_port(names: Arc<dyn Names>, resolvers: ResolverFiles, port: u16, limits: Limits) -> Self {
        let upstream = Upstream::new(resolvers, port, &limits);
        let (per_client, total) = limits.forwards;
        let shared =
            Shared { names, upstream, forwards: Quota::new(per_client, total), own_addresses: Mutex::default() };
        let shared = Arc::new(shared);
        Self {
            inner: Arc::new(Inner {
                shared,
                limits,
                port,
                state: Mutex::default(),
                serve_lock: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Serves `network` on exactly these addresses, on port 53 over UDP and TCP. The addresses
    /// replace those of an earlier call. An address that was already served is served without
    /// interruption. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The server cannot listen on one of the addresses. The earlier addresses are then still
    /// served, and no new one is.
    pub async fn serve(&self, network: NetworkId, addresses: Vec<IpAddr>) -> Result<(), DnsError> {
        let _guard = self.inner.serve_lock.lock().await;
        let stopping = mem::take(&mut self.state().stopping);
        for task in stopping {
            // The result is ignored: the socket is closed even if the task panicked.
            let _ = task.await;
        }
        self.replace(network, addresses.into_iter().collect())
    }

    fn replace(&self, id: NetworkId, addresses: BTreeSet<IpAddr>) -> Result<(), DnsError> {
        let mut state = self.state();
        let current = state.networks.get(&id);
        let network = match current {
            Some(served) => served.network.clone(),
            None => Arc::new(Network::new(id, self.inner.shared.clone(), &self.inner.limits)),
        };
        let is_served = |address: &IpAddr| {
            current.and_then(|served| served.listeners.get(address)).is_some_and(|listener| !listener.has_ended())
        };
        let mut opened = BTreeMap::new();
        for address in addresses.iter().filter(|address| !is_served(address)) {
            let listener = Listener::open(SocketAddr::new(*address, self.inner.port), network.clone())?;
            opened.insert(*address, listener);
        }

        let mut listeners = state.networks.remove(&id).map(|served| served.listeners).unwrap_or_default();
        for address in opened.keys() {
            // Removes the earlier listener of the address, which has ended.
            listeners.remove(address);
        }
        let (kept, unwanted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            listeners.into_iter().partition(|(address, _)| addresses.contains(address));
        opened.extend(kept);
        if !opened.is_empty() {
            state.networks.insert(id, ServedNetwork { network, listeners: opened });
        }
        self.close(&mut state, unwanted);
        Ok(())
    }

    /// Stops serving the network: closes its sockets and TCP connections and cancels its forwarded
    /// queries.
    pub fn stop(&self, network: NetworkId) {
        let mut state = self.state();
        if let Some(served) = state.networks.remove(&network) {
            self.close(&mut state, served.listeners);
        }
    }

    /// Returns the addresses served for the network, in ascending order. The list is empty if the
    /// network is not served.
    pub fn serving(&self, network: NetworkId) -> Vec<IpAddr> {
        self.state().networks.get(&network).map(|served| served.listeners.keys().copied().collect()).unwrap_or_default()
    }

    /// Makes it time to check the resolvers that did not answer.
    #[cfg(test)]
    pub(crate) fn age_resolvers(&self) {
        self.inner.shared.upstream.age();
    }

    /// Stops listeners and updates the set of served addresses.
    fn close(&self, state: &mut State, listeners: BTreeMap<IpAddr, Listener>) {
        state.stopping.retain(|task| !task.is_finished());
        state.stopping.extend(listeners.into_values().flat_map(Listener::close));
        let addresses = state.networks.values().flat_map(|served| served.listeners.keys().copied()).collect();
        *self.inner.shared.own_addresses() = addresses;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.inner.shared.own_addresses().iter()).finish()
    }
}

impl Shared {
    fn own_addresses(&self) -> MutexGuard<'_, BTreeSet<IpAddr>> {
        self.own_addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
