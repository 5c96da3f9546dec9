//! IGMPv1, v2, v3 (RFC 1112, 2236, 3376) and MLDv1, v2 (RFC 2710, 3810) messages, read out of frames that anybody may
//! have sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use vswitch_common::packet::ipv4::Ipv4;
use vswitch_common::packet::ipv6::{self, Ipv6};
use vswitch_common::packet::{Ethernet, ethertype, protocol};

use super::{pseudo_header, sum};

/// The IP protocol number of IGMP.
pub(super) const IGMP: u8 = 2;

/// Types of messages.
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

/// A message, and who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The sender; unspecified if it has no address yet.
    pub source: IpAddr,
    /// What it said.
    pub message: Message,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A querier asks.
    Query(Question),
    /// A listener says what it listens to, or does not any more.
    Report(Vec<Record>),
}

/// What a querier asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who listens to this group; `None` to any.
    pub group: Option<IpAddr>,
    /// How long the answers may take.
    pub response: Duration,
    /// Routers are not to forget sooner because of it.
    pub suppress: bool,
    /// It asks about some sources alone.
    pub sources: bool,
}

/// What a listener says of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The group.
    pub group: IpAddr,
    /// What of it.
    pub change: Change,
}

/// What a record means to somebody who keeps groups and no sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The sender listens, to all sources or to some.
    Join,
    /// It does not.
    Leave,
    /// It listens to fewer sources than before, perhaps to none: a host that leaves the last one says no more than this.
    Fewer,
}

/// Why a frame has no message for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It is none of IGMP or MLD.
    #[error("no message about groups")]
    Other,
    /// It ends before it should.
    #[error("too short")]
    Truncated,
    /// Its checksum is wrong.
    #[error("wrong checksum")]
    Checksum,
    /// The standards say that such a one is to be ignored.
    #[error("not valid")]
    Invalid,
}

/// Reads a frame.
///
/// # Errors
/// Why it is to be ignored.
pub fn parse(frame: &[u8]) -> Result<Heard, Unread> {
    let ethernet = Ethernet::parse(frame).map_err(|_| Unread::Truncated)?;
    match ethernet.ethertype {
        ethertype::IPV4 => in_ipv4(frame, ethernet.payload),
        ethertype::IPV6 => in_ipv6(frame, ethernet.payload),
        _ => Err(Unread::Other),
    }
}

fn in_ipv4(frame: &[u8], offset: usize) -> Result<Heard, Unread> {
    let header = Ipv4::parse(frame, offset).map_err(|_| Unread::Truncated)?;
    if header.protocol != IGMP {
        return Err(Unread::Other);
    }
    let end = offset + usize::from(header.total_length);
    let options = frame.get(offset..header.payload).ok_or(Unread::Truncated)?;
    let payload = frame.get(header.payload..end).ok_or(Unread::Truncated)?;
    if sum(0, options) != 0xffff || sum(0, payload) != 0xffff {
        return Err(Unread::Checksum);
    }
    if header.more_fragments || header.fragment_offset != 0 || !header.destination.is_multicast() {
        return Err(Unread::Invalid);
    }
    Ok(Heard { source: header.source.into(), message: igmp(payload)? })
}

fn in_ipv6(frame: &[u8], offset: usize) -> Result<Heard, Unread> {
    let header = Ipv6::parse(frame, offset).map_err(|_| Unread::Truncated)?;
    if header.protocol != protocol::ICMPV6 {
        return Err(Unread::Other);
    }
    let bytes = frame.get(offset..).ok_or(Unread::Truncated)?;
    let (Some([l0, l1]), Some(hops)) = (array(bytes, 4), bytes.get(7)) else { return Err(Unread::Truncated) };
    let end = offset + ipv6::HEADER + usize::from(u16::from_be_bytes([l0, l1]));
    let payload = frame.get(header.payload..end).ok_or(Unread::Truncated)?;
    let kind = *payload.first().ok_or(Unread::Truncated)?;
    if ![kind::MLD_QUERY, kind::MLD_V1_REPORT, kind::MLD_DONE, kind::MLD_V2_REPORT].contains(&kind) {
        return Err(Unread::Other);
    }
    if sum(pseudo_header(header.source, header.destination, payload.len()), payload) != 0xffff {
        return Err(Unread::Checksum);
    }
    // RFC 3810, 5.1.14 and 5.2.13: from the link itself. Who has no address yet may report, but not ask.
    let near = header.source.is_unicast_link_local() || (kind != kind::MLD_QUERY && header.source.is_unspecified());
    if !header.has_transport() || !header.destination.is_multicast() || *hops != 1 || !near {
        return Err(Unread::Invalid);
    }
    Ok(Heard { source: header.source.into(), message: mld(kind, payload)? })
}

fn igmp(payload: &[u8]) -> Result<Message, Unread> {
    let [kind, code, _, _, a, b, c, d] = array(payload, 0).ok_or(Unread::Truncated)?;
    let group = Ipv4Addr::new(a, b, c, d);
    let tenths = |code: u64| Duration::from_millis(code * 100);
    match kind {
        kind::IGMP_QUERY => {
            let (response, suppress, sources) = match payload.len() {
                // RFC 2236, 4: one of IGMPv1 gives ten seconds.
                8 if code == 0 => (tenths(100), false, 0),
                8 => (tenths(code.into()), false, 0),
                // RFC 3376, 7.1
                9..12 => return Err(Unread::Invalid),
                _ => {
                    let [flags, _, n0, n1] = array(payload, 8).ok_or(Unread::Truncated)?;
                    (tenths(float(code.into(), 7)), flags & 8 != 0, u16::from_be_bytes([n0, n1]))
                }
            };
            if payload.len() > 8 && payload.len() < 12 + 4 * usize::from(sources) {
                return Err(Unread::Truncated);
            }
            question(group.into(), response, suppress, sources != 0)
        }
        kind::IGMP_V1_REPORT | kind::IGMP_V2_REPORT => single(group.into(), Change::Join),
        kind::IGMP_LEAVE => single(group.into(), Change::Leave),
        // What looks like a group here is the reserved bytes and the number of records.
        kind::IGMP_V3_REPORT => {
            records(payload, u16::from_be_bytes([c, d]), 4, |bytes| Some(Ipv4Addr::from(array::<4>(bytes, 4)?).into()))
        }
        // RFC 3376, 4: of unrecognized types.
        _ => Err(Unread::Other),
    }
}

fn mld(kind: u8, payload: &[u8]) -> Result<Message, Unread> {
    let [_, _, _, _, r0, r1, n0, n1] = array(payload, 0).ok_or(Unread::Truncated)?;
    let group = || array::<16>(payload, 8).map(|group| IpAddr::from(Ipv6Addr::from(group))).ok_or(Unread::Truncated);
    match kind {
        kind::MLD_QUERY => {
            let code = u64::from(u16::from_be_bytes([r0, r1]));
            let group = group()?;
            let (response, suppress, sources) = match payload.len() {
                24 => (code, false, 0),
                // RFC 3810, 8.1
                25..28 => return Err(Unread::Invalid),
                _ => {
                    let [flags, _, n0, n1] = array(payload, 24).ok_or(Unread::Truncated)?;
                    (float(code, 15), flags & 8 != 0, u16::from_be_bytes([n0, n1]))
                }
            };
            if payload.len() > 24 && payload.len() < 28 + 16 * usize::from(sources) {
                return Err(Unread::Truncated);
            }
            question(group, Duration::from_millis(response), suppress, sources != 0)
        }
        kind::MLD_V1_REPORT => single(group()?, Change::Join),
        kind::MLD_DONE => single(group()?, Change::Leave),
        _ => records(payload, u16::from_be_bytes([n0, n1]), 16, |bytes| {
            Some(Ipv6Addr::from(array::<16>(bytes, 4)?).into())
        }),
    }
}

fn question(group: IpAddr, response: Duration, suppress: bool, sources: bool) -> Result<Message, Unread> {
    match group {
        group if group.is_unspecified() && !sources => {
            Ok(Message::Query(Question { group: None, response, suppress, sources }))
        }
        group if group.is_multicast() => {
            Ok(Message::Query(Question { group: Some(group), response, suppress, sources }))
        }
        _ => Err(Unread::Invalid),
    }
}

fn single(group: IpAddr, change: Change) -> Result<Message, Unread> {
    if group.is_multicast() { Ok(Message::Report(vec![Record { group, change }])) } else { Err(Unread::Invalid) }
}

/// The records of a report of IGMPv3 or MLDv2, which differ in the length of addresses alone. A report that ends before
/// all of them do is ignored whole; one about what is no group only itself (RFC 3376, 4.2; RFC 3810, 5.2).
fn records(
    payload: &[u8],
    count: u16,
    address: usize,
    group: impl Fn(&[u8]) -> Option<IpAddr>,
) -> Result<Message, Unread> {
    let mut records = Vec::new();
    let mut rest = payload.get(8..).ok_or(Unread::Truncated)?;
    for _ in 0..count {
        let [kind, auxiliary, n0, n1] = array(rest, 0).ok_or(Unread::Truncated)?;
        let group = group(rest).ok_or(Unread::Truncated)?;
        let sources = usize::from(u16::from_be_bytes([n0, n1]));
        rest = rest.get(4 + address + sources * address + usize::from(auxiliary) * 4..).ok_or(Unread::Truncated)?;
        if let Some(change) = change(kind, sources != 0).filter(|_| group.is_multicast()) {
            records.push(Record { group, change });
        }
    }
    Ok(Message::Report(records))
}

/// What a record of this type means (RFC 3376, 4.2.12; RFC 3810, 5.2.12), if anything.
const fn change(kind: u8, sources: bool) -> Option<Change> {
    match (kind, sources) {
        // MODE_IS_INCLUDE, CHANGE_TO_INCLUDE_MODE: these sources and no other.
        (1 | 3, false) => Some(Change::Leave),
        // The same, MODE_IS_EXCLUDE, CHANGE_TO_EXCLUDE_MODE, ALLOW_NEW_SOURCES.
        (1 | 3, true) | (2 | 4, _) | (5, true) => Some(Change::Join),
        // BLOCK_OLD_SOURCES
        (6, true) => Some(Change::Fewer),
        _ => None,
    }
}

/// A time as IGMPv3 and MLDv2 write it: below 2 to the power of `bits` it is the number itself, above it a floating point
/// number with an exponent of three bits (RFC 3376, 4.1.1; RFC 3810, 5.1.3).
const fn float(code: u64, bits: u32) -> u64 {
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
