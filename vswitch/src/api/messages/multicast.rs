//! Multicast groups, and who listens to them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

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
