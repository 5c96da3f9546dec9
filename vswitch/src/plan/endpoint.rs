//! Endpoints with an interface of their own: a veth pair, one end of which is a port of the switch.

use std::net::IpAddr;

use vswitch_common::tables::PortKind;

use super::uplink::limit;
use super::{DeviceStep, EndpointFacts, EndpointPlan, HostStep, InsideStep, Offload, PortStep};
use crate::model::{Endpoint, EndpointAddress, Instance, Mode, Network, Owner, PortRules, Xdp};

/// Differences between the kinds' endpoints.
pub(super) struct Interface {
    /// Kind of the port.
    pub(super) kind: PortKind,
    /// Rules of the port.
    pub(super) rules: PortRules,
    /// The interface accepts router advertisements.
    pub(super) accept_ra: bool,
    /// IPv6 is off if the endpoint has no IPv6 address and accepts no router advertisement. Set
    /// where the interface must not make itself an address: several endpoints share its MAC
    /// address, or no real router is on the network's segment, and another endpoint could pose as
    /// one.
    pub(super) ipv6_off: bool,
    /// Link-local address of the interface, where the kernel must not derive it from the MAC
    /// address.
    pub(super) link_local: Option<IpAddr>,
    /// The host routes the endpoint's packets: the interface resolves no neighbors, and its default
    /// routes have no gateway.
    pub(super) routed: bool,
    /// Routes of the host to the endpoint.
    pub(super) host_routes: Vec<HostStep>,
}

/// Plans an endpoint with an interface.
pub(super) fn endpoint(
    instance: &Instance,
    network: &Network,
    endpoint: &Endpoint,
    address: &EndpointAddress,
    facts: EndpointFacts,
    own: Interface,
) -> EndpointPlan {
    let port = instance.port_device(&endpoint.id);
    let interface = || address.ifname.to_string();
    let mac = address.mac.get();
    let xdp_port = facts.mode == Mode::Xdp && own.kind == PortKind::Container;
    let xdp_egress = xdp_port || (facts.xdp_uplink && facts.mode != Mode::Tc);

    let mut inside = vec![InsideStep::CreateVeth {
        port: port.clone(),
        mark: instance.mark(network.device_name(), Owner::Endpoint(endpoint.id)),
        interface: interface(),
        mac,
        mtu: address.mtu,
    }];
    let mut settings = Vec::new();
    if xdp_egress {
        settings.push((Offload::Gro, true));
    }
    if xdp_port {
        // XDP receives bare frames: work that the stack leaves to the device would be lost.
        settings.extend([(Offload::TxChecksum, false), (Offload::Tso, false), (Offload::TxVlan, false)]);
    }
    if !settings.is_empty() {
        inside.push(InsideStep::Device(DeviceStep::Offloads { device: interface(), settings }));
    }
    let wants_ipv6 = address.ipv6.is_some() || own.accept_ra;
    let enable = (wants_ipv6 || own.ipv6_off).then_some(wants_ipv6);
    inside.push(InsideStep::Device(DeviceStep::Ipv6 { device: interface(), enable, accept_ra: own.accept_ra }));
    if let Some(IpAddr::V6(address)) = own.link_local {
        inside.push(InsideStep::LinkLocal { device: interface(), address });
    }
    if own.routed {
        inside.push(InsideStep::NoArp { device: interface() });
    }
    for ip in address.ips() {
        let Some(config) = network.subnet_of(ip) else { continue };
        let address = config.subnet.with_prefix(ip);
        inside.push(InsideStep::Device(DeviceStep::AddAddress { device: interface(), address }));
    }
    inside.push(InsideStep::Device(DeviceStep::AnnounceAddresses { device: interface() }));
    inside.push(InsideStep::Device(DeviceStep::SetUp { device: interface() }));
    if facts.default_route && network.has_way_out(endpoint) {
        let gateways = address.ips().filter_map(|ip| network.gateway_of(ip));
        inside.extend(gateways.map(|via| InsideStep::DefaultRoute { device: interface(), via }));
        let families = address.ips().filter(|_| own.routed).map(|ip| ip.is_ipv6());
        inside.extend(families.map(|ipv6| InsideStep::DefaultByDevice { device: interface(), ipv6 }));
    }
    inside.push(InsideStep::Device(DeviceStep::SetUp { device: "lo".to_owned() }));
    inside.push(InsideStep::Device(DeviceStep::CheckCarrier { device: interface() }));

    let mut host = vec![
        HostStep::NoIpv6 { device: port.clone() },
        HostStep::AddPort(PortStep {
            device: port.clone(),
            egress: port.clone(),
            network: network.number,
            kind: own.kind,
            mac,
            xdp: if xdp_port { Xdp::Native } else { Xdp::Off },
            xdp_egress,
            addresses: address.ips().chain(own.link_local).collect(),
            // An interface accepts a tag beside its MTU, and so an untagged packet that is longer
            // by a tag: other endpoints of the network send such packets.
            mtu: limit(address.mtu + network.tag_room(&endpoint.port)),
            rules: own.rules,
        }),
        HostStep::Device(DeviceStep::SetUp { device: port.clone() }),
    ];
    host.extend(own.host_routes);
    host.push(HostStep::Device(DeviceStep::CheckCarrier { device: port }));
    EndpointPlan { host, inside }
}
