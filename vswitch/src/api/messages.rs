//! The messages on the socket. Requests carry the text that the operator typed: the switch
//! validates it, and errors name it.

mod cluster;
mod fdb;
mod multicast;
mod networks;
mod peer;
mod pools;
mod ports;
mod trace;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

pub use cluster::{ClusterView, ElsewhereView};
pub use fdb::{FdbChange, FdbFilter, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic, StationView};
pub use multicast::{MdbFilter, MulticastGroupView};
pub use networks::{
    InterfaceView, KeptNetwork, NetworkDetails, NetworkNameRequest, NetworkRequest, NetworkView, Pruned, SubnetView,
    UplinkView,
};
pub use peer::{PeerRequest, PeerView};
pub use pools::{LeaseRequest, LeaseView, PoolRequest, PoolView};
pub use ports::{Counters, PortHealth, PortView, StatsFilter};
pub use trace::{TraceFrame, TraceProgram, TraceRequest, TraceStep, TraceVerdict, TraceView};

use crate::model::{EndpointId, Published, VlanId};
use crate::nat::{FirewallStatus, ForwardingStatus};

/// An error: the answer to a failed request, and the output of a failed command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable code for programs, such as `network_not_found`.
    pub code: String,
    /// Text for operators: what was wrong, with the value, and what to do.
    pub message: String,
}

impl ErrorBody {
    /// Creates an error with a message of one line, even if its causes have several.
    pub fn new(code: &str, message: &str) -> Self {
        let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
        Self { code: code.to_owned(), message: lines.collect::<Vec<_>>().join("; ") }
    }
}

/// An error as a document: the answer over HTTP, and the output with `--format json`.
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
    /// The argument of `up --datapath`.
    pub datapath: String,
    /// The hooks that serve each kind of port.
    pub hooks: HooksView,
    /// Release of the kernel.
    pub kernel: String,
    /// This host's public key for WireGuard, if it was created.
    #[serde(default)]
    pub public_key: Option<String>,
    /// Number of networks.
    pub networks: usize,
    /// Number of attached endpoints.
    pub endpoints: usize,
    /// Number of stations in the FDB.
    pub fdb_entries: usize,
    /// Number of stations that moved too often and are held at their ports.
    pub held_stations: usize,
    /// Time in seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Whether the daemon took over the datapath of an earlier daemon.
    pub taken_over: bool,
    /// The nftables table of the instance, if a network needs rules.
    pub firewall_table: Option<String>,
    /// The forwarding settings that networks need.
    pub forwarding: Vec<ForwardingStatus>,
    /// Other firewalls of the host, and what they do to the packets of networks.
    #[serde(default)]
    pub firewalls: Vec<FirewallStatus>,
    /// Notes for the operator, such as changed settings, names that are not served, and firewalls
    /// that drop forwarded packets.
    pub notes: Vec<String>,
    /// Interfaces of the host that networks use.
    #[serde(default)]
    pub interfaces: Vec<InterfaceView>,
    /// The cluster of this host.
    #[serde(default)]
    pub cluster: Option<ClusterView>,
}

/// Hooks by kind of port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HooksView {
    /// Endpoints' ports.
    pub container: String,
    /// Host ports.
    pub host: String,
    /// Uplinks.
    pub uplink: String,
}

/// The result of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repaired {
    /// What was missing and is there again, in the words of the log.
    pub mended: Vec<String>,
}

/// `down`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DownRequest {
    /// Also removes the recorded state.
    pub purge: bool,
}

/// `attach`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AttachRequest {
    /// The absolute path of the namespace.
    #[schema(value_type = String)]
    pub netns: PathBuf,
    /// The network; `bridge` by default.
    pub network: Option<String>,
    /// The endpoint's name; by default the last part of the path.
    pub name: Option<String>,
    /// The interface in the container; by default the next free `eth` interface.
    pub ifname: Option<String>,
    /// The IPv4 address; by default a free one of the subnet.
    pub ip: Option<String>,
    /// The IPv6 address; by default a free one of the subnet.
    pub ip6: Option<String>,
    /// The MAC address; by default derived from network and name.
    pub mac: Option<String>,
    /// The host name in the container.
    pub hostname: Option<String>,
    /// Further names of the endpoint.
    pub aliases: Vec<String>,
    /// Ports to publish on the host, as in `-p`.
    pub publish: Vec<String>,
    /// The priority of this network's gateway. The network with the highest priority provides the
    /// default route.
    pub gw_priority: i32,
    /// Options that override the network's options.
    pub options: BTreeMap<String, String>,
    /// The VLAN of the endpoint's untagged frames.
    pub vlan: Option<String>,
    /// The VLANs of the endpoint's tagged frames: a list with ranges, or `all`.
    pub trunk: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The engine that attaches, such as `docker`; empty for an attachment by hand.
    pub owner: String,
    /// The engine's name for the endpoint, unique with the owner.
    pub key: Option<String>,
    /// The container. Endpoints of one owner and container are one container in several networks;
    /// by default the key.
    pub container: Option<String>,
    /// Instead of `netns`: the interface stays in the daemon's namespace under this name, down and
    /// without addresses, until the engine moves it.
    pub leave_here: Option<String>,
    /// Whether vswitch sets addresses and routes; true by default.
    pub configure: Option<bool>,
    /// Whether vswitch holds the published host ports; true by default. Otherwise another process
    /// does.
    pub hold: Option<bool>,
    /// The network, if it is to be created when it does not exist; it goes before `network`.
    pub ensure: Option<NetworkRequest>,
}

/// Where the interface of an endpoint is that an engine moves.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SandboxRequest {
    /// The absolute path of the namespace, which may not exist yet; null if the interface comes
    /// back.
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
}

/// The published ports of an endpoint, all of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PublishedRequest {
    /// The ports, as in `-p`.
    pub ports: Vec<String>,
    /// Whether vswitch holds them; true by default. Otherwise another process does.
    pub hold: Option<bool>,
}

/// Other names of an endpoint. Those that are left out stay.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NamesRequest {
    /// The name.
    pub name: Option<String>,
    /// The aliases, all of them.
    pub aliases: Option<Vec<String>>,
    /// The host name.
    pub hostname: Option<String>,
}

/// The endpoints that an engine still knows.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CollectRequest {
    /// The engine.
    pub owner: String,
    /// Only endpoints in this network.
    pub network: Option<String>,
    /// The keys that are valid. All other endpoints of the engine are detached.
    pub valid: Vec<String>,
}

/// Selects endpoints.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct EndpointFilter {
    /// Only those of this engine.
    pub owner: Option<String>,
    /// Only those with this key.
    pub key: Option<String>,
    /// Only those in this network, by name.
    pub network: Option<String>,
}

/// `network connect`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ConnectRequest {
    /// Name or id of the endpoint.
    pub endpoint: String,
    /// The interface in the container; by default the next free `eth` interface.
    pub ifname: Option<String>,
    /// The IPv4 address; by default a free one of the subnet.
    pub ip: Option<String>,
    /// The IPv6 address; by default a free one of the subnet.
    pub ip6: Option<String>,
    /// The MAC address; by default derived from network and name.
    pub mac: Option<String>,
    /// Further names in this network.
    pub aliases: Vec<String>,
    /// The priority of this network's gateway. The network with the highest priority provides the
    /// default route.
    pub gw_priority: i32,
    /// Options that override the network's options.
    pub options: BTreeMap<String, String>,
    /// The VLAN of the endpoint's untagged frames.
    pub vlan: Option<String>,
    /// The VLANs of the endpoint's tagged frames: a list with ranges, or `all`.
    pub trunk: Option<String>,
}

/// `network disconnect`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DisconnectRequest {
    /// Name or id of the endpoint.
    pub endpoint: String,
}

/// `detach`: an endpoint, or all endpoints of a namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DetachRequest {
    /// Name or id.
    pub endpoint: Option<String>,
    /// The absolute path of the namespace.
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
    /// Detaches from this network only.
    pub network: Option<String>,
}

/// The result of `detach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Detached {
    /// The names of the detached endpoints.
    pub detached: Vec<String>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointView {
    /// The endpoint's id.
    #[schema(value_type = String)]
    pub id: EndpointId,
    /// The endpoint's name.
    pub name: String,
    /// The name of the endpoint's network.
    pub network: String,
    /// The endpoint's interface; absent on the network `none`.
    pub ifname: Option<String>,
    /// The endpoint's MAC address.
    pub mac: Option<String>,
    /// The endpoint's IPv4 address.
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Ipv4Addr>,
    /// The endpoint's IPv6 address.
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Ipv6Addr>,
    /// The IPv4 gateway; absent on internal networks.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// The IPv6 gateway; absent on internal networks.
    #[schema(value_type = Option<String>)]
    pub gateway6: Option<Ipv6Addr>,
    /// The addresses of the endpoint's DNS servers.
    #[schema(value_type = Vec<String>)]
    pub nameservers: Vec<IpAddr>,
    /// The MTU of the endpoint's interface.
    pub mtu: Option<u32>,
    /// The path of the endpoint's namespace.
    #[schema(value_type = String)]
    pub netns: PathBuf,
    /// The endpoint's published ports.
    pub published: Vec<Published>,
    /// The endpoint's options as given.
    pub options: BTreeMap<String, String>,
    /// The VLAN of the endpoint's untagged frames; 0 for endpoints without VLANs.
    pub vlan: u16,
    /// The VLANs of the endpoint's tagged frames.
    pub trunk: Vec<TrunkVlan>,
    /// The host name in the container.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Further names of the endpoint.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The engine that manages the endpoint; empty for an attachment by hand.
    #[serde(default)]
    pub owner: String,
    /// The engine's name for the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The engine's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// A VLAN of a trunk: an id, or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TrunkVlan {
    /// One VLAN.
    Id(VlanId),
    /// Every VLAN.
    All(AllVlans),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllVlans {
    /// The word `all`.
    All,
}

/// The details of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointDetails {
    /// The fields that `ps` shows.
    #[serde(flatten)]
    pub endpoint: EndpointView,
    /// The same fields for every network of the endpoint. The network with the default route comes
    /// first.
    pub networks: Vec<EndpointView>,
    /// The time of the attachment.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created: OffsetDateTime,
    /// The switch's end of the endpoint's veth pair.
    pub device: Option<String>,
    /// The hooks on the endpoint's port.
    pub hooks: Option<String>,
    /// The counters of the endpoint's port.
    pub counters: Option<Counters>,
}

#[cfg(test)]
mod tests;
