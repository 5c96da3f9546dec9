//! Confidentiality on the wire.

use crate::harness::{Frame, RawPort, tcp};
use crate::scene::{PORT, Scene, backends};

const SECRET: &[u8] = b"only for the peer to read";

fn contains(frame: &Frame, part: &[u8]) -> bool {
    frame.0.windows(part.len()).any(|window| window == part)
}

/// Reports whether a frame on the wire contains the bytes, and whether a frame from or to
/// WireGuard's port was seen.
fn seen_on_the_wire(taps: &[RawPort], part: &[u8]) -> (bool, bool) {
    let frames: Vec<_> = taps.iter().flat_map(RawPort::pending).collect();
    (frames.iter().any(|frame| contains(frame, part)), frames.iter().any(|frame| contains(frame, &PORT.to_be_bytes())))
}

#[test]
fn traffic_is_not_readable_on_the_wire() {
    for backend in backends() {
        let scene = Scene::with_peers(backend, 2, false);
        let [a, b] = &scene.hosts[..] else { panic!("two hosts") };
        scene.reaches(0, 1);
        let taps = [scene.tap(0), scene.tap(1)];
        let (sender, receiver) = (a.socket(), b.socket());
        sender.send_to(SECRET, receiver.local_addr().expect("a bound socket")).expect("sent");
        assert_eq!(receiver.recv(&mut [0; 100]).expect("the datagram"), SECRET.len());
        assert_eq!(seen_on_the_wire(&taps, SECRET), (false, true));
        // Inner addresses and the content of a TCP connection are not readable either.
        tcp(&a.netns, &b.netns, b.inner(), 60 << 10);
        let frames: Vec<_> = taps.iter().flat_map(RawPort::pending).collect();
        assert!(frames.len() > 10);
        assert!(
            !frames.iter().any(|frame| contains(frame, &a.inner().octets()) || contains(frame, &b.inner().octets()))
        );

        // Counter-check: an unencrypted datagram is found.
        let receiver = b.netns.inside(|| std::net::UdpSocket::bind((b.outer(false), 0))).expect("a socket");
        let sender = a.netns.inside(|| std::net::UdpSocket::bind((a.outer(false), 0))).expect("a socket");
        sender.send_to(SECRET, receiver.local_addr().expect("a bound socket")).expect("sent");
        assert_eq!(receiver.recv(&mut [0; 100]).expect("the datagram"), SECRET.len());
        assert!(seen_on_the_wire(&taps, SECRET).0);
    }
}
