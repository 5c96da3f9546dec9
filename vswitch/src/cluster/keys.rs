//! Layout of the keys in etcd. Pure.
//!
//! ```text
//! PREFIX/hosts/HOST                  record of the host; attached to the host's lease
//! PREFIX/networks/NAME               record of the network
//! PREFIX/ids/NETWORK                 name of the network; claims in the network require this key
//! PREFIX/vnis/VNI                    id of the network that uses the VNI
//! PREFIX/addresses/NETWORK/ADDRESS   owner of the address; attached to the owner's lease
//! PREFIX/names/NETWORK/NAME          owner of the endpoint name; attached to the owner's lease
//! PREFIX/endpoints/NETWORK/ENDPOINT  record of the endpoint; attached to its host's lease
//! ```

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use crate::model::Vni;
use crate::model::{EndpointId, EndpointName, HostId, NetworkId, NetworkName};

/// A key without the prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Record of a host.
    Host(HostId),
    /// Record of a network.
    Network(NetworkName),
    /// Name of a network.
    Id(NetworkId),
    /// Network that uses a VNI.
    Vni(Vni),
    /// Owner of an address.
    Address(NetworkId, IpAddr),
    /// Owner of an endpoint name.
    Name(NetworkId, EndpointName),
    /// Record of an endpoint.
    Endpoint(NetworkId, EndpointId),
}

/// Encodes and decodes the keys under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Prefix with a trailing `/`.
    prefix: String,
}

impl Keys {
    /// Creates the codec for a prefix that does not end with `/`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}/") }
    }

    /// Returns the key as it stands in etcd.
    pub fn encode(&self, key: &Key) -> String {
        match key {
            Key::Host(id) => format!("{}{id}", self.hosts()),
            Key::Network(name) => format!("{}{name}", self.networks()),
            Key::Id(id) => format!("{}ids/{id}", self.prefix),
            Key::Vni(vni) => format!("{}{vni}", self.vnis()),
            Key::Address(network, address) => format!("{}{address}", self.addresses(network)),
            Key::Name(network, name) => format!("{}{name}", self.names(network)),
            Key::Endpoint(network, id) => format!("{}{id}", self.endpoints_of(network)),
        }
    }

    /// Parses a key of etcd. Returns `None` for a foreign key, and for one that [`Keys::encode`]
    /// would write differently.
    pub fn decode(&self, key: &[u8]) -> Option<Key> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let mut parts = path.splitn(3, '/');
        let (kind, first, second) = (parts.next()?, parts.next()?, parts.next());
        match (kind, second) {
            ("hosts", None) => parse_canonical(first).map(Key::Host),
            ("networks", None) => parse_canonical(first).map(Key::Network),
            ("ids", None) => parse_canonical(first).map(Key::Id),
            ("vnis", None) => Vni::try_from(parse_canonical::<u32>(first)?).ok().map(Key::Vni),
            ("addresses", Some(address)) => Some(Key::Address(parse_canonical(first)?, parse_canonical(address)?)),
            ("names", Some(name)) => Some(Key::Name(parse_canonical(first)?, parse_canonical(name)?)),
            ("endpoints", Some(id)) => Some(Key::Endpoint(parse_canonical(first)?, parse_canonical(id)?)),
            _ => None,
        }
    }

    /// Returns the prefix of all keys.
    pub fn all(&self) -> String {
        self.prefix.clone()
    }

    /// Returns the prefix of the keys of hosts.
    pub fn hosts(&self) -> String {
        format!("{}hosts/", self.prefix)
    }

    /// Returns the prefix of the keys of networks.
    pub fn networks(&self) -> String {
        format!("{}networks/", self.prefix)
    }

    /// Returns the prefix of the keys of VNIs.
    pub fn vnis(&self) -> String {
        format!("{}vnis/", self.prefix)
    }

    /// Returns the prefix of the keys of endpoints in all networks.
    pub fn endpoints(&self) -> String {
        format!("{}endpoints/", self.prefix)
    }

    /// Returns the prefix of the keys of a network's endpoints.
    pub fn endpoints_of(&self, network: &NetworkId) -> String {
        format!("{}endpoints/{network}/", self.prefix)
    }

    /// Returns the prefix of the keys of a network's addresses.
    pub fn addresses(&self, network: &NetworkId) -> String {
        format!("{}addresses/{network}/", self.prefix)
    }

    /// Returns the prefix of the keys of a network's endpoint names.
    pub fn names(&self, network: &NetworkId) -> String {
        format!("{}names/{network}/", self.prefix)
    }
}

/// Parses `text` if it is in canonical form. Without this check, two keys could name the same
/// object.
fn parse_canonical<T: FromStr + Display>(text: &str) -> Option<T> {
    text.parse().ok().filter(|value: &T| value.to_string() == text)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    fn name<T: FromStr<Err: Debug> + Debug>() -> impl Strategy<Value = T> {
        "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}".prop_map(|text| text.parse().expect("a name"))
    }

    fn network() -> impl Strategy<Value = NetworkId> {
        any::<[u8; 32]>().prop_map(NetworkId::from_bytes)
    }

    fn key() -> impl Strategy<Value = Key> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(|bytes| Key::Host(HostId::from_bytes(bytes))),
            name().prop_map(Key::Network),
            network().prop_map(Key::Id),
            (1_u32..1 << 24).prop_map(|number| Key::Vni(Vni::try_from(number).expect("a VNI"))),
            (network(), any::<IpAddr>()).prop_map(|(network, address)| Key::Address(network, address)),
            (network(), name()).prop_map(|(network, name)| Key::Name(network, name)),
            (network(), any::<[u8; 32]>()).prop_map(|(network, id)| Key::Endpoint(network, EndpointId::from_bytes(id))),
        ]
    }

    #[test]
    fn keys_have_the_documented_layout() {
        let keys = Keys::new("/vswitch");
        let id = "ab".repeat(32);
        let network: NetworkId = id.parse().expect("an id");
        let address = Key::Address(network, "fd00::2".parse().expect("an address"));
        assert_eq!(keys.encode(&address), format!("/vswitch/addresses/{id}/fd00::2"));
        let vni = Key::Vni(Vni::FIRST_AUTOMATIC);
        assert_eq!(keys.encode(&vni), "/vswitch/vnis/4096");
    }

    #[test]
    fn foreign_and_non_canonical_keys_are_rejected() {
        let keys = Keys::new("/vswitch");
        let id = "ab".repeat(32);
        for bad in [
            "",
            "/vswitch",
            "/vswitch/",
            "/vswitch/hosts",
            "/vswitch/hosts/",
            "/vswitch/hosts/1",
            "/vswitch/vnis/04096",
            "/vswitch/vnis/0",
            "/vswitch/vnis/+5",
            "/vswitch/networks/a/b",
            "/vswitch/other/a",
            "/other/networks/a",
            &format!("/vswitch/addresses/{id}"),
            &format!("/vswitch/addresses/{id}/fd00:0::2"),
            &format!("/vswitch/addresses/{id}/10.0.0.2/"),
            &format!("/vswitch/endpoints/{id}/x"),
        ] {
            assert_eq!(keys.decode(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(keys.decode(b"/vswitch/networks/\xff"), None);
    }

    proptest! {
        #[test]
        fn decoding_an_encoded_key_returns_the_key(prefix in "(/[!-.0-~]{1,8}){1,3}", key in key()) {
            let keys = Keys::new(&prefix);
            prop_assert_eq!(keys.decode(keys.encode(&key).as_bytes()), Some(key));
        }

        #[test]
        fn different_keys_have_different_encodings(one in key(), other in key()) {
            let keys = Keys::new("/vswitch");
            prop_assert_eq!(one == other, keys.encode(&one) == keys.encode(&other));
        }

        #[test]
        fn a_decoded_key_encodes_to_the_same_bytes(bytes in "/v/(hosts|networks|ids|vnis|addresses|names|endpoints)?[a-f0-9:/.]{0,70}") {
            let keys = Keys::new("/v");
            if let Some(key) = keys.decode(bytes.as_bytes()) {
                prop_assert_eq!(keys.encode(&key), bytes);
            }
        }
    }
}
