//! What is on the wire.

use crate::harness::{Frame, RawPort, tcp};
use crate::scene::{PORT, Scene, backends};

const SECRET: &[u8] = b"what only the other host may read";

fn holds(frame: &Frame, part: &[u8]) -> bool {
    frame.0.windows(part.len()).any(|window| window == part)
}

/// Whether any frame on the wire holds these bytes, and whether there was any at all from or to WireGuard's port.
fn on_the_wire(taps: &[RawPort], part: &[u8]) -> (bool, bool) {
    let frames: Vec<_> = taps.iter().flat_map(RawPort::pending).collect();
    (frames.iter().any(|frame| holds(frame, part)), frames.iter().any(|frame| holds(frame, &PORT.to_be_bytes())))
}

#[test]
fn nothing_of_what_is_sent_can_be_read_on_the_wire() {
    for backend in backends() {
        let scene = Scene::acquainted(backend, 2, false);
        let [a, b] = &scene.hosts[..] else { panic!("two hosts") };
        scene.reaches(0, 1);
        let taps = [scene.tap(0), scene.tap(1)];
        let (sender, receiver) = (a.socket(), b.socket());
        sender.send_to(SECRET, receiver.local_addr().expect("it is bound")).expect("sent");
        assert_eq!(receiver.recv(&mut [0; 100]).expect("it arrives"), SECRET.len());
        assert_eq!(on_the_wire(&taps, SECRET), (false, true));
        // Addresses inside and the content of a connection, neither.
        tcp(&a.netns, &b.netns, b.inner(), 60 << 10);
        let frames: Vec<_> = taps.iter().flat_map(RawPort::pending).collect();
        assert!(frames.len() > 10);
        assert!(!frames.iter().any(|frame| holds(frame, &a.inner().octets()) || holds(frame, &b.inner().octets())));

        // In the clear, it would have been found.
        let receiver = b.netns.inside(|| std::net::UdpSocket::bind((b.outer(false), 0))).expect("a socket");
        let sender = a.netns.inside(|| std::net::UdpSocket::bind((a.outer(false), 0))).expect("a socket");
        sender.send_to(SECRET, receiver.local_addr().expect("it is bound")).expect("sent");
        assert_eq!(receiver.recv(&mut [0; 100]).expect("it arrives"), SECRET.len());
        assert!(on_the_wire(&taps, SECRET).0);
    }
}
