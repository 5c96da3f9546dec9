//! IPv4 subnets of networks.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// An IPv4 subnet, written without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(Ipv4Net);

/// A subnet that a network cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubnet {
    /// Not an address with a prefix length.
    #[error("invalid subnet `{0}` (an address and a prefix length, as in 10.1.2.0/24)")]
    Syntax(String),
    /// IPv6.
    #[error("subnet {0} is IPv6, which bridge networks do not have yet (use an IPv4 one)")]
    Ipv6(IpNet),
    /// An address inside it instead of its own.
    #[error("{given} is an address inside of a subnet (the subnet is {meant})")]
    HostBits {
        /// What was given.
        given: Ipv4Net,
        /// The subnet it lies in.
        meant: Ipv4Net,
    },
    /// Too small for a gateway and an endpoint, or no subnet at all.
    #[error("subnet {0} cannot hold a gateway and endpoints (the prefix length must be from 8 to 30)")]
    Size(Ipv4Net),
    /// Loopback, multicast and the like.
    #[error("subnet {0} holds addresses that no host can have (use a unicast one, such as 10.1.2.0/24)")]
    NotUnicast(Ipv4Net),
    /// A gateway that is none of the subnet's hosts.
    #[error("gateway {gateway} is not a host's address in {subnet} (choose one between its first and its last)")]
    Gateway {
        /// The gateway.
        gateway: Ipv4Addr,
        /// The subnet.
        subnet: Subnet,
    },
    /// A range that is no part of the subnet.
    #[error("range {range} is not within {subnet} (choose a part of the subnet)")]
    Range {
        /// The range.
        range: Ipv4Net,
        /// The subnet.
        subnet: Subnet,
    },
}

impl Subnet {
    /// The subnet, if it is one that a network can have.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(net: Ipv4Net) -> Result<Self, InvalidSubnet> {
        if net.trunc() != net {
            return Err(InvalidSubnet::HostBits { given: net, meant: net.trunc() });
        }
        if !(8..=30).contains(&net.prefix_len()) {
            return Err(InvalidSubnet::Size(net));
        }
        let first = net.network();
        if first.is_loopback() || first.is_multicast() || first.octets()[0] == 0 || first.octets()[0] >= 240 {
            return Err(InvalidSubnet::NotUnicast(net));
        }
        Ok(Self(net))
    }

    /// As address and prefix length.
    pub const fn net(&self) -> Ipv4Net {
        self.0
    }

    /// An address in it, with its prefix length, as an interface has it.
    pub fn with_prefix(&self, address: Ipv4Addr) -> IpNet {
        IpNet::V4(Ipv4Net::new_assert(address, self.0.prefix_len()))
    }

    /// Whether a host can have this address: in the subnet, neither its first nor its last.
    pub fn is_host(&self, address: Ipv4Addr) -> bool {
        self.0.contains(&address) && address != self.0.network() && address != self.0.broadcast()
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &Ipv4Net) -> bool {
        self.0.contains(other) || other.contains(&self.0)
    }

    /// The first address that a host can have: the gateway, unless another is given.
    pub fn first_host(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.network().to_bits() + 1)
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        match text.parse() {
            Ok(IpNet::V4(net)) => Self::new(net),
            Ok(net @ IpNet::V6(_)) => Err(InvalidSubnet::Ipv6(net)),
            Err(_) => Err(InvalidSubnet::Syntax(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A subnet of a network, with its gateway and the range that addresses are given from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetConfig {
    /// The subnet.
    pub subnet: Subnet,
    /// The host's own address in it.
    pub gateway: Ipv4Addr,
    /// Where automatic addresses are taken from, if not from all of the subnet.
    pub ip_range: Option<Ipv4Net>,
}

impl SubnetConfig {
    /// Puts the three together; the gateway is the first address unless given.
    ///
    /// # Errors
    /// A gateway or a range outside of the subnet.
    pub fn new(subnet: Subnet, gateway: Option<Ipv4Addr>, ip_range: Option<Ipv4Net>) -> Result<Self, InvalidSubnet> {
        let gateway = gateway.unwrap_or_else(|| subnet.first_host());
        if !subnet.is_host(gateway) {
            return Err(InvalidSubnet::Gateway { gateway, subnet });
        }
        if let Some(range) = ip_range.filter(|range| !subnet.net().contains(range)) {
            return Err(InvalidSubnet::Range { range, subnet });
        }
        Ok(Self { subnet, gateway, ip_range: ip_range.map(|range| range.trunc()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("a subnet")
    }

    #[test]
    fn subnets_are_unicast_and_have_room() {
        for good in ["10.0.0.0/8", "10.201.0.0/24", "192.168.1.252/30"] {
            assert_eq!(subnet(good).to_string(), good);
        }
        assert!(matches!("10.201.0.9/24".parse::<Subnet>(), Err(InvalidSubnet::HostBits { .. })));
        assert!(matches!("10.201.0.0".parse::<Subnet>(), Err(InvalidSubnet::Syntax(_))));
        assert!(matches!("fd00::/64".parse::<Subnet>(), Err(InvalidSubnet::Ipv6(_))));
        assert!(matches!("10.0.0.0/31".parse::<Subnet>(), Err(InvalidSubnet::Size(_))));
        assert!(matches!("0.0.0.0/0".parse::<Subnet>(), Err(InvalidSubnet::Size(_))));
        for bad in ["127.0.0.0/8", "224.0.0.0/24", "255.255.255.0/24", "0.0.0.0/8"] {
            assert!(matches!(bad.parse::<Subnet>(), Err(InvalidSubnet::NotUnicast(_))), "{bad}");
        }
    }

    #[test]
    fn hosts_are_all_but_the_first_and_the_last() {
        let subnet = subnet("10.0.0.0/30");
        let hosts: Vec<_> = (0..8).map(|n| Ipv4Addr::new(10, 0, 0, n)).filter(|a| subnet.is_host(*a)).collect();
        assert_eq!(hosts, [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
    }

    #[test]
    fn gateway_and_range_lie_within() {
        let subnet = subnet("10.0.0.0/24");
        assert_eq!(SubnetConfig::new(subnet, None, None).expect("valid").gateway, Ipv4Addr::new(10, 0, 0, 1));
        for outside in [Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(10, 0, 0, 0), Ipv4Addr::new(10, 0, 0, 255)] {
            assert!(matches!(SubnetConfig::new(subnet, Some(outside), None), Err(InvalidSubnet::Gateway { .. })));
        }
        let range = |text: &str| Some(text.parse().expect("a range"));
        assert!(SubnetConfig::new(subnet, None, range("10.0.0.128/25")).is_ok());
        assert!(matches!(SubnetConfig::new(subnet, None, range("10.0.0.0/23")), Err(InvalidSubnet::Range { .. })));
    }

    #[test]
    fn overlap_is_mutual() {
        let overlaps = |a: &str, b: &str| subnet(a).overlaps(&subnet(b).net()) || subnet(b).overlaps(&subnet(a).net());
        assert!(overlaps("10.0.0.0/16", "10.0.3.0/24"));
        assert!(overlaps("10.0.0.0/24", "10.0.0.0/24"));
        assert!(!overlaps("10.0.0.0/24", "10.0.1.0/24"));
    }
}
