//! Endpoints: attached network namespaces.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{EndpointId, EndpointName, InterfaceName, NetworkId, StationMac};

/// An endpoint as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Its name; one in an instance.
    pub name: EndpointName,
    /// The network it is attached to.
    pub network: NetworkId,
    /// Where it is attached.
    pub netns: NetnsRecord,
    /// Its interface and addresses; nothing on the network `none`.
    pub address: Option<EndpointAddress>,
    /// The name of the host in it, as it was given.
    pub hostname: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
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
    /// Its MTU.
    pub mtu: u32,
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
