//! What is not taken: replays, strangers, and peers that lie.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use boringtun::noise::{Tunn, TunnResult};
use vswitch::wireguard::PrivateKey;

use crate::harness::{Frame, packets};
use crate::scene::{DEVICE, PORT, Scene, backends, heard, port};

/// Where data messages begin in a frame of UDP over IPv4, and what they begin with.
const MESSAGE: usize = 14 + 20 + 8;
const DATA: [u8; 4] = [4, 0, 0, 0];
/// Where UDP's checksum is in it.
const CHECKSUM: usize = MESSAGE - 2;

fn is_data(frame: &Frame, bytes: usize) -> bool {
    frame.0.len() == MESSAGE + bytes && frame.0[MESSAGE..].starts_with(&DATA)
}

#[test]
fn a_replayed_packet_is_refused() {
    for backend in backends() {
        let scene = Scene::acquainted(backend, 2, false);
        let [a, b] = &scene.hosts[..] else { panic!("two hosts") };
        scene.reaches(0, 1);
        let (sender, receiver) = (a.socket(), b.socket());
        let target = receiver.local_addr().expect("it is bound");
        let (near, far) = (scene.tap(0), scene.tap(1));
        // On its way it is held up.
        scene.wire.ip(&format!("link set {} nomaster", port(1)));
        sender.send_to(&[7; 960], target).expect("sent");
        // Header and tag of the message, and the headers of IPv6 and UDP: a multiple of 16, so the kernel adds nothing.
        let mut captured = near.expect_such("the message", |frame| is_data(frame, 32 + 40 + 8 + 960));
        // Without a checksum: it may have been left to a device, and then it is dropped for that.
        captured.0[CHECKSUM..CHECKSUM + 2].fill(0);
        assert!(!heard(&receiver), "it was not held up");
        far.send(&captured);
        assert!(heard(&receiver), "the first time it is taken, whoever sends it");
        let before = b.drops();
        for _ in 0..3 {
            far.send(&captured);
        }
        assert!(!heard(&receiver), "a replay was taken");
        if let (Some(before), Some(after)) = (before, b.drops()) {
            assert_eq!(after.replayed, before.replayed + 3);
        }
        // One of them, one bit changed, is not genuine.
        let mut changed = captured.clone();
        *changed.0.last_mut().expect("not empty") ^= 1;
        // A later number, or it would be dropped as a replay.
        changed.0[MESSAGE + 9] ^= 0x80;
        far.send(&changed);
        assert!(!heard(&receiver), "a changed message was taken");
        if let (Some(before), Some(after)) = (before, b.drops()) {
            assert_eq!(after.forged, before.forged + 1);
        }
        // What is new is taken.
        scene.wire.ip(&format!("link set {} master br0", port(1)));
        sender.send_to(&[8; 960], target).expect("sent");
        assert!(heard(&receiver));
    }
}

#[test]
fn a_stranger_is_not_heard() {
    for backend in backends() {
        let scene = Scene::new(backend, 3);
        scene.introduce(0, 1, false);
        scene.introduce(1, 0, false);
        // The third knows the second, but not the other way round.
        scene.introduce(2, 1, false);
        scene.reaches(0, 1);
        scene.reaches_not(2, 1);
        let statuses = scene.run(scene.hosts[1].device().peers()).expect("a list");
        assert_eq!(statuses.len(), 1);
        if let Some(drops) = scene.hosts[1].drops() {
            assert!(drops.unknown_peer > 0, "{drops:?}");
        }
        // It has nowhere to answer to, either.
        scene.reaches_not(1, 2);
    }
}

/// A peer that has the right key and says with it whatever it wants.
struct Liar {
    socket: UdpSocket,
    tunnel: Tunn,
}

impl Liar {
    fn new(scene: &Scene, number: usize, victim: usize) -> Self {
        let (host, victim) = (&scene.hosts[number], &scene.hosts[victim]);
        let at = SocketAddr::new(host.outer(false), PORT);
        let socket = host.netns.inside(|| UdpSocket::bind(at)).expect("the port is free");
        socket.connect((victim.outer(false), PORT)).expect("a way");
        socket.set_read_timeout(Some(crate::harness::PATIENCE)).expect("a time limit");
        // The key that the others know it by.
        let secret: [u8; 32] = LIARS_KEY;
        let tunnel = Tunn::new(secret.into(), (*victim.public().bytes()).into(), None, None, 1, None);
        let mut liar = Self { socket, tunnel };
        let mut buffer = [0; 2048];
        let mut datagram = [0; 2048];
        liar.emit_handshake(&mut buffer);
        loop {
            let length = liar.socket.recv(&mut datagram).expect("an answer");
            // The answer to our greeting, and not the victim's own.
            if length != 92 {
                continue;
            }
            if let TunnResult::WriteToNetwork(confirmation) =
                liar.tunnel.decapsulate(None, &datagram[..length], &mut buffer)
            {
                liar.socket.send(confirmation).expect("sent");
                return liar;
            }
        }
    }

    fn emit_handshake(&mut self, buffer: &mut [u8]) {
        match self.tunnel.format_handshake_initiation(buffer, true) {
            TunnResult::WriteToNetwork(greeting) => drop(self.socket.send(greeting).expect("sent")),
            other => panic!("{other:?}"),
        }
    }

    fn say(&mut self, source: Ipv6Addr, to: (Ipv6Addr, u16)) {
        let mut datagram = packets::udp(9, to.1, "from whom?");
        let sum = udp_checksum(source, to.0, &datagram);
        datagram[6..8].copy_from_slice(&sum);
        // Without the EtherType.
        let packet = &packets::ipv6(source, to.0, packets::protocol::UDP, &datagram)[2..];
        let mut buffer = [0; 2048];
        match self.tunnel.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(message) => drop(self.socket.send(message).expect("sent")),
            other => panic!("{other:?}"),
        }
    }
}

const LIARS_KEY: [u8; 32] = [0x42; 32];

fn liars_key() -> PrivateKey {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key");
    let text = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\n";
    std::fs::write(&path, text).expect("a file");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    vswitch::wireguard::load_or_create(&path).expect("a key")
}

/// The checksum of UDP over IPv6 (RFC 8200, 8.1).
fn udp_checksum(source: Ipv6Addr, destination: Ipv6Addr, datagram: &[u8]) -> [u8; 2] {
    let mut bytes = [&source.octets()[..], &destination.octets(), &(datagram.len() as u32).to_be_bytes()].concat();
    bytes.extend([0, 0, 0, packets::protocol::UDP]);
    bytes.extend(datagram);
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[test]
fn a_peer_that_speaks_as_another_is_not_heard() {
    for backend in backends() {
        let mut scene = Scene::without_devices(backend, 3);
        scene.hosts[0].key = liars_key();
        scene.open(1);
        scene.open(2);
        scene.introduce(1, 0, false);
        scene.introduce(1, 2, false);
        scene.introduce(2, 1, false);
        let mut liar = Liar::new(&scene, 0, 1);
        let victim = &scene.hosts[1];
        let receiver = victim.socket();
        let target = (victim.inner(), receiver.local_addr().expect("it is bound").port());
        let (own, others) = (scene.hosts[0].inner(), scene.hosts[2].inner());
        liar.say(own, target);
        assert!(heard(&receiver), "what is true is heard");
        for source in [others, "2001:db8::1".parse().expect("an address"), victim.inner()] {
            liar.say(source, target);
            assert!(!heard(&receiver), "heard as from {source}");
        }
        if let Some(drops) = victim.drops() {
            assert_eq!(drops.not_allowed, 3, "{drops:?}");
        }
        liar.say(own, target);
        assert!(heard(&receiver), "what is true is still heard");
        assert!(victim.netns.devices().contains(DEVICE));
    }
}
