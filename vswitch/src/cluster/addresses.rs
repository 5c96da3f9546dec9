//! Addresses: each is one endpoint's in the whole cluster.

use std::net::IpAddr;

use super::claims::{Outcome, outcome};
use super::client::{Cluster, Released, Shared};
use super::error::ClusterError;
use super::keys::Key;
use super::owned::{Claim, Release};
use super::records::{Owner, SharedEndpoint};
use super::session::{self, Undo};
use crate::model::{EndpointId, NetworkId};

/// How many candidates are looked at at once, at first; then four times as many each time, up to the most: a network that is
/// nearly full is looked through in a few requests.
const LOOK: usize = 256;
const MOST_LOOK: usize = 4096;
/// How many free candidates one transaction tries: as many hosts can want an address at the same moment, and all get one.
const TRY: usize = 8;

const LEASE: &str = "to lease an address";

impl Cluster {
    /// Leases the first of these addresses that nobody in the cluster has, for an endpoint of this host. One that the
    /// endpoint has already it keeps.
    ///
    /// # Errors
    /// [`ClusterError::Full`] if all of them are somebody's, [`ClusterError::NetworkGone`] if there is no such network;
    /// [`ClusterError::Unreachable`] and the like, and then nothing stays leased.
    pub async fn lease_address(
        &self,
        network: NetworkId,
        endpoint: EndpointId,
        candidates: impl Iterator<Item = IpAddr> + Send,
    ) -> Result<IpAddr, ClusterError> {
        let shared = &*self.shared;
        shared.addresses.run(lease(shared, network, endpoint, candidates)).await
    }

    /// Leases the address that was asked for. One that the endpoint has already it keeps.
    ///
    /// # Errors
    /// [`ClusterError::AddressTaken`] if it is somebody's, [`ClusterError::NetworkGone`] if there is no such network;
    /// [`ClusterError::Unreachable`] and the like, and then nothing stays leased.
    pub async fn claim_address(
        &self,
        network: NetworkId,
        endpoint: EndpointId,
        address: IpAddr,
    ) -> Result<IpAddr, ClusterError> {
        let shared = &*self.shared;
        shared.addresses.run(claim_one(shared, network, endpoint, address)).await
    }

    /// Gives an address back. It never fails: while etcd is away, it is done later.
    pub async fn release_address(&self, network: NetworkId, endpoint: EndpointId, address: IpAddr) -> Released {
        session::release(&self.shared, Release::Address(network, address, endpoint)).await
    }
}

async fn claim_one(
    shared: &Shared,
    network: NetworkId,
    endpoint: EndpointId,
    address: IpAddr,
) -> Result<IpAddr, ClusterError> {
    // If this host has given it up, that is not to be in the way.
    session::flush(shared).await?;
    let _order = shared.order.read().await;
    match claim(shared, network, endpoint, &[address]).await? {
        Ok(address) => Ok(address),
        Err(owner) => {
            let owner = describe(shared, LEASE, network, &owner).await?;
            Err(ClusterError::AddressTaken { address, owner })
        }
    }
}

async fn lease(
    shared: &Shared,
    network: NetworkId,
    endpoint: EndpointId,
    mut candidates: impl Iterator<Item = IpAddr> + Send,
) -> Result<IpAddr, ClusterError> {
    // One that this host has given up is not to be in the way.
    session::flush(shared).await?;
    let _order = shared.order.read().await;
    let (mut look, mut tried) = (LOOK, 0);
    loop {
        let batch: Vec<_> = candidates.by_ref().take(look).collect();
        if batch.is_empty() {
            return Err(ClusterError::Full { tried });
        }
        loop {
            let free = free_of(shared, network, endpoint, &batch).await?;
            if free.is_empty() {
                break;
            }
            // Where others took all of these at the same moment, there may be more.
            if let Ok(address) = claim(shared, network, endpoint, &free).await? {
                return Ok(address);
            }
        }
        tried += batch.len();
        look = (look * 4).min(MOST_LOOK);
    }
}

/// The first of a batch that nobody had a moment ago.
async fn free_of(
    shared: &Shared,
    network: NetworkId,
    endpoint: EndpointId,
    batch: &[IpAddr],
) -> Result<Vec<IpAddr>, ClusterError> {
    let key = |address: &IpAddr| shared.keys.encode(&Key::Address(network, *address));
    let keys: Vec<_> = batch.iter().map(key).collect();
    let (Some(first), Some(last)) = (keys.iter().min(), keys.iter().max()) else { return Ok(Vec::new()) };
    let taken = shared.etcd.keys(LEASE, first, last).await?;
    let is_free = |key: &str| taken.binary_search_by(|taken| taken.key().cmp(key.as_bytes())).is_err();
    let free = batch.iter().zip(&keys).filter(|(_, key)| is_free(key)).map(|(address, _)| *address);
    // etcd does not know what this host has while it has no lease.
    let owned = shared.owned();
    Ok(free.filter(|address| owned.other_holder(network, *address, endpoint).is_none()).take(TRY).collect())
}

/// Takes the first of these that is free; or says whose the last is.
async fn claim(
    shared: &Shared,
    network: NetworkId,
    endpoint: EndpointId,
    addresses: &[IpAddr],
) -> Result<Result<IpAddr, String>, ClusterError> {
    let undo = {
        let mut owned = shared.owned();
        // Whatever etcd has of it: while this host has no lease, that is nothing.
        let holder = addresses.iter().find_map(|address| owned.other_holder(network, *address, endpoint));
        if let Some(holder) = holder {
            return Ok(Err(Owner { host: shared.id, endpoint: holder }.to_string()));
        }
        for address in addresses {
            owned.keep(&Claim::Address(network, *address, endpoint));
        }
        let new = addresses.iter().filter(|address| !owned.has(network, **address, endpoint));
        Undo::of(shared, new.map(|address| Release::Address(network, *address, endpoint)))
    };
    let write = |lease| shared.claims().addresses(network, addresses, endpoint, lease);
    let (answer, lease) = shared.with_lease(LEASE, write).await?;
    undo.forget();
    match outcome(&answer) {
        Outcome::Ours(choice) => {
            let address = addresses[choice];
            shared.owned().hold(Claim::Address(network, address, endpoint), lease);
            Ok(Ok(address))
        }
        Outcome::Taken(owner) => Ok(Err(owner)),
        Outcome::NetworkGone => Err(ClusterError::NetworkGone(network)),
    }
}

/// Whose it is, for people.
///
/// # Errors
/// Those of etcd.
pub(super) async fn describe(
    shared: &Shared,
    doing: &str,
    network: NetworkId,
    owner: &str,
) -> Result<String, ClusterError> {
    let Ok(owner) = owner.parse::<Owner>() else { return Ok(format!("`{owner}`")) };
    let host = shared.host_name(doing, owner.host).await?;
    let found = shared.etcd.get(doing, &shared.keys.encode(&Key::Endpoint(network, owner.endpoint))).await?;
    let endpoint = found.and_then(|found| serde_json::from_slice::<SharedEndpoint>(found.value()).ok());
    // One that is being attached at this moment has no record yet.
    let endpoint = endpoint.map_or_else(|| owner.endpoint.short(), |endpoint| endpoint.name.to_string());
    Ok(format!("endpoint {endpoint} on host {host}"))
}
