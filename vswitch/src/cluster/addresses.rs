//! Claims and releases of addresses. An address belongs to one endpoint in the whole cluster.

use std::iter::Peekable;
use std::net::IpAddr;

use super::claims::{Outcome, outcome};
use super::client::Cluster;
use super::error::ClusterError;
use super::keys::Key;
use super::owned::{Claim, Release};
use super::records::Owner;
use super::session::{self, Undo};
use super::shared::{Released, Shared};
use crate::model::{EndpointId, NetworkId};

/// Number of candidates in the first look-up. Each further look-up takes four times as many, up to
/// `MAX_BATCH`, so that a few requests cover a nearly full network.
const FIRST_BATCH: usize = 256;
const MAX_BATCH: usize = 4096;
/// Number of free candidates in one transaction: this many hosts can claim an address at the same
/// moment, and each gets one.
const CANDIDATES_PER_CLAIM: usize = 8;

const TO_LEASE: &str = "to lease an address";

impl Cluster {
    /// Leases the first free candidate for an endpoint of this host. An address that the endpoint
    /// already has counts as free.
    ///
    /// # Errors
    /// [`ClusterError::Full`] if every candidate is taken, [`ClusterError::NetworkGone`] if the
    /// network does not exist. [`ClusterError::Unreachable`] and other errors of etcd: nothing
    /// stays leased.
    pub async fn lease_address(
        &self,
        network: NetworkId,
        endpoint: EndpointId,
        candidates: impl Iterator<Item = IpAddr> + Send,
    ) -> Result<IpAddr, ClusterError> {
        let shared = &*self.shared;
        shared.addresses.run(lease_first_free(shared, network, endpoint, candidates)).await
    }

    /// Leases one given address. An address that the endpoint already has stays leased.
    ///
    /// # Errors
    /// [`ClusterError::AddressTaken`] if another endpoint has the address,
    /// [`ClusterError::NetworkGone`] if the network does not exist. [`ClusterError::Unreachable`]
    /// and other errors of etcd: nothing stays leased.
    pub async fn claim_address(
        &self,
        network: NetworkId,
        endpoint: EndpointId,
        address: IpAddr,
    ) -> Result<IpAddr, ClusterError> {
        let shared = &*self.shared;
        shared.addresses.run(claim_given(shared, network, endpoint, address)).await
    }

    /// Releases an address. Never fails: while etcd is unreachable, the release is queued.
    pub async fn release_address(&self, network: NetworkId, endpoint: EndpointId, address: IpAddr) -> Released {
        session::release(&self.shared, Release::Address(network, address, endpoint)).await
    }
}

async fn claim_given(
    shared: &Shared,
    network: NetworkId,
    endpoint: EndpointId,
    address: IpAddr,
) -> Result<IpAddr, ClusterError> {
    // Send queued releases first: one of them may be for this address.
    session::send_releases(shared).await?;
    let _shared_lock = shared.claim_lock.read().await;
    match claim(shared, network, endpoint, &[address]).await? {
        Ok(address) => Ok(address),
        Err(owner) => {
            let owner = shared.describe_owner(TO_LEASE, network, &owner).await?;
            Err(ClusterError::AddressTaken { address, owner })
        }
    }
}

async fn lease_first_free(
    shared: &Shared,
    network: NetworkId,
    endpoint: EndpointId,
    candidates: impl Iterator<Item = IpAddr> + Send,
) -> Result<IpAddr, ClusterError> {
    // Send queued releases first: one of them may be for a candidate.
    session::send_releases(shared).await?;
    let _shared_lock = shared.claim_lock.read().await;
    let (mut batch_size, mut tried) = (FIRST_BATCH, 0);
    let mut candidates = candidates.peekable();
    loop {
        let batch = next_batch(&mut candidates, batch_size);
        if batch.is_empty() {
            return Err(ClusterError::Full { tried });
        }
        loop {
            let free = find_free(shared, network, endpoint, &batch).await?;
            if free.is_empty() {
                break;
            }
            // If other hosts claimed all of these at the same moment, more of the batch may be
            // free.
            if let Ok(address) = claim(shared, network, endpoint, &free).await? {
                return Ok(address);
            }
        }
        tried += batch.len();
        batch_size = (batch_size * 4).min(MAX_BATCH);
    }
}

/// Returns up to `size` candidates in ascending order: a look-up reads all keys from the lowest to
/// the highest one of a batch.
fn next_batch(candidates: &mut Peekable<impl Iterator<Item = IpAddr>>, size: usize) -> Vec<IpAddr> {
    let mut batch = Vec::new();
    while batch.len() < size
        && let Some(next) = candidates.next_if(|next| batch.last().is_none_or(|last| last < next))
    {
        batch.push(next);
    }
    batch
}

/// Returns up to [`CANDIDATES_PER_CLAIM`] addresses of the batch that were free in the latest read.
async fn find_free(
    shared: &Shared,
    network: NetworkId,
    endpoint: EndpointId,
    batch: &[IpAddr],
) -> Result<Vec<IpAddr>, ClusterError> {
    let key = |address: &IpAddr| shared.keys.encode(&Key::Address(network, *address));
    let keys: Vec<_> = batch.iter().map(key).collect();
    let (Some(first), Some(last)) = (keys.iter().min(), keys.iter().max()) else { return Ok(Vec::new()) };
    let taken = shared.etcd.keys(TO_LEASE, first, last).await?;
    let is_free = |key: &str| taken.binary_search_by(|taken| taken.key().cmp(key.as_bytes())).is_err();
    let free = batch.iter().zip(&keys).filter(|(_, key)| is_free(key)).map(|(address, _)| *address);
    // While this host has no lease, its addresses are missing in etcd.
    let owned = shared.owned();
    Ok(free
        .filter(|address| owned.other_endpoint_with(network, *address, endpoint).is_none())
        .take(CANDIDATES_PER_CLAIM)
        .collect())
}

/// Claims the first free address of the list. If all are taken, the inner error is the owner of the
/// last one.
async fn claim(
    shared: &Shared,
    network: NetworkId,
    endpoint: EndpointId,
    addresses: &[IpAddr],
) -> Result<Result<IpAddr, String>, ClusterError> {
    let undo = {
        let mut owned = shared.owned();
        // Do not rely on etcd for this host's own addresses: it has none of them while this host
        // has no lease.
        let holder = addresses.iter().find_map(|address| owned.other_endpoint_with(network, *address, endpoint));
        if let Some(holder) = holder {
            return Ok(Err(Owner { host: shared.id, endpoint: holder }.to_string()));
        }
        for address in addresses {
            owned.cancel_release(&Claim::Address(network, *address, endpoint));
        }
        let new = addresses.iter().filter(|address| !owned.has_address(network, **address, endpoint));
        Undo::prepare(shared, new.map(|address| Release::Address(network, *address, endpoint)))
    };
    let write = |lease| shared.claims().addresses(network, addresses, endpoint, lease);
    let (answer, lease) = shared.with_lease(TO_LEASE, write).await?;
    undo.disarm();
    match outcome(&answer) {
        Outcome::Claimed(choice) => {
            let address = addresses[choice];
            shared.owned().record(Claim::Address(network, address, endpoint), lease);
            Ok(Ok(address))
        }
        Outcome::Taken(owner) => Ok(Err(owner)),
        Outcome::NetworkGone => Err(ClusterError::NetworkGone(network)),
    }
}
