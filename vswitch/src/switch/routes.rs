//! Routes of the host: by which link packets leave.

use std::net::IpAddr;

use crate::kernel::netlink::{Link, Netlink, Route};
use crate::switch::error::SwitchError;

/// Returns the device of the preferred IPv4 default route.
pub async fn default_route_link(netlink: &Netlink) -> Result<Option<Link>, SwitchError> {
    let routes = netlink.routes().await?;
    let defaults =
        routes.iter().filter(|route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4());
    let index = defaults.min_by_key(|route| route.metric).and_then(|route| route.index);
    match index {
        Some(index) => Ok(netlink.link(index).await?),
        None => Ok(None),
    }
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
