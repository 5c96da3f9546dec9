//! What the engines ask of their endpoints after the attach: where an interface went, other names,
//! the end.

use std::path::PathBuf;

use time::Duration;

use crate::model::{Endpoint, EndpointId, EndpointName, EngineKey, InterfaceName, LeftInterface, NetworkId, Phase};
use crate::plan::store::Change;
use crate::switch::context::now;
use crate::switch::endpoints::Endpoints;
use crate::switch::endpoints::attach::nowhere;
use crate::switch::error::SwitchError;
use crate::switch::info::EndpointInfo;

/// The time for which an interface waits for its engine to move it into a container.
const WAIT_FOR_ENGINE: Duration = Duration::seconds(60);

/// New names of an endpoint. `None` leaves a name as it is.
#[derive(Clone, Debug, Default)]
pub struct NewNames {
    /// The name.
    pub name: Option<EndpointName>,
    /// The aliases.
    pub aliases: Option<Vec<String>>,
    /// The host name.
    pub hostname: Option<String>,
}

impl Endpoints {
    /// Notes where an engine moves the interface of an endpoint: the path of a namespace, which may
    /// not exist yet, or back into the daemon's namespace. It is on disk when this returns.
    ///
    /// # Errors
    /// The endpoint does not exist, or no engine moves its interface.
    pub async fn set_sandbox(&self, reference: &str, sandbox: Option<PathBuf>) -> Result<EndpointInfo, SwitchError> {
        let _change = self.context.begin_change().await?;
        if let Some(path) = sandbox.as_ref().filter(|path| !path.is_absolute()) {
            return Err(SwitchError::RelativePath(path.clone()));
        }
        let (info, recorded) = {
            let mut state = self.context.state();
            let id = state.endpoint(reference)?[0].record.id;
            let gone = || SwitchError::EndpointNotFound(reference.to_owned());
            let entry = state.endpoints.get_mut(&id).ok_or_else(gone)?;
            let record = &mut entry.record;
            let not_left = || SwitchError::NotLeft(record.name.clone());
            let engine = record.engine.as_mut().ok_or_else(not_left)?;
            let left = engine.left.as_mut().ok_or_else(not_left)?;
            let changed = left.sandbox != sandbox;
            if changed {
                left.since = now();
                engine.container =
                    sandbox.as_ref().map_or_else(|| engine.id.key().to_owned(), |path| path.display().to_string());
                left.sandbox = sandbox;
                let left = left.clone();
                record.netns = nowhere(&left);
                if let Some(address) = record.address.as_mut().filter(|_| left.sandbox.is_none()) {
                    address.ifname = left.name;
                }
            }
            let record = record.clone();
            let recorded = changed.then(|| self.context.store.commit(vec![Change::PutEndpoint(record.clone())]));
            let network = state.networks.get(&record.network).map(|entry| entry.record.clone()).ok_or_else(gone)?;
            (EndpointInfo { endpoint: record, network }, recorded)
        };
        if let Some(recorded) = recorded {
            recorded.await?;
            // The connections of the container changed.
            self.settle_endpoint(&info.endpoint, false).await;
        }
        Ok(info)
    }

    /// Gives an endpoint other names.
    ///
    /// # Errors
    /// The endpoint does not exist, or another endpoint that was attached by hand has the name.
    pub async fn rename(&self, reference: &str, names: NewNames) -> Result<EndpointInfo, SwitchError> {
        let _change = self.context.begin_change().await?;
        let (info, changed, recorded) = {
            let mut state = self.context.state();
            let first = state.endpoint(reference)?[0].record.clone();
            if let Some(name) = &names.name {
                let is_taken =
                    |other: &Endpoint| other.engine.is_none() && other.name == *name && !other.is_with(&first);
                if first.engine.is_none() && state.endpoints.values().any(|entry| is_taken(&entry.record)) {
                    return Err(SwitchError::EndpointExists(name.clone()));
                }
            }
            // A key of an engine stands for one connection, and so do its aliases. A name is that of
            // all connections.
            let connections: Vec<EndpointId> = state.connections(&first).iter().map(|entry| entry.record.id).collect();
            let mut changes = Vec::new();
            for id in connections {
                let Some(entry) = state.endpoints.get_mut(&id) else { continue };
                let record = &mut entry.record;
                if let Some(name) = &names.name {
                    record.name = name.clone();
                }
                if id == first.id || first.engine.is_none() {
                    record.aliases = names.aliases.clone().unwrap_or_else(|| record.aliases.clone());
                }
                record.hostname = names.hostname.clone().or_else(|| record.hostname.clone());
                changes.push(record.clone());
            }
            let gone = || SwitchError::EndpointNotFound(reference.to_owned());
            let endpoint = changes.iter().find(|record| record.id == first.id).cloned().ok_or_else(gone)?;
            let network = state.networks.get(&endpoint.network).map(|entry| entry.record.clone()).ok_or_else(gone)?;
            let networks = |record: &Endpoint| state.networks.get(&record.network).map(|entry| entry.record.clone());
            let changed: Vec<_> =
                changes.iter().filter_map(|record| Some((networks(record)?, record.clone()))).collect();
            let recorded = self.context.store.commit(changes.into_iter().map(Change::PutEndpoint).collect());
            (EndpointInfo { endpoint, network }, changed, recorded)
        };
        recorded.await?;
        for (network, endpoint) in &changed {
            if let Err(error) = self.etcd.announce(network, endpoint).await {
                tracing::warn!("other hosts do not know the new names of {}: {error}", endpoint.name);
            }
        }
        Ok(info)
    }

    /// Detaches the endpoint that an engine gave this key, and returns its name. A missing one is no
    /// error.
    ///
    /// # Errors
    /// The kernel refused a change; then the endpoint is still attached.
    pub async fn detach_owned(&self, key: &EngineKey) -> Result<Vec<String>, SwitchError> {
        let _change = self.context.begin_change().await?;
        let id = self.context.state().owned(key).map(|entry| entry.record.id);
        self.remove_all(id).await
    }

    /// Detaches the endpoints of an engine that it does not know any more: those in a network, or in
    /// all networks, whose keys are not `valid`. Returns their names.
    ///
    /// # Errors
    /// The kernel refused a change; the endpoints before are detached.
    pub async fn collect(
        &self,
        owner: &str,
        network: Option<NetworkId>,
        valid: &[String],
    ) -> Result<Vec<String>, SwitchError> {
        let _change = self.context.begin_change().await?;
        let stale: Vec<EndpointId> = {
            let state = self.context.state();
            let here = state.endpoints.values().map(|entry| &entry.record);
            let here = here.filter(|record| network.is_none_or(|network| record.network == network));
            let stale = here.filter(|record| {
                let engine = record.engine.as_ref().filter(|engine| engine.id.owner() == owner);
                engine.is_some_and(|engine| !valid.iter().any(|key| key == engine.id.key()))
            });
            stale.map(|record| record.id).collect()
        };
        self.remove_all(stale).await
    }

    async fn remove_all(&self, ids: impl IntoIterator<Item = EndpointId>) -> Result<Vec<String>, SwitchError> {
        let mut detached = Vec::new();
        for id in ids {
            if let Some(endpoint) = self.remove(id, false).await? {
                tracing::info!("endpoint {} of {} is detached", endpoint.name, endpoint.owner());
                self.publish_again(&endpoint).await;
                detached.push(endpoint.name.to_string());
            }
        }
        detached.sort();
        Ok(detached)
    }

    /// Follows the interfaces that engines move: records their names in the containers, and returns
    /// the endpoints whose interface no engine took for too long.
    pub async fn follow_left(&self) -> Vec<EngineKey> {
        let left: Vec<Endpoint> = {
            let state = self.context.state();
            let attached = state.endpoints.values().map(|entry| &entry.record);
            attached.filter(|record| record.phase == Phase::Attached && record.left().is_some()).cloned().collect()
        };
        let mut forgotten = Vec::new();
        for endpoint in left {
            let (Some(engine), Some(left), Some(address)) = (&endpoint.engine, endpoint.left(), &endpoint.address)
            else {
                continue;
            };
            if left.sandbox.is_none() {
                if now() - left.since > WAIT_FOR_ENGINE {
                    forgotten.push(engine.id.clone());
                }
            } else if address.ifname == left.name
                && let Some(name) = self.name_inside(&endpoint).await
            {
                self.note_name(endpoint.id, left, name);
            }
        }
        forgotten
    }

    /// Returns the name that the interface of an endpoint has in its container.
    async fn name_inside(&self, endpoint: &Endpoint) -> Option<InterfaceName> {
        let port = self.context.state().endpoints.get(&endpoint.id)?.port?;
        let device = self.context.netlink.link(port.ifindex).await.ok()??;
        let (inside, index) = self.context.interface_of(endpoint, &device).await.ok()?;
        inside.link(index).await.ok()??.name.parse().ok()
    }

    fn note_name(&self, id: EndpointId, left: &LeftInterface, name: InterfaceName) {
        let mut state = self.context.state();
        let Some(entry) = state.endpoints.get_mut(&id) else { return };
        let record = &mut entry.record;
        let unchanged = record.left() == Some(left) && record.phase == Phase::Attached;
        if let Some(address) = record.address.as_mut().filter(|_| unchanged) {
            address.ifname = name;
            self.context.store.note(vec![Change::PutEndpoint(record.clone())]);
        }
    }
}
