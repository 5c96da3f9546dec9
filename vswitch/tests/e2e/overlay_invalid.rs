//! Invalid packets at the VXLAN port: from unknown peers, with an unknown VNI, or without a valid
//! VXLAN header.

use std::net::UdpSocket;

use crate::harness::{Cloud, Counters, Family, Frame, Mac, Netns, RawPort, eventually, ping, reaches};

const VNI: u32 = 5000;

/// Returns a VXLAN header (RFC 7348, 5).
fn header(vni: u32) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat()
}

fn source(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0x77, last])
}

/// A host with a container and one real peer, and a machine (`attacker`) whose VXLAN packets are
/// written by the test.
struct Target {
    listener: RawPort,
    attacker: Netns,
    socket: UdpSocket,
    to: (std::net::IpAddr, u16),
    cloud: Cloud,
}

/// Starts the hosts. `known` says whether `attacker` is a peer.
fn start_target(family: Family, known: bool) -> Target {
    let cloud = Cloud::up(2, family);
    let attacker = Netns::new("attacker");
    cloud.plug(&attacker, 5);
    if known {
        cloud.hosts[0].ok(&["peer", "add", &cloud.peer(5)]);
    }
    let socket = cloud.socket(&attacker, 5);
    let listener = RawPort::open(&cloud.containers[0], "eth0");
    let to = (Cloud::address(family, 0), 4789);
    ping(&cloud.containers[1], cloud.at[0].ipv4);
    Target { listener, attacker, socket, to, cloud }
}

impl Target {
    fn send(&self, packet: &[u8]) {
        // The kernel must send every one of these datagrams.
        self.socket.send_to(packet, self.to).expect("sending");
    }

    /// Returns the frames that the container received before a mark, which the container of the
    /// real peer sends now.
    fn frames_before_mark(&self, text: &str) -> Vec<Frame> {
        let mark = Frame::new(Mac::BROADCAST, self.cloud.at[1].mac, text);
        RawPort::open(&self.cloud.containers[1], "eth0").send(&mark);
        self.listener.expect(&mark)
    }

    /// Returns the number of packets that were dropped for a reason before they were assigned to a
    /// port.
    fn dropped(&self, reason: &str) -> u64 {
        let ports = self.cloud.hosts[0].ports(&[]);
        let device = ports.iter().find(|(name, _)| name.ends_with("-vxlan"));
        device.expect("a row of the VXLAN device").1.dropped(reason)
    }

    #[track_caller]
    fn assert_nothing_delivered(&self, sources: impl IntoIterator<Item = Mac>) {
        let received = self.frames_before_mark("the end");
        let sources: Vec<Mac> = sources.into_iter().collect();
        let wrong = received.iter().filter(|frame| sources.iter().any(|mac| frame.0[6..12] == mac.0));
        assert_eq!(wrong.count(), 0, "{received:02x?}");
        let stations = self.cloud.hosts[0].fdb(&[]);
        assert!(!stations.iter().any(|station| sources.contains(&station.mac)), "{stations:#?}");
        assert!(self.cloud.hosts[0].daemon().is_some(), "the daemon still runs");
        ping(&self.cloud.containers[1], self.cloud.at[0].ipv4);
    }
}

#[test]
fn a_valid_packet_of_a_peer_is_delivered() {
    for family in [Family::V4, Family::V6] {
        let target = start_target(family, true);
        let hello = Frame::new(target.cloud.at[0].mac, source(1), "hello");
        target.send(&[header(VNI), hello.0.clone()].concat());
        target.listener.expect(&hello);
        assert_eq!(target.cloud.port_of(0, source(1)), Some(target.cloud.peer(5)));
        let peer = target.cloud.peers(0).into_iter().find(|peer| peer.address.to_string() == target.cloud.peer(5));
        let peer = peer.expect("peer ls shows it");
        assert_eq!((peer.state.as_str(), peer.rx_frames, peer.rx_bytes), ("up", 1, hello.0.len() as u64), "{peer:?}");
        drop(target.attacker);
    }
}

#[test]
fn packets_of_unknown_peers_are_dropped() {
    for family in [Family::V4, Family::V6] {
        let target = start_target(family, false);
        for destination in [target.cloud.at[0].mac, Mac::BROADCAST, source(9)] {
            target.send(&[header(VNI), Frame::new(destination, source(1), "hello").0].concat());
        }
        target.assert_nothing_delivered([source(1)]);
        assert_eq!(target.dropped("unknown_peer"), 3, "{family:?}");
    }
}

#[test]
fn a_host_without_tunnels_drops_vxlan_packets() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    cloud.create(0, "net", Cloud::VNI, &[]);
    let gateway = *host.netns.addresses(&cloud.host_device(0)).first().expect("the host's address in the network");
    // A machine with a VXLAN device of the kernel whose VNI no network has.
    let attacker = Netns::new("attacker");
    cloud.plug(&attacker, 5);
    attacker.ip(&format!("link add vx0 type vxlan id 77 remote {} dstport 4789", cloud.peer(0)));
    attacker.ip("link set vx0 up");
    // Packets are sent at once, not after the next of several requests for the MAC address.
    attacker.ip(&format!("neigh replace {gateway} lladdr 02:00:00:00:00:77 dev vx0 nud permanent"));
    let dropped = || host.ports(&[]).iter().filter(|(name, _)| name.ends_with("-vxlan")).map(unknown_vnis).sum::<u64>();
    let assert_vxlan_is_dropped = |when: &str| {
        attacker.ip(&format!("route replace {gateway}/32 via {}", cloud.peer(0)));
        assert_eq!(reaches(&attacker, &host.netns, gateway.into(), true).to_string(), "yes", "routed, {when}");
        attacker.ip(&format!("route replace {gateway}/32 dev vx0 src {}", cloud.peer(5)));
        let before = dropped();
        assert_eq!(reaches(&attacker, &host.netns, gateway.into(), false).to_string(), "no", "through VXLAN, {when}");
        assert!(dropped() > before, "the drops are counted, {when}");
    };
    assert_vxlan_is_dropped("before the first peer");
    cloud.add_all_peers(0);
    assert_vxlan_is_dropped("with a peer");
    host.ok(&["peer", "rm", &cloud.peer(1)]);
    assert_vxlan_is_dropped("after the last peer was removed");
    host.kill_daemon();
    host.start(&[]);
    assert_vxlan_is_dropped("after a takeover");
    host.stop(&[]);
    assert!(cloud.tunnels(0).is_none(), "down removes the VXLAN device");
}

fn unknown_vnis((_, counters): (&String, &Counters)) -> u64 {
    counters.dropped("unknown_vni")
}

#[test]
fn packets_with_an_unknown_vni_are_dropped() {
    for family in [Family::V4, Family::V6] {
        let target = start_target(family, true);
        for vni in [0, 1, VNI - 1, VNI + 1, 0x00ff_ffff, VNI | 1 << 23] {
            for destination in [target.cloud.at[0].mac, Mac::BROADCAST] {
                target.send(&[header(vni), Frame::new(destination, source(2), "hello").0].concat());
            }
        }
        target.assert_nothing_delivered([source(2)]);
        assert_eq!(target.dropped("unknown_vni"), 12, "{family:?}");
    }
}

#[test]
fn truncated_packets_are_dropped() {
    for family in [Family::V4, Family::V6] {
        let target = start_target(family, true);
        let whole = [header(VNI), Frame::new(target.cloud.at[0].mac, source(3), "cut").0].concat();
        // Up to 21 bytes: a frame that ends after its EtherType (22 bytes) is valid.
        for length in 0..8 + 14 {
            target.send(&whole[..length]);
        }
        target.assert_nothing_delivered([source(3)]);
        assert_eq!(target.dropped("vxlan_header"), 22, "{family:?}");
    }
}

#[test]
fn packets_with_a_reserved_bit_set_are_dropped() {
    for family in [Family::V4, Family::V6] {
        let target = start_target(family, true);
        // All bits except those of the VNI and the I flag, which marks the VNI as valid.
        let reserved: Vec<u8> = (0..64).filter(|bit| *bit != 4 && !(32..56).contains(bit)).collect();
        for bit in &reserved {
            let mut bytes = header(VNI);
            bytes[usize::from(*bit) / 8] ^= 0x80 >> (bit % 8);
            target.send(&[bytes, Frame::new(target.cloud.at[0].mac, source(*bit), "reserved").0].concat());
        }
        // A header without the I flag.
        let bytes = [&[0, 0, 0, 0][..], &(VNI << 8).to_be_bytes()].concat();
        target.send(&[bytes, Frame::new(target.cloud.at[0].mac, source(70), "no flag").0].concat());
        target.assert_nothing_delivered((0..71).map(source));
        assert_eq!(target.dropped("vxlan_header"), reserved.len() as u64 + 1, "{family:?}");
    }
}

#[test]
fn a_peer_cannot_take_over_a_local_station() {
    let target = start_target(Family::V4, true);
    let at = &target.cloud.at[0];
    let port = target.cloud.peer(5);
    let spoofed = || target.cloud.hosts[0].ports(&["net"])[&port].dropped("source_spoofed");
    let before = spoofed();
    for destination in [Mac::BROADCAST, at.mac] {
        target.send(&[header(VNI), Frame::new(destination, at.mac, "I am you").0].concat());
    }
    eventually("the packets are dropped as spoofed", || (spoofed() == before + 2).then_some(()));
    let counters = target.cloud.hosts[0].ports(&["net"]).remove(&port).expect("the tunnel");
    assert_eq!(counters.accounted(), counters.rx_frames, "{counters:?}");
    ping(&target.cloud.containers[1], at.ipv4);
}
