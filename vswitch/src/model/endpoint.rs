//! Endpoints: attached network namespaces.
//!
//! A record describes one endpoint in one network, as in Docker. Records with the same name belong
//! to one namespace. To users they are one endpoint, which may be in several networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    EndpointId, EndpointName, EndpointOptions, EngineEndpoint, InterfaceName, LeftInterface, NetworkId, Published,
    StationMac,
};

/// Record of an endpoint in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Id, different in each network.
    pub id: EndpointId,
    /// Name. Among the endpoints that were attached by hand, it stands for one namespace. Those of
    /// engines may have equal names: see [`Endpoint::is_with`].
    pub name: EndpointName,
    /// Network that it is attached to.
    pub network: NetworkId,
    /// Network namespace.
    pub netns: NetnsRecord,
    /// Interface and addresses; `None` on the networks `none` and `host`.
    pub address: Option<EndpointAddress>,
    /// Host name of the container, as the user gave it.
    pub hostname: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Published ports.
    #[serde(default)]
    pub published: Vec<Published>,
    /// Ports that the endpoint published in networks from which it is disconnected. They stay
    /// reserved, and are published again when it is connected again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingPorts>,
    /// Priority as default gateway: the network with the highest number has the default route.
    /// Among equal numbers, the first network by name has it.
    #[serde(default)]
    pub gw_priority: i32,
    /// Options as the user gave them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Parsed options, including VLANs.
    #[serde(default)]
    pub port: EndpointOptions,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Time when the endpoint was attached.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Phase of the attachment.
    pub phase: Phase,
    /// Identity that an engine gave it; `None` if it was attached by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Box<EngineEndpoint>>,
    /// Another program sets the addresses and routes of the interface.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bare: bool,
    /// Another process holds the host ports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheld: bool,
}

/// Published ports that wait for a connection to their network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingPorts {
    /// Network that they were published in.
    pub network: NetworkId,
    /// The ports.
    pub ports: Vec<Published>,
}

impl Endpoint {
    /// Iterates over the host ports that the endpoint holds: published ones, and waiting ones.
    pub fn held_ports(&self) -> impl Iterator<Item = &Published> {
        self.published.iter().chain(self.waiting.iter().flat_map(|waiting| &waiting.ports))
    }

    /// Reports whether both are connections of one container.
    pub fn is_with(&self, other: &Self) -> bool {
        match (&self.engine, &other.engine) {
            (None, None) => self.name == other.name,
            (Some(one), Some(other)) => one.id.owner() == other.id.owner() && one.container == other.container,
            _ => false,
        }
    }

    /// Returns the name of the engine that manages it; empty if it was attached by hand.
    pub fn owner(&self) -> &str {
        self.engine.as_ref().map_or("", |engine| engine.id.owner())
    }

    /// Returns the interface that an engine moves, if it has one.
    pub fn left(&self) -> Option<&LeftInterface> {
        self.engine.as_ref()?.left.as_ref()
    }
}

/// Interface of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAddress {
    /// Interface name in the namespace.
    pub ifname: InterfaceName,
    /// MAC address.
    pub mac: StationMac,
    /// IPv4 address, if the network has IPv4.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 address, if the network has IPv6.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// MTU.
    pub mtu: u32,
}

impl EndpointAddress {
    /// Iterates over the addresses, IPv4 first.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }
}

/// Path and identity of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRecord {
    /// Path as the user gave it.
    pub path: PathBuf,
    /// Device number of the nsfs inode.
    pub dev: u64,
    /// Inode number of the nsfs inode.
    pub inode: u64,
    /// Cookie of the namespace, which the kernel never reuses, as it does inode numbers; `None` in
    /// records of earlier versions.
    #[serde(default)]
    pub cookie: Option<u64>,
    /// Identity of the process, if the path belongs to one: process ids are reused.
    #[serde(default)]
    pub process: Option<String>,
}

/// Phase of an endpoint. Each is on disk within a second of being true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The name, the addresses and the host ports belong to it. No device exists.
    Reserved,
    /// Devices are being made. After a crash, parts of them may exist.
    Attaching,
    /// Complete.
    Attached,
    /// Devices are being removed. After a crash, parts of them may exist.
    Detaching,
}

impl NetnsRecord {
    /// Reports whether the path belongs to a process. Another process may later have the same id,
    /// and with it the path.
    pub fn is_of_process(&self) -> bool {
        self.path.starts_with("/proc")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_an_earlier_version_is_read_and_one_without_ipv4_is_kept() {
        let earlier = r#"{"ifname":"eth0","mac":"02:00:00:00:00:01","ipv4":"10.9.8.2","mtu":1500}"#;
        let read: EndpointAddress = serde_json::from_str(earlier).expect("a record");
        assert_eq!((read.ipv4, read.ipv6), (Some([10, 9, 8, 2].into()), None));
        let six = EndpointAddress { ipv4: None, ipv6: Some("fd00::2".parse().expect("an address")), ..read };
        let text = serde_json::to_string(&six).expect("JSON");
        assert_eq!(serde_json::from_str::<EndpointAddress>(&text).expect("a record"), six);
        assert_eq!(six.ips().collect::<Vec<_>>(), ["fd00::2".parse::<IpAddr>().expect("an address")]);
    }
}
