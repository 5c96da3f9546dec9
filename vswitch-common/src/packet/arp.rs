//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use super::{Malformed, Packet};
use crate::mac::Mac;

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub const LENGTH: usize = 28;
/// Operation "who has".
pub const REQUEST: u16 = 1;
/// Operation "is at".
pub const REPLY: u16 = 2;

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`], [`REPLY`] or another operation.
    pub operation: u16,
    /// The sender's MAC address.
    pub sender_mac: Mac,
    /// The sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// The target's MAC address; zeros in a request.
    pub target_mac: Mac,
    /// The target's IPv4 address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Parses the packet at `offset`; [`Malformed::Version`] if it is not IPv4 over Ethernet.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(frame: &P, offset: usize) -> Result<Self, Malformed> {
        let kind: [u8; 8] = frame.read(offset).ok_or(Malformed::Truncated)?;
        let body: [u8; 20] = frame.read(offset + 8).ok_or(Malformed::Truncated)?;
        // Hardware type Ethernet, protocol IPv4, address lengths 6 and 4.
        let [0, 1, 8, 0, 6, 4, o0, o1] = kind else {
            return Err(Malformed::Version);
        };
        let [a0, a1, a2, a3, a4, a5, s0, s1, s2, s3, b0, b1, b2, b3, b4, b5, t0, t1, t2, t3] = body;
        Ok(Self {
            operation: u16::from_be_bytes([o0, o1]),
            sender_mac: Mac([a0, a1, a2, a3, a4, a5]),
            sender: Ipv4Addr::new(s0, s1, s2, s3),
            target_mac: Mac([b0, b1, b2, b3, b4, b5]),
            target: Ipv4Addr::new(t0, t1, t2, t3),
        })
    }
}

impl Arp {
    /// Returns the reply to a request, from the station `mac`.
    #[inline(always)]
    pub const fn reply(&self, mac: Mac) -> [u8; LENGTH] {
        let [a0, a1, a2, a3, a4, a5] = mac.0;
        let [b0, b1, b2, b3, b4, b5] = self.sender_mac.0;
        let ([t0, t1, t2, t3], [s0, s1, s2, s3]) = (self.target.octets(), self.sender.octets());
        [
            0,
            1,
            8,
            0,
            6,
            4,
            0,
            REPLY as u8,
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            t0,
            t1,
            t2,
            t3,
            b0,
            b1,
            b2,
            b3,
            b4,
            b5,
            s0,
            s1,
            s2,
            s3,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_read_and_other_kinds_refused() {
        let mut packet = [0_u8; LENGTH];
        packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        packet[8..14].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        packet[14..18].copy_from_slice(&[10, 201, 0, 2]);
        packet[24..28].copy_from_slice(&[10, 201, 0, 1]);
        let arp = Arp::parse(packet.as_slice(), 0).unwrap();
        assert_eq!((arp.operation, arp.sender, arp.target), (REQUEST, [10, 201, 0, 2].into(), [10, 201, 0, 1].into()));
        assert_eq!(arp.sender_mac, Mac([2, 0, 0, 0, 0, 1]));
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let reply = Arp::parse(arp.reply(mac).as_slice(), 0).unwrap();
        assert_eq!((reply.operation, reply.sender_mac, reply.sender), (REPLY, mac, arp.target));
        assert_eq!((reply.target_mac, reply.target), (arp.sender_mac, arp.sender));
        for length in 0..LENGTH {
            assert_eq!(Arp::parse(&packet[..length], 0), Err(Malformed::Truncated));
        }
        packet[1] = 6;
        assert_eq!(Arp::parse(packet.as_slice(), 0), Err(Malformed::Version));
    }
}
