//! Networks: what is asked for, and what is shown of them.

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
    /// Its endpoints on other hosts of the cluster.
    #[serde(default)]
    pub elsewhere: Vec<ElsewhereView>,
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

/// What `network prune` removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// The names of the networks.
    pub deleted: Vec<String>,
    /// The networks that could not be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptNetwork>,
}

/// A network that could not be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptNetwork {
    /// Its name.
    pub network: String,
    /// Why not.
    pub error: ErrorBody,
}
