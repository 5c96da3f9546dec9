//! The cluster that a host is in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::model::HostId;

/// An endpoint of a network on another host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ElsewhereView {
    /// Its name.
    pub name: String,
    /// The name of the host.
    pub host: String,
    /// The address of the host: several may have one name.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Its MAC address.
    pub mac: String,
    /// Its IPv4 address.
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Ipv6Addr>,
}

/// How the cluster is, as this host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// This host's id.
    #[schema(value_type = String)]
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Where its tunnels end.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Where etcd is.
    pub etcd: String,
    /// Whether etcd answers.
    pub connected: bool,
    /// Since when it does not.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub away_since: Option<OffsetDateTime>,
    /// Why not.
    pub why: Option<String>,
    /// Whether this host's lease is alive, as far as it knows.
    pub registered: bool,
    /// How many members etcd has.
    pub members: usize,
    /// How many hosts the cluster has, this one included.
    pub hosts: usize,
    /// How many endpoints the other hosts have.
    pub endpoints: usize,
    /// The newest revision of etcd's that was seen.
    pub revision: i64,
    /// Addresses and names that are to be given back when etcd answers.
    pub pending: usize,
    /// What this host has and cannot announce, a line each.
    pub conflicts: Vec<String>,
}
