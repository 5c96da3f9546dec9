//! Decides how a query is answered. The decision does no I/O: names come only from [`Names`].

use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, RecordType};

use super::Names;
use super::error::Transport;
use super::message::{Query, Rejected, record};
use super::rotation::Rotation;
use crate::model::NetworkId;

/// TTL of an answer, in seconds. Containers are replaced often, and a new query costs one hop on
/// the same machine. A long TTL would only keep the address of a removed container in the client's
/// cache, as Docker's 600 seconds do. The value is not 0 because some caches treat 0 as an error.
const TTL: u32 = 5;

/// The action for a query.
#[derive(Debug)]
pub(super) enum Decision {
    /// Send no answer.
    Ignore,
    /// Send this answer to the client.
    Answer(Vec<u8>),
    /// Forward the query to the host's resolvers.
    Forward(Query),
}

/// Decides how to answer the message `bytes`, which `client` of `network` sent.
pub(super) fn decide(
    bytes: &[u8],
    transport: Transport,
    names: &dyn Names,
    network: NetworkId,
    client: IpAddr,
    rotation: &Rotation,
) -> Decision {
    let query = match Query::parse(bytes, transport) {
        Ok(query) => query,
        Err(Rejected::Ignore) => return Decision::Ignore,
        Err(Rejected::Answer(bytes)) => return Decision::Answer(bytes),
    };
    if !names.admits(network, client) {
        return Decision::Answer(query.encode(query.response(ResponseCode::Refused)));
    }
    let forwards = names.forwards(network);
    let kind = query.question().query_type;
    let respond = |code, records: Vec<RData>| {
        let mut message: Message = query.response(code);
        message.metadata.authoritative = true;
        message.metadata.recursion_available = forwards;
        message.add_answers(records.into_iter().map(|data| record(query.question(), TTL, data)));
        Decision::Answer(query.encode(message))
    };

    if let Some(name) = query.name() {
        if let Some(addresses) = names.addresses(network, client, &name) {
            // A query for another record type gets NOERROR without answers, because no other server
            // knows the name either. A client that queries both A and AAAA then continues with the
            // type that has records.
            let mut of_type: Vec<RData> =
                addresses.into_iter().filter_map(|address| record_data(kind, address)).collect();
            rotation.rotate(&name, kind, &mut of_type);
            return respond(ResponseCode::NoError, of_type);
        }
        if let Some(address) = query.reversed_address() {
            let found = names.name_of(network, client, address).and_then(|name| pointer_data(&name));
            match found {
                Some(data) => {
                    let is_asked = matches!(kind, RecordType::PTR | RecordType::ANY);
                    return respond(ResponseCode::NoError, is_asked.then_some(data).into_iter().collect());
                }
                None if names.is_ours(network, address) => return respond(ResponseCode::NXDomain, Vec::new()),
                None => {}
            }
        }
    }
    if forwards {
        return Decision::Forward(query);
    }
    // REFUSED would be the exact code, but resolvers handle it badly. musl ignores it and waits for
    // its timeout, 5 s by default. glibc retries and then reports a temporary failure, which makes
    // programs retry for ever. Both accept NXDOMAIN at once and continue with the search list. An
    // NXDOMAIN without an SOA record is not cached (RFC 2308 section 5).
    respond(ResponseCode::NXDomain, Vec::new())
}

/// Returns the record data of `address`, or `None` if its record type does not match the queried
/// type `kind`.
fn record_data(kind: RecordType, address: IpAddr) -> Option<RData> {
    match (kind, address) {
        (RecordType::A | RecordType::ANY, IpAddr::V4(address)) => Some(RData::A(A(address))),
        (RecordType::AAAA | RecordType::ANY, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    }
}

/// Returns the PTR record data for `name`, or `None` if DNS cannot encode it: an endpoint name may
/// have two dots in a row.
fn pointer_data(name: &str) -> Option<RData> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(RData::PTR(PTR(name)))
}
