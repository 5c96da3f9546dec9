//! Parses messages of IGMPv1, v2 and v3 (RFC 1112, 2236, 3376) and of MLDv1 and v2 (RFC 2710, 3810)
//! in frames from untrusted senders.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use vswitch_common::packet::ipv4::Ipv4;
use vswitch_common::packet::ipv6::{self, Ipv6};
use vswitch_common::packet::{Ethernet, ethertype, protocol};

use super::{pseudo_header, sum};

/// IP protocol number of IGMP.
pub(super) const IGMP: u8 = 2;

/// Message types of IGMP and MLD.
pub(super) mod kind {
    pub const IGMP_QUERY: u8 = 0x11;
    pub const IGMP_V1_REPORT: u8 = 0x12;
    pub const IGMP_V2_REPORT: u8 = 0x16;
    pub const IGMP_LEAVE: u8 = 0x17;
    pub const IGMP_V3_REPORT: u8 = 0x22;
    pub const MLD_QUERY: u8 = 130;
    pub const MLD_V1_REPORT: u8 = 131;
    pub const MLD_DONE: u8 = 132;
    pub const MLD_V2_REPORT: u8 = 143;
}

/// A received message with its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnoopedMessage {
    /// Source address; unspecified if the sender has no address yet.
    pub source: IpAddr,
    /// Content of the message.
    pub message: Message,
}

/// Content of an IGMP or MLD message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Query of a querier.
    Query(Question),
    /// Report or leave message of a listener.
    Report(Vec<Record>),
}

/// Content of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Queried group; `None` in a general query.
    pub group: Option<IpAddr>,
    /// Maximum response time.
    pub response: Duration,
    /// Suppress Router-Side Processing flag: receivers must not shorten their timers because of
    /// this query.
    pub suppress: bool,
    /// Whether the query lists sources.
    pub sources: bool,
}

/// Report of a listener about one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Group address.
    pub group: IpAddr,
    /// Reported change.
    pub change: Change,
}

/// Meaning of a record for a switch that tracks groups but no sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The sender listens to the group, to all or to some sources.
    Join,
    /// The sender does not listen to the group.
    Leave,
    /// The sender listens to fewer sources than before, possibly to none. A host that leaves its
    /// last source sends only this record.
    Fewer,
}

/// Reason why a frame is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The frame is neither IGMP nor MLD.
    #[error("neither IGMP nor MLD")]
    OtherProtocol,
    /// The message is shorter than its fields require.
    #[error("the message is too short")]
    Truncated,
    /// A checksum is wrong.
    #[error("the checksum is wrong")]
    Checksum,
    /// The standards require that the message is ignored.
    #[error("the message is not valid")]
    Invalid,
}

/// Parses the IGMP or MLD message in a frame.
///
/// # Errors
/// The reason why the frame is ignored.
pub fn parse(frame: &[u8]) -> Result<SnoopedMessage, ParseError> {
    let ethernet = Ethernet::parse(frame).map_err(|_| ParseError::Truncated)?;
    match ethernet.ethertype {
        ethertype::IPV4 => parse_ipv4(frame, ethernet.payload),
        ethertype::IPV6 => parse_ipv6(frame, ethernet.payload),
        _ => Err(ParseError::OtherProtocol),
    }
}

fn parse_ipv4(frame: &[u8], offset: usize) -> Result<SnoopedMessage, ParseError> {
    let header = Ipv4::parse(frame, offset).map_err(|_| ParseError::Truncated)?;
    if header.protocol != IGMP {
        return Err(ParseError::OtherProtocol);
    }
    let end = offset + usize::from(header.total_length);
    let options = frame.get(offset..header.payload).ok_or(ParseError::Truncated)?;
    let payload = frame.get(header.payload..end).ok_or(ParseError::Truncated)?;
    if sum(0, options) != 0xffff || sum(0, payload) != 0xffff {
        return Err(ParseError::Checksum);
    }
    if header.more_fragments || header.fragment_offset != 0 || !header.destination.is_multicast() {
        return Err(ParseError::Invalid);
    }
    Ok(SnoopedMessage { source: header.source.into(), message: parse_igmp(payload)? })
}

fn parse_ipv6(frame: &[u8], offset: usize) -> Result<SnoopedMessage, ParseError> {
    let header = Ipv6::parse(frame, offset).map_err(|_| ParseError::Truncated)?;
    if header.protocol != protocol::ICMPV6 {
        return Err(ParseError::OtherProtocol);
    }
    let bytes = frame.get(offset..).ok_or(ParseError::Truncated)?;
    let (Some([l0, l1]), Some(hops)) = (array(bytes, 4), bytes.get(7)) else { return Err(ParseError::Truncated) };
    let end = offset + ipv6::HEADER + usize::from(u16::from_be_bytes([l0, l1]));
    let payload = frame.get(header.payload..end).ok_or(ParseError::Truncated)?;
    let kind = *payload.first().ok_or(ParseError::Truncated)?;
    if ![kind::MLD_QUERY, kind::MLD_V1_REPORT, kind::MLD_DONE, kind::MLD_V2_REPORT].contains(&kind) {
        return Err(ParseError::OtherProtocol);
    }
    if sum(pseudo_header(header.source, header.destination, payload.len()), payload) != 0xffff {
        return Err(ParseError::Checksum);
    }
    // The source must be a link-local address (RFC 3810 sections 5.1.14 and 5.2.13). The
    // unspecified address is allowed in reports, but not in queries.
    let is_from_link =
        header.source.is_unicast_link_local() || (kind != kind::MLD_QUERY && header.source.is_unspecified());
    if !header.has_transport() || !header.destination.is_multicast() || *hops != 1 || !is_from_link {
        return Err(ParseError::Invalid);
    }
    Ok(SnoopedMessage { source: header.source.into(), message: parse_mld(kind, payload)? })
}

fn parse_igmp(payload: &[u8]) -> Result<Message, ParseError> {
    let [kind, code, _, _, a, b, c, d] = array(payload, 0).ok_or(ParseError::Truncated)?;
    let group = Ipv4Addr::new(a, b, c, d);
    let tenths = |code: u64| Duration::from_millis(code * 100);
    match kind {
        kind::IGMP_QUERY => {
            let (response, suppress, sources) = match payload.len() {
                // A query of IGMPv1 has a response time of ten seconds (RFC 2236 section 4).
                8 if code == 0 => (tenths(100), false, 0),
                8 => (tenths(code.into()), false, 0),
                // RFC 3376 section 7.1: queries of these lengths are ignored.
                9..12 => return Err(ParseError::Invalid),
                _ => {
                    let [flags, _, n0, n1] = array(payload, 8).ok_or(ParseError::Truncated)?;
                    (tenths(decode_time(code.into(), 7)), flags & 8 != 0, u16::from_be_bytes([n0, n1]))
                }
            };
            if payload.len() > 8 && payload.len() < 12 + 4 * usize::from(sources) {
                return Err(ParseError::Truncated);
            }
            query_message(group.into(), response, suppress, sources != 0)
        }
        kind::IGMP_V1_REPORT | kind::IGMP_V2_REPORT => single_record(group.into(), Change::Join),
        kind::IGMP_LEAVE => single_record(group.into(), Change::Leave),
        // In this message, the bytes of the group hold a reserved field and the number of records.
        kind::IGMP_V3_REPORT => parse_records(payload, u16::from_be_bytes([c, d]), 4, |bytes| {
            Some(Ipv4Addr::from(array::<4>(bytes, 4)?).into())
        }),
        // Unrecognized types are ignored (RFC 3376 section 4).
        _ => Err(ParseError::OtherProtocol),
    }
}

fn parse_mld(kind: u8, payload: &[u8]) -> Result<Message, ParseError> {
    let [_, _, _, _, r0, r1, n0, n1] = array(payload, 0).ok_or(ParseError::Truncated)?;
    let group =
        || array::<16>(payload, 8).map(|group| IpAddr::from(Ipv6Addr::from(group))).ok_or(ParseError::Truncated);
    match kind {
        kind::MLD_QUERY => {
            let code = u64::from(u16::from_be_bytes([r0, r1]));
            let group = group()?;
            let (response, suppress, sources) = match payload.len() {
                24 => (code, false, 0),
                // RFC 3810 section 8.1: queries of these lengths are ignored.
                25..28 => return Err(ParseError::Invalid),
                _ => {
                    let [flags, _, n0, n1] = array(payload, 24).ok_or(ParseError::Truncated)?;
                    (decode_time(code, 15), flags & 8 != 0, u16::from_be_bytes([n0, n1]))
                }
            };
            if payload.len() > 24 && payload.len() < 28 + 16 * usize::from(sources) {
                return Err(ParseError::Truncated);
            }
            query_message(group, Duration::from_millis(response), suppress, sources != 0)
        }
        kind::MLD_V1_REPORT => single_record(group()?, Change::Join),
        kind::MLD_DONE => single_record(group()?, Change::Leave),
        _ => parse_records(payload, u16::from_be_bytes([n0, n1]), 16, |bytes| {
            Some(Ipv6Addr::from(array::<16>(bytes, 4)?).into())
        }),
    }
}

fn query_message(group: IpAddr, response: Duration, suppress: bool, sources: bool) -> Result<Message, ParseError> {
    match group {
        group if group.is_unspecified() && !sources => {
            Ok(Message::Query(Question { group: None, response, suppress, sources }))
        }
        group if group.is_multicast() => {
            Ok(Message::Query(Question { group: Some(group), response, suppress, sources }))
        }
        _ => Err(ParseError::Invalid),
    }
}

fn single_record(group: IpAddr, change: Change) -> Result<Message, ParseError> {
    if group.is_multicast() { Ok(Message::Report(vec![Record { group, change }])) } else { Err(ParseError::Invalid) }
}

/// Parses the records of an IGMPv3 or MLDv2 report, which differ only in the length of addresses in
/// bytes (`address`). A report that ends before its last record is ignored as a whole. A record
/// whose address is not multicast is skipped (RFC 3376 section 4.2; RFC 3810 section 5.2).
fn parse_records(
    payload: &[u8],
    count: u16,
    address: usize,
    group: impl Fn(&[u8]) -> Option<IpAddr>,
) -> Result<Message, ParseError> {
    let mut records = Vec::new();
    let mut rest = payload.get(8..).ok_or(ParseError::Truncated)?;
    for _ in 0..count {
        let [kind, auxiliary, n0, n1] = array(rest, 0).ok_or(ParseError::Truncated)?;
        let group = group(rest).ok_or(ParseError::Truncated)?;
        let sources = usize::from(u16::from_be_bytes([n0, n1]));
        rest = rest.get(4 + address + sources * address + usize::from(auxiliary) * 4..).ok_or(ParseError::Truncated)?;
        if let Some(change) = record_change(kind, sources != 0).filter(|_| group.is_multicast()) {
            records.push(Record { group, change });
        }
    }
    Ok(Message::Report(records))
}

/// Returns the meaning of a record by its type and whether it lists sources (RFC 3376 section
/// 4.2.12; RFC 3810 section 5.2.12). Returns `None` for a record without meaning.
const fn record_change(kind: u8, sources: bool) -> Option<Change> {
    match (kind, sources) {
        // MODE_IS_INCLUDE and CHANGE_TO_INCLUDE_MODE without sources: the host listens to no
        // source.
        (1 | 3, false) => Some(Change::Leave),
        // The same types with sources, MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE_MODE, and
        // ALLOW_NEW_SOURCES.
        (1 | 3, true) | (2 | 4, _) | (5, true) => Some(Change::Join),
        // BLOCK_OLD_SOURCES.
        (6, true) => Some(Change::Fewer),
        _ => None,
    }
}

/// Decodes a time of IGMPv3 or MLDv2 (RFC 3376 section 4.1.1; RFC 3810 section 5.1.3). A code below
/// 2 to the power of `bits` is the value itself. A larger code is a floating point number with an
/// exponent of three bits.
const fn decode_time(code: u64, bits: u32) -> u64 {
    if code < 1 << bits {
        return code;
    }
    let mantissa_bits = bits - 3;
    let (mantissa, exponent) = (code & ((1 << mantissa_bits) - 1), code >> mantissa_bits & 7);
    (mantissa | 1 << mantissa_bits) << (exponent + 3)
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests;
