//! Endpoints: attached network namespaces.
//!
//! A record is one endpoint in one network, as Docker's endpoints are. Records of one name belong to one namespace: what
//! people call an endpoint, which may be in several networks at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{EndpointId, EndpointName, EndpointOptions, InterfaceName, NetworkId, Published, StationMac};

/// An endpoint in one network, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id; another one in each network.
    pub id: EndpointId,
    /// Its name; one in a network, and one namespace's in an instance.
    pub name: EndpointName,
    /// The network it is attached to.
    pub network: NetworkId,
    /// Where it is attached.
    pub netns: NetnsRecord,
    /// Its interface and addresses; nothing on the networks `none` and `host`.
    pub address: Option<EndpointAddress>,
    /// The name of the host in it, as it was given.
    pub hostname: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Its ports that the host has, too.
    #[serde(default)]
    pub published: Vec<Published>,
    /// The network with the highest number has the default route; of those with the same, the first by name.
    #[serde(default)]
    pub gw_priority: i32,
    /// The options as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// What they mean, with its VLANs.
    #[serde(default)]
    pub port: EndpointOptions,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was attached.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// How far it is.
    pub phase: Phase,
}

/// The interface of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAddress {
    /// Its name in the namespace.
    pub ifname: InterfaceName,
    /// Its MAC address.
    pub mac: StationMac,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, where the network has IPv6.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// Its MTU.
    pub mtu: u32,
}

impl EndpointAddress {
    /// Both addresses, IPv4 first.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.ipv4.into()).chain(self.ipv6.map(Into::into))
    }
}

/// A network namespace, by its path and by what was found there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetnsRecord {
    /// The path as it was given.
    pub path: PathBuf,
    /// Device of the nsfs inode.
    pub dev: u64,
    /// Number of the nsfs inode.
    pub inode: u64,
    /// Which process it is, where the path is a process's: its number may be another's one day.
    #[serde(default)]
    pub process: Option<String>,
}

/// How far an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recorded, and being made: after a crash it may be half there.
    Attaching,
    /// All there.
    Attached,
}

impl NetnsRecord {
    /// Whether the path belongs to a process, so that another process's namespace may be behind it one day.
    pub fn is_of_process(&self) -> bool {
        self.path.starts_with("/proc")
    }
}
