//! Tests of the engine: two hosts that exchange messages without a network.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const A: &str = "192.0.2.1:51820";
const B: &str = "192.0.2.2:51820";
const ROOM: usize = 65_536;

/// Recorded output of an engine.
#[derive(Default)]
struct Recorder {
    datagrams: Vec<(Vec<u8>, SocketAddr)>,
    packets: Vec<Vec<u8>>,
}

impl Output for Recorder {
    fn to_peer(&mut self, datagram: &[u8], endpoint: SocketAddr) {
        self.datagrams.push((datagram.to_vec(), endpoint));
    }

    fn to_host(&mut self, packet: &[u8]) {
        self.packets.push(packet.to_vec());
    }
}

struct Host {
    engine: Engine,
    key: PublicKey,
    endpoint: SocketAddr,
}

impl Host {
    fn new(endpoint: &str) -> Self {
        let key = PrivateKey::generate();
        Self { engine: Engine::new(&key), key: key.public(), endpoint: endpoint.parse().unwrap() }
    }

    fn add(&self, peer: &Self) -> Vec<Vec<u8>> {
        let mut recorder = Recorder::default();
        self.engine.set_peer(peer.key, peer.endpoint, &mut [0; HANDSHAKE_LENGTH], &mut recorder);
        recorder.datagrams.into_iter().map(|(datagram, _)| datagram).collect()
    }

    fn receive(&self, datagram: &[u8], from: SocketAddr) -> Recorder {
        let mut recorder = Recorder::default();
        self.engine.receive(datagram, from, &mut [0; ROOM], &mut recorder);
        recorder
    }

    fn send(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; ROOM];
        self.engine.send(packet, &mut buffer).map(|(length, _)| buffer[..length].to_vec())
    }

    /// Builds a packet to another host.
    fn packet(&self, to: &Self, text: &str) -> Vec<u8> {
        packet(self.key.inner_address(), to.key.inner_address(), text)
    }
}

fn packet(source: Ipv6Addr, destination: Ipv6Addr, text: &str) -> Vec<u8> {
    let length = (text.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], 59, 64];
    [&header[..], &source.octets(), &destination.octets(), text.as_bytes()].concat()
}

/// Passes datagrams between two hosts until none is left. Returns the packets that each host
/// received.
fn exchange(first: &Host, second: &Host, mut to_second: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut out = (Vec::new(), Vec::new());
    while !to_second.is_empty() {
        let mut to_first = Vec::new();
        for datagram in to_second.drain(..) {
            let recorder = second.receive(&datagram, first.endpoint);
            out.1.extend(recorder.packets);
            to_first.extend(recorder.datagrams);
        }
        for (datagram, to) in to_first {
            assert_eq!(to, first.endpoint);
            let recorder = first.receive(&datagram, second.endpoint);
            out.0.extend(recorder.packets);
            to_second.extend(recorder.datagrams.into_iter().map(|(datagram, _)| datagram));
        }
    }
    out
}

/// Returns two hosts that are peers and have a session.
fn pair() -> (Host, Host) {
    let (a, b) = (Host::new(A), Host::new(B));
    a.add(&b);
    let handshake = b.add(&a);
    exchange(&b, &a, handshake);
    (a, b)
}

#[test]
fn packets_are_delivered_unchanged() {
    let (a, b) = pair();
    for text in ["", "hello", &"x".repeat(60_000)] {
        let request = a.packet(&b, text);
        let datagram = a.send(&request).unwrap();
        assert_eq!(datagram.len(), request.len() + OVERHEAD);
        assert!(text.is_empty() || !datagram.windows(5).any(|window| window == &text.as_bytes()[..5]));
        assert_eq!(b.receive(&datagram, a.endpoint).packets, [request]);
        let reply = b.packet(&a, text);
        assert_eq!(a.receive(&b.send(&reply).unwrap(), b.endpoint).packets, [reply]);
    }
    assert_eq!((a.engine.drops(), b.engine.drops()), (Drops::default(), Drops::default()));
    let statuses = b.engine.statuses();
    assert!(statuses[0].last_handshake.is_some() && statuses[0].received > 60_000 && statuses[0].sent > 60_000);
}

#[test]
fn waiting_for_a_session_drops_nothing() {
    let (a, b) = (Host::new(A), Host::new(B));
    // This handshake is lost, because the other host has no peer yet.
    a.add(&b);
    let waiting: Vec<_> = ["1", "2", "3"].map(|text| a.packet(&b, text)).into();
    for packet in &waiting {
        assert_eq!(a.send(packet), None);
    }
    // The other host starts a handshake.
    let handshake = b.add(&a);
    let (_, out) = exchange(&b, &a, handshake);
    assert!(out.is_empty());
    assert_eq!(a.engine.drops(), Drops::default());
}

#[test]
fn packets_queued_by_the_initiator_arrive_in_order() {
    let (a, b) = (Host::new(A), Host::new(B));
    b.add(&a);
    let handshake = a.add(&b);
    let waiting: Vec<_> = ["1", "2", "3"].map(|text| a.packet(&b, text)).into();
    for packet in &waiting {
        assert_eq!(a.send(packet), None);
    }
    assert_eq!(exchange(&a, &b, handshake).1, waiting);
}

#[test]
fn replayed_packets_are_dropped() {
    let (a, b) = pair();
    let first = a.send(&a.packet(&b, "1")).unwrap();
    let second = a.send(&a.packet(&b, "2")).unwrap();
    // A packet that arrives out of order is not a replay.
    assert_eq!(b.receive(&second, a.endpoint).packets.len(), 1);
    assert_eq!(b.receive(&first, a.endpoint).packets.len(), 1);
    for datagram in [&first, &second, &first] {
        assert!(b.receive(datagram, a.endpoint).packets.is_empty());
    }
    assert_eq!(b.engine.drops(), Drops { replayed: 3, ..Drops::default() });
}

#[test]
fn a_replayed_handshake_is_dropped() {
    let (a, b) = (Host::new(A), Host::new(B));
    b.add(&a);
    let handshake = a.add(&b).remove(0);
    assert_eq!(b.receive(&handshake, a.endpoint).datagrams.len(), 1);
    assert!(b.receive(&handshake, a.endpoint).datagrams.is_empty());
    assert_eq!(b.engine.drops(), Drops { replayed: 1, ..Drops::default() });
}

#[test]
fn packets_with_foreign_inner_addresses_are_dropped() {
    let (a, b) = pair();
    let (own, other) = (a.key.inner_address(), PrivateKey::generate().public().inner_address());
    // A peer that encrypts packets with any addresses.
    let forged = |source, destination, text| {
        let buffer = &mut [0; 2048];
        let peers = a.engine.peers();
        let peer = peers.by_key(b.key.bytes()).unwrap();
        match peer.tunnel().encapsulate(&packet(source, destination, text), buffer) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(b.receive(&forged(own, b.key.inner_address(), "good"), a.endpoint).packets.len(), 1);
    for (source, destination) in [(other, b.key.inner_address()), (own, other), (b.key.inner_address(), own)] {
        assert!(b.receive(&forged(source, destination, "bad"), a.endpoint).packets.is_empty());
    }
    assert_eq!(b.engine.drops(), Drops { not_allowed: 3, ..Drops::default() });
}

#[test]
fn only_packets_from_this_host_to_a_peer_are_sent() {
    let (a, b) = pair();
    let unknown = PrivateKey::generate().public().inner_address();
    assert!(a.send(&packet(unknown, b.key.inner_address(), "foreign source")).is_none());
    assert!(a.send(&packet(a.key.inner_address(), unknown, "no such peer")).is_none());
    assert!(a.send(&[0x45; 60]).is_none());
    assert!(a.send(&[0x60; 39]).is_none());
    assert!(a.send(&[]).is_none());
    assert_eq!(a.engine.drops(), Drops { unroutable: 5, ..Drops::default() });
}

#[test]
fn unknown_peers_are_not_answered() {
    let (a, b) = (Host::new(A), Host::new(B));
    let handshake = a.add(&b).remove(0);
    assert!(b.receive(&handshake, a.endpoint).datagrams.is_empty());
    assert_eq!(b.engine.drops(), Drops { unknown_peer: 1, ..Drops::default() });
    // A handshake for another public key fails its first MAC and is not processed further.
    let other = Host::new(B);
    b.add(&a);
    assert!(b.receive(&a.add(&other).remove(0), a.endpoint).datagrams.is_empty());
    assert_eq!(b.engine.drops(), Drops { unknown_peer: 1, forged: 1, ..Drops::default() });
}

#[test]
fn packets_of_a_removed_peer_are_dropped() {
    let (a, b) = pair();
    let datagram = a.send(&a.packet(&b, "before")).unwrap();
    b.engine.remove_peer(&a.key);
    assert!(b.receive(&datagram, a.endpoint).packets.is_empty());
    assert!(b.send(&b.packet(&a, "after")).is_none());
    assert_eq!(b.engine.drops(), Drops { unknown_peer: 1, unroutable: 1, ..Drops::default() });
    assert!(b.engine.statuses().is_empty());
    b.engine.remove_peer(&a.key);
}

#[test]
fn a_peer_that_is_set_again_keeps_its_session() {
    let (a, mut b) = pair();
    assert!(a.add(&b).is_empty());
    let first = a.packet(&b, "still there");
    assert_eq!(b.receive(&a.send(&first).unwrap(), a.endpoint).packets, [first]);
    b.endpoint = "[2001:db8::2]:4500".parse().unwrap();
    assert!(a.add(&b).is_empty());
    let (_, to) = a.engine.send(&a.packet(&b, "elsewhere"), &mut [0; 2048]).unwrap();
    assert_eq!(to, b.endpoint);
    // The peer may send from any address. Packets to it go to the configured endpoint.
    let moved: SocketAddr = "203.0.113.9:9".parse().unwrap();
    let packet = b.packet(&a, "from elsewhere");
    assert_eq!(a.receive(&b.send(&packet).unwrap(), moved).packets, [packet]);
    assert_eq!(a.engine.statuses()[0].endpoint, Some(b.endpoint));
}

#[test]
fn under_load_handshakes_are_answered_with_cookies() {
    let (a, b) = (Host::new(A), Host::new(B));
    a.add(&b);
    let handshake = b.add(&a).remove(0);
    let from: SocketAddr = "203.0.113.9:9".parse().unwrap();
    let mut cookies = 0;
    for _ in 0..HANDSHAKES_PER_SECOND + 10 {
        for (datagram, to) in a.receive(&handshake, from).datagrams {
            if datagram.len() == 64 {
                assert_eq!(to, from);
                cookies += 1;
            }
        }
    }
    assert_eq!((cookies, a.engine.drops().overload), (10, 10));
}

#[test]
fn a_handshake_without_an_answer_is_repeated() {
    let (a, b) = (Host::new(A), Host::new(B));
    a.add(&b);
    std::thread::sleep(Duration::from_millis(5100));
    let mut recorder = Recorder::default();
    a.engine.tick(&mut [0; HANDSHAKE_LENGTH], &mut recorder);
    assert_eq!(recorder.datagrams.len(), 1);
    assert_eq!((recorder.datagrams[0].0.len(), recorder.datagrams[0].1), (HANDSHAKE_LENGTH, b.endpoint));
}

#[test]
fn short_buffers_cause_no_panic() {
    let (a, b) = pair();
    let packet = a.packet(&b, &"x".repeat(200));
    let datagram = a.send(&packet).unwrap();
    assert!(a.engine.send(&packet, &mut [0; 200]).is_none());
    let mut recorder = Recorder::default();
    b.engine.receive(&datagram, a.endpoint, &mut [0; 200], &mut recorder);
    b.engine.receive(&datagram[..32], a.endpoint, &mut [0; 32], &mut recorder);
    assert!(recorder.packets.is_empty());
    assert_eq!(b.engine.drops().malformed, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_datagram_makes_the_engine_panic(
        datagrams in proptest::collection::vec((0..6_u8, proptest::collection::vec(any::<u8>(), 0..200)), 1..20)
    ) {
        let (a, b) = pair();
        let session = a.send(&a.packet(&b, "")).unwrap()[4..8].to_vec();
        for (kind, mut datagram) in datagrams {
            // Most cases get a valid message type and length, so that they reach later checks.
            if kind > 0 {
                datagram.resize([0, 148, 92, 64, 100, 32][usize::from(kind)], kind);
                datagram[..4].copy_from_slice(&[kind.min(4), 0, 0, 0]);
                let index = if kind == 2 { 8 } else { 4 };
                datagram[index..index + 4].copy_from_slice(&session);
            }
            prop_assert!(b.receive(&datagram, a.endpoint).packets.is_empty());
            prop_assert!(a.send(&datagram).is_none());
        }
        let packet = a.packet(&b, "still working");
        prop_assert_eq!(b.receive(&a.send(&packet).unwrap(), a.endpoint).packets, [packet]);
    }

    #[test]
    fn changed_or_truncated_messages_are_dropped(changed_byte in any::<prop::sample::Index>(), bit in 0..8_u8, cut_length in any::<prop::sample::Index>()) {
        let (a, b) = (Host::new(A), Host::new(B));
        a.add(&b);
        let mut messages = b.add(&a);
        // The handshake initiation, the response, and a data message.
        for _ in 0..3 {
            let (from, to) = if messages[0].len() == 92 { (&a, &b) } else { (&b, &a) };
            let message = messages.remove(0);
            let mut changed = message.clone();
            // The second MAC, the last field of a handshake message, is only checked under load.
            let checked_length = if message.len() == HANDSHAKE_LENGTH || message.len() == 92 { message.len() - 16 } else { message.len() };
            changed[changed_byte.index(checked_length)] ^= 1 << bit;
            for wrong in [&changed[..], &message[..cut_length.index(message.len())]] {
                let recorder = to.receive(wrong, from.endpoint);
                prop_assert!(recorder.packets.is_empty() && recorder.datagrams.is_empty());
            }
            messages.extend(to.receive(&message, from.endpoint).datagrams.into_iter().map(|(datagram, _)| datagram));
            if messages.is_empty() {
                messages.push(b.send(&b.packet(&a, "data")).unwrap());
            }
        }
    }
}
