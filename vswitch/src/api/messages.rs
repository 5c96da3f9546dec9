//! What goes over the socket. Requests carry text as it was typed: the switch judges it, and its error names it.

mod cluster;
mod fdb;
mod multicast;
mod networks;
mod peer;
mod ports;
mod trace;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

pub use cluster::{ClusterView, ElsewhereView};
pub use fdb::{
    FdbChange, FdbChangeKind, FdbFilter, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic, StationKind, StationView,
};
pub use multicast::{MdbFilter, MulticastGroupView};
pub use networks::{
    InterfaceView, KeptNetwork, NetworkDetails, NetworkRequest, NetworkView, Pruned, SubnetView, UplinkView,
};
pub use peer::{PeerRequest, PeerState, PeerView};
pub use ports::{Counters, PortHealth, PortView, StatsFilter};
pub use trace::{TraceFrame, TraceProgram, TraceProtocol, TraceRequest, TraceStep, TraceVerdict, TraceView};

use crate::model::{EndpointId, Published, VlanId};
use crate::outside::ForwardingStatus;

/// An error, as every request may be answered and every command may print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// For programs: `network_not_found` and the like; it stays what it is.
    pub code: String,
    /// For people: what was wrong, with the value, and what to do.
    pub message: String,
}

impl ErrorBody {
    /// An error in one line, whatever its causes wrote.
    pub fn new(code: &str, message: &str) -> Self {
        let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
        Self { code: code.to_owned(), message: lines.collect::<Vec<_>>().join("; ") }
    }
}

/// An error as a document: what HTTP answers and `--format json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDocument {
    /// The error.
    pub error: ErrorBody,
}

/// The state of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// The instance.
    pub instance: String,
    /// The daemon's process.
    pub pid: u32,
    /// What `up --datapath` asked for.
    pub datapath: String,
    /// The hooks that serve each kind of port.
    pub hooks: HooksView,
    /// Release of the kernel.
    pub kernel: String,
    /// This host's public key for WireGuard, if one was made.
    #[serde(default)]
    pub public_key: Option<String>,
    /// How many networks there are.
    pub networks: usize,
    /// How many endpoints are attached.
    pub endpoints: usize,
    /// How many stations the FDB knows.
    pub fdb_entries: usize,
    /// How many of them moved too often and are held where they were.
    pub held_stations: usize,
    /// Since when the daemon runs, in seconds.
    pub uptime_seconds: u64,
    /// Whether it took the datapath over from an earlier daemon.
    pub taken_over: bool,
    /// The nftables table of the instance, where networks have a way out.
    pub firewall_table: Option<String>,
    /// The forwarding settings that networks need.
    pub forwarding: Vec<ForwardingStatus>,
    /// What somebody may wonder about: settings that were changed, names that are not served, who drops what is forwarded.
    pub notes: Vec<String>,
    /// Interfaces of the host that networks are on.
    #[serde(default)]
    pub interfaces: Vec<InterfaceView>,
    /// The cluster that this host is in.
    #[serde(default)]
    pub cluster: Option<ClusterView>,
}

/// Hooks by kind of port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HooksView {
    /// Endpoints.
    pub container: String,
    /// The host.
    pub host: String,
    /// Uplinks.
    pub uplink: String,
}

/// `down`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DownRequest {
    /// Forget the recorded state, too.
    pub purge: bool,
}

/// `attach`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AttachRequest {
    /// The absolute path of the namespace.
    #[schema(value_type = String)]
    pub netns: PathBuf,
    /// The network; `bridge` if not given.
    pub network: Option<String>,
    /// The endpoint's name; the last part of the path if not given.
    pub name: Option<String>,
    /// The interface in it; `eth0` if not given.
    pub ifname: Option<String>,
    /// The IPv4 address; one of the subnet's if not given.
    pub ip: Option<String>,
    /// The IPv6 address; one of the subnet's if not given.
    pub ip6: Option<String>,
    /// The MAC address; made from network and name if not given.
    pub mac: Option<String>,
    /// The name of the host in it.
    pub hostname: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Ports that the host is to have, too, as in `-p`.
    pub publish: Vec<String>,
    /// The network with the highest one has the default route.
    pub gw_priority: i32,
    /// What goes before the network's options.
    pub options: BTreeMap<String, String>,
    /// The VLAN of its untagged frames.
    pub vlan: Option<String>,
    /// The VLANs of its tagged frames: a list with ranges, or `all`.
    pub trunk: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// `network connect`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ConnectRequest {
    /// Name or id of the endpoint.
    pub endpoint: String,
    /// The interface in it; the next `eth` that is free if not given.
    pub ifname: Option<String>,
    /// The IPv4 address; one of the subnet's if not given.
    pub ip: Option<String>,
    /// The IPv6 address; one of the subnet's if not given.
    pub ip6: Option<String>,
    /// The MAC address; made from network and name if not given.
    pub mac: Option<String>,
    /// Further names in this network.
    pub aliases: Vec<String>,
    /// The network with the highest one has the default route.
    pub gw_priority: i32,
    /// What goes before the network's options.
    pub options: BTreeMap<String, String>,
    /// The VLAN of its untagged frames.
    pub vlan: Option<String>,
    /// The VLANs of its tagged frames: a list with ranges, or `all`.
    pub trunk: Option<String>,
}

/// `network disconnect`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DisconnectRequest {
    /// Name or id of the endpoint.
    pub endpoint: String,
}

/// `detach`: an endpoint, or whatever is attached at a namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DetachRequest {
    /// Name or id.
    pub endpoint: Option<String>,
    /// The absolute path of the namespace.
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
    /// Only in this network.
    pub network: Option<String>,
}

/// What `detach` removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detached {
    /// The names of the endpoints.
    pub detached: Vec<String>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: EndpointId,
    /// Its name.
    pub name: String,
    /// The name of its network.
    pub network: String,
    /// Its interface; none on the network `none`.
    pub ifname: Option<String>,
    /// Its MAC address.
    pub mac: Option<String>,
    /// Its IPv4 address.
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Ipv6Addr>,
    /// Its IPv4 gateway; none on internal networks.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// Its IPv6 gateway.
    #[schema(value_type = Option<String>)]
    pub gateway6: Option<Ipv6Addr>,
    /// Where it asks for names.
    #[schema(value_type = Vec<String>)]
    pub nameservers: Vec<IpAddr>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Where it is attached.
    #[schema(value_type = String)]
    pub netns: PathBuf,
    /// Its published ports.
    pub published: Vec<Published>,
    /// Its options as they were given.
    pub options: BTreeMap<String, String>,
    /// The VLAN of its untagged frames; 0 is that of endpoints without VLANs.
    pub vlan: u16,
    /// The VLANs of its tagged frames.
    pub trunk: Vec<TrunkVlan>,
}

/// A member of a trunk: a number, or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TrunkVlan {
    /// This one.
    Id(VlanId),
    /// Every one.
    All(AllVlans),
}

/// `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllVlans {
    /// `all`.
    All,
}

/// All about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointDetails {
    /// What `ps` shows.
    #[serde(flatten)]
    pub endpoint: EndpointView,
    /// The same for every network that it is in; the one with the default route comes first.
    pub networks: Vec<EndpointView>,
    /// The name of the host in it.
    pub hostname: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was attached.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created: OffsetDateTime,
    /// The switch's end of its veth.
    pub device: Option<String>,
    /// The hooks on it.
    pub hooks: Option<String>,
    /// What went through its port.
    pub counters: Option<Counters>,
}

#[cfg(test)]
mod tests;
