//! Two hosts and what is between them, without a network.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const A: &str = "192.0.2.1:51820";
const B: &str = "192.0.2.2:51820";
const ROOM: usize = 65_536;

/// What came out of an engine.
#[derive(Default)]
struct Caught {
    datagrams: Vec<(Vec<u8>, SocketAddr)>,
    packets: Vec<Vec<u8>>,
}

impl Output for Caught {
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
    at: SocketAddr,
}

impl Host {
    fn new(at: &str) -> Self {
        let key = PrivateKey::generate();
        Self { engine: Engine::new(&key), key: key.public(), at: at.parse().unwrap() }
    }

    fn add(&self, peer: &Self) -> Vec<Vec<u8>> {
        let mut caught = Caught::default();
        self.engine.set_peer(peer.key, peer.at, &mut [0; HANDSHAKE], &mut caught);
        caught.datagrams.into_iter().map(|(datagram, _)| datagram).collect()
    }

    fn receive(&self, datagram: &[u8], from: SocketAddr) -> Caught {
        let mut caught = Caught::default();
        self.engine.receive(datagram, from, &mut [0; ROOM], &mut caught);
        caught
    }

    fn send(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; ROOM];
        self.engine.send(packet, &mut buffer).map(|(length, _)| buffer[..length].to_vec())
    }

    /// A packet to another host.
    fn packet(&self, to: &Self, text: &str) -> Vec<u8> {
        packet(self.key.inner_address(), to.key.inner_address(), text)
    }
}

fn packet(source: Ipv6Addr, destination: Ipv6Addr, text: &str) -> Vec<u8> {
    let length = (text.len() as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], 59, 64];
    [&header[..], &source.octets(), &destination.octets(), text.as_bytes()].concat()
}

/// Carries datagrams back and forth until none is left; the packets that came out at each end.
fn carry(first: &Host, second: &Host, mut to_second: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut out = (Vec::new(), Vec::new());
    while !to_second.is_empty() {
        let mut to_first = Vec::new();
        for datagram in to_second.drain(..) {
            let caught = second.receive(&datagram, first.at);
            out.1.extend(caught.packets);
            to_first.extend(caught.datagrams);
        }
        for (datagram, to) in to_first {
            assert_eq!(to, first.at);
            let caught = first.receive(&datagram, second.at);
            out.0.extend(caught.packets);
            to_second.extend(caught.datagrams.into_iter().map(|(datagram, _)| datagram));
        }
    }
    out
}

/// Two that know each other and have agreed on keys.
fn pair() -> (Host, Host) {
    let (a, b) = (Host::new(A), Host::new(B));
    a.add(&b);
    let greeting = b.add(&a);
    carry(&b, &a, greeting);
    (a, b)
}

#[test]
fn packets_come_out_as_they_went_in() {
    let (a, b) = pair();
    for text in ["", "hello", &"x".repeat(60_000)] {
        let there = a.packet(&b, text);
        let datagram = a.send(&there).unwrap();
        assert_eq!(datagram.len(), there.len() + OVERHEAD);
        assert!(text.is_empty() || !datagram.windows(5).any(|window| window == &text.as_bytes()[..5]));
        assert_eq!(b.receive(&datagram, a.at).packets, [there]);
        let back = b.packet(&a, text);
        assert_eq!(a.receive(&b.send(&back).unwrap(), b.at).packets, [back]);
    }
    assert_eq!((a.engine.drops(), b.engine.drops()), (Drops::default(), Drops::default()));
    let statuses = b.engine.statuses();
    assert!(statuses[0].last_handshake.is_some() && statuses[0].received > 60_000 && statuses[0].sent > 60_000);
}

#[test]
fn what_waits_for_a_session_comes_when_it_is_there() {
    let (a, b) = (Host::new(A), Host::new(B));
    // Lost: the other is not there yet.
    a.add(&b);
    let waiting: Vec<_> = ["1", "2", "3"].map(|text| a.packet(&b, text)).into();
    for packet in &waiting {
        assert_eq!(a.send(packet), None);
    }
    // The other begins.
    let greeting = b.add(&a);
    let (_, out) = carry(&b, &a, greeting);
    assert!(out.is_empty());
    assert_eq!(a.engine.drops(), Drops::default());
}

#[test]
fn what_waits_at_who_begins_comes_in_order() {
    let (a, b) = (Host::new(A), Host::new(B));
    b.add(&a);
    let greeting = a.add(&b);
    let waiting: Vec<_> = ["1", "2", "3"].map(|text| a.packet(&b, text)).into();
    for packet in &waiting {
        assert_eq!(a.send(packet), None);
    }
    assert_eq!(carry(&a, &b, greeting).1, waiting);
}

#[test]
fn what_was_received_is_not_received_again() {
    let (a, b) = pair();
    let first = a.send(&a.packet(&b, "1")).unwrap();
    let second = a.send(&a.packet(&b, "2")).unwrap();
    // Out of order is no replay.
    assert_eq!(b.receive(&second, a.at).packets.len(), 1);
    assert_eq!(b.receive(&first, a.at).packets.len(), 1);
    for datagram in [&first, &second, &first] {
        assert!(b.receive(datagram, a.at).packets.is_empty());
    }
    assert_eq!(b.engine.drops(), Drops { replayed: 3, ..Drops::default() });
}

#[test]
fn a_handshake_is_not_taken_twice() {
    let (a, b) = (Host::new(A), Host::new(B));
    b.add(&a);
    let greeting = a.add(&b).remove(0);
    assert_eq!(b.receive(&greeting, a.at).datagrams.len(), 1);
    assert!(b.receive(&greeting, a.at).datagrams.is_empty());
    assert_eq!(b.engine.drops(), Drops { replayed: 1, ..Drops::default() });
}

#[test]
fn a_peer_speaks_with_its_own_address_and_to_ours_alone() {
    let (a, b) = pair();
    let (own, other) = (a.key.inner_address(), PrivateKey::generate().public().inner_address());
    // A host that lets its own packets say anything.
    let forged = |source, destination, text| {
        let buffer = &mut [0; 2048];
        let peers = a.engine.peers();
        let peer = peers.by_key(b.key.bytes()).unwrap();
        match peer.tunnel().encapsulate(&packet(source, destination, text), buffer) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(b.receive(&forged(own, b.key.inner_address(), "good"), a.at).packets.len(), 1);
    for (source, destination) in [(other, b.key.inner_address()), (own, other), (b.key.inner_address(), own)] {
        assert!(b.receive(&forged(source, destination, "bad"), a.at).packets.is_empty());
    }
    assert_eq!(b.engine.drops(), Drops { not_allowed: 3, ..Drops::default() });
}

#[test]
fn only_what_is_ours_and_for_a_peer_is_sent() {
    let (a, b) = pair();
    let stranger = PrivateKey::generate().public().inner_address();
    assert!(a.send(&packet(stranger, b.key.inner_address(), "not from us")).is_none());
    assert!(a.send(&packet(a.key.inner_address(), stranger, "to nobody")).is_none());
    assert!(a.send(&[0x45; 60]).is_none());
    assert!(a.send(&[0x60; 39]).is_none());
    assert!(a.send(&[]).is_none());
    assert_eq!(a.engine.drops(), Drops { unroutable: 5, ..Drops::default() });
}

#[test]
fn strangers_are_not_answered() {
    let (a, b) = (Host::new(A), Host::new(B));
    let greeting = a.add(&b).remove(0);
    assert!(b.receive(&greeting, a.at).datagrams.is_empty());
    assert_eq!(b.engine.drops(), Drops { unknown_peer: 1, ..Drops::default() });
    // One who does not know our key is not even looked at.
    let other = Host::new(B);
    b.add(&a);
    assert!(b.receive(&a.add(&other).remove(0), a.at).datagrams.is_empty());
    assert_eq!(b.engine.drops(), Drops { unknown_peer: 1, forged: 1, ..Drops::default() });
}

#[test]
fn a_removed_peer_is_a_stranger() {
    let (a, b) = pair();
    let datagram = a.send(&a.packet(&b, "before")).unwrap();
    b.engine.remove_peer(&a.key);
    assert!(b.receive(&datagram, a.at).packets.is_empty());
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
    assert_eq!(b.receive(&a.send(&first).unwrap(), a.at).packets, [first]);
    b.at = "[2001:db8::2]:4500".parse().unwrap();
    assert!(a.add(&b).is_empty());
    let (_, to) = a.engine.send(&a.packet(&b, "elsewhere"), &mut [0; 2048]).unwrap();
    assert_eq!(to, b.at);
    // It may send from anywhere; what goes to it goes where it was said to be.
    let moved: SocketAddr = "203.0.113.9:9".parse().unwrap();
    let packet = b.packet(&a, "from elsewhere");
    assert_eq!(a.receive(&b.send(&packet).unwrap(), moved).packets, [packet]);
    assert_eq!(a.engine.statuses()[0].endpoint, Some(b.at));
}

#[test]
fn too_many_handshakes_have_to_prove_where_they_are() {
    let (a, b) = (Host::new(A), Host::new(B));
    a.add(&b);
    let greeting = b.add(&a).remove(0);
    let from: SocketAddr = "203.0.113.9:9".parse().unwrap();
    let mut cookies = 0;
    for _ in 0..HANDSHAKES + 10 {
        for (datagram, to) in a.receive(&greeting, from).datagrams {
            if datagram.len() == 64 {
                assert_eq!(to, from);
                cookies += 1;
            }
        }
    }
    assert_eq!((cookies, a.engine.drops().overload), (10, 10));
}

#[test]
fn a_peer_that_does_not_answer_is_greeted_again() {
    let (a, b) = (Host::new(A), Host::new(B));
    a.add(&b);
    std::thread::sleep(Duration::from_millis(5100));
    let mut caught = Caught::default();
    a.engine.tick(&mut [0; HANDSHAKE], &mut caught);
    assert_eq!(caught.datagrams.len(), 1);
    assert_eq!((caught.datagrams[0].0.len(), caught.datagrams[0].1), (HANDSHAKE, b.at));
}

#[test]
fn buffers_that_are_too_short_are_no_panic() {
    let (a, b) = pair();
    let packet = a.packet(&b, &"x".repeat(200));
    let datagram = a.send(&packet).unwrap();
    assert!(a.engine.send(&packet, &mut [0; 200]).is_none());
    let mut caught = Caught::default();
    b.engine.receive(&datagram, a.at, &mut [0; 200], &mut caught);
    b.engine.receive(&datagram[..32], a.at, &mut [0; 32], &mut caught);
    assert!(caught.packets.is_empty());
    assert_eq!(b.engine.drops().malformed, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic(
        datagrams in proptest::collection::vec((0..6_u8, proptest::collection::vec(any::<u8>(), 0..200)), 1..20)
    ) {
        let (a, b) = pair();
        let session = a.send(&a.packet(&b, "")).unwrap()[4..8].to_vec();
        for (kind, mut datagram) in datagrams {
            // Most with a header that leads further in, and of the length that goes with it.
            if kind > 0 {
                datagram.resize([0, 148, 92, 64, 100, 32][usize::from(kind)], kind);
                datagram[..4].copy_from_slice(&[kind.min(4), 0, 0, 0]);
                let index = if kind == 2 { 8 } else { 4 };
                datagram[index..index + 4].copy_from_slice(&session);
            }
            prop_assert!(b.receive(&datagram, a.at).packets.is_empty());
            prop_assert!(a.send(&datagram).is_none());
        }
        let packet = a.packet(&b, "and it goes on");
        prop_assert_eq!(b.receive(&a.send(&packet).unwrap(), a.at).packets, [packet]);
    }

    #[test]
    fn nothing_that_was_changed_or_cut_is_taken(place in any::<prop::sample::Index>(), bit in 0..8_u8, cut in any::<prop::sample::Index>()) {
        let (a, b) = (Host::new(A), Host::new(B));
        a.add(&b);
        let mut messages = b.add(&a);
        // Whichever message of a handshake, and the data behind it.
        for _ in 0..3 {
            let (from, to) = if messages[0].len() == 92 { (&a, &b) } else { (&b, &a) };
            let whole = messages.remove(0);
            let mut changed = whole.clone();
            // The last field of a handshake's messages, the second MAC, is only looked at where there are too many of them.
            let looked_at = if whole.len() == HANDSHAKE || whole.len() == 92 { whole.len() - 16 } else { whole.len() };
            changed[place.index(looked_at)] ^= 1 << bit;
            for wrong in [&changed[..], &whole[..cut.index(whole.len())]] {
                let caught = to.receive(wrong, from.at);
                prop_assert!(caught.packets.is_empty() && caught.datagrams.is_empty());
            }
            messages.extend(to.receive(&whole, from.at).datagrams.into_iter().map(|(datagram, _)| datagram));
            if messages.is_empty() {
                messages.push(b.send(&b.packet(&a, "data")).unwrap());
            }
        }
    }
}
