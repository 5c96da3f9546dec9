//! The lease of this host: got, kept alive, and got anew, with all that hangs on it.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::time::{Instant, sleep, timeout};

use super::addresses::describe;
use super::claims::{Outcome, outcome};
use super::client::{Released, Shared, json};
use super::error::ClusterError;
use super::etcd::{DEADLINE, put};
use super::keys::Key;
use super::owned::{Claim, Release};

/// How many claims or releases are in one transaction; etcd takes 128.
const BATCH: usize = 32;
/// How long the keeper waits after a failure before it tries again.
const PAUSE: Duration = Duration::from_millis(500);

/// How many signs of life fit into a lease: two may get lost.
pub(super) const BEATS: u32 = 3;
/// How many leases pass between two looks at what is attached to this host's.
const SWEEP: u32 = 4;

const REGISTER: &str = "to register this host";
const KEEP: &str = "to keep this host registered";
const ANNOUNCE: &str = "to announce what this host has";
const RELEASE: &str = "to take back what this host had";
const LOOK: &str = "to see what this host has";

/// Gets a lease, and registers the host under it.
///
/// # Errors
/// Those of etcd.
pub(super) async fn register(shared: &Shared) -> Result<i64, ClusterError> {
    let lease = shared.etcd.grant(REGISTER).await?;
    let key = shared.keys.encode(&Key::Host(shared.id));
    let host = put(&key, shared.host_json()?, Some(lease));
    shared.etcd.txn(REGISTER, Txn::new().and_then([host])).await?;
    shared.lease.send_replace(Some(lease));
    // For `status` only.
    if let Ok(members) = shared.etcd.members(REGISTER).await {
        shared.etcd.monitor.note(|health| health.members = members);
    }
    Ok(lease)
}

/// Keeps the host registered for ever.
pub(super) async fn keep(shared: Arc<Shared>, mut lease: Option<i64>) {
    let mut swept = Instant::now();
    loop {
        let Some(alive) = lease else {
            match register(&shared).await {
                Ok(new) => {
                    tracing::info!("registered in the cluster");
                    lease = Some(new);
                }
                Err(error) => {
                    tracing::debug!("not registered in the cluster: {error}");
                    sleep(PAUSE).await;
                }
            }
            continue;
        };
        let result = match shared.etcd.keep_alive(KEEP, alive).await {
            Ok(()) => catch_up(&shared, alive, &mut swept).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {
                // Either way it is time.
                let _ = timeout(shared.beat, shared.wake.notified()).await;
            }
            Err(ClusterError::LeaseLost) => {
                tracing::warn!("the registration in the cluster has expired, and is made anew");
                shared.lost(alive);
                lease = None;
            }
            Err(error) => {
                tracing::debug!("the registration in the cluster is not kept up: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Does what had to wait for etcd, announces what is not under this lease, and now and then looks for what is too much.
async fn catch_up(shared: &Shared, lease: i64, swept: &mut Instant) -> Result<(), ClusterError> {
    flush(shared).await?;
    announce(shared, lease).await?;
    if swept.elapsed() > shared.beat * BEATS * SWEEP {
        sweep(shared, lease).await?;
        *swept = Instant::now();
    }
    Ok(())
}

/// Deletes what is attached to the lease and is nobody's here. A member that hung may carry out a request long after another
/// did, and after what came of it was taken back.
async fn sweep(shared: &Shared, lease: i64) -> Result<(), ClusterError> {
    let _alone = shared.order.write().await;
    let attached = shared.etcd.attached(LOOK, lease).await?;
    let ours = shared.owned().keys();
    let is_stray = |key: &&Vec<u8>| match shared.keys.decode(key) {
        Some(Key::Host(_)) | None => false,
        Some(key) => !ours.contains(&key),
    };
    for key in attached.iter().filter(is_stray) {
        tracing::warn!(key = %String::from_utf8_lossy(key), "what this host gave up is still in etcd, and is deleted");
        let still = Compare::lease(key.as_slice(), CompareOp::Equal, lease);
        let delete = TxnOp::delete(key.as_slice(), None);
        shared.etcd.txn(RELEASE, Txn::new().when([still]).and_then([delete])).await?;
    }
    Ok(())
}

/// Takes back what is to be taken back.
///
/// # Errors
/// Those of etcd; what was not taken back is still noted.
pub(super) async fn flush(shared: &Shared) -> Result<(), ClusterError> {
    if shared.owned().pending_count() == 0 {
        return Ok(());
    }
    let _alone = shared.order.write().await;
    loop {
        let batch = shared.owned().pending(BATCH);
        if batch.is_empty() {
            return Ok(());
        }
        let claims = shared.claims();
        let releases: Vec<_> = batch.iter().map(|release| TxnOp::txn(claims.release(release))).collect();
        shared.etcd.txn(RELEASE, Txn::new().and_then(releases)).await?;
        shared.owned().released(&batch);
    }
}

/// Gives something up, at once where etcd answers.
pub(super) async fn release(shared: &Shared, release: Release) -> Released {
    shared.owned().give_up(release.clone());
    // It has not answered others: nobody is to wait for it to find out anew.
    if shared.etcd.monitor.snapshot().unreachable.is_none()
        && let Ok(Err(error)) = timeout(DEADLINE, flush(shared)).await
    {
        tracing::debug!("a release waits for etcd: {error}");
    }
    if shared.owned().is_pending(&release) {
        shared.wake.notify_one();
        return Released::Later;
    }
    Released::Done
}

/// What a change that is under way may leave in etcd without this host knowing. It is taken back, unless the change is
/// known to have come to an end: also if whoever waited for it has gone.
pub(super) struct Undo<'a> {
    shared: &'a Shared,
    releases: Vec<Release>,
}

impl<'a> Undo<'a> {
    /// To be made before the change.
    pub(super) fn of(shared: &'a Shared, releases: impl IntoIterator<Item = Release>) -> Self {
        Self { shared, releases: releases.into_iter().collect() }
    }

    /// etcd has answered, so this host knows what it has.
    pub(super) fn forget(mut self) {
        self.releases.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for release in self.releases.drain(..) {
            self.shared.owned().give_up(release);
        }
    }
}

/// Announces what was announced under another lease: the addresses first, and no endpoint that has lost one of its own.
async fn announce(shared: &Shared, lease: i64) -> Result<(), ClusterError> {
    if !shared.owned().lacks(lease) {
        return Ok(());
    }
    let _alone = shared.order.write().await;
    let addresses = shared.owned().unannounced_addresses(lease);
    announce_all(shared, lease, &addresses).await?;
    let endpoints = shared.owned().unannounced_endpoints(lease);
    announce_all(shared, lease, &endpoints).await
}

async fn announce_all(shared: &Shared, lease: i64, claims: &[Claim]) -> Result<(), ClusterError> {
    for batch in claims.chunks(BATCH) {
        let again = batch.iter().map(|claim| {
            let json = match claim {
                Claim::Address(..) => String::new(),
                Claim::Endpoint(endpoint) => json(&endpoint.name.to_string(), endpoint)?,
            };
            Ok(TxnOp::txn(shared.claims().again(claim, &json, lease)))
        });
        let again: Vec<_> = again.collect::<Result<_, ClusterError>>()?;
        let answer = shared.etcd.txn(ANNOUNCE, Txn::new().and_then(again)).await?;
        for (claim, answer) in batch.iter().zip(inner(&answer)) {
            let result = match outcome(&answer) {
                Outcome::Ours(_) => Ok(lease),
                Outcome::Taken(owner) => Err(conflict(shared, claim, &taken(shared, claim, owner).await)),
                Outcome::NetworkGone => Err(conflict(shared, claim, "is in a network that was removed meanwhile")),
            };
            let text = result.clone().err().unwrap_or_default();
            if shared.owned().announced(claim, result) {
                tracing::error!("{text}");
            }
        }
    }
    Ok(())
}

/// By whom something was taken, as well as etcd says it.
async fn taken(shared: &Shared, claim: &Claim, owner: String) -> String {
    let network = match claim {
        Claim::Address(network, ..) => *network,
        Claim::Endpoint(endpoint) => endpoint.network,
    };
    format!("was taken meanwhile by {}", describe(shared, ANNOUNCE, network, &owner).await.unwrap_or(owner))
}

fn conflict(shared: &Shared, claim: &Claim, what: &str) -> String {
    let whose = match claim {
        Claim::Address(network, address, endpoint) => {
            let name = shared.owned().endpoint(*network, *endpoint).map(|endpoint| endpoint.name.to_string());
            format!("address {address} of endpoint {}", name.unwrap_or_else(|| endpoint.short()))
        }
        Claim::Endpoint(endpoint) => format!("the name of endpoint {}", endpoint.name),
    };
    format!("{whose} {what} (detach the endpoint, and attach it again)")
}

fn inner(response: &TxnResponse) -> Vec<TxnResponse> {
    let inner = |response| if let TxnOpResponse::Txn(inner) = response { Some(inner) } else { None };
    response.op_responses().into_iter().filter_map(inner).collect()
}
