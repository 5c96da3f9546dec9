//! Addresses: which subnet a network gets, which address an endpoint. Pure; who holds what is handed in.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::{Subnet, SubnetConfig};

/// The size of a subnet that is cut out of a pool.
const AUTOMATIC_PREFIX: u8 = 24;

/// No address or no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// All taken.
    #[error("no available address in {range} (detach something, or use a network with a larger subnet)")]
    Exhausted {
        /// Where addresses are given from.
        range: Ipv4Net,
    },
    /// Held by somebody.
    #[error("address {0} is already in use (choose another, or leave --ip out)")]
    InUse(Ipv4Addr),
    /// Not a host's address in the subnet.
    #[error("address {address} is not a host's address in {subnet} (choose one between its first and its last)")]
    Outside {
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: Subnet,
    },
    /// Every part of every pool overlaps something.
    #[error("no subnet is left in the address pools {} (give one with --subnet, or start with another --pool)", list(.0))]
    NoSubnet(Vec<Subnet>),
}

fn list(pools: &[Subnet]) -> String {
    pools.iter().map(Subnet::to_string).collect::<Vec<_>>().join(", ")
}

/// The address that is asked for, or the first that is free.
///
/// # Errors
/// [`IpamError::Outside`] or [`IpamError::InUse`] for one that is asked for, [`IpamError::Exhausted`] otherwise.
pub fn allocate(
    config: &SubnetConfig,
    taken: &BTreeSet<Ipv4Addr>,
    requested: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, IpamError> {
    let SubnetConfig { subnet, gateway, ip_range } = *config;
    let free = |address: &Ipv4Addr| *address != gateway && !taken.contains(address);
    if let Some(address) = requested {
        return match (subnet.is_host(address), free(&address)) {
            (false, _) => Err(IpamError::Outside { address, subnet }),
            (_, false) => Err(IpamError::InUse(address)),
            _ => Ok(address),
        };
    }
    let range = ip_range.unwrap_or(subnet.net());
    let addresses = range.network().to_bits()..=range.broadcast().to_bits();
    let mut addresses = addresses.map(Ipv4Addr::from_bits);
    let found = addresses.find(|address| subnet.is_host(*address) && free(address));
    found.ok_or(IpamError::Exhausted { range })
}

/// The first subnet of the pools that overlaps neither a network's nor anything the host has a route to.
///
/// # Errors
/// [`IpamError::NoSubnet`].
pub fn free_subnet(pools: &[Subnet], networks: &[Subnet], routes: &[Ipv4Net]) -> Result<Subnet, IpamError> {
    let overlaps = |subnet: &Subnet| {
        // The default route leads everywhere, and says nothing.
        let route = routes.iter().any(|route| route.prefix_len() > 0 && subnet.overlaps(route));
        route || overlapping(subnet, networks).is_some()
    };
    let mut candidates = pools.iter().flat_map(|pool| {
        let net = pool.net();
        // A pool smaller than that is one subnet.
        net.subnets(AUTOMATIC_PREFIX.max(net.prefix_len())).into_iter().flatten()
    });
    let free = candidates.find_map(|net| Subnet::new(net).ok().filter(|subnet| !overlaps(subnet)));
    free.ok_or_else(|| IpamError::NoSubnet(pools.to_vec()))
}

/// The network's subnet that this one overlaps, if there is one.
pub fn overlapping<'a>(subnet: &Subnet, networks: &'a [Subnet]) -> Option<&'a Subnet> {
    networks.iter().find(|other| subnet.overlaps(&other.net()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(subnet: &str, gateway: Option<&str>, range: Option<&str>) -> SubnetConfig {
        let gateway = gateway.map(|gateway| gateway.parse().expect("an address"));
        let range = range.map(|range| range.parse().expect("a range"));
        SubnetConfig::new(subnet.parse().expect("a subnet"), gateway, range).expect("a configuration")
    }

    fn subnets(texts: &[&str]) -> Vec<Subnet> {
        texts.iter().map(|text| text.parse().expect("a subnet")).collect()
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_are_given_from_the_first_and_around_the_gateway() {
        let config = config("10.0.0.0/29", Some("10.0.0.3"), None);
        let mut taken = BTreeSet::new();
        let mut given = Vec::new();
        while let Ok(address) = allocate(&config, &taken, None) {
            taken.insert(address);
            given.push(address.octets()[3]);
        }
        assert_eq!(given, [1, 2, 4, 5, 6]);
        assert!(matches!(allocate(&config, &taken, None), Err(IpamError::Exhausted { .. })));
        taken.remove(&address("10.0.0.4"));
        assert_eq!(allocate(&config, &taken, None), Ok(address("10.0.0.4")));
    }

    #[test]
    fn a_range_bounds_what_is_given_but_not_what_is_asked_for() {
        let config = config("10.0.0.0/24", None, Some("10.0.0.252/30"));
        let mut taken = BTreeSet::from([address("10.0.0.252"), address("10.0.0.253")]);
        assert_eq!(allocate(&config, &taken, None), Ok(address("10.0.0.254")));
        taken.insert(address("10.0.0.254"));
        assert!(allocate(&config, &taken, None).is_err(), "the last is the broadcast address");
        assert_eq!(allocate(&config, &taken, Some(address("10.0.0.9"))), Ok(address("10.0.0.9")));
    }

    #[test]
    fn what_is_asked_for_must_be_a_free_host_of_the_subnet() {
        let config = config("10.0.0.0/24", None, None);
        let taken = BTreeSet::from([address("10.0.0.7")]);
        for (asked, error) in [
            ("10.0.0.7", IpamError::InUse(address("10.0.0.7"))),
            ("10.0.0.1", IpamError::InUse(address("10.0.0.1"))),
            ("10.0.0.0", IpamError::Outside { address: address("10.0.0.0"), subnet: config.subnet }),
            ("10.0.0.255", IpamError::Outside { address: address("10.0.0.255"), subnet: config.subnet }),
            ("10.0.1.7", IpamError::Outside { address: address("10.0.1.7"), subnet: config.subnet }),
        ] {
            assert_eq!(allocate(&config, &taken, Some(address(asked))), Err(error));
        }
    }

    #[test]
    fn subnets_skip_networks_and_routes_but_not_the_default_route() {
        let pools = subnets(&["10.201.0.0/22", "10.202.0.0/25"]);
        let networks = subnets(&["10.201.1.0/24"]);
        let routes = ["0.0.0.0/0", "10.201.0.8/29", "10.201.2.0/23"].map(|route| route.parse().expect("a route"));
        assert_eq!(free_subnet(&pools, &[], &[]), Ok(subnets(&["10.201.0.0/24"])[0]));
        assert_eq!(free_subnet(&pools, &networks, &routes), Ok(subnets(&["10.202.0.0/25"])[0]));
        assert_eq!(free_subnet(&pools[..1], &networks, &routes), Err(IpamError::NoSubnet(pools[..1].to_vec())));
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice_and_nothing_is_left(prefix in 25_u8..=30, gateway in 1_u32..3, asked in proptest::collection::vec(0_u32..140, 0..40)) {
            let net: Ipv4Net = Ipv4Net::new(Ipv4Addr::new(10, 9, 8, 0), prefix).expect("a net").trunc();
            let subnet = Subnet::new(net).expect("a subnet");
            let gateway = Ipv4Addr::from_bits(net.network().to_bits() + gateway);
            let config = SubnetConfig::new(subnet, Some(gateway), None).expect("a configuration");
            let mut taken = BTreeSet::new();
            for offset in asked {
                let address = Ipv4Addr::from_bits(net.network().to_bits() + offset);
                if let Ok(given) = allocate(&config, &taken, Some(address)) {
                    prop_assert_eq!(given, address);
                    prop_assert!(subnet.is_host(given) && given != gateway && taken.insert(given));
                }
            }
            while let Ok(given) = allocate(&config, &taken, None) {
                prop_assert!(subnet.is_host(given) && given != gateway && taken.insert(given));
            }
            // All but network, broadcast and gateway.
            prop_assert_eq!(taken.len(), (1_usize << (32 - prefix)) - 3);
        }

        #[test]
        fn a_free_subnet_overlaps_nothing(used in proptest::collection::vec((0_u8..8, 20_u8..=28), 0..6)) {
            let pools = subnets(&["10.201.0.0/21"]);
            let routes: Vec<Ipv4Net> = used.iter().map(|(third, prefix)| Ipv4Net::new_assert(Ipv4Addr::new(10, 201, *third, 0), *prefix).trunc()).collect();
            match free_subnet(&pools, &[], &routes) {
                Ok(subnet) => prop_assert!(!routes.iter().any(|route| subnet.overlaps(route)) && pools[0].overlaps(&subnet.net())),
                Err(_) => prop_assert!(pools[0].net().subnets(24).expect("longer").all(|net| routes.iter().any(|route| route.contains(&net) || net.contains(route)))),
            }
        }
    }
}
