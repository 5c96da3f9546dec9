//! The networks and endpoints of the other hosts in the cluster, as of the last update. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rpds::RedBlackTreeMapSync as SharedMap;

use crate::cluster::{Host, SharedEndpoint, SharedNetwork};
use crate::model::{EndpointId, HostId, NetworkId, StationMac};

/// The key of an endpoint: its network and its id.
pub type Place = (NetworkId, EndpointId);

/// The networks and endpoints of the other hosts. There can be 100,000 endpoints, and each change is
/// published as a copy, so the large maps share their nodes with their copies.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// Whether a snapshot was read since the daemon started.
    pub read: bool,
    pub hosts: BTreeMap<HostId, Host>,
    /// Networks of the cluster that could not be created on this host; they are retried.
    pub unplaced: BTreeMap<NetworkId, SharedNetwork>,
    /// Networks that this host created and that no update has confirmed yet.
    pub expected: BTreeSet<NetworkId>,
    /// Networks that the cluster removed and that have endpoints on this host.
    pub removed: BTreeSet<NetworkId>,
    endpoints: SharedMap<Place, SharedEndpoint>,
    /// The number of endpoints by network and host, where it is not 0.
    present: SharedMap<(NetworkId, HostId), usize>,
    names: SharedMap<(NetworkId, String), Vec<EndpointId>>,
    addresses: SharedMap<(NetworkId, IpAddr), EndpointId>,
}

impl Others {
    /// Returns the state after a resync, before its endpoints are added.
    pub fn told(hosts: BTreeMap<HostId, Host>, expected: BTreeSet<NetworkId>) -> Self {
        Self { read: true, hosts, expected, ..Self::default() }
    }

    /// Adds or replaces an endpoint. Returns whether its host had no endpoint in the network
    /// before.
    pub fn put(&mut self, endpoint: SharedEndpoint) -> bool {
        let place = (endpoint.network, endpoint.id);
        let before = self.endpoints.get(&place).map(|before| before.host);
        self.remove(&place);
        for name in names(&endpoint) {
            let key = (endpoint.network, name);
            match self.names.get_mut(&key) {
                Some(ids) => ids.push(endpoint.id),
                None => self.names.insert_mut(key, vec![endpoint.id]),
            }
        }
        for address in addresses(&endpoint) {
            self.addresses.insert_mut((endpoint.network, address), endpoint.id);
        }
        let key = (endpoint.network, endpoint.host);
        let count = self.present.get(&key).map_or(1, |count| count + 1);
        self.present.insert_mut(key, count);
        let is_first = count == 1 && before != Some(endpoint.host);
        self.endpoints.insert_mut(place, endpoint);
        is_first
    }

    /// Removes an endpoint. Returns whether its host has no endpoint in the network any more.
    pub fn remove(&mut self, place: &Place) -> bool {
        let Some(endpoint) = self.endpoints.get(place).cloned() else { return false };
        self.endpoints.remove_mut(place);
        let (network, id) = *place;
        for name in names(&endpoint) {
            let key = (network, name);
            if let Some(ids) = self.names.get_mut(&key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.names.remove_mut(&key);
                }
            }
        }
        for address in addresses(&endpoint) {
            // Another endpoint has the address if its update came first.
            if self.addresses.get(&(network, address)) == Some(&id) {
                self.addresses.remove_mut(&(network, address));
            }
        }
        let key = (network, endpoint.host);
        let Some(count) = self.present.get_mut(&key) else { return false };
        *count -= 1;
        let is_last = *count == 0;
        if is_last {
            self.present.remove_mut(&key);
        }
        is_last
    }

    /// Returns an endpoint.
    pub fn endpoint(&self, place: &Place) -> Option<&SharedEndpoint> {
        self.endpoints.get(place)
    }

    /// Returns the number of endpoints.
    pub fn count(&self) -> usize {
        self.endpoints.size()
    }

    /// Returns the endpoints of a network.
    pub fn of_network(&self, network: NetworkId) -> impl Iterator<Item = &SharedEndpoint> {
        self.endpoints
            .range((network, EndpointId::from_bytes([0; 32]))..)
            .map(|(_, endpoint)| endpoint)
            .take_while(move |endpoint| endpoint.network == network)
    }

    /// Returns whether a host has an endpoint in a network.
    pub fn is_in(&self, network: NetworkId, host: HostId) -> bool {
        self.present.contains_key(&(network, host))
    }

    /// Returns the endpoints of a network with a name, in any case.
    pub fn named(&self, network: NetworkId, name: &str) -> impl Iterator<Item = &SharedEndpoint> {
        let ids = self.names.get(&(network, name.to_ascii_lowercase()));
        ids.into_iter().flatten().filter_map(move |id| self.endpoints.get(&(network, *id)))
    }

    /// Returns the endpoint with an IP address.
    pub fn at(&self, network: NetworkId, address: IpAddr) -> Option<&SharedEndpoint> {
        self.endpoints.get(&(network, *self.addresses.get(&(network, address))?))
    }

    /// Returns the addresses in use in a network.
    pub fn addresses_in(&self, network: NetworkId) -> impl Iterator<Item = IpAddr> {
        self.of_network(network).flat_map(addresses)
    }

    /// Returns the endpoint with a MAC address.
    pub fn with_mac(&self, network: NetworkId, mac: StationMac) -> Option<&SharedEndpoint> {
        self.of_network(network).find(|endpoint| endpoint.mac == mac)
    }
}

/// Returns the IP addresses of an endpoint.
pub fn addresses(endpoint: &SharedEndpoint) -> impl Iterator<Item = IpAddr> + use<> {
    endpoint.ipv4.map(IpAddr::V4).into_iter().chain(endpoint.ipv6.map(IpAddr::V6))
}

/// Returns all DNS names of an endpoint in lower case, each once.
fn names(endpoint: &SharedEndpoint) -> BTreeSet<String> {
    let given = endpoint.aliases.iter().map(String::as_str).chain([endpoint.name.as_str()]);
    given.map(str::to_ascii_lowercase).chain([endpoint.id.short()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);
    const HOSTS: [HostId; 2] = [HostId::from_bytes([8; 32]), HostId::from_bytes([9; 32])];

    fn endpoint(id: u8, host: HostId, name: &str, last: u8) -> SharedEndpoint {
        SharedEndpoint {
            id: EndpointId::from_bytes([id; 32]),
            network: NETWORK,
            host,
            name: name.parse().expect("a name"),
            aliases: vec!["Web".to_owned(), name.to_owned()],
            mac: format!("02:00:00:00:00:{last:02x}").parse().expect("an address"),
            ipv4: Some([10, 0, 0, last].into()),
            ipv6: None,
            vlan: 0,
        }
    }

    fn called<'a>(others: &'a Others, name: &str) -> Vec<&'a str> {
        others.named(NETWORK, name).map(|endpoint| endpoint.name.as_str()).collect()
    }

    #[test]
    fn a_host_joins_a_network_with_its_first_endpoint_and_leaves_with_its_last() {
        let mut others = Others::default();
        assert!(others.put(endpoint(1, HOSTS[0], "one", 1)));
        assert!(!others.put(endpoint(1, HOSTS[0], "one", 1)), "the same again");
        assert!(!others.put(endpoint(2, HOSTS[0], "two", 2)));
        assert!(others.put(endpoint(3, HOSTS[1], "three", 3)));
        assert!(!others.remove(&(NETWORK, EndpointId::from_bytes([1; 32]))));
        assert!(others.is_in(NETWORK, HOSTS[0]));
        assert!(others.remove(&(NETWORK, EndpointId::from_bytes([2; 32]))));
        assert!(!others.is_in(NETWORK, HOSTS[0]) && others.is_in(NETWORK, HOSTS[1]));
        assert!(!others.remove(&(NETWORK, EndpointId::from_bytes([2; 32]))), "gone already");
        assert_eq!((others.count(), others.of_network(NETWORK).count()), (1, 1));
    }

    #[test]
    fn endpoints_are_found_by_names_and_addresses_whatever_the_order_of_updates() {
        let mut others = Others::default();
        others.put(endpoint(1, HOSTS[0], "one", 7));
        others.put(endpoint(2, HOSTS[1], "two", 2));
        assert_eq!(called(&others, "WEB"), ["one", "two"]);
        assert_eq!(called(&others, "Two"), ["two"]);
        assert_eq!(called(&others, &EndpointId::from_bytes([1; 32]).short()), ["one"]);
        let seven = IpAddr::from([10, 0, 0, 7]);
        // The update for the new endpoint comes before the removal of the old one.
        others.put(endpoint(3, HOSTS[1], "three", 7));
        others.remove(&(NETWORK, EndpointId::from_bytes([1; 32])));
        assert_eq!(others.at(NETWORK, seven).map(|endpoint| endpoint.name.as_str()), Some("three"));
        assert_eq!(called(&others, "one"), Vec::<&str>::new());
        others.remove(&(NETWORK, EndpointId::from_bytes([3; 32])));
        assert_eq!(others.at(NETWORK, seven), None);
        assert_eq!(others.addresses_in(NETWORK).collect::<Vec<_>>(), [IpAddr::from([10, 0, 0, 2])]);
    }
}
