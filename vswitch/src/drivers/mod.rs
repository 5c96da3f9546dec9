//! Drivers: pure planners that say what must exist. One a network mode; none of them touches the kernel.

mod bridge;
mod none;
mod overlay;
mod rules;
mod wire;

pub use bridge::{UplinkFacts, host_port, release_uplink, uplink, uplink_xdp};
pub use overlay::{tunnel, tunnels};
pub use wire::{link_local, parent, union};

use crate::datapath::Mode;
use crate::model::{Driver, Endpoint, Instance, Network};
use crate::plan::Step;

/// What an endpoint's plan depends on besides the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointFacts {
    /// Which hooks `up` was asked for.
    pub mode: Mode,
    /// Whether XDP runs on an uplink of the network, which will want to redirect into the endpoint.
    pub xdp_uplink: bool,
    /// Whether the namespace's default route leads here.
    pub default_route: bool,
}

/// What must exist for an endpoint of a network.
pub fn plan(instance: &Instance, network: &Network, endpoint: &Endpoint, facts: EndpointFacts) -> Vec<Step> {
    match (network.driver, &endpoint.address) {
        (Driver::Bridge | Driver::Macvlan | Driver::Ipvlan | Driver::Overlay, Some(address)) => {
            bridge::endpoint(instance, network, endpoint, address, facts)
        }
        // An endpoint without an interface is on `none`; the host's own stack needs nothing made.
        _ => none::endpoint(),
    }
}
