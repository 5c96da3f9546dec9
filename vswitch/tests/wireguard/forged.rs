//! Packets that must be dropped: replays, unknown peers, and forged inner addresses.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};

use boringtun::noise::{Tunn, TunnResult};
use vswitch::wireguard::PrivateKey;

use crate::harness::{Frame, packets};
use crate::scene::{DEVICE, PORT, Scene, backends, port, receives_datagram};

/// Offset of the WireGuard message in a UDP-over-IPv4 frame, and the start of a data message.
const MESSAGE_OFFSET: usize = 14 + 20 + 8;
const DATA_TYPE: [u8; 4] = [4, 0, 0, 0];
/// Offset of the UDP checksum.
const CHECKSUM_OFFSET: usize = MESSAGE_OFFSET - 2;

fn is_data(frame: &Frame, bytes: usize) -> bool {
    frame.0.len() == MESSAGE_OFFSET + bytes && frame.0[MESSAGE_OFFSET..].starts_with(&DATA_TYPE)
}

#[test]
fn a_replayed_packet_is_dropped() {
    for backend in backends() {
        let scene = Scene::with_peers(backend, 2, false);
        let [a, b] = &scene.hosts[..] else { panic!("two hosts") };
        scene.reaches(0, 1);
        let (sender, receiver) = (a.socket(), b.socket());
        let target = receiver.local_addr().expect("a bound socket");
        let (sender_tap, receiver_tap) = (scene.tap(0), scene.tap(1));
        // Hold the packet back: remove the receiver's port from the bridge.
        scene.bridge.ip(&format!("link set {} nomaster", port(1)));
        sender.send_to(&[7; 960], target).expect("sent");
        // Header and tag of the message, IPv6 and UDP headers, and the payload. The sum is a
        // multiple of 16, so the kernel adds no padding.
        let mut captured = sender_tap.expect_such("the message", |frame| is_data(frame, 32 + 40 + 8 + 960));
        // Clear the checksum. It may be left to the device, and an unfinished one would cause a
        // drop.
        captured.0[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
        assert!(!receives_datagram(&receiver), "the packet was not held back");
        receiver_tap.send(&captured);
        assert!(receives_datagram(&receiver), "the first copy is accepted from any sender");
        let before = b.drops();
        for _ in 0..3 {
            receiver_tap.send(&captured);
        }
        assert!(!receives_datagram(&receiver), "a replay was accepted");
        if let (Some(before), Some(after)) = (before, b.drops()) {
            assert_eq!(after.replayed, before.replayed + 3);
        }
        // A message with one changed bit is not authentic.
        let mut changed = captured.clone();
        *changed.0.last_mut().expect("not empty") ^= 1;
        // Use a later counter, so that the message is not dropped as a replay.
        changed.0[MESSAGE_OFFSET + 9] ^= 0x80;
        receiver_tap.send(&changed);
        assert!(!receives_datagram(&receiver), "a changed message was accepted");
        if let (Some(before), Some(after)) = (before, b.drops()) {
            assert_eq!(after.forged, before.forged + 1);
        }
        // A new packet is delivered.
        scene.bridge.ip(&format!("link set {} master br0", port(1)));
        sender.send_to(&[8; 960], target).expect("sent");
        assert!(receives_datagram(&receiver));
    }
}

#[test]
fn packets_of_an_unknown_peer_are_dropped() {
    for backend in backends() {
        let scene = Scene::new(backend, 3);
        scene.add_peer(0, 1, false);
        scene.add_peer(1, 0, false);
        // The third host has the second as a peer, but not the other way round.
        scene.add_peer(2, 1, false);
        scene.reaches(0, 1);
        scene.does_not_reach(2, 1);
        let statuses = scene.run(scene.hosts[1].device().peers()).expect("a list");
        assert_eq!(statuses.len(), 1);
        if let Some(drops) = scene.hosts[1].drops() {
            assert!(drops.unknown_peer > 0, "{drops:?}");
        }
        // The second host has no endpoint of the third.
        scene.does_not_reach(1, 2);
    }
}

/// A peer with a valid key that sends packets with arbitrary inner addresses.
struct Forger {
    socket: UdpSocket,
    tunnel: Tunn,
}

impl Forger {
    fn new(scene: &Scene, number: usize, victim: usize) -> Self {
        let (host, victim) = (&scene.hosts[number], &scene.hosts[victim]);
        let address = SocketAddr::new(host.outer(false), PORT);
        let socket = host.netns.inside(|| UdpSocket::bind(address)).expect("the port is free");
        socket.connect((victim.outer(false), PORT)).expect("a route");
        socket.set_read_timeout(Some(crate::harness::PATIENCE)).expect("a time limit");
        // The private key whose public key the victim has as a peer.
        let secret: [u8; 32] = FORGER_KEY;
        let tunnel = Tunn::new(secret.into(), (*victim.public().bytes()).into(), None, None, 1, None);
        let mut forger = Self { socket, tunnel };
        let mut buffer = [0; 2048];
        let mut datagram = [0; 2048];
        forger.send_handshake(&mut buffer);
        loop {
            let length = forger.socket.recv(&mut datagram).expect("an answer");
            // Skip messages other than the answer to this handshake, such as the victim's own
            // handshakes.
            if length != 92 {
                continue;
            }
            if let TunnResult::WriteToNetwork(confirmation) =
                forger.tunnel.decapsulate(None, &datagram[..length], &mut buffer)
            {
                forger.socket.send(confirmation).expect("sent");
                return forger;
            }
        }
    }

    fn send_handshake(&mut self, buffer: &mut [u8]) {
        match self.tunnel.format_handshake_initiation(buffer, true) {
            TunnResult::WriteToNetwork(handshake) => drop(self.socket.send(handshake).expect("sent")),
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, source: Ipv6Addr, to: (Ipv6Addr, u16)) {
        let mut datagram = packets::udp(9, to.1, "forged?");
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

const FORGER_KEY: [u8; 32] = [0x42; 32];

fn forger_key() -> PrivateKey {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key");
    let text = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=\n";
    std::fs::write(&path, text).expect("a file");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    vswitch::wireguard::load_or_create(&path).expect("a key")
}

/// Computes the UDP checksum over IPv6 (RFC 8200, section 8.1).
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
fn packets_with_the_inner_address_of_another_host_are_dropped() {
    for backend in backends() {
        let mut scene = Scene::without_devices(backend, 3);
        scene.hosts[0].key = forger_key();
        scene.open(1);
        scene.open(2);
        scene.add_peer(1, 0, false);
        scene.add_peer(1, 2, false);
        scene.add_peer(2, 1, false);
        let mut forger = Forger::new(&scene, 0, 1);
        let victim = &scene.hosts[1];
        let receiver = victim.socket();
        let target = (victim.inner(), receiver.local_addr().expect("a bound socket").port());
        let (own_address, other_address) = (scene.hosts[0].inner(), scene.hosts[2].inner());
        forger.send(own_address, target);
        assert!(receives_datagram(&receiver), "a packet with the own address arrives");
        for source in [other_address, "2001:db8::1".parse().expect("an address"), victim.inner()] {
            forger.send(source, target);
            assert!(!receives_datagram(&receiver), "a packet from {source} arrived");
        }
        if let Some(drops) = victim.drops() {
            assert_eq!(drops.not_allowed, 3, "{drops:?}");
        }
        forger.send(own_address, target);
        assert!(receives_datagram(&receiver), "a packet with the own address still arrives");
        assert!(victim.netns.devices().contains(DEVICE));
    }
}
