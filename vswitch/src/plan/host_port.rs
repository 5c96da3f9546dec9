//! Host ports: the host's device in a switched network, which holds the gateways' addresses.

use std::net::Ipv6Addr;

use ipnet::IpNet;
use vswitch_common::Mac;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::PortKind;

use super::uplink::limit;
use super::{DeviceStep, HostStep, PortStep};
use crate::model::{Instance, Network, NetworkId, Owner, PortRules, StationMac, Xdp};

/// Returns the MAC address of the host's device. No endpoint can have it: it is generated for a
/// name with a blank.
pub(super) fn host_mac(seed: &NetworkId) -> Mac {
    StationMac::generated(seed, "the host", 0).get()
}

/// Plans a host port. `mtu` is the device's, `longest` the length of the longest packet to the
/// host, both in bytes.
pub(super) fn host_port(
    instance: &Instance,
    network: &Network,
    mac: Mac,
    rules: PortRules,
    mtu: u32,
    longest: u32,
) -> Vec<HostStep> {
    let device = instance.host_device(network.device_name());
    let port = instance.host_port_device(&network.id);
    let mut steps = vec![
        HostStep::CreateVeth {
            device: device.clone(),
            mac: Some(mac),
            mark: instance.mark(network.device_name(), Owner::Host),
            peer: port.clone(),
            mtu,
        },
        HostStep::NoIpv6 { device: port.clone() },
        HostStep::AddPort(PortStep {
            device: port.clone(),
            egress: device.clone(),
            network: network.number,
            kind: PortKind::Host,
            mac,
            xdp: Xdp::Off,
            xdp_egress: false,
            addresses: network.gateways().collect(),
            mtu: limit(longest),
            rules,
        }),
    ];
    let addresses: Vec<IpNet> =
        network.subnets.iter().map(|config| config.subnet.with_prefix(config.gateway)).collect();
    let ipv6 = network.subnets.iter().any(|config| config.subnet.is_ipv6());
    let enable = ipv6.then_some(true);
    let mut settings = vec![DeviceStep::Ipv6 { device: device.clone(), enable, accept_ra: false }];
    if ipv6 {
        steps.push(HostStep::NoDad { device: device.clone() });
        // The source of the host's neighbor solicitations for packets that it routes.
        let address = IpNet::new_assert(Ipv6Addr::from(Address::link_local(mac).octets()).into(), 64);
        settings.push(DeviceStep::AddAddress { device: device.clone(), address });
    }
    let on_device =
        addresses.iter().map(|address| DeviceStep::AddAddress { device: device.clone(), address: *address });
    settings.extend(on_device);
    steps.extend(settings.into_iter().map(HostStep::Device));
    if network.uplink().is_some() {
        steps.push(HostStep::ShareSubnets { device: device.clone(), addresses });
    }
    let settings = [
        DeviceStep::AnnounceAddresses { device: device.clone() },
        DeviceStep::SetUp { device: port.clone() },
        DeviceStep::SetUp { device: device.clone() },
        DeviceStep::CheckCarrier { device: port },
        DeviceStep::CheckCarrier { device },
    ];
    steps.extend(settings.into_iter().map(HostStep::Device));
    steps
}
