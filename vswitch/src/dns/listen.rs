//! The sockets of one address, and the tasks that answer on them.

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

/// More than a datagram can carry.
const DATAGRAM: usize = 1 << 16;
/// Queries by UDP that are being answered at once, after which the others wait in the socket. Well more than can wait for
/// the host's resolvers, so that those never take it up: our own names are answered at once.
const UNDER_WAY: usize = 2048;
/// Queries of one TCP connection that are being answered at once, before the next is read.
const PIPELINE: usize = 32;
/// TCP connections that wait to be accepted.
const BACKLOG: u32 = 128;
/// How long to wait when the kernel has no room for one more socket: nothing tells when it has.
const NO_ROOM: Duration = Duration::from_millis(100);

/// A network as its server sees it.
pub(super) struct Network {
    id: NetworkId,
    shared: Arc<Shared>,
    rotation: Rotation,
    connections: Arc<Quota<IpAddr>>,
    idle: Duration,
}

impl Network {
    /// Nothing rotated, nobody connected.
    pub(super) fn new(id: NetworkId, shared: Arc<Shared>, limits: &Limits) -> Self {
        let (each, all) = limits.connections;
        Self { id, shared, rotation: Rotation::default(), connections: Quota::new(each, all), idle: limits.idle }
    }

    /// The answer to what a client sent, if it gets one.
    async fn answer(&self, asked: &[u8], transport: Transport, client: IpAddr) -> Option<Vec<u8>> {
        let shared = &*self.shared;
        let query = match decide(asked, transport, &*shared.names, self.id, client, &self.rotation) {
            Decision::Silence => return None,
            Decision::Answer(answer) => return Some(answer),
            Decision::Forward(query) => query,
        };
        let forwarded = match shared.forwards.take((self.id, client)) {
            Some(_share) => shared.upstream.ask(&query, |address| shared.own().contains(&address)).await,
            None => None,
        };
        Some(forwarded.unwrap_or_else(|| {
            let mut failure = query.response(ResponseCode::ServFail);
            failure.metadata.recursion_available = true;
            query.encode(failure)
        }))
    }
}

/// One address that is served. It ends when dropped or closed.
#[derive(Debug)]
pub(super) struct Listener {
    udp: JoinHandle<()>,
    tcp: JoinHandle<()>,
    /// Both tasks end when this is dropped.
    _running: watch::Sender<()>,
}

impl Listener {
    /// Binds both sockets, and starts to answer.
    pub(super) fn open(address: SocketAddr, network: Arc<Network>) -> Result<Self, DnsError> {
        let udp = bind_udp(address).map_err(|error| DnsError::new(address, Transport::Udp, error))?;
        let tcp = bind_tcp(address).map_err(|error| DnsError::new(address, Transport::Tcp, error))?;
        let (running, stop) = watch::channel(());
        let udp = tokio::spawn(answer_datagrams(udp, network.clone(), stop.clone()));
        let tcp = tokio::spawn(accept(tcp, network, stop));
        Ok(Self { udp, tcp, _running: running })
    }

    /// Ends it. The sockets are closed when these tasks are done.
    pub(super) fn close(self) -> [JoinHandle<()>; 2] {
        [self.udp, self.tcp]
    }

    /// Whether one of its tasks does no longer answer.
    pub(super) fn has_ended(&self) -> bool {
        self.udp.is_finished() || self.tcp.is_finished()
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    // Without SO_REUSEADDR, with which another process could take the port, and the queries, from us.
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of a daemon that ended linger for a minute (TIME-WAIT), and must not keep the next one from starting.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn answer_datagrams(socket: UdpSocket, network: Arc<Network>, mut stop: watch::Receiver<()>) {
    let socket = Arc::new(socket);
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer), if tasks.len() < UNDER_WAY => received,
            Some(_) = tasks.join_next() => continue,
            _ = stop.changed() => break,
        };
        match received {
            Ok((length, client)) => {
                let (socket, network, asked) = (socket.clone(), network.clone(), buffer[..length].to_vec());
                tasks.spawn(async move {
                    let Some(answer) = network.answer(&asked, Transport::Udp, client.ip()).await else {
                        return;
                    };
                    // Nobody waits for room in the socket, which those could fill who do not answer ARP: it is UDP, and
                    // the client asks again.
                    if let Err(error) = socket.try_send_to(&answer, client) {
                        tracing::debug!("no DNS answer to {client}: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::debug!("DNS queries: {error}");
                sleep(NO_ROOM).await;
            }
        }
    }
    // With the tasks goes the last hold on the socket.
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
            // One too many is closed at once.
            Ok((stream, client)) => {
                if let Some(share) = network.connections.take(client.ip()) {
                    let network = network.clone();
                    tasks.spawn(async move {
                        answer_stream(stream, client.ip(), network).await;
                        drop(share);
                    });
                }
            }
            Err(error) => {
                tracing::debug!("DNS queries by TCP: {error}");
                sleep(NO_ROOM).await;
            }
        }
    }
    tasks.shutdown().await;
}

/// Answers the queries of a connection as answers come, in any order (RFC 7766 section 7).
async fn answer_stream(stream: TcpStream, client: IpAddr, network: Arc<Network>) {
    let (mut reader, writer) = stream.into_split();
    let (answers, written) = mpsc::channel(PIPELINE);
    let mut write = Box::pin(write_answers(writer, written, network.idle));
    let read = async {
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= PIPELINE {
                tasks.join_next().await;
            }
            let Ok(Ok(asked)) = timeout(network.idle, read_message(&mut reader)).await else {
                break;
            };
            let (answers, network) = (answers.clone(), network.clone());
            tasks.spawn(async move {
                if let Some(answer) = network.answer(&asked, Transport::Tcp, client).await {
                    // If nobody takes it, the connection is broken.
                    let _ = answers.send(answer).await;
                }
            });
        }
        // A client that sends no more may still wait for answers.
        while tasks.join_next().await.is_some() {}
    };
    tokio::select! {
        () = &mut write => return,
        () = read => {}
    }
    drop(answers);
    write.await;
}

async fn write_answers(mut writer: OwnedWriteHalf, mut answers: mpsc::Receiver<Vec<u8>>, patience: Duration) {
    while let Some(answer) = answers.recv().await {
        let Ok(framed) = framed(&answer) else {
            continue;
        };
        if !matches!(timeout(patience, writer.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads one message of a connection (RFC 1035 section 4.2.2).
pub(super) async fn read_message(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = reader.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    reader.read_exact(&mut message).await?;
    Ok(message)
}

/// A message as it is written to a connection: length and message at once, which some clients want in one segment.
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok([&length.to_be_bytes(), message].concat())
}
