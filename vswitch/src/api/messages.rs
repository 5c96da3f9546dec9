//! What goes over the socket. Requests carry text as it was typed: the switch judges it, and its error names it.

mod fdb;
mod peer;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use vswitch_common::tables::PortCounters;
use vswitch_common::verdict::DropReason;

pub use fdb::{
    FdbChange, FdbChangeKind, FdbFilter, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic, StationKind, StationView,
};

pub use peer::{PeerRequest, PeerState, PeerView};

use crate::model::{Driver, EndpointId, NetworkId, Published, Subnet, VlanId};
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

/// `network create`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NetworkRequest {
    /// The name.
    pub name: String,
    /// The driver; bridge if not given.
    pub driver: Option<String>,
    /// Subnets; one is taken from the pool if none is given.
    pub subnets: Vec<String>,
    /// Gateways.
    pub gateways: Vec<String>,
    /// Ranges for automatic addresses.
    pub ip_ranges: Vec<String>,
    /// Addresses that are somebody else's, by name.
    pub aux_addresses: BTreeMap<String, String>,
    /// Whether there is to be no way out.
    pub internal: bool,
    /// Whether it has IPv6, too.
    pub ipv6: bool,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: Driver,
    /// Its subnets.
    pub subnets: Vec<SubnetView>,
    /// Whether it has no way out.
    pub internal: bool,
    /// The options as they were given.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How many endpoints it has.
    pub endpoints: usize,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created: OffsetDateTime,
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubnetView {
    /// The subnet.
    #[schema(value_type = String)]
    pub subnet: Subnet,
    /// The host's address in it.
    #[schema(value_type = String)]
    pub gateway: IpAddr,
    /// Where automatic addresses come from.
    #[schema(value_type = Option<String>)]
    pub ip_range: Option<IpNet>,
    /// Addresses that are somebody else's, by name.
    #[schema(value_type = BTreeMap<String, String>)]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// All about a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkDetails {
    /// What `network ls` shows.
    #[serde(flatten)]
    pub network: NetworkView,
    /// The MTU that its endpoints get.
    pub mtu: Option<u32>,
    /// The host's device in it.
    pub host_device: Option<String>,
    /// Its uplink.
    pub uplink: Option<UplinkView>,
    /// The interface that it is on, of macvlan and ipvlan.
    #[serde(default)]
    pub parent: Option<UplinkView>,
    /// Its VNI, of overlay.
    #[serde(default)]
    pub vni: Option<u32>,
    /// The names of its endpoints.
    pub attached: Vec<String>,
}

/// An interface of the host that networks are on: their uplink or parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceView {
    /// The interface, and what is to be known of it.
    #[serde(flatten)]
    pub interface: UplinkView,
    /// The networks, by name.
    pub networks: Vec<String>,
}

/// An uplink of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UplinkView {
    /// The interface.
    pub interface: String,
    /// Whether it is there.
    pub present: bool,
    /// The hooks on it, with the reason where XDP is left off.
    pub hooks: Option<String>,
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

/// What `network prune` removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// The names of the networks.
    pub deleted: Vec<String>,
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

/// What went through a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Frames that came in by the port.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames handed to the port's device.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Of the frames in: sent to one endpoint or uplink.
    pub forwarded: u64,
    /// Of the frames in: flooded.
    pub flooded: u64,
    /// Of the frames in: sent to the host's port, or answered by the switch itself.
    pub to_host: u64,
    /// Of those: answered by the switch itself.
    #[serde(default)]
    pub answered: u64,
    /// Of the frames in: left to the host's stack on the device itself.
    pub passed: u64,
    /// Stations learned from the port.
    pub learned: u64,
    /// Stations not learned for want of room.
    pub learn_failed: u64,
    /// Frames for the port that the kernel could not deliver.
    pub tx_failed: u64,
    /// Of the frames in: dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Counters {
    /// Adds another port's.
    pub fn add(&mut self, other: &Self) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.forwarded += other.forwarded;
        self.flooded += other.flooded;
        self.to_host += other.to_host;
        self.answered += other.answered;
        self.passed += other.passed;
        self.learned += other.learned;
        self.learn_failed += other.learn_failed;
        self.tx_failed += other.tx_failed;
        for (reason, count) in &other.drops {
            *self.drops.entry(reason.clone()).or_default() += count;
        }
    }
}

impl From<&PortCounters> for Counters {
    fn from(counters: &PortCounters) -> Self {
        let drops = DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), counters.drops[*reason as usize]));
        Self {
            rx_frames: counters.rx_frames,
            rx_bytes: counters.rx_bytes,
            tx_frames: counters.tx_frames,
            tx_bytes: counters.tx_bytes,
            forwarded: counters.forwarded,
            flooded: counters.flooded,
            to_host: counters.to_host,
            answered: counters.answered,
            passed: counters.passed,
            learned: counters.learned,
            learn_failed: counters.learn_failed,
            tx_failed: counters.tx_failed,
            drops: drops.collect(),
        }
    }
}

/// Which ports `stats` is about.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatsFilter {
    /// An endpoint or a network.
    pub of: Option<String>,
    /// Summed up by network.
    #[serde(default)]
    pub sum: bool,
}

/// A port with what went through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    /// The endpoint's name, or the device.
    pub port: String,
    /// `endpoint`, `host`, `uplink`, `parent` or `tunnel`; `network` for the sum of a network's ports.
    pub kind: String,
    /// The name of the network.
    pub network: String,
    /// What went through it.
    #[serde(flatten)]
    pub counters: Counters,
}

/// What `doctor` looks at of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortHealth {
    /// The endpoint's name, or the device.
    pub port: String,
    /// `endpoint`, `host` or `uplink`.
    pub kind: String,
    /// The name of the network.
    pub network: String,
    /// The device whose frames come in: an endpoint's own interface, the host's, the uplink.
    pub device: String,
    /// The namespace that it is in, if not in the daemon's.
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
    /// The hooks on the port, with the reason where an uplink has no XDP.
    pub hooks: Option<String>,
    /// The MTU that the device has now; none if it is not there.
    pub mtu: Option<u32>,
    /// Which offloads are on.
    pub offloads: BTreeMap<String, bool>,
    /// How those that matter to the path have to be.
    pub needs: BTreeMap<String, bool>,
    /// Why nobody could look.
    pub unseen: Option<String>,
}

/// Which groups `mdb show` is about.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MdbFilter {
    /// Of this network.
    pub network: Option<String>,
}

/// A multicast group that somebody listens to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MulticastGroupView {
    /// The name of the network.
    pub network: String,
    /// Its address.
    #[schema(value_type = String)]
    pub group: IpAddr,
    /// The VLAN; 0 is untagged.
    pub vlan: u16,
    /// Whether the VLAN is that of an 802.1ad service tag, which are numbered for themselves.
    pub service_tag: bool,
    /// Who listens, by name.
    pub ports: Vec<String>,
    /// Seconds until the last of them is forgotten if it says nothing; none where nobody asks.
    pub expires_in: Option<u64>,
}

mod trace;

pub use trace::{TraceFrame, TraceProgram, TraceProtocol, TraceRequest, TraceStep, TraceVerdict, TraceView};

#[cfg(test)]
mod tests;
