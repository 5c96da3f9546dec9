//! What an instance wants of the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::Protocol;

/// All that an instance wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its networks.
    pub networks: Vec<OutsideNetwork>,
    /// Its published ports.
    pub forwards: Vec<PortForward>,
    /// The UDP port of its tunnels, if there are any: what it sends and gets by them is no connection to follow.
    pub tunnels: Option<u16>,
}

/// A network that the host has a device in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutsideNetwork {
    /// The host's device.
    pub device: String,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Whether what leaves it takes the host's address.
    pub masquerade: bool,
    /// Whether nothing leaves it.
    pub internal: bool,
}

/// A port of the host that leads to a container. One for each family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// The host's device in the container's network.
    pub device: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address: all of the family of `to` if there is none, or if it is the unspecified one. An address of
    /// the other family is an error; ::1 does nothing, see [the module](super).
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub to: IpAddr,
    /// The container's port.
    pub to_port: u16,
}

impl Wanted {
    /// Whether anything has to be made for it.
    pub(super) fn is_nothing(&self) -> bool {
        self.forwards.is_empty() && self.tunnels.is_none() && self.open_networks().next().is_none()
    }

    /// The networks that something may leave.
    pub(super) fn open_networks(&self) -> impl Iterator<Item = &OutsideNetwork> {
        self.networks.iter().filter(|network| !network.internal)
    }

    /// The devices that something goes through.
    pub(super) fn devices(&self) -> BTreeSet<&str> {
        let open = self.open_networks().map(|network| network.device.as_str());
        open.chain(self.forwards.iter().map(|forward| forward.device.as_str())).collect()
    }

    /// Whether something of IPv4, or else of IPv6, goes between the host and others.
    pub(super) fn forwards_family(&self, ipv4: bool) -> bool {
        let mut subnets = self.open_networks().flat_map(|network| &network.subnets);
        subnets.any(|subnet| subnet.addr().is_ipv4() == ipv4)
            || self.forwards.iter().any(|forward| forward.to.is_ipv4() == ipv4)
    }

    /// The devices behind which a process of the host reaches containers by 127.0.0.1.
    pub(super) fn loopback_devices(&self) -> BTreeSet<&str> {
        self.forwards.iter().filter(|forward| forward.at_loopback()).map(|forward| forward.device.as_str()).collect()
    }
}

impl PortForward {
    /// The one address that it is at; none if it is at all of its family.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|address| !address.is_unspecified())
    }

    fn at_loopback(&self) -> bool {
        self.to.is_ipv4() && self.address().is_none_or(|address| address.is_loopback())
    }
}
