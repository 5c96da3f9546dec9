//! macvlan and ipvlan networks: endpoints on the segment of an interface of the host, the parent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use vswitch_common::packet::address::Address;
use vswitch_common::tables::PortKind;

use super::endpoint::Interface;
use super::none::loopback;
use super::rules::rules;
use super::uplink::{InterfacePort, take_interface};
use super::{Capabilities, EndpointFacts, EndpointPlan, HostStep, InterfaceFacts, Kind};
use crate::model::{
    Driver, Endpoint, EndpointAddress, EndpointOptions, Instance, InvalidOption, Layer, Network, NetworkKind,
    ParentOptions, ParentRules, Passage, PortRules, StationMac, SwitchOptions, UplinkBefore, XdpChoice,
};

/// Needs of all networks on one parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParentNeeds {
    /// Rules of the parent's port.
    pub rules: ParentRules,
    /// XDP on the parent.
    pub xdp: XdpChoice,
}

impl ParentNeeds {
    /// Combines the needs of networks on one parent. Of several choices of XDP the strongest wins.
    pub fn of<'a>(networks: impl Iterator<Item = &'a Network> + Clone) -> Self {
        let rules = networks.clone().filter_map(Network::parent).fold(ParentRules::default(), union);
        Self { rules, xdp: networks.map(Network::xdp).max().unwrap_or_default() }
    }
}

/// Adds the needs of a network to those of the other networks on its parent.
fn union(rules: ParentRules, options: &ParentOptions) -> ParentRules {
    ParentRules {
        by_address: rules.by_address || options.layer != Layer::Mac,
        // Frames that leave through the parent are inspected.
        host_access: rules.host_access || options.host_access || options.has_host_routes(),
        passthru: rules.passthru || options.passage == Passage::Passthru,
        ..ParentRules::default()
    }
}

impl Kind for ParentOptions {
    fn from_options(driver: Driver, options: &BTreeMap<String, String>) -> Result<NetworkKind, InvalidOption> {
        let kind = if driver == Driver::Ipvlan { NetworkKind::Ipvlan } else { NetworkKind::Macvlan };
        Self::parse(driver, options).map(kind)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            interfaces: Ok(()),
            switched: false,
            published: Err("whose endpoints are on the wire with all their ports"),
            names: false,
            probed: !self.is_routed(),
            host_namespace: false,
        }
    }

    fn interface(
        &self,
        network: &Network,
        before: &UplinkBefore,
        facts: &InterfaceFacts,
        needs: ParentNeeds,
    ) -> Vec<HostStep> {
        let rules = rules(&self.switch(), PortKind::Parent, &EndpointOptions::default());
        let port = InterfacePort {
            kind: PortKind::Parent,
            xdp: needs.xdp,
            // Packets of a routed network's endpoints to these addresses go to the host.
            addresses: facts.addresses.clone(),
            rules: PortRules { parent: needs.rules, ..rules },
        };
        take_interface(network, before, facts, port)
    }

    fn endpoint(
        &self,
        instance: &Instance,
        network: &Network,
        endpoint: &Endpoint,
        facts: EndpointFacts,
    ) -> EndpointPlan {
        let Some(address) = &endpoint.address else { return loopback() };
        let interface = Interface {
            kind: PortKind::Child,
            rules: self.child_rules(endpoint),
            // Endpoints with one MAC address would all derive the same addresses from an advertised
            // prefix.
            accept_ra: endpoint.port.accept_ra && !self.shares_mac(),
            // With MAC addresses of their own, endpoints may use a real router on the wire.
            ipv6_off: self.shares_mac(),
            link_local: self.link_local_of(network, endpoint, address),
            routed: self.is_routed(),
            host_routes: self.host_routes(address),
        };
        super::endpoint::endpoint(instance, network, endpoint, address, facts, interface)
    }
}

impl ParentOptions {
    /// Returns the options of the network's ports in the form that switched networks have.
    fn switch(&self) -> SwitchOptions {
        SwitchOptions { ports: self.ports, ..SwitchOptions::default() }
    }

    /// Returns the rules of an endpoint's port.
    fn child_rules(&self, endpoint: &Endpoint) -> PortRules {
        let mut given = endpoint.port.clone();
        if self.passage == Passage::Passthru && self.ports.spoof_guard.is_none() {
            // A passthru endpoint is alone on its parent, and may have stations of its own behind
            // it.
            given.ports.spoof_guard.get_or_insert(false);
        }
        PortRules {
            // Machines on the wire and endpoints answer for themselves, and groups go to all of
            // them.
            arp_suppress: false,
            snooping: false,
            vlan: self.vlan.map_or(0, |vlan| vlan.get()),
            parent: ParentRules {
                apart: matches!(self.passage, Passage::Private | Passage::Vepa),
                reflected: self.passage == Passage::Vepa,
                by_address: self.layer != Layer::Mac,
                routed: self.is_routed(),
                stack: self.layer == Layer::L3s,
                host_access: self.host_access,
                passthru: self.passage == Passage::Passthru,
            },
            ..rules(&self.switch(), PortKind::Child, &given)
        }
    }

    /// Returns the link-local address of an endpoint that shares its MAC address and has IPv6.
    fn link_local_of(&self, network: &Network, endpoint: &Endpoint, address: &EndpointAddress) -> Option<IpAddr> {
        let shared = self.layer != Layer::Mac;
        (shared && address.ipv6.is_some()).then(|| link_local(network, endpoint).into())
    }

    /// Plans the host's routes to an endpoint.
    fn host_routes(&self, address: &EndpointAddress) -> Vec<HostStep> {
        let ips = address.ips().filter(|_| self.has_host_routes());
        let route = |ip| HostStep::HostRoute { device: self.parent.to_string(), address: ip, mac: address.mac.get() };
        ips.map(route).collect()
    }
}

/// Returns the link-local address of an endpoint that shares its MAC address.
fn link_local(network: &Network, endpoint: &Endpoint) -> Ipv6Addr {
    let made = StationMac::generated(&network.id, endpoint.name.as_str(), 0);
    Ipv6Addr::from(Address::link_local(made.get()).octets())
}

#[cfg(test)]
mod tests {
    use vswitch_common::tables::NetworkNumber;

    use super::super::{InsideStep, PortStep, testing};
    use super::*;
    use crate::model::Mode;

    fn network(driver: Driver, options: &[(&str, &str)]) -> Network {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let kind = super::super::parse(driver, &options).expect("options");
        Network { kind, ..testing::network() }
    }

    fn plan(network: &Network, endpoint: &Endpoint) -> EndpointPlan {
        let instance = Instance::new("default".parse().expect("a name"));
        let facts = EndpointFacts { mode: Mode::Auto, xdp_uplink: false, default_route: true };
        super::super::endpoint(&instance, network, endpoint, facts)
    }

    fn port(plan: &EndpointPlan) -> &PortStep {
        let mut ports =
            plan.host.iter().filter_map(|step| if let HostStep::AddPort(port) = step { Some(port) } else { None });
        ports.next().expect("a port")
    }

    #[test]
    fn a_macvlan_endpoint_has_a_gateway_and_resolves_neighbors() {
        let network = network(Driver::Macvlan, &[("parent", "eth1")]);
        let plan = plan(&network, &testing::endpoint());
        let device = || "eth0".to_owned();
        assert!(plan.inside.contains(&InsideStep::DefaultRoute { device: device(), via: [10, 9, 8, 1].into() }));
        assert!(!plan.inside.contains(&InsideStep::NoArp { device: device() }));
        assert!(!plan.host.iter().any(|step| matches!(step, HostStep::HostRoute { .. })));
        assert_eq!((port(&plan).kind, port(&plan).network), (PortKind::Child, NetworkNumber(3)));
        assert!(network.capabilities().probed && !network.capabilities().switched);
    }

    #[test]
    fn a_routed_endpoint_has_routes_without_a_gateway_and_the_host_has_routes_to_it() {
        let network = network(Driver::Ipvlan, &[("parent", "eth1"), ("ipvlan_mode", "l3s")]);
        let mut endpoint = testing::endpoint();
        endpoint.address.as_mut().expect("an address").ipv6 = Some("fd00:9::2".parse().expect("an address"));
        let plan = plan(&network, &endpoint);
        let device = || "eth0".to_owned();
        assert!(plan.inside.contains(&InsideStep::NoArp { device: device() }));
        for ipv6 in [false, true] {
            assert!(plan.inside.contains(&InsideStep::DefaultByDevice { device: device(), ipv6 }));
        }
        assert!(!plan.inside.iter().any(|step| matches!(step, InsideStep::DefaultRoute { .. })));
        assert_eq!(plan.host.iter().filter(|step| matches!(step, HostStep::HostRoute { .. })).count(), 2);
        let address = link_local(&network, &endpoint);
        assert!(plan.inside.contains(&InsideStep::LinkLocal { device: device(), address }));
        assert!(port(&plan).addresses.contains(&address.into()) && port(&plan).rules.parent.stack);
        assert!(!network.capabilities().probed);
    }

    #[test]
    fn a_parent_serves_the_needs_of_all_networks_on_it() {
        let bridge = network(Driver::Macvlan, &[("parent", "eth1"), ("xdp", "off")]);
        let l2 = network(Driver::Ipvlan, &[("parent", "eth1"), ("xdp", "native"), ("host_access", "true")]);
        assert_eq!(ParentNeeds::of([&bridge].into_iter()), ParentNeeds { xdp: XdpChoice::Off, ..Default::default() });
        let rules = ParentRules { by_address: true, host_access: true, ..ParentRules::default() };
        let needs = ParentNeeds { rules, xdp: XdpChoice::Native };
        assert_eq!(ParentNeeds::of([&bridge, &l2].into_iter()), needs);
        let passthru = network(Driver::Macvlan, &[("parent", "eth1"), ("macvlan_mode", "passthru")]);
        assert!(ParentNeeds::of([&passthru].into_iter()).rules.passthru);
    }
}
