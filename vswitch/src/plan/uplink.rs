//! Interfaces of the host that become ports of the switch: uplinks and parents.

use std::net::IpAddr;

use vswitch_common::tables::PortKind;

use super::{DeviceStep, HostStep, Offload, PortStep};
use crate::model::{Mode, Network, PortRules, StationMac, UplinkBefore, Xdp, XdpChoice};

/// Facts about an interface that becomes an uplink or a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// MAC address of the interface.
    pub mac: StationMac,
    /// MTU in bytes.
    pub mtu: u32,
    /// The interface is one end of a veth pair: its frames may have unfinished checksums.
    pub veth: bool,
    /// Hooks chosen by `up`.
    pub mode: Mode,
    /// Addresses of the host on the interface.
    pub addresses: Vec<IpAddr>,
}

/// Returns an MTU as the datapath stores it. An MTU that does not fit, as the loopback device's, is
/// no limit.
pub(super) fn limit(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(0)
}

/// Returns the use of XDP on an uplink or parent.
pub fn uplink_xdp(choice: XdpChoice, facts: &InterfaceFacts) -> Xdp {
    match (choice, facts.mode) {
        (XdpChoice::Off, _) | (_, Mode::Tc) => Xdp::Off,
        (XdpChoice::Native, _) => Xdp::Native,
        (XdpChoice::Auto, _) if facts.veth => Xdp::Off,
        (XdpChoice::Auto, _) => Xdp::Auto,
    }
}

/// Differences between the ports of uplinks and parents.
pub(super) struct InterfacePort {
    /// Kind of the port.
    pub(super) kind: PortKind,
    /// Choice of XDP.
    pub(super) xdp: XdpChoice,
    /// IP addresses of the port.
    pub(super) addresses: Vec<IpAddr>,
    /// Rules of the port.
    pub(super) rules: PortRules,
}

/// Plans a port on an interface of the host, which receives all frames with their tags.
/// [`release_uplink`] reverts it.
pub(super) fn take_interface(
    network: &Network,
    before: &UplinkBefore,
    facts: &InterfaceFacts,
    own: InterfacePort,
) -> Vec<HostStep> {
    let device = before.interface.to_string();
    let port = PortStep {
        device: device.clone(),
        egress: device.clone(),
        network: network.number,
        kind: own.kind,
        mac: facts.mac.get(),
        xdp: uplink_xdp(own.xdp, facts),
        xdp_egress: false,
        addresses: own.addresses,
        mtu: limit(facts.mtu),
        rules: own.rules,
    };
    let mut steps = Vec::new();
    if before.rx_vlan_offload == Some(true) {
        // XDP does not see a tag that the driver has removed.
        steps.push(rx_vlan_offload(&device, false));
    }
    steps.push(HostStep::AddPort(port));
    if !before.promiscuous {
        steps.push(HostStep::Promiscuous { device, on: true });
    }
    steps
}

/// Plans the return of a former uplink or parent to its earlier state. Its port is removed already.
pub fn release_uplink(before: &UplinkBefore) -> Vec<HostStep> {
    let device = before.interface.as_str().to_owned();
    let mut steps = Vec::new();
    if !before.promiscuous {
        steps.push(HostStep::Promiscuous { device: device.clone(), on: false });
    }
    if before.rx_vlan_offload == Some(true) {
        steps.push(rx_vlan_offload(&device, true));
    }
    steps
}

fn rx_vlan_offload(device: &str, on: bool) -> HostStep {
    let settings = vec![(Offload::RxVlan, on)];
    HostStep::Device(DeviceStep::Offloads { device: device.to_owned(), settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdp_is_never_chosen_where_frames_may_be_unfinished() {
        let facts = |veth, mode| InterfaceFacts {
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
