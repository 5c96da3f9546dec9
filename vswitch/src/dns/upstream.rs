//! Asks the host's resolvers what is not known here.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::error::Transport;
use super::listen::{framed, read_message};
use super::message::{Query, is_failure, is_truncated};
use super::resolvers::{ResolverFiles, Resolvers};

/// How often all resolvers are asked, as long as there is time.
const ROUNDS: usize = 2;
/// How long a resolver that did not answer is asked after the others.
const SHUNNED: Duration = Duration::from_secs(30);
/// More than a datagram can carry.
const DATAGRAM: usize = 1 << 16;

/// The host's resolvers.
#[derive(Debug)]
pub(super) struct Upstream {
    resolvers: Resolvers,
    attempt: Duration,
    all: Duration,
    /// Those that did not answer, and when.
    silent: Mutex<HashMap<SocketAddr, Instant>>,
}

/// What came of asking one resolver.
#[derive(Debug)]
enum Outcome {
    /// It answers. The answer is adopted already.
    Answer(Vec<u8>),
    /// It says that it cannot.
    Failure(Vec<u8>),
    /// Nothing came in time.
    Silence,
    /// There is nobody, as the kernel says at once.
    Unreachable,
}

/// What came of asking all of them. Failures are kept apart, for there may be no time left to report them.
#[derive(Debug)]
enum Asked {
    /// One answers.
    Answer(Vec<u8>),
    /// One at least is there, but says that it cannot, or says nothing in time.
    Nothing,
    /// There is nobody at any of these addresses.
    Nobody,
}

impl Upstream {
    /// Asks those of `files` at `port`: each for `attempt`, for `all` in all.
    pub(super) fn new(files: ResolverFiles, port: u16, attempt: Duration, all: Duration) -> Self {
        Self { resolvers: Resolvers::new(files, port), attempt, all, silent: Mutex::default() }
    }

    /// The answer of the first resolver that has one, as the client gets it; `None` if nobody answers. Those that are `own`
    /// are left out: we would ask ourselves.
    pub(super) async fn ask(&self, query: &Query, own: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
        let mut failure = None;
        match timeout(self.all, self.ask_host(query, own, &mut failure)).await {
            Ok(Some(answer)) => Some(answer),
            Ok(None) | Err(_) => failure,
        }
    }

    async fn ask_host(
        &self,
        query: &Query,
        own: impl Fn(IpAddr) -> bool,
        failure: &mut Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let without_own = |resolvers: Arc<[SocketAddr]>| {
            resolvers.iter().copied().filter(|resolver| !own(resolver.ip())).collect::<Vec<_>>()
        };
        let mut resolvers = without_own(self.resolvers.of_host());
        let mut asked = self.ask_all(&resolvers, query, failure).await;
        let stub = !resolvers.is_empty() && resolvers.iter().all(|resolver| resolver.ip().is_loopback());
        if stub && matches!(asked, Asked::Nobody) {
            resolvers = without_own(self.resolvers.behind_stub());
            asked = self.ask_all(&resolvers, query, failure).await;
        }
        match asked {
            Asked::Answer(answer) => Some(answer),
            Asked::Nothing | Asked::Nobody => None,
        }
    }

    /// Asks each in turn, and those that were silent once more.
    async fn ask_all(&self, resolvers: &[SocketAddr], query: &Query, failure: &mut Option<Vec<u8>>) -> Asked {
        let mut waiting = self.likely_first(resolvers);
        let mut nobody = true;
        for _ in 0..ROUNDS {
            let mut silent = Vec::new();
            for resolver in waiting {
                match self.ask_one(resolver, query).await {
                    Outcome::Answer(answer) => return Asked::Answer(answer),
                    Outcome::Failure(answer) => {
                        failure.get_or_insert(answer);
                    }
                    Outcome::Silence => silent.push(resolver),
                    Outcome::Unreachable => continue,
                }
                nobody = false;
            }
            if failure.is_some() {
                break;
            }
            waiting = silent;
        }
        if nobody { Asked::Nobody } else { Asked::Nothing }
    }

    async fn ask_one(&self, resolver: SocketAddr, query: &Query) -> Outcome {
        let asked = match query.transport() {
            Transport::Udp => timeout(self.attempt, by_udp(resolver, query)).await,
            Transport::Tcp => timeout(self.attempt, by_tcp(resolver, query)).await,
        };
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!("the resolver {resolver} is not reached: {error}");
                self.note(resolver, query.transport(), false);
                return Outcome::Unreachable;
            }
            Err(_) => {
                tracing::debug!("the resolver {resolver} does not answer");
                self.note(resolver, query.transport(), false);
                return Outcome::Silence;
            }
        };
        self.note(resolver, query.transport(), true);
        if is_failure(&answer) {
            return Outcome::Failure(answer);
        }
        if query.transport() == Transport::Tcp || (query.fits(&answer) && !is_truncated(&answer)) {
            return Outcome::Answer(answer);
        }
        // There is more, which may fit all the same: the resolver may have kept to a limit of its own. If not, the client gets
        // what came first, for old ones (musl before 1.2.4) do not come by TCP, and make do with a part.
        let whole = match timeout(self.attempt, by_tcp(resolver, query)).await {
            Ok(Ok(whole)) if query.fits(&whole) => Some(whole),
            _ => None,
        };
        Outcome::Answer(whole.unwrap_or_else(|| if query.fits(&answer) { answer } else { query.cut(&answer) }))
    }

    /// In their order, but those last that were silent lately.
    fn likely_first(&self, resolvers: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|_, since| since.elapsed() < SHUNNED);
        let (last, mut first): (Vec<_>, Vec<_>) = resolvers.iter().partition(|resolver| silent.contains_key(resolver));
        first.extend(last);
        first
    }

    fn note(&self, resolver: SocketAddr, transport: Transport, answers: bool) {
        // Some do not answer by TCP at all, and are as good as any by UDP.
        if transport == Transport::Tcp {
            return;
        }
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if answers {
            silent.remove(&resolver);
        } else {
            silent.insert(resolver, Instant::now());
        }
    }
}

/// Asks from a port that the kernel picks at random, under a random id, and waits for the answer to just that: whoever wants
/// to answer in the resolver's place has to guess both (RFC 5452).
async fn by_udp(resolver: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Nobody else's datagrams are received, and it is told when there is nobody.
    socket.connect(resolver).await?;
    let id = rand::random();
    socket.send(&query.with_id(id)).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if query.is_answered_by(&buffer[..length], id) {
            return Ok(query.adopt(buffer[..length].to_vec()));
        }
    }
}

async fn by_tcp(resolver: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let (mut reader, mut writer) = TcpStream::connect(resolver).await?.into_split();
    let id = rand::random();
    writer.write_all(&framed(&query.with_id(id))?).await?;
    loop {
        let answer = read_message(&mut reader).await?;
        if query.is_answered_by(&answer, id) {
            return Ok(query.adopt(answer));
        }
    }
}
