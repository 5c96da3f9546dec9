//! Networks: requests and views.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{ElsewhereView, ErrorBody};
use crate::model::{Driver, NetworkId, Subnet};

/// `network create`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NetworkRequest {
    /// The name.
    pub name: String,
    /// The driver; bridge by default.
    pub driver: Option<String>,
    /// Subnets; by default a free one of the pool.
    pub subnets: Vec<String>,
    /// Gateways.
    pub gateways: Vec<String>,
    /// Ranges for automatic addresses.
    pub ip_ranges: Vec<String>,
    /// Addresses that are in use outside vswitch, by name.
    pub aux_addresses: BTreeMap<String, String>,
    /// Whether the network is internal: no packet leaves it.
    pub internal: bool,
    /// Whether the network has IPv4; true by default.
    pub ipv4: Option<bool>,
    /// Whether the network has IPv6.
    pub ipv6: bool,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The engine that creates the network; empty if it is created by hand.
    pub owner: String,
    /// The engine's name for the network. A second request with it finds the network of the first.
    pub external_id: Option<String>,
    /// Whether the network is removed with its last endpoint.
    pub remove_when_empty: bool,
}

/// Another name of a network of an engine.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct NetworkNameRequest {
    /// The name.
    pub name: String,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkView {
    /// The network's id.
    #[schema(value_type = String)]
    pub id: NetworkId,
    /// The name.
    pub name: String,
    /// The network's driver.
    pub driver: Driver,
    /// The network's subnets.
    pub subnets: Vec<SubnetView>,
    /// Whether the network is internal: no packet leaves it.
    pub internal: bool,
    /// The options as given.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Number of endpoints.
    pub endpoints: usize,
    /// The time of creation.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created: OffsetDateTime,
    /// The engine that manages the network; empty if it was created by hand.
    #[serde(default)]
    pub owner: String,
    /// The engine's name for the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubnetView {
    /// The subnet.
    #[schema(value_type = String)]
    pub subnet: Subnet,
    /// The host's address in the subnet.
    #[schema(value_type = String)]
    pub gateway: IpAddr,
    /// The range of automatic addresses.
    #[schema(value_type = Option<String>)]
    pub ip_range: Option<IpNet>,
    /// Addresses that are in use outside vswitch, by name.
    #[schema(value_type = BTreeMap<String, String>)]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// The details of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkDetails {
    /// The fields that `network ls` shows.
    #[serde(flatten)]
    pub network: NetworkView,
    /// The MTU of the network's endpoints.
    pub mtu: Option<u32>,
    /// The host's device in the network.
    pub host_device: Option<String>,
    /// The network's uplink.
    pub uplink: Option<UplinkView>,
    /// The parent interface of a macvlan or ipvlan network.
    #[serde(default)]
    pub parent: Option<UplinkView>,
    /// The VNI of an overlay network.
    #[serde(default)]
    pub vni: Option<u32>,
    /// The names of the network's endpoints.
    pub attached: Vec<String>,
    /// The network's endpoints on other hosts of the cluster.
    #[serde(default)]
    pub elsewhere: Vec<ElsewhereView>,
}

/// An interface of the host that is the uplink or parent of networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceView {
    /// The interface and its state.
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
    /// Whether the interface exists.
    pub present: bool,
    /// The hooks on the interface, with the reason if XDP is not used.
    pub hooks: Option<String>,
}

/// The result of `network prune`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// The names of the removed networks.
    pub deleted: Vec<String>,
    /// The networks that could not be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptNetwork>,
}

/// A network that could not be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptNetwork {
    /// The name.
    pub network: String,
    /// The reason.
    pub error: ErrorBody,
}
