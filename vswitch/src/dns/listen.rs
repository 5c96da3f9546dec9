//! Sockets of one server address, and the tasks that answer queries on them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::answer::{Decision, decide};
use super::error::{DnsError, Transport};
use super::quota::Quota;
use super::rotation::Rotation;
use super::{Limits, Shared};
use crate::model::NetworkId;

/// Size of the receive buffer in bytes, larger than the largest UDP payload.
const DATAGRAM_BUFFER: usize = 1 << 16;
/// Maximum number of UDP queries answered concurrently; further queries wait in the socket. The
/// number is well above the limit of forwarded queries ([`Limits`]), so that forwarded queries
/// never block queries for endpoint names, which are answered without waiting.
const MAX_CONCURRENT: usize = 2048;
/// Maximum number of queries of one TCP connection answered concurrently. The next query is read
/// after that.
const MAX_PIPELINED: usize = 32;
/// Backlog of TCP connections that wait to be accepted.
const BACKLOG: u32 = 128;
/// Delay after a socket error, for example when no file descriptor is left. No event reports that
/// one is free again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// State that the sockets of one network share.
pub(super) struct Network {
    id: NetworkId,
    shared: Arc<Shared>,
    rotation: Rotation,
    connections: Arc<Quota<IpAddr>>,
    idle_timeout: Duration,
}

impl Network {
    /// Creates the state without connections and with an empty rotation.
    pub(super) fn new(id: NetworkId, shared: Arc<Shared>, limits: &Limits) -> Self {
        let (per_client, total) = limits.connections;
        Self {
            id,
            shared,
            rotation: Rotation::default(),
            connections: Quota::new(per_client, total),
            idle_timeout: limits.idle_timeout,
        }
    }

    /// Returns the answer to the message `query_bytes`, or `None` if the client gets none.
    async fn answer(&self, query_bytes: &[u8], transport: Transport, client: IpAddr) -> Option<Vec<u8>> {
        let shared = &*self.shared;
        let query = match decide(query_bytes, transport, &*shared.names, self.id, client, &self.rotation) {
            Decision::Ignore => return None,
            Decision::Answer(answer) => return Some(answer),
            Decision::Forward(query) => query,
        };
        let forwarded = match shared.forwards.acquire((self.id, client)) {
            Some(_share) => shared.upstream.ask(&query, |address| shared.own_addresses().contains(&address)).await,
            None => None,
        };
        Some(forwarded.unwrap_or_else(|| {
            let mut failure = query.response(ResponseCode::ServFail);
            failure.metadata.recursion_available = true;
            query.encode(failure)
        }))
    }
}

/// One server address with its UDP and TCP socket. Both tasks stop when it is dropped or closed.
#[derive(Debug)]
pub(super) struct Listener {
    udp: JoinHandle<()>,
    tcp: JoinHandle<()>,
    /// Sender whose drop stops both tasks.
    _running: watch::Sender<()>,
}

impl Listener {
    /// Binds both sockets and starts the tasks that answer.
    ///
    /// # Errors
    /// One of the sockets cannot be opened at this address.
    pub(super) fn open(address: SocketAddr, network: Arc<Network>) -> Result<Self, DnsError> {
        let udp = bind_udp(address).map_err(|error| DnsError::new(address, Transport::Udp, error))?;
        let tcp = bind_tcp(address).map_err(|error| DnsError::new(address, Transport::Tcp, error))?;
        let (running, stop) = watch::channel(());
        let udp = tokio::spawn(answer_datagrams(udp, network.clone(), stop.clone()));
        let tcp = tokio::spawn(accept(tcp, network, stop));
        Ok(Self { udp, tcp, _running: running })
    }

    /// Stops the listener. The sockets are closed when the returned tasks have finished.
    pub(super) fn close(self) -> [JoinHandle<()>; 2] {
        [self.udp, self.tcp]
    }

    /// Reports whether one of the two tasks has finished.
    pub(super) fn has_ended(&self) -> bool {
        self.udp.is_finished() || self.tcp.is_finished()
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    // SO_REUSEADDR is not set: with it, another process could bind the port and receive the
    // queries.
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of an earlier daemon stay in TIME-WAIT for a minute. Without SO_REUSEADDR they
    // would block this bind.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn answer_datagrams(socket: UdpSocket, network: Arc<Network>, mut stop: watch::Receiver<()>) {
    let socket = Arc::new(socket);
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BUFFER];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer), if tasks.len() < MAX_CONCURRENT => received,
            Some(_) = tasks.join_next() => continue,
            _ = stop.changed() => break,
        };
        match received {
            Ok((length, client)) => {
                let (socket, network, query) = (socket.clone(), network.clone(), buffer[..length].to_vec());
                tasks.spawn(async move {
                    let Some(answer) = network.answer(&query, Transport::Udp, client.ip()).await else {
                        return;
                    };
                    // The task does not wait for room in the send buffer, because clients that do
                    // not answer ARP can fill it. A UDP client repeats its query.
                    if let Err(error) = socket.try_send_to(&answer, client) {
                        tracing::debug!("cannot send a DNS answer to {client}: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::debug!("cannot receive a DNS query: {error}");
                sleep(RETRY_DELAY).await;
            }
        }
    }
    // The tasks hold the last references to the socket.
    tasks.shutdown().await;
}

async fn accept(listener: TcpListener, network: Arc<Network>, mut stop: watch::Receiver<()>) {
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            _ = stop.changed() => break,
        };
        match accepted {
            // A connection above the quota is closed at once.
            Ok((stream, client)) => {
                if let Some(share) = network.connections.acquire(client.ip()) {
                    let network = network.clone();
                    tasks.spawn(async move {
                        answer_stream(stream, client.ip(), network).await;
                        drop(share);
                    });
                }
            }
            Err(error) => {
                tracing::debug!("cannot accept a DNS connection: {error}");
                sleep(RETRY_DELAY).await;
            }
        }
    }
    tasks.shutdown().await;
}

/// Answers the queries of a connection in the order in which the answers become available (RFC 7766
/// section 7).
async fn answer_stream(stream: TcpStream, client: IpAddr, network: Arc<Network>) {
    let (mut reader, writer) = stream.into_split();
    let (answers, written) = mpsc::channel(MAX_PIPELINED);
    let mut write = Box::pin(write_answers(writer, written, network.idle_timeout));
    let read = async {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= MAX_PIPELINED {
                tasks.join_next().await;
            }
            let Ok(Ok(query)) = timeout(network.idle_timeout, read_message(&mut reader)).await else {
                break;
            };
            let (answers, network) = (answers.clone(), network.clone());
            tasks.spawn(async move {
                if let Some(answer) = network.answer(&query, Transport::Tcp, client).await {
                    // Sending fails only after the writer has stopped, because the connection is
                    // broken.
                    let _ = answers.send(answer).await;
                }
            });
        }
        // A client that has closed its sending side may still wait for answers.
        while tasks.join_next().await.is_some() {}
    };
    tokio::select! {
        () = &mut write => return,
        () = read => {}
    }
    drop(answers);
    write.await;
}

async fn write_answers(mut writer: OwnedWriteHalf, mut answers: mpsc::Receiver<Vec<u8>>, write_timeout: Duration) {
    while let Some(answer) = answers.recv().await {
        let Ok(framed) = with_length(&answer) else {
            continue;
        };
        if !matches!(timeout(write_timeout, writer.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads one length-prefixed message from a TCP connection (RFC 1035 section 4.2.2).
pub(super) async fn read_message(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = reader.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    reader.read_exact(&mut message).await?;
    Ok(message)
}

/// Returns the message with its length in front, as sent on TCP. Both parts are in one buffer
/// because some clients require them in one segment.
pub(super) fn with_length(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok([&length.to_be_bytes(), message].concat())
}
