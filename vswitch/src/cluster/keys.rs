//! What is under which key in etcd. Pure.
//!
//! ```text
//! PREFIX/hosts/HOST                  the host's record; lives as long as its lease
//! PREFIX/networks/NAME               the network's record
//! PREFIX/ids/NETWORK                 the network's name; what is attached to it depends on this key
//! PREFIX/vnis/VNI                    the network that has it
//! PREFIX/addresses/NETWORK/ADDRESS   who has it; with the lease of that host
//! PREFIX/names/NETWORK/NAME          which endpoint is called so; with the lease of its host
//! PREFIX/endpoints/NETWORK/ENDPOINT  the endpoint's record; with the lease of its host
//! ```

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use super::vni::Vni;
use crate::model::{EndpointId, EndpointName, HostId, NetworkId, NetworkName};

/// A key, without the prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The record of a host.
    Host(HostId),
    /// The record of a network.
    Network(NetworkName),
    /// The name of a network.
    Id(NetworkId),
    /// The network that has a VNI.
    Vni(Vni),
    /// Who has an address.
    Address(NetworkId, IpAddr),
    /// Which endpoint has a name.
    Name(NetworkId, EndpointName),
    /// The record of an endpoint.
    Endpoint(NetworkId, EndpointId),
}

/// The keys under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Ends with `/`.
    prefix: String,
}

impl Keys {
    /// The keys under a prefix, which does not end with `/`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}/") }
    }

    /// The key as etcd has it.
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

    /// The key that etcd has; `None` if it is none of ours, or not written the way [`Keys::encode`] does.
    pub fn decode(&self, key: &[u8]) -> Option<Key> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let mut parts = path.splitn(3, '/');
        let (kind, first, second) = (parts.next()?, parts.next()?, parts.next());
        match (kind, second) {
            ("hosts", None) => exact(first).map(Key::Host),
            ("networks", None) => exact(first).map(Key::Network),
            ("ids", None) => exact(first).map(Key::Id),
            ("vnis", None) => Vni::try_from(exact::<u32>(first)?).ok().map(Key::Vni),
            ("addresses", Some(address)) => Some(Key::Address(exact(first)?, exact(address)?)),
            ("names", Some(name)) => Some(Key::Name(exact(first)?, exact(name)?)),
            ("endpoints", Some(id)) => Some(Key::Endpoint(exact(first)?, exact(id)?)),
            _ => None,
        }
    }

    /// What all keys begin with.
    pub fn all(&self) -> String {
        self.prefix.clone()
    }

    /// What the keys of hosts begin with.
    pub fn hosts(&self) -> String {
        format!("{}hosts/", self.prefix)
    }

    /// What the keys of networks begin with.
    pub fn networks(&self) -> String {
        format!("{}networks/", self.prefix)
    }

    /// What the keys of VNIs begin with.
    pub fn vnis(&self) -> String {
        format!("{}vnis/", self.prefix)
    }

    /// What the keys of all endpoints begin with.
    pub fn endpoints(&self) -> String {
        format!("{}endpoints/", self.prefix)
    }

    /// What the keys of a network's endpoints begin with.
    pub fn endpoints_of(&self, network: &NetworkId) -> String {
        format!("{}endpoints/{network}/", self.prefix)
    }

    /// What the keys of a network's addresses begin with.
    pub fn addresses(&self, network: &NetworkId) -> String {
        format!("{}addresses/{network}/", self.prefix)
    }

    /// What the keys of the names in a network begin with.
    pub fn names(&self, network: &NetworkId) -> String {
        format!("{}names/{network}/", self.prefix)
    }
}

/// What `text` says, if it is written the one way that counts: a key that can be written in two ways would be two keys.
fn exact<T: FromStr + Display>(text: &str) -> Option<T> {
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
    fn keys_are_what_the_table_above_says() {
        let keys = Keys::new("/vswitch");
        let id = "ab".repeat(32);
        let network: NetworkId = id.parse().expect("an id");
        let address = Key::Address(network, "fd00::2".parse().expect("an address"));
        assert_eq!(keys.encode(&address), format!("/vswitch/addresses/{id}/fd00::2"));
        let vni = Key::Vni(Vni::FIRST_AUTOMATIC);
        assert_eq!(keys.encode(&vni), "/vswitch/vnis/4096");
    }

    #[test]
    fn what_is_not_ours_or_not_exact_is_no_key() {
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
        fn keys_there_and_back(prefix in "(/[!-.0-~]{1,8}){1,3}", key in key()) {
            let keys = Keys::new(&prefix);
            prop_assert_eq!(keys.decode(keys.encode(&key).as_bytes()), Some(key));
        }

        #[test]
        fn different_keys_are_written_differently(one in key(), other in key()) {
            let keys = Keys::new("/vswitch");
            prop_assert_eq!(one == other, keys.encode(&one) == keys.encode(&other));
        }

        #[test]
        fn any_bytes_are_a_key_or_none(bytes in "/v/(hosts|networks|ids|vnis|addresses|names|endpoints)?[a-f0-9:/.]{0,70}") {
            let keys = Keys::new("/v");
            if let Some(key) = keys.decode(bytes.as_bytes()) {
                prop_assert_eq!(keys.encode(&key), bytes);
            }
        }
    }
}
