//! UDP datagrams that are numbered, counted and answered.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
};

use nix::sys::socket::{setsockopt, sockopt};

use super::{Netns, PATIENCE};

/// Sends datagrams of one size to an address in another namespace, which sends each back. None may
/// be lost or changed.
#[track_caller]
pub fn udp(from: &Netns, to: &Netns, address: impl Into<IpAddr>, size: usize, count: u32) {
    let address = address.into();
    let server = bind(to, address);
    let client = bind(from, unspecified(address));
    let target = server.local_addr().expect("it is bound");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            for number in 0..count {
                let Ok((length, sender)) = server.recv_from(&mut buffer) else {
                    panic!("datagram {number} of {count} with {size} bytes did not arrive at {target}");
                };
                server.send_to(&buffer[..length], sender).expect("answering");
            }
        });
        // Only a few datagrams are in flight, so that a socket's buffer holds them even while the
        // other side gets no CPU time.
        const WINDOW: u32 = 8;
        let mut buffer = vec![0; 1 << 16];
        for first in (0..count).step_by(WINDOW as usize) {
            let window = first..count.min(first + WINDOW);
            for number in window.clone() {
                client
                    .send_to(&datagram(number, size), target)
                    .unwrap_or_else(|error| panic!("sending {size} bytes to {target}: {error}"));
            }
            // Any order is accepted: if several CPUs process the packets of one flow, packets can
            // overtake each other.
            let mut missing: Vec<_> = window.collect();
            while !missing.is_empty() {
                let Ok(length) = client.recv(&mut buffer) else {
                    panic!("datagrams {missing:?} of {count} with {size} bytes did not come back from {target}");
                };
                let of_window = missing.iter().position(|&number| buffer[..length] == datagram(number, size));
                let found = of_window.unwrap_or_else(|| {
                    panic!("none of the datagrams {missing:?} of {count} with {size} bytes: {:?}", &buffer[..length])
                });
                missing.swap_remove(found);
            }
        }
    });
}

/// Sends one buffer that the kernel cuts into datagrams of `segment` bytes (UDP_SEGMENT). It
/// travels as one GSO packet, and must arrive as the same datagrams.
#[track_caller]
pub fn udp_segmented(from: &Netns, to: &Netns, address: Ipv4Addr, segment: u16, count: u32) {
    let server = bind(to, address);
    let client = bind(from, Ipv4Addr::UNSPECIFIED);
    let target = server.local_addr().expect("it is bound");
    setsockopt(&client, sockopt::UdpGsoSegment, &i32::from(segment)).expect("UDP_SEGMENT");
    let train: Vec<u8> = (0..count).flat_map(|number| datagram(number, segment.into())).collect();
    client.send_to(&train, target).unwrap_or_else(|error| panic!("sending {count} segments to {target}: {error}"));
    let mut buffer = vec![0; 1 << 16];
    for number in 0..count {
        let length = server.recv(&mut buffer).unwrap_or_else(|error| panic!("segment {number} of {count}: {error}"));
        assert_eq!(buffer[..length], datagram(number, segment.into()), "segment {number} of {count}");
    }
}

/// Sends one broadcast datagram from an address. Each of the other namespaces must receive it; a
/// second copy is not noticed.
#[track_caller]
pub fn udp_broadcast(from: &Netns, address: Ipv4Addr, others: &[&Netns]) {
    udp_broadcast_of(from, address, others, 100);
}

/// Does the same with a datagram of `size` bytes.
#[track_caller]
pub fn udp_broadcast_of(from: &Netns, address: Ipv4Addr, others: &[&Netns], size: usize) {
    let first = bind(others[0], Ipv4Addr::UNSPECIFIED);
    let port = first.local_addr().expect("it is bound").port();
    let rest = others[1..].iter().map(|netns| {
        let socket = netns.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
        prepared(socket.unwrap_or_else(|error| panic!("binding port {port} in {}: {error}", netns.name())))
    });
    let receivers: Vec<UdpSocket> = std::iter::once(first).chain(rest).collect();
    let sender = bind(from, address);
    sender.set_broadcast(true).expect("SO_BROADCAST");
    sender.send_to(&datagram(7, size), (Ipv4Addr::BROADCAST, port)).expect("sending a broadcast");
    for (receiver, netns) in receivers.iter().zip(others) {
        let mut buffer = vec![0; size + 1];
        let (length, source) = receiver
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("{} received no broadcast: {error}", netns.name()));
        assert_eq!((&buffer[..length], source.ip()), (&datagram(7, size)[..], address.into()), "in {}", netns.name());
    }
}

/// Sends one broadcast datagram from an address. It must arrive on this device of the other
/// namespace, not only on another device there.
#[track_caller]
pub fn udp_broadcast_at(from: &Netns, address: Ipv4Addr, to: &Netns, ifname: &str) {
    let receiver = bind(to, Ipv4Addr::UNSPECIFIED);
    setsockopt(&receiver, sockopt::BindToDevice, &ifname.into()).expect("SO_BINDTODEVICE");
    let sender = bind(from, address);
    sender.set_broadcast(true).expect("SO_BROADCAST");
    let port = receiver.local_addr().expect("it is bound").port();
    sender.send_to(&datagram(9, 100), (Ipv4Addr::BROADCAST, port)).expect("sending a broadcast");
    let mut buffer = [0; 200];
    let received = receiver.recv(&mut buffer);
    let length = received.unwrap_or_else(|error| panic!("{ifname} in {} received no broadcast: {error}", to.name()));
    assert_eq!(buffer[..length], datagram(9, 100));
}

/// Returns the unspecified address of the same family.
fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn bind(netns: &Netns, address: impl Into<IpAddr>) -> UdpSocket {
    let address = address.into();
    let socket = netns.inside(|| UdpSocket::bind(SocketAddr::from((address, 0))));
    prepared(socket.unwrap_or_else(|error| panic!("binding {address} in {}: {error}", netns.name())))
}

fn prepared(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    large_buffer(&socket);
    socket
}

/// Sets a receive buffer large enough that no datagram is lost while its reader waits for a CPU.
pub(super) fn large_buffer(socket: &impl AsFd) {
    setsockopt(socket, sockopt::RcvBufForce, &(16 << 20)).expect("root may set large buffers");
}

/// Returns bytes that differ from those of every other datagram of the flow.
fn datagram(number: u32, size: usize) -> Vec<u8> {
    (0..size).map(|index| (number.wrapping_mul(31).wrapping_add(index as u32) % 251) as u8).collect()
}
