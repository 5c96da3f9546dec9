//! Forwards queries to the host's resolvers.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};

use super::Limits;
use super::error::Transport;
use super::health::Health;
use super::listen::{read_message, with_length};
use super::message::{Query, is_failure, is_truncated};
use super::resolvers::{ResolverFiles, Resolvers};

/// Maximum number of attempts per resolver. Only a resolver that did not answer is asked again.
const MAX_ATTEMPTS: usize = 2;
/// Size of the receive buffer in bytes, larger than the largest UDP payload.
const DATAGRAM_BUFFER: usize = 1 << 16;

/// The host's resolvers.
#[derive(Debug)]
pub(super) struct Upstream {
    resolvers: Resolvers,
    asker: Asker,
    total_timeout: Duration,
}

/// Asks one resolver.
#[derive(Clone, Debug)]
struct Asker {
    attempt_timeout: Duration,
    patience: Duration,
    health: Arc<Health>,
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
    /// Creates a forwarder to the resolvers of `files`, which are asked at `port`.
    pub(super) fn new(files: ResolverFiles, port: u16, limits: &Limits) -> Self {
        let Limits { attempt_timeout, patience, forward_timeout: total_timeout, .. } = *limits;
        let asker = Asker { attempt_timeout, patience, health: Arc::default() };
        Self { resolvers: Resolvers::new(files, port), asker, total_timeout }
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

    /// Makes it time to check the resolvers that did not answer.
    #[cfg(test)]
    pub(super) fn age(&self) {
        self.asker.health.age();
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

    /// Asks the resolvers in sequence, and those that did not answer once more. A resolver is asked
    /// when the one before it has not answered for some time, without giving that one up: the first
    /// answer counts. A resolver that another one overtook is asked after all others from then on,
    /// and so is one that does not answer: it delays one query and not each of them.
    async fn ask_all(&self, resolvers: &[SocketAddr], query: &Query, failure: &mut Option<Vec<u8>>) -> Resolution {
        let Asker { patience, health, .. } = &self.asker;
        let transport = query.transport();
        for resolver in health.to_check(resolvers, transport) {
            let (asker, query) = (self.asker.clone(), query.clone());
            tokio::spawn(async move { asker.check(resolver, &query).await });
        }
        let mut waiting: VecDeque<SocketAddr> = health.in_order(resolvers, transport).into();
        let mut unreachable = true;
        for _ in 0..MAX_ATTEMPTS {
            let (mut asked, mut silent) = (FuturesUnordered::new(), VecDeque::new());
            // The resolvers that are being asked, in the order in which they were asked.
            let mut pending: Vec<SocketAddr> = Vec::new();
            let mut next_at = Instant::now();
            loop {
                if Instant::now() >= next_at
                    && let Some(resolver) = waiting.pop_front()
                {
                    pending.push(resolver);
                    asked.push(async move { (resolver, self.asker.ask(resolver, query).await) });
                    next_at = Instant::now() + *patience;
                }
                let (resolver, outcome) = tokio::select! {
                    Some(outcome) = asked.next() => outcome,
                    () = sleep_until(next_at), if !waiting.is_empty() => continue,
                    else => break,
                };
                match outcome {
                    Outcome::Answer(answer) => {
                        let overtaken = pending.iter().take_while(|other| **other != resolver);
                        overtaken.for_each(|other| health.record(*other, transport, false));
                        return Resolution::Answer(answer);
                    }
                    Outcome::Failure(answer) => {
                        failure.get_or_insert(answer);
                        unreachable = false;
                    }
                    Outcome::Timeout => {
                        silent.push_back(resolver);
                        unreachable = false;
                    }
                    Outcome::Unreachable => {}
                }
                pending.retain(|other| *other != resolver);
                next_at = Instant::now();
            }
            if failure.is_some() {
                break;
            }
            waiting = silent;
        }
        if unreachable { Resolution::Unreachable } else { Resolution::Failed }
    }
}

impl Asker {
    /// Asks a resolver that did not answer earlier. The client gets the answer of another one and
    /// does not wait for this one.
    async fn check(&self, resolver: SocketAddr, query: &Query) {
        let answered = match query.transport() {
            Transport::Udp => timeout(self.patience, query_udp(resolver, query)).await,
            Transport::Tcp => timeout(self.patience, query_tcp(resolver, query)).await,
        };
        if matches!(answered, Ok(Ok(_))) {
            self.health.record(resolver, query.transport(), true);
        }
    }

    async fn ask(&self, resolver: SocketAddr, query: &Query) -> Outcome {
        let transport = query.transport();
        let received = match transport {
            Transport::Udp => timeout(self.attempt_timeout, query_udp(resolver, query)).await,
            Transport::Tcp => timeout(self.attempt_timeout, query_tcp(resolver, query)).await,
        };
        let answer = match received {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!("cannot reach the resolver {resolver}: {error}");
                self.health.record(resolver, transport, false);
                return Outcome::Unreachable;
            }
            Err(_) => {
                tracing::debug!("the resolver {resolver} does not answer");
                self.health.record(resolver, transport, false);
                return Outcome::Timeout;
            }
        };
        self.health.record(resolver, transport, true);
        if is_failure(&answer) {
            return Outcome::Failure(answer);
        }
        if transport == Transport::Tcp || (query.fits(&answer) && !is_truncated(&answer)) {
            return Outcome::Answer(answer);
        }
        // The answer over UDP is incomplete. The complete answer may still fit into the client's
        // limit, because the resolver may have used a smaller limit of its own. If it does not fit,
        // the client gets the incomplete answer: old clients (musl before 1.2.4) do not repeat the
        // query over TCP and use the part.
        // A resolver that did not answer over TCP earlier is not asked over TCP again for some time.
        let mut complete = None;
        if !self.health.is_silent(resolver, Transport::Tcp) {
            let received = timeout(self.attempt_timeout, query_tcp(resolver, query)).await;
            self.health.record(resolver, Transport::Tcp, matches!(received, Ok(Ok(_))));
            complete = received.ok().and_then(Result::ok).filter(|complete| query.fits(complete));
        }
        Outcome::Answer(complete.unwrap_or_else(|| if query.fits(&answer) { answer } else { query.truncate(&answer) }))
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
