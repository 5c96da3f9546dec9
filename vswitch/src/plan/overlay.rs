//! Overlay networks: a switch on each of several hosts, with tunnels between the hosts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vswitch_common::Mac;
use vswitch_common::tables::PortKind;

use super::bridge::{SWITCH, switched_endpoint};
use super::host_port::host_mac;
use super::rules::rules;
use super::uplink::limit;
use super::{Capabilities, DeviceStep, EndpointFacts, EndpointPlan, HostStep, Kind, Offload, PortStep};
use crate::model::{
    Driver, Endpoint, EndpointOptions, Instance, InvalidOption, Network, NetworkId, NetworkKind, OverlayOptions,
    PortRules, SwitchOptions, Xdp,
};

/// MTU in bytes of the receiver. It cuts no packet: packets that arrive there came through the
/// underlay.
const RECEIVER_MTU: u32 = 65535;

impl Kind for OverlayOptions {
    fn from_options(_: Driver, options: &BTreeMap<String, String>) -> Result<NetworkKind, InvalidOption> {
        Self::parse(options).map(NetworkKind::Overlay)
    }

    fn capabilities(&self) -> Capabilities {
        SWITCH
    }

    fn host_port(&self, instance: &Instance, network: &Network, mtu: u32, longest: u32) -> Vec<HostStep> {
        // Every host is the same gateway, so that an endpoint that moves to another host finds the
        // gateway's MAC address.
        let mac = host_mac(&seed_of(self.vni_number()));
        let rules = rules(&self.switch, PortKind::Host, &EndpointOptions::default());
        let rules = PortRules { split_horizon: true, ..rules };
        super::host_port::host_port(instance, network, mac, rules, mtu, longest)
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

/// Returns the seed of a MAC address that is the same on every host.
pub(super) fn seed_of(vni: u32) -> NetworkId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&vni.to_be_bytes());
    NetworkId::from_bytes(bytes)
}

/// Plans the devices that all tunnels share: one VXLAN device, which takes the destination of each
/// packet from its metadata, and the receiver, a veth pair behind which TCP segments are merged.
/// `port` is the UDP port of the tunnels.
pub fn tunnels(instance: &Instance, port: u16) -> Vec<HostStep> {
    let device = instance.tunnel_device();
    let [receiver, behind] = instance.receiver_devices();
    let offloads = |device: &str, offload, on| {
        HostStep::Device(DeviceStep::Offloads { device: device.to_owned(), settings: vec![(offload, on)] })
    };
    vec![
        HostStep::CreateVeth {
            device: receiver.clone(),
            mac: None,
            mark: instance.tunnel_mark(),
            peer: behind.clone(),
            mtu: RECEIVER_MTU,
        },
        HostStep::NoIpv6 { device: receiver.clone() },
        HostStep::NoIpv6 { device: behind.clone() },
        // A veth merges segments only if its other end does not send segmented packets itself.
        offloads(&receiver, Offload::Tso, false),
        offloads(&behind, Offload::Gro, true),
        HostStep::Device(DeviceStep::SetUp { device: behind }),
        HostStep::Device(DeviceStep::SetUp { device: receiver }),
        HostStep::CreateVxlan { device: device.clone(), port, mark: instance.tunnel_mark() },
        // The device must send no packet of its own.
        HostStep::NoIpv6 { device: device.clone() },
        // A device that is up without the program would pass packets of unknown peers to the host.
        HostStep::GuardTunnels { device: device.clone() },
        HostStep::Device(DeviceStep::SetUp { device }),
    ]
}

/// Plans the tunnel of a network to one peer. `mtu` is the length in bytes of the longest inner
/// packet.
pub fn tunnel(instance: &Instance, network: &Network, peer: IpAddr, mtu: u32) -> Vec<HostStep> {
    let device = instance.tunnel_device();
    let none = SwitchOptions::default();
    let switch = network.switch().unwrap_or(&none);
    vec![HostStep::AddPort(PortStep {
        device: device.clone(),
        egress: device,
        network: network.number,
        kind: PortKind::Tunnel,
        mac: Mac::ZERO,
        xdp: Xdp::Off,
        xdp_egress: false,
        addresses: vec![peer],
        mtu: limit(mtu),
        rules: rules(switch, PortKind::Tunnel, &EndpointOptions::default()),
    })]
}
