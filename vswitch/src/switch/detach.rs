//! `detach`, and the reaping of endpoints whose device is gone: an endpoint becomes nothing.

use std::path::Path;

use vswitch_common::tables::PortNumber;

use super::state::{EndpointEntry, State};
use super::{Switch, SwitchError};
use crate::api::{DetachRequest, Detached, DisconnectRequest};
use crate::apply::ApplyError;
use crate::kernel::netns::Netns;
use crate::model::{Endpoint, EndpointId, Owner};

impl Switch {
    /// Detaches an endpoint, or all that is attached at a namespace. What is gone already is no error.
    ///
    /// # Errors
    /// What is wrong with the request, or what the kernel refused; then the endpoint is still there.
    pub async fn detach(&self, request: DetachRequest) -> Result<Detached, SwitchError> {
        let _leave = self.leave().await?;
        let netns = match &request.netns {
            Some(path) if !path.is_absolute() => return Err(SwitchError::RelativePath(path.clone())),
            Some(path) => open_if_there(path).await?,
            None => None,
        };
        let mut detached = Vec::new();
        let mut left = chosen(&self.state(), &request, netns.as_ref())?;
        // Somebody may connect it to another network at the same time: until there is nothing left of it.
        while !left.is_empty() {
            for id in left {
                if let Some(endpoint) = self.remove(id).await? {
                    tracing::info!("endpoint {} is detached from {}", endpoint.name, endpoint.netns.path.display());
                    detached.push(endpoint.name.to_string());
                }
            }
            let again = DetachRequest { endpoint: detached.last().cloned(), ..request.clone() };
            left = chosen_by_name(&self.state(), &again);
        }
        detached.sort();
        // One in several networks is one endpoint.
        detached.dedup();
        Ok(Detached { detached })
    }

    /// Removes an endpoint with all that was made for it; `None` if somebody else has.
    async fn remove(&self, id: EndpointId) -> Result<Option<Endpoint>, SwitchError> {
        let Some(exclusive) = self.state().endpoints.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(None);
        };
        let _exclusive = exclusive.lock().await;
        let found = self.state().endpoints.get(&id).map(|entry| (entry.record.clone(), entry.port));
        let Some((endpoint, port)) = found else { return Ok(None) };
        if let Some(port) = port {
            // The device first: there is no moment in which its frames meet no program.
            self.delete_device(port.ifindex, &Owner::Endpoint(id)).await?;
            self.remove_port(port.number).await?;
        }
        self.close_outside(&endpoint).await;
        self.forget(id).await;
        self.settle_endpoint(&endpoint, true).await;
        Ok(Some(endpoint))
    }

    /// Takes an endpoint out of one network, while traffic flows in the others.
    ///
    /// # Errors
    /// It is not in it, or what the kernel refused.
    pub async fn disconnect(&self, network: &str, request: &DisconnectRequest) -> Result<Detached, SwitchError> {
        let _leave = self.leave().await?;
        let id = {
            let state = self.state();
            let network = &state.network(network)?.record;
            let endpoint = &state.endpoint(&request.endpoint)?[0].record.name;
            let not_connected =
                || SwitchError::NotConnected { endpoint: endpoint.to_string(), network: network.name.clone() };
            state.endpoint_in(endpoint, network.id).ok_or_else(not_connected)?.record.id
        };
        let removed = self.remove(id).await?;
        Ok(Detached { detached: removed.into_iter().map(|endpoint| endpoint.name.to_string()).collect() })
    }

    /// Releases an endpoint whose device went away without us: its namespace was deleted, or somebody removed it.
    pub(super) async fn reap(&self, id: EndpointId, ifindex: u32) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let Some(exclusive) = self.state().endpoints.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = self.state().endpoints.get(&id).map(|entry| (entry.record.clone(), entry.port));
        let Some((endpoint, Some(port))) = found else { return Ok(()) };
        if port.ifindex != ifindex || self.is_ours(ifindex, &Owner::Endpoint(id)).await? {
            return Ok(());
        }
        self.remove_port(port.number).await?;
        self.close_outside(&endpoint).await;
        self.forget(id).await;
        self.settle_endpoint(&endpoint, true).await;
        tracing::info!(
            "endpoint {} is released: its device went away with {}",
            endpoint.name,
            endpoint.netns.path.display()
        );
        Ok(())
    }

    /// Makes a port a plain device again.
    pub(super) async fn remove_port(&self, number: PortNumber) -> Result<(), SwitchError> {
        let datapath = self.datapath.clone();
        let removed = tokio::task::spawn_blocking(move || datapath.remove_port(number)).await;
        removed.map_err(ApplyError::from)??;
        self.forget_listener(number)
    }

    /// Deletes a device, if it is there and bears the mark.
    pub(super) async fn delete_device(&self, ifindex: u32, owner: &Owner) -> Result<(), SwitchError> {
        if self.is_ours(ifindex, owner).await? {
            self.netlink.delete_link(ifindex).await?;
        }
        Ok(())
    }

    async fn is_ours(&self, ifindex: u32, owner: &Owner) -> Result<bool, SwitchError> {
        let link = self.netlink.link(ifindex).await?;
        let alias = link.and_then(|link| link.alias);
        Ok(alias.is_some_and(|alias| self.instance.owner(&alias).as_ref() == Some(owner)))
    }
}

/// The namespace, unless there is none any more.
async fn open_if_there(path: &Path) -> Result<Option<Netns>, SwitchError> {
    let path = path.to_owned();
    let netns = tokio::task::spawn_blocking(move || Netns::open(&path)).await.map_err(ApplyError::from)?;
    // The path alone will do where it leads nowhere, or nowhere that could be attached.
    Ok(netns.ok())
}

/// What there is by exactly this name, in the network that is meant.
fn chosen_by_name(state: &State, request: &DetachRequest) -> Vec<EndpointId> {
    let Some(name) = &request.endpoint else { return Vec::new() };
    let network = request.network.as_deref().and_then(|network| state.network(network).ok());
    let network = network.map(|entry| entry.record.id);
    let connections = state.connections(name).into_iter();
    let here = connections.filter(|entry| network.is_none_or(|network| entry.record.network == network));
    here.map(|entry| entry.record.id).collect()
}

fn chosen(state: &State, request: &DetachRequest, netns: Option<&Netns>) -> Result<Vec<EndpointId>, SwitchError> {
    let network = match request.network.as_deref().map(|network| state.network(network)).transpose() {
        // What is in a network that is gone is gone.
        Err(SwitchError::NetworkNotFound(_)) => return Ok(Vec::new()),
        found => found?.map(|entry| entry.record.id),
    };
    let in_network = |entry: &&EndpointEntry| network.is_none_or(|network| entry.record.network == network);
    if let Some(reference) = &request.endpoint {
        return match state.endpoint(reference) {
            Ok(entries) => Ok(entries.into_iter().filter(in_network).map(|entry| entry.record.id).collect()),
            Err(SwitchError::EndpointNotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
    }
    let Some(path) = &request.netns else { return Err(SwitchError::NothingNamed) };
    let at_path = |entry: &&EndpointEntry| match &netns {
        Some(netns) => State::is_at(entry, netns.id()),
        None => entry.record.netns.path == *path,
    };
    let entries = state.endpoints.values().filter(at_path).filter(in_network);
    Ok(entries.map(|entry| entry.record.id).collect())
}
