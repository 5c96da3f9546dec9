//! Encodes queries of IGMPv3 (RFC 3376 section 4.1) and MLDv2 (RFC 3810 section 5.1) as frames.
//! Hosts with older protocol versions read them as queries of their version.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use vswitch_common::Mac;
use vswitch_common::packet::{ethertype, protocol};

use super::message::{IGMP, kind};
use super::{Family, pseudo_header, sum};

/// Robustness Variable: number of times a message is sent to tolerate losses.
pub(super) const ROBUSTNESS: u32 = 2;
/// Query Interval: time between general queries.
pub(super) const INTERVAL: Duration = Duration::from_secs(125);
/// Query Response Interval: maximum response time to a general query.
pub(super) const RESPONSE: Duration = Duration::from_secs(10);
/// Startup Query Interval: time between the first two general queries, a quarter of the Query
/// Interval.
pub(super) const STARTUP: Duration = Duration::from_secs(31);
/// Last Member Query Interval: maximum response time to a group-specific query.
pub(super) const LAST_MEMBER: Duration = Duration::from_secs(1);
/// Other Querier Present Interval: time without queries after which a querier counts as gone,
/// `ROBUSTNESS * INTERVAL + RESPONSE / 2`.
pub(super) const OTHER_QUERIER: Duration = Duration::from_secs(255);
/// Group Membership Interval: time without reports after which a listener is removed, `ROBUSTNESS *
/// INTERVAL + RESPONSE`.
pub(super) const MEMBERSHIP: Duration = Duration::from_secs(260);

/// Type of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// General query: asks for the listeners of all groups.
    General(Family),
    /// Group-specific query: asks for the listeners of this group.
    Specific(IpAddr),
}

/// Sender addresses of queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuerySource {
    /// MAC address.
    pub mac: Mac,
    /// IPv4 address; unspecified if there is none.
    pub ipv4: Ipv4Addr,
    /// IPv6 link-local address.
    pub link_local: Ipv6Addr,
}

impl Query {
    /// Encodes the query as a frame.
    pub fn frame(self, source: &QuerySource) -> Vec<u8> {
        match self {
            Self::General(Family::Ipv4) => igmp(source, None),
            Self::Specific(IpAddr::V4(group)) => igmp(source, Some(group)),
            Self::General(Family::Ipv6) => mld(source, None),
            Self::Specific(IpAddr::V6(group)) => mld(source, Some(group)),
        }
    }
}

fn igmp(source: &QuerySource, group: Option<Ipv4Addr>) -> Vec<u8> {
    let response = if group.is_some() { LAST_MEMBER } else { RESPONSE };
    let tenths = (response.as_millis() / 100) as u8;
    let mut message = vec![kind::IGMP_QUERY, tenths, 0, 0];
    message.extend(group.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    message.extend([ROBUSTNESS as u8, INTERVAL.as_secs() as u8, 0, 0]);
    write_checksum(&mut message, 2, 0);

    let destination = group.unwrap_or(Ipv4Addr::new(224, 0, 0, 1));
    let length = 24 + message.len() as u16;
    // Precedence Internetwork Control, Don't Fragment, TTL 1 (RFC 3376 section 4), and the Router
    // Alert option (RFC 2113).
    let mut packet = vec![0x46, 0xc0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 1, IGMP, 0, 0]);
    packet.extend(source.ipv4.octets());
    packet.extend(destination.octets());
    packet.extend([0x94, 4, 0, 0]);
    write_checksum(&mut packet, 10, 0);

    let [_, b, c, d] = destination.octets();
    let station = Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d]);
    [&header(station, source.mac, ethertype::IPV4)[..], &packet, &message].concat()
}

fn mld(source: &QuerySource, group: Option<Ipv6Addr>) -> Vec<u8> {
    let response = if group.is_some() { LAST_MEMBER } else { RESPONSE };
    let mut message = vec![kind::MLD_QUERY, 0, 0, 0];
    message.extend((response.as_millis() as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(group.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    message.extend([ROBUSTNESS as u8, INTERVAL.as_secs() as u8, 0, 0]);
    let destination = group.unwrap_or(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let pseudo_header = pseudo_header(source.link_local, destination, message.len());
    write_checksum(&mut message, 2, pseudo_header);

    // Hop limit 1, and a hop-by-hop options header with Router Alert of value 0 (RFC 2711) and
    // padding.
    let options = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    let length = (options.len() + message.len()) as u16;
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([protocol::HOP_BY_HOP, 1]);
    packet.extend(source.link_local.octets());
    packet.extend(destination.octets());
    packet.extend(options);

    let [.., a, b, c, d] = destination.octets();
    [&header(Mac([0x33, 0x33, a, b, c, d]), source.mac, ethertype::IPV6)[..], &packet, &message].concat()
}

fn header(destination: Mac, source: Mac, ethertype: u16) -> Vec<u8> {
    [&destination.0[..], &source.0, &ethertype.to_be_bytes()].concat()
}

fn write_checksum(bytes: &mut [u8], at: usize, initial: u32) {
    let checksum = !(sum(initial, bytes) as u16);
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{Message, Question, SnoopedMessage, parse};
    use super::*;

    #[test]
    fn an_encoded_query_is_parsed_unchanged() {
        let link_local: Ipv6Addr = "fe80::7".parse().expect("an address");
        let source = QuerySource { mac: Mac([2, 0, 0, 0, 0, 7]), ipv4: [10, 9, 8, 1].into(), link_local };
        let [four, six] = ["239.1.2.3", "ff15::1234"].map(|group| group.parse::<IpAddr>().expect("an address"));
        let cases = [
            (Query::General(Family::Ipv4), None, RESPONSE),
            (Query::General(Family::Ipv6), None, RESPONSE),
            (Query::Specific(four), Some(four), LAST_MEMBER),
            (Query::Specific(six), Some(six), LAST_MEMBER),
        ];
        for (query, group, response) in cases {
            let frame = query.frame(&source);
            let source = if frame[12] == 8 { IpAddr::from(source.ipv4) } else { link_local.into() };
            let message = Message::Query(Question { group, response, suppress: false, sources: false });
            assert_eq!(parse(&frame), Ok(SnoopedMessage { source, message }), "{query:?}: {frame:02x?}");
        }
        let without = QuerySource { ipv4: Ipv4Addr::UNSPECIFIED, ..source };
        assert!(parse(&Query::General(Family::Ipv4).frame(&without)).is_ok());
    }

    #[test]
    fn a_general_query_has_the_standard_layout() {
        let source =
            QuerySource { mac: Mac([2, 0, 0, 0, 0, 7]), ipv4: [10, 9, 8, 1].into(), link_local: Ipv6Addr::LOCALHOST };
        let frame = Query::General(Family::Ipv4).frame(&source);
        assert_eq!(frame[..14], [0x01, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 7, 8, 0]);
        assert_eq!((frame[22], frame[23], &frame[34..38]), (1, 2, &[0x94, 4, 0, 0][..]));
        assert_eq!(frame[38..], [0x11, 100, 0xec, 0x1e, 0, 0, 0, 0, 2, 125, 0, 0]);
    }
}
