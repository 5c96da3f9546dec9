//! Kinds of networks: what each can do, and what it needs in the kernel.
//!
//! A new kind is a variant of [`NetworkKind`] with its options, and a file in this folder that
//! implements [`Kind`] for the options; the compiler then points at the matches of [`parse`] and
//! [`of`], and at the stored form of a network.

use std::collections::BTreeMap;

use super::none::{HostStack, Loopback};
use super::{EndpointFacts, EndpointPlan, HostStep, InterfaceFacts, ParentNeeds};
use crate::model::{
    BridgeOptions, Driver, Endpoint, Instance, InvalidOption, Network, NetworkKind, OverlayOptions, ParentOptions,
    UplinkBefore,
};

/// Capabilities of the networks of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Endpoints have an interface of their own. The error completes "its endpoints have ...".
    pub interfaces: Result<(), &'static str>,
    /// The network is a switch on this host, with a host port and with subnets.
    pub switched: bool,
    /// Endpoints can publish ports on the host. The error completes "network N, ...".
    pub published: Result<(), &'static str>,
    /// The daemon answers name queries at the network's gateways.
    pub names: bool,
    /// Addresses of new endpoints are probed on the wire.
    pub probed: bool,
    /// The namespace of every endpoint is the daemon's own.
    pub host_namespace: bool,
}

/// A kind of network, implemented by the options of the kind.
pub trait Kind {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// The first option that is unknown or has an invalid value.
    fn from_options(driver: Driver, options: &BTreeMap<String, String>) -> Result<NetworkKind, InvalidOption>
    where
        Self: Sized;

    /// Returns what a network with these options can do.
    fn capabilities(&self) -> Capabilities;

    /// Plans the host port: a device with the gateways' addresses, and its port. Empty if the
    /// network has none. `mtu` is the device's, `longest` the length of the longest packet to the
    /// host, both in bytes.
    fn host_port(&self, _instance: &Instance, _network: &Network, _mtu: u32, _longest: u32) -> Vec<HostStep> {
        Vec::new()
    }

    /// Plans the port of the network's uplink or parent. Empty if the network has none.
    fn interface(
        &self,
        _network: &Network,
        _before: &UplinkBefore,
        _facts: &InterfaceFacts,
        _needs: ParentNeeds,
    ) -> Vec<HostStep> {
        Vec::new()
    }

    /// Plans an endpoint.
    fn endpoint(
        &self,
        instance: &Instance,
        network: &Network,
        endpoint: &Endpoint,
        facts: EndpointFacts,
    ) -> EndpointPlan;
}

/// Reads the options of a network with this driver.
///
/// # Errors
/// The first option that is unknown or has an invalid value.
pub fn parse(driver: Driver, options: &BTreeMap<String, String>) -> Result<NetworkKind, InvalidOption> {
    match driver {
        Driver::Bridge => BridgeOptions::from_options(driver, options),
        Driver::Macvlan | Driver::Ipvlan => ParentOptions::from_options(driver, options),
        Driver::Overlay => OverlayOptions::from_options(driver, options),
        Driver::Host => HostStack::from_options(driver, options),
        Driver::None => Loopback::from_options(driver, options),
    }
}

/// Returns the kind of a network.
pub(super) fn of(network: &Network) -> &dyn Kind {
    match &network.kind {
        NetworkKind::Bridge(options) => options,
        NetworkKind::Macvlan(options) | NetworkKind::Ipvlan(options) => options,
        NetworkKind::Overlay(options) => options,
        NetworkKind::Host => &HostStack,
        NetworkKind::None => &Loopback,
    }
}

impl Network {
    /// Returns what the network can do.
    pub fn capabilities(&self) -> Capabilities {
        of(self).capabilities()
    }
}
