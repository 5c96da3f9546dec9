//! Networks: created and removed for the whole cluster.

use std::collections::BTreeSet;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse};
use time::OffsetDateTime;

use super::claims::{absent, delete_all, empty};
use super::client::{Cluster, Shared, json};
use super::error::ClusterError;
use super::etcd::put;
use super::keys::Key;
use super::owned::Release;
use super::records::{NetworkDraft, SharedEndpoint, SharedNetwork};
use super::session::{self, Undo};
use super::vni::Vni;
use crate::model::{NetworkId, NetworkName, random_error};

/// How many endpoints are named that are in the way of a removal.
const MOST_NAMED: i64 = 8;

const CREATE: &str = "to create a network";
const REMOVE: &str = "to remove a network";

impl Cluster {
    /// Creates a network. Name, VNI and subnets are checked and taken in one transaction.
    ///
    /// # Errors
    /// [`ClusterError::NameTaken`], [`ClusterError::VniTaken`], [`ClusterError::SubnetTaken`] or
    /// [`ClusterError::NoFreeVni`]; [`ClusterError::Unreachable`] and the like, and then there is no network.
    pub async fn create_network(&self, draft: NetworkDraft) -> Result<SharedNetwork, ClusterError> {
        let shared = &*self.shared;
        shared.networks.run(create(shared, draft)).await
    }

    /// Removes a network, of which no host may have endpoints. Another that has its name by now stays.
    ///
    /// # Errors
    /// [`ClusterError::NetworkNotFound`], or [`ClusterError::NetworkInUse`] with the endpoints and their hosts;
    /// [`ClusterError::Unreachable`] and the like, and then it may be there or not.
    pub async fn remove_network(&self, name: &NetworkName, id: NetworkId) -> Result<(), ClusterError> {
        let shared = &*self.shared;
        // An endpoint of our own that is gone is not to be in the way.
        if shared.owned().pending_count() > 0 {
            session::flush(shared).await?;
        }
        let key = shared.keys.encode(&Key::Network(name.clone()));
        let mut found = recorded(shared, &key, id).await?;
        if found.is_none() {
            return Err(ClusterError::NetworkNotFound(name.clone()));
        }
        // If it is gone now, it is this removal that did it, or another; both are fine.
        while let Some((network, revision)) = found {
            let endpoints = shared.keys.endpoints_of(&network.id);
            let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
            let some = GetOptions::new().with_prefix().with_limit(MOST_NAMED);
            let removal = Txn::new()
                .when([unchanged, empty(&endpoints)])
                .and_then([
                    TxnOp::delete(key.as_str(), None),
                    TxnOp::delete(shared.keys.encode(&Key::Vni(network.vni)), None),
                    TxnOp::delete(shared.keys.encode(&Key::Id(network.id)), None),
                    delete_all(&shared.keys.addresses(&network.id)),
                    delete_all(&shared.keys.names(&network.id)),
                ])
                .or_else([TxnOp::get(endpoints, Some(some))]);
            let answer = shared.etcd.txn(REMOVE, removal).await?;
            if answer.succeeded() {
                return Ok(());
            }
            if let Some(TxnOpResponse::Get(there)) = answer.op_responses().first()
                && !there.kvs().is_empty()
            {
                let endpoints = in_use(shared, there).await?;
                return Err(ClusterError::NetworkInUse { network: name.clone(), endpoints });
            }
            found = recorded(shared, &key, id).await?;
        }
        Ok(())
    }
}

async fn create(shared: &Shared, draft: NetworkDraft) -> Result<SharedNetwork, ClusterError> {
    let id = NetworkId::random().map_err(|error| ClusterError::Random(random_error(&error)))?;
    let created = OffsetDateTime::now_utc();
    loop {
        let there = There::read(shared).await?;
        if let Some((_, network)) = there.networks.iter().find(|(name, _)| *name == draft.name) {
            return match network {
                // From an attempt of which the answer was lost.
                Some(network) if network.id == id => Ok(network.clone()),
                _ => Err(ClusterError::NameTaken(draft.name)),
            };
        }
        let vni = there.vni(draft.vni)?;
        there.check_subnets(&draft)?;
        let NetworkDraft { name, subnets, internal, options, labels, .. } = draft.clone();
        let network = SharedNetwork { id, name, vni, subnets, internal, options, labels, created };
        let creation = creation(shared, &network, there.revision)?;
        let undo = Undo::of(shared, [Release::Network(network.id, network.name.clone(), network.vni)]);
        let answer = shared.etcd.txn(CREATE, creation).await?;
        undo.forget();
        if answer.succeeded() {
            return Ok(network);
        }
        // Another host was faster: what it created counts now. Or it was this one, and the answer was lost.
    }
}

/// Writes the network, if none is newer than what was looked at.
fn creation(shared: &Shared, network: &SharedNetwork, revision: i64) -> Result<Txn, ClusterError> {
    let name = shared.keys.encode(&Key::Network(network.name.clone()));
    let vni = shared.keys.encode(&Key::Vni(network.vni));
    let id = shared.keys.encode(&Key::Id(network.id));
    let none_newer =
        Compare::mod_revision(shared.keys.networks(), CompareOp::Less, revision.saturating_add(1)).with_prefix();
    let record = json(&name, network)?;
    Ok(Txn::new().when([none_newer, absent(&name), absent(&vni)]).and_then([
        put(&name, record, None),
        put(&vni, network.id.to_string(), None),
        put(&id, network.name.as_str(), None),
    ]))
}

/// The networks there are.
struct There {
    revision: i64,
    /// By name; without the record where another version wrote one that this cannot read.
    networks: Vec<(NetworkName, Option<SharedNetwork>)>,
    vnis: BTreeSet<Vni>,
}

impl There {
    async fn read(shared: &Shared) -> Result<Self, ClusterError> {
        let networks = shared.etcd.read(CREATE, &shared.keys.networks(), None).await?;
        let vnis = shared.etcd.read(CREATE, &shared.keys.vnis(), Some(networks.revision)).await?;
        let vni = |key: &[u8]| if let Some(Key::Vni(vni)) = shared.keys.decode(key) { Some(vni) } else { None };
        let vnis = vnis.found.iter().filter_map(|found| vni(found.key())).collect();
        let revision = networks.revision;
        let networks = networks.found.iter().filter_map(|found| match shared.keys.decode(found.key()) {
            Some(Key::Network(name)) => Some((name, serde_json::from_slice(found.value()).ok())),
            _ => None,
        });
        Ok(Self { revision, networks: networks.collect(), vnis })
    }

    /// The VNI that is asked for, or the lowest that is free.
    fn vni(&self, asked: Option<Vni>) -> Result<Vni, ClusterError> {
        let Some(vni) = asked else { return lowest_free(&self.vnis).ok_or(ClusterError::NoFreeVni) };
        if !self.vnis.contains(&vni) {
            return Ok(vni);
        }
        let of = |network: &&SharedNetwork| network.vni == vni;
        let network = self.networks.iter().filter_map(|(_, network)| network.as_ref()).find(of);
        let network = network.map_or_else(|| "(unreadable)".to_owned(), |network| network.name.to_string());
        Err(ClusterError::VniTaken { vni, network })
    }

    fn check_subnets(&self, draft: &NetworkDraft) -> Result<(), ClusterError> {
        for network in self.networks.iter().filter_map(|(_, network)| network.as_ref()) {
            for other in &network.subnets {
                if let Some(own) = draft.subnets.iter().find(|own| own.subnet.overlaps(&other.subnet.net())) {
                    let (subnet, other, network) = (own.subnet, other.subnet, network.name.clone());
                    return Err(ClusterError::SubnetTaken { subnet, other, network });
                }
            }
        }
        Ok(())
    }
}

/// The lowest VNI from [`Vni::FIRST_AUTOMATIC`] upwards that none has.
fn lowest_free(taken: &BTreeSet<Vni>) -> Option<Vni> {
    let mut candidate = Vni::FIRST_AUTOMATIC.number();
    for vni in taken.range(Vni::FIRST_AUTOMATIC..) {
        if vni.number() != candidate {
            break;
        }
        candidate += 1;
    }
    Vni::try_from(candidate).ok()
}

/// The network that is recorded under a key, with the revision of the record, if it is the one of this id.
async fn recorded(shared: &Shared, key: &str, id: NetworkId) -> Result<Option<(SharedNetwork, i64)>, ClusterError> {
    let Some(record) = shared.etcd.get(REMOVE, key).await? else { return Ok(None) };
    let network: SharedNetwork = serde_json::from_slice(record.value())
        .map_err(|error| ClusterError::Record { key: key.to_owned(), message: error.to_string() })?;
    Ok((network.id == id).then(|| (network, record.mod_revision())))
}

/// Endpoints with their hosts, for people.
async fn in_use(shared: &Shared, there: &etcd_client::GetResponse) -> Result<Vec<String>, ClusterError> {
    let mut endpoints = Vec::new();
    for found in there.kvs() {
        endpoints.push(match serde_json::from_slice::<SharedEndpoint>(found.value()) {
            Ok(endpoint) => format!("{} on host {}", endpoint.name, shared.host_name(REMOVE, endpoint.host).await?),
            Err(_) => String::from_utf8_lossy(found.key()).into_owned(),
        });
    }
    endpoints.sort();
    if there.more() {
        endpoints.push("and more".to_owned());
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_vni_is_given_and_none_after_it() {
        let mut taken: BTreeSet<_> = (Vni::FIRST_AUTOMATIC.number()..Vni::LAST.number())
            .filter_map(|number| Vni::try_from(number).ok())
            .collect();
        assert_eq!(lowest_free(&taken), Some(Vni::LAST));
        taken.insert(Vni::LAST);
        assert_eq!(lowest_free(&taken), None);
    }

    proptest! {
        #[test]
        fn the_lowest_free_vni_is_that(numbers in proptest::collection::btree_set(4090_u32..4110, 0..20)) {
            let taken = numbers.iter().map(|number| Vni::try_from(*number).expect("a VNI")).collect();
            let lowest = (4096..).find(|number| !numbers.contains(number));
            prop_assert_eq!(lowest_free(&taken).map(Vni::number), lowest);
        }
    }
}
