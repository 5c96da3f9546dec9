//! Subnets of networks, IPv4 and IPv6.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Shortest prefix length of a network's subnet.
const SHORTEST_PREFIX: u8 = 8;

/// A subnet without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(IpNet);

/// An invalid subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubnet {
    /// Not an address with a prefix length.
    #[error("invalid subnet `{0}` (an address and a prefix length, as in 10.1.2.0/24 or fd00:1:2::/64)")]
    Syntax(String),
    /// Contains host bits.
    #[error("subnet {given} has host bits set (the subnet is {subnet})")]
    HostBits {
        /// The given address and prefix length.
        given: IpNet,
        /// The subnet that contains it.
        subnet: IpNet,
    },
    /// Too large.
    #[error("subnet {0} is too large (the prefix length must be from 8 to {longest})", longest = .0.max_prefix_len() - 1)]
    Size(IpNet),
    /// A single address.
    #[error(
        "subnet {0} is one address, and a network needs one for the gateway and one for an endpoint (choose a prefix length of at most {longest})",
        longest = .0.max_prefix_len() - 1
    )]
    OneAddress(IpNet),
    /// Loopback, multicast and other addresses that are not unicast.
    #[error("subnet {0} is not unicast (use one such as 10.1.2.0/24 or fd00:1:2::/64)")]
    NotUnicast(IpNet),
    /// The gateway is not a host address of the subnet.
    #[error("gateway {gateway} is not a host address of {subnet} (choose one between the first and the last address)")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// The range is not part of the subnet.
    #[error("range {range} is not part of subnet {subnet} (choose a part of the subnet)")]
    Range {
        /// The range.
        range: IpNet,
        /// The subnet.
        subnet: Subnet,
    },
    /// The auxiliary address is not a host address of the subnet.
    #[error(
        "auxiliary address {name}={address} is not a host address of {subnet} (choose one between the first and the last address)"
    )]
    Auxiliary {
        /// Name of the auxiliary address.
        name: String,
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// The auxiliary address is already reserved.
    #[error("auxiliary address {name}={address} is already in use, by {holder} (choose another)")]
    AuxiliaryInUse {
        /// Name of the auxiliary address.
        name: String,
        /// The address.
        address: IpAddr,
        /// Holder of the address.
        holder: String,
    },
}

impl Subnet {
    /// Creates a subnet if a network can have it.
    ///
    /// # Errors
    /// [`InvalidSubnet`].
    pub fn new(net: IpNet) -> Result<Self, InvalidSubnet> {
        if net.trunc() != net {
            return Err(InvalidSubnet::HostBits { given: net, subnet: net.trunc() });
        }
        if net.prefix_len() == net.max_prefix_len() {
            return Err(InvalidSubnet::OneAddress(net));
        }
        if net.prefix_len() < SHORTEST_PREFIX {
            return Err(InvalidSubnet::Size(net));
        }
        if is_unicast(net.network()) { Ok(Self(net)) } else { Err(InvalidSubnet::NotUnicast(net)) }
    }

    /// Returns the IPv6 subnet of a network for which the user gave none: a unique local one with
    /// the 40 random bits `random` (RFC 4193, section 3.2).
    pub fn unique_local(random: [u8; 5]) -> Self {
        let [a, b, c, d, e] = random;
        let prefix = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        Self(IpNet::new_assert(prefix.into(), 64))
    }

    /// Returns the address and prefix length.
    pub const fn net(&self) -> IpNet {
        self.0
    }

    /// Reports whether this is an IPv6 subnet.
    pub const fn is_ipv6(&self) -> bool {
        matches!(self.0, IpNet::V6(_))
    }

    /// Returns an address of the subnet with the prefix length, as it is assigned to an interface.
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        IpNet::new_assert(address, self.0.prefix_len())
    }

    /// Reports whether a host can have the address: it is in the subnet, and neither the first nor,
    /// for IPv4, the last one. In a subnet of two addresses, hosts have both (RFC 3021, RFC 6164).
    pub fn is_host(&self, address: IpAddr) -> bool {
        let last = !self.is_ipv6() && address == self.0.broadcast();
        self.0.contains(&address) && (self.is_pair() || address != self.0.network() && !last)
    }

    /// Reports whether the subnet has two addresses.
    fn is_pair(&self) -> bool {
        self.0.prefix_len() + 1 == self.0.max_prefix_len()
    }

    /// Reports whether the subnets have a common address.
    pub fn overlaps(&self, other: &IpNet) -> bool {
        self.0.contains(other) || other.contains(&self.0)
    }

    /// Returns the first host address, which is the default gateway.
    pub fn first_host(&self) -> IpAddr {
        if self.is_pair() {
            return self.0.network();
        }
        match self.0.network() {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + 1).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + 1).into(),
        }
    }
}

/// Reports whether the subnet that begins with `first` holds unicast addresses. Link-local
/// addresses are excluded, because they exist on every link.
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

/// A subnet of a network, with its gateway and the range of automatic addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetConfig {
    /// The subnet.
    pub subnet: Subnet,
    /// Gateway: the host's own address in the subnet.
    pub gateway: IpAddr,
    /// Range of automatic addresses; `None` for the whole subnet.
    pub ip_range: Option<IpNet>,
    /// Reserved addresses by the names that the user gave them. They are in use outside of vswitch.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
}

impl SubnetConfig {
    /// Combines subnet, gateway and range. The default gateway is the first host address.
    ///
    /// # Errors
    /// The gateway or the range is outside of the subnet.
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

    /// Reserves an address that is in use outside of vswitch.
    ///
    /// # Errors
    /// [`InvalidSubnet::Auxiliary`] if it is not a host address of the subnet,
    /// [`InvalidSubnet::AuxiliaryInUse`] if it is already reserved or the gateway.
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
    fn only_unicast_subnets_of_a_valid_size_are_accepted() {
        for good in ["10.0.0.0/8", "10.201.0.0/24", "192.168.1.252/30"] {
            assert_eq!(subnet(good).to_string(), good);
        }
        assert!(matches!("10.201.0.9/24".parse::<Subnet>(), Err(InvalidSubnet::HostBits { .. })));
        assert!(matches!("10.201.0.0".parse::<Subnet>(), Err(InvalidSubnet::Syntax(_))));
        for good in ["fd00:1::/64", "2001:db8::/126", "fc00::/8"] {
            assert_eq!(subnet(good).to_string(), good);
        }
        assert!(matches!("fd00::1/64".parse::<Subnet>(), Err(InvalidSubnet::HostBits { .. })));
        for one in ["10.0.0.1/32", "fd00::1/128"] {
            let error = one.parse::<Subnet>().expect_err("one address");
            assert_eq!(error, InvalidSubnet::OneAddress(one.parse().expect("a prefix")));
        }
        for large in ["0.0.0.0/0", "10.0.0.0/7", "::/0"] {
            assert!(matches!(large.parse::<Subnet>(), Err(InvalidSubnet::Size(_))), "{large}");
        }
        for bad in
            ["127.0.0.0/8", "224.0.0.0/24", "255.255.255.0/24", "0.0.0.0/8", "fe80::/64", "ff02::/16", "::ffff:0:0/96"]
        {
            assert!(matches!(bad.parse::<Subnet>(), Err(InvalidSubnet::NotUnicast(_))), "{bad}");
        }
    }

    #[test]
    fn ipv4_hosts_are_all_but_the_first_and_the_last_address() {
        let subnet = subnet("10.0.0.0/30");
        let hosts: Vec<_> = (0..8).map(|n| IpAddr::from([10, 0, 0, n])).filter(|a| subnet.is_host(*a)).collect();
        assert_eq!(hosts, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn both_addresses_of_a_pair_are_hosts_and_the_first_is_the_gateway() {
        for (net, one, two) in [("10.0.0.2/31", "10.0.0.2", "10.0.0.3"), ("fd00::/127", "fd00::", "fd00::1")] {
            let (subnet, hosts) = (subnet(net), [one, two].map(|text| text.parse::<IpAddr>().expect("an address")));
            assert!(hosts.iter().all(|address| subnet.is_host(*address)), "{net}");
            assert_eq!(subnet.first_host(), hosts[0]);
        }
    }

    #[test]
    fn gateway_range_and_auxiliary_addresses_must_be_in_the_subnet() {
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
    fn unique_local_subnets_contain_the_random_bits() {
        assert_eq!(Subnet::unique_local([1, 2, 3, 4, 5]).to_string(), "fd01:203:405::/64");
    }

    #[test]
    fn ipv6_hosts_are_all_but_the_first_address() {
        let subnet = subnet("fd00::/126");
        let hosts: Vec<_> =
            (0..5).filter(|n| subnet.is_host(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, *n).into())).collect();
        assert_eq!(hosts, [1, 2, 3]);
    }
}
