//! What comes to the tunnels' port and is no good: from nobody we know, of a network we have not, or no VXLAN at all.

use std::net::UdpSocket;

use crate::harness::{Cloud, Counters, Family, Frame, Mac, Netns, RawPort, eventually, ping, reaches};

const VNI: u32 = 5000;

/// A VXLAN header (RFC 7348, 5).
fn header(vni: u32) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat()
}

fn source(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0x77, last])
}

/// A host with a container, one real peer, and a peer of which the test is what is behind it.
struct Target {
    listener: RawPort,
    mallory: Netns,
    socket: UdpSocket,
    to: (std::net::IpAddr, u16),
    cloud: Cloud,
}

/// `known`: whether the machine that sends is a peer.
fn target(family: Family, known: bool) -> Target {
    let cloud = Cloud::up(2, family);
    let mallory = Netns::new("mallory");
    cloud.plug(&mallory, 5);
    if known {
        cloud.hosts[0].ok(&["peer", "add", &cloud.peer(5)]);
    }
    let socket = cloud.socket(&mallory, 5);
    let listener = RawPort::open(&cloud.containers[0], "eth0");
    let to = (Cloud::address(family, 0), 4789);
    ping(&cloud.containers[1], cloud.at[0].ipv4);
    Target { listener, mallory, socket, to, cloud }
}

impl Target {
    fn send(&self, packet: &[u8]) {
        // What the kernel does not take as a datagram cannot come.
        self.socket.send_to(packet, self.to).expect("sending");
    }

    /// What has come in the container until a frame from the real peer did, which was sent afterwards.
    fn came(&self, text: &str) -> Vec<Frame> {
        let mark = Frame::new(Mac::BROADCAST, self.cloud.at[1].mac, text);
        RawPort::open(&self.cloud.containers[1], "eth0").send(&mark);
        self.listener.expect(&mark)
    }

    /// How many packets were dropped for a reason before they were any port's.
    fn dropped(&self, reason: &str) -> u64 {
        let ports = self.cloud.hosts[0].ports(&[]);
        let device = ports.iter().find(|(name, _)| name.ends_with("-vxlan"));
        device.expect("the row of the tunnels' device").1.dropped(reason)
    }

    #[track_caller]
    fn assert_nothing(&self, sources: impl IntoIterator<Item = Mac>) {
        let came = self.came("the end");
        let sources: Vec<Mac> = sources.into_iter().collect();
        let wrong = came.iter().filter(|frame| sources.iter().any(|mac| frame.0[6..12] == mac.0));
        assert_eq!(wrong.count(), 0, "{came:02x?}");
        let stations = self.cloud.hosts[0].fdb(&[]);
        assert!(!stations.iter().any(|station| sources.contains(&station.mac)), "{stations:#?}");
        assert!(self.cloud.hosts[0].daemon().is_some(), "the daemon lives");
        ping(&self.cloud.containers[1], self.cloud.at[0].ipv4);
    }
}

#[test]
fn what_a_peer_sends_by_hand_arrives() {
    for family in [Family::V4, Family::V6] {
        let target = target(family, true);
        let hello = Frame::new(target.cloud.at[0].mac, source(1), "hello");
        target.send(&[header(VNI), hello.0.clone()].concat());
        target.listener.expect(&hello);
        assert_eq!(target.cloud.port_of(0, source(1)), Some(target.cloud.peer(5)));
        let peer = target.cloud.peers(0).into_iter().find(|peer| peer.address.to_string() == target.cloud.peer(5));
        let peer = peer.expect("peer ls shows it");
        assert_eq!((peer.state.as_str(), peer.rx_frames, peer.rx_bytes), ("up", 1, hello.0.len() as u64), "{peer:?}");
        drop(target.mallory);
    }
}

#[test]
fn nobody_hears_a_host_that_is_no_peer() {
    for family in [Family::V4, Family::V6] {
        let target = target(family, false);
        for destination in [target.cloud.at[0].mac, Mac::BROADCAST, source(9)] {
            target.send(&[header(VNI), Frame::new(destination, source(1), "hello").0].concat());
        }
        target.assert_nothing([source(1)]);
        assert_eq!(target.dropped("unknown_peer"), 3, "{family:?}");
    }
}

#[test]
fn a_host_without_a_tunnel_hears_nobody_by_vxlan() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    cloud.create(0, "net", Cloud::VNI, &[]);
    let gateway = *host.netns.addresses(&cloud.host_device(0)).first().expect("the host's address in the network");
    // A machine with a VXLAN device of the kernel, of no network's VNI.
    let mallory = Netns::new("mallory");
    cloud.plug(&mallory, 5);
    mallory.ip(&format!("link add vx0 type vxlan id 77 remote {} dstport 4789", cloud.peer(0)));
    mallory.ip("link set vx0 up");
    let dropped = || host.ports(&[]).iter().filter(|(name, _)| name.ends_with("-vxlan")).map(unknown_vnis).sum::<u64>();
    let nothing_comes = |when: &str| {
        mallory.ip(&format!("route replace {gateway}/32 via {}", cloud.peer(0)));
        assert_eq!(reaches(&mallory, &host.netns, gateway.into(), true).to_string(), "yes", "by the router, {when}");
        mallory.ip(&format!("route replace {gateway}/32 dev vx0 src {}", cloud.peer(5)));
        let before = dropped();
        assert_eq!(reaches(&mallory, &host.netns, gateway.into(), false).to_string(), "no", "by VXLAN, {when}");
        assert!(dropped() > before, "it is counted, {when}");
    };
    nothing_comes("before there is a peer");
    cloud.acquaint(0);
    nothing_comes("with a peer");
    host.ok(&["peer", "rm", &cloud.peer(1)]);
    nothing_comes("after the last peer");
    host.kill_daemon();
    host.start(&[]);
    nothing_comes("after a takeover");
    host.stop(&[]);
    assert!(cloud.tunnels(0).is_none(), "the device is gone");
}

fn unknown_vnis((_, counters): (&String, &Counters)) -> u64 {
    counters.dropped("unknown_vni")
}

#[test]
fn nobody_hears_a_vni_that_no_network_has() {
    for family in [Family::V4, Family::V6] {
        let target = target(family, true);
        for vni in [0, 1, VNI - 1, VNI + 1, 0x00ff_ffff, VNI | 1 << 23] {
            for destination in [target.cloud.at[0].mac, Mac::BROADCAST] {
                target.send(&[header(vni), Frame::new(destination, source(2), "hello").0].concat());
            }
        }
        target.assert_nothing([source(2)]);
        assert_eq!(target.dropped("unknown_vni"), 12, "{family:?}");
    }
}

#[test]
fn packets_cut_at_every_length_do_no_harm() {
    for family in [Family::V4, Family::V6] {
        let target = target(family, true);
        let whole = [header(VNI), Frame::new(target.cloud.at[0].mac, source(3), "cut").0].concat();
        // Up to the EtherType: a frame with one, and nothing behind, is a frame.
        for length in 0..8 + 14 {
            target.send(&whole[..length]);
        }
        target.assert_nothing([source(3)]);
        assert_eq!(target.dropped("vxlan_header"), 22, "{family:?}");
    }
}

#[test]
fn packets_with_a_reserved_bit_set_are_not_taken() {
    for family in [Family::V4, Family::V6] {
        let target = target(family, true);
        // But for the VNI, and the flag that says that it is one.
        let reserved: Vec<u8> = (0..64).filter(|bit| *bit != 4 && !(32..56).contains(bit)).collect();
        for bit in &reserved {
            let mut bytes = header(VNI);
            bytes[usize::from(*bit) / 8] ^= 0x80 >> (bit % 8);
            target.send(&[bytes, Frame::new(target.cloud.at[0].mac, source(*bit), "reserved").0].concat());
        }
        // Nor without the flag.
        let bytes = [&[0, 0, 0, 0][..], &(VNI << 8).to_be_bytes()].concat();
        target.send(&[bytes, Frame::new(target.cloud.at[0].mac, source(70), "no flag").0].concat());
        target.assert_nothing((0..71).map(source));
        assert_eq!(target.dropped("vxlan_header"), reserved.len() as u64 + 1, "{family:?}");
    }
}

#[test]
fn a_peer_does_not_take_over_a_station_that_is_here() {
    let target = target(Family::V4, true);
    let at = &target.cloud.at[0];
    let port = target.cloud.peer(5);
    let spoofed = || target.cloud.hosts[0].ports(&["net"])[&port].dropped("source_spoofed");
    let before = spoofed();
    for destination in [Mac::BROADCAST, at.mac] {
        target.send(&[header(VNI), Frame::new(destination, at.mac, "I am you").0].concat());
    }
    eventually("they are dropped", || (spoofed() == before + 2).then_some(()));
    let counters = target.cloud.hosts[0].ports(&["net"]).remove(&port).expect("the tunnel");
    assert_eq!(counters.accounted(), counters.rx_frames, "{counters:?}");
    ping(&target.cloud.containers[1], at.ipv4);
}
