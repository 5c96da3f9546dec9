//! What the hosts of a cluster tell each other. JSON; a field that is unknown is ignored, so that versions mix.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::vni::Vni;
use crate::model::{EndpointId, EndpointName, HostId, NetworkId, NetworkName, StationMac, SubnetConfig};

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its id; stays the same for ever.
    pub id: HostId,
    /// Its name, for people.
    pub name: String,
    /// Where its tunnels end.
    pub address: IpAddr,
    /// Its key, where tunnels are encrypted.
    #[serde(default)]
    pub public_key: Option<String>,
}

/// Its name with its address: machines that were cloned are all called the same.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// A network that all hosts of the cluster have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNetwork {
    /// Its id.
    pub id: NetworkId,
    /// Its name; one in the cluster.
    pub name: NetworkName,
    /// Its number on the wire; one in the cluster.
    pub vni: Vni,
    /// Its subnets, with gateways and ranges.
    pub subnets: Vec<SubnetConfig>,
    /// Whether there is no way out of it.
    #[serde(default)]
    pub internal: bool,
    /// The options as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
}

/// A network that is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDraft {
    /// Its name.
    pub name: NetworkName,
    /// Its VNI; the lowest that is free from 4096 upwards if it is left open.
    pub vni: Option<Vni>,
    /// Its subnets, with gateways and ranges.
    pub subnets: Vec<SubnetConfig>,
    /// Whether there is no way out of it.
    pub internal: bool,
    /// The options as they were given.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An endpoint of a network of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// The network it is in.
    pub network: NetworkId,
    /// The host it is on.
    pub host: HostId,
    /// Its name; one in the network.
    pub name: EndpointName,
    /// Further names, which others may have, too.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its MAC address.
    pub mac: StationMac,
    /// Its IPv4 address.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// Its VLAN in the network, 1 to 4094; 0 if it is in none.
    #[serde(default)]
    pub vlan: u16,
}

/// Who has an address or a name. Not JSON but `HOST/ENDPOINT`: transactions compare it byte by byte, so all versions must
/// write it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The host.
    pub host: HostId,
    /// The endpoint on it.
    pub endpoint: EndpointId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.endpoint)
    }
}

/// A string that is no owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid owner `{0}` (a host's and an endpoint's id)")]
pub struct InvalidOwner(pub String);

impl FromStr for Owner {
    type Err = InvalidOwner;

    fn from_str(text: &str) -> Result<Self, InvalidOwner> {
        let parsed = text
            .split_once('/')
            .and_then(|(host, endpoint)| Some(Self { host: host.parse().ok()?, endpoint: endpoint.parse().ok()? }));
        parsed.ok_or_else(|| InvalidOwner(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_there_and_back() {
        let owner = Owner { host: HostId::from_bytes([1; 32]), endpoint: EndpointId::from_bytes([2; 32]) };
        assert_eq!(owner.to_string().parse(), Ok(owner));
        for bad in ["", "/", "a/b", &"0".repeat(129)] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_missing_ones_have_defaults() {
        let id = "ab".repeat(32);
        let host = format!(r#"{{"id":"{id}","name":"h1","address":"192.0.2.1","colour":"red"}}"#);
        let host: Host = serde_json::from_str(&host).expect("a host");
        assert_eq!((host.name.as_str(), host.public_key), ("h1", None));
        let network = format!(
            r#"{{"id":"{id}","name":"web","vni":4096,"subnets":[{{"subnet":"10.0.0.0/24","gateway":"10.0.0.1","ip_range":null,"colour":1}}],"created":"2026-01-02T03:04:05Z","colour":2}}"#
        );
        let network: SharedNetwork = serde_json::from_str(&network).expect("a network");
        assert_eq!((network.vni, network.internal, network.subnets.len()), (Vni::FIRST_AUTOMATIC, false, 1));
        let text = serde_json::to_string(&network).expect("JSON");
        assert_eq!(serde_json::from_str::<SharedNetwork>(&text).expect("a network"), network);
        let endpoint = format!(
            r#"{{"id":"{id}","network":"{id}","host":"{id}","name":"db","mac":"02:00:00:00:00:01","colour":3}}"#
        );
        let endpoint: SharedEndpoint = serde_json::from_str(&endpoint).expect("an endpoint");
        assert_eq!((endpoint.ipv4, endpoint.ipv6, endpoint.aliases.len()), (None, None, 0));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let id = "ab".repeat(32);
        let network = |vni: u32| {
            format!(r#"{{"id":"{id}","name":"web","vni":{vni},"subnets":[],"created":"2026-01-02T03:04:05Z"}}"#)
        };
        assert!(serde_json::from_str::<SharedNetwork>(&network(0)).is_err());
        assert!(serde_json::from_str::<SharedNetwork>(&network(1 << 24)).is_err());
    }
}
