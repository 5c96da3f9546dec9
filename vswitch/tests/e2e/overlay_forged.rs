//! What an encrypted network does not take: what did not come by WireGuard, and what came by it before.

use std::net::{Ipv6Addr, UdpSocket};
use std::time::Duration;

use crate::harness::packets::ipv6;
use crate::harness::{Cloud, Family, Frame, Mac, Netns, RawPort, ping, settles};

const VNI: u32 = 5000;
const PORT: u16 = 4789;

/// A frame in VXLAN.
fn vxlan(Frame(inner): &Frame) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &(VNI << 8).to_be_bytes(), inner].concat()
}

/// The same in UDP with a good checksum, in a packet of IPv6 behind its EtherType.
fn packet(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
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

/// A host's address inside WireGuard.
fn inside(cloud: &Cloud, number: usize) -> Ipv6Addr {
    let device = cloud.wireguard(number).expect("the device");
    let addresses = cloud.hosts[number].netns.addresses6(device["ifname"].as_str().expect("a name"));
    assert_eq!(addresses.len(), 1);
    addresses[0]
}

/// Sends a packet by a device of a namespace, to a station there.
fn send(netns: &Netns, device: &str, mac: Mac, packet: &[u8]) {
    let frame = [&mac.0[..], &[2, 0, 0, 0, 0, 5], packet].concat();
    RawPort::open(netns, device).send(&Frame(frame));
}

/// How many packets a host has dropped for a reason before they were any port's.
fn dropped(cloud: &Cloud, number: usize, reason: &str) -> u64 {
    let ports = cloud.hosts[number].ports(&[]);
    let device = ports.iter().find(|(name, _)| name.ends_with("-vxlan"));
    device.expect("the row of the tunnels' device").1.dropped(reason)
}

/// Waits until the first host has dropped so many packets as a stranger's.
#[track_caller]
fn reaches(cloud: &Cloud, wanted: u64) {
    settles("they are dropped", || {
        let count = dropped(cloud, 0, "unknown_peer");
        if count == wanted { Ok(()) } else { Err((count, wanted)) }
    });
}

/// What has come in the first container until a frame from the second one did, which was sent afterwards.
fn came(cloud: &Cloud, listener: &RawPort, text: &str) -> Vec<Frame> {
    let mark = Frame::new(Mac::BROADCAST, cloud.at[1].mac, text);
    RawPort::open(&cloud.containers[1], "eth0").send(&mark);
    listener.expect(&mark)
}

#[test]
fn what_did_not_come_by_wireguard_is_not_taken() {
    for family in [Family::V4, Family::V6] {
        // Without a guard, so that containers may forge what they like.
        let cloud = Cloud::encrypted(2, family, &[], &["-o", "spoof_guard=off"]);
        ping(&cloud.containers[0], cloud.at[1].ipv4);
        let [own, peer] = [0, 1].map(|number| inside(&cloud, number));
        let forged = Frame::new(cloud.at[0].mac, cloud.at[1].mac, "forged");
        let listener = RawPort::open(&cloud.containers[0], "eth0");
        let target = &cloud.hosts[0].netns;

        // From the peer itself, in the clear: its tunnel ends elsewhere.
        let other = cloud.socket(&cloud.hosts[1].netns, 1);
        let before = dropped(&cloud, 0, "unknown_peer");
        other.send_to(&vxlan(&forged), (Cloud::address(family, 0), PORT)).expect("sending");
        reaches(&cloud, before + 1);

        // On the underlay, from and to addresses that are inside: whatever it carries.
        let mallory = Netns::new("mallory");
        cloud.plug(&mallory, 5);
        // Until the bridge forwards what comes by its cable.
        ping(&mallory, Cloud::address(family, 0));
        let mac = target.mac("under0");
        let outside = "2001:db8::6".parse().expect("an address");
        for (source, destination) in [(peer, own), (peer, outside), (outside, own)] {
            send(&mallory, "under0", mac, &packet(source, destination, &vxlan(&forged)));
        }
        reaches(&cloud, before + 4);

        // From this host itself, as if it had come from the peer: the address is right, the mark is not there.
        send(target, "lo", Mac([0; 6]), &packet(peer, own, &vxlan(&forged)));
        reaches(&cloud, before + 5);

        // From a container, to the host's own address inside.
        let gateway = target.mac(&cloud.host_device(0));
        for destination in [gateway, Mac::BROADCAST] {
            let frame = [&destination.0[..], &cloud.at[0].mac.0, &packet(peer, own, &vxlan(&forged))];
            RawPort::open(&cloud.containers[0], "eth0").send(&Frame(frame.concat()));
        }

        let came = came(&cloud, &listener, "the end");
        assert!(!came.contains(&forged), "{came:02x?}");
        ping(&cloud.containers[1], cloud.at[0].ipv4);
    }
}

#[test]
fn nobody_on_a_host_sends_by_its_wireguard_but_tunnels() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    let [own, peer] = [1, 0].map(|number| inside(&cloud, number));
    let forged = Frame::new(cloud.at[0].mac, cloud.at[1].mac, "forged");
    let listener = RawPort::open(&cloud.containers[0], "eth0");
    let local = &cloud.hosts[1].netns;
    let hears = cloud.hosts[0].netns.inside(|| UdpSocket::bind((peer, 9999))).expect("a socket");
    hears.set_read_timeout(Some(Duration::from_secs(1))).expect("a time limit");
    let socket = local.inside(|| UdpSocket::bind((own, 0))).expect("a socket");
    for _ in 0..3 {
        // Some kernels say that it was dropped.
        let _dropped = socket.send_to(&vxlan(&forged), (peer, PORT));
        let _dropped = socket.send_to(b"hello", (peer, 9999));
    }
    assert!(hears.recv(&mut [0; 100]).is_err(), "it came through");
    let came = came(&cloud, &listener, "the end");
    assert!(!came.contains(&forged), "{came:02x?}");

    // With the mark, as only those may put it on who may send whatever they like, it would have been taken.
    mark(&socket);
    socket.send_to(&vxlan(&forged), (peer, PORT)).expect("sending");
    listener.expect(&forged);
    // But nothing else comes through even so.
    socket.send_to(b"hello", (peer, 9999)).expect("sending");
    assert!(hears.recv(&mut [0; 100]).is_err(), "it came through");
    assert!(dropped(&cloud, 0, "unknown_peer") >= 1);
}

/// Puts the mark on what a socket sends.
fn mark(socket: &UdpSocket) {
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Mark, &0x1000).expect("SO_MARK");
}

#[test]
fn a_packet_of_an_encrypted_network_is_taken_once() {
    /// Where data messages begin in a frame of UDP over IPv4, and what they begin with.
    const MESSAGE: usize = 14 + 20 + 8;
    const DATA: [u8; 4] = [4, 0, 0, 0];
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    let [near, far] = ["u0", "u1"].map(|port| RawPort::open(&cloud.underlay, port));
    let listener = RawPort::open(&cloud.containers[1], "eth0");
    // On its way it is held up. Its length is a multiple of 16 with all headers, so that the kernel adds nothing.
    cloud.underlay.ip("link set u1 nomaster");
    let secret = Frame::raw(cloud.at[1].mac, cloud.at[0].mac, &[&[0x88, 0xb5][..], &[7; 986]].concat());
    RawPort::open(&cloud.containers[0], "eth0").send(&secret);
    let mut captured = near.expect_such("the message", |Frame(bytes)| {
        bytes.len() == MESSAGE + 32 + 56 + 1000 && bytes[MESSAGE..].starts_with(&DATA)
    });
    // Without a checksum: it may have been left to a device.
    captured.0[MESSAGE - 2..MESSAGE].fill(0);
    for _ in 0..4 {
        far.send(&captured);
    }
    cloud.underlay.ip("link set u1 master br0");
    let mark = Frame::new(Mac::BROADCAST, cloud.at[0].mac, "the end");
    RawPort::open(&cloud.containers[0], "eth0").send(&mark);
    let came = listener.expect(&mark);
    assert_eq!(came.iter().filter(|frame| **frame == secret).count(), 1, "once, whoever sends it");
}
