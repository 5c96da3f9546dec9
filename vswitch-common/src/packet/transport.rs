//! The first bytes of TCP, UDP, SCTP and ICMP headers.

use super::{Malformed, Packet, protocol};

/// The ports of a flow, or the type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, UDP or SCTP: source and destination port.
    Ports {
        /// The sender's port.
        source: u16,
        /// The receiver's port.
        destination: u16,
    },
    /// ICMP or ICMPv6: type and code.
    Message {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// A protocol that is not read.
    Other,
}

impl Transport {
    /// Parses the header of `protocol` at `offset`. A header whose fixed part is cut off is an
    /// error, because a guard that reads ports must not let a fragment pass that is too short to
    /// have them (RFC 1858).
    #[inline(always)]
    pub fn parse<P: Packet + ?Sized>(frame: &P, offset: usize, protocol: u8) -> Result<Self, Malformed> {
        let fixed = match protocol {
            protocol::TCP => 20,
            protocol::SCTP => 12,
            protocol::UDP => 8,
            protocol::ICMP | protocol::ICMPV6 => 4,
            _ => return Ok(Self::Other),
        };
        let [a, b, c, d]: [u8; 4] = frame.read(offset).ok_or(Malformed::Truncated)?;
        if frame.read::<1>(offset + fixed - 1).is_none() {
            return Err(Malformed::Truncated);
        }
        Ok(match protocol {
            protocol::ICMP | protocol::ICMPV6 => Self::Message { kind: a, code: b },
            _ => Self::Ports { source: u16::from_be_bytes([a, b]), destination: u16::from_be_bytes([c, d]) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_messages_and_others() {
        let bytes = [0x1f, 0x90, 0, 53, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (number, fixed) in [(protocol::TCP, 20), (protocol::UDP, 8), (protocol::SCTP, 12)] {
            let ports = Transport::Ports { source: 8080, destination: 53 };
            assert_eq!(Transport::parse(bytes.as_slice(), 0, number), Ok(ports));
            assert_eq!(Transport::parse(&bytes[..fixed - 1], 0, number), Err(Malformed::Truncated));
        }
        let message = Transport::Message { kind: 0x1f, code: 0x90 };
        assert_eq!(Transport::parse(bytes.as_slice(), 0, protocol::ICMPV6), Ok(message));
        assert_eq!(Transport::parse(&bytes[..0], 0, 89), Ok(Transport::Other));
    }
}
