//! Tests of the DNS server on real sockets, with test clients and test resolvers.

mod forwarding;
mod names;
mod sockets;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use hickory_proto::op::{Message, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::mpsc;

use super::listen::with_length;
use super::{DnsServer, Limits, Names, ResolverFiles, Transport};
use crate::model::NetworkId;

/// Time after which a hanging test fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A client that is neither an endpoint nor the host.
pub(super) const FOREIGN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
pub(super) const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);
pub(super) const OTHER_NETWORK: NetworkId = NetworkId::from_bytes([2; 32]);

/// Returns limits that no test reaches by accident.
pub(super) fn long_timeouts() -> Limits {
    Limits {
        idle_timeout: TEST_TIMEOUT,
        attempt_timeout: TEST_TIMEOUT,
        forward_timeout: TEST_TIMEOUT,
        ..Limits::default()
    }
}

/// Returns a loopback address that no other test uses.
pub(super) fn address() -> IpAddr {
    static LAST: AtomicU16 = AtomicU16::new(1);
    let [high, low] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = std::process::id().to_be_bytes()[3];
    Ipv4Addr::new(127, 64 + process % 128, 100 + high, low).into()
}

/// Implementation of [`Names`] with a few fixed names.
#[derive(Debug)]
pub(super) struct FixedNames {
    pub(super) names: BTreeMap<&'static str, Vec<IpAddr>>,
    pub(super) forwards: AtomicBool,
}

impl Default for FixedNames {
    fn default() -> Self {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let many = (0..100).map(|last| Ipv4Addr::new(10, 9, 1, last).into());
        let names = BTreeMap::from([
            ("web", vec![ip("10.9.0.2"), ip("10.9.0.3"), ip("fd00::2"), ip("10.9.0.4")]),
            ("db.blue", vec![ip("10.9.0.5")]),
            ("six", vec![ip("fd00::6")]),
            ("many", many.collect()),
        ]);
        Self { names, forwards: AtomicBool::new(true) }
    }
}

impl Names for FixedNames {
    fn addresses(&self, network: NetworkId, _client: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
        self.names.get(name).filter(|_| network == NETWORK).cloned()
    }

    fn name_of(&self, _network: NetworkId, _client: IpAddr, address: IpAddr) -> Option<String> {
        let mut names = self.names.iter().filter(|(_, addresses)| addresses.contains(&address));
        names.next().map(|(name, _)| (*name).to_owned())
    }

    fn admits(&self, _network: NetworkId, client: IpAddr) -> bool {
        client != FOREIGN
    }

    fn is_ours(&self, _network: NetworkId, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets().starts_with(&[10, 9]),
            IpAddr::V6(address) => address.segments()[0] == 0xfd00,
        }
    }

    fn forwards(&self, _network: NetworkId) -> bool {
        self.forwards.load(Ordering::Relaxed)
    }
}

/// A query that a test resolver received.
#[derive(Clone, Debug)]
pub(super) struct ReceivedQuery {
    pub(super) bytes: Vec<u8>,
    pub(super) transport: Transport,
    pub(super) from: SocketAddr,
}

/// Messages that a test resolver sends back, in order.
pub(super) type Replies = BoxFuture<'static, Vec<Vec<u8>>>;

/// Test resolver in place of a host's resolver. It stops when dropped.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) address: SocketAddr,
    seen: mpsc::UnboundedReceiver<ReceivedQuery>,
    tasks: tokio::task::JoinSet<()>,
}

impl Resolver {
    /// Starts a resolver at a free port.
    pub(super) async fn start(replies: impl Fn(ReceivedQuery) -> Replies + Clone + Send + Sync + 'static) -> Self {
        let address = SocketAddr::new(address(), 0);
        let udp = UdpSocket::bind(address).await.expect("a UDP socket");
        let address = udp.local_addr().expect("an address");
        Self::on_sockets(udp, TcpListener::bind(address).await.expect("a TCP socket"), replies)
    }

    /// Starts another resolver at the port of `other`, on an address of its own.
    pub(super) async fn start_at_port_of(
        other: &Self,
        replies: impl Fn(ReceivedQuery) -> Replies + Clone + Send + Sync + 'static,
    ) -> Self {
        let address = SocketAddr::new(address(), other.address.port());
        let udp = UdpSocket::bind(address).await.expect("a UDP socket");
        Self::on_sockets(udp, TcpListener::bind(address).await.expect("a TCP socket"), replies)
    }

    fn on_sockets(
        udp: UdpSocket,
        tcp: TcpListener,
        replies: impl Fn(ReceivedQuery) -> Replies + Clone + Send + Sync + 'static,
    ) -> Self {
        let address = udp.local_addr().expect("an address");
        let (sender, seen) = mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        let (udp, by_tcp, report) = (Arc::new(udp), replies.clone(), sender.clone());
        tasks.spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let query = ReceivedQuery { bytes: buffer[..length].to_vec(), transport: Transport::Udp, from };
                let (udp, replies) = (udp.clone(), replies(query.clone()));
                let _ = report.send(query);
                tokio::spawn(async move {
                    for reply in replies.await {
                        let _ = udp.send_to(&reply, from).await;
                    }
                });
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, from)) = tcp.accept().await {
                let (replies, report) = (by_tcp.clone(), sender.clone());
                tokio::spawn(async move {
                    while let Some(bytes) = receive(&mut stream).await {
                        let query = ReceivedQuery { bytes, transport: Transport::Tcp, from };
                        let replies = replies(query.clone());
                        let _ = report.send(query);
                        for reply in replies.await {
                            let _ = stream.write_all(&with_length(&reply).expect("short")).await;
                        }
                    }
                });
            }
        });
        Self { address, seen, tasks }
    }

    /// Waits for the next query.
    pub(super) async fn next(&mut self) -> ReceivedQuery {
        with_timeout(self.seen.recv()).await.expect("a query")
    }

    /// Returns the next query if one was received already.
    pub(super) fn try_next(&mut self) -> Option<ReceivedQuery> {
        self.seen.try_recv().ok()
    }

    /// Stops the resolver and closes its sockets.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Replies of a resolver that never answers.
pub(super) fn silent(_: ReceivedQuery) -> Replies {
    Box::pin(std::future::pending())
}

/// Replies of a resolver that answers every query with one address.
pub(super) fn answering_with(address: &str) -> impl Fn(ReceivedQuery) -> Replies + Clone + Send + Sync + 'static {
    let address: IpAddr = address.parse().expect("an address");
    move |query| Box::pin(async move { vec![with_addresses(&query.bytes, &[address])] })
}

/// Replies of a resolver that answers every query with a response code.
pub(super) fn with_code(code: ResponseCode) -> impl Fn(ReceivedQuery) -> Replies + Clone + Send + Sync + 'static {
    move |query| {
        Box::pin(async move {
            let mut message = Message::from_vec(&query.bytes).expect("a query").into_response();
            message.metadata.response_code = code;
            vec![message.to_vec().expect("a message")]
        })
    }
}

/// Returns an answer to `query` with these addresses.
pub(super) fn with_addresses(query: &[u8], addresses: &[IpAddr]) -> Vec<u8> {
    let mut message = Message::from_vec(query).expect("a query").into_response();
    let name = message.queries[0].name.clone();
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        };
        message.add_answer(Record::from_rdata(name.clone(), 60, data));
    }
    message.to_vec().expect("a message")
}

/// DNS server under test with its resolver files and names, on an address of its own.
pub(super) struct Fixture {
    pub(super) server: DnsServer,
    pub(super) server_address: SocketAddr,
    pub(super) known: Arc<FixedNames>,
    pub(super) files: TempDir,
}

impl Fixture {
    /// Serves [`NETWORK`] at the resolver's port, with this resolver in the host's file.
    pub(super) async fn start(resolver: &Resolver, limits: Limits) -> Self {
        Self::with_resolvers(&[resolver], limits).await
    }

    /// Serves [`NETWORK`] with several resolvers, all at the same port.
    pub(super) async fn with_resolvers(resolvers: &[&Resolver], limits: Limits) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let paths = ResolverFiles::new(files.path().join("resolv.conf"), files.path().join("behind-stub"));
        let known = Arc::new(FixedNames::default());
        let port = resolvers[0].address.port();
        let server = DnsServer::with_port(known.clone(), paths, port, limits);
        let server_address = SocketAddr::new(address(), port);
        server.serve(NETWORK, vec![server_address.ip()]).await.expect("served");
        let fixture = Self { server, server_address, known, files };
        fixture.write("resolv.conf", resolvers.iter().map(|resolver| resolver.address.ip()));
        fixture
    }

    /// Writes a resolv.conf file with these resolvers.
    pub(super) fn write(&self, file: &str, resolvers: impl IntoIterator<Item = IpAddr>) {
        let lines: String = resolvers.into_iter().map(|resolver| format!("nameserver {resolver}\n")).collect();
        fs::write(self.files.path().join(file), lines).expect("written");
    }

    /// Queries a name over UDP.
    pub(super) async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.send(&question(name, kind)).await
    }

    /// Sends a query over UDP and checks that the answer belongs to it.
    pub(super) async fn send(&self, query: &Message) -> Message {
        let answer = exchange(self.server_address, &query.to_vec().expect("a message")).await;
        check_answer(query, &answer)
    }

    /// Sends a query over TCP and checks that the answer belongs to it.
    pub(super) async fn send_by_tcp(&self, query: &Message) -> Message {
        let mut stream = TcpStream::connect(self.server_address).await.expect("connected");
        send(&mut stream, &query.to_vec().expect("a message")).await;
        let answer = with_timeout(receive(&mut stream)).await.expect("an answer");
        check_answer(query, &answer)
    }
}

fn check_answer(query: &Message, answer: &[u8]) -> Message {
    let answer = Message::from_vec(answer).expect("a message");
    assert_eq!(answer.metadata.id, query.metadata.id);
    // The debug format shows the case of names, which `==` ignores.
    assert_eq!(format!("{:?}", answer.queries), format!("{:?}", query.queries));
    answer
}

/// Returns a query for a name, with or without the final dot.
pub(super) fn question(name: &str, kind: RecordType) -> Message {
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(name, kind));
    message
}

/// Returns the addresses in an answer, as text.
pub(super) fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().filter_map(|record| record.data.ip_addr()).map(|address| address.to_string()).collect()
}

/// Returns the response code of an answer.
pub(super) fn code(answer: &Message) -> ResponseCode {
    answer.metadata.response_code
}

/// Sends a datagram from a new socket and returns the datagram that comes back.
pub(super) async fn exchange(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let client = client(server, None).await;
    client.send(bytes).await.expect("sent");
    receive_datagram(&client).await
}

/// Returns a UDP socket connected to the server, bound to the source address `from` if given.
pub(super) async fn client(server: SocketAddr, from: Option<IpAddr>) -> UdpSocket {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { server.ip() };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0)).await.expect("a socket");
    socket.connect(server).await.expect("connected");
    socket
}

pub(super) async fn receive_datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = with_timeout(socket.recv(&mut buffer)).await.expect("received");
    buffer[..length].to_vec()
}

/// Connects to the server from the source address `from`.
pub(super) async fn connect_from(from: IpAddr, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from, 0)).expect("bound");
    socket.connect(server).await.expect("connected")
}

pub(super) async fn send(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&with_length(message).expect("short")).await.expect("sent");
}

/// Returns the next message of a connection, or `None` if it was closed.
pub(super) async fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Waits for `future`, and fails the test after [`TEST_TIMEOUT`].
pub(super) async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, future).await.expect("the test timed out")
}
