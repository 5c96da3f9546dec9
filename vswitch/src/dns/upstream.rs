//! Forwards queries to the host's resolvers.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::error::Transport;
use super::listen::{read_message, with_length};
use super::message::{Query, is_failure, is_truncated};
use super::resolvers::{ResolverFiles, Resolvers};

/// Maximum number of attempts per resolver. Only a resolver that did not answer is asked again.
const MAX_ATTEMPTS: usize = 2;
/// Time during which a resolver that did not answer is asked after all others.
const DEPRIORITIZED: Duration = Duration::from_secs(30);
/// Size of the receive buffer in bytes, larger than the largest UDP payload.
const DATAGRAM_BUFFER: usize = 1 << 16;

/// The host's resolvers.
#[derive(Debug)]
pub(super) struct Upstream {
    resolvers: Resolvers,
    attempt_timeout: Duration,
    total_timeout: Duration,
    /// Resolvers that did not answer, with the time of the last attempt.
    unresponsive: Mutex<HashMap<SocketAddr, Instant>>,
}

/// Result of a query to one resolver.
#[derive(Debug)]
enum Outcome {
    /// An answer, already adopted ([`Query::adopt`]).
    Answer(Vec<u8>),
    /// An answer with a failure code ([`is_failure`]).
    Failure(Vec<u8>),
    /// No answer within the time limit.
    Timeout,
    /// A socket error, for example because no server listens at the address.
    Unreachable,
}

/// Result of a query to several resolvers. A failure answer is returned separately, so that it is
/// also available when the total time limit cancels the attempt.
#[derive(Debug)]
enum Resolution {
    /// The answer of one resolver.
    Answer(Vec<u8>),
    /// At least one resolver exists, but it answered with a failure or not in time.
    Failed,
    /// None of the addresses is reachable.
    Unreachable,
}

impl Upstream {
    /// Creates a forwarder to the resolvers of `files` at `port`. Each attempt may take `attempt`,
    /// a query in total `all`.
    pub(super) fn new(files: ResolverFiles, port: u16, attempt_timeout: Duration, total_timeout: Duration) -> Self {
        Self { resolvers: Resolvers::new(files, port), attempt_timeout, total_timeout, unresponsive: Mutex::default() }
    }

    /// Returns the first answer of a resolver, in the form in which the client gets it, or else the
    /// first failure answer. Returns `None` if no resolver answers. Addresses for which `is_own` is
    /// true are skipped, because the query would come back to this server.
    pub(super) async fn ask(&self, query: &Query, is_own: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
        let mut failure = None;
        match timeout(self.total_timeout, self.ask_host(query, is_own, &mut failure)).await {
            Ok(Some(answer)) => Some(answer),
            Ok(None) | Err(_) => failure,
        }
    }

    async fn ask_host(
        &self,
        query: &Query,
        is_own: impl Fn(IpAddr) -> bool,
        failure: &mut Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let without_own = |resolvers: Arc<[SocketAddr]>| {
            resolvers.iter().copied().filter(|resolver| !is_own(resolver.ip())).collect::<Vec<_>>()
        };
        let mut resolvers = without_own(self.resolvers.host_resolvers());
        let mut resolution = self.ask_all(&resolvers, query, failure).await;
        let is_stub = !resolvers.is_empty() && resolvers.iter().all(|resolver| resolver.ip().is_loopback());
        if is_stub && matches!(resolution, Resolution::Unreachable) {
            resolvers = without_own(self.resolvers.stub_upstreams());
            resolution = self.ask_all(&resolvers, query, failure).await;
        }
        match resolution {
            Resolution::Answer(answer) => Some(answer),
            Resolution::Failed | Resolution::Unreachable => None,
        }
    }

    /// Asks the resolvers in sequence, and those that did not answer once more.
    async fn ask_all(&self, resolvers: &[SocketAddr], query: &Query, failure: &mut Option<Vec<u8>>) -> Resolution {
        let mut waiting = self.responsive_first(resolvers);
        let mut unreachable = true;
        for _ in 0..MAX_ATTEMPTS {
            let mut silent = Vec::new();
            for resolver in waiting {
                match self.ask_one(resolver, query).await {
                    Outcome::Answer(answer) => return Resolution::Answer(answer),
                    Outcome::Failure(answer) => {
                        failure.get_or_insert(answer);
                    }
                    Outcome::Timeout => silent.push(resolver),
                    Outcome::Unreachable => continue,
                }
                unreachable = false;
            }
            if failure.is_some() {
                break;
            }
            waiting = silent;
        }
        if unreachable { Resolution::Unreachable } else { Resolution::Failed }
    }

    async fn ask_one(&self, resolver: SocketAddr, query: &Query) -> Outcome {
        let received = match query.transport() {
            Transport::Udp => timeout(self.attempt_timeout, query_udp(resolver, query)).await,
            Transport::Tcp => timeout(self.attempt_timeout, query_tcp(resolver, query)).await,
        };
        let answer = match received {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!("cannot reach the resolver {resolver}: {error}");
                self.record_result(resolver, query.transport(), false);
                return Outcome::Unreachable;
            }
            Err(_) => {
                tracing::debug!("the resolver {resolver} does not answer");
                self.record_result(resolver, query.transport(), false);
                return Outcome::Timeout;
            }
        };
        self.record_result(resolver, query.transport(), true);
        if is_failure(&answer) {
            return Outcome::Failure(answer);
        }
        if query.transport() == Transport::Tcp || (query.fits(&answer) && !is_truncated(&answer)) {
            return Outcome::Answer(answer);
        }
        // The answer over UDP is incomplete. The complete answer may still fit into the client's
        // limit, because the resolver may have used a smaller limit of its own. If it does not fit,
        // the client gets the incomplete answer: old clients (musl before 1.2.4) do not repeat the
        // query over TCP and use the part.
        let complete = match timeout(self.attempt_timeout, query_tcp(resolver, query)).await {
            Ok(Ok(complete)) if query.fits(&complete) => Some(complete),
            _ => None,
        };
        Outcome::Answer(complete.unwrap_or_else(|| if query.fits(&answer) { answer } else { query.truncate(&answer) }))
    }

    /// Returns the resolvers in their order, with those that recently did not answer at the end.
    fn responsive_first(&self, resolvers: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut unresponsive = self.unresponsive.lock().unwrap_or_else(PoisonError::into_inner);
        unresponsive.retain(|_, since| since.elapsed() < DEPRIORITIZED);
        let (last, mut first): (Vec<_>, Vec<_>) =
            resolvers.iter().partition(|resolver| unresponsive.contains_key(resolver));
        first.extend(last);
        first
    }

    fn record_result(&self, resolver: SocketAddr, transport: Transport, answered: bool) {
        // Some resolvers never answer over TCP but work over UDP.
        if transport == Transport::Tcp {
            return;
        }
        let mut unresponsive = self.unresponsive.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            unresponsive.remove(&resolver);
        } else {
            unresponsive.insert(resolver, Instant::now());
        }
    }
}

/// Sends the query over UDP and waits for the matching answer. The kernel picks a random source
/// port, and the id is random: a spoofed answer has to match both (RFC 5452).
async fn query_udp(resolver: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // A connected socket receives datagrams of the resolver only, and reports when its port is
    // closed.
    socket.connect(resolver).await?;
    let id = rand::random();
    socket.send(&query.with_id(id)).await?;
    let mut buffer = vec![0; DATAGRAM_BUFFER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if query.is_answered_by(&buffer[..length], id) {
            return Ok(query.adopt(buffer[..length].to_vec()));
        }
    }
}

async fn query_tcp(resolver: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let (mut reader, mut writer) = TcpStream::connect(resolver).await?.into_split();
    let id = rand::random();
    writer.write_all(&with_length(&query.with_id(id))?).await?;
    loop {
        let answer = read_message(&mut reader).await?;
        if query.is_answered_by(&answer, id) {
            return Ok(query.adopt(answer));
        }
    }
}
