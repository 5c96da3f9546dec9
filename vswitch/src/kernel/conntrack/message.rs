//! Encodes and parses the ctnetlink messages that this crate needs
//! (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NlasIterator};
use nix::errno::Errno;

/// Message types: `NFNL_SUBSYS_CTNETLINK` in the upper byte, `IPCTNL_MSG_CT_NEW`, `_GET` or
/// `_DELETE` in the lower byte.
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// Message types `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Lengths of struct nlmsghdr, and of it together with struct nfgenmsg, in bytes.
const NLMSGHDR: usize = 16;
const HEADERS: usize = NLMSGHDR + 4;

/// Attribute types `CTA_*`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// Attribute types `CTA_TUPLE_*`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
/// Attribute types `CTA_IP_*`.
const V4_SRC: u16 = 1;
const V4_DST: u16 = 2;
const V6_SRC: u16 = 3;
const V6_DST: u16 = 4;
/// Attribute types `CTA_PROTO_*`.
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
/// Attribute flag `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// A tracked connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Addresses of the first packet, before translation.
    pub(super) original: Tuple,
    /// Addresses of the reply packets.
    pub(super) reply: Tuple,
    /// Address family: `AF_INET` or `AF_INET6`.
    pub(super) family: u8,
    /// Attributes that identify the connection to the kernel, unchanged: original tuple, id and
    /// zone.
    pub(super) identity: Vec<(u16, Vec<u8>)>,
}

/// Addresses and ports of the packets in one direction, as far as they are needed here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    pub(super) protocol: Option<u8>,
    pub(super) destination_port: Option<u16>,
}

/// A message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A tracked connection.
    Entry(Box<Entry>),
    /// The list changed during the read.
    Interrupted,
    /// End of the answer, with the kernel's error if it refused the request.
    End(Option<Errno>),
}

/// Returns the request to list all connections of both address families.
pub(super) fn dump() -> Vec<u8> {
    encode(GET, NLM_F_REQUEST | NLM_F_DUMP, 0, &[])
}

/// Returns the request to delete one connection. The request contains the connection's id, because
/// a newer connection may have the same addresses.
pub(super) fn delete(entry: &Entry) -> Vec<u8> {
    encode(DELETE, NLM_F_REQUEST | NLM_F_ACK, entry.family, &entry.identity)
}

/// Parses a message. Returns nothing for a message that is not part of an answer.
pub(super) fn parse(message: &[u8]) -> Vec<Answer> {
    let number = |at: usize| message.get(at..at + 2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let (Some(kind), Some(flags)) = (number(4), number(6)) else { return Vec::new() };
    let mut answers = Vec::new();
    if flags & NLM_F_DUMP_INTR != 0 && kind != ERROR {
        answers.push(Answer::Interrupted);
    }
    match kind {
        NEW => answers.extend(parse_entry(message).map(|entry| Answer::Entry(Box::new(entry)))),
        ERROR | DONE => {
            let code = message.get(NLMSGHDR..NLMSGHDR + 4).and_then(|bytes| bytes.try_into().ok());
            let code = code.map_or(0, i32::from_ne_bytes);
            answers.push(Answer::End((code < 0).then(|| Errno::from_raw(-code))));
        }
        _ => {}
    }
    answers
}

fn parse_entry(message: &[u8]) -> Option<Entry> {
    let mut entry = Entry { family: *message.get(NLMSGHDR)?, ..Entry::default() };
    for attribute in NlasIterator::new(message.get(HEADERS..)?).flatten() {
        let value = attribute.value();
        match attribute.kind() {
            TUPLE_ORIG => {
                entry.original = parse_tuple(value);
                entry.identity.push((TUPLE_ORIG | NESTED, value.to_owned()));
            }
            TUPLE_REPLY => entry.reply = parse_tuple(value),
            kind @ (ID | ZONE) => entry.identity.push((kind, value.to_owned())),
            _ => {}
        }
    }
    Some(entry)
}

fn parse_tuple(attributes: &[u8]) -> Tuple {
    let mut tuple = Tuple::default();
    for outer in NlasIterator::new(attributes).flatten() {
        for inner in NlasIterator::new(outer.value()).flatten() {
            let value = inner.value();
            match (outer.kind(), inner.kind()) {
                (TUPLE_IP, V4_SRC | V6_SRC) => tuple.source = parse_address(value),
                (TUPLE_IP, V4_DST | V6_DST) => tuple.destination = parse_address(value),
                (TUPLE_PROTO, PROTO_NUM) => tuple.protocol = value.first().copied(),
                (TUPLE_PROTO, PROTO_DST_PORT) => tuple.destination_port = value.try_into().ok().map(u16::from_be_bytes),
                _ => {}
            }
        }
    }
    tuple
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    ipv4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

fn encode(kind: u16, flags: u16, family: u8, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    // struct nlmsghdr, whose length is filled in below and whose sequence number and port are 0;
    // then struct nfgenmsg.
    let mut bytes = vec![0; 4];
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.resize(NLMSGHDR, 0);
    bytes.extend([family, 0, 0, 0]);
    for (kind, value) in attributes {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(kind: u16, attributes: &[(u16, Vec<u8>)]) -> (u16, Vec<u8>) {
        (kind | NESTED, encode(0, 0, 0, attributes).split_off(HEADERS))
    }

    fn connection_message() -> Vec<u8> {
        let tuple = |source: [u8; 4], destination: [u8; 4], port: u16| {
            let ip = nested(TUPLE_IP, &[(V4_SRC, source.into()), (V4_DST, destination.into())]);
            let port = (PROTO_DST_PORT, port.to_be_bytes().into());
            [ip, nested(TUPLE_PROTO, &[(PROTO_NUM, vec![17]), port])]
        };
        let original = nested(TUPLE_ORIG, &tuple([192, 0, 2, 9], [192, 0, 2, 1], 53));
        let reply = nested(TUPLE_REPLY, &tuple([172, 17, 0, 2], [192, 0, 2, 9], 40000));
        encode(NEW, 0, 2, &[original, reply, (ID, vec![1, 2, 3, 4])])
    }

    #[test]
    fn a_delete_request_repeats_the_identity_of_the_parsed_connection() {
        let [Answer::Entry(entry)] = &parse(&connection_message())[..] else {
            panic!("{:?}", parse(&connection_message()))
        };
        assert_eq!(entry.original.destination, Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!((entry.original.protocol, entry.original.destination_port), (Some(17), Some(53)));
        assert_eq!(entry.reply.source, Some(IpAddr::from([172, 17, 0, 2])));
        let mut request = delete(entry);
        assert_eq!(request[4..6], DELETE.to_ne_bytes());
        request[4..6].copy_from_slice(&NEW.to_ne_bytes());
        let [Answer::Entry(again)] = &parse(&request)[..] else { panic!("{request:?}") };
        assert_eq!((&again.original, &again.identity), (&entry.original, &entry.identity));
    }

    #[test]
    fn ends_and_refusals_are_distinguished() {
        let end = |kind, code: i32| parse(&[&encode(kind, 0, 0, &[])[..NLMSGHDR], &code.to_ne_bytes()].concat());
        assert_eq!(end(DONE, 0), [Answer::End(None)]);
        assert_eq!(end(ERROR, 0), [Answer::End(None)]);
        assert_eq!(end(ERROR, -2), [Answer::End(Some(Errno::ENOENT))]);
        assert_eq!(parse(&encode(DONE, NLM_F_DUMP_INTR, 0, &[])), [Answer::Interrupted, Answer::End(None)]);
    }

    #[test]
    fn truncated_messages_never_cause_a_panic() {
        let whole = connection_message();
        for length in 0..whole.len() {
            let _no_panic = parse(&whole[..length]);
        }
        assert_eq!(parse(&[]), []);
    }
}
