//! What a query is answered with. Pure: names are asked of [`Names`], and nobody else.

use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, RecordType};

use super::Names;
use super::error::Transport;
use super::message::{Query, Unanswerable, record};
use super::rotation::Rotation;
use crate::model::NetworkId;

/// How long a client may keep an answer, in seconds. Containers come, go and are replaced, and asking again costs one hop on
/// the same machine, so a client that keeps answers gains nothing but the address of a container that is gone (Docker's 600
/// are known for that). Not 0, which some caches take for an error.
const TTL: u32 = 5;

/// What is done about a query.
#[derive(Debug)]
pub(super) enum Decision {
    /// Nothing.
    Silence,
    /// This is answered.
    Answer(Vec<u8>),
    /// The host's resolvers are asked.
    Forward(Query),
}

/// Decides about what a client of a network sent.
pub(super) fn decide(
    asked: &[u8],
    transport: Transport,
    names: &dyn Names,
    network: NetworkId,
    client: IpAddr,
    rotation: &Rotation,
) -> Decision {
    let query = match Query::read(asked, transport) {
        Ok(query) => query,
        Err(Unanswerable::Silence) => return Decision::Silence,
        Err(Unanswerable::Refusal(bytes)) => return Decision::Answer(bytes),
    };
    let forwards = names.forwards(network);
    let kind = query.question().query_type;
    let answer = |code, records: Vec<RData>| {
        let mut message: Message = query.response(code);
        message.metadata.authoritative = true;
        message.metadata.recursion_available = forwards;
        message.add_answers(records.into_iter().map(|data| record(query.question(), TTL, data)));
        Decision::Answer(query.encode(message))
    };

    if let Some(name) = query.name() {
        if let Some(addresses) = names.addresses(network, client, &name) {
            // Of another type there is nothing, here or anywhere: NOERROR without answers, and so a client that asks for
            // both A and AAAA goes on with the one that it gets.
            let mut of_type: Vec<RData> = addresses.into_iter().filter_map(|address| data(kind, address)).collect();
            rotation.rotate(&name, kind, &mut of_type);
            return answer(ResponseCode::NoError, of_type);
        }
        if let Some(address) = query.reversed_address() {
            let found = names.name_of(network, client, address).and_then(|name| pointer(&name));
            match found {
                Some(pointer) => {
                    let asked = matches!(kind, RecordType::PTR | RecordType::ANY);
                    return answer(ResponseCode::NoError, asked.then_some(pointer).into_iter().collect());
                }
                None if names.is_ours(network, address) => return answer(ResponseCode::NXDomain, Vec::new()),
                None => {}
            }
        }
    }
    if forwards {
        return Decision::Forward(query);
    }
    // Not REFUSED, though that would be the truth: musl takes no notice of it and waits until its time is up, 5 s by
    // default, and glibc asks again and then calls it temporary, for which programs try again for ever. Both take NXDOMAIN at
    // once, and go on through the search list. Without an SOA record, nobody caches it (RFC 2308 section 5).
    answer(ResponseCode::NXDomain, Vec::new())
}

/// The data of an address, if it is of the type that is asked for.
fn data(kind: RecordType, address: IpAddr) -> Option<RData> {
    match (kind, address) {
        (RecordType::A | RecordType::ANY, IpAddr::V4(address)) => Some(RData::A(A(address))),
        (RecordType::AAAA | RecordType::ANY, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    }
}

/// A pointer to a name, unless DNS cannot write it: ours may have two dots in a row.
fn pointer(name: &str) -> Option<RData> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(RData::PTR(PTR(name)))
}
