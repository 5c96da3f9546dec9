//! Endpoints: announced by the host that they are on.

use super::claims::{Outcome, Written, outcome};
use super::client::{Cluster, Released, json};
use super::error::ClusterError;
use super::keys::Key;
use super::owned::{Claim, Release};
use super::records::{Owner, SharedEndpoint};
use super::session::{self, Undo};
use crate::model::{EndpointId, NetworkId};

const PUT: &str = "to announce an endpoint";

impl Cluster {
    /// Announces an endpoint of this host, or what has changed of it. Whatever its record says, its host is this one.
    ///
    /// # Errors
    /// [`ClusterError::EndpointTaken`] if another endpoint in the network has the name, [`ClusterError::NetworkGone`] if
    /// there is no such network; [`ClusterError::Unreachable`] and the like, and then it is not announced.
    pub async fn put_endpoint(&self, endpoint: SharedEndpoint) -> Result<(), ClusterError> {
        let shared = &*self.shared;
        let endpoint = SharedEndpoint { host: shared.id, ..endpoint };
        let json = json(&shared.keys.encode(&Key::Endpoint(endpoint.network, endpoint.id)), &endpoint)?;
        // Nor is a name in the way that this host has given up.
        session::flush(shared).await?;
        let _order = shared.order.read().await;
        let before = shared.owned().endpoint(endpoint.network, endpoint.id).cloned();
        shared.owned().keep(&Claim::Endpoint(endpoint.clone()));
        let former = before.as_ref().filter(|before| before.name != endpoint.name);
        let written = Written { endpoint: &endpoint, json, former };
        let write = |lease| shared.claims().endpoint(&written, lease);
        // One that was announced before stays so.
        let new = before.is_none().then(|| Release::Endpoint(endpoint.network, endpoint.id, endpoint.name.clone()));
        let undo = Undo::of(shared, new);
        let (answer, lease) = shared.with_lease(PUT, write).await?;
        undo.forget();
        match outcome(&answer) {
            Outcome::Ours(_) => {
                shared.owned().hold(Claim::Endpoint(endpoint), lease);
                Ok(())
            }
            Outcome::Taken(owner) => {
                let host = match owner.parse::<Owner>() {
                    Ok(owner) => shared.host_name(PUT, owner.host).await?,
                    Err(error) => error.to_string(),
                };
                Err(ClusterError::EndpointTaken { name: endpoint.name, host })
            }
            Outcome::NetworkGone => Err(ClusterError::NetworkGone(endpoint.network)),
        }
    }

    /// Takes an endpoint of this host back; nothing to do if it was not announced since the start. It never fails: while
    /// etcd is away, it is done later.
    pub async fn remove_endpoint(&self, network: NetworkId, id: EndpointId) -> Released {
        let name = self.shared.owned().endpoint(network, id).map(|endpoint| endpoint.name.clone());
        match name {
            Some(name) => session::release(&self.shared, Release::Endpoint(network, id, name)).await,
            None => Released::Done,
        }
    }
}
