//! Tests of queries that are forwarded to the host's resolvers.

use std::collections::BTreeSet;
use std::sync::Mutex;

use hickory_proto::op::Edns;
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::rdata::opt::EdnsOption;

use super::*;

/// Returns limits with a short time per attempt.
fn short_timeouts() -> Limits {
    Limits { attempt_timeout: Duration::from_millis(100), ..long_timeouts() }
}

#[tokio::test]
async fn forwarded_messages_change_only_in_their_id() {
    let sent_back = Arc::new(Mutex::new(Vec::new()));
    let kept = sent_back.clone();
    let mut resolver = Resolver::start(move |query| {
        let mut answer = Message::from_vec(&query.bytes).expect("a query").into_response();
        let name = answer.queries[0].name.clone();
        // The record type is unassigned, and this server itself never sets the AD bit.
        let data = RData::Unknown { code: RecordType::Unknown(4242), rdata: NULL::with(vec![1, 2, 3]) };
        answer.add_answer(Record::from_rdata(name, 77, data));
        answer.metadata.authentic_data = true;
        let answer = answer.to_vec().expect("a message");
        kept.lock().expect("a lock").clone_from(&answer);
        Box::pin(async move { vec![answer] })
    })
    .await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;

    let mut query = question("ExAmPlE.Org", RecordType::Unknown(4242));
    let mut edns = Edns::new();
    edns.set_max_payload(1400).set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(65_001, vec![9, 8, 7]));
    query.set_edns(edns);
    query.metadata.checking_disabled = true;
    query.metadata.recursion_desired = false;
    let query = query.to_vec().expect("a message");

    let mut ids = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for _ in 0..8 {
        let answer = exchange(fixture.server_address, &query).await;
        let seen = resolver.next().await;
        assert_eq!(seen.transport, Transport::Udp);
        assert_eq!(seen.bytes[2..], query[2..]);
        assert_eq!(answer[..2], query[..2]);
        assert_eq!(answer[2..], sent_back.lock().expect("a lock")[2..]);
        ids.insert(seen.bytes[..2].to_vec());
        ports.insert(seen.from.port());
    }
    // Random values can repeat, but not all of them.
    assert!(ids.len() > 4 && ports.len() > 4, "{ids:?} {ports:?}");
}

#[tokio::test]
async fn only_a_matching_answer_of_the_resolver_is_accepted() {
    let stranger = Arc::new(UdpSocket::bind((address(), 0)).await.expect("a socket"));
    let mut resolver = Resolver::start(move |query| {
        let stranger = stranger.clone();
        Box::pin(async move {
            let right = with_addresses(&query.bytes, &["192.0.2.1".parse().expect("an address")]);
            let wrong = with_addresses(&query.bytes, &["192.0.2.66".parse().expect("an address")]);
            stranger.send_to(&wrong, query.from).await.expect("sent");
            let (mut other_id, mut other_name, mut other_type, mut a_query) =
                (wrong.clone(), wrong.clone(), wrong.clone(), wrong.clone());
            other_id[1] ^= 1;
            other_name[13] ^= 1;
            let end = query.bytes.len();
            // Bit 0x20 of the type byte is flipped: a comparison that ignores ASCII case must not
            // accept this change. It would for type 65 (HTTPS, the byte `A`), which becomes 97 (the
            // byte `a`), but not for type 1 (A).
            other_type[end - 3] ^= 0x20;
            a_query[2] &= 0x7f;
            let no_question = [&wrong[..5], &[0], &wrong[6..12]].concat();
            vec![Vec::new(), b"noise".to_vec(), other_id, other_name, other_type, a_query, no_question, right]
        })
    })
    .await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    for kind in [RecordType::A, RecordType::HTTPS] {
        assert_eq!(addresses(&fixture.ask("example.org", kind).await), ["192.0.2.1"]);
        resolver.next().await;
    }
    assert_eq!(addresses(&fixture.send_by_tcp(&question("example.org", RecordType::A)).await), ["192.0.2.1"]);
    assert_eq!(resolver.next().await.transport, Transport::Tcp);
}

#[tokio::test]
async fn the_answer_keeps_the_case_of_the_clients_question() {
    let resolver = Resolver::start(|query| {
        Box::pin(async move {
            let mut answer = with_addresses(&query.bytes, &["192.0.2.1".parse().expect("an address")]);
            answer[12..24].make_ascii_lowercase();
            vec![answer]
        })
    })
    .await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let answer = fixture.ask("eXample.oRg", RecordType::A).await;
    assert_eq!(answer.queries[0].name.to_string(), "eXample.oRg.");
    assert_eq!(addresses(&answer), ["192.0.2.1"]);
}

/// Replies of a resolver that sends one of `count` addresses with the TC bit over UDP, and all of
/// them over TCP.
fn truncated_over_udp(count: u8) -> impl Fn(ReceivedQuery) -> Replies + Clone + Send + Sync + 'static {
    move |query| {
        Box::pin(async move {
            let all: Vec<IpAddr> = (1..=count).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
            match query.transport {
                Transport::Tcp => vec![with_addresses(&query.bytes, &all)],
                Transport::Udp => {
                    let mut part = with_addresses(&query.bytes, &all[..1]);
                    part[2] |= 2;
                    vec![part]
                }
            }
        })
    }
}

#[tokio::test]
async fn a_truncated_answer_is_requested_over_tcp_and_sent_if_it_fits() {
    let mut resolver = Resolver::start(truncated_over_udp(20)).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let answer = fixture.ask("example.org", RecordType::A).await;
    assert_eq!((addresses(&answer).len(), answer.metadata.truncation), (20, false));
    assert_eq!(resolver.next().await.transport, Transport::Udp);
    assert_eq!(resolver.next().await.transport, Transport::Tcp);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_truncated_and_complete_over_tcp() {
    let mut resolver = Resolver::start(truncated_over_udp(200)).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let mut query = question("example.org", RecordType::A);
    let answer = fixture.send(&query).await;
    assert_eq!((addresses(&answer), answer.metadata.truncation), (vec!["192.0.2.1".to_owned()], true));
    assert_eq!([resolver.next().await.transport, resolver.next().await.transport], [Transport::Udp, Transport::Tcp]);
    let answer = fixture.send_by_tcp(&query).await;
    assert_eq!((addresses(&answer).len(), answer.metadata.truncation), (200, false));
    assert_eq!(resolver.next().await.transport, Transport::Tcp);
    assert!(resolver.try_next().is_none());

    // This resolver ignores the client's limit and does not answer over TCP.
    let careless = Resolver::start(|query| {
        Box::pin(async move {
            let all: Vec<IpAddr> = (0..100).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
            if query.transport == Transport::Udp { vec![with_addresses(&query.bytes, &all)] } else { Vec::new() }
        })
    })
    .await;
    let fixture = Fixture::start(&careless, short_timeouts()).await;
    query.set_edns(Edns::new());
    query.edns.as_mut().expect("EDNS").set_max_payload(700);
    let answer = fixture.send(&query).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty() && answer.edns.is_some());
}

#[tokio::test]
async fn a_silent_resolver_is_asked_after_all_others() {
    let mut first = Resolver::start(silent).await;
    let mut second = Resolver::start_at_port_of(&first, answering_with("192.0.2.2")).await;
    let fixture = Fixture::with_resolvers(&[&first, &second], short_timeouts()).await;
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.2"]);
    first.next().await;
    second.next().await;
    assert_eq!(addresses(&fixture.ask("example.com", RecordType::A).await), ["192.0.2.2"]);
    second.next().await;
    assert!(first.try_next().is_none());
}

#[tokio::test]
async fn a_slow_resolver_does_not_delay_the_answer_of_another() {
    // No attempt ever ends by its time limit: the answer comes without the end of the first one.
    let mut first = Resolver::start(silent).await;
    let mut second = Resolver::start_at_port_of(&first, answering_with("192.0.2.2")).await;
    let limits = Limits { patience: Duration::from_millis(100), ..long_timeouts() };
    let fixture = Fixture::with_resolvers(&[&first, &second], limits).await;
    let query = question("example.org", RecordType::A);
    for transport in [Transport::Udp, Transport::Tcp] {
        for (_, asked) in [("the first query waits", true), ("no later query does", false), ("again", false)] {
            let answer = match transport {
                Transport::Udp => fixture.send(&query).await,
                Transport::Tcp => fixture.send_by_tcp(&query).await,
            };
            assert_eq!(addresses(&answer), ["192.0.2.2"]);
            assert_eq!(second.next().await.transport, transport);
            assert_eq!(first.try_next().is_some(), asked);
        }
    }
}

#[tokio::test]
async fn a_resolver_that_answers_again_is_found_without_a_delay() {
    let answers = Arc::new(AtomicBool::new(false));
    let state = answers.clone();
    let mut first = Resolver::start(move |query| match state.load(Ordering::Relaxed) {
        true => answering_with("192.0.2.1")(query),
        false => silent(query),
    })
    .await;
    let second = Resolver::start_at_port_of(&first, answering_with("192.0.2.2")).await;
    let limits = Limits { patience: Duration::from_millis(200), ..long_timeouts() };
    let fixture = Fixture::with_resolvers(&[&first, &second], limits).await;
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.2"]);
    first.next().await;
    // A check that gets no answer: the client does not notice it.
    fixture.server.age_resolvers();
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.2"]);
    first.next().await;
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.2"]);
    assert!(first.try_next().is_none());
    // The first resolver answers a check, and is preferred again.
    answers.store(true, Ordering::Relaxed);
    fixture.server.age_resolvers();
    with_timeout(async { while addresses(&fixture.ask("example.org", RecordType::A).await) != ["192.0.2.1"] {} }).await;
}

#[tokio::test]
async fn a_resolver_that_never_answers_over_tcp_is_not_asked_for_each_long_answer() {
    let mut resolver = Resolver::start(|query: ReceivedQuery| match query.transport {
        Transport::Tcp => silent(query),
        Transport::Udp => truncated_over_udp(200)(query),
    })
    .await;
    let fixture = Fixture::start(&resolver, short_timeouts()).await;
    for _ in 0..3 {
        assert!(fixture.ask("example.org", RecordType::A).await.metadata.truncation);
    }
    let mut seen = Vec::new();
    while let Some(query) = resolver.try_next() {
        seen.push(query.transport);
    }
    assert_eq!(seen, [Transport::Udp, Transport::Tcp, Transport::Udp, Transport::Udp]);
}

#[tokio::test]
async fn a_resolver_at_another_port_is_asked_there() {
    let mut resolver = Resolver::start(answering_with("192.0.2.1")).await;
    let other = Resolver::start(silent).await;
    let fixture = Fixture::start(&other, long_timeouts()).await;
    let text = format!("nameserver {}#{}\n", resolver.address.ip(), resolver.address.port());
    fs::write(fixture.files.path().join("resolv.conf"), text).expect("written");
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.1"]);
    resolver.next().await;
}

#[tokio::test]
async fn a_failure_answer_is_sent_only_if_all_resolvers_fail() {
    for refusal in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let mut first = Resolver::start(with_code(refusal)).await;
        let second = Resolver::start_at_port_of(&first, answering_with("192.0.2.2")).await;
        let mut third = Resolver::start_at_port_of(&first, with_code(ResponseCode::ServFail)).await;
        let fixture = Fixture::with_resolvers(&[&first, &second], long_timeouts()).await;
        assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.2"]);
        first.next().await;
        fixture.write("resolv.conf", [first.address.ip(), third.address.ip()]);
        assert_eq!(code(&fixture.ask("example.org", RecordType::A).await), refusal);
        third.next().await;
        assert_eq!(code(&fixture.send_by_tcp(&question("example.org", RecordType::A)).await), refusal);
    }
    // NXDOMAIN counts as an answer.
    let first = Resolver::start(with_code(ResponseCode::NXDomain)).await;
    let mut second = Resolver::start_at_port_of(&first, answering_with("192.0.2.2")).await;
    let fixture = Fixture::with_resolvers(&[&first, &second], long_timeouts()).await;
    assert_eq!(code(&fixture.ask("example.org", RecordType::A).await), ResponseCode::NXDomain);
    assert!(second.try_next().is_none());
}

#[tokio::test]
async fn without_any_answer_the_client_gets_servfail() {
    let resolver = Resolver::start(silent).await;
    let port = resolver.address;
    let fixture = Fixture::start(&resolver, short_timeouts()).await;
    for query in [question("example.org", RecordType::A), question("single", RecordType::AAAA)] {
        assert_eq!(code(&fixture.send(&query).await), ResponseCode::ServFail);
        assert_eq!(code(&fixture.send_by_tcp(&query).await), ResponseCode::ServFail);
    }
    resolver.end().await;
    fixture.write("resolv.conf", [port.ip()]);
    assert_eq!(code(&fixture.ask("example.org", RecordType::A).await), ResponseCode::ServFail);
    fs::remove_file(fixture.files.path().join("resolv.conf")).expect("removed");
    assert_eq!(code(&fixture.ask("example.org", RecordType::A).await), ResponseCode::ServFail);

    // The total time ends before all attempts are made.
    let resolver = Resolver::start(silent).await;
    let soon = Limits { forward_timeout: Duration::from_millis(100), ..long_timeouts() };
    let fixture = Fixture::start(&resolver, soon).await;
    assert_eq!(code(&fixture.ask("example.org", RecordType::A).await), ResponseCode::ServFail);
}

#[tokio::test]
async fn a_changed_resolver_file_takes_effect() {
    let first = Resolver::start(answering_with("192.0.2.1")).await;
    let second = Resolver::start_at_port_of(&first, answering_with("192.0.2.2")).await;
    let fixture = Fixture::start(&first, long_timeouts()).await;
    for (resolver, expected) in [(&first, "192.0.2.1"), (&second, "192.0.2.2"), (&first, "192.0.2.1")] {
        fixture.write("resolv.conf", [resolver.address.ip()]);
        assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), [expected]);
    }
    // The file is replaced by rename(2).
    fixture.write("new", [second.address.ip()]);
    fs::rename(fixture.files.path().join("new"), fixture.files.path().join("resolv.conf")).expect("renamed");
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.2"]);
}

#[tokio::test]
async fn an_unreachable_stub_is_replaced_by_the_resolvers_behind_it() {
    let stub = Resolver::start(answering_with("192.0.2.1")).await;
    let mut behind = Resolver::start_at_port_of(&stub, answering_with("192.0.2.2")).await;
    let fixture = Fixture::start(&stub, long_timeouts()).await;
    fixture.write("behind-stub", [behind.address.ip()]);
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.1"]);
    assert!(behind.try_next().is_none());
    stub.end().await;
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.2"]);
    assert_eq!(addresses(&fixture.send_by_tcp(&question("example.org", RecordType::A)).await), ["192.0.2.2"]);
}

#[tokio::test]
async fn a_slow_stub_is_not_bypassed() {
    let mut stub = Resolver::start(silent).await;
    let mut behind = Resolver::start_at_port_of(&stub, answering_with("192.0.2.2")).await;
    let fixture = Fixture::start(&stub, short_timeouts()).await;
    fixture.write("behind-stub", [behind.address.ip()]);
    assert_eq!(code(&fixture.ask("example.org", RecordType::A).await), ResponseCode::ServFail);
    stub.next().await;
    assert!(behind.try_next().is_none());
}

#[tokio::test]
async fn queries_are_never_forwarded_to_the_server_itself() {
    let mut resolver = Resolver::start(answering_with("192.0.2.1")).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let other = address();
    fixture.server.serve(OTHER_NETWORK, vec![other]).await.expect("served");
    fixture.write("resolv.conf", [fixture.server_address.ip(), other]);
    assert_eq!(code(&fixture.ask("example.org", RecordType::A).await), ResponseCode::ServFail);
    fixture.write("resolv.conf", [fixture.server_address.ip(), other, resolver.address.ip()]);
    assert_eq!(addresses(&fixture.ask("example.org", RecordType::A).await), ["192.0.2.1"]);
    resolver.next().await;
    assert!(resolver.try_next().is_none());
}

#[tokio::test]
async fn forwarded_queries_are_limited_per_client() {
    let mut resolver = Resolver::start(silent).await;
    let limits = Limits { forwards: (3, 5), ..long_timeouts() };
    let fixture = Fixture::start(&resolver, limits).await;
    let query = question("example.org", RecordType::A).to_vec().expect("a message");
    let greedy = client(fixture.server_address, None).await;
    for _ in 0..3 {
        greedy.send(&query).await.expect("sent");
        resolver.next().await;
    }
    greedy.send(&query).await.expect("sent");
    let refused = Message::from_vec(&receive_datagram(&greedy).await).expect("a message");
    assert_eq!(code(&refused), ResponseCode::ServFail);
    assert!(resolver.try_next().is_none());
    // Queries of another client are still forwarded, and queries for endpoint names are not
    // counted.
    let modest = client(fixture.server_address, Some(address())).await;
    modest.send(&query).await.expect("sent");
    resolver.next().await;
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
}
