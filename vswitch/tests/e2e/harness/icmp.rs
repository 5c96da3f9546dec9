//! Ping with raw ICMP sockets. Each request is sent once and never repeated, so that a lost frame
//! fails the test.

use std::{
    io::{Error, ErrorKind},
    net::{IpAddr, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type, Ipv4Slice,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{Netns, PATIENCE};

/// A sequence of echo requests from one namespace to one address.
pub struct Pinger {
    // A raw socket in a UdpSocket: both use the calls sendto and recvfrom.
    socket: UdpSocket,
    /// The name of the namespace of the sender.
    from: String,
    to: IpAddr,
    id: u16,
    next: u16,
}

impl Pinger {
    pub fn new(from: &Netns, to: impl Into<IpAddr>) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let to = to.into();
        let (family, protocol) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let raw = from.inside(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol));
        let socket = UdpSocket::from(raw.expect("root may open raw sockets"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        Self { socket, from: from.name().to_owned(), to, id: NEXT.fetch_add(1, Ordering::Relaxed), next: 1 }
    }

    /// Sends one request with `bytes` bytes of data, and waits for its reply.
    #[track_caller]
    pub fn ping(&mut self, bytes: usize) {
        let (echo, payload) = self.send(bytes);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => (length, from.ip()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!(
                    "no answer from {} to ping {} with {bytes} bytes: {error}\n{}",
                    self.to,
                    echo.seq,
                    self.sender()
                ),
            };
            if from == self.to && self.is_reply(&buffer[..length], echo, &payload) {
                return;
            }
        }
    }

    /// Returns the neighbors and the counters of the sender's interfaces, for the report of a lost
    /// packet.
    fn sender(&self) -> String {
        let shown = [&["neigh"][..], &["-s", "-s", "link"]].map(|arguments| {
            let output = Command::new("ip").args(["-n", &self.from]).args(arguments).output();
            output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
        });
        shown.concat()
    }

    /// Sends one request and does not wait for a reply.
    #[track_caller]
    pub fn send(&mut self, bytes: usize) -> (IcmpEchoHeader, Vec<u8>) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("pinging {}: {error}", self.to))
    }

    /// Sends one request, and returns an error if the kernel has no route or refuses it.
    pub fn try_send(&mut self, bytes: usize) -> Result<(IcmpEchoHeader, Vec<u8>), Error> {
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        let payload: Vec<u8> = (0..bytes).map(|index| (index as u16 ^ sequence).to_le_bytes()[0]).collect();
        let echo = IcmpEchoHeader { id: self.id, seq: sequence };
        let mut request = Vec::new();
        match self.to {
            IpAddr::V4(_) => Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &payload).write(&mut request),
            // The kernel fills in the checksum, which covers the addresses (RFC 3542, 3.1).
            IpAddr::V6(_) => Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).write(&mut request),
        }
        .expect("room in memory");
        request.extend(&payload);
        self.socket.send_to(&request, (self.to, 0))?;
        Ok((echo, payload))
    }

    /// Reports whether the target has answered any request so far.
    pub fn answered(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a socket");
        let mut buffer = vec![0; 1 << 16];
        let mut answered = false;
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            let id = match self.to {
                IpAddr::V4(_) => Ipv4Slice::from_slice(&buffer[..length]).ok().and_then(|packet| {
                    match Icmpv4Slice::from_slice(packet.payload().payload).ok()?.icmp_type() {
                        Icmpv4Type::EchoReply(echo) => Some(echo.id),
                        _ => None,
                    }
                }),
                IpAddr::V6(_) => match Icmpv6Slice::from_slice(&buffer[..length]).map(|icmp| icmp.icmp_type()) {
                    Ok(Icmpv6Type::EchoReply(echo)) => Some(echo.id),
                    _ => None,
                },
            };
            answered |= from.ip() == self.to && id == Some(self.id);
        }
        self.socket.set_nonblocking(false).expect("a socket");
        answered
    }

    #[track_caller]
    fn is_reply(&self, bytes: &[u8], echo: IcmpEchoHeader, payload: &[u8]) -> bool {
        let (is_reply, got) = match self.to {
            IpAddr::V4(_) => {
                let packet = Ipv4Slice::from_slice(bytes).expect("the kernel hands out whole packets");
                let icmp = Icmpv4Slice::from_slice(packet.payload().payload).expect("a whole ICMP message");
                (icmp.icmp_type() == Icmpv4Type::EchoReply(echo), icmp.payload().to_vec())
            }
            IpAddr::V6(_) => {
                let icmp = Icmpv6Slice::from_slice(bytes).expect("a whole ICMPv6 message");
                (icmp.icmp_type() == Icmpv6Type::EchoReply(echo), icmp.payload().to_vec())
            }
        };
        assert!(!is_reply || got == payload, "the answer from {} to ping {}: {got:?}", self.to, echo.seq);
        is_reply
    }
}

/// Sends one ping with 56 bytes of data.
#[track_caller]
pub fn ping(from: &Netns, to: impl Into<IpAddr>) {
    ping_with(from, to, 56);
}

/// Sends one ping with `bytes` bytes of data.
#[track_caller]
pub fn ping_with(from: &Netns, to: impl Into<IpAddr>, bytes: usize) {
    Pinger::new(from, to).ping(bytes);
}
