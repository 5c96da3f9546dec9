//! Address management: chooses subnets of networks and addresses of endpoints. Pure: callers pass
//! the addresses in use.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::model::{Subnet, SubnetConfig};

/// Prefix length of an IPv4 subnet that is taken from a pool.
const AUTOMATIC_PREFIX: u8 = 24;
/// Prefix length of an IPv6 subnet that is taken from a pool: stateless configuration needs it (RFC
/// 4291, 2.5.1).
const AUTOMATIC_PREFIX_IPV6: u8 = 64;

/// Maximum number of subnets of a pool that are tried: all of 10.0.0.0/8.
const MOST_CANDIDATES: usize = 1 << 16;

/// No address or subnet could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Every address is in use.
    #[error("no available address in {range} (detach something, or use a network with a larger subnet)")]
    Exhausted {
        /// Range that addresses are chosen from.
        range: IpNet,
    },
    /// The requested address is in use.
    #[error("address {0} is already in use (choose another, or leave it out)")]
    InUse(IpAddr),
    /// The requested address is no host's address in any subnet.
    #[error("address {address} is not a host's address in {} (choose one between its first and its last)", list(.subnets))]
    Outside {
        /// The address.
        address: IpAddr,
        /// The subnets.
        subnets: Vec<Subnet>,
    },
    /// The network has no subnet of this family.
    #[error(
        "user specified IP address {address} is supported only when the network has {family} subnets (leave it out)"
    )]
    NoFamily {
        /// The address.
        address: IpAddr,
        /// `an IPv4` or `an IPv6`, in the plural.
        family: &'static str,
    },
    /// Every subnet of every pool overlaps a network, or an address or a route of the host.
    #[error(
        "no subnet is left in the address pools {}{} (give one with --subnet, or start with another --pool)",
        list(.pools), overlapping(.taken)
    )]
    NoSubnet {
        /// The pools of the address family.
        pools: Vec<Subnet>,
        /// The addresses and routes of the host in the pools, as [`Occupied::by`].
        taken: Vec<String>,
    },
}

/// Addresses that no subnet may contain, because the host has or routes them elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// The addresses.
    pub net: IpNet,
    /// The owner, such as `10.8.0.0/16, a route of the host by tun0`.
    pub by: String,
}

/// Maximum number of owners that an error names.
const MOST_NAMED: usize = 3;

fn overlapping(taken: &[String]) -> String {
    match taken {
        [] => String::new(),
        named if named.len() > MOST_NAMED => format!(", which overlap {} and others", named[..MOST_NAMED].join("; ")),
        named => format!(", which overlap {}", named.join("; ")),
    }
}

fn list(subnets: &[Subnet]) -> String {
    subnets.iter().map(Subnet::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns the requested address, or the first free address after `last`, the one that was assigned
/// last. The first address of the first subnet follows the last one of the last subnet. All subnets
/// are of one family. Returns `None` if there is no subnet and no request.
///
/// # Errors
/// [`IpamError::Outside`], [`IpamError::NoFamily`] or [`IpamError::InUse`] for a requested address,
/// otherwise [`IpamError::Exhausted`].
pub fn allocate(
    subnets: &[SubnetConfig],
    taken: &BTreeSet<IpAddr>,
    requested: Option<IpAddr>,
    last: Option<IpAddr>,
) -> Result<Option<IpAddr>, IpamError> {
    let Some(address) = requested else {
        let Some(first) = subnets.first() else { return Ok(None) };
        let free = candidates(subnets.to_vec(), taken.clone(), last).next();
        return free.map(Some).ok_or(IpamError::Exhausted { range: range(first) });
    };
    match subnets.iter().find(|config| config.subnet.is_host(address)) {
        Some(config) if is_free(config, taken, address) => Ok(Some(address)),
        Some(_) => Err(IpamError::InUse(address)),
        None if subnets.is_empty() => {
            Err(IpamError::NoFamily { address, family: if address.is_ipv4() { "IPv4" } else { "IPv6" } })
        }
        None => Err(IpamError::Outside { address, subnets: subnets.iter().map(|config| config.subnet).collect() }),
    }
}

/// Returns the addresses that are not in `taken`, in the order of allocation: see [`allocate`]. All
/// subnets are of one family.
pub fn candidates(
    subnets: Vec<SubnetConfig>,
    taken: BTreeSet<IpAddr>,
    last: Option<IpAddr>,
) -> impl Iterator<Item = IpAddr> + Send {
    turns(&subnets, last).into_iter().flat_map(move |(place, bits)| {
        let (config, taken) = (subnets[place].clone(), taken.clone());
        let ipv6 = config.subnet.is_ipv6();
        bits.map(move |bits| from_bits(bits, ipv6))
            .filter(move |address| config.subnet.is_host(*address) && is_free(&config, &taken, *address))
    })
}

/// Returns the ranges of subnets in the order of allocation, each with the place of its subnet.
fn turns(subnets: &[SubnetConfig], last: Option<IpAddr>) -> Vec<(usize, RangeInclusive<u128>)> {
    let all = || subnets.iter().map(bits_of).enumerate();
    let found = last.and_then(|last| {
        let place = subnets.iter().position(|config| range(config).contains(&last))?;
        Some((place, to_bits(last)))
    });
    let Some((current, last)) = found else { return all().collect() };
    let (first, end) = bits_of(&subnets[current]).into_inner();
    let rest = last.checked_add(1).map(|next| (current, next..=end));
    let after = all().skip(current + 1);
    let before = all().take(current);
    rest.into_iter().chain(after).chain(before).chain([(current, first..=last)]).collect()
}

/// Returns the range of automatic addresses of a subnet.
fn range(config: &SubnetConfig) -> IpNet {
    config.ip_range.unwrap_or(config.subnet.net())
}

fn bits_of(config: &SubnetConfig) -> RangeInclusive<u128> {
    let range = range(config);
    to_bits(range.network())..=to_bits(range.broadcast())
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(bits: u128, ipv6: bool) -> IpAddr {
    // The bits come from an address of the same family.
    if ipv6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits(bits as u32).into() }
}

fn is_free(config: &SubnetConfig, taken: &BTreeSet<IpAddr>, address: IpAddr) -> bool {
    let auxiliary = config.auxiliary.values().any(|auxiliary| *auxiliary == address);
    address != config.gateway && !auxiliary && !taken.contains(&address)
}

/// Returns the first IPv4 subnet of the pools, or with `ipv6` the first IPv6 subnet, that overlaps
/// no network and nothing occupied.
///
/// # Errors
/// [`IpamError::NoSubnet`].
pub fn free_subnet(
    pools: &[Subnet],
    ipv6: bool,
    networks: &[Subnet],
    occupied: &[Occupied],
) -> Result<Subnet, IpamError> {
    let overlaps = |subnet: &Subnet| {
        occupied.iter().any(|other| subnet.overlaps(&other.net))
            || networks.iter().any(|other| subnet.overlaps(&other.net()))
    };
    let of_family = || pools.iter().filter(|pool| pool.is_ipv6() == ipv6);
    let mut candidates = of_family().flat_map(|pool| {
        let net = pool.net();
        let prefix = if ipv6 { AUTOMATIC_PREFIX_IPV6 } else { AUTOMATIC_PREFIX };
        // A pool with a longer prefix is one subnet. Of a large pool, only the first subnets are
        // tried.
        net.subnets(prefix.max(net.prefix_len())).into_iter().flatten().take(MOST_CANDIDATES)
    });
    let free = candidates.find_map(|net| Subnet::new(net).ok().filter(|subnet| !overlaps(subnet)));
    free.ok_or_else(|| {
        let taken = occupied.iter().filter(|other| of_family().any(|pool| pool.overlaps(&other.net)));
        let taken = taken.filter(|other| networks.iter().all(|network| !network.net().contains(&other.net)));
        IpamError::NoSubnet {
            pools: of_family().copied().collect(),
            taken: taken.map(|other| other.by.clone()).collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;
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

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Allocates from one subnet.
    fn allocate(config: &SubnetConfig, taken: &BTreeSet<IpAddr>, asked: Option<IpAddr>) -> Result<IpAddr, IpamError> {
        super::allocate(std::slice::from_ref(config), taken, asked, None).map(|address| address.expect("a subnet"))
    }

    fn last_byte(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        }
    }

    #[test]
    fn subnets_are_used_in_order() {
        let configs = [config("10.0.0.0/30", None, None), config("10.0.9.0/30", None, None)];
        let mut taken = BTreeSet::new();
        let mut next = |asked| {
            let given = super::allocate(&configs, &taken, asked, None);
            taken.extend(given.clone().ok().flatten());
            given
        };
        assert_eq!(next(Some(address("10.0.9.2"))), Ok(Some(address("10.0.9.2"))));
        assert_eq!(next(None), Ok(Some(address("10.0.0.2"))));
        assert!(matches!(next(None), Err(IpamError::Exhausted { .. })));
        assert!(matches!(next(Some(address("10.0.8.2"))), Err(IpamError::Outside { .. })));
        assert_eq!(super::allocate(&[], &taken, None, None), Ok(None));
        let asked = super::allocate(&[], &taken, Some(address("fd00::2")), None);
        assert!(matches!(asked, Err(IpamError::NoFamily { family: "IPv6", .. })));
    }

    #[test]
    fn auxiliary_addresses_are_not_allocated() {
        let mut config = config("fd00:9::/64", None, None);
        config.reserve("router".to_owned(), address("fd00:9::2")).expect("within");
        assert_eq!(allocate(&config, &BTreeSet::new(), None), Ok(address("fd00:9::3")));
        let asked = allocate(&config, &BTreeSet::new(), Some(address("fd00:9::2")));
        assert_eq!(asked, Err(IpamError::InUse(address("fd00:9::2"))));
        assert!(allocate(&config, &BTreeSet::new(), Some(address("fd00:9::ffff:ffff"))).is_ok());
    }

    #[test]
    fn addresses_are_allocated_in_order_without_the_gateway() {
        let config = config("10.0.0.0/29", Some("10.0.0.3"), None);
        let mut taken = BTreeSet::new();
        let mut given = Vec::new();
        while let Ok(address) = allocate(&config, &taken, None) {
            taken.insert(address);
            given.push(last_byte(address));
        }
        assert_eq!(given, [1, 2, 4, 5, 6]);
        assert!(matches!(allocate(&config, &taken, None), Err(IpamError::Exhausted { .. })));
        taken.remove(&address("10.0.0.4"));
        assert_eq!(allocate(&config, &taken, None), Ok(address("10.0.0.4")));
    }

    #[test]
    fn a_range_limits_automatic_addresses_but_not_requested_ones() {
        let config = config("10.0.0.0/24", None, Some("10.0.0.252/30"));
        let mut taken = BTreeSet::from([address("10.0.0.252"), address("10.0.0.253")]);
        assert_eq!(allocate(&config, &taken, None), Ok(address("10.0.0.254")));
        taken.insert(address("10.0.0.254"));
        assert!(allocate(&config, &taken, None).is_err(), "the broadcast address is no host's");
        assert_eq!(allocate(&config, &taken, Some(address("10.0.0.9"))), Ok(address("10.0.0.9")));
    }

    #[test]
    fn a_requested_address_must_be_a_free_host_of_the_subnet() {
        let config = config("10.0.0.0/24", None, None);
        let taken = BTreeSet::from([address("10.0.0.7")]);
        for (asked, error) in [
            ("10.0.0.7", IpamError::InUse(address("10.0.0.7"))),
            ("10.0.0.1", IpamError::InUse(address("10.0.0.1"))),
            ("10.0.0.0", IpamError::Outside { address: address("10.0.0.0"), subnets: vec![config.subnet] }),
            ("10.0.0.255", IpamError::Outside { address: address("10.0.0.255"), subnets: vec![config.subnet] }),
            ("10.0.1.7", IpamError::Outside { address: address("10.0.1.7"), subnets: vec![config.subnet] }),
        ] {
            assert_eq!(allocate(&config, &taken, Some(address(asked))), Err(error));
        }
    }

    #[test]
    fn the_address_after_the_last_one_is_next_and_the_first_follows_the_last_subnet() {
        let configs = [config("10.0.0.0/30", None, None), config("10.0.9.0/29", None, Some("10.0.9.4/31"))];
        let after = |last: &str| super::allocate(&configs, &BTreeSet::new(), None, Some(address(last)));
        for (last, next) in [
            ("10.0.0.2", "10.0.9.4"),
            ("10.0.9.4", "10.0.9.5"),
            ("10.0.9.5", "10.0.0.2"),
            ("10.0.0.1", "10.0.0.2"),
            // Not in a range: an earlier range, or another family.
            ("10.0.9.2", "10.0.0.2"),
            ("fd00::1", "10.0.0.2"),
        ] {
            assert_eq!(after(last), Ok(Some(address(next))), "after {last}");
        }
        let all: Vec<IpAddr> = candidates(configs.to_vec(), BTreeSet::new(), Some(address("10.0.9.4"))).collect();
        assert_eq!(all, ["10.0.9.5", "10.0.0.2", "10.0.9.4"].map(address));
    }

    #[test]
    fn a_subnet_of_two_addresses_has_one_endpoint() {
        let taken = BTreeSet::new();
        for (subnet, gateway, endpoint) in [
            ("10.0.0.6/31", None, "10.0.0.7"),
            ("10.0.0.6/31", Some("10.0.0.7"), "10.0.0.6"),
            ("fd00::6/127", None, "fd00::7"),
        ] {
            let config = config(subnet, gateway, None);
            let all: Vec<IpAddr> = candidates(vec![config], taken.clone(), None).collect();
            assert_eq!(all, [address(endpoint)], "{subnet}");
        }
    }

    #[test]
    fn subnets_skip_networks_and_what_the_host_has_and_name_it_if_nothing_is_left() {
        let pools = subnets(&["10.201.0.0/22", "10.202.0.0/25"]);
        let networks = subnets(&["10.201.1.0/24"]);
        let occupied = ["10.201.0.8/29", "10.201.2.0/23", "10.9.0.0/16"].map(|net| Occupied {
            net: net.parse().expect("a route"),
            by: format!("{net}, a route of the host by tun0"),
        });
        assert_eq!(free_subnet(&pools, false, &[], &[]), Ok(subnets(&["10.201.0.0/24"])[0]));
        assert_eq!(free_subnet(&pools, false, &networks, &occupied), Ok(subnets(&["10.202.0.0/25"])[0]));
        let none = free_subnet(&pools[..1], false, &networks, &occupied).expect_err("all overlap");
        let text = none.to_string();
        assert!(text.contains("10.201.0.8/29, a route of the host by tun0; 10.201.2.0/23, a route"), "{text}");
        assert!(!text.contains("10.9.0.0"), "{text}");
    }

    proptest! {
        #[test]
        fn every_address_is_allocated_exactly_once(prefix in 25_u8..=30, gateway in 1_u32..3, asked in proptest::collection::vec(0_u32..140, 0..40)) {
            let net = Ipv4Net::new(Ipv4Addr::new(10, 9, 8, 0), prefix).expect("a net").trunc();
            let subnet = Subnet::new(net.into()).expect("a subnet");
            let host = |number: u32| IpAddr::from(Ipv4Addr::from_bits(net.network().to_bits() + number));
            let gateway = host(gateway);
            let config = SubnetConfig::new(subnet, Some(gateway), None).expect("a configuration");
            let mut taken = BTreeSet::new();
            for offset in asked {
                let address = host(offset);
                if let Ok(given) = allocate(&config, &taken, Some(address)) {
                    prop_assert_eq!(given, address);
                    prop_assert!(subnet.is_host(given) && given != gateway && taken.insert(given));
                }
            }
            while let Ok(given) = allocate(&config, &taken, None) {
                prop_assert!(subnet.is_host(given) && given != gateway && taken.insert(given));
            }
            // All addresses except network, broadcast and gateway.
            prop_assert_eq!(taken.len(), (1_usize << (32 - prefix)) - 3);
        }

        #[test]
        fn a_free_subnet_overlaps_nothing(used in proptest::collection::vec((0_u8..8, 20_u8..=28), 0..6)) {
            let pools = subnets(&["10.201.0.0/21"]);
            let routes: Vec<IpNet> = used.iter().map(|(third, prefix)| IpNet::new_assert(IpAddr::from([10, 201, *third, 0]), *prefix).trunc()).collect();
            let occupied: Vec<Occupied> = routes.iter().map(|net| Occupied { net: *net, by: net.to_string() }).collect();
            match free_subnet(&pools, false, &[], &occupied) {
                Ok(subnet) => prop_assert!(!routes.iter().any(|route| subnet.overlaps(route)) && pools[0].overlaps(&subnet.net())),
                Err(_) => prop_assert!(pools[0].net().subnets(24).expect("longer").all(|net| routes.iter().any(|route| route.contains(&net) || net.contains(route)))),
            }
        }
    }
}
