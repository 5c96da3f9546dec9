//! Packets that an encrypted network must not accept: those that did not come through WireGuard,
//! and replayed ones.

use std::net::{Ipv6Addr, UdpSocket};
use std::time::Duration;

use crate::harness::packets::ipv6;
use crate::harness::{Cloud, Family, Frame, Mac, Netns, RawPort, ping, settles};

const VNI: u32 = 5000;
const PORT: u16 = 4789;

/// Returns a frame behind a VXLAN header.
fn vxlan(Frame(inner): &Frame) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(VNI << 8).to_be_bytes(), inner].concat()
}

/// Returns a payload in UDP with a valid checksum, in an IPv6 packet that begins with its
/// EtherType.
fn udp_packet(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut udp = [50_000, PORT, length, 0].map(u16::to_be_bytes).concat();
    udp.extend(payload);
    let pseudo =
        [&source.octets()[..], &destination.octets(), &u32::from(length).to_be_bytes(), &[0, 0, 0, 17]].concat();
    let words = [&pseudo[..], &udp, &[0][..udp.len() % 2]].concat();
    let mut sum: u32 = words.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    udp[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    ipv6(source, destination, 17, &udp)
}

/// Returns the address of a host inside WireGuard.
fn wireguard_address(cloud: &Cloud, number: usize) -> Ipv6Addr {
    let device = cloud.wireguard(number).expect("the device");
    let addresses = cloud.hosts[number].netns.addresses6(device["ifname"].as_str().expect("a name"));
    assert_eq!(addresses.len(), 1);
    addresses[0]
}

/// Sends a packet through a device of a namespace to a MAC address there.
fn send(netns: &Netns, device: &str, mac: Mac, packet: &[u8]) {
    let frame = [&mac.0[..], &[2, 0, 0, 0, 0, 5], packet].concat();
    RawPort::open(netns, device).send(&Frame(frame));
}

/// Returns the number of packets that a host dropped for a reason before assigning them to a port.
fn dropped(cloud: &Cloud, number: usize, reason: &str) -> u64 {
    let ports = cloud.hosts[number].ports(&[]);
    let device = ports.iter().find(|(name, _)| name.ends_with("-vxlan"));
    device.expect("a row of the VXLAN device").1.dropped(reason)
}

/// Waits until the first host has dropped this many packets of unknown peers.
#[track_caller]
fn await_drops(cloud: &Cloud, wanted: u64) {
    settles("the packets are dropped as those of unknown peers", || {
        let count = dropped(cloud, 0, "unknown_peer");
        if count == wanted { Ok(()) } else { Err((count, wanted)) }
    });
}

/// Returns the frames that the first container received before a mark, which the second container
/// sends now.
fn frames_before_mark(cloud: &Cloud, listener: &RawPort, text: &str) -> Vec<Frame> {
    let mark = Frame::new(Mac::BROADCAST, cloud.at[1].mac, text);
    RawPort::open(&cloud.containers[1], "eth0").send(&mark);
    listener.expect(&mark)
}

#[test]
fn packets_from_outside_wireguard_are_dropped() {
    for family in [Family::V4, Family::V6] {
        // Without the spoof guard, containers can forge addresses.
        let cloud = Cloud::encrypted(2, family, &[], &["-o", "spoof_guard=off"]);
        ping(&cloud.containers[0], cloud.at[1].ipv4);
        let [own, peer] = [0, 1].map(|number| wireguard_address(&cloud, number));
        let forged = Frame::new(cloud.at[0].mac, cloud.at[1].mac, "forged");
        let listener = RawPort::open(&cloud.containers[0], "eth0");
        let target = &cloud.hosts[0].netns;

        // From the peer itself, but in the clear: the peer's tunnel ends at its address inside
        // WireGuard.
        let other = cloud.socket(&cloud.hosts[1].netns, 1);
        let before = dropped(&cloud, 0, "unknown_peer");
        other.send_to(&vxlan(&forged), (Cloud::address(family, 0), PORT)).expect("sending");
        await_drops(&cloud, before + 1);

        // From a machine on the underlay, with a source or a destination address inside WireGuard.
        // The contents do not matter.
        let attacker = Netns::new("attacker");
        cloud.plug(&attacker, 5);
        // Waits until the bridge forwards frames of the new port.
        ping(&attacker, Cloud::address(family, 0));
        let mac = target.mac("under0");
        let outside = "2001:db8::6".parse().expect("an address");
        for (source, destination) in [(peer, own), (peer, outside), (outside, own)] {
            send(&attacker, "under0", mac, &udp_packet(source, destination, &vxlan(&forged)));
        }
        await_drops(&cloud, before + 4);

        // From this host itself, as if the peer had sent it: the address is right, but the mark is
        // missing.
        send(target, "lo", Mac([0; 6]), &udp_packet(peer, own, &vxlan(&forged)));
        await_drops(&cloud, before + 5);

        // From a container, to the address of the host inside WireGuard.
        let gateway = target.mac(&cloud.host_device(0));
        for destination in [gateway, Mac::BROADCAST] {
            let frame = [&destination.0[..], &cloud.at[0].mac.0, &udp_packet(peer, own, &vxlan(&forged))];
            RawPort::open(&cloud.containers[0], "eth0").send(&Frame(frame.concat()));
        }

        let received = frames_before_mark(&cloud, &listener, "the end");
        assert!(!received.contains(&forged), "{received:02x?}");
        ping(&cloud.containers[1], cloud.at[0].ipv4);
    }
}

#[test]
fn only_tunnels_send_through_wireguard() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    let [own, peer] = [1, 0].map(|number| wireguard_address(&cloud, number));
    let forged = Frame::new(cloud.at[0].mac, cloud.at[1].mac, "forged");
    let listener = RawPort::open(&cloud.containers[0], "eth0");
    let local = &cloud.hosts[1].netns;
    let receiver = cloud.hosts[0].netns.inside(|| UdpSocket::bind((peer, 9999))).expect("a socket");
    receiver.set_read_timeout(Some(Duration::from_secs(1))).expect("a time limit");
    let socket = local.inside(|| UdpSocket::bind((own, 0))).expect("a socket");
    for _ in 0..3 {
        // Some kernels report the drop as an error.
        let _dropped = socket.send_to(&vxlan(&forged), (peer, PORT));
        let _dropped = socket.send_to(b"hello", (peer, 9999));
    }
    assert!(receiver.recv(&mut [0; 100]).is_err(), "the datagram was delivered");
    let received = frames_before_mark(&cloud, &listener, "the end");
    assert!(!received.contains(&forged), "{received:02x?}");

    // Control: with the mark, the packet is accepted. The privilege that a mark needs also allows
    // sending any other packet.
    set_mark(&socket);
    socket.send_to(&vxlan(&forged), (peer, PORT)).expect("sending");
    listener.expect(&forged);
    // All other packets are dropped even with the mark.
    socket.send_to(b"hello", (peer, 9999)).expect("sending");
    assert!(receiver.recv(&mut [0; 100]).is_err(), "the datagram was delivered");
    assert!(dropped(&cloud, 0, "unknown_peer") >= 1);
}

/// Sets the mark on the packets of a socket.
fn set_mark(socket: &UdpSocket) {
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Mark, &0x1000).expect("SO_MARK");
}

#[test]
fn a_packet_of_an_encrypted_network_is_accepted_once() {
    /// The offset of a WireGuard message in a frame with UDP over IPv4, and the first bytes of a
    /// data message.
    const MESSAGE: usize = 14 + 20 + 8;
    const DATA: [u8; 4] = [4, 0, 0, 0];
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    let [near, far] = ["u0", "u1"].map(|port| RawPort::open(&cloud.underlay, port));
    let listener = RawPort::open(&cloud.containers[1], "eth0");
    // The packet is held up on its way. The length with all headers is a multiple of 16, so that
    // the kernel adds no padding.
    cloud.underlay.ip("link set u1 nomaster");
    let secret = Frame::raw(cloud.at[1].mac, cloud.at[0].mac, &[&[0x88, 0xb5][..], &[7; 986]].concat());
    RawPort::open(&cloud.containers[0], "eth0").send(&secret);
    let mut captured = near.expect_such("the WireGuard message", |Frame(bytes)| {
        bytes.len() == MESSAGE + 32 + 56 + 1000 && bytes[MESSAGE..].starts_with(&DATA)
    });
    // Clears the UDP checksum, which may be unfinished because of an offload.
    captured.0[MESSAGE - 2..MESSAGE].fill(0);
    for _ in 0..4 {
        far.send(&captured);
    }
    cloud.underlay.ip("link set u1 master br0");
    let mark = Frame::new(Mac::BROADCAST, cloud.at[0].mac, "the end");
    RawPort::open(&cloud.containers[0], "eth0").send(&mark);
    let received = listener.expect(&mark);
    assert_eq!(received.iter().filter(|frame| **frame == secret).count(), 1, "a replayed packet is delivered once");
}
