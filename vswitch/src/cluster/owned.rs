//! What this host has in the cluster, to be announced again under a new lease, and what is still to be taken back. Pure.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::keys::Key;
use super::records::SharedEndpoint;
use super::vni::Vni;
use crate::model::{EndpointId, EndpointName, NetworkId, NetworkName};

/// Something that this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// An address, for an endpoint.
    Address(NetworkId, IpAddr, EndpointId),
    /// An endpoint, with its name.
    Endpoint(SharedEndpoint),
}

/// Something to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// An address, if this endpoint of this host has it.
    Address(NetworkId, IpAddr, EndpointId),
    /// An endpoint, with its name.
    Endpoint(NetworkId, EndpointId, EndpointName),
    /// A network that may have been created though nobody said so; not if it is in use by now.
    Network(NetworkId, NetworkName, Vni),
}

/// Something that this host has, and how far others know.
#[derive(Debug)]
struct Held<T> {
    value: T,
    /// The lease that it was announced under.
    lease: i64,
    /// Why it could not be announced under the present one.
    conflict: Option<String>,
}

/// What this host has, and what is to be taken back.
#[derive(Debug, Default)]
pub(super) struct Owned {
    addresses: BTreeMap<(NetworkId, IpAddr), Held<EndpointId>>,
    endpoints: BTreeMap<(NetworkId, EndpointId), Held<SharedEndpoint>>,
    pending: Vec<Release>,
}

impl Owned {
    /// Notes that this host has it, announced under a lease. What of it was to be taken back is not any more.
    pub(super) fn hold(&mut self, claim: Claim, lease: i64) {
        self.keep(&claim);
        match claim {
            Claim::Address(network, address, endpoint) => {
                self.addresses.insert((network, address), Held { value: endpoint, lease, conflict: None });
            }
            Claim::Endpoint(endpoint) => {
                let key = (endpoint.network, endpoint.id);
                self.endpoints.insert(key, Held { value: endpoint, lease, conflict: None });
            }
        }
    }

    /// Does not take it back: it is about to be claimed. What another endpoint had of it is taken back all the same.
    pub(super) fn keep(&mut self, claim: &Claim) {
        self.pending.retain(|release| match (release, claim) {
            (Release::Address(network, address, id), Claim::Address(of, kept, by)) => {
                (network, address, id) != (of, kept, by)
            }
            (Release::Endpoint(network, id, _), Claim::Endpoint(kept)) => (*network, *id) != (kept.network, kept.id),
            _ => true,
        });
    }

    /// Whether this endpoint of this host has the address.
    pub(super) fn has(&self, network: NetworkId, address: IpAddr, endpoint: EndpointId) -> bool {
        self.addresses.get(&(network, address)).is_some_and(|held| held.value == endpoint)
    }

    /// The other endpoint of this host that has the address, if there is one.
    pub(super) fn other_holder(&self, network: NetworkId, address: IpAddr, endpoint: EndpointId) -> Option<EndpointId> {
        self.addresses.get(&(network, address)).map(|held| held.value).filter(|holder| *holder != endpoint)
    }

    /// The endpoint, if this host has it.
    pub(super) fn endpoint(&self, network: NetworkId, id: EndpointId) -> Option<&SharedEndpoint> {
        self.endpoints.get(&(network, id)).map(|held| &held.value)
    }

    /// Gives it up: it is not announced any more, and is to be taken back.
    pub(super) fn give_up(&mut self, release: Release) {
        match &release {
            Release::Address(network, address, endpoint) => {
                if self.has(*network, *address, *endpoint) {
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

    /// What is to be taken back, at most `most` of it.
    pub(super) fn pending(&self, most: usize) -> Vec<Release> {
        self.pending.iter().take(most).cloned().collect()
    }

    /// How much is to be taken back.
    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Whether it is still to be taken back.
    pub(super) fn is_pending(&self, release: &Release) -> bool {
        self.pending.contains(release)
    }

    /// These have been taken back.
    pub(super) fn released(&mut self, done: &[Release]) {
        self.pending.retain(|release| !done.contains(release));
    }

    /// Whether anything was not announced under this lease.
    pub(super) fn lacks(&self, lease: i64) -> bool {
        self.addresses.values().any(|held| held.lease != lease)
            || self.endpoints.values().any(|held| held.lease != lease)
    }

    /// The addresses that were not announced under this lease.
    pub(super) fn unannounced_addresses(&self, lease: i64) -> Vec<Claim> {
        let addresses = self.addresses.iter().filter(|(_, held)| held.lease != lease);
        addresses.map(|((network, address), held)| Claim::Address(*network, *address, held.value)).collect()
    }

    /// The endpoints that were not announced under this lease, and can be: others are not to be told of one whose address
    /// is somebody else's by now.
    pub(super) fn unannounced_endpoints(&self, lease: i64) -> Vec<Claim> {
        let in_conflict = self.addresses.iter().filter(|(_, held)| held.conflict.is_some());
        let in_conflict: HashSet<_> = in_conflict.map(|((network, _), held)| (*network, held.value)).collect();
        let endpoints = self.endpoints.iter().filter(|(key, held)| held.lease != lease && !in_conflict.contains(key));
        endpoints.map(|(_, held)| Claim::Endpoint(held.value.clone())).collect()
    }

    /// What came of announcing it: done under this lease, or why not. Returns whether a conflict is new.
    pub(super) fn announced(&mut self, claim: &Claim, outcome: Result<i64, String>) -> bool {
        let (lease, conflict) = match claim {
            Claim::Address(network, address, _) => match self.addresses.get_mut(&(*network, *address)) {
                Some(held) => (&mut held.lease, &mut held.conflict),
                None => return false,
            },
            Claim::Endpoint(endpoint) => match self.endpoints.get_mut(&(endpoint.network, endpoint.id)) {
                Some(held) => (&mut held.lease, &mut held.conflict),
                None => return false,
            },
        };
        match outcome {
            Ok(under) => {
                (*lease, *conflict) = (under, None);
                false
            }
            Err(why) => conflict.replace(why.clone()) != Some(why),
        }
    }

    /// The keys of all that this host has.
    pub(super) fn keys(&self) -> HashSet<Key> {
        let addresses = self.addresses.keys().map(|(network, address)| Key::Address(*network, *address));
        let endpoints = self.endpoints.values().flat_map(|held| {
            let endpoint = &held.value;
            let name = Key::Name(endpoint.network, endpoint.name.clone());
            [name, Key::Endpoint(endpoint.network, endpoint.id)]
        });
        addresses.chain(endpoints).collect()
    }

    /// Why what could not be announced could not, a line each.
    pub(super) fn conflicts(&self) -> Vec<String> {
        let addresses = self.addresses.values().filter_map(|held| held.conflict.clone());
        addresses.chain(self.endpoints.values().filter_map(|held| held.conflict.clone())).collect()
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
    fn what_is_held_is_announced_once_per_lease() {
        let mut owned = Owned::default();
        let claims = [Claim::Address(NETWORK, address(), ONE), Claim::Endpoint(endpoint())];
        for claim in &claims {
            owned.hold(claim.clone(), 7);
        }
        let keys = [Key::Name(NETWORK, endpoint().name), Key::Endpoint(NETWORK, ONE), Key::Address(NETWORK, address())];
        assert_eq!(owned.keys(), keys.into());
        assert!(!owned.lacks(7) && owned.lacks(8));
        assert_eq!([owned.unannounced_addresses(7), owned.unannounced_endpoints(7)].concat(), []);
        assert_eq!([owned.unannounced_addresses(8), owned.unannounced_endpoints(8)].concat(), claims);
        assert!(!owned.announced(&claims[0], Ok(8)));
        assert!(owned.announced(&claims[1], Err("gone".to_owned())));
        assert!(!owned.announced(&claims[1], Err("gone".to_owned())), "said before");
        assert_eq!(owned.unannounced_addresses(8), []);
        assert_eq!(owned.unannounced_endpoints(8), claims[1..]);
        assert_eq!(owned.conflicts(), ["gone"]);
        owned.announced(&claims[1], Ok(8));
        assert!(owned.conflicts().is_empty());
    }

    #[test]
    fn an_endpoint_that_lost_its_address_is_not_announced_until_it_is_free_again() {
        let mut owned = Owned::default();
        let address = Claim::Address(NETWORK, address(), ONE);
        owned.hold(address.clone(), 7);
        owned.hold(Claim::Endpoint(endpoint()), 7);
        owned.hold(Claim::Endpoint(SharedEndpoint { id: TWO, ..endpoint() }), 7);
        owned.announced(&address, Err("taken".to_owned()));
        let others = [Claim::Endpoint(SharedEndpoint { id: TWO, ..endpoint() })];
        assert_eq!(owned.unannounced_endpoints(8), others);
        owned.announced(&address, Ok(8));
        assert_eq!(owned.unannounced_endpoints(8).len(), 2);
    }

    #[test]
    fn what_is_given_up_is_taken_back_once_and_not_announced() {
        let mut owned = Owned::default();
        owned.hold(Claim::Address(NETWORK, address(), ONE), 7);
        owned.hold(Claim::Endpoint(endpoint()), 7);
        let others = Release::Address(NETWORK, address(), TWO);
        owned.give_up(others.clone());
        assert!(owned.has(NETWORK, address(), ONE), "another endpoint's release is not this one's");
        assert_eq!([ONE, TWO].map(|id| owned.other_holder(NETWORK, address(), id)), [None, Some(ONE)]);
        let releases = [Release::Address(NETWORK, address(), ONE), Release::Endpoint(NETWORK, ONE, endpoint().name)];
        for release in &releases {
            owned.give_up(release.clone());
            owned.give_up(release.clone());
        }
        assert!(!owned.lacks(8));
        assert_eq!(owned.pending_count(), 3);
        owned.released(&[others]);
        assert_eq!(owned.pending(9), releases);
        assert!(!owned.announced(&Claim::Endpoint(endpoint()), Err("late".to_owned())));
        assert!(owned.conflicts().is_empty());
    }

    #[test]
    fn what_is_claimed_again_is_not_taken_back() {
        let mut owned = Owned::default();
        owned.give_up(Release::Address(NETWORK, address(), ONE));
        owned.give_up(Release::Endpoint(NETWORK, ONE, endpoint().name));
        owned.keep(&Claim::Address(NETWORK, address(), TWO));
        assert_eq!(owned.pending_count(), 2, "what another endpoint claims is still to be taken back from this one");
        owned.hold(Claim::Address(NETWORK, address(), ONE), 7);
        assert_eq!(owned.pending_count(), 1);
        owned.keep(&Claim::Endpoint(endpoint()));
        assert_eq!(owned.pending_count(), 0);
    }
}
