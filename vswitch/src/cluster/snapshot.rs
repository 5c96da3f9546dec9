//! What the hosts of the cluster have, and how it changes. Pure.

use std::collections::{BTreeMap, HashSet};

use super::keys::{Key, Keys};
use super::records::{Host, SharedEndpoint, SharedNetwork};
use crate::model::{EndpointId, HostId, NetworkId, NetworkName};

/// All there is in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The hosts.
    pub hosts: BTreeMap<HostId, Host>,
    /// The networks.
    pub networks: BTreeMap<NetworkName, SharedNetwork>,
    /// The endpoints of all hosts, this one included.
    pub endpoints: BTreeMap<(NetworkId, EndpointId), SharedEndpoint>,
}

/// What has changed. In the order in which it did, so an endpoint's network comes before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// This is all there is: at first, and after a gap. What is not in it is gone.
    Resync(Snapshot),
    /// A host is there.
    HostUp(Host),
    /// A host says something new of itself.
    HostChanged(Host),
    /// A host has left, or has been silent for longer than its lease.
    HostGone(HostId),
    /// A network is there, or is different.
    NetworkPut(SharedNetwork),
    /// A network was removed.
    NetworkGone(NetworkId),
    /// An endpoint is there, or is different.
    EndpointPut(SharedEndpoint),
    /// An endpoint is gone.
    EndpointGone {
        /// The network it was in.
        network: NetworkId,
        /// Its id.
        endpoint: EndpointId,
    },
}

/// Reads records, and says once of each that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    unreadable: HashSet<Vec<u8>>,
}

/// A record under its key.
#[derive(Debug)]
enum Record {
    Host(Host),
    Network(SharedNetwork),
    Endpoint(SharedEndpoint),
}

impl Reader {
    fn read(&mut self, keys: &Keys, key: &[u8], value: &[u8]) -> Option<Record> {
        let record = match keys.decode(key)? {
            Key::Host(id) => json::<Host>(value).and_then(|host| same(host.id == id, Record::Host(host))),
            Key::Network(name) => {
                json::<SharedNetwork>(value).and_then(|network| same(network.name == name, Record::Network(network)))
            }
            Key::Endpoint(network, id) => json::<SharedEndpoint>(value).and_then(|endpoint| {
                same((endpoint.network, endpoint.id) == (network, id), Record::Endpoint(endpoint))
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
                    tracing::warn!(%key, "a record in etcd cannot be read and is left out: {message}");
                }
                None
            }
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

fn same(is_same: bool, record: Record) -> Result<Record, String> {
    if is_same { Ok(record) } else { Err("it is another's than the key says".to_owned()) }
}

impl Snapshot {
    /// Puts a key. What has changed, if anything.
    pub(super) fn put(&mut self, reader: &mut Reader, keys: &Keys, key: &[u8], value: &[u8]) -> Option<Update> {
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

    /// Deletes a key. What has changed, if anything.
    pub(super) fn delete(&mut self, reader: &mut Reader, keys: &Keys, key: &[u8]) -> Option<Update> {
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
    fn a_host_comes_changes_and_goes_once_each() {
        let (keys, mut reader, mut all) = (Keys::new("/v"), Reader::default(), Snapshot::default());
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
    fn what_cannot_be_read_is_left_out() {
        let (keys, mut reader, mut all) = (Keys::new("/v"), Reader::default(), Snapshot::default());
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
