//! Records of all hosts, and their changes. Pure.

use std::collections::{BTreeMap, HashSet};

use super::keys::{Key, Keys};
use super::records::{Host, SharedEndpoint, SharedNetwork};
use crate::model::{EndpointId, HostId, NetworkId, NetworkName};

/// All records of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Hosts.
    pub hosts: BTreeMap<HostId, Host>,
    /// Networks.
    pub networks: BTreeMap<NetworkName, SharedNetwork>,
    /// Endpoints of all hosts, this one included.
    pub endpoints: BTreeMap<(NetworkId, EndpointId), SharedEndpoint>,
}

/// A change of the records, in etcd's order: a network comes before its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A complete snapshot, at the start and after a gap. Anything that it does not contain no
    /// longer exists.
    Resync(Snapshot),
    /// A host has joined.
    HostUp(Host),
    /// The record of a host has changed.
    HostChanged(Host),
    /// A host has left, or was silent for longer than its lease.
    HostGone(HostId),
    /// A network was created or has changed.
    NetworkPut(SharedNetwork),
    /// A network was removed.
    NetworkGone(NetworkId),
    /// An endpoint was announced or has changed.
    EndpointPut(SharedEndpoint),
    /// An endpoint was removed.
    EndpointGone {
        /// Network of the endpoint.
        network: NetworkId,
        /// Id of the endpoint.
        endpoint: EndpointId,
    },
}

/// Parses records. Logs an unreadable record once.
#[derive(Debug, Default)]
pub(super) struct RecordReader {
    unreadable: HashSet<Vec<u8>>,
}

/// A parsed record.
#[derive(Debug)]
enum Record {
    Host(Host),
    Network(SharedNetwork),
    Endpoint(SharedEndpoint),
}

impl RecordReader {
    fn read(&mut self, keys: &Keys, key: &[u8], value: &[u8]) -> Option<Record> {
        let record = match keys.decode(key)? {
            Key::Host(id) => parse_json::<Host>(value).and_then(|host| check_key(host.id == id, Record::Host(host))),
            Key::Network(name) => parse_json::<SharedNetwork>(value)
                .and_then(|network| check_key(network.name == name, Record::Network(network))),
            Key::Endpoint(network, id) => parse_json::<SharedEndpoint>(value).and_then(|endpoint| {
                check_key((endpoint.network, endpoint.id) == (network, id), Record::Endpoint(endpoint))
            }),
            Key::Id(_) | Key::Vni(_) | Key::Address(..) | Key::Name(..) => return None,
        };
        match record {
            Ok(record) => {
                self.unreadable.remove(key);
                Some(record)
            }
            Err(message) => {
                if self.unreadable.insert(key.to_owned()) {
                    let key = String::from_utf8_lossy(key);
                    tracing::warn!(%key, "cannot parse a record in etcd, which is ignored: {message}");
                }
                None
            }
        }
    }
}

fn parse_json<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

fn check_key(matches_key: bool, record: Record) -> Result<Record, String> {
    if matches_key { Ok(record) } else { Err("the key and the record name different objects".to_owned()) }
}

impl Snapshot {
    /// Applies the write of a key. Returns the change, if any.
    pub(super) fn put(&mut self, reader: &mut RecordReader, keys: &Keys, key: &[u8], value: &[u8]) -> Option<Update> {
        match reader.read(keys, key, value)? {
            Record::Host(host) => match self.hosts.insert(host.id, host.clone()) {
                None => Some(Update::HostUp(host)),
                Some(before) => (before != host).then_some(Update::HostChanged(host)),
            },
            Record::Network(network) => {
                let before = self.networks.insert(network.name.clone(), network.clone());
                (before.as_ref() != Some(&network)).then_some(Update::NetworkPut(network))
            }
            Record::Endpoint(endpoint) => {
                let before = self.endpoints.insert((endpoint.network, endpoint.id), endpoint.clone());
                (before.as_ref() != Some(&endpoint)).then_some(Update::EndpointPut(endpoint))
            }
        }
    }

    /// Applies the deletion of a key. Returns the change, if any.
    pub(super) fn delete(&mut self, reader: &mut RecordReader, keys: &Keys, key: &[u8]) -> Option<Update> {
        reader.unreadable.remove(key);
        match keys.decode(key)? {
            Key::Host(id) => self.hosts.remove(&id).map(|_| Update::HostGone(id)),
            Key::Network(name) => self.networks.remove(&name).map(|network| Update::NetworkGone(network.id)),
            Key::Endpoint(network, endpoint) => {
                self.endpoints.remove(&(network, endpoint)).map(|_| Update::EndpointGone { network, endpoint })
            }
            Key::Id(_) | Key::Vni(_) | Key::Address(..) | Key::Name(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        let address = [192, 0, 2, 1].into();
        Host { id: HostId::from_bytes([7; 32]), name: name.to_owned(), address, public_key: None }
    }

    #[test]
    fn a_host_joins_changes_and_leaves_with_one_update_each() {
        let (keys, mut reader, mut all) = (Keys::new("/v"), RecordReader::default(), Snapshot::default());
        let key = keys.encode(&Key::Host(host("a").id)).into_bytes();
        let mut put = |all: &mut Snapshot, host: &Host| {
            all.put(&mut reader, &keys, &key, &serde_json::to_vec(host).expect("JSON"))
        };
        assert_eq!(put(&mut all, &host("a")), Some(Update::HostUp(host("a"))));
        assert_eq!(put(&mut all, &host("a")), None);
        assert_eq!(put(&mut all, &host("b")), Some(Update::HostChanged(host("b"))));
        let mut delete = || all.delete(&mut reader, &keys, &key);
        assert_eq!(delete(), Some(Update::HostGone(host("a").id)));
        assert_eq!(delete(), None);
    }

    #[test]
    fn unreadable_records_are_ignored() {
        let (keys, mut reader, mut all) = (Keys::new("/v"), RecordReader::default(), Snapshot::default());
        let key = keys.encode(&Key::Host(HostId::from_bytes([8; 32]))).into_bytes();
        let another = serde_json::to_vec(&host("a")).expect("JSON");
        for value in [b"{".as_slice(), b"{}", &another] {
            assert_eq!(all.put(&mut reader, &keys, &key, value), None);
        }
        assert_eq!(reader.unreadable.len(), 1);
        assert_eq!(all.put(&mut reader, &keys, b"/v/vnis/4096", b"x"), None);
        assert_eq!(all.put(&mut reader, &keys, b"/other", b"x"), None);
        assert_eq!(reader.unreadable.len(), 1);
        assert_eq!(all, Snapshot::default());
    }
}
