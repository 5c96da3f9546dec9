//! Multicast groups and their listeners.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The groups that `mdb show` lists.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MdbFilter {
    /// Only groups of this network.
    pub network: Option<String>,
}

/// A multicast group with listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MulticastGroupView {
    /// The name of the network.
    pub network: String,
    /// The group's address.
    #[schema(value_type = String)]
    pub group: IpAddr,
    /// The VLAN; 0 is untagged.
    pub vlan: u16,
    /// Whether the VLAN is that of an 802.1ad service tag. Service tags have a number space of
    /// their own.
    pub service_tag: bool,
    /// The names of the listening ports.
    pub ports: Vec<String>,
    /// Seconds until the last listener expires without a further report; absent if no expiry is
    /// pending, as in a network without a querier.
    pub expires_in: Option<u64>,
}
