//! Bridge networks: a switch on this host with a host port, and an uplink if the user names one.

use std::collections::BTreeMap;

use vswitch_common::tables::PortKind;

use super::endpoint::Interface;
use super::host_port::host_mac;
use super::none::loopback;
use super::rules::rules;
use super::uplink::{InterfacePort, take_interface};
use super::{Capabilities, EndpointFacts, EndpointPlan, HostStep, InterfaceFacts, Kind, ParentNeeds};
use crate::model::{
    BridgeOptions, Driver, Endpoint, EndpointOptions, Instance, InvalidOption, Network, NetworkKind, SwitchOptions,
    UplinkBefore,
};

/// Capabilities of a network that is a switch on this host.
pub(super) const SWITCH: Capabilities = Capabilities {
    interfaces: Ok(()),
    switched: true,
    published: Ok(()),
    names: true,
    probed: false,
    host_namespace: false,
};

impl Kind for BridgeOptions {
    fn from_options(_: Driver, options: &BTreeMap<String, String>) -> Result<NetworkKind, InvalidOption> {
        Self::parse(options).map(NetworkKind::Bridge)
    }

    fn capabilities(&self) -> Capabilities {
        SWITCH
    }

    fn host_port(&self, instance: &Instance, network: &Network, mtu: u32, longest: u32) -> Vec<HostStep> {
        let rules = rules(&self.switch, PortKind::Host, &EndpointOptions::default());
        super::host_port::host_port(instance, network, host_mac(&network.id), rules, mtu, longest)
    }

    fn interface(
        &self,
        network: &Network,
        before: &UplinkBefore,
        facts: &InterfaceFacts,
        _: ParentNeeds,
    ) -> Vec<HostStep> {
        let port = InterfacePort {
            kind: PortKind::Uplink,
            xdp: network.xdp(),
            // The host's own addresses are reached through the interface itself, not through the
            // switch.
            addresses: Vec::new(),
            rules: rules(&self.switch, PortKind::Uplink, &EndpointOptions::default()),
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
        switched_endpoint(instance, network, &self.switch, endpoint, facts)
    }
}

/// Plans an endpoint of a network that is a switch on this host.
pub(super) fn switched_endpoint(
    instance: &Instance,
    network: &Network,
    switch: &SwitchOptions,
    endpoint: &Endpoint,
    facts: EndpointFacts,
) -> EndpointPlan {
    let Some(address) = &endpoint.address else { return loopback() };
    let interface = Interface {
        kind: PortKind::Container,
        rules: rules(switch, PortKind::Container, &endpoint.port),
        accept_ra: endpoint.port.accept_ra,
        // A real router can be on an uplink's segment.
        ipv6_off: network.uplink().is_none(),
        link_local: None,
        routed: false,
        host_routes: host_routes(instance, network, endpoint),
    };
    super::endpoint::endpoint(instance, network, endpoint, address, facts, interface)
}

/// Plans the host's routes to an endpoint beside an uplink. The uplink's interface may have an
/// address in the network's subnet, and the host's route to the subnet leads out by it then.
fn host_routes(instance: &Instance, network: &Network, endpoint: &Endpoint) -> Vec<HostStep> {
    let shared = network.uplink().is_some() && endpoint.port.reaches_host();
    let Some(address) = endpoint.address.as_ref().filter(|_| shared) else { return Vec::new() };
    let device = instance.host_device(network.device_name());
    let route = |ip| HostStep::HostRoute { device: device.clone(), address: ip, mac: address.mac.get() };
    address.ips().map(route).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use vswitch_common::tables::NetworkNumber;

    use super::super::{DeviceStep, InsideStep, Offload, PortStep, Stage, release_uplink, testing};
    use super::*;
    use crate::model::{Mode, SubnetConfig, Trunk, UplinkOptions, Xdp, XdpChoice};

    fn facts(mode: Mode, xdp_uplink: bool) -> EndpointFacts {
        EndpointFacts { mode, xdp_uplink, default_route: true }
    }

    fn plan(mode: Mode, xdp_uplink: bool) -> EndpointPlan {
        plan_of(&testing::network(), &testing::endpoint(), facts(mode, xdp_uplink))
    }

    fn plan_of(network: &Network, endpoint: &Endpoint, facts: EndpointFacts) -> EndpointPlan {
        let instance = Instance::new("default".parse().expect("a name"));
        super::super::endpoint(&instance, network, endpoint, facts)
    }

    fn port(steps: &[HostStep]) -> &PortStep {
        steps
            .iter()
            .find_map(|step| if let HostStep::AddPort(port) = step { Some(port) } else { None })
            .expect("a port")
    }

    fn inside(step: DeviceStep) -> InsideStep {
        InsideStep::Device(step)
    }

    #[test]
    fn an_endpoint_gets_its_device_address_route_and_port() {
        let plan = plan(Mode::Auto, false);
        let device = || "eth0".to_owned();
        let InsideStep::CreateVeth { interface, mtu: 1400, mark, .. } = &plan.inside[0] else { panic!("{plan:?}") };
        assert_eq!((interface.as_str(), mark.starts_with("vswitch:default:front:abab")), ("eth0", true));
        let address = "10.9.8.2/24".parse().expect("an address");
        assert!(plan.inside.contains(&inside(DeviceStep::AddAddress { device: device(), address })));
        assert!(plan.inside.contains(&InsideStep::DefaultRoute { device: device(), via: [10, 9, 8, 1].into() }));
        let port = port(&plan.host);
        assert_eq!((port.kind, port.xdp, port.xdp_egress), (PortKind::Container, Xdp::Off, false));
        let own = IpAddr::from([10, 9, 8, 2]);
        assert_eq!((&port.addresses[..], port.mtu), (&[own][..], 1400));
        let offloads = |step: &InsideStep| matches!(step, InsideStep::Device(DeviceStep::Offloads { .. }));
        assert!(!plan.inside.iter().any(offloads), "without XDP, offloads stay as they are");
    }

    #[test]
    fn steps_run_in_the_order_create_configure_join_start_check() {
        let plan = plan(Mode::Xdp, false);
        let in_order = |stages: Vec<Stage>| assert!(stages.is_sorted(), "{stages:?}");
        in_order(plan.host.iter().map(HostStep::stage).collect());
        in_order(plan.inside.iter().map(InsideStep::stage).collect());
        let up = |device: &str| DeviceStep::SetUp { device: device.to_owned() };
        let port = port(&plan.host);
        // No frame arrives before the port has its rules.
        let joined = HostStep::AddPort(port.clone()).stage();
        assert!(joined < HostStep::Device(up(&port.device)).stage() && joined < inside(up("eth0")).stage());
        assert!(inside(DeviceStep::AnnounceAddresses { device: "eth0".to_owned() }).stage() < joined);
    }

    #[test]
    fn both_families_are_configured_and_internal_networks_lead_nowhere() {
        let ipv6 = SubnetConfig::new("fd00:9::/64".parse().expect("a subnet"), None, None).expect("a configuration");
        let switch = SwitchOptions { icc: false, ..SwitchOptions::default() };
        let kind = NetworkKind::Bridge(BridgeOptions { switch, uplink: None });
        let mut network = Network { kind, ..testing::network() };
        network.subnets.push(ipv6);
        let mut web = testing::endpoint();
        web.address.as_mut().expect("it has one").ipv6 = Some("fd00:9::2".parse().expect("an address"));
        let facts = facts(Mode::Auto, false);
        let routes = |network: &Network, facts| {
            let plan = plan_of(network, &web, facts);
            let routes = plan.inside.iter().filter(|step| matches!(step, InsideStep::DefaultRoute { .. })).count();
            (routes, port(&plan.host).rules.isolated, plan.inside)
        };
        let (count, isolated, steps) = routes(&network, facts);
        assert_eq!((count, isolated), (2, true));
        let device = || "eth0".to_owned();
        assert!(steps.contains(&inside(DeviceStep::Ipv6 { device: device(), enable: Some(true), accept_ra: false })));
        let address = "fd00:9::2/64".parse().expect("an address");
        assert!(steps.contains(&inside(DeviceStep::AddAddress { device: device(), address })));
        assert_eq!(routes(&network, EndpointFacts { default_route: false, ..facts }).0, 0);
        network.internal = true;
        assert_eq!(routes(&network, facts).0, 0);
    }

    #[test]
    fn in_a_vlan_there_is_no_gateway() {
        let mut web = testing::endpoint();
        web.port.vlan = Some("30".parse().expect("a VLAN"));
        let plan = plan_of(&testing::network(), &web, facts(Mode::Auto, false));
        assert!(!plan.inside.iter().any(|step| matches!(step, InsideStep::DefaultRoute { .. })), "{plan:?}");
        assert_eq!(port(&plan.host).rules.vlan, 30);
    }

    #[test]
    fn router_advertisements_are_accepted_only_with_accept_ra() {
        let step = |uplink: Option<&str>, accept_ra| {
            let uplink =
                uplink.map(|name| UplinkOptions { interface: name.parse().expect("a name"), xdp: XdpChoice::Auto });
            let kind = NetworkKind::Bridge(BridgeOptions { switch: SwitchOptions::default(), uplink });
            let (network, mut web) = (Network { kind, ..testing::network() }, testing::endpoint());
            web.port.accept_ra = accept_ra;
            let steps = plan_of(&network, &web, facts(Mode::Auto, false)).inside;
            steps.into_iter().find(|step| matches!(step, InsideStep::Device(DeviceStep::Ipv6 { .. })))
        };
        let expected =
            |enable, accept_ra| Some(inside(DeviceStep::Ipv6 { device: "eth0".to_owned(), enable, accept_ra }));
        assert_eq!(step(None, false), expected(Some(false), false));
        assert_eq!(step(Some("eth1"), false), expected(None, false));
        assert_eq!(step(Some("eth1"), true), expected(Some(true), true));
    }

    #[test]
    fn xdp_asks_for_napi_and_finished_frames() {
        let all =
            vec![(Offload::Gro, true), (Offload::TxChecksum, false), (Offload::Tso, false), (Offload::TxVlan, false)];
        let offloads = |settings| inside(DeviceStep::Offloads { device: "eth0".to_owned(), settings });
        let xdp = plan(Mode::Xdp, false);
        assert!(xdp.inside.contains(&offloads(all)));
        assert_eq!((port(&xdp.host).xdp, port(&xdp.host).xdp_egress), (Xdp::Native, true));
        let beside_uplink = plan(Mode::Auto, true);
        assert!(beside_uplink.inside.contains(&offloads(vec![(Offload::Gro, true)])));
        let beside_uplink = port(&beside_uplink.host);
        assert_eq!((beside_uplink.xdp, beside_uplink.xdp_egress), (Xdp::Off, true));
        assert!(!port(&plan(Mode::Tc, true).host).xdp_egress);
    }

    #[test]
    fn the_host_holds_the_gateway() {
        let instance = Instance::new("default".parse().expect("a name"));
        let steps = super::super::host_port(&instance, &testing::network(), 1400, 1450);
        let address = "10.9.8.1/24".parse().expect("an address");
        assert!(steps.contains(&HostStep::Device(DeviceStep::AddAddress { device: "vsw-front".to_owned(), address })));
        let port = port(&steps);
        assert_eq!((port.kind, port.egress.as_str(), port.network), (PortKind::Host, "vsw-front", NetworkNumber(3)));
        assert_eq!((&port.addresses[..], port.mtu), (&["10.9.8.1".parse().expect("an address")][..], 1450));
        assert_ne!(port.device, port.egress);
    }

    #[test]
    fn a_released_uplink_is_as_it_was() {
        let facts = InterfaceFacts {
            addresses: Vec::new(),
            mac: "02:00:00:00:00:09".parse().expect("a MAC address"),
            mtu: 9000,
            veth: false,
            mode: Mode::Auto,
        };
        let before = |promiscuous, rx_vlan_offload| UplinkBefore {
            interface: "eth1".parse().expect("a name"),
            index: 7,
            promiscuous,
            rx_vlan_offload,
        };
        let uplink = |before| super::super::interface(&testing::network(), before, &facts, ParentNeeds::default());
        let changed = before(false, Some(true));
        let offloads = |on| {
            let settings = vec![(Offload::RxVlan, on)];
            HostStep::Device(DeviceStep::Offloads { device: "eth1".to_owned(), settings })
        };
        let promiscuous = |on| HostStep::Promiscuous { device: "eth1".to_owned(), on };
        let made = uplink(&changed);
        assert!(made.contains(&offloads(false)) && made.contains(&promiscuous(true)));
        assert_eq!(release_uplink(&changed), [promiscuous(false), offloads(true)]);
        assert_eq!((port(&made).mtu, &port(&made).rules.trunk), (9000, &Trunk::All));
        let untouched = before(true, None);
        assert_eq!(uplink(&untouched).len(), 1, "only the port");
        assert_eq!(release_uplink(&untouched), []);
    }
}
