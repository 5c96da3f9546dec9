//! Tests of answers for endpoint names, and of refused messages.

use std::sync::atomic::Ordering;

use hickory_proto::op::{Edns, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use proptest::prelude::*;

use super::super::answer::{Decision, decide};
use super::super::message::Query;
use super::super::rotation::Rotation;
use super::*;

#[tokio::test]
async fn endpoint_names_are_answered_by_type_and_never_forwarded() {
    let mut resolver = Resolver::start(answering_with("192.0.2.1")).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;

    let answer = fixture.ask("web", RecordType::A).await;
    assert_eq!(addresses(&answer), ["10.9.0.2", "10.9.0.3", "10.9.0.4"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available && answer.metadata.recursion_desired);
    assert!(answer.answers.iter().all(|record| record.ttl > 0 && record.ttl <= 10));
    assert!(answer.edns.is_none());
    assert_eq!(addresses(&fixture.ask("web", RecordType::AAAA).await), ["fd00::2"]);
    assert_eq!(addresses(&fixture.ask("web", RecordType::ANY).await).len(), 4);
    assert_eq!(addresses(&fixture.ask("db.blue", RecordType::A).await), ["10.9.0.5"]);

    // The question (checked in `send`) and the answer have the name in the client's case.
    let answer = fixture.ask("WeB", RecordType::AAAA).await;
    assert_eq!(addresses(&answer), ["fd00::2"]);
    assert_eq!(answer.answers[0].name.to_string(), "WeB.");

    for (name, kind) in [("six", RecordType::A), ("db.blue", RecordType::AAAA), ("web", RecordType::MX)] {
        let answer = fixture.ask(name, kind).await;
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0), "{name} {kind}");
    }
    let answer = fixture.send_by_tcp(&question("web", RecordType::AAAA)).await;
    assert_eq!(addresses(&answer), ["fd00::2"]);
    assert!(resolver.try_next().is_none());
}

#[tokio::test]
async fn the_first_of_several_addresses_rotates() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let mut firsts = Vec::new();
    for _ in 0..4 {
        firsts.push(addresses(&fixture.ask("web", RecordType::A).await).remove(0));
        // Clients query both types.
        fixture.ask("WEB", RecordType::AAAA).await;
    }
    assert_eq!(firsts, ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.2"]);
}

#[tokio::test]
async fn only_reverse_queries_for_foreign_addresses_are_forwarded() {
    let mut resolver = Resolver::start(with_code(ResponseCode::NotAuth)).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let reverse = |address: &str| Name::from(address.parse::<IpAddr>().expect("an address")).to_string();
    for (address, name) in [("10.9.0.3", "web."), ("fd00::6", "six."), ("10.9.0.5", "db.blue.")] {
        let answer = fixture.ask(&reverse(address), RecordType::PTR).await;
        let found: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(found, [name]);
    }
    let answer = fixture.ask(&reverse("10.9.0.3"), RecordType::TXT).await;
    assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0));
    for address in ["10.9.7.7", "fd00::77"] {
        assert_eq!(code(&fixture.ask(&reverse(address), RecordType::PTR).await), ResponseCode::NXDomain);
    }
    assert!(resolver.try_next().is_none());
    for name in [reverse("192.0.2.1"), reverse("2001:db8::1"), "9.10.in-addr.arpa".to_owned()] {
        assert_eq!(code(&fixture.ask(&name, RecordType::PTR).await), ResponseCode::NotAuth, "{name}");
        assert!(resolver.try_next().is_some());
    }
}

#[tokio::test]
async fn queries_in_an_internal_network_are_not_forwarded() {
    let mut resolver = Resolver::start(answering_with("192.0.2.1")).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    fixture.known.forwards.store(false, Ordering::Relaxed);
    for name in ["example.org", "single", "db.blue.example.org", "1.2.0.192.in-addr.arpa", "."] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::PTR, RecordType::TXT, RecordType::Unknown(4242)] {
            let answer = fixture.ask(name, kind).await;
            assert_eq!(code(&answer), ResponseCode::NXDomain, "{name} {kind}");
            assert!(!answer.metadata.recursion_available);
            assert_eq!(code(&fixture.send_by_tcp(&question(name, kind)).await), ResponseCode::NXDomain);
        }
    }
    assert_eq!(addresses(&fixture.ask("six", RecordType::AAAA).await), ["fd00::6"]);
    assert!(resolver.try_next().is_none());
}

#[tokio::test]
async fn a_name_that_only_resembles_an_endpoint_name_is_forwarded() {
    let mut resolver = Resolver::start(answering_with("192.0.2.1")).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let mut one_label = question("x", RecordType::A);
    one_label.queries[0].name = Name::from_labels(["db.blue".as_bytes()]).expect("a name");
    let mut other_class = question("web", RecordType::A);
    other_class.queries[0].query_class = DNSClass::CH;
    for query in [one_label, other_class, question("web.example.org", RecordType::A)] {
        assert_eq!(addresses(&fixture.send(&query).await), ["192.0.2.1"]);
        assert!(resolver.try_next().is_some());
    }
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_is_truncated_and_complete_over_tcp() {
    let resolver = Resolver::start(silent).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let mut query = question("many", RecordType::A);
    for (limit, edns) in [(512, None), (512, Some(100)), (1232, Some(1232))] {
        query.edns = edns.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(true);
            edns
        });
        let bytes = exchange(fixture.server_address, &query.to_vec().expect("a message")).await;
        let answer = Message::from_vec(&bytes).expect("a message");
        assert!(answer.metadata.truncation);
        // The answer holds as many records as fit, and always the OPT record.
        assert!(bytes.len() <= limit && bytes.len() + 28 > limit, "{} of {limit}", bytes.len());
        assert_eq!(answer.edns.is_some(), edns.is_some());
        assert!(answer.edns.is_none_or(|edns| edns.flags().dnssec_ok && edns.version() == 0));
    }
    for answer in [fixture.send_by_tcp(&query).await, {
        query.edns.as_mut().expect("EDNS").set_max_payload(4096);
        fixture.send(&query).await
    }] {
        assert!(!answer.metadata.truncation);
        assert_eq!(answer.answers.len(), 100);
    }
}

#[tokio::test]
async fn unsupported_queries_are_refused_and_responses_are_ignored() {
    let mut resolver = Resolver::start(answering_with("192.0.2.1")).await;
    let fixture = Fixture::start(&resolver, long_timeouts()).await;
    let refused = async |query: &Message| code(&fixture.send(query).await);
    for zone in ["web", "example.org"] {
        assert_eq!(refused(&question(zone, RecordType::AXFR)).await, ResponseCode::Refused);
        assert_eq!(refused(&question(zone, RecordType::IXFR)).await, ResponseCode::Refused);
        let by_tcp = fixture.send_by_tcp(&question(zone, RecordType::AXFR)).await;
        assert_eq!(code(&by_tcp), ResponseCode::Refused);
    }
    let mut newer = question("web", RecordType::A);
    newer.set_edns({
        let mut edns = Edns::new();
        edns.set_version(1);
        edns
    });
    // Code 16 has two names (RFC 6895 section 2.3).
    assert_eq!(u16::from(refused(&newer).await), u16::from(ResponseCode::BADVERS));

    let raw =
        async |bytes: &[u8]| Message::from_vec(&exchange(fixture.server_address, bytes).await).expect("a message");
    for operation in [OpCode::Update, OpCode::Notify, OpCode::Status, OpCode::Unknown(9)] {
        let mut query = question("web", RecordType::SOA);
        query.metadata.op_code = operation;
        let answer = raw(&query.to_vec().expect("a message")).await;
        assert_eq!((code(&answer), answer.metadata.op_code), (ResponseCode::NotImp, operation));
        assert_eq!(answer.metadata.id, query.metadata.id);
    }
    let mut two = question("web", RecordType::A);
    two.add_query(two.queries[0].clone());
    let mut none = question("web", RecordType::A);
    none.queries.clear();
    let whole = question("web", RecordType::A).to_vec().expect("a message");
    let half = whole[..whole.len() - 3].to_vec();
    let mut claims = whole.clone();
    claims[4..6].copy_from_slice(&[0xff, 0xff]);
    let mut additional = whole.clone();
    additional[11] = 1;
    for bytes in [two.to_vec().expect("a message"), none.to_vec().expect("a message"), half, claims, additional] {
        let answer = raw(&bytes).await;
        assert_eq!(code(&answer), ResponseCode::FormErr, "{bytes:?}");
        assert_eq!(answer.metadata.id.to_be_bytes(), bytes[..2]);
    }

    // These messages get no answer: the next received datagram answers the next query.
    let client = client(fixture.server_address, None).await;
    let mut response = question("web", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    for bytes in [&response.to_vec().expect("a message")[..], b"", b"short", &[0xff; 64]] {
        client.send(bytes).await.expect("sent");
    }
    client.send(&whole).await.expect("sent");
    assert_eq!(receive_datagram(&client).await[..2], whole[..2]);
    assert!(resolver.try_next().is_none());
}

proptest! {
    #[test]
    fn arbitrary_messages_never_cause_a_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
        like_a_query in any::<bool>(),
        internal in any::<bool>(),
        cut in 0_usize..600,
    ) {
        if like_a_query && bytes.len() >= 12 {
            let additional = bytes[11] & 1;
            bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, additional]);
        }
        check_decision(&bytes, internal);
        // The second input is a query with random changes.
        let mut query = question("web", RecordType::A).to_vec().expect("a message");
        query.truncate(cut);
        let from = query.len().min(2);
        query.iter_mut().skip(from).zip(&bytes).filter(|(_, noise)| **noise > 200).for_each(|(byte, noise)| *byte ^= noise);
        query.extend_from_slice(&bytes);
        check_decision(&query, internal);
        if let Ok(query) = Query::parse(&question("web", RecordType::A).to_vec().expect("a message"), Transport::Udp) {
            let id = u16::from_be_bytes([bytes.first().copied().unwrap_or(0), bytes.get(1).copied().unwrap_or(0)]);
            prop_assert!(!query.is_answered_by(&bytes, id));
            query.truncate(&bytes);
        }
    }
}

fn check_decision(bytes: &[u8], internal: bool) {
    let known = FixedNames::default();
    known.forwards.store(!internal, Ordering::Relaxed);
    let client = IpAddr::from([10, 9, 0, 2]);
    for transport in [Transport::Udp, Transport::Tcp] {
        match decide(bytes, transport, &known, NETWORK, client, &Rotation::default()) {
            Decision::Forward(query) => {
                let sent = query.with_id(7);
                assert_eq!(sent[2..], bytes[2..]);
            }
            Decision::Answer(answer) => assert_eq!(answer[..2], bytes[..2]),
            Decision::Ignore => {}
        }
    }
}
