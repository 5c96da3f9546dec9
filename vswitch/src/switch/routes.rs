//! Routes of the host: by which link packets leave, and which addresses are in use or routed
//! elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::netlink::{Link, Netlink, Route};
use crate::plan::ipam::Occupied;
use crate::switch::error::SwitchError;

/// Part of the unicast addresses, as its reciprocal, that a default route in parts may leave out:
/// VPN clients leave out private networks, or the address of their server.
const LEFT_OUT: u128 = 64;

/// Returns the smallest MTU of the devices of the preferred default routes: the IPv4 one, the IPv6
/// one, or both. A default route in parts is preferred, as in the kernel.
///
/// # Errors
/// The routes or links cannot be read.
pub async fn default_route_mtu(netlink: &Netlink, ipv4: bool, ipv6: bool) -> Result<Option<u32>, SwitchError> {
    let routes = netlink.routes().await?;
    let mut mtus = Vec::new();
    for (family, wanted) in [(false, ipv4), (true, ipv6)] {
        if wanted
            && let Some(index) = default_link(&routes, family)
            && let Some(link) = netlink.link(index).await?
        {
            mtus.push(link.mtu);
        }
    }
    Ok(mtus.into_iter().min())
}

/// Returns the index of the device of the preferred default route of a family.
fn default_link(routes: &[Route], ipv6: bool) -> Option<u32> {
    let specific = specific(routes);
    let parts = routes.iter().zip(&specific).filter(|(_, specific)| !**specific).map(|(route, _)| route);
    let parts = parts.filter(|route| route.destination.addr().is_ipv6() == ipv6 && route.index.is_some());
    let preferred = parts.min_by_key(|route| (route.destination.prefix_len() == 0, route.metric))?;
    preferred.index
}

/// What a host has and routes elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The addresses of all interfaces, with the index of the interface.
    addresses: Vec<(u32, IpNet)>,
    /// The routes of the main table.
    routes: Vec<Route>,
    /// The names of the interfaces.
    names: BTreeMap<u32, String>,
}

impl Surroundings {
    /// Reads the addresses and routes of the host.
    ///
    /// # Errors
    /// The kernel refused a request.
    pub async fn read(netlink: &Netlink) -> Result<Self, SwitchError> {
        let links = netlink.links().await?.into_iter();
        Ok(Self {
            addresses: netlink.addresses(None).await?,
            routes: netlink.routes().await?,
            names: links.map(|Link { index, name, .. }| (index, name)).collect(),
        })
    }

    fn name(&self, index: u32) -> &str {
        self.names.get(&index).map_or("a device that is gone", String::as_str)
    }

    /// Returns the addresses that no subnet may contain: the subnets of the host's addresses, and
    /// the destinations of its routes without default routes, whole or in parts. Those of the
    /// interface `except` are left out.
    pub fn occupied(&self, except: Option<&str>) -> Vec<Occupied> {
        let other = |index: u32| except != Some(self.name(index));
        let addresses = self.addresses.iter().filter(|(index, _)| other(*index)).map(|(index, address)| Occupied {
            net: address.trunc(),
            by: format!("{address}, which the host has on {}", self.name(*index)),
        });
        let routes = self.routes.iter().zip(specific(&self.routes)).filter(|(_, specific)| *specific);
        let routes = routes.filter(|(route, _)| route.index.is_none_or(other)).map(|(route, _)| Occupied {
            net: route.destination,
            by: match route.index {
                Some(index) => format!("{}, a route of the host by {}", route.destination, self.name(index)),
                None => format!("{}, a route of the host that refuses packets", route.destination),
            },
        });
        addresses.chain(routes).collect()
    }

    /// Returns the router of the host with this address, such as `the router of the host's route
    /// default by eth1`.
    pub fn router(&self, address: IpAddr) -> Option<String> {
        let route = self.routes.iter().find(|route| route.gateway == Some(address))?;
        let destination = match route.destination.prefix_len() {
            0 => "default".to_owned(),
            _ => route.destination.to_string(),
        };
        let by = route.index.map_or("no device", |index| self.name(index));
        Some(format!("the router of the host's route {destination} by {by}"))
    }

    /// Returns the single addresses that no endpoint may have, with their owners: the host's, its
    /// default routers', and the first and the last of each subnet on the network's interface.
    pub fn taken(&self, interface: Option<&str>) -> BTreeMap<IpAddr, String> {
        let mut taken = BTreeMap::new();
        for (index, address) in &self.addresses {
            if interface == Some(self.name(*index)) {
                for (address, kind) in ends(*address) {
                    taken.insert(address, format!("{kind} on {}", self.name(*index)));
                }
            }
        }
        // An endpoint may be the router of a specific route.
        let routes = self.routes.iter().zip(specific(&self.routes)).filter(|(_, specific)| !specific);
        let there = routes.filter(|(route, _)| route.index.is_some_and(|index| interface == Some(self.name(index))));
        for gateway in there.filter_map(|(route, _)| route.gateway) {
            if let Some(router) = self.router(gateway) {
                taken.insert(gateway, router);
            }
        }
        let own = self.addresses.iter();
        taken.extend(own.map(|(index, address)| (address.addr(), format!("the host, on {}", self.name(*index)))));
        taken
    }
}

/// Returns the addresses of a subnet that no host has, with what they are.
fn ends(address: IpNet) -> Vec<(IpAddr, String)> {
    let net = address.trunc();
    // RFC 3021, RFC 6164: a subnet of two addresses has none.
    if net.prefix_len() + 2 > net.max_prefix_len() {
        return Vec::new();
    }
    match net {
        IpNet::V4(_) => vec![
            (net.network(), format!("the subnet {net} itself")),
            (net.broadcast(), format!("the broadcast address of {net}")),
        ],
        IpNet::V6(_) => vec![(net.network(), format!("all routers of {net}"))],
    }
}

/// Returns for each route whether it is specific: neither a default route nor a part of one. VPN
/// clients divide the default route, as in 0.0.0.0/1 and 128.0.0.0/1.
fn specific(routes: &[Route]) -> Vec<bool> {
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (place, route) in routes.iter().enumerate() {
        let ipv6 = route.destination.addr().is_ipv6();
        groups.entry((ipv6, route.index, route.gateway)).or_default().push(place);
    }
    let mut specific: Vec<bool> = routes.iter().map(|route| !is_wide(&route.destination)).collect();
    for ((ipv6, ..), places) in groups {
        let outer = outermost(routes, places, ipv6);
        let nets = outer.iter().map(|place| routes[*place].destination);
        if covers_everything(nets, ipv6) {
            outer.into_iter().for_each(|place| specific[place] = false);
        }
    }
    specific
}

/// Returns whether a destination is wider than any private network (10.0.0.0/8, fc00::/7): then it
/// also leads to public addresses.
const fn is_wide(destination: &IpNet) -> bool {
    match destination {
        IpNet::V4(net) => net.prefix_len() < 8,
        IpNet::V6(net) => net.prefix_len() < 7,
    }
}

/// Returns the routes that no other of these contains. Routes to addresses that are not unicast are
/// left out.
fn outermost(routes: &[Route], mut places: Vec<usize>, ipv6: bool) -> Vec<usize> {
    let net = |place: usize| routes[place].destination;
    places.retain(|place| is_unicast(net(*place), ipv6));
    places.sort_by_key(|place| (net(*place).network(), net(*place).prefix_len()));
    let mut outer: Vec<usize> = Vec::new();
    for place in places {
        // Two metrics of one destination are two routes.
        let contains = |last: &usize| net(*last).contains(&net(place)) && net(*last) != net(place);
        if !outer.last().is_some_and(contains) {
            outer.push(place);
        }
    }
    outer
}

/// Returns whether a destination has unicast addresses. Of IPv6 these are the global ones, 2000::/3.
fn is_unicast(net: IpNet, ipv6: bool) -> bool {
    match net.network() {
        IpAddr::V4(first) => !first.is_loopback() && first.octets()[0] < 224,
        IpAddr::V6(first) => ipv6 && (net.prefix_len() < 3 || first.segments()[0] >> 13 == 1),
    }
}

/// Returns whether disjoint destinations leave out no more than one of [`LEFT_OUT`] parts of the
/// unicast addresses.
fn covers_everything(nets: impl Iterator<Item = IpNet>, ipv6: bool) -> bool {
    // Counted in addresses for IPv4, in /64 prefixes for IPv6.
    let bits: u8 = if ipv6 { 64 } else { 32 };
    // IPv4: without 0.0.0.0/8, 127.0.0.0/8 and 224.0.0.0/3. IPv6: 2000::/3.
    let all = if ipv6 { 1_u128 << 61 } else { (1 << 32) - (1 << 29) - (2 << 24) };
    let mut nets: Vec<IpNet> = nets.collect();
    nets.dedup();
    let sizes = nets.iter().filter(|net| net.prefix_len() <= bits).map(|net| {
        let part = if ipv6 { net.prefix_len().max(3) } else { net.prefix_len() };
        1_u128 << (bits - part)
    });
    let covered: u128 = sizes.sum();
    covered + all / LEFT_OUT >= all
}

/// Returns the index of the link by which a packet leaves for an address.
pub fn link_towards(routes: &[Route], address: IpAddr) -> Option<u32> {
    let towards = routes.iter().filter(|route| route.destination.contains(&address));
    let best = towards.max_by_key(|route| (route.destination.prefix_len(), std::cmp::Reverse(route.metric)))?;
    best.index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[(&str, u32)]) -> Vec<Route> {
        let gateway = |index: u32| IpAddr::from([192, 0, 2, u8::try_from(index).expect("a small number")]);
        let route = |(destination, index): &(&str, u32)| Route {
            destination: destination.parse().expect("a prefix"),
            index: Some(*index),
            gateway: Some(gateway(*index)),
            metric: 0,
        };
        list.iter().map(route).collect()
    }

    /// Returns the destinations of the specific routes.
    fn specific_of(list: &[(&str, u32)]) -> Vec<String> {
        let routes = routes(list);
        let found = routes.iter().zip(specific(&routes)).filter(|(_, specific)| *specific);
        found.map(|(route, _)| route.destination.to_string()).collect()
    }

    #[test]
    fn halves_and_finer_covers_of_everything_are_default_routes() {
        assert_eq!(specific_of(&[("0.0.0.0/0", 1), ("::/0", 1), ("10.0.0.0/8", 1)]), ["10.0.0.0/8"]);
        let halves = [("0.0.0.0/1", 2), ("128.0.0.0/1", 2), ("10.8.0.0/24", 2), ("192.168.0.0/16", 1)];
        assert_eq!(specific_of(&halves), ["10.8.0.0/24", "192.168.0.0/16"]);
        assert_eq!(specific_of(&[("::/1", 2), ("8000::/1", 2), ("fd00:1::/48", 2)]), ["fd00:1::/48"]);
        assert_eq!(specific_of(&[("2000::/3", 2), ("fc00::/7", 2)]), ["fc00::/7"]);
        // 1/8 to 223/8 without loopback, one route each.
        let fine: Vec<String> =
            (1..224).filter(|first| *first != 127).map(|first| format!("{first}.0.0.0/8")).collect();
        let fine: Vec<(&str, u32)> = fine.iter().map(|text| (text.as_str(), 3)).collect();
        assert!(specific_of(&fine).is_empty());
        let without_ten: Vec<_> = fine.iter().copied().filter(|(net, _)| *net != "10.0.0.0/8").collect();
        assert!(specific_of(&without_ten).is_empty(), "a private network is left out");
        assert_eq!(specific_of(&[&without_ten[..], &[("10.0.0.0/8", 1)]].concat()), ["10.0.0.0/8"]);
        // Half of everything, finer than /8, is no default route.
        let half: Vec<_> = fine[..110].to_vec();
        assert_eq!(specific_of(&half).len(), 110);
        let global: Vec<String> = (0x20..0x40).map(|first| format!("{first:x}00::/8")).collect();
        let global: Vec<(&str, u32)> = global.iter().map(|text| (text.as_str(), 3)).collect();
        assert!(specific_of(&global).is_empty());
        assert_eq!(specific_of(&global[1..8]).len(), 7);
    }

    #[test]
    fn what_is_occupied_names_its_owner_and_leaves_the_uplink_out() {
        let surroundings = Surroundings {
            addresses: vec![
                (1, "192.0.2.1/24".parse().expect("a prefix")),
                (2, "10.0.0.1/31".parse().expect("a prefix")),
            ],
            routes: routes(&[("0.0.0.0/0", 1), ("10.9.0.0/16", 2)]),
            names: BTreeMap::from([(1, "eth1".to_owned()), (2, "eth2".to_owned())]),
        };
        let by: Vec<String> = surroundings.occupied(None).into_iter().map(|occupied| occupied.by).collect();
        let [one, two, route] = [
            "192.0.2.1/24, which the host has on eth1",
            "10.0.0.1/31, which the host has on eth2",
            "10.9.0.0/16, a route of the host by eth2",
        ];
        assert_eq!(by, [one, two, route]);
        assert_eq!(surroundings.occupied(Some("eth2")).len(), 1);
        let taken = surroundings.taken(Some("eth1"));
        let owner = |text: &str| taken.get(&text.parse::<IpAddr>().expect("an address")).map_or("", String::as_str);
        for (address, owner_of) in [
            ("192.0.2.1", "the router of the host's route default by eth1"),
            ("192.0.2.255", "the broadcast address of 192.0.2.0/24 on eth1"),
            ("192.0.2.0", "the subnet 192.0.2.0/24 itself on eth1"),
            ("192.0.2.2", ""),
            ("10.0.0.0", ""),
        ] {
            let host = if address == "192.0.2.1" { "the host, on eth1" } else { owner_of };
            assert_eq!(owner(address), host, "{address}");
        }
        assert_eq!(default_link(&surroundings.routes, false), Some(1));
        let halves = routes(&[("0.0.0.0/0", 1), ("0.0.0.0/1", 2), ("128.0.0.0/1", 2)]);
        assert_eq!((default_link(&halves, false), default_link(&halves, true)), (Some(2), None));
    }

    #[test]
    fn the_longest_prefix_and_the_lower_metric_lead() {
        let route = |destination: &str, index, metric| Route {
            destination: destination.parse().expect("a prefix"),
            index,
            gateway: None,
            metric,
        };
        let routes = [
            route("0.0.0.0/0", Some(1), 100),
            route("10.0.0.0/8", Some(2), 50),
            route("10.0.0.0/8", Some(3), 20),
            route("10.1.0.0/16", None, 0),
            route("fd00::/8", Some(4), 0),
        ];
        let towards = |address: &str| link_towards(&routes, address.parse().expect("an address"));
        assert_eq!((towards("192.0.2.1"), towards("10.9.0.1"), towards("10.1.0.1")), (Some(1), Some(3), None));
        assert_eq!((towards("fd00::9"), towards("2001:db8::1")), (Some(4), None));
    }
}
