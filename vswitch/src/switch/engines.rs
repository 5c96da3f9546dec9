//! What container engines ask of the switch besides what users do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{EndpointInfo, NetworkInfo, NewEndpoint, NewNames, NewNetwork, Switch, SwitchError};
use crate::model::{EngineKey, NetworkName, PublishSpec, check_owner};

/// The interval at which interfaces are looked for that engines move, and networks that are empty.
const FOLLOW: Duration = Duration::from_secs(2);

impl Switch {
    /// Attaches a namespace to a network, which is created first if it does not exist.
    ///
    /// # Errors
    /// Fails as [`Switch::create_network`] and [`Switch::attach`] do.
    pub async fn attach_ensured(
        &self,
        network: NewNetwork,
        mut endpoint: NewEndpoint,
    ) -> Result<EndpointInfo, SwitchError> {
        let _ensuring = self.ensuring.read().await;
        let by_name = network.network.engine.is_none().then(|| network.network.name.to_string());
        endpoint.network = match self.create_network(network).await {
            Ok(network) => network.network.id.to_string(),
            Err(error) => match (by_name, error) {
                (Some(name), SwitchError::NetworkExists(_)) => name,
                (_, error) => return Err(error),
            },
        };
        self.endpoints.attach(endpoint).await
    }

    /// Notes where an engine moves the interface of an endpoint: the path of a namespace, which may
    /// not exist yet, or back into the daemon's namespace.
    ///
    /// # Errors
    /// The endpoint does not exist, or no engine moves its interface.
    pub async fn set_sandbox(&self, reference: &str, sandbox: Option<PathBuf>) -> Result<EndpointInfo, SwitchError> {
        self.endpoints.set_sandbox(reference, sandbox).await
    }

    /// Replaces the published ports of an endpoint. Without `hold`, another process holds them.
    ///
    /// # Errors
    /// The endpoint does not exist, its network cannot publish ports, or a port is in use; then
    /// nothing has changed.
    pub async fn set_published(
        &self,
        reference: &str,
        publish: Vec<PublishSpec>,
        hold: bool,
    ) -> Result<EndpointInfo, SwitchError> {
        let _change = self.context.begin_change().await?;
        let id = self.context.state().endpoint(reference)?[0].record.id;
        let info = self.endpoints.set_published(id, publish, hold).await?;
        self.endpoints.publish_again(&info.endpoint).await;
        Ok(info)
    }

    /// Gives an endpoint other names.
    ///
    /// # Errors
    /// The endpoint does not exist, or another endpoint that was attached by hand has the name.
    pub async fn rename_endpoint(&self, reference: &str, names: NewNames) -> Result<EndpointInfo, SwitchError> {
        self.endpoints.rename(reference, names).await
    }

    /// Gives a network of an engine another name.
    ///
    /// # Errors
    /// The network does not exist or was created by hand, or another one has the name.
    pub async fn rename_network(&self, reference: &str, name: NetworkName) -> Result<NetworkInfo, SwitchError> {
        let network = self.networks.rename_network(reference, name).await?;
        Ok(self.observe.network_info(&network))
    }

    /// Detaches the endpoint that an engine gave this key, and returns its name. A missing one is no
    /// error.
    ///
    /// # Errors
    /// The kernel refused a change; then the endpoint is still attached.
    pub async fn detach_owned(&self, key: &EngineKey) -> Result<Vec<String>, SwitchError> {
        let detached = self.endpoints.detach_owned(key).await?;
        self.remove_empty_networks().await;
        Ok(detached)
    }

    /// Detaches the endpoints of an engine, in a network or in all, whose keys are not `valid`.
    ///
    /// # Errors
    /// The network does not exist, or the kernel refused a change.
    pub async fn collect(
        &self,
        owner: &str,
        network: Option<&str>,
        valid: &[String],
    ) -> Result<Vec<String>, SwitchError> {
        check_owner(owner)?;
        let network = match network.map(|network| self.context.state().network(network).map(|entry| entry.record.id)) {
            // A removed network has no endpoints.
            Some(Err(SwitchError::NetworkNotFound(_))) => return Ok(Vec::new()),
            found => found.transpose()?,
        };
        let detached = self.endpoints.collect(owner, network, valid).await?;
        self.remove_empty_networks().await;
        Ok(detached)
    }

    /// Returns the endpoint that an engine gave this key.
    pub fn owned(&self, key: &EngineKey) -> Option<EndpointInfo> {
        let state = self.context.snapshot();
        let endpoint = state.owned(key)?.record.clone();
        let network = state.networks.get(&endpoint.network)?.record.clone();
        Some(EndpointInfo { endpoint, network })
    }

    /// Returns the network that an engine gave this name.
    pub fn network_of(&self, owner: &str, external_id: &str) -> Option<NetworkInfo> {
        let network = self.context.snapshot().external(owner, external_id)?.record.clone();
        Some(self.observe.network_info(&network))
    }

    /// Removes the networks whose engine does not say when they are gone, once they are empty.
    async fn remove_empty_networks(&self) {
        // A network that is ensured at this moment is about to get an endpoint.
        let Ok(_only) = self.ensuring.try_write() else { return };
        let empty: Vec<String> = {
            let state = self.context.state();
            let networks = state.networks.values().filter(|entry| {
                entry.ready && entry.record.engine.as_ref().is_some_and(|engine| engine.remove_when_empty)
            });
            let empty = networks.filter(|entry| state.endpoints_of(entry.record.id).next().is_none());
            empty.map(|entry| entry.record.id.to_string()).collect()
        };
        for network in empty {
            match self.networks.remove_network(&network).await {
                Ok(name) => tracing::info!("network {name} is removed: its last endpoint is gone"),
                Err(SwitchError::ActiveEndpoints { .. } | SwitchError::NetworkNotFound(_)) => {}
                Err(error) => tracing::warn!("a network without endpoints is still here: {error}"),
            }
        }
    }

    /// Follows what engines do without telling, for as long as the daemon lives.
    pub(super) async fn follow_engines(self: Arc<Self>) {
        self.renew_leases();
        let mut again = tokio::time::interval(FOLLOW);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            let forgotten = match self.context.begin_change().await {
                Ok(_change) => {
                    self.end_leases();
                    self.endpoints.follow_left().await
                }
                Err(_) => return,
            };
            for key in forgotten {
                match self.endpoints.detach_owned(&key).await {
                    Ok(_) => tracing::warn!("endpoint {key} is released: no container took its interface"),
                    Err(error) => tracing::warn!("endpoint {key}, which no container took, is still here: {error}"),
                }
            }
            self.remove_empty_networks().await;
        }
    }
}
