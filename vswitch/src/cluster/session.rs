//! The lease of this host: requests it, keeps it alive, and replaces it together with all attached
//! keys.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::time::{Instant, sleep, timeout};

use super::claims::{Outcome, outcome};
use super::error::ClusterError;
use super::etcd::{DEADLINE, put};
use super::keys::Key;
use super::owned::{Claim, Release};
use super::shared::{KEEP_ALIVES_PER_LEASE, Released, Shared, to_json};

/// Number of claims or releases in one transaction. etcd accepts 128 operations.
const BATCH: usize = 32;
/// Pause of the keeper after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Lease periods between two sweeps of the keys that are attached to the lease.
const LEASES_PER_SWEEP: u32 = 4;

const TO_REGISTER: &str = "to register this host";
const TO_KEEP_ALIVE: &str = "to keep this host registered";
const TO_ANNOUNCE: &str = "to announce the claims of this host";
const TO_RELEASE: &str = "to release claims of this host";
const TO_SWEEP: &str = "to list the keys of this host";

/// Requests a lease and writes this host's record under it.
///
/// # Errors
/// Those of etcd.
pub(super) async fn register(shared: &Shared) -> Result<i64, ClusterError> {
    let lease = shared.etcd.grant(TO_REGISTER).await?;
    let key = shared.keys.encode(&Key::Host(shared.id));
    let host = put(&key, shared.host_json()?, Some(lease));
    shared.etcd.txn(TO_REGISTER, Txn::new().and_then([host])).await?;
    shared.lease.send_replace(Some(lease));
    // The member count is for `status` only, so a failure does not matter.
    if let Ok(members) = shared.etcd.members(TO_REGISTER).await {
        shared.etcd.monitor.update(|health| health.members = members);
    }
    Ok(lease)
}

/// Keeps this host registered. Never returns.
pub(super) async fn keep_registered(shared: Arc<Shared>, mut lease: Option<i64>) {
    let mut last_sweep = Instant::now();
    loop {
        let Some(lease_id) = lease else {
            match register(&shared).await {
                Ok(new) => {
                    tracing::info!("registered in the cluster");
                    lease = Some(new);
                }
                Err(error) => {
                    tracing::debug!("cannot register this host in the cluster: {error}");
                    sleep(RETRY_PAUSE).await;
                }
            }
            continue;
        };
        let result = match shared.etcd.keep_alive(TO_KEEP_ALIVE, lease_id).await {
            Ok(()) => catch_up(&shared, lease_id, &mut last_sweep).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {
                // A wake-up and the end of the interval have the same effect.
                let _ = timeout(shared.keep_alive_interval, shared.wake.notified()).await;
            }
            Err(ClusterError::LeaseLost) => {
                tracing::warn!("the lease of this host in the cluster has expired; a new one is requested");
                shared.mark_lease_lost(lease_id);
                lease = None;
            }
            Err(error) => {
                tracing::debug!("cannot keep this host registered in the cluster: {error}");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Sends queued releases, announces claims that are not under this lease, and sweeps every
/// [`LEASES_PER_SWEEP`] lease periods.
async fn catch_up(shared: &Shared, lease: i64, last_sweep: &mut Instant) -> Result<(), ClusterError> {
    send_releases(shared).await?;
    announce(shared, lease).await?;
    if last_sweep.elapsed() > shared.keep_alive_interval * KEEP_ALIVES_PER_LEASE * LEASES_PER_SWEEP {
        sweep(shared, lease).await?;
        *last_sweep = Instant::now();
    }
    Ok(())
}

/// Deletes keys that are attached to the lease but belong to no claim of this host. Such a key
/// appears when a member that hung carries out a claim late: after the retry on another member, and
/// after the release.
async fn sweep(shared: &Shared, lease: i64) -> Result<(), ClusterError> {
    let _exclusive_lock = shared.claim_lock.write().await;
    let attached = shared.etcd.attached(TO_SWEEP, lease).await?;
    let own_keys = shared.owned().keys();
    let is_stray = |key: &&Vec<u8>| match shared.keys.decode(key) {
        Some(Key::Host(_)) | None => false,
        Some(key) => !own_keys.contains(&key),
    };
    for key in attached.iter().filter(is_stray) {
        tracing::warn!(key = %String::from_utf8_lossy(key), "a released key is still in etcd and is deleted");
        let attached = Compare::lease(key.as_slice(), CompareOp::Equal, lease);
        let delete = TxnOp::delete(key.as_slice(), None);
        shared.etcd.txn(TO_RELEASE, Txn::new().when([attached]).and_then([delete])).await?;
    }
    Ok(())
}

/// Sends the queued releases.
///
/// # Errors
/// Those of etcd. Releases that were not carried out stay queued.
pub(super) async fn send_releases(shared: &Shared) -> Result<(), ClusterError> {
    if shared.owned().pending_count() == 0 {
        return Ok(());
    }
    let _exclusive_lock = shared.claim_lock.write().await;
    loop {
        let batch = shared.owned().pending(BATCH);
        if batch.is_empty() {
            return Ok(());
        }
        let claims = shared.claims();
        let releases: Vec<_> = batch.iter().map(|release| TxnOp::txn(claims.release(release))).collect();
        shared.etcd.txn(TO_RELEASE, Txn::new().and_then(releases)).await?;
        shared.owned().remove_released(&batch);
    }
}

/// Queues a release, and sends it at once if etcd is reachable.
pub(super) async fn release(shared: &Shared, release: Release) -> Released {
    shared.owned().queue_release(release.clone());
    // While etcd is known to be unreachable, the caller does not wait for another timeout.
    if shared.etcd.monitor.snapshot().unreachable.is_none()
        && let Ok(Err(error)) = timeout(DEADLINE, send_releases(shared)).await
    {
        tracing::debug!("a release is queued until etcd answers: {error}");
    }
    if shared.owned().is_pending(&release) {
        shared.wake.notify_one();
        return Released::Later;
    }
    Released::Done
}

/// Releases for a change in progress. They are queued on drop, because the change may have reached
/// etcd without an answer, or the caller's future was dropped. [`Undo::disarm`] cancels them once
/// etcd has answered.
pub(super) struct Undo<'a> {
    shared: &'a Shared,
    releases: Vec<Release>,
}

impl<'a> Undo<'a> {
    /// Prepares the releases. Must be called before the change is sent.
    pub(super) fn prepare(shared: &'a Shared, releases: impl IntoIterator<Item = Release>) -> Self {
        Self { shared, releases: releases.into_iter().collect() }
    }

    /// Cancels the releases: etcd has answered, so the result of the change is known.
    pub(super) fn disarm(mut self) {
        self.releases.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for release in self.releases.drain(..) {
            self.shared.owned().queue_release(release);
        }
    }
}

/// Announces the claims that are under an older lease: addresses first, then the endpoints that
/// have lost no address.
async fn announce(shared: &Shared, lease: i64) -> Result<(), ClusterError> {
    if !shared.owned().has_unannounced(lease) {
        return Ok(());
    }
    let _exclusive_lock = shared.claim_lock.write().await;
    let addresses = shared.owned().unannounced_addresses(lease);
    announce_all(shared, lease, &addresses).await?;
    let endpoints = shared.owned().unannounced_endpoints(lease);
    announce_all(shared, lease, &endpoints).await
}

async fn announce_all(shared: &Shared, lease: i64, claims: &[Claim]) -> Result<(), ClusterError> {
    for batch in claims.chunks(BATCH) {
        let claims = batch.iter().map(|claim| {
            let json = match claim {
                Claim::Address(..) => String::new(),
                Claim::Endpoint(endpoint) => to_json(&endpoint.name.to_string(), endpoint)?,
            };
            Ok(TxnOp::txn(shared.claims().reclaim(claim, &json, lease)))
        });
        let claims: Vec<_> = claims.collect::<Result<_, ClusterError>>()?;
        let answer = shared.etcd.txn(TO_ANNOUNCE, Txn::new().and_then(claims)).await?;
        for (claim, answer) in batch.iter().zip(inner_responses(&answer)) {
            let result = match outcome(&answer) {
                Outcome::Claimed(_) => Ok(lease),
                Outcome::Taken(owner) => {
                    Err(describe_conflict(shared, claim, &describe_taken(shared, claim, owner).await))
                }
                Outcome::NetworkGone => {
                    Err(describe_conflict(shared, claim, "is in a network that was removed meanwhile"))
                }
            };
            let text = result.clone().err().unwrap_or_default();
            if shared.owned().set_announced(claim, result) {
                tracing::error!("{text}");
            }
        }
    }
    Ok(())
}

/// Describes the owner of a claim that was taken meanwhile. Falls back to the raw owner if etcd
/// does not answer.
async fn describe_taken(shared: &Shared, claim: &Claim, owner: String) -> String {
    let network = match claim {
        Claim::Address(network, ..) => *network,
        Claim::Endpoint(endpoint) => endpoint.network,
    };
    format!("was taken meanwhile by {}", shared.describe_owner(TO_ANNOUNCE, network, &owner).await.unwrap_or(owner))
}

fn describe_conflict(shared: &Shared, claim: &Claim, problem: &str) -> String {
    let subject = match claim {
        Claim::Address(network, address, endpoint) => {
            let name = shared.owned().endpoint(*network, *endpoint).map(|endpoint| endpoint.name.to_string());
            format!("address {address} of endpoint {}", name.unwrap_or_else(|| endpoint.short()))
        }
        Claim::Endpoint(endpoint) => format!("the name of endpoint {}", endpoint.name),
    };
    format!("{subject} {problem} (detach the endpoint, and attach it again)")
}

fn inner_responses(response: &TxnResponse) -> Vec<TxnResponse> {
    let inner = |response| if let TxnOpResponse::Txn(inner) = response { Some(inner) } else { None };
    response.op_responses().into_iter().filter_map(inner).collect()
}
