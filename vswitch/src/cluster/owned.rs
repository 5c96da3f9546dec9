//! Claims of this host, and its queued releases. Pure.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::keys::Key;
use super::records::SharedEndpoint;
use crate::model::Vni;
use crate::model::{EndpointId, EndpointName, NetworkId, NetworkName};

/// A claim of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// An address, with the endpoint that has it.
    Address(NetworkId, IpAddr, EndpointId),
    /// An endpoint and its name.
    Endpoint(SharedEndpoint),
}

/// A claim that is to be released in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// An address, if this endpoint of this host owns it.
    Address(NetworkId, IpAddr, EndpointId),
    /// An endpoint and its name.
    Endpoint(NetworkId, EndpointId, EndpointName),
    /// A network whose creation got no answer. It is removed only if it exists and has no
    /// endpoints.
    Network(NetworkId, NetworkName, Vni),
}

/// A claim and the state of its announcement.
#[derive(Debug)]
struct ClaimState<T> {
    value: T,
    /// Lease that it was last announced under.
    lease: i64,
    /// Reason why it cannot be announced under the current lease.
    conflict: Option<String>,
}

/// Claims of this host, and its queued releases.
#[derive(Debug, Default)]
pub(super) struct Owned {
    addresses: BTreeMap<(NetworkId, IpAddr), ClaimState<EndpointId>>,
    endpoints: BTreeMap<(NetworkId, EndpointId), ClaimState<SharedEndpoint>>,
    pending: Vec<Release>,
}

impl Owned {
    /// Records a claim that was announced under a lease. Cancels the same endpoint's queued release
    /// of it.
    pub(super) fn record(&mut self, claim: Claim, lease: i64) {
        self.cancel_release(&claim);
        match claim {
            Claim::Address(network, address, endpoint) => {
                self.addresses.insert((network, address), ClaimState { value: endpoint, lease, conflict: None });
            }
            Claim::Endpoint(endpoint) => {
                let key = (endpoint.network, endpoint.id);
                self.endpoints.insert(key, ClaimState { value: endpoint, lease, conflict: None });
            }
        }
    }

    /// Cancels the endpoint's queued release, because it is about to claim the key again. Releases
    /// by other endpoints stay queued.
    pub(super) fn cancel_release(&mut self, claim: &Claim) {
        self.pending.retain(|release| match (release, claim) {
            (Release::Address(network, address, id), Claim::Address(claim_network, claim_address, claim_endpoint)) => {
                (network, address, id) != (claim_network, claim_address, claim_endpoint)
            }
            (Release::Endpoint(network, id, _), Claim::Endpoint(claimed)) => {
                (*network, *id) != (claimed.network, claimed.id)
            }
            _ => true,
        });
    }

    /// Reports whether this endpoint has the address.
    pub(super) fn has_address(&self, network: NetworkId, address: IpAddr, endpoint: EndpointId) -> bool {
        self.addresses.get(&(network, address)).is_some_and(|state| state.value == endpoint)
    }

    /// Returns another endpoint of this host that has the address.
    pub(super) fn other_endpoint_with(
        &self,
        network: NetworkId,
        address: IpAddr,
        endpoint: EndpointId,
    ) -> Option<EndpointId> {
        self.addresses.get(&(network, address)).map(|state| state.value).filter(|holder| *holder != endpoint)
    }

    /// Returns the endpoint if this host announced it.
    pub(super) fn endpoint(&self, network: NetworkId, id: EndpointId) -> Option<&SharedEndpoint> {
        self.endpoints.get(&(network, id)).map(|state| &state.value)
    }

    /// Removes the claim and queues its release.
    pub(super) fn queue_release(&mut self, release: Release) {
        match &release {
            Release::Address(network, address, endpoint) => {
                if self.has_address(*network, *address, *endpoint) {
                    self.addresses.remove(&(*network, *address));
                }
            }
            Release::Endpoint(network, id, _) => {
                self.endpoints.remove(&(*network, *id));
            }
            Release::Network(..) => {}
        }
        if !self.pending.contains(&release) {
            self.pending.push(release);
        }
    }

    /// Returns the first `limit` queued releases.
    pub(super) fn pending(&self, limit: usize) -> Vec<Release> {
        self.pending.iter().take(limit).cloned().collect()
    }

    /// Returns the number of queued releases.
    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Reports whether the release is queued.
    pub(super) fn is_pending(&self, release: &Release) -> bool {
        self.pending.contains(release)
    }

    /// Removes releases that etcd has carried out.
    pub(super) fn remove_released(&mut self, done: &[Release]) {
        self.pending.retain(|release| !done.contains(release));
    }

    /// Reports whether a claim was not announced under this lease.
    pub(super) fn has_unannounced(&self, lease: i64) -> bool {
        self.addresses.values().any(|state| state.lease != lease)
            || self.endpoints.values().any(|state| state.lease != lease)
    }

    /// Returns the addresses that were not announced under this lease.
    pub(super) fn unannounced_addresses(&self, lease: i64) -> Vec<Claim> {
        let addresses = self.addresses.iter().filter(|(_, state)| state.lease != lease);
        addresses.map(|((network, address), state)| Claim::Address(*network, *address, state.value)).collect()
    }

    /// Returns the endpoints that were not announced under this lease. An endpoint that lost an
    /// address to another one is not announced.
    pub(super) fn unannounced_endpoints(&self, lease: i64) -> Vec<Claim> {
        let in_conflict = self.addresses.iter().filter(|(_, state)| state.conflict.is_some());
        let in_conflict: HashSet<_> = in_conflict.map(|((network, _), state)| (*network, state.value)).collect();
        let endpoints = self.endpoints.iter().filter(|(key, state)| state.lease != lease && !in_conflict.contains(key));
        endpoints.map(|(_, state)| Claim::Endpoint(state.value.clone())).collect()
    }

    /// Records the result of an announcement: the lease, or the conflict. Returns whether the
    /// conflict is new.
    pub(super) fn set_announced(&mut self, claim: &Claim, outcome: Result<i64, String>) -> bool {
        let (lease, conflict) = match claim {
            Claim::Address(network, address, _) => match self.addresses.get_mut(&(*network, *address)) {
                Some(state) => (&mut state.lease, &mut state.conflict),
                None => return false,
            },
            Claim::Endpoint(endpoint) => match self.endpoints.get_mut(&(endpoint.network, endpoint.id)) {
                Some(state) => (&mut state.lease, &mut state.conflict),
                None => return false,
            },
        };
        match outcome {
            Ok(new_lease) => {
                (*lease, *conflict) = (new_lease, None);
                false
            }
            Err(reason) => conflict.replace(reason.clone()) != Some(reason),
        }
    }

    /// Returns the keys of all claims.
    pub(super) fn keys(&self) -> HashSet<Key> {
        let addresses = self.addresses.keys().map(|(network, address)| Key::Address(*network, *address));
        let endpoints = self.endpoints.values().flat_map(|state| {
            let endpoint = &state.value;
            let name = Key::Name(endpoint.network, endpoint.name.clone());
            [name, Key::Endpoint(endpoint.network, endpoint.id)]
        });
        addresses.chain(endpoints).collect()
    }

    /// Returns the conflicts, one line each.
    pub(super) fn conflicts(&self) -> Vec<String> {
        let addresses = self.addresses.values().filter_map(|state| state.conflict.clone());
        addresses.chain(self.endpoints.values().filter_map(|state| state.conflict.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostId;

    const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);
    const ONE: EndpointId = EndpointId::from_bytes([2; 32]);
    const TWO: EndpointId = EndpointId::from_bytes([3; 32]);

    fn address() -> IpAddr {
        IpAddr::from([10, 0, 0, 2])
    }

    fn endpoint() -> SharedEndpoint {
        SharedEndpoint {
            id: ONE,
            network: NETWORK,
            host: HostId::from_bytes([4; 32]),
            name: "web".parse().expect("a name"),
            aliases: Vec::new(),
            mac: "02:00:00:00:00:01".parse().expect("an address"),
            ipv4: None,
            ipv6: None,
            vlan: 0,
        }
    }

    #[test]
    fn claims_are_announced_once_per_lease() {
        let mut owned = Owned::default();
        let claims = [Claim::Address(NETWORK, address(), ONE), Claim::Endpoint(endpoint())];
        for claim in &claims {
            owned.record(claim.clone(), 7);
        }
        let keys = [Key::Name(NETWORK, endpoint().name), Key::Endpoint(NETWORK, ONE), Key::Address(NETWORK, address())];
        assert_eq!(owned.keys(), keys.into());
        assert!(!owned.has_unannounced(7) && owned.has_unannounced(8));
        assert_eq!([owned.unannounced_addresses(7), owned.unannounced_endpoints(7)].concat(), []);
        assert_eq!([owned.unannounced_addresses(8), owned.unannounced_endpoints(8)].concat(), claims);
        assert!(!owned.set_announced(&claims[0], Ok(8)));
        assert!(owned.set_announced(&claims[1], Err("gone".to_owned())));
        assert!(!owned.set_announced(&claims[1], Err("gone".to_owned())), "the conflict is not new");
        assert_eq!(owned.unannounced_addresses(8), []);
        assert_eq!(owned.unannounced_endpoints(8), claims[1..]);
        assert_eq!(owned.conflicts(), ["gone"]);
        owned.set_announced(&claims[1], Ok(8));
        assert!(owned.conflicts().is_empty());
    }

    #[test]
    fn an_endpoint_that_lost_its_address_is_announced_when_the_address_is_free_again() {
        let mut owned = Owned::default();
        let address = Claim::Address(NETWORK, address(), ONE);
        owned.record(address.clone(), 7);
        owned.record(Claim::Endpoint(endpoint()), 7);
        owned.record(Claim::Endpoint(SharedEndpoint { id: TWO, ..endpoint() }), 7);
        owned.set_announced(&address, Err("taken".to_owned()));
        let others = [Claim::Endpoint(SharedEndpoint { id: TWO, ..endpoint() })];
        assert_eq!(owned.unannounced_endpoints(8), others);
        owned.set_announced(&address, Ok(8));
        assert_eq!(owned.unannounced_endpoints(8).len(), 2);
    }

    #[test]
    fn a_released_claim_is_queued_once_and_not_announced() {
        let mut owned = Owned::default();
        owned.record(Claim::Address(NETWORK, address(), ONE), 7);
        owned.record(Claim::Endpoint(endpoint()), 7);
        let others = Release::Address(NETWORK, address(), TWO);
        owned.queue_release(others.clone());
        assert!(
            owned.has_address(NETWORK, address(), ONE),
            "another endpoint's release does not release this endpoint's address"
        );
        assert_eq!([ONE, TWO].map(|id| owned.other_endpoint_with(NETWORK, address(), id)), [None, Some(ONE)]);
        let releases = [Release::Address(NETWORK, address(), ONE), Release::Endpoint(NETWORK, ONE, endpoint().name)];
        for release in &releases {
            owned.queue_release(release.clone());
            owned.queue_release(release.clone());
        }
        assert!(!owned.has_unannounced(8));
        assert_eq!(owned.pending_count(), 3);
        owned.remove_released(&[others]);
        assert_eq!(owned.pending(9), releases);
        assert!(!owned.set_announced(&Claim::Endpoint(endpoint()), Err("late".to_owned())));
        assert!(owned.conflicts().is_empty());
    }

    #[test]
    fn claiming_again_cancels_the_release() {
        let mut owned = Owned::default();
        owned.queue_release(Release::Address(NETWORK, address(), ONE));
        owned.queue_release(Release::Endpoint(NETWORK, ONE, endpoint().name));
        owned.cancel_release(&Claim::Address(NETWORK, address(), TWO));
        assert_eq!(owned.pending_count(), 2, "a claim by another endpoint does not cancel this endpoint's release");
        owned.record(Claim::Address(NETWORK, address(), ONE), 7);
        assert_eq!(owned.pending_count(), 1);
        owned.cancel_release(&Claim::Endpoint(endpoint()));
        assert_eq!(owned.pending_count(), 0);
    }
}
