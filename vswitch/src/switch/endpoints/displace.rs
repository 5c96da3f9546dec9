//! Remains: endpoints whose namespace is gone, until the kernel has removed their devices. A new
//! endpoint that asks for something they have takes their place.

use std::time::Duration;

use crate::kernel::netns::{NetnsError, NetnsId};
use crate::model::{Endpoint, EndpointAddress, EndpointId, NetworkId, Owner, Published};
use crate::switch::endpoints::{Endpoints, NewEndpoint, has_another_process, is_at};
use crate::switch::error::SwitchError;
use crate::switch::state::{EndpointEntry, PortHandle, State};

/// The number of times that a namespace without a path is looked at before it counts as alive, and
/// the pause between them. The process that was the last in it may be ending at this moment.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// The place that the path of an endpoint leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The recorded namespace.
    Same,
    /// Another namespace.
    Another,
    /// No namespace.
    Nowhere,
}

impl Endpoints {
    /// Removes the remains that have the name, an address, a port or the path of a new endpoint.
    ///
    /// # Errors
    /// The network does not exist, or the kernel refused a change.
    pub async fn displace_remains(&self, given: &NewEndpoint) -> Result<(), SwitchError> {
        let rivals = {
            let state = self.context.state();
            let network = state.network(&given.network)?.record.id;
            ids(state.endpoints.values().filter(|entry| is_rival(&state, entry, given, network)))
        };
        self.remove_remains(rivals).await.map(drop)
    }

    /// Removes all remains in a network, and returns their number.
    ///
    /// # Errors
    /// The network does not exist, or the kernel refused a change.
    pub async fn displace_remains_of(&self, network: &str) -> Result<usize, SwitchError> {
        let all = {
            let state = self.context.state();
            let network = state.network(network)?.record.id;
            ids(state.endpoints_of(network))
        };
        self.remove_remains(all).await
    }

    async fn remove_remains(&self, endpoints: Vec<EndpointId>) -> Result<usize, SwitchError> {
        let mut removed = 0;
        for id in endpoints {
            let exclusive = self.context.state().endpoints.get(&id).map(|entry| entry.exclusive.clone());
            let Some(exclusive) = exclusive else { continue };
            // A change of the endpoint that is under way ends first.
            drop(exclusive.lock().await);
            let found = self.context.state().endpoints.get(&id).map(|entry| (entry.record.clone(), entry.port));
            let Some((endpoint, port)) = found else { continue };
            if self.is_gone(&endpoint, port).await? && self.remove(id, false).await?.is_some() {
                let path = endpoint.netns.path.display();
                tracing::info!("endpoint {} is released: its namespace at {path} is gone", endpoint.name);
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Returns whether the namespace of an endpoint is gone, or its path leads to another one.
    async fn is_gone(&self, endpoint: &Endpoint, port: Option<PortHandle>) -> Result<bool, SwitchError> {
        if endpoint.left().is_some() {
            // Its engine says when it is gone.
            return match port {
                Some(port) => Ok(!self.context.netlink.peer_lives(port.ifindex).await?),
                None => Ok(false),
            };
        }
        let Some(place) = self.place_of(endpoint).await? else { return Ok(false) };
        let Some(port) = port else {
            // Without an address, an endpoint has no device. Another one could not be taken over.
            return Ok(place != Place::Same && endpoint.address.is_none());
        };
        match place {
            Place::Another => Ok(true),
            Place::Same => Ok(!self.context.is_ours(port.ifindex, &Owner::Endpoint(endpoint.id)).await?),
            Place::Nowhere => {
                for _ in 1..LOOKS {
                    if !self.context.netlink.peer_lives(port.ifindex).await? {
                        return Ok(true);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(!self.context.netlink.peer_lives(port.ifindex).await?)
            }
        }
    }

    /// Returns the place that the path of an endpoint leads to; `None` if the path cannot be
    /// followed.
    async fn place_of(&self, endpoint: &Endpoint) -> Result<Option<Place>, SwitchError> {
        let record = &endpoint.netns;
        let same = |is_same| Ok(Some(if is_same { Place::Same } else { Place::Another }));
        match self.context.open_netns(&record.path).await {
            Ok(netns) => same(!has_another_process(record) && is_at(record, &netns)),
            // The path of an endpoint of the host network.
            Err(SwitchError::OwnNamespace(_)) => {
                same(self.context.own_netns == NetnsId { dev: record.dev, inode: record.inode })
            }
            Err(SwitchError::Netns(NetnsError::NotFound { .. } | NetnsError::NotNamespace { .. })) => {
                Ok(Some(Place::Nowhere))
            }
            Err(SwitchError::Netns(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn ids<'a>(entries: impl Iterator<Item = &'a EndpointEntry>) -> Vec<EndpointId> {
    entries.map(|entry| entry.record.id).collect()
}

/// Returns whether an endpoint has something that a new endpoint asks for.
fn is_rival(state: &State, entry: &EndpointEntry, given: &NewEndpoint, network: NetworkId) -> bool {
    let record = &entry.record;
    let has_address =
        |address: &EndpointAddress| address.ips().any(|ip| given.requests(ip)) || given.mac == Some(address.mac);
    let in_network = record.network == network && {
        let only = state.networks.get(&network).is_some_and(|network| state.only_endpoint(&network.record).is_some());
        only || record.address.as_ref().is_some_and(has_address)
    };
    let named = record.name == given.name && record.engine.is_none() && given.engine.is_none();
    let keyed = given.engine.as_ref().zip(record.engine.as_ref()).is_some_and(|(one, other)| one.id == other.id);
    named
        || keyed
        || given.left().is_none() && record.netns.path == given.netns
        || in_network
        || record.published.iter().any(|port| asks_for(given, port))
}

/// Returns whether a new endpoint asks for the host port of another one.
fn asks_for(given: &NewEndpoint, port: &Published) -> bool {
    let mut specs = given.publish.iter().filter(|spec| spec.protocol() == port.protocol);
    specs.any(|spec| spec.host().is_some_and(|range| range.contains(port.host_port)))
}
