//! Bridge networks: a switch of their own, a port of the host that holds the gateway, uplinks if asked for.

use std::net::IpAddr;

use vswitch_common::tables::PortKind;

use super::rules::rules;
use super::{EndpointFacts, wire};
use crate::datapath::{Mode, PortRules, Xdp};
use crate::model::{
    Endpoint, EndpointAddress, EndpointOptions, Instance, Network, NetworkId, Owner, StationMac, UplinkBefore,
    WireOptions, XdpChoice,
};
use crate::plan::{Device, Offload, PortStep, Step};

/// What is known of an interface that is to be an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkFacts {
    /// Its own address.
    pub mac: StationMac,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is one end of a veth: frames from there may carry checksums that nobody has finished.
    pub veth: bool,
    /// Which hooks `up` was asked for.
    pub mode: Mode,
    /// The addresses that the host has on it.
    pub addresses: Vec<IpAddr>,
}

/// What an endpoint needs: a veth whose other end is its interface, and a port.
pub(super) fn endpoint(
    instance: &Instance,
    network: &Network,
    endpoint: &Endpoint,
    address: &EndpointAddress,
    facts: EndpointFacts,
) -> Vec<Step> {
    let port = instance.port_device(&endpoint.id);
    let interface = Device::container(address.ifname.as_str());
    let mac = address.mac.get();
    let kind = if network.wire.is_some() { PortKind::Child } else { PortKind::Container };
    let xdp_port = facts.mode == Mode::Xdp && kind == PortKind::Container;
    let xdp_egress = xdp_port || (facts.xdp_uplink && facts.mode != Mode::Tc);

    let mut steps = vec![
        Step::CreateVeth {
            device: port.clone(),
            mac: None,
            mark: instance.mark(&network.name, Owner::Endpoint(endpoint.id)),
            peer: interface.clone(),
            peer_mac: Some(mac),
            mtu: address.mtu,
        },
        Step::NoIpv6 { device: port.clone() },
    ];
    let mut settings = Vec::new();
    if xdp_egress {
        settings.push((Offload::Gro, true));
    }
    if xdp_port {
        // XDP sees bare frames: whatever the stack leaves for the device to finish would get lost.
        settings.extend([(Offload::TxChecksum, false), (Offload::Tso, false), (Offload::TxVlan, false)]);
    }
    if !settings.is_empty() {
        steps.push(Step::Offloads { device: interface.clone(), settings });
    }
    // With a shared MAC address all would make the same addresses of it. Without IPv6 nobody in the network can make
    // themselves its router. On a wire there may be a real one.
    let shared = network.wire.as_ref().is_some_and(WireOptions::shares_mac);
    let accept_ra = endpoint.port.accept_ra && !shared;
    let alone = network.interface().is_none() || shared;
    let enable = (address.ipv6.is_some() || accept_ra || alone).then_some(address.ipv6.is_some() || accept_ra);
    steps.push(Step::Ipv6 { device: interface.clone(), enable, accept_ra });
    steps.extend(wire::before_addresses(network, endpoint, address, &interface));
    for ip in address.ips() {
        let Some(config) = network.subnet_of(ip) else { continue };
        steps.push(Step::AddAddress { device: interface.clone(), address: config.subnet.with_prefix(ip) });
    }
    steps.push(Step::AnnounceAddresses { device: interface.clone() });
    // From here on it is flooded to: as late as can be, but before any frame of its own.
    steps.push(Step::AddPort(PortStep {
        device: port.clone(),
        egress: port.clone(),
        network: network.number,
        kind,
        mac,
        xdp: if xdp_port { Xdp::Native } else { Xdp::Off },
        xdp_egress,
        addresses: address.ips().chain(wire::link_local_of(network, endpoint, address)).collect(),
        // An interface takes a tag beside its MTU, and so as many bytes more without one: what others in the network send.
        mtu: limit(address.mtu + network.tag_room(&endpoint.port)),
        rules: match &network.wire {
            Some(wire) => wire::rules(wire, &network.bridge, endpoint),
            None => rules(&network.bridge, kind, &endpoint.port),
        },
    }));
    steps.extend([
        // The port first: the interface then comes up with carrier, and its announcement goes out.
        Step::SetUp { device: Device::host(&port) },
        Step::SetUp { device: interface.clone() },
    ]);
    if facts.default_route && network.has_way_out(endpoint) {
        let gateways = address.ips().filter_map(|ip| network.gateway_of(ip));
        steps.extend(gateways.map(|via| Step::DefaultRoute { device: interface.name.clone(), via }));
        steps.extend(wire::routes(network, address, &interface));
    }
    steps.extend(wire::host_routes(network, address));
    steps.extend([
        Step::SetUp { device: Device::container("lo") },
        Step::CheckCarrier { device: Device::host(port) },
        Step::CheckCarrier { device: interface },
    ]);
    steps
}

/// What the host needs in a network: a device with the gateway's address, and a port. `mtu` is the device's, `longest` that of
/// the longest packet that goes to the host.
pub fn host_port(instance: &Instance, network: &Network, mtu: u32, longest: u32) -> Vec<Step> {
    let device = instance.host_device(&network.name);
    let port = instance.host_port_device(&network.id);
    // No endpoint can have this name: names have no blank. In an overlay network every host is the same gateway, so that an
    // endpoint that moves finds it where it knows it.
    let seed = network.overlay.map_or(network.id, |overlay| of_vni(overlay.vni));
    let mac = StationMac::generated(&seed, "the host", 0).get();
    let rules = rules(&network.bridge, PortKind::Host, &EndpointOptions::default());
    let mut steps = vec![
        Step::CreateVeth {
            device: device.clone(),
            mac: Some(mac),
            mark: instance.mark(&network.name, Owner::Host),
            peer: Device::host(&port),
            peer_mac: None,
            mtu,
        },
        Step::NoIpv6 { device: port.clone() },
        Step::AddPort(PortStep {
            device: port.clone(),
            egress: device.clone(),
            network: network.number,
            kind: PortKind::Host,
            mac,
            xdp: Xdp::Off,
            xdp_egress: false,
            addresses: network.gateways().collect(),
            mtu: limit(longest),
            rules: PortRules { split_horizon: network.overlay.is_some(), ..rules },
        }),
    ];
    let ipv6 = network.subnets.iter().any(|config| config.subnet.is_ipv6());
    steps.push(Step::Ipv6 { device: Device::host(&device), enable: ipv6.then_some(true), accept_ra: false });
    for config in &network.subnets {
        let address = config.subnet.with_prefix(config.gateway);
        steps.push(Step::AddAddress { device: Device::host(&device), address });
    }
    steps.extend([
        Step::AnnounceAddresses { device: Device::host(&device) },
        Step::SetUp { device: Device::host(&port) },
        Step::SetUp { device: Device::host(&device) },
        Step::CheckCarrier { device: Device::host(port) },
        Step::CheckCarrier { device: Device::host(device) },
    ]);
    steps
}

/// The same for an overlay network on every host.
fn of_vni(vni: u32) -> NetworkId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&vni.to_be_bytes());
    NetworkId::from_bytes(bytes)
}

/// An MTU as the switch has it: the loopback's, which is larger, is no limit.
pub(super) fn limit(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(0)
}

/// Whether to have XDP on an uplink.
pub fn uplink_xdp(choice: XdpChoice, facts: &UplinkFacts) -> Xdp {
    match (choice, facts.mode) {
        (XdpChoice::Off, _) | (_, Mode::Tc) => Xdp::Off,
        (XdpChoice::Native, _) => Xdp::Native,
        (XdpChoice::Auto, _) if facts.veth => Xdp::Off,
        (XdpChoice::Auto, _) => Xdp::Auto,
    }
}

/// What an uplink needs; `before` is how it was found.
pub fn uplink(network: &Network, before: &UplinkBefore, facts: &UplinkFacts) -> Vec<Step> {
    let device = before.interface.as_str().to_owned();
    let port = PortStep {
        device: device.clone(),
        egress: device,
        network: network.number,
        kind: PortKind::Uplink,
        mac: facts.mac.get(),
        xdp: uplink_xdp(network.bridge.xdp, facts),
        xdp_egress: false,
        // The host's own on it: by way of the interface itself, not of the switch.
        addresses: Vec::new(),
        mtu: limit(facts.mtu),
        rules: rules(&network.bridge, PortKind::Uplink, &EndpointOptions::default()),
    };
    take_interface(before, port)
}

/// Makes an interface of the host a port of the switch, which gets all frames with their tags in them. `release_uplink`
/// undoes it.
pub(super) fn take_interface(before: &UplinkBefore, port: PortStep) -> Vec<Step> {
    let device = port.device.clone();
    let mut steps = Vec::new();
    if before.rx_vlan_offload == Some(true) {
        // XDP would not see the tag that the driver has taken off.
        steps.push(Step::Offloads { device: Device::host(&device), settings: vec![(Offload::RxVlan, false)] });
    }
    steps.push(Step::AddPort(port));
    if !before.promiscuous {
        steps.push(Step::Promiscuous { device, on: true });
    }
    steps
}

/// What gives an interface that was an uplink back as it was found; its port is removed already.
pub fn release_uplink(before: &UplinkBefore) -> Vec<Step> {
    let device = before.interface.as_str().to_owned();
    let mut steps = Vec::new();
    if !before.promiscuous {
        steps.push(Step::Promiscuous { device: device.clone(), on: false });
    }
    if before.rx_vlan_offload == Some(true) {
        steps.push(Step::Offloads { device: Device::host(device), settings: vec![(Offload::RxVlan, true)] });
    }
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use time::OffsetDateTime;
    use vswitch_common::tables::NetworkNumber;

    use super::*;
    use crate::datapath::Trunk;
    use crate::model::{BridgeOptions, Driver, EndpointId, NetnsRecord, Phase, SubnetConfig};

    fn network() -> Network {
        let subnet = SubnetConfig::new("10.9.8.0/24".parse().expect("a subnet"), None, None).expect("a configuration");
        Network {
            id: NetworkId::from_bytes([1; 32]),
            name: "front".parse().expect("a name"),
            number: NetworkNumber(3),
            driver: Driver::Bridge,
            subnets: vec![subnet],
            internal: false,
            options: BTreeMap::new(),
            bridge: BridgeOptions::default(),
            wire: None,
            overlay: None,
            labels: BTreeMap::new(),
            created: OffsetDateTime::UNIX_EPOCH,
            uplink_before: None,
        }
    }

    fn web() -> Endpoint {
        Endpoint {
            id: EndpointId::from_bytes([0xab; 32]),
            name: "web".parse().expect("a name"),
            network: network().id,
            netns: NetnsRecord { path: "/run/netns/web".into(), dev: 4, inode: 5, process: None },
            address: Some(EndpointAddress {
                ifname: "eth0".parse().expect("a name"),
                mac: "02:00:00:00:00:01".parse().expect("a MAC address"),
                ipv4: [10, 9, 8, 2].into(),
                ipv6: None,
                mtu: 1400,
            }),
            hostname: None,
            aliases: Vec::new(),
            published: Vec::new(),
            gw_priority: 0,
            options: BTreeMap::new(),
            port: EndpointOptions::default(),
            labels: BTreeMap::new(),
            created: OffsetDateTime::UNIX_EPOCH,
            phase: Phase::Attaching,
        }
    }

    fn steps(mode: Mode, xdp_uplink: bool) -> Vec<Step> {
        let instance = Instance::new("default".parse().expect("a name"));
        super::super::plan(&instance, &network(), &web(), EndpointFacts { mode, xdp_uplink, default_route: true })
    }

    fn port(steps: &[Step]) -> &PortStep {
        steps.iter().find_map(|step| if let Step::AddPort(port) = step { Some(port) } else { None }).expect("a port")
    }

    fn place(steps: &[Step], wanted: impl Fn(&Step) -> bool) -> usize {
        steps.iter().position(wanted).expect("such a step")
    }

    #[test]
    fn an_endpoint_gets_its_device_address_route_and_port() {
        let steps = steps(Mode::Auto, false);
        let interface = Device::container("eth0");
        let Step::CreateVeth { peer, mtu: 1400, mark, .. } = &steps[0] else { panic!("{steps:?}") };
        assert_eq!((peer, mark.starts_with("vswitch:default:front:abab")), (&interface, true));
        let address = "10.9.8.2/24".parse().expect("an address");
        assert!(steps.contains(&Step::AddAddress { device: interface.clone(), address }));
        assert!(steps.contains(&Step::DefaultRoute { device: "eth0".to_owned(), via: [10, 9, 8, 1].into() }));
        assert_eq!(
            (port(&steps).kind, port(&steps).xdp, port(&steps).xdp_egress),
            (PortKind::Container, Xdp::Off, false)
        );
        let own = IpAddr::from([10, 9, 8, 2]);
        assert_eq!((&port(&steps).addresses[..], port(&steps).mtu), (&[own][..], 1400));
        assert!(!steps.iter().any(|step| matches!(step, Step::Offloads { .. })), "nothing is slowed down for nobody");
        // No frame before there is a program to judge it.
        let up = |device: &Device| place(&steps, |step| matches!(step, Step::SetUp { device: up } if up == device));
        let port_made = place(&steps, |step| matches!(step, Step::AddPort(_)));
        assert!(port_made < up(&Device::host(port(&steps).device.clone())) && port_made < up(&interface));
    }

    #[test]
    fn both_families_are_configured_and_internal_networks_lead_nowhere() {
        let instance = Instance::new("default".parse().expect("a name"));
        let ipv6 = SubnetConfig::new("fd00:9::/64".parse().expect("a subnet"), None, None).expect("a configuration");
        let mut network = network();
        network.subnets.push(ipv6);
        network.bridge.icc = false;
        let mut web = web();
        web.address.as_mut().expect("it has one").ipv6 = Some("fd00:9::2".parse().expect("an address"));
        let facts = EndpointFacts { mode: Mode::Auto, xdp_uplink: false, default_route: true };
        let routes = |network: &Network, facts| {
            let steps = super::super::plan(&instance, network, &web, facts);
            let routes = steps.iter().filter(|step| matches!(step, Step::DefaultRoute { .. })).count();
            (routes, port(&steps).rules.isolated, steps)
        };
        let (count, isolated, steps) = routes(&network, facts);
        assert_eq!((count, isolated), (2, true));
        let device = Device::container("eth0");
        assert!(steps.contains(&Step::Ipv6 { device: device.clone(), enable: Some(true), accept_ra: false }));
        let address = "fd00:9::2/64".parse().expect("an address");
        assert!(steps.contains(&Step::AddAddress { device, address }));
        assert_eq!(routes(&network, EndpointFacts { default_route: false, ..facts }).0, 0);
        network.internal = true;
        assert_eq!(routes(&network, facts).0, 0);
    }

    #[test]
    fn in_a_vlan_there_is_no_gateway() {
        let instance = Instance::new("default".parse().expect("a name"));
        let facts = EndpointFacts { mode: Mode::Auto, xdp_uplink: false, default_route: true };
        let mut web = web();
        web.port.vlan = Some("30".parse().expect("a VLAN"));
        let steps = super::super::plan(&instance, &network(), &web, facts);
        assert!(!steps.iter().any(|step| matches!(step, Step::DefaultRoute { .. })), "{steps:?}");
        assert_eq!(port(&steps).rules.vlan, 30);
    }

    #[test]
    fn routers_are_believed_where_that_is_asked_for() {
        let instance = Instance::new("default".parse().expect("a name"));
        let facts = EndpointFacts { mode: Mode::Auto, xdp_uplink: false, default_route: true };
        let step = |uplink: Option<&str>, accept_ra| {
            let (mut network, mut web) = (network(), web());
            network.bridge.uplink = uplink.map(|name| name.parse().expect("a name"));
            web.port.accept_ra = accept_ra;
            let steps = super::super::plan(&instance, &network, &web, facts);
            steps.into_iter().find(|step| matches!(step, Step::Ipv6 { .. }))
        };
        let expected = |enable, accept_ra| Some(Step::Ipv6 { device: Device::container("eth0"), enable, accept_ra });
        assert_eq!(step(None, false), expected(Some(false), false));
        assert_eq!(step(Some("eth1"), false), expected(None, false));
        assert_eq!(step(Some("eth1"), true), expected(Some(true), true));
    }

    #[test]
    fn xdp_asks_for_napi_and_finished_frames() {
        let all =
            vec![(Offload::Gro, true), (Offload::TxChecksum, false), (Offload::Tso, false), (Offload::TxVlan, false)];
        let device = Device::container("eth0");
        let xdp = steps(Mode::Xdp, false);
        assert!(xdp.contains(&Step::Offloads { device: device.clone(), settings: all }));
        assert_eq!((port(&xdp).xdp, port(&xdp).xdp_egress), (Xdp::Native, true));
        let beside_uplink = steps(Mode::Auto, true);
        assert!(beside_uplink.contains(&Step::Offloads { device, settings: vec![(Offload::Gro, true)] }));
        assert_eq!((port(&beside_uplink).xdp, port(&beside_uplink).xdp_egress), (Xdp::Off, true));
        assert!(!port(&steps(Mode::Tc, true)).xdp_egress);
    }

    #[test]
    fn the_host_holds_the_gateway() {
        let instance = Instance::new("default".parse().expect("a name"));
        let steps = host_port(&instance, &network(), 1400, 1450);
        let address = "10.9.8.1/24".parse().expect("an address");
        assert!(steps.contains(&Step::AddAddress { device: Device::host("vsw-front"), address }));
        let port = port(&steps);
        assert_eq!((port.kind, port.egress.as_str(), port.network), (PortKind::Host, "vsw-front", NetworkNumber(3)));
        assert_eq!((&port.addresses[..], port.mtu), (&["10.9.8.1".parse().expect("an address")][..], 1450));
        assert_ne!(port.device, port.egress);
    }

    #[test]
    fn an_uplink_is_given_back_as_it_was() {
        let facts = UplinkFacts {
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
        let changed = before(false, Some(true));
        let offloads = |on| Step::Offloads { device: Device::host("eth1"), settings: vec![(Offload::RxVlan, on)] };
        let promiscuous = |on| Step::Promiscuous { device: "eth1".to_owned(), on };
        let made = uplink(&network(), &changed, &facts);
        assert!(made.contains(&offloads(false)) && made.contains(&promiscuous(true)));
        assert_eq!(release_uplink(&changed), [promiscuous(false), offloads(true)]);
        assert_eq!((port(&made).mtu, &port(&made).rules.trunk), (9000, &Trunk::All));
        let untouched = before(true, None);
        assert_eq!(uplink(&network(), &untouched, &facts).len(), 1, "the port alone");
        assert_eq!(release_uplink(&untouched), []);
    }

    #[test]
    fn xdp_is_never_chosen_where_frames_may_be_unfinished() {
        let facts = |veth, mode| UplinkFacts {
            addresses: Vec::new(),
            mac: "02:00:00:00:00:09".parse().expect("a MAC address"),
            mtu: 1500,
            veth,
            mode,
        };
        for (choice, veth, mode, xdp) in [
            (XdpChoice::Auto, false, Mode::Auto, Xdp::Auto),
            (XdpChoice::Auto, true, Mode::Auto, Xdp::Off),
            (XdpChoice::Auto, true, Mode::Xdp, Xdp::Off),
            (XdpChoice::Native, true, Mode::Auto, Xdp::Native),
            (XdpChoice::Native, false, Mode::Tc, Xdp::Off),
            (XdpChoice::Off, false, Mode::Xdp, Xdp::Off),
        ] {
            assert_eq!(uplink_xdp(choice, &facts(veth, mode)), xdp, "{choice:?} {veth} {mode:?}");
        }
    }
}
