//! Queries, as frames: of IGMPv3 (RFC 3376, 4.1) and MLDv2 (RFC 3810, 5.1), which hosts of the older versions take for
//! theirs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vswitch_common::Mac;
use vswitch_common::packet::{ethertype, protocol};

use super::message::{IGMP, kind};
use super::querier::{INTERVAL, LAST_MEMBER, RESPONSE, ROBUSTNESS};
use super::{Family, pseudo_header, sum};

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Who listens to any group?
    General(Family),
    /// Who listens to this one?
    Specific(IpAddr),
}

/// In whose name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its station.
    pub mac: Mac,
    /// Its IPv4 address; unspecified if it has none.
    pub ipv4: Ipv4Addr,
    /// Its link-local address.
    pub link_local: Ipv6Addr,
}

impl Query {
    /// The frame.
    pub fn frame(self, asker: &Asker) -> Vec<u8> {
        match self {
            Self::General(Family::Ipv4) => igmp(asker, None),
            Self::Specific(IpAddr::V4(group)) => igmp(asker, Some(group)),
            Self::General(Family::Ipv6) => mld(asker, None),
            Self::Specific(IpAddr::V6(group)) => mld(asker, Some(group)),
        }
    }
}

fn igmp(asker: &Asker, group: Option<Ipv4Addr>) -> Vec<u8> {
    let response = if group.is_some() { LAST_MEMBER } else { RESPONSE };
    let tenths = (response.as_millis() / 100) as u8;
    let mut message = vec![kind::IGMP_QUERY, tenths, 0, 0];
    message.extend(group.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    message.extend([ROBUSTNESS as u8, INTERVAL.as_secs() as u8, 0, 0]);
    write_checksum(&mut message, 2, 0);

    let destination = group.unwrap_or(Ipv4Addr::new(224, 0, 0, 1));
    let length = 24 + message.len() as u16;
    // Precedence internetwork control, not fragmented, TTL 1 (RFC 3376, 4), the router alert option (RFC 2113).
    let mut packet = vec![0x46, 0xc0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 1, IGMP, 0, 0]);
    packet.extend(asker.ipv4.octets());
    packet.extend(destination.octets());
    packet.extend([0x94, 4, 0, 0]);
    write_checksum(&mut packet, 10, 0);

    let [_, b, c, d] = destination.octets();
    let station = Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d]);
    [&header(station, asker.mac, ethertype::IPV4)[..], &packet, &message].concat()
}

fn mld(asker: &Asker, group: Option<Ipv6Addr>) -> Vec<u8> {
    let response = if group.is_some() { LAST_MEMBER } else { RESPONSE };
    let mut message = vec![kind::MLD_QUERY, 0, 0, 0];
    message.extend((response.as_millis() as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(group.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    message.extend([ROBUSTNESS as u8, INTERVAL.as_secs() as u8, 0, 0]);
    let destination = group.unwrap_or(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let pseudo_header = pseudo_header(asker.link_local, destination, message.len());
    write_checksum(&mut message, 2, pseudo_header);

    // Hop limit 1, and hop-by-hop options with a router alert of value 0 (RFC 2711) and padding.
    let options = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    let length = (options.len() + message.len()) as u16;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([protocol::HOP_BY_HOP, 1]);
    packet.extend(asker.link_local.octets());
    packet.extend(destination.octets());
    packet.extend(options);

    let [.., a, b, c, d] = destination.octets();
    [&header(Mac([0x33, 0x33, a, b, c, d]), asker.mac, ethertype::IPV6)[..], &packet, &message].concat()
}

fn header(destination: Mac, source: Mac, ethertype: u16) -> Vec<u8> {
    [&destination.0[..], &source.0, &ethertype.to_be_bytes()].concat()
}

fn write_checksum(bytes: &mut [u8], at: usize, before: u32) {
    let checksum = !(sum(before, bytes) as u16);
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{Heard, Message, Question, parse};
    use super::*;

    #[test]
    fn a_query_is_read_as_it_was_meant() {
        let link_local: Ipv6Addr = "fe80::7".parse().expect("an address");
        let asker = Asker { mac: Mac([2, 0, 0, 0, 0, 7]), ipv4: [10, 9, 8, 1].into(), link_local };
        let [four, six] = ["239.1.2.3", "ff15::1234"].map(|group| group.parse::<IpAddr>().expect("an address"));
        let cases = [
            (Query::General(Family::Ipv4), None, RESPONSE),
            (Query::General(Family::Ipv6), None, RESPONSE),
            (Query::Specific(four), Some(four), LAST_MEMBER),
            (Query::Specific(six), Some(six), LAST_MEMBER),
        ];
        for (query, group, response) in cases {
            let frame = query.frame(&asker);
            let source = if frame[12] == 8 { IpAddr::from(asker.ipv4) } else { link_local.into() };
            let message = Message::Query(Question { group, response, suppress: false, sources: false });
            assert_eq!(parse(&frame), Ok(Heard { source, message }), "{query:?}: {frame:02x?}");
        }
        let without = Asker { ipv4: Ipv4Addr::UNSPECIFIED, ..asker };
        assert!(parse(&Query::General(Family::Ipv4).frame(&without)).is_ok());
    }

    #[test]
    fn a_general_query_is_what_the_standard_draws() {
        let asker = Asker { mac: Mac([2, 0, 0, 0, 0, 7]), ipv4: [10, 9, 8, 1].into(), link_local: Ipv6Addr::LOCALHOST };
        let frame = Query::General(Family::Ipv4).frame(&asker);
        assert_eq!(frame[..14], [0x01, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 7, 8, 0]);
        assert_eq!((frame[22], frame[23], &frame[34..38]), (1, 2, &[0x94, 4, 0, 0][..]));
        assert_eq!(frame[38..], [0x11, 100, 0xec, 0x1e, 0, 0, 0, 0, 2, 125, 0, 0]);
    }
}
