//! Records of the cluster in etcd. JSON; unknown fields are ignored, so that hosts of different
//! versions can share a cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::model::Vni;
use crate::model::{EndpointId, EndpointName, HostId, NetworkId, NetworkName, StationMac, SubnetConfig};

/// Record of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Id. Never changes.
    pub id: HostId,
    /// Name, for messages.
    pub name: String,
    /// Tunnel address in the underlay.
    pub address: IpAddr,
    /// WireGuard public key, if tunnels are encrypted.
    #[serde(default)]
    pub public_key: Option<String>,
}

/// Name and address. Cloned machines may all have the same name.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

/// Record of a network, which exists on all hosts of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNetwork {
    /// Id.
    pub id: NetworkId,
    /// Name, unique in the cluster.
    pub name: NetworkName,
    /// VNI, unique in the cluster.
    pub vni: Vni,
    /// Subnets with gateways and ranges.
    pub subnets: Vec<SubnetConfig>,
    /// Whether the network has no connection to the outside.
    #[serde(default)]
    pub internal: bool,
    /// Options as the user gave them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Time of creation.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
}

/// A network to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDraft {
    /// Name.
    pub name: NetworkName,
    /// VNI; `None` for the lowest free one from 4096 upwards.
    pub vni: Option<Vni>,
    /// Subnets with gateways and ranges.
    pub subnets: Vec<SubnetConfig>,
    /// Whether the network has no connection to the outside.
    pub internal: bool,
    /// Options as the user gave them.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Record of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedEndpoint {
    /// Id.
    pub id: EndpointId,
    /// Id of its network.
    pub network: NetworkId,
    /// Id of its host.
    pub host: HostId,
    /// Name, unique in the network.
    pub name: EndpointName,
    /// Further names. Other endpoints may have the same ones.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// MAC address.
    pub mac: StationMac,
    /// IPv4 address.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// VLAN in the network, 1 to 4094; 0 for none.
    #[serde(default)]
    pub vlan: u16,
}

/// Owner of an address or a name, written as `HOST/ENDPOINT` and not as JSON: transactions compare
/// it byte by byte, so all versions must write the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Host.
    pub host: HostId,
    /// Endpoint on the host.
    pub endpoint: EndpointId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.endpoint)
    }
}

/// A string that is not an owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid owner `{0}` (two ids, as in HOST/ENDPOINT)")]
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
    fn parsing_a_displayed_owner_returns_the_owner() {
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
    fn records_with_an_invalid_vni_are_refused() {
        let id = "ab".repeat(32);
        let network = |vni: u32| {
            format!(r#"{{"id":"{id}","name":"web","vni":{vni},"subnets":[],"created":"2026-01-02T03:04:05Z"}}"#)
        };
        assert!(serde_json::from_str::<SharedNetwork>(&network(0)).is_err());
        assert!(serde_json::from_str::<SharedNetwork>(&network(1 << 24)).is_err());
    }
}
