//! The DNS names of endpoints: names, aliases, hostnames.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::dns::Names;
use crate::model::{Endpoint, NetworkId, Phase};
use crate::switch::context::Context;
use crate::switch::others::addresses;
use crate::switch::state::{EndpointEntry, State};

/// The DNS names of endpoints. Every query reads the published snapshot, so that queries and
/// changes do not wait for each other, and no index has to be updated.
#[derive(Debug)]
pub struct Directory(Arc<Context>);

impl Directory {
    /// Returns the directory of the endpoints of this host and of the cluster.
    pub const fn new(context: Arc<Context>) -> Self {
        Self(context)
    }

    fn state(&self) -> Arc<State> {
        self.0.snapshot()
    }
}

impl Names for Directory {
    fn addresses(&self, network: NetworkId, client: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
        let state = self.state();
        let visible = visible(&state, network, client);
        let mut found = Vec::new();
        for entry in state.endpoints.values().filter(|entry| entry.record.phase == Phase::Attached) {
            let record = &entry.record;
            if is_on_host(&state, record) {
                if is_called(record, name) {
                    // The ports of an endpoint in the host network are reached at the host's
                    // addresses in the client's network.
                    found.extend(state.networks.get(&network)?.record.gateways());
                }
                continue;
            }
            let Some(address) = &record.address else { continue };
            let Some(of) = state.networks.get(&record.network).filter(|entry| visible.contains(&entry.record.id))
            else {
                continue;
            };
            let in_network = before_network(name, of.record.name.as_str());
            if is_called(record, name) || in_network.is_some_and(|name| is_called(record, name)) {
                found.extend(address.ips());
            }
        }
        for network in &visible {
            found.extend(state.others.named(*network, name).flat_map(addresses));
            let Some(of) = state.networks.get(network) else { continue };
            if let Some(name) = before_network(name, of.record.name.as_str()) {
                found.extend(state.others.named(*network, name).flat_map(addresses));
            }
        }
        // Several endpoints of this name may be in the host network, with the same addresses.
        found.sort_unstable();
        found.dedup();
        (!found.is_empty()).then_some(found)
    }

    fn name_of(&self, network: NetworkId, client: IpAddr, address: IpAddr) -> Option<String> {
        let state = self.state();
        let visible = visible(&state, network, client);
        let here = state.endpoints.values().find(|entry| {
            visible.contains(&entry.record.network)
                && has_address(entry, address)
                && entry.record.phase == Phase::Attached
        });
        let here = here.map(|entry| (&entry.record.name, entry.record.network));
        let elsewhere = || visible.iter().find_map(|network| state.others.at(*network, address));
        let (name, network) = here.or_else(|| elsewhere().map(|endpoint| (&endpoint.name, endpoint.network)))?;
        let network = &state.networks.get(&network)?.record.name;
        Some(format!("{name}.{network}"))
    }

    fn admits(&self, network: NetworkId, client: IpAddr) -> bool {
        is_inside(&self.state(), network, client) || is_of_host(client)
    }

    fn is_ours(&self, network: NetworkId, address: IpAddr) -> bool {
        self.state().networks.get(&network).is_some_and(|entry| entry.record.subnet_of(address).is_some())
    }

    fn forwards(&self, network: NetworkId) -> bool {
        self.state().networks.get(&network).is_some_and(|entry| !entry.record.internal)
    }
}

/// Returns whether a client is an endpoint of the network. The endpoint may ask from an address that
/// it has in another network. In a network without an uplink only endpoints have addresses of its
/// subnets, also further machines behind an endpoint.
fn is_inside(state: &State, network: NetworkId, client: IpAddr) -> bool {
    let Some(entry) = state.networks.get(&network) else { return false };
    if entry.record.uplink().is_none() && entry.record.subnet_of(client).is_some() {
        return true;
    }
    let known = state
        .endpoints
        .values()
        .filter(|entry| has_address(entry, client))
        .any(|entry| entry.record.network == network || state.endpoint_in(&entry.record, network).is_some());
    known || state.others.at(network, client).is_some()
}

/// Returns whether this host has the address.
fn is_of_host(address: IpAddr) -> bool {
    let own = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    own.into_iter().any(|own| {
        let ipv4 = own.as_sockaddr_in().map(|own| IpAddr::from(own.ip()));
        let ipv6 = own.as_sockaddr_in6().map(|own| IpAddr::from(own.ip()));
        ipv4.or(ipv6) == Some(address)
    })
}

/// Returns the networks whose names a client sees: all networks of the endpoint that has the
/// client's address, or the client's network alone.
fn visible(state: &State, network: NetworkId, client: IpAddr) -> BTreeSet<NetworkId> {
    let endpoint = state.endpoints_of(network).find(|entry| has_address(entry, client));
    let connections = endpoint.map(|endpoint| state.connections(&endpoint.record)).unwrap_or_default();
    connections.into_iter().map(|entry| entry.record.network).chain([network]).collect()
}

fn has_address(entry: &EndpointEntry, address: IpAddr) -> bool {
    entry.record.address.as_ref().is_some_and(|own| own.ips().any(|ip| ip == address))
}

fn is_on_host(state: &State, record: &Endpoint) -> bool {
    state.networks.get(&record.network).is_some_and(|entry| entry.record.capabilities().host_namespace)
}

/// Returns `NAME` of `NAME.NETWORK`. Network names may contain dots.
fn before_network<'a>(name: &'a str, network: &str) -> Option<&'a str> {
    let dot = name.len().checked_sub(network.len() + 1)?;
    let (before, after) = (name.get(..dot)?, name.get(dot..)?);
    after.strip_prefix('.')?.eq_ignore_ascii_case(network).then_some(before)
}

/// Returns whether an endpoint has this name, alias, hostname or short id.
fn is_called(record: &Endpoint, name: &str) -> bool {
    let others = record.aliases.iter().chain(&record.hostname).map(String::as_str);
    let mut names = std::iter::once(record.name.as_str()).chain(others);
    names.any(|own| own.eq_ignore_ascii_case(name)) || (name.len() == 12 && record.id.short() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_may_have_dots_in_its_name() {
        assert_eq!(before_network("web.my.net", "my.net"), Some("web"));
        assert_eq!(before_network("web.1.front", "FRONT"), Some("web.1"));
        for other in ["web", "front", ".front", "webfront", "web.fron", "w\u{e4}b"] {
            assert!(before_network(other, "front").is_none_or(str::is_empty), "{other}");
        }
    }
}
