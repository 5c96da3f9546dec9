//! macvlan and ipvlan networks: what they need besides what all endpoints with interfaces do.

use std::net::{IpAddr, Ipv6Addr};

use vswitch_common::packet::address::Address;
use vswitch_common::tables::PortKind;

use super::bridge::{UplinkFacts, limit, take_interface, uplink_xdp};
use crate::datapath::{Place, PortRules};
use crate::model::{
    BridgeOptions, Endpoint, EndpointAddress, EndpointOptions, Layer, Network, Passage, StationMac, UplinkBefore,
    WireOptions, XdpChoice,
};
use crate::plan::{Device, PortStep, Step};

/// Where an endpoint of a network is.
fn place(wire: &WireOptions) -> Place {
    Place {
        apart: matches!(wire.passage, Passage::Private | Passage::Vepa),
        reflected: wire.passage == Passage::Vepa,
        by_address: wire.layer != Layer::Mac,
        routed: wire.is_routed(),
        stack: wire.layer == Layer::L3s,
        host_access: wire.host_access,
        passthru: wire.passage == Passage::Passthru,
    }
}

/// What the port of a parent has to do for all networks on it.
pub fn union<'a>(wires: impl Iterator<Item = &'a WireOptions>) -> Place {
    wires.fold(Place::default(), |all, wire| Place {
        by_address: all.by_address || wire.layer != Layer::Mac,
        // What leaves is looked at.
        host_access: all.host_access || wire.host_access || wire.has_host_routes(),
        passthru: all.passthru || wire.passage == Passage::Passthru,
        ..Place::default()
    })
}

/// The rules of an endpoint's port.
pub(super) fn rules(wire: &WireOptions, network: &BridgeOptions, endpoint: &Endpoint) -> PortRules {
    let mut given = endpoint.port.clone();
    if wire.passage == Passage::Passthru && network.ports.spoof_guard.is_none() {
        // Whatever is behind it, it is alone there.
        given.ports.spoof_guard.get_or_insert(false);
    }
    PortRules {
        // Machines on the wire answer for themselves, and so do endpoints; groups are for all that are there.
        arp_suppress: false,
        snooping: false,
        vlan: wire.vlan.map_or(0, |vlan| vlan.get()),
        place: place(wire),
        ..super::rules::rules(network, PortKind::Child, &given)
    }
}

/// The link-local address of an endpoint that shares its MAC address.
pub fn link_local(network: &Network, endpoint: &Endpoint) -> Ipv6Addr {
    let made = StationMac::generated(&network.id, endpoint.name.as_str(), 0);
    Ipv6Addr::from(Address::link_local(made.get()).octets())
}

pub(super) fn link_local_of(network: &Network, endpoint: &Endpoint, address: &EndpointAddress) -> Option<IpAddr> {
    let shared = network.wire.as_ref().is_some_and(|wire| wire.layer != Layer::Mac);
    (shared && address.ipv6.is_some()).then(|| link_local(network, endpoint).into())
}

/// What comes before the addresses.
pub(super) fn before_addresses(
    network: &Network,
    endpoint: &Endpoint,
    address: &EndpointAddress,
    interface: &Device,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(IpAddr::V6(address)) = link_local_of(network, endpoint, address) {
        steps.push(Step::LinkLocal { device: interface.clone(), address });
    }
    if network.wire.as_ref().is_some_and(WireOptions::is_routed) {
        steps.push(Step::NoArp { device: interface.clone() });
    }
    steps
}

/// Default routes where the host routes: by the device, in the families that it has addresses of.
pub(super) fn routes(network: &Network, address: &EndpointAddress, interface: &Device) -> Vec<Step> {
    if !network.wire.as_ref().is_some_and(WireOptions::is_routed) {
        return Vec::new();
    }
    let families = address.ips().map(|ip| ip.is_ipv6());
    families.map(|ipv6| Step::DefaultByDevice { device: interface.name.clone(), ipv6 }).collect()
}

/// The host's own way to an endpoint.
pub(super) fn host_routes(network: &Network, address: &EndpointAddress) -> Vec<Step> {
    let Some(wire) = network.wire.as_ref().filter(|wire| wire.has_host_routes()) else { return Vec::new() };
    let route = |ip| Step::HostRoute { device: wire.parent.to_string(), address: ip, mac: address.mac.get() };
    address.ips().map(route).collect()
}

/// What a parent needs; `before` is how it was found, `place` and `xdp` what all networks on it ask for.
pub fn parent(
    network: &Network,
    before: &UplinkBefore,
    facts: &UplinkFacts,
    place: Place,
    xdp: XdpChoice,
) -> Vec<Step> {
    let device = before.interface.as_str().to_owned();
    let port = PortStep {
        device: device.clone(),
        egress: device,
        network: network.number,
        kind: PortKind::Parent,
        mac: facts.mac.get(),
        xdp: uplink_xdp(xdp, facts),
        xdp_egress: false,
        // What endpoints of a routed network send to them is for the host.
        addresses: facts.addresses.clone(),
        mtu: limit(facts.mtu),
        rules: PortRules {
            place,
            ..super::rules::rules(&network.bridge, PortKind::Parent, &EndpointOptions::default())
        },
    };
    take_interface(before, port)
}
