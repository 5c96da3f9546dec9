//! A DNS server for each network, on the network's gateway addresses: the names of its endpoints are answered here, all
//! others by the host's resolvers.
//!
//! A query goes `listen` (sockets) -> `answer` (what is said, decided without I/O) -> `upstream` (the host's resolvers, if
//! it is not ours). Messages are read and written by `hickory-proto`. `hickory-server` is not used: it has no bound on TCP
//! connections, answers the queries of one connection one after the other, and re-encodes what it relays, while a relayed
//! answer is passed on here as it came, whatever is in it.

mod answer;
mod error;
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

/// What the switch knows of names. Implemented by the switch; must be quick and never block.
pub trait Names: Send + Sync + 'static {
    /// Addresses of `name` (lower case, without the final dot) as the client at `client` in `network` sees it; `None`: not
    /// one of ours, and somebody else may know it. IPv4 and IPv6 mixed, in any order that stays the same: the server rotates.
    fn addresses(&self, network: NetworkId, client: IpAddr, name: &str) -> Option<Vec<IpAddr>>;
    /// The name of an address of ours, without the final dot, as the client at `client` in `network` sees it.
    fn name_of(&self, network: NetworkId, client: IpAddr, address: IpAddr) -> Option<String>;
    /// Whether `address` lies in a subnet of ours: then nobody else is asked for its name.
    fn is_ours(&self, network: NetworkId, address: IpAddr) -> bool;
    /// Whether other names may be asked of the host's resolvers; false for `--internal` networks.
    fn forwards(&self, network: NetworkId) -> bool;
}

/// The port of DNS (RFC 1035 section 4.2).
const PORT: u16 = 53;

/// What one client, or all of them, may use, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// TCP connections of a network: of one client, and of all.
    connections: (usize, usize),
    /// Queries that wait for the host's resolvers, each with a socket of its own: of one client, and of all networks.
    forwards: (usize, usize),
    /// How long a TCP client may take to send a query, or to take an answer.
    idle: Duration,
    /// How long one resolver may take before the next is asked.
    attempt: Duration,
    /// How long all of them may take. A client's own patience is 5 s (glibc, musl): SERVFAIL has to come before that.
    forward: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: (16, 128),
            forwards: (64, 512),
            idle: Duration::from_secs(10),
            attempt: Duration::from_secs(2),
            forward: Duration::from_millis(4500),
        }
    }
}

/// The DNS servers of all networks. A clone is another handle to the same; with the last one, all stop.
#[derive(Clone)]
pub struct DnsServer {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    limits: Limits,
    port: u16,
    state: Mutex<State>,
    /// Held by the call of `serve` that is under way.
    turn: tokio::sync::Mutex<()>,
}

/// What the servers of all networks have in common.
struct Shared {
    names: Arc<dyn Names>,
    upstream: Upstream,
    forwards: Arc<Quota<(NetworkId, IpAddr)>>,
    /// Where we serve, for no query to be forwarded to ourselves.
    own: Mutex<BTreeSet<IpAddr>>,
}

#[derive(Default)]
struct State {
    networks: BTreeMap<NetworkId, Served>,
    /// Tasks that were told to end, and hold their sockets until they have.
    leaving: Vec<JoinHandle<()>>,
}

struct Served {
    network: Arc<Network>,
    listeners: BTreeMap<IpAddr, Listener>,
}

impl DnsServer {
    /// A server that serves no network yet.
    pub fn new(names: Arc<dyn Names>, resolvers: ResolverFiles) -> Self {
        Self::with_port(names, resolvers, PORT, Limits::default())
    }

    /// The same on another port than 53, where the host's resolvers are then asked, too.
    pub(crate) fn with_port(names: Arc<dyn Names>, resolvers: ResolverFiles, port: u16, limits: Limits) -> Self {
        let upstream = Upstream::new(resolvers, port, limits.attempt, limits.forward);
        let (each, all) = limits.forwards;
        let shared = Shared { names, upstream, forwards: Quota::new(each, all), own: Mutex::default() };
        let shared = Arc::new(shared);
        Self {
            inner: Arc::new(Inner {
                shared,
                limits,
                port,
                state: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Starts to answer on these addresses, port 53, UDP and TCP, for the network, in place of those served for it before.
    /// An address that was among those is served without a gap. To be called within a tokio runtime.
    ///
    /// # Errors
    /// An address cannot be served; then those served before still are, and none of the others.
    pub async fn serve(&self, network: NetworkId, addresses: Vec<IpAddr>) -> Result<(), DnsError> {
        let _turn = self.inner.turn.lock().await;
        let leaving = mem::take(&mut self.state().leaving);
        for task in leaving {
            // However it ended, its socket is closed.
            let _ = task.await;
        }
        self.replace(network, addresses.into_iter().collect())
    }

    fn replace(&self, id: NetworkId, addresses: BTreeSet<IpAddr>) -> Result<(), DnsError> {
        let mut state = self.state();
        let before = state.networks.get(&id);
        let network = match before {
            Some(served) => served.network.clone(),
            None => Arc::new(Network::new(id, self.inner.shared.clone(), &self.inner.limits)),
        };
        let serves = |address: &IpAddr| {
            before.and_then(|served| served.listeners.get(address)).is_some_and(|listener| !listener.has_ended())
        };
        let mut opened = BTreeMap::new();
        for address in addresses.iter().filter(|address| !serves(address)) {
            let listener = Listener::open(SocketAddr::new(*address, self.inner.port), network.clone())?;
            opened.insert(*address, listener);
        }

        let mut listeners = state.networks.remove(&id).map(|served| served.listeners).unwrap_or_default();
        for address in opened.keys() {
            // One that has ended, if any.
            listeners.remove(address);
        }
        let (kept, unwanted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            listeners.into_iter().partition(|(address, _)| addresses.contains(address));
        opened.extend(kept);
        if !opened.is_empty() {
            state.networks.insert(id, Served { network, listeners: opened });
        }
        self.close(&mut state, unwanted);
        Ok(())
    }

    /// Stops to answer for the network: its addresses, its TCP connections, and what waits for the host's resolvers.
    pub fn stop(&self, network: NetworkId) {
        let mut state = self.state();
        if let Some(served) = state.networks.remove(&network) {
            self.close(&mut state, served.listeners);
        }
    }

    /// The addresses served for the network, in order; none if it is not served.
    pub fn serving(&self, network: NetworkId) -> Vec<IpAddr> {
        self.state().networks.get(&network).map(|served| served.listeners.keys().copied().collect()).unwrap_or_default()
    }

    /// Ends listeners, and notes what is still served.
    fn close(&self, state: &mut State, listeners: BTreeMap<IpAddr, Listener>) {
        state.leaving.retain(|task| !task.is_finished());
        state.leaving.extend(listeners.into_values().flat_map(Listener::close));
        let own = state.networks.values().flat_map(|served| served.listeners.keys().copied()).collect();
        *self.inner.shared.own() = own;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.inner.shared.own().iter()).finish()
    }
}

impl Shared {
    fn own(&self) -> MutexGuard<'_, BTreeSet<IpAddr>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
