//! Who waits for whom, and which addresses are served.

use std::net::Ipv6Addr;

use tokio::sync::Semaphore;

use super::super::DnsError;
use super::*;

/// Answers when it is told to.
fn held(release: Arc<Semaphore>) -> impl Fn(Seen) -> Replies + Clone + Send + Sync + 'static {
    move |query| {
        let release = release.clone();
        Box::pin(async move {
            release.acquire().await.expect("open").forget();
            vec![with_addresses(&query.bytes, &["192.0.2.1".parse().expect("an address")])]
        })
    }
}

#[tokio::test]
async fn a_slow_resolver_delays_no_name_of_ours() {
    let release = Arc::new(Semaphore::new(0));
    let mut resolver = Resolver::start(held(release.clone())).await;
    let fixture = Fixture::start(&resolver, patient()).await;
    let slow = question("example.org", RecordType::A).to_vec().expect("a message");
    let quick = question("six", RecordType::AAAA).to_vec().expect("a message");

    // On the same socket, and on the same connection, where the answer that was asked for last comes first.
    let waiting = client(fixture.at, None).await;
    let mut stream = TcpStream::connect(fixture.at).await.expect("connected");
    waiting.send(&slow).await.expect("sent");
    send(&mut stream, &slow).await;
    resolver.next().await;
    resolver.next().await;
    waiting.send(&quick).await.expect("sent");
    assert_eq!(receive_datagram(&waiting).await[..2], quick[..2]);
    send(&mut stream, &quick).await;
    assert_eq!(guard(receive(&mut stream)).await.expect("an answer")[..2], quick[..2]);

    release.add_permits(2);
    assert_eq!(receive_datagram(&waiting).await[..2], slow[..2]);
    assert_eq!(guard(receive(&mut stream)).await.expect("an answer")[..2], slow[..2]);
}

#[tokio::test]
async fn connections_that_say_nothing_or_half_delay_nobody_and_one_client_cannot_have_them_all() {
    let resolver = Resolver::start(silent).await;
    let limits = Limits { connections: (4, 6), ..patient() };
    let fixture = Fixture::start(&resolver, limits).await;
    let greedy = address();
    let mut open = Vec::new();
    for at in 0..4 {
        let mut stream = connect_from(greedy, fixture.at).await;
        // Nothing, half a length, a length, half a message.
        let half = framed(&question("web", RecordType::A).to_vec().expect("a message")).expect("short");
        stream.write_all(&half[..[0, 1, 2, 9][at]]).await.expect("sent");
        open.push(stream);
    }
    // One more is closed. That it comes last also says that the others were accepted.
    let mut one_more = connect_from(greedy, fixture.at).await;
    assert!(guard(receive(&mut one_more)).await.is_none());
    let answer = fixture.send_by_tcp(&question("six", RecordType::AAAA)).await;
    assert_eq!(addresses(&answer), ["fd00::6"]);
    let by_udp = client(fixture.at, Some(greedy)).await;
    let query = question("six", RecordType::AAAA).to_vec().expect("a message");
    by_udp.send(&query).await.expect("sent");
    assert_eq!(receive_datagram(&by_udp).await[..2], query[..2]);
    // What was half is answered when the rest comes.
    let whole = framed(&query).expect("short");
    open[1].write_all(&whole[1..]).await.expect("sent");
    assert_eq!(guard(receive(&mut open[1])).await.expect("an answer")[..2], query[..2]);
    // And a connection that is over makes room.
    drop(open);
    let mut again = connect_from(greedy, fixture.at).await;
    // The server may not have noticed yet.
    while again.write_all(&whole).await.is_err() || guard(receive(&mut again)).await.is_none() {
        again = connect_from(greedy, fixture.at).await;
    }
}

#[tokio::test]
async fn a_connection_that_says_nothing_for_long_is_closed() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, Limits { idle: Duration::from_millis(50), ..patient() }).await;
    let mut nothing = TcpStream::connect(fixture.at).await.expect("connected");
    let mut half = TcpStream::connect(fixture.at).await.expect("connected");
    half.write_all(&[0, 40, 1]).await.expect("sent");
    assert!(guard(receive(&mut nothing)).await.is_none());
    assert!(guard(receive(&mut half)).await.is_none());
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_what_it_waits_for() {
    let release = Arc::new(Semaphore::new(0));
    let mut resolver = Resolver::start(held(release.clone())).await;
    let fixture = Fixture::start(&resolver, patient()).await;
    let query = question("example.org", RecordType::A).to_vec().expect("a message");
    let mut stream = TcpStream::connect(fixture.at).await.expect("connected");
    send(&mut stream, &query).await;
    stream.shutdown().await.expect("half closed");
    resolver.next().await;
    release.add_permits(1);
    assert_eq!(guard(receive(&mut stream)).await.expect("an answer")[..2], query[..2]);
    assert!(guard(receive(&mut stream)).await.is_none());
}

#[tokio::test]
async fn a_client_that_takes_no_answers_delays_nobody() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, patient()).await;
    let mut deaf = TcpStream::connect(fixture.at).await.expect("connected");
    let query = framed(&question("many", RecordType::A).to_vec().expect("a message")).expect("short");
    // Until the server reads no more of it, for want of room for the answers.
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
        () = guard(ask) => {}
    }
}

#[tokio::test]
async fn ipv6_is_served_like_ipv4() {
    let resolver = Resolver::start(at("192.0.2.1")).await;
    let mut fixture = Fixture::start(&resolver, patient()).await;
    fixture.server.serve(NETWORK, vec![fixture.at.ip(), Ipv6Addr::LOCALHOST.into()]).await.expect("served");
    assert_eq!(fixture.server.serving(NETWORK), [fixture.at.ip(), Ipv6Addr::LOCALHOST.into()]);
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
    fixture.at.set_ip(Ipv6Addr::LOCALHOST.into());
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!(addresses(&fixture.send_by_tcp(&question("six", RecordType::AAAA)).await), ["fd00::6"]);
}

#[tokio::test]
async fn an_ipv6_resolver_is_asked_like_an_ipv4_one() {
    let udp = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.expect("a UDP socket");
    let tcp = TcpListener::bind(udp.local_addr().expect("an address")).await.expect("a TCP socket");
    let resolver = Resolver::on(udp, tcp, at("192.0.2.6"));
    let fixture = Fixture::start(&resolver, patient()).await;
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.6"]);
    assert_eq!(addresses(&fixture.send_by_tcp(&question("example.org", RecordType::A)).await), ["192.0.2.6"]);
}

#[tokio::test]
async fn other_addresses_take_the_place_of_those_before() {
    let resolver = Resolver::start(silent).await;
    let mut fixture = Fixture::start(&resolver, patient()).await;
    let (first, second, third) = (fixture.at.ip(), address(), address());
    // What is connected to an address that stays, stays connected.
    let mut stream = TcpStream::connect(fixture.at).await.expect("connected");
    fixture.server.serve(NETWORK, vec![third, first, first]).await.expect("served");
    assert_eq!(fixture.server.serving(NETWORK), [first, third]);
    let query = question("six", RecordType::AAAA).to_vec().expect("a message");
    send(&mut stream, &query).await;
    assert!(guard(receive(&mut stream)).await.is_some());
    fixture.server.serve(NETWORK, vec![second]).await.expect("served");
    assert_eq!(fixture.server.serving(NETWORK), [second]);
    assert!(guard(receive(&mut stream)).await.is_none());
    fixture.at.set_ip(second);
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
    // Back again, and to another network: at once, whatever still ends.
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
async fn an_address_that_cannot_be_served_is_named_and_nothing_changes() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, patient()).await;
    let free = address();
    let taken = resolver.address;
    let error = fixture.server.serve(NETWORK, vec![free, taken.ip()]).await.expect_err("taken");
    assert!(matches!(error, DnsError::InUse { address, transport: Transport::Udp } if address == taken), "{error}");
    let text = format!("cannot answer DNS queries at {taken} (UDP): another DNS server listens on it");
    assert_eq!(error.to_string(), text);
    assert_eq!(fixture.server.serving(NETWORK), [fixture.at.ip()]);
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);

    // By another network of ours, or by TCP alone.
    let error = fixture.server.serve(OTHER_NETWORK, vec![fixture.at.ip()]).await.expect_err("taken");
    assert!(matches!(error, DnsError::InUse { address, .. } if address == fixture.at), "{error}");
    let tcp = TcpListener::bind((free, fixture.at.port())).await.expect("a TCP socket");
    let error = fixture.server.serve(NETWORK, vec![free]).await.expect_err("taken");
    assert!(matches!(error, DnsError::InUse { transport: Transport::Tcp, .. }), "{error}");
    drop(tcp);
    let nowhere = "192.0.2.1".parse().expect("an address");
    let error = fixture.server.serve(NETWORK, vec![nowhere]).await.expect_err("nowhere");
    assert!(matches!(error, DnsError::NoAddress { address } if address.ip() == nowhere), "{error}");
    fixture.server.serve(NETWORK, vec![free]).await.expect("free by now");
}

#[tokio::test]
async fn a_server_that_starts_where_one_ended_binds_at_once() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, patient()).await;
    let mut stream = TcpStream::connect(fixture.at).await.expect("connected");
    let query = question("six", RecordType::AAAA).to_vec().expect("a message");
    send(&mut stream, &query).await;
    assert!(guard(receive(&mut stream)).await.is_some());
    let Fixture { server, at, known, files } = fixture;
    let another = server.clone();
    drop(server);
    assert_eq!(another.serving(NETWORK), [at.ip()]);
    // The server closes first, so that its side of the connection lingers.
    drop(another);
    assert!(guard(receive(&mut stream)).await.is_none());
    drop(stream);
    let paths = ResolverFiles::new(files.path().join("resolv.conf"), files.path().join("behind-stub"));
    let server = DnsServer::with_port(known.clone(), paths, at.port(), patient());
    // The tasks of the one that was dropped may be at their end, but not over; those of another process would be.
    let served = async {
        while server.serve(NETWORK, vec![at.ip()]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    guard(served).await;
    let fixture = Fixture { server, at, known, files };
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
}
