//! Address pools of engines: a subnet that a network is about to have, and the addresses that were
//! given out of it before there is an endpoint.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{PoolId, Subnet};

/// An address pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Id of the pool.
    pub id: PoolId,
    /// Engine that asked for it.
    pub owner: String,
    /// Subnet.
    pub subnet: Subnet,
    /// Range of automatic addresses; `None` for the whole subnet.
    pub ip_range: Option<IpNet>,
    /// Addresses that were given out.
    pub leases: BTreeMap<IpAddr, Lease>,
    /// Address that was given out last without being asked for.
    #[serde(default)]
    pub last: Option<IpAddr>,
    /// Time of creation.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
}

/// An address of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The lease ends without an endpoint that has the address. Others are gateways, and addresses
    /// that were reserved before the network was created.
    pub ends: bool,
    /// Time when it was given out.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}
