//! Tests of the server's sockets: slow clients and resolvers, connection limits, and changes of the
//! served addresses.

use std::net::Ipv6Addr;

use tokio::sync::Semaphore;

use super::super::DnsError;
use super::*;

/// Replies of a resolver that answers one query for each permit of `release`.
fn answering_on(release: Arc<Semaphore>) -> impl Fn(ReceivedQuery) -> Replies + Clone + Send + Sync + 'static {
    move |query| {
        let release = release.clone();
        Box::pin(async move {
            release.acquire().await.expect("open").forget();
            vec![with_addresses(&query.bytes, &["192.0.2.1".parse().expect("an address")])]
        })
    }
}

#[tokio::test]
async fn a_slow_resolver_does_not_delay_endpoint_names() {
    let release = Arc::new(Semaphore::new(0));
    let mut resolver = Resolver::start(answering_on(release.clone())).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let slow = question("example.org", RecordType::A).to_vec().expect("a message");
    let quick = question("six", RecordType::AAAA).to_vec().expect("a message");

    // Both queries use the same UDP socket, and the same TCP connection: the second query is
    // answered first.
    let waiting = client(fixture.server_address, None).await;
    let mut stream = TcpStream::connect(fixture.server_address).await.expect("connected");
    waiting.send(&slow).await.expect("sent");
    send(&mut stream, &slow).await;
    resolver.next().await;
    resolver.next().await;
    waiting.send(&quick).await.expect("sent");
    assert_eq!(receive_datagram(&waiting).await[..2], quick[..2]);
    send(&mut stream, &quick).await;
    assert_eq!(with_timeout(receive(&mut stream)).await.expect("an answer")[..2], quick[..2]);

    release.add_permits(2);
    assert_eq!(receive_datagram(&waiting).await[..2], slow[..2]);
    assert_eq!(with_timeout(receive(&mut stream)).await.expect("an answer")[..2], slow[..2]);
}

#[tokio::test]
async fn idle_connections_delay_no_other_client_and_are_limited_per_client() {
    let resolver = Resolver::start(silent).await;
    let limits = Limits { connections: (4, 6), ..long_timeouts() };
    let fixture = Fixture::start(&resolver, limits).await;
    let greedy = address();
    let mut open = Vec::new();
    for at in 0..4 {
        let mut stream = connect_from(greedy, fixture.server_address).await;
        // The four connections send nothing, half a length, a length, and half a message.
        let half = with_length(&question("web", RecordType::A).to_vec().expect("a message")).expect("short");
        stream.write_all(&half[..[0, 1, 2, 9][at]]).await.expect("sent");
        open.push(stream);
    }
    // A fifth connection is closed. Its close also shows that the earlier connections were
    // accepted.
    let mut one_more = connect_from(greedy, fixture.server_address).await;
    assert!(with_timeout(receive(&mut one_more)).await.is_none());
    let answer = fixture.send_by_tcp(&question("six", RecordType::AAAA)).await;
    assert_eq!(addresses(&answer), ["fd00::6"]);
    let by_udp = client(fixture.server_address, Some(greedy)).await;
    let query = question("six", RecordType::AAAA).to_vec().expect("a message");
    by_udp.send(&query).await.expect("sent");
    assert_eq!(receive_datagram(&by_udp).await[..2], query[..2]);
    // A partly sent query is answered when the rest arrives.
    let whole = with_length(&query).expect("short");
    open[1].write_all(&whole[1..]).await.expect("sent");
    assert_eq!(with_timeout(receive(&mut open[1])).await.expect("an answer")[..2], query[..2]);
    // A closed connection leaves the quota.
    drop(open);
    let mut again = connect_from(greedy, fixture.server_address).await;
    // The server may not have noticed yet.
    while again.write_all(&whole).await.is_err() || with_timeout(receive(&mut again)).await.is_none() {
        again = connect_from(greedy, fixture.server_address).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let resolver = Resolver::start(silent).await;
    let fixture =
        Fixture::start(&resolver, Limits { idle_timeout: Duration::from_millis(50), ..long_timeouts() }).await;
    let mut nothing = TcpStream::connect(fixture.server_address).await.expect("connected");
    let mut half = TcpStream::connect(fixture.server_address).await.expect("connected");
    half.write_all(&[0, 40, 1]).await.expect("sent");
    assert!(with_timeout(receive(&mut nothing)).await.is_none());
    assert!(with_timeout(receive(&mut half)).await.is_none());
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answers() {
    let release = Arc::new(Semaphore::new(0));
    let mut resolver = Resolver::start(answering_on(release.clone())).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let query = question("example.org", RecordType::A).to_vec().expect("a message");
    let mut stream = TcpStream::connect(fixture.server_address).await.expect("connected");
    send(&mut stream, &query).await;
    stream.shutdown().await.expect("half closed");
    resolver.next().await;
    release.add_permits(1);
    assert_eq!(with_timeout(receive(&mut stream)).await.expect("an answer")[..2], query[..2]);
    assert!(with_timeout(receive(&mut stream)).await.is_none());
}

#[tokio::test]
async fn a_client_that_reads_no_answers_delays_no_other_client() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let mut deaf = TcpStream::connect(fixture.server_address).await.expect("connected");
    let query = with_length(&question("many", RecordType::A).to_vec().expect("a message")).expect("short");
    // Writes until the server stops reading because the answers cannot be sent.
    let fill = async {
        loop {
            deaf.write_all(&query).await.expect("sent");
        }
    };
    let ask = async {
        for _ in 0..200 {
            assert_eq!(addresses(&fixture.send_by_tcp(&question("six", RecordType::AAAA)).await), ["fd00::6"]);
            assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
        }
    };
    tokio::select! {
        () = fill => {}
        () = with_timeout(ask) => {}
    }
}

#[tokio::test]
async fn ipv6_is_served_like_ipv4() {
    let resolver = Resolver::start(answering_with("192.0.2.1")).await;
    let mut fixture = Fixture::start(&resolver, long_timeouts()).await;
    fixture.server.serve(NETWORK, vec![fixture.server_address.ip(), Ipv6Addr::LOCALHOST.into()]).await.expect("served");
    assert_eq!(fixture.server.serving(NETWORK), [fixture.server_address.ip(), Ipv6Addr::LOCALHOST.into()]);
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
    fixture.server_address.set_ip(Ipv6Addr::LOCALHOST.into());
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!(addresses(&fixture.send_by_tcp(&question("six", RecordType::AAAA)).await), ["fd00::6"]);
}

#[tokio::test]
async fn an_ipv6_resolver_is_used_like_an_ipv4_resolver() {
    let udp = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a UDP socket");
    let tcp = TcpListener::bind(udp.local_addr().expect("an address")).await.expect("a TCP socket");
    let resolver = Resolver::on_sockets(udp, tcp, answering_with("192.0.2.6"));
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.6"]);
    assert_eq!(addresses(&fixture.send_by_tcp(&question("example.org", RecordType::A)).await), ["192.0.2.6"]);
}

#[tokio::test]
async fn new_addresses_replace_the_earlier_addresses() {
    let resolver = Resolver::start(silent).await;
    let mut fixture = Fixture::start(&resolver, long_timeouts()).await;
    let (first, second, third) = (fixture.server_address.ip(), address(), address());
    // Connections to an address that is still served stay open.
    let mut stream = TcpStream::connect(fixture.server_address).await.expect("connected");
    fixture.server.serve(NETWORK, vec![third, first, first]).await.expect("served");
    assert_eq!(fixture.server.serving(NETWORK), [first, third]);
    let query = question("six", RecordType::AAAA).to_vec().expect("a message");
    send(&mut stream, &query).await;
    assert!(with_timeout(receive(&mut stream)).await.is_some());
    fixture.server.serve(NETWORK, vec![second]).await.expect("served");
    assert_eq!(fixture.server.serving(NETWORK), [second]);
    assert!(with_timeout(receive(&mut stream)).await.is_none());
    fixture.server_address.set_ip(second);
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
    // The first address is served again, and by another network, without waiting for tasks that are
    // still stopping.
    for _ in 0..20 {
        fixture.server.serve(NETWORK, vec![first]).await.expect("served");
        fixture.server.stop(NETWORK);
        assert!(fixture.server.serving(NETWORK).is_empty());
        fixture.server.serve(OTHER_NETWORK, vec![first]).await.expect("served");
        fixture.server.serve(OTHER_NETWORK, Vec::new()).await.expect("stopped");
    }
    assert!(fixture.server.serving(OTHER_NETWORK).is_empty());
    fixture.server.stop(OTHER_NETWORK);
}

#[tokio::test]
async fn an_unusable_address_is_reported_and_the_served_addresses_stay() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let free = address();
    let taken = resolver.address;
    let error = fixture.server.serve(NETWORK, vec![free, taken.ip()]).await.expect_err("taken");
    assert!(matches!(error, DnsError::InUse { address, transport: Transport::Udp } if address == taken), "{error}");
    let text = format!("cannot answer DNS queries at {taken} (UDP): another DNS server listens on it");
    assert_eq!(error.to_string(), text);
    assert_eq!(fixture.server.serving(NETWORK), [fixture.server_address.ip()]);
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);

    // The address is in use by another network of the same server, or over TCP only.
    let error = fixture.server.serve(OTHER_NETWORK, vec![fixture.server_address.ip()]).await.expect_err("taken");
    assert!(matches!(error, DnsError::InUse { address, .. } if address == fixture.server_address), "{error}");
    let tcp = TcpListener::bind((free, fixture.server_address.port())).await.expect("a TCP socket");
    let error = fixture.server.serve(NETWORK, vec![free]).await.expect_err("taken");
    assert!(matches!(error, DnsError::InUse { transport: Transport::Tcp, .. }), "{error}");
    drop(tcp);
    let nowhere = "192.0.2.1".parse().expect("an address");
    let error = fixture.server.serve(NETWORK, vec![nowhere]).await.expect_err("nowhere");
    assert!(matches!(error, DnsError::NoAddress { address } if address.ip() == nowhere), "{error}");
    fixture.server.serve(NETWORK, vec![free]).await.expect("free by now");
}

#[tokio::test]
async fn a_server_can_bind_the_address_of_a_stopped_server_at_once() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let mut stream = TcpStream::connect(fixture.server_address).await.expect("connected");
    let query = question("six", RecordType::AAAA).to_vec().expect("a message");
    send(&mut stream, &query).await;
    assert!(with_timeout(receive(&mut stream)).await.is_some());
    let Fixture { server, server_address, known, files } = fixture;
    let another = server.clone();
    drop(server);
    assert_eq!(another.serving(NETWORK), [server_address.ip()]);
    // The server closes first, so that its end of the connection stays in TIME-WAIT.
    drop(another);
    assert!(with_timeout(receive(&mut stream)).await.is_none());
    drop(stream);
    let paths = ResolverFiles::new(files.path().join("resolv.conf"), files.path().join("behind-stub"));
    let server = DnsServer::with_port(known.clone(), paths, server_address.port(), long_timeouts());
    // The tasks of the dropped server may not have finished yet. Tasks of another process would
    // have finished.
    let served = async {
        while server.serve(NETWORK, vec![server_address.ip()]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(served).await;
    let fixture = Fixture { server, server_address, known, files };
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
}
