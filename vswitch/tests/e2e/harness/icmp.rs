//! Ping, with raw ICMP sockets: one request, one answer, nothing repeated, so that a lost frame shows.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Ipv4Slice};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{Netns, PATIENCE};

/// A stream of echo requests from one namespace to one address.
pub struct Pinger {
    // A raw socket; sendto and recvfrom are the same calls.
    socket: UdpSocket,
    to: Ipv4Addr,
    id: u16,
    next: u16,
}

impl Pinger {
    pub fn new(from: &Netns, to: Ipv4Addr) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let raw =
            from.inside(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp));
        let socket = UdpSocket::from(raw.expect("root may open raw sockets"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self { socket, to, id: NEXT.fetch_add(1, Ordering::Relaxed), next: 1 }
    }

    /// Sends one request with so many bytes and waits for its answer.
    #[track_caller]
    pub fn ping(&mut self, bytes: usize) {
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        let payload: Vec<u8> = (0..bytes).map(|index| (index as u16 ^ sequence).to_le_bytes()[0]).collect();
        let echo = IcmpEchoHeader { id: self.id, seq: sequence };
        let mut request = Vec::new();
        Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &payload)
            .write(&mut request)
            .expect("room in memory");
        request.extend(&payload);
        self.socket.send_to(&request, (self.to, 0)).unwrap_or_else(|error| panic!("pinging {}: {error}", self.to));
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("no answer from {} to ping {sequence} with {bytes} bytes: {error}", self.to),
            };
            let packet = Ipv4Slice::from_slice(&buffer[..length]).expect("the kernel hands out whole packets");
            let icmp = Icmpv4Slice::from_slice(packet.payload().payload).expect("a whole ICMP message");
            if packet.header().source_addr() == self.to && icmp.icmp_type() == Icmpv4Type::EchoReply(echo) {
                assert_eq!(icmp.payload(), payload, "the answer from {} to ping {sequence}", self.to);
                return;
            }
        }
    }
}

/// One ping of the usual size.
#[track_caller]
pub fn ping(from: &Netns, to: Ipv4Addr) {
    ping_with(from, to, 56);
}

/// One ping with so many bytes.
#[track_caller]
pub fn ping_with(from: &Netns, to: Ipv4Addr, bytes: usize) {
    Pinger::new(from, to).ping(bytes);
}
