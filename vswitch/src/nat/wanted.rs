//! The rules that an instance needs on the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{GatewayMode, Protocol};

/// The rules that an instance needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The networks.
    pub networks: Vec<NatNetwork>,
    /// The published ports.
    pub forwards: Vec<PortForward>,
    /// The UDP port of the tunnels, if tunnels exist. Tunnel packets are not tracked as
    /// connections.
    pub tunnels: Option<u16>,
}

/// A network with a host device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatNetwork {
    /// The host device.
    pub device: String,
    /// The subnets.
    pub subnets: Vec<IpNet>,
    /// Whether packets to other networks get the host's address.
    pub masquerade: bool,
    /// Whether no packet leaves the network.
    pub internal: bool,
    /// What is routed in from outside, for IPv4 and for IPv6.
    pub modes: [GatewayMode; 2],
    /// The addresses at which the host answers name queries of the network.
    pub names: Vec<IpAddr>,
}

impl NatNetwork {
    /// Returns whether packets of an address family get the host's address when they leave.
    pub(super) fn masquerades(&self, ipv4: bool) -> bool {
        self.masquerade && !self.internal && matches!(self.mode(ipv4), GatewayMode::Nat | GatewayMode::NatUnprotected)
    }

    /// Returns whether only published ports and replies get in from outside.
    pub(super) fn is_closed(&self, ipv4: bool) -> bool {
        !self.internal && self.mode(ipv4) == GatewayMode::Nat
    }

    /// Returns whether no packet of the network's addresses may leave with such an address, not even
    /// an answer: no connection from outside reaches these addresses themselves.
    pub(super) fn is_private(&self, ipv4: bool) -> bool {
        self.internal || self.masquerades(ipv4) && self.is_closed(ipv4)
    }

    /// Returns whether the endpoints reach nothing of the host but names.
    pub(super) fn is_isolated(&self, ipv4: bool) -> bool {
        self.mode(ipv4) == GatewayMode::Isolated
    }

    const fn mode(&self, ipv4: bool) -> GatewayMode {
        let [mode4, mode6] = self.modes;
        if ipv4 { mode4 } else { mode6 }
    }
}

/// A host port that is forwarded to a container. One for each address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// The host device of the container's network.
    pub device: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; `None` or the unspecified address for all of the family of `to`. An
    /// address of the other family is an error; ::1 has no effect, see [the module](super).
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub to: IpAddr,
    /// The container's port.
    pub to_port: u16,
    /// Whether datagrams to the container get the address of the host in its network. A server that
    /// answers from any address answers by its default route, which leads through another network.
    pub masquerade: bool,
}

impl Wanted {
    /// Returns whether no rule is needed.
    pub(super) fn is_nothing(&self) -> bool {
        let is_isolated = |network: &NatNetwork| network.is_isolated(true) || network.is_isolated(false);
        self.forwards.is_empty()
            && self.tunnels.is_none()
            && self.open_networks().next().is_none()
            && !self.networks.iter().any(is_isolated)
    }

    /// Returns whether the host's firewalls need not let anything pass.
    pub(super) fn needs_no_firewall(&self) -> bool {
        self.is_nothing() && self.networks.iter().all(|network| network.names.is_empty())
    }

    /// Returns the networks that packets may leave.
    pub(super) fn open_networks(&self) -> impl Iterator<Item = &NatNetwork> {
        self.networks.iter().filter(|network| !network.internal)
    }

    /// Returns the devices that packets pass.
    pub(super) fn devices(&self) -> BTreeSet<&str> {
        let open = self.open_networks().map(|network| network.device.as_str());
        open.chain(self.forwards.iter().map(|forward| forward.device.as_str())).collect()
    }

    /// Returns whether packets of an address family are forwarded.
    pub(super) fn forwards_family(&self, ipv4: bool) -> bool {
        let mut subnets = self.open_networks().flat_map(|network| &network.subnets);
        subnets.any(|subnet| subnet.addr().is_ipv4() == ipv4)
            || self.forwards.iter().any(|forward| forward.to.is_ipv4() == ipv4)
    }

    /// Returns the devices of containers that processes of the host reach by 127.0.0.1.
    pub(super) fn loopback_devices(&self) -> BTreeSet<&str> {
        self.forwards.iter().filter(|forward| forward.at_loopback()).map(|forward| forward.device.as_str()).collect()
    }
}

impl PortForward {
    /// Returns the only address of the port; `None` for all of its family.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|address| !address.is_unspecified())
    }

    fn at_loopback(&self) -> bool {
        self.to.is_ipv4() && self.address().is_none_or(|address| address.is_loopback())
    }
}
