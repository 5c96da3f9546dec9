//! The IPv6 header and its extension headers (RFC 8200).

use core::net::Ipv6Addr;

use super::{Malformed, Packet, protocol};

/// Bytes of the fixed header.
pub const HEADER: usize = 40;
/// The number of extension headers that are followed. Legitimate packets do not have more.
pub const MAX_EXTENSIONS: usize = 6;
/// The number of extension headers that XDP follows. Each one multiplies the paths that the
/// verifier walks there.
pub const MAX_EXTENSIONS_XDP: usize = 1;

/// The fields of an IPv6 header and its extension headers that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    /// The source address.
    pub source: Ipv6Addr,
    /// The destination address.
    pub destination: Ipv6Addr,
    /// The protocol behind the extension headers, or the number of the first header that was not
    /// followed.
    pub protocol: u8,
    /// Whether the last extension header was reached.
    pub complete: bool,
    /// The offset of this fragment in bytes; 0 in whole packets and first fragments.
    pub fragment_offset: u16,
    /// The offset of the header of `protocol` in bytes from the start of the frame.
    pub payload: usize,
}

impl Ipv6 {
    /// Parses the header at `offset` and at most [`MAX_EXTENSIONS`] extension headers.
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(frame: &P, offset: usize) -> Result<Self, Malformed> {
        let first: [u8; 8] = frame.read(offset).ok_or(Malformed::Truncated)?;
        let source: [u8; 16] = frame.read(offset + 8).ok_or(Malformed::Truncated)?;
        let destination: [u8; 16] = frame.read(offset + 24).ok_or(Malformed::Truncated)?;
        if first[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        let walk = walk::<_, MAX_EXTENSIONS>(frame, first[6], offset + HEADER)?;
        Ok(Self {
            source: source.into(),
            destination: destination.into(),
            protocol: walk.protocol,
            complete: walk.complete,
            fragment_offset: walk.fragment_offset,
            payload: walk.offset,
        })
    }

    /// Returns whether `payload` is the transport header: the last extension header was reached,
    /// and this is no later fragment.
    #[inline(always)]
    pub const fn has_transport(&self) -> bool {
        self.complete && self.fragment_offset == 0
    }
}

/// Returns the protocol behind the extension headers of the packet at `offset`, without reading its
/// addresses. `None` if the headers are cut off, or more than [`MAX_EXTENSIONS_XDP`].
#[inline(always)]
pub fn transport_protocol<P: Packet + ?Sized>(frame: &P, offset: usize) -> Option<u8> {
    let [next] = frame.read(offset + 6)?;
    let walk = walk::<_, MAX_EXTENSIONS_XDP>(frame, next, offset + HEADER).ok()?;
    walk.complete.then_some(walk.protocol)
}

/// The result of a walk over extension headers.
pub(crate) struct Walk {
    pub protocol: u8,
    pub complete: bool,
    pub fragment_offset: u16,
    pub offset: usize,
}

/// Walks at most `MAX` extension headers, the first of which is at `start` and has the number
/// `first`.
#[inline(always)]
pub(crate) fn walk<P: Packet + ?Sized, const MAX: usize>(
    frame: &P,
    first: u8,
    start: usize,
) -> Result<Walk, Malformed> {
    let mut walk = Walk { protocol: first, complete: false, fragment_offset: 0, offset: start };
    for _ in 0..=MAX {
        let unit = match walk.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS | protocol::MOBILITY => 8,
            // RFC 4302, 2.2: the length is in units of 4 octets, minus 2.
            protocol::AUTHENTICATION => 4,
            protocol::FRAGMENT => 0,
            _ => {
                walk.complete = true;
                return Ok(walk);
            }
        };
        let [next, length, f0, f1]: [u8; 4] = frame.read(walk.offset).ok_or(Malformed::Truncated)?;
        walk.protocol = next;
        walk.offset += 8;
        match unit {
            0 => {
                walk.fragment_offset = u16::from_be_bytes([f0, f1]) & 0xfff8;
                if walk.fragment_offset != 0 {
                    // Behind the fragment header of a later fragment is data, not a header.
                    walk.complete = true;
                    return Ok(walk);
                }
            }
            unit => walk.offset += usize::from(length) * unit,
        }
    }
    Ok(walk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn packet(next: u8, extensions: &[&[u8]]) -> Vec<u8> {
        let mut bytes = std::vec![0x60, 0, 0, 0, 0, 0, next, 64];
        bytes.extend([0xfd; 16]);
        bytes.extend([0xfe; 16]);
        extensions.iter().for_each(|extension| bytes.extend(*extension));
        bytes
    }

    const HOP: [u8; 8] = [protocol::TCP, 0, 1, 4, 0, 0, 0, 0];

    #[test]
    fn no_extension() {
        let ip = Ipv6::parse(packet(protocol::UDP, &[]).as_slice(), 0).unwrap();
        assert_eq!((ip.protocol, ip.payload, ip.complete), (protocol::UDP, 40, true));
        assert_eq!(ip.source, Ipv6Addr::from([0xfd; 16]));
    }

    #[test]
    fn chain_of_options_and_authentication() {
        let mut hop = HOP;
        hop[0] = protocol::AUTHENTICATION;
        // Payload length 4: (4 + 2) * 4 = 24 bytes.
        let mut authentication = [0; 24];
        authentication[..2].copy_from_slice(&[protocol::TCP, 4]);
        let ip = Ipv6::parse(packet(protocol::HOP_BY_HOP, &[&hop, &authentication]).as_slice(), 0).unwrap();
        assert_eq!((ip.protocol, ip.payload, ip.has_transport()), (protocol::TCP, 72, true));
    }

    #[test]
    fn first_and_later_fragment() {
        let first = Ipv6::parse(packet(protocol::FRAGMENT, &[&[6, 0, 0, 1, 0, 0, 0, 9]]).as_slice(), 0).unwrap();
        assert_eq!((first.protocol, first.has_transport()), (6, true));
        let later = Ipv6::parse(packet(protocol::FRAGMENT, &[&[6, 0, 5, 0xa9, 0, 0, 0, 9]]).as_slice(), 0).unwrap();
        assert_eq!((later.protocol, later.fragment_offset, later.has_transport()), (6, 0x5a8, false));
    }

    #[test]
    fn too_many_extensions_are_not_followed() {
        let mut hop = HOP;
        hop[0] = protocol::DESTINATION_OPTIONS;
        let many = [&hop[..]; MAX_EXTENSIONS + 2];
        let ip = Ipv6::parse(packet(protocol::DESTINATION_OPTIONS, &many).as_slice(), 0).unwrap();
        assert!(!ip.complete);
        assert_eq!(transport_protocol(packet(protocol::DESTINATION_OPTIONS, &many).as_slice(), 0), None);
    }

    #[test]
    fn truncated_and_wrong_version() {
        let whole = packet(protocol::HOP_BY_HOP, &[&HOP]);
        for length in 0..44 {
            assert_eq!(Ipv6::parse(&whole[..length], 0), Err(Malformed::Truncated), "{length} bytes");
        }
        let mut wrong = whole;
        wrong[0] = 0x40;
        assert_eq!(Ipv6::parse(wrong.as_slice(), 0), Err(Malformed::Version));
    }
}
