//! `detach` and `disconnect`, and the release of endpoints whose device or namespace is gone.

use std::path::{Path, PathBuf};

use crate::kernel::netns::{Netns, NetnsId};
use crate::model::{Endpoint, EndpointId, Owner, Phase};
use crate::plan::apply::ApplyError;
use crate::plan::store::{Change, StoreError};
use crate::switch::endpoints::{Endpoints, has_another_process, is_at};
use crate::switch::error::SwitchError;
use crate::switch::state::{EndpointEntry, PortHandle, State};

/// The endpoints that `detach` removes.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Name or id of an endpoint. It goes before `netns`.
    pub endpoint: Option<String>,
    /// The absolute path of a namespace.
    pub netns: Option<PathBuf>,
    /// Name or id of the only network to detach from.
    pub network: Option<String>,
}

impl Endpoints {
    /// Detaches an endpoint, or all endpoints at a namespace, and returns their names. A missing
    /// endpoint is no error.
    ///
    /// # Errors
    /// The request is invalid, or the kernel refused a change; then the endpoint is still attached.
    pub async fn detach(&self, request: Selection) -> Result<Vec<String>, SwitchError> {
        let _change = self.context.begin_change().await?;
        let netns = match &request.netns {
            Some(path) if !path.is_absolute() => return Err(SwitchError::RelativePath(path.clone())),
            Some(path) => open_if_there(path).await?,
            None => None,
        };
        let mut detached = Vec::new();
        let mut left = chosen(&self.context.state(), &request, netns.as_ref())?;
        // The endpoint may be connected to a further network meanwhile. Repeats until no connection
        // is left.
        while !left.is_empty() {
            for id in left {
                if let Some(endpoint) = self.remove(id, false).await? {
                    tracing::info!("endpoint {} is detached from {}", endpoint.name, endpoint.netns.path.display());
                    detached.push(endpoint.name.to_string());
                }
            }
            let again = Selection { endpoint: detached.last().cloned(), ..request.clone() };
            left = chosen_by_name(&self.context.state(), &again);
        }
        detached.sort();
        // An endpoint in several networks is listed once.
        detached.dedup();
        Ok(detached)
    }

    /// Removes an endpoint from one network with its devices; see
    /// [`Endpoints::release_connection`] about `keep_ports`. Returns `None` if the endpoint is
    /// gone already.
    pub async fn remove(&self, id: EndpointId, keep_ports: bool) -> Result<Option<Endpoint>, SwitchError> {
        let Some(exclusive) = self.context.state().endpoints.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(None);
        };
        let _exclusive = exclusive.lock().await;
        let found = self.context.state().endpoints.get(&id).map(|entry| (entry.record.clone(), entry.port));
        let Some((mut endpoint, port)) = found else { return Ok(None) };
        let before = endpoint.phase;
        let begun = match self.begin_detach(&mut endpoint).await {
            // Deletes the device before the port, so that no frame of the device arrives without a
            // program.
            Ok(()) => match port {
                Some(port) => self.context.delete_device(port.ifindex, &Owner::Endpoint(id)).await,
                None => Ok(()),
            },
            Err(error) => Err(error.into()),
        };
        if let Err(error) = begun {
            self.enter(&mut endpoint, before);
            return Err(error);
        }
        if let Some(port) = port {
            self.multicast.remove_port(port.number).await?;
        }
        self.release_connection(&endpoint, keep_ports).await;
        Ok(Some(endpoint))
    }

    /// Enters the phase of a detach. The returned future ends when the disk has it: from then on
    /// the detach is finished, if not by this daemon, then by the next.
    fn begin_detach(&self, endpoint: &mut Endpoint) -> impl Future<Output = Result<(), StoreError>> + use<> {
        endpoint.phase = Phase::Detaching;
        let mut state = self.context.state();
        if let Some(entry) = state.endpoints.get_mut(&endpoint.id) {
            entry.record.phase = Phase::Detaching;
        }
        self.context.store.commit(vec![Change::PutEndpoint(endpoint.clone())])
    }

    /// Finishes a detach that an earlier daemon began.
    ///
    /// # Errors
    /// The kernel refused a change.
    pub async fn finish_detach(&self, id: EndpointId, port: Option<PortHandle>) -> Result<(), SwitchError> {
        let found = self.context.state().endpoints.get(&id).map(|entry| entry.record.clone());
        let Some(mut endpoint) = found else { return Ok(()) };
        drop(self.begin_detach(&mut endpoint));
        if let Some(port) = port {
            self.context.delete_device(port.ifindex, &Owner::Endpoint(id)).await?;
            self.multicast.remove_port(port.number).await?;
        } else if let Some(link) = self.context.netlink.link_by_name(&self.context.instance.port_device(&id)).await?
            && link.alias.is_none()
            && link.kind.as_deref() == Some("veth")
        {
            // The daemon died between the creation of the device and its mark.
            self.context.netlink.delete_link(link.index).await?;
        }
        self.release(&endpoint).await;
        tracing::info!("endpoint {} is detached, as an earlier daemon had begun to", endpoint.name);
        Ok(())
    }

    /// Disconnects an endpoint from one network, while traffic flows in the others, and returns its
    /// name. Ports that it published there wait until it is connected again.
    ///
    /// # Errors
    /// The endpoint is not in the network, or the kernel refused a change.
    pub async fn disconnect(&self, network: &str, endpoint: &str) -> Result<Vec<String>, SwitchError> {
        let _change = self.context.begin_change().await?;
        let id = {
            let state = self.context.state();
            let network = &state.network(network)?.record;
            let endpoint = &state.endpoint(endpoint)?[0].record;
            if let Some(engine) = &endpoint.engine {
                let owner = engine.id.owner().to_owned();
                return Err(SwitchError::OfEngine { endpoint: endpoint.name.clone(), owner });
            }
            let not_connected =
                || SwitchError::NotConnected { endpoint: endpoint.name.to_string(), network: network.name.clone() };
            state.endpoint_in(endpoint, network.id).ok_or_else(not_connected)?.record.id
        };
        let removed = self.remove(id, true).await?;
        Ok(removed.into_iter().map(|endpoint| endpoint.name.to_string()).collect())
    }

    /// Releases an endpoint whose device is gone: its namespace was deleted, or the device was
    /// removed by hand.
    pub async fn reap(&self, id: EndpointId, ifindex: u32) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let Some(exclusive) = self.context.state().endpoints.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = self.context.state().endpoints.get(&id).map(|entry| (entry.record.clone(), entry.port));
        let Some((mut endpoint, Some(port))) = found else { return Ok(()) };
        if port.ifindex != ifindex || self.context.is_ours(ifindex, &Owner::Endpoint(id)).await? {
            return Ok(());
        }
        drop(self.begin_detach(&mut endpoint));
        self.multicast.remove_port(port.number).await?;
        self.release(&endpoint).await;
        tracing::info!(
            "endpoint {} is released: its device went away with {}",
            endpoint.name,
            endpoint.netns.path.display()
        );
        Ok(())
    }

    /// Releases endpoints without a device whose namespace is gone. No event reports the end of
    /// such a namespace.
    pub async fn release_vanished(&self) {
        let without_device: Vec<_> = {
            let state = self.context.state();
            let attached = state.endpoints.values().filter(|entry| entry.record.phase == Phase::Attached);
            attached
                .filter(|entry| entry.port.is_none() && entry.record.left().is_none())
                .map(|entry| (entry.record.clone(), entry.exclusive.clone()))
                .collect()
        };
        for (mut endpoint, exclusive) in without_device {
            let _exclusive = exclusive.lock().await;
            if !self.context.state().endpoints.contains_key(&endpoint.id) {
                continue;
            }
            let recorded = NetnsId { dev: endpoint.netns.dev, inode: endpoint.netns.inode };
            // The process id may belong to another process by now, and the host's namespace always
            // exists.
            let renewed = has_another_process(&endpoint.netns);
            let still = match self.context.open_netns(&endpoint.netns.path).await {
                Ok(netns) => is_at(&endpoint.netns, &netns),
                // The path of an endpoint of the host network leads to the daemon's own namespace.
                Err(SwitchError::OwnNamespace(_)) => self.context.own_netns == recorded,
                Err(_) => false,
            };
            if renewed || !still {
                drop(self.begin_detach(&mut endpoint));
                self.release(&endpoint).await;
                tracing::info!("endpoint {} is released: {} is gone", endpoint.name, endpoint.netns.path.display());
            }
        }
    }
}

/// Opens the namespace; `None` if the path leads to no namespace.
async fn open_if_there(path: &Path) -> Result<Option<Netns>, SwitchError> {
    let path = path.to_owned();
    let netns = tokio::task::spawn_blocking(move || Netns::open(&path)).await.map_err(ApplyError::from)?;
    // Without a namespace, endpoints are selected by the path.
    Ok(netns.ok())
}

/// Returns the connections of the endpoint with exactly this name, in the selected network.
fn chosen_by_name(state: &State, request: &Selection) -> Vec<EndpointId> {
    let Some(name) = &request.endpoint else { return Vec::new() };
    let network = request.network.as_deref().and_then(|network| state.network(network).ok());
    let network = network.map(|entry| entry.record.id);
    let connections = state.endpoints_named(name).unwrap_or_default().into_iter();
    let here = connections.filter(|entry| network.is_none_or(|network| entry.record.network == network));
    here.map(|entry| entry.record.id).collect()
}

fn chosen(state: &State, request: &Selection, netns: Option<&Netns>) -> Result<Vec<EndpointId>, SwitchError> {
    let network = match request.network.as_deref().map(|network| state.network(network)).transpose() {
        // A removed network has no endpoints.
        Err(SwitchError::NetworkNotFound(_)) => return Ok(Vec::new()),
        found => found?.map(|entry| entry.record.id),
    };
    let in_network = |entry: &&EndpointEntry| network.is_none_or(|network| entry.record.network == network);
    if let Some(reference) = &request.endpoint {
        if reference.is_empty() {
            return Err(SwitchError::NothingNamed);
        }
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
