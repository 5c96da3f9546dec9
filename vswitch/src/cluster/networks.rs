//! Creation and removal of networks in the whole cluster.

use std::collections::BTreeSet;

use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse};
use time::OffsetDateTime;

use super::claims::{absent, delete_all, empty};
use super::client::Cluster;
use super::error::ClusterError;
use super::etcd::put;
use super::keys::Key;
use super::owned::Release;
use super::records::{NetworkDraft, SharedEndpoint, SharedNetwork};
use super::session::{self, Undo};
use super::shared::{Shared, to_json};
use crate::model::Vni;
use crate::model::{NetworkId, NetworkName, random_error};

/// Number of endpoints that an error message names.
const MAX_NAMED: i64 = 8;

const TO_CREATE: &str = "to create a network";
const TO_REMOVE: &str = "to remove a network";

impl Cluster {
    /// Creates a network. Name, VNI and subnets are checked and claimed in one transaction.
    ///
    /// # Errors
    /// [`ClusterError::NameTaken`], [`ClusterError::VniTaken`], [`ClusterError::SubnetTaken`] or
    /// [`ClusterError::NoFreeVni`]. [`ClusterError::Unreachable`] and other errors of etcd: the
    /// network is not created, or its removal is queued.
    pub async fn create_network(&self, draft: NetworkDraft) -> Result<SharedNetwork, ClusterError> {
        let shared = &*self.shared;
        shared.networks.run(create(shared, draft)).await
    }

    /// Removes a network that has no endpoints on any host. A new network that has got the same
    /// name stays.
    ///
    /// # Errors
    /// [`ClusterError::NetworkNotFound`], or [`ClusterError::NetworkInUse`] with endpoints and
    /// hosts. [`ClusterError::Unreachable`] and other errors of etcd: the network may exist or not.
    pub async fn remove_network(&self, name: &NetworkName, id: NetworkId) -> Result<(), ClusterError> {
        let shared = &*self.shared;
        // Send queued releases first: one of them may be for an endpoint of this network.
        if shared.owned().pending_count() > 0 {
            session::send_releases(shared).await?;
        }
        let key = shared.keys.encode(&Key::Network(name.clone()));
        let mut current = read_network(shared, &key, id).await?;
        if current.is_none() {
            return Err(ClusterError::NetworkNotFound(name.clone()));
        }
        // If the network disappears meanwhile, this removal or another one did it. Both are a
        // success.
        while let Some((network, revision)) = current {
            let endpoints = shared.keys.endpoints_of(&network.id);
            let unchanged = Compare::mod_revision(key.as_str(), CompareOp::Equal, revision);
            let limited = GetOptions::new().with_prefix().with_limit(MAX_NAMED);
            let removal = Txn::new()
                .when([unchanged, empty(&endpoints)])
                .and_then([
                    TxnOp::delete(key.as_str(), None),
                    TxnOp::delete(shared.keys.encode(&Key::Vni(network.vni)), None),
                    TxnOp::delete(shared.keys.encode(&Key::Id(network.id)), None),
                    delete_all(&shared.keys.addresses(&network.id)),
                    delete_all(&shared.keys.names(&network.id)),
                ])
                .or_else([TxnOp::get(endpoints, Some(limited))]);
            let answer = shared.etcd.txn(TO_REMOVE, removal).await?;
            if answer.succeeded() {
                return Ok(());
            }
            if let Some(TxnOpResponse::Get(response)) = answer.op_responses().first()
                && !response.kvs().is_empty()
            {
                let endpoints = describe_endpoints(shared, response).await?;
                return Err(ClusterError::NetworkInUse { network: name.clone(), endpoints });
            }
            current = read_network(shared, &key, id).await?;
        }
        Ok(())
    }
}

async fn create(shared: &Shared, draft: NetworkDraft) -> Result<SharedNetwork, ClusterError> {
    let id = NetworkId::random().map_err(|error| ClusterError::Random(random_error(&error)))?;
    let created = OffsetDateTime::now_utc();
    loop {
        let existing = Existing::read(shared).await?;
        if let Some((_, network)) = existing.networks.iter().find(|(name, _)| *name == draft.name) {
            return match network {
                // An earlier attempt created the network, but its answer was lost.
                Some(network) if network.id == id => Ok(network.clone()),
                _ => Err(ClusterError::NameTaken(draft.name)),
            };
        }
        let vni = existing.choose_vni(draft.vni)?;
        existing.check_subnets(&draft)?;
        let NetworkDraft { name, subnets, internal, options, labels, .. } = draft.clone();
        let network = SharedNetwork { id, name, vni, subnets, internal, options, labels, created };
        let creation = creation(shared, &network, existing.revision)?;
        let undo = Undo::prepare(shared, [Release::Network(network.id, network.name.clone(), network.vni)]);
        let answer = shared.etcd.txn(TO_CREATE, creation).await?;
        undo.disarm();
        if answer.succeeded() {
            return Ok(network);
        }
        // Another host changed the networks first: read them again. Or this attempt succeeded and
        // its answer was lost.
    }
}

/// Builds the creation. It applies only if no network was written after `revision`.
fn creation(shared: &Shared, network: &SharedNetwork, revision: i64) -> Result<Txn, ClusterError> {
    let name = shared.keys.encode(&Key::Network(network.name.clone()));
    let vni = shared.keys.encode(&Key::Vni(network.vni));
    let id = shared.keys.encode(&Key::Id(network.id));
    let unchanged =
        Compare::mod_revision(shared.keys.networks(), CompareOp::Less, revision.saturating_add(1)).with_prefix();
    let record = to_json(&name, network)?;
    Ok(Txn::new().when([unchanged, absent(&name), absent(&vni)]).and_then([
        put(&name, record, None),
        put(&vni, network.id.to_string(), None),
        put(&id, network.name.as_str(), None),
    ]))
}

/// Existing networks and VNIs.
struct Existing {
    revision: i64,
    /// By name; without the record if another version wrote one that this version cannot parse.
    networks: Vec<(NetworkName, Option<SharedNetwork>)>,
    vnis: BTreeSet<Vni>,
}

impl Existing {
    async fn read(shared: &Shared) -> Result<Self, ClusterError> {
        let networks = shared.etcd.read(TO_CREATE, &shared.keys.networks(), None).await?;
        let vnis = shared.etcd.read(TO_CREATE, &shared.keys.vnis(), Some(networks.revision)).await?;
        let vni = |key: &[u8]| if let Some(Key::Vni(vni)) = shared.keys.decode(key) { Some(vni) } else { None };
        let vnis = vnis.entries.iter().filter_map(|entry| vni(entry.key())).collect();
        let revision = networks.revision;
        let networks = networks.entries.iter().filter_map(|entry| match shared.keys.decode(entry.key()) {
            Some(Key::Network(name)) => Some((name, serde_json::from_slice(entry.value()).ok())),
            _ => None,
        });
        Ok(Self { revision, networks: networks.collect(), vnis })
    }

    /// Returns the requested VNI if it is free, or else the lowest free one.
    fn choose_vni(&self, requested: Option<Vni>) -> Result<Vni, ClusterError> {
        let Some(vni) = requested else { return lowest_free(&self.vnis).ok_or(ClusterError::NoFreeVni) };
        if !self.vnis.contains(&vni) {
            return Ok(vni);
        }
        let has_vni = |network: &&SharedNetwork| network.vni == vni;
        let network = self.networks.iter().filter_map(|(_, network)| network.as_ref()).find(has_vni);
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

/// Returns the lowest VNI from [`Vni::FIRST_AUTOMATIC`] upwards that is free.
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

/// Reads the network record under a key, with its revision. Returns `None` if the record has
/// another id.
async fn read_network(shared: &Shared, key: &str, id: NetworkId) -> Result<Option<(SharedNetwork, i64)>, ClusterError> {
    let Some(record) = shared.etcd.get(TO_REMOVE, key).await? else { return Ok(None) };
    let network: SharedNetwork = serde_json::from_slice(record.value())
        .map_err(|error| ClusterError::Record { key: key.to_owned(), message: error.to_string() })?;
    Ok((network.id == id).then(|| (network, record.mod_revision())))
}

/// Describes endpoints and their hosts for error messages.
async fn describe_endpoints(shared: &Shared, response: &etcd_client::GetResponse) -> Result<Vec<String>, ClusterError> {
    let mut endpoints = Vec::new();
    for entry in response.kvs() {
        endpoints.push(match serde_json::from_slice::<SharedEndpoint>(entry.value()) {
            Ok(endpoint) => format!("{} on host {}", endpoint.name, shared.host_name(TO_REMOVE, endpoint.host).await?),
            Err(_) => String::from_utf8_lossy(entry.key()).into_owned(),
        });
    }
    endpoints.sort();
    if response.more() {
        endpoints.push("and others".to_owned());
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_vni_is_assigned_and_none_after_it() {
        let mut taken: BTreeSet<_> = (Vni::FIRST_AUTOMATIC.number()..Vni::LAST.number())
            .filter_map(|number| Vni::try_from(number).ok())
            .collect();
        assert_eq!(lowest_free(&taken), Some(Vni::LAST));
        taken.insert(Vni::LAST);
        assert_eq!(lowest_free(&taken), None);
    }

    proptest! {
        #[test]
        fn the_lowest_free_vni_is_found(numbers in proptest::collection::btree_set(4090_u32..4110, 0..20)) {
            let taken = numbers.iter().map(|number| Vni::try_from(*number).expect("a VNI")).collect();
            let lowest = (4096..).find(|number| !numbers.contains(number));
            prop_assert_eq!(lowest_free(&taken).map(Vni::number), lowest);
        }
    }
}
