//! Transactions by which this host takes and gives back what only one can have. Pure.
//!
//! Each may be carried out twice: what this host has already, it takes again, which attaches it to the lease of the day.

use std::net::IpAddr;

use etcd_client::{Compare, CompareOp, DeleteOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::etcd::put;
use super::keys::{Key, Keys};
use super::owned::{Claim, Release};
use super::records::{Owner, SharedEndpoint};
use crate::model::{EndpointId, HostId, NetworkId};

/// How a claim ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This host has it: the choice with this number.
    Ours(usize),
    /// Somebody else has the last choice, and all before it.
    Taken(String),
    /// The network is not there any more.
    NetworkGone,
}

/// One of several things that a transaction tries to take: a key that says whose it is, and all that is to be written then.
struct Choice {
    key: String,
    writes: Vec<TxnOp>,
}

/// The keys of one host's claims.
pub(super) struct Claims<'a> {
    pub(super) keys: &'a Keys,
    pub(super) host: HostId,
}

impl Claims<'_> {
    /// Takes the first of these addresses that nobody has.
    pub(super) fn addresses(&self, network: NetworkId, addresses: &[IpAddr], endpoint: EndpointId, lease: i64) -> Txn {
        let owner = self.owner(endpoint);
        let choices = addresses.iter().map(|address| {
            let key = self.keys.encode(&Key::Address(network, *address));
            let writes = vec![put(&key, owner.as_str(), Some(lease))];
            Choice { key, writes }
        });
        self.in_network(network, first_free(choices.collect(), &owner))
    }

    /// Takes the name, and writes the record. `former` is the name that the endpoint had before, if it had another.
    pub(super) fn endpoint(&self, record: &Written<'_>, lease: i64) -> Txn {
        let endpoint = record.endpoint;
        let owner = self.owner(endpoint.id);
        let key = self.keys.encode(&Key::Name(endpoint.network, endpoint.name.clone()));
        let at = self.keys.encode(&Key::Endpoint(endpoint.network, endpoint.id));
        let mut writes = vec![put(&key, owner.as_str(), Some(lease)), put(&at, record.json.as_str(), Some(lease))];
        if let Some(former) = record.former {
            let former = Key::Name(endpoint.network, former.name.clone());
            writes.push(TxnOp::delete(self.keys.encode(&former), None));
        }
        self.in_network(endpoint.network, first_free(vec![Choice { key, writes }], &owner))
    }

    /// Takes back.
    pub(super) fn release(&self, release: &Release) -> Txn {
        match release {
            Release::Address(network, address, endpoint) => {
                let key = self.keys.encode(&Key::Address(*network, *address));
                delete_if(key, self.owner(*endpoint))
            }
            Release::Endpoint(network, endpoint, name) => {
                let name = self.keys.encode(&Key::Name(*network, name.clone()));
                let record = TxnOp::delete(self.keys.encode(&Key::Endpoint(*network, *endpoint)), None);
                Txn::new().and_then([record, TxnOp::txn(delete_if(name, self.owner(*endpoint)))])
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

    /// Takes what this host had under a former lease.
    pub(super) fn again(&self, claim: &Claim, json: &str, lease: i64) -> Txn {
        match claim {
            Claim::Address(network, address, endpoint) => self.addresses(*network, &[*address], *endpoint, lease),
            Claim::Endpoint(endpoint) => {
                self.endpoint(&Written { endpoint, json: json.to_owned(), former: None }, lease)
            }
        }
    }

    fn owner(&self, endpoint: EndpointId) -> String {
        Owner { host: self.host, endpoint }.to_string()
    }

    /// Only as long as the network is there: a removal deletes this key in the transaction that finds no endpoints.
    fn in_network(&self, network: NetworkId, claim: Txn) -> Txn {
        Txn::new().when([exists(&self.keys.encode(&Key::Id(network)))]).and_then([TxnOp::txn(claim)])
    }
}

/// An endpoint as it is to be written.
pub(super) struct Written<'a> {
    pub(super) endpoint: &'a SharedEndpoint,
    pub(super) json: String,
    /// What it was before, if it had another name.
    pub(super) former: Option<&'a SharedEndpoint>,
}

/// How the transaction of a claim ended.
pub(super) fn outcome(response: &TxnResponse) -> Outcome {
    if !response.succeeded() {
        return Outcome::NetworkGone;
    }
    let mut depth = 0;
    let mut inner = response.op_responses().into_iter().next();
    loop {
        match inner {
            // Two levels a choice: nobody has it, or this host has.
            Some(TxnOpResponse::Txn(txn)) if txn.succeeded() => return Outcome::Ours(depth / 2),
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

/// Whether a key is there.
pub(super) fn exists(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Greater, 0)
}

/// Whether a key is not there.
pub(super) fn absent(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

/// Whether no key begins with `prefix`: etcd compares each, and where there is none, a key that was never created.
pub(super) fn empty(prefix: &str) -> Compare {
    Compare::create_revision(prefix, CompareOp::Equal, 0).with_prefix()
}

/// Deletes all keys that begin with `prefix`.
pub(super) fn delete_all(prefix: &str) -> TxnOp {
    TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix()))
}

fn delete_if(key: String, value: String) -> Txn {
    Txn::new().when([Compare::value(key.as_str(), CompareOp::Equal, value)]).and_then([TxnOp::delete(key, None)])
}

/// Takes the first choice whose key is absent, or has the owner's value already; else reads the last one's.
fn first_free(choices: Vec<Choice>, owner: &str) -> Txn {
    let mut rest: Option<Txn> = None;
    for Choice { key, writes } in choices.into_iter().rev() {
        let or_else = rest.map_or_else(|| TxnOp::get(key.as_str(), None), TxnOp::txn);
        let ours = Compare::value(key.as_str(), CompareOp::Equal, owner);
        let ours = Txn::new().when([ours]).and_then(writes.clone()).or_else([or_else]);
        rest = Some(Txn::new().when([absent(&key)]).and_then(writes).or_else([TxnOp::txn(ours)]));
    }
    rest.unwrap_or_default()
}
