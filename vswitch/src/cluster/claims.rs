//! Transactions that claim and release unique keys. Pure.
//!
//! Each transaction can be carried out twice. A claim of a key that this host owns succeeds and
//! attaches the key to the given lease.

use std::net::IpAddr;

use etcd_client::{Compare, CompareOp, DeleteOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::etcd::put;
use super::keys::{Key, Keys};
use super::owned::{Claim, Release};
use super::records::{Owner, SharedEndpoint};
use crate::model::{EndpointId, HostId, NetworkId};

/// Result of a claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This host owns the choice with this index.
    Claimed(usize),
    /// Every choice is taken. Holds the owner of the last one.
    Taken(String),
    /// The network does not exist any more.
    NetworkGone,
}

/// One alternative of a claim: the key that holds the owner, and the writes for the case that the
/// claim succeeds.
struct Choice {
    key: String,
    writes: Vec<TxnOp>,
}

/// Builds the transactions of one host.
pub(super) struct Claims<'a> {
    pub(super) keys: &'a Keys,
    pub(super) host: HostId,
}

impl Claims<'_> {
    /// Claims the first free address of the list.
    pub(super) fn addresses(&self, network: NetworkId, addresses: &[IpAddr], endpoint: EndpointId, lease: i64) -> Txn {
        let owner = self.owner(endpoint);
        let choices = addresses.iter().map(|address| {
            let key = self.keys.encode(&Key::Address(network, *address));
            let writes = vec![put(&key, owner.as_str(), Some(lease))];
            Choice { key, writes }
        });
        self.in_network(network, claim_first_free(choices.collect(), &owner))
    }

    /// Claims the name and writes the endpoint's record. Deletes the former name if the endpoint
    /// had another.
    pub(super) fn endpoint(&self, record: &EndpointWrite<'_>, lease: i64) -> Txn {
        let endpoint = record.endpoint;
        let owner = self.owner(endpoint.id);
        let key = self.keys.encode(&Key::Name(endpoint.network, endpoint.name.clone()));
        let record_key = self.keys.encode(&Key::Endpoint(endpoint.network, endpoint.id));
        let mut writes =
            vec![put(&key, owner.as_str(), Some(lease)), put(&record_key, record.json.as_str(), Some(lease))];
        if let Some(former) = record.former {
            let former = Key::Name(endpoint.network, former.name.clone());
            writes.push(TxnOp::delete(self.keys.encode(&former), None));
        }
        self.in_network(endpoint.network, claim_first_free(vec![Choice { key, writes }], &owner))
    }

    /// Releases a claim.
    pub(super) fn release(&self, release: &Release) -> Txn {
        match release {
            Release::Address(network, address, endpoint) => {
                let key = self.keys.encode(&Key::Address(*network, *address));
                delete_if_equal(key, self.owner(*endpoint))
            }
            Release::Endpoint(network, endpoint, name) => {
                let name = self.keys.encode(&Key::Name(*network, name.clone()));
                let record = TxnOp::delete(self.keys.encode(&Key::Endpoint(*network, *endpoint)), None);
                Txn::new().and_then([record, TxnOp::txn(delete_if_equal(name, self.owner(*endpoint)))])
            }
            Release::Network(id, name, vni) => {
                let unused = empty(&self.keys.endpoints_of(id));
                Txn::new().when([exists(&self.keys.encode(&Key::Id(*id))), unused]).and_then([
                    TxnOp::delete(self.keys.encode(&Key::Network(name.clone())), None),
                    TxnOp::delete(self.keys.encode(&Key::Vni(*vni)), None),
                    TxnOp::delete(self.keys.encode(&Key::Id(*id)), None),
                    delete_all(&self.keys.addresses(id)),
                    delete_all(&self.keys.names(id)),
                ])
            }
        }
    }

    /// Repeats a claim under a new lease.
    pub(super) fn reclaim(&self, claim: &Claim, json: &str, lease: i64) -> Txn {
        match claim {
            Claim::Address(network, address, endpoint) => self.addresses(*network, &[*address], *endpoint, lease),
            Claim::Endpoint(endpoint) => {
                self.endpoint(&EndpointWrite { endpoint, json: json.to_owned(), former: None }, lease)
            }
        }
    }

    fn owner(&self, endpoint: EndpointId) -> String {
        Owner { host: self.host, endpoint }.to_string()
    }

    /// Applies the claim only if the network exists. Its removal deletes this key in the same
    /// transaction that checks that no endpoint is left.
    fn in_network(&self, network: NetworkId, claim: Txn) -> Txn {
        Txn::new().when([exists(&self.keys.encode(&Key::Id(network)))]).and_then([TxnOp::txn(claim)])
    }
}

/// An endpoint, ready to be written.
pub(super) struct EndpointWrite<'a> {
    pub(super) endpoint: &'a SharedEndpoint,
    pub(super) json: String,
    /// Former state of the endpoint, if its name has changed.
    pub(super) former: Option<&'a SharedEndpoint>,
}

/// Evaluates the response to a claim.
pub(super) fn outcome(response: &TxnResponse) -> Outcome {
    if !response.succeeded() {
        return Outcome::NetworkGone;
    }
    let mut depth = 0;
    let mut inner = response.op_responses().into_iter().next();
    loop {
        match inner {
            // Two nested transactions per choice: "the key is absent", then "this host owns the
            // key".
            Some(TxnOpResponse::Txn(txn)) if txn.succeeded() => return Outcome::Claimed(depth / 2),
            Some(TxnOpResponse::Txn(txn)) => inner = txn.op_responses().into_iter().next(),
            Some(TxnOpResponse::Get(found)) => {
                let owner = found.kvs().first().map(|found| String::from_utf8_lossy(found.value()).into_owned());
                return Outcome::Taken(owner.unwrap_or_default());
            }
            _ => return Outcome::Taken(String::new()),
        }
        depth += 1;
    }
}

/// Compares: the key exists.
pub(super) fn exists(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Greater, 0)
}

/// Compares: the key does not exist.
pub(super) fn absent(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

/// Compares: no key starts with `prefix`. etcd compares every key of the range, and an empty range
/// as one key that was never created.
pub(super) fn empty(prefix: &str) -> Compare {
    Compare::create_revision(prefix, CompareOp::Equal, 0).with_prefix()
}

/// Deletes all keys that start with `prefix`.
pub(super) fn delete_all(prefix: &str) -> TxnOp {
    TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix()))
}

fn delete_if_equal(key: String, value: String) -> Txn {
    Txn::new().when([Compare::value(key.as_str(), CompareOp::Equal, value)]).and_then([TxnOp::delete(key, None)])
}

/// Claims the first choice whose key is absent or has this owner. If every choice is taken, reads
/// the key of the last one.
fn claim_first_free(choices: Vec<Choice>, owner: &str) -> Txn {
    let mut rest: Option<Txn> = None;
    for Choice { key, writes } in choices.into_iter().rev() {
        let or_else = rest.map_or_else(|| TxnOp::get(key.as_str(), None), TxnOp::txn);
        let owned = Compare::value(key.as_str(), CompareOp::Equal, owner);
        let owned = Txn::new().when([owned]).and_then(writes.clone()).or_else([or_else]);
        rest = Some(Txn::new().when([absent(&key)]).and_then(writes).or_else([TxnOp::txn(owned)]));
    }
    rest.unwrap_or_default()
}
