//! Address pools: requests and views.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{PoolId, Subnet};

/// A request for a subnet.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PoolRequest {
    /// The engine.
    pub owner: String,
    /// Whether the subnet is IPv6, if none is given.
    pub ipv6: bool,
    /// The subnet; by default a free one.
    pub subnet: Option<String>,
    /// The range of automatic addresses.
    pub ip_range: Option<String>,
}

/// An address pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// The id.
    #[schema(value_type = String)]
    pub id: PoolId,
    /// The engine that asked for it.
    pub owner: String,
    /// The subnet.
    #[schema(value_type = String)]
    pub subnet: Subnet,
    /// The range of automatic addresses.
    #[schema(value_type = Option<String>)]
    pub ip_range: Option<IpNet>,
    /// The addresses that are given out.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
}

/// A request for an address.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LeaseRequest {
    /// The address; by default a free one.
    pub address: Option<String>,
    /// Whether it is the gateway of the network.
    pub gateway: bool,
}

/// An address that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseView {
    /// The address with the prefix length of its subnet.
    #[schema(value_type = String)]
    pub address: IpNet,
}
