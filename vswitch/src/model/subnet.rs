//! Subnets of networks, IPv4 and IPv6.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A subnet, written without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(IpNet);

/// A subnet that a network cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubnet {
    /// Not an address with a prefix length.
    #[error("invalid subnet `{0}` (an address and a prefix length, as in 10.1.2.0/24 or fd00:1:2::/64)")]
    Syntax(String),
    /// An address inside it instead of its own.
    #[error("{given} is an address inside of a subnet (the subnet is {meant})")]
    HostBits {
        /// What was given.
        given: IpNet,
        /// The subnet it lies in.
        meant: IpNet,
    },
    /// Too small for a gateway and an endpoint, or no subnet at all.
    #[error("subnet {subnet} cannot hold a gateway and endpoints (the prefix length must be from 8 to {longest})")]
    Size {
        /// The subnet.
        subnet: IpNet,
        /// The longest prefix of its family.
        longest: u8,
    },
    /// Loopback, multicast and the like.
    #[error(
        "subnet {0} holds addresses that no host can have (use a unicast one, such as 10.1.2.0/24 or fd00:1:2::/64)"
    )]
    NotUnicast(IpNet),
    /// A gateway that is none of the subnet's hosts.
    #[error("gateway {gateway} is not a host's address in {subnet} (choose one between its first and its last)")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// A range that is no part of the subnet.
    #[error("range {range} is not within {subnet} (choose a part of the subnet)")]
    Range {
        /// The range.
        range: IpNet,
        /// The subnet.
        subnet: Subnet,
    },
    /// An auxiliary address that is none of the subnet's hosts.
    #[error(
        "auxiliary address {name}={address} is not a host's address in {subnet} (choose one between its first and its last)"
    )]
    Auxiliary {
        /// Its name.
        name: String,
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// An auxiliary address that is somebody else's.
    #[error("auxiliary address {name}={address} is already in use, by {holder} (choose another)")]
    AuxiliaryInUse {
        /// Its name.
        name: String,
        /// The address.
        address: IpAddr,
        /// Whose it is.
        holder: String,
    },
}

impl Subnet {
    /// The subnet, if it is one that a network can have.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(net: IpNet) -> Result<Self, InvalidSubnet> {
        if net.trunc() != net {
            return Err(InvalidSubnet::HostBits { given: net, meant: net.trunc() });
        }
        let longest = net.max_prefix_len() - 2;
        if !(8..=longest).contains(&net.prefix_len()) {
            return Err(InvalidSubnet::Size { subnet: net, longest });
        }
        if is_unicast(net.network()) { Ok(Self(net)) } else { Err(InvalidSubnet::NotUnicast(net)) }
    }

    /// The unique-local subnet of a network that was given none (RFC 4193, 3.2): its 40 random bits are `random`.
    pub fn unique_local(random: [u8; 5]) -> Self {
        let [a, b, c, d, e] = random;
        let prefix = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        Self(IpNet::new_assert(prefix.into(), 64))
    }

    /// As address and prefix length.
    pub const fn net(&self) -> IpNet {
        self.0
    }

    /// Whether it is an IPv6 one.
    pub const fn is_ipv6(&self) -> bool {
        matches!(self.0, IpNet::V6(_))
    }

    /// An address in it, with its prefix length, as an interface has it.
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        IpNet::new_assert(address, self.0.prefix_len())
    }

    /// Whether a host can have this address: in the subnet, and neither its first nor, in IPv4, its last.
    pub fn is_host(&self, address: IpAddr) -> bool {
        let last = !self.is_ipv6() && address == self.0.broadcast();
        self.0.contains(&address) && address != self.0.network() && !last
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &IpNet) -> bool {
        self.0.contains(other) || other.contains(&self.0)
    }

    /// The first address that a host can have: the gateway, unless another is given.
    pub fn first_host(&self) -> IpAddr {
        match self.0.network() {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + 1).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + 1).into(),
        }
    }
}

/// Whether hosts can have addresses that begin like this. Link-local ones are every link's, and no network's.
fn is_unicast(first: IpAddr) -> bool {
    match first {
        IpAddr::V4(first) => {
            !first.is_loopback() && !first.is_multicast() && first.octets()[0] != 0 && first.octets()[0] < 240
        }
        IpAddr::V6(first) => {
            let reserved = first.is_loopback() || first.is_multicast() || first.is_unspecified();
            !reserved && !first.is_unicast_link_local() && first.to_ipv4_mapped().is_none()
        }
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        text.parse().map_err(|_| InvalidSubnet::Syntax(text.to_owned())).and_then(Self::new)
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetConfig {
    /// The subnet.
    pub subnet: Subnet,
    /// The host's own address in it.
    pub gateway: IpAddr,
    /// Where automatic addresses are taken from, if not from all of the subnet.
    pub ip_range: Option<IpNet>,
    /// Addresses that are somebody else's, by the names they were given with.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl SubnetConfig {
    /// Puts subnet, gateway and range together; the gateway is the first address unless given.
    ///
    /// # Errors
    /// A gateway or a range outside of the subnet.
    pub fn new(subnet: Subnet, gateway: Option<IpAddr>, ip_range: Option<IpNet>) -> Result<Self, InvalidSubnet> {
        let gateway = gateway.unwrap_or_else(|| subnet.first_host());
        if !subnet.is_host(gateway) {
            return Err(InvalidSubnet::Gateway { gateway, subnet });
        }
        if let Some(range) = ip_range.filter(|range| !subnet.net().contains(range)) {
            return Err(InvalidSubnet::Range { range, subnet });
        }
        let ip_range = ip_range.map(|range| range.trunc());
        Ok(Self { subnet, gateway, ip_range, auxiliary: BTreeMap::new() })
    }

    /// Keeps an address for somebody else.
    ///
    /// # Errors
    /// [`InvalidSubnet::Auxiliary`] if it is no host's address here, [`InvalidSubnet::AuxiliaryInUse`] if it is kept
    /// already, or the gateway's.
    pub fn reserve(&mut self, name: String, address: IpAddr) -> Result<(), InvalidSubnet> {
        if !self.subnet.is_host(address) {
            return Err(InvalidSubnet::Auxiliary { name, address, subnet: self.subnet });
        }
        let other = self.auxiliary.iter().find(|(_, other)| **other == address);
        let holder = match other {
            _ if address == self.gateway => Some("the gateway".to_owned()),
            Some((other, _)) if *other != name => Some(format!("auxiliary address {other}")),
            _ => None,
        };
        if let Some(holder) = holder {
            return Err(InvalidSubnet::AuxiliaryInUse { name, address, holder });
        }
        self.auxiliary.insert(name, address);
        Ok(())
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
        for good in ["fd00:1::/64", "2001:db8::/126", "fc00::/8"] {
            assert_eq!(subnet(good).to_string(), good);
        }
        assert!(matches!("fd00::1/64".parse::<Subnet>(), Err(InvalidSubnet::HostBits { .. })));
        assert!(matches!("fd00::/127".parse::<Subnet>(), Err(InvalidSubnet::Size { longest: 126, .. })));
        assert!(matches!("10.0.0.0/31".parse::<Subnet>(), Err(InvalidSubnet::Size { .. })));
        assert!(matches!("0.0.0.0/0".parse::<Subnet>(), Err(InvalidSubnet::Size { .. })));
        for bad in
            ["127.0.0.0/8", "224.0.0.0/24", "255.255.255.0/24", "0.0.0.0/8", "fe80::/64", "ff02::/16", "::ffff:0:0/96"]
        {
            assert!(matches!(bad.parse::<Subnet>(), Err(InvalidSubnet::NotUnicast(_))), "{bad}");
        }
    }

    #[test]
    fn hosts_are_all_but_the_first_and_the_last() {
        let subnet = subnet("10.0.0.0/30");
        let hosts: Vec<_> = (0..8).map(|n| IpAddr::from([10, 0, 0, n])).filter(|a| subnet.is_host(*a)).collect();
        assert_eq!(hosts, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn gateway_and_range_lie_within() {
        let subnet = subnet("10.0.0.0/24");
        assert_eq!(SubnetConfig::new(subnet, None, None).expect("valid").gateway, IpAddr::from([10, 0, 0, 1]));
        let mut config = SubnetConfig::new(subnet, None, None).expect("valid");
        assert!(config.reserve("printer".to_owned(), [10, 0, 0, 9].into()).is_ok());
        let outside = config.reserve("printer".to_owned(), [10, 0, 1, 9].into());
        assert!(matches!(outside, Err(InvalidSubnet::Auxiliary { .. })));
        for outside in [[10, 0, 1, 1], [10, 0, 0, 0], [10, 0, 0, 255]].map(IpAddr::from) {
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
    #[test]
    fn unique_local_subnets_have_their_random_bits() {
        assert_eq!(Subnet::unique_local([1, 2, 3, 4, 5]).to_string(), "fd01:203:405::/64");
    }

    #[test]
    fn the_last_address_of_ipv6_is_a_host_and_the_first_is_none() {
        let subnet = subnet("fd00::/126");
        let hosts: Vec<_> =
            (0..5).filter(|n| subnet.is_host(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, *n).into())).collect();
        assert_eq!(hosts, [1, 2, 3]);
    }
}
