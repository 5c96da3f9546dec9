//! Announcement of endpoints. Each is announced by its own host.

use super::claims::{EndpointWrite, Outcome, outcome};
use super::client::Cluster;
use super::error::ClusterError;
use super::keys::Key;
use super::owned::{Claim, Release};
use super::records::{Owner, SharedEndpoint};
use super::session::{self, Undo};
use super::shared::{Released, to_json};
use crate::model::{EndpointId, NetworkId};

const TO_ANNOUNCE: &str = "to announce an endpoint";

impl Cluster {
    /// Announces an endpoint of this host, or its changes. Replaces the host in the record by this
    /// one.
    ///
    /// # Errors
    /// [`ClusterError::EndpointTaken`] if another endpoint of the network has the name,
    /// [`ClusterError::NetworkGone`] if the network does not exist. [`ClusterError::Unreachable`]
    /// and other errors of etcd: a new endpoint is not announced.
    pub async fn put_endpoint(&self, endpoint: SharedEndpoint) -> Result<(), ClusterError> {
        let shared = &*self.shared;
        let endpoint = SharedEndpoint { host: shared.id, ..endpoint };
        let json = to_json(&shared.keys.encode(&Key::Endpoint(endpoint.network, endpoint.id)), &endpoint)?;
        // Send queued releases first: one of them may be for this name.
        session::send_releases(shared).await?;
        let _shared_lock = shared.claim_lock.read().await;
        let before = shared.owned().endpoint(endpoint.network, endpoint.id).cloned();
        shared.owned().cancel_release(&Claim::Endpoint(endpoint.clone()));
        let former = before.as_ref().filter(|before| before.name != endpoint.name);
        let written = EndpointWrite { endpoint: &endpoint, json, former };
        let write = |lease| shared.claims().endpoint(&written, lease);
        // If the change fails, an endpoint that was announced before stays announced.
        let new = before.is_none().then(|| Release::Endpoint(endpoint.network, endpoint.id, endpoint.name.clone()));
        let undo = Undo::prepare(shared, new);
        let (answer, lease) = shared.with_lease(TO_ANNOUNCE, write).await?;
        undo.disarm();
        match outcome(&answer) {
            Outcome::Claimed(_) => {
                shared.owned().record(Claim::Endpoint(endpoint), lease);
                Ok(())
            }
            Outcome::Taken(owner) => {
                let host = match owner.parse::<Owner>() {
                    Ok(owner) => shared.host_name(TO_ANNOUNCE, owner.host).await?,
                    Err(error) => error.to_string(),
                };
                Err(ClusterError::EndpointTaken { name: endpoint.name, host })
            }
            Outcome::NetworkGone => Err(ClusterError::NetworkGone(endpoint.network)),
        }
    }

    /// Removes an endpoint of this host. Does nothing if it was not announced since the start.
    /// Never fails: while etcd is unreachable, the release is queued.
    pub async fn remove_endpoint(&self, network: NetworkId, id: EndpointId) -> Released {
        let name = self.shared.owned().endpoint(network, id).map(|endpoint| endpoint.name.clone());
        match name {
            Some(name) => session::release(&self.shared, Release::Endpoint(network, id, name)).await,
            None => Released::Done,
        }
    }
}
