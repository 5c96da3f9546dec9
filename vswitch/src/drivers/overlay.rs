//! Overlay networks: bridge networks with tunnels to other hosts.

use std::net::IpAddr;

use vswitch_common::Mac;
use vswitch_common::tables::PortKind;

use super::bridge::limit;
use super::rules::rules;
use crate::datapath::Xdp;
use crate::model::{EndpointOptions, Instance, Network};
use crate::plan::{Device, Offload, PortStep, Step};

/// The MTU of the receiver, which cuts nothing: what arrives there has come by a wire.
const RECEIVER_MTU: u32 = 65535;

/// What all tunnels need: one device, told for each packet where it goes, and the receiver, behind which TCP is gathered.
/// `port` is the UDP port that they end at.
pub fn tunnels(instance: &Instance, port: u16) -> Vec<Step> {
    let device = instance.tunnel_device();
    let [receiver, behind] = instance.receiver_devices();
    vec![
        Step::CreateVeth {
            device: receiver.clone(),
            mac: None,
            mark: instance.tunnel_mark(),
            peer: Device::host(&behind),
            peer_mac: None,
            mtu: RECEIVER_MTU,
        },
        Step::NoIpv6 { device: receiver.clone() },
        Step::NoIpv6 { device: behind.clone() },
        // A veth gathers what comes from an end that does not send trains of segments by itself.
        Step::Offloads { device: Device::host(&receiver), settings: vec![(Offload::Tso, false)] },
        Step::Offloads { device: Device::host(&behind), settings: vec![(Offload::Gro, true)] },
        Step::SetUp { device: Device::host(behind) },
        Step::SetUp { device: Device::host(receiver) },
        Step::CreateVxlan { device: device.clone(), port, mark: instance.tunnel_mark() },
        // It has nothing to say by itself.
        Step::NoIpv6 { device: device.clone() },
        // Up without it, it would give the host what anybody sends.
        Step::GuardTunnels { device: device.clone() },
        Step::SetUp { device: Device::host(device) },
    ]
}

/// What a network needs for each peer; `mtu` is the longest inner packet.
pub fn tunnel(instance: &Instance, network: &Network, peer: IpAddr, mtu: u32) -> Vec<Step> {
    let device = instance.tunnel_device();
    vec![Step::AddPort(PortStep {
        device: device.clone(),
        egress: device,
        network: network.number,
        kind: PortKind::Tunnel,
        mac: Mac::ZERO,
        xdp: Xdp::Off,
        xdp_egress: false,
        addresses: vec![peer],
        mtu: limit(mtu),
        rules: rules(&network.bridge, PortKind::Tunnel, &EndpointOptions::default()),
    })]
}
