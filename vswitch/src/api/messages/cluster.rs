//! The cluster of a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::model::HostId;

/// An endpoint of a network on another host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ElsewhereView {
    /// The name.
    pub name: String,
    /// The name of the host.
    pub host: String,
    /// The address of the host, because several hosts may have the same name.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The endpoint's MAC address.
    pub mac: String,
    /// The endpoint's IPv4 address.
    #[schema(value_type = Option<String>)]
    pub ipv4: Option<Ipv4Addr>,
    /// The endpoint's IPv6 address.
    #[schema(value_type = Option<String>)]
    pub ipv6: Option<Ipv6Addr>,
}

/// The state of the cluster as this host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// This host's id.
    #[schema(value_type = String)]
    pub host: HostId,
    /// The name.
    pub name: String,
    /// The address at which this host's tunnels end.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The addresses of etcd.
    pub etcd: String,
    /// Whether etcd answers.
    pub connected: bool,
    /// The time since which etcd does not answer.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub away_since: Option<OffsetDateTime>,
    /// The reason why etcd does not answer.
    pub why: Option<String>,
    /// Whether this host's lease is alive, as far as the host knows.
    pub registered: bool,
    /// Number of etcd members.
    pub members: usize,
    /// Number of hosts in the cluster, including this one.
    pub hosts: usize,
    /// Number of endpoints on the other hosts.
    pub endpoints: usize,
    /// The highest etcd revision seen.
    pub revision: i64,
    /// Number of addresses and names to release when etcd answers again.
    pub pending: usize,
    /// Objects of this host that it cannot announce, one line each.
    pub conflicts: Vec<String>,
}
