//! TCP segments built byte by byte, and the addresses and numbers in received ones.

use std::net::{IpAddr, SocketAddr};

use super::packets::{Payload, ipv4, ipv6, protocol};
use super::{Frame, Mac, RawPort};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A TCP segment without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: u8,
}

/// Returns the sequence number behind a segment in a frame: the next one of its sender.
fn end_of(Frame(bytes): &Frame, segment: &Segment) -> u32 {
    let word = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let (start, end) = if segment.source.is_ipv4() { (34, 14 + word(16)) } else { (54, 54 + word(18)) };
    let header = usize::from(bytes[start + 12] >> 4) * 4;
    let data = end.saturating_sub(start + header);
    segment.sequence.wrapping_add(data as u32)
}

impl Segment {
    /// Builds the packet with one byte of data, and fills in the checksum.
    pub fn packet(&self) -> Payload {
        let mut bytes = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgment.to_be_bytes());
        bytes.extend([5 << 4, self.flags, 1, 0, 0, 0, 0, 0, b'x']);
        let length = (bytes.len() as u16).to_be_bytes();
        let addresses = [self.source, self.destination].map(|at| match at.ip() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        let pseudo = [&addresses.concat()[..], &[0, protocol::TCP], &length, &bytes].concat();
        bytes[16..18].copy_from_slice(&internet_checksum(&pseudo));
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, protocol::TCP, &bytes),
            (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, protocol::TCP, &bytes),
            mixed => panic!("{mixed:?} are of two families"),
        }
    }

    /// Reads the segment in a frame without tags and without IP options.
    pub fn of(Frame(bytes): &Frame) -> Option<Self> {
        let (source, destination) = addresses_in(bytes)?;
        let (is_tcp, start) =
            if source.is_ipv4() { (bytes[23] == protocol::TCP, 34) } else { (bytes[20] == protocol::TCP, 54) };
        let header = bytes.get(start..start + 20).filter(|_| is_tcp)?;
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
        Some(Self {
            source: SocketAddr::new(source, port(0)),
            destination: SocketAddr::new(destination, port(2)),
            sequence: number(4),
            acknowledgment: number(8),
            flags: header[13],
        })
    }
}

/// Returns the addresses of the IP packet in a frame without tags.
pub fn addresses_in(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match bytes.get(12..14)? {
        [0x08, 0x00] => {
            let address =
                |at: usize| bytes.get(at..at + 4).map(|octets| IpAddr::from(<[u8; 4]>::try_from(octets).unwrap()));
            Some((address(26)?, address(30)?))
        }
        [0x86, 0xdd] => {
            let address =
                |at: usize| bytes.get(at..at + 16).map(|octets| IpAddr::from(<[u8; 16]>::try_from(octets).unwrap()));
            Some((address(22)?, address(38)?))
        }
        _ => None,
    }
}

/// Sends a segment of a connection that is far outside of the window of its receiver, from the
/// machine of `port`. `own` and `far` are the ends of the connection as this machine sees them. The
/// port must have been open when the last segment arrived.
#[track_caller]
pub fn send_out_of_window(port: &RawPort, own: SocketAddr, far: SocketAddr) {
    let matching = |frame: &Frame| {
        Segment::of(frame)
            .filter(|seen| (seen.source, seen.destination) == (far, own) && seen.flags & (ACK | SYN) == ACK)
    };
    let first = port.expect_such("a segment of the connection", |frame| matching(frame).is_some());
    let frames: Vec<_> =
        std::iter::once(first).chain(port.pending()).filter(|frame| matching(frame).is_some()).collect();
    // The receiver accepts an RST in answer to the segment only at exactly this number (RFC 5961).
    let newest = frames.last().expect("there is one");
    let seen = matching(newest).expect("it matches");
    let Frame(bytes) = newest;
    let mac = |at: usize| Mac(bytes[at..at + 6].try_into().expect("six bytes"));
    let stray = Segment {
        source: own,
        destination: far,
        sequence: seen.acknowledgment.wrapping_add(1 << 28),
        acknowledgment: end_of(newest, &seen),
        flags: ACK,
    };
    port.send(&Frame::raw(mac(6), mac(0), &stray.packet()));
}

/// Computes the Internet checksum (RFC 1071).
fn internet_checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
