//! The host ports of endpoints.

use crate::model::{Endpoint, EndpointId, EngineEndpoint, Network, Phase, PublishSpec, Published};
use crate::plan::store::Change;
use crate::switch::endpoints::{Endpoints, NewEndpoint};
use crate::switch::error::SwitchError;
use crate::switch::info::EndpointInfo;
use crate::switch::state::State;

impl Endpoints {
    /// Reserves the host ports that the user requested. Binds sockets, and may read all of /proc to
    /// name a holder. Leaves out ports that another connection of the same container publishes.
    ///
    /// # Errors
    /// The network cannot publish ports, or a port is in use; then none is reserved.
    pub fn reserve_ports(&self, given: &NewEndpoint) -> Result<Vec<Published>, SwitchError> {
        self.free_orphans();
        if given.publish.is_empty() {
            return Ok(Vec::new());
        }
        let (specs, taken) = {
            let state = self.context.state();
            let network = &state.network(&given.network)?.record;
            let specs = publishable(network, &given.publish, given.port.reaches_host())?;
            missing(&state, specs, |record| is_of(record, given.engine.as_ref()))
        };
        let reservations = &self.nat.reservations;
        let reserved =
            if given.unheld { reservations.choose(&specs, &taken) } else { reservations.reserve(&specs, &taken) };
        Ok(reserved?)
    }

    /// Replaces the published ports of an endpoint. Ports that it publishes already stay as they
    /// are, also if another connection of its container publishes them.
    ///
    /// # Errors
    /// The endpoint does not exist, its network cannot publish ports, a port is in use, or the rules
    /// cannot be changed; then nothing has changed.
    pub async fn set_published(
        &self,
        id: EndpointId,
        publish: Vec<PublishSpec>,
        hold: bool,
    ) -> Result<EndpointInfo, SwitchError> {
        let gone = || SwitchError::EndpointNotFound(id.to_string());
        let exclusive = self.context.state().endpoints.get(&id).map(|entry| entry.exclusive.clone());
        let _exclusive = exclusive.ok_or_else(gone)?.lock_owned().await;
        let (before, network) = {
            let state = self.context.state();
            let record = state.endpoints.get(&id).map(|entry| entry.record.clone());
            let record = record.filter(|record| record.phase != Phase::Detaching).ok_or_else(gone)?;
            let network = state.networks.get(&record.network).map(|entry| entry.record.clone()).ok_or_else(gone)?;
            (record, network)
        };
        let specs = match publish.is_empty() {
            true => Vec::new(),
            false => publishable(&network, &publish, before.port.reaches_host())?,
        };
        let is_kept = |port: &Published| before.unheld != hold && specs.iter().any(|spec| asks(spec, port));
        let (kept, dropped): (Vec<_>, Vec<_>) = before.published.iter().copied().partition(is_kept);
        let (wanted, taken) = {
            let state = self.context.state();
            let new = specs.into_iter().filter(|spec| !kept.iter().any(|port| asks(spec, port))).collect();
            let (wanted, mut taken) = missing(&state, new, |record| record.id != id && record.is_with(&before));
            taken.retain(|(port, _)| !dropped.contains(port));
            (wanted, taken)
        };
        // A port that stays with the endpoint under another rule is free for it.
        self.nat.reservations.release(&dropped);
        let reservations = &self.nat.reservations;
        let reserved = if hold {
            tokio::task::block_in_place(|| reservations.reserve(&wanted, &taken))
        } else {
            reservations.choose(&wanted, &taken)
        };
        let reserved = match reserved {
            Ok(reserved) => reserved,
            Err(error) => {
                self.hold_again(&before, &dropped);
                return Err(error.into());
            }
        };
        let mut after = before.clone();
        after.published = kept.iter().chain(&reserved).copied().collect();
        after.unheld = !hold;
        if let Some(engine) = &mut after.engine {
            engine.asked = publish;
        }
        if after == before {
            return Ok(EndpointInfo { endpoint: after, network });
        }
        let written = self.put(&after);
        let applied = async {
            written.await?;
            self.nat.apply_nat().await
        };
        if let Err(error) = applied.await {
            self.nat.reservations.release(&reserved);
            self.hold_again(&before, &dropped);
            // The rules follow the record with the next change.
            let _ = self.put(&before).await;
            self.nat.update_nat(before.name.as_str()).await;
            return Err(error);
        }
        let changed: Vec<_> = dropped.into_iter().chain(reserved).collect();
        self.nat.forget_flows(&changed).await;
        Ok(EndpointInfo { endpoint: after, network })
    }

    /// Publishes the ports that connections of a container asked for and that the connection that
    /// has ended published.
    pub async fn publish_again(&self, ended: &Endpoint) {
        let asking: Vec<(EndpointId, Vec<PublishSpec>, bool)> = {
            let state = self.context.state();
            let connections = state.connections(ended).into_iter().map(|entry| &entry.record);
            let engines = connections.filter_map(|record| Some((record, record.engine.as_ref()?)));
            let asking = engines.filter(|(_, engine)| !engine.asked.is_empty());
            asking.map(|(record, engine)| (record.id, engine.asked.clone(), !record.unheld)).collect()
        };
        for (id, asked, hold) in asking {
            if let Err(error) = self.set_published(id, asked, hold).await {
                tracing::warn!("ports of {} are not published by another connection: {error}", ended.name);
            }
        }
    }

    /// Writes the record of an endpoint. The returned future ends when the disk has it.
    fn put(&self, record: &Endpoint) -> impl Future<Output = Result<(), crate::plan::store::StoreError>> + use<> {
        let mut state = self.context.state();
        if let Some(entry) = state.endpoints.get_mut(&record.id) {
            entry.record = record.clone();
        }
        self.context.store.commit(vec![Change::PutEndpoint(record.clone())])
    }

    fn hold_again(&self, record: &Endpoint, ports: &[Published]) {
        if !record.unheld {
            self.nat.reservations.hold_more(record.name.as_str(), ports);
        }
    }

    /// Releases ports that wait for networks that are gone.
    fn free_orphans(&self) {
        let mut free = Vec::new();
        {
            let mut state = self.context.state();
            let State { networks, endpoints, .. } = &mut *state;
            for entry in endpoints.values_mut() {
                let orphans = entry.record.waiting.extract_if(.., |waiting| !networks.contains_key(&waiting.network));
                let orphans: Vec<_> = orphans.flat_map(|waiting| waiting.ports).collect();
                if !orphans.is_empty() {
                    self.context.store.note(vec![Change::PutEndpoint(entry.record.clone())]);
                    free.extend(orphans);
                }
            }
        }
        self.nat.reservations.release(&free);
    }
}

/// Checks whether a network can publish these ports, and completes them with the network's host
/// address.
fn publishable(
    network: &Network,
    publish: &[PublishSpec],
    reaches_host: bool,
) -> Result<Vec<PublishSpec>, SwitchError> {
    let why = match network.capabilities().published {
        Err(why) => Some(why),
        Ok(()) if network.internal => Some("which is internal"),
        Ok(()) if !reaches_host => Some("whose VLANs the host is not in"),
        Ok(()) => None,
    };
    if let Some(why) = why {
        return Err(cannot(why, publish, network));
    }
    let binding = network.switch().and_then(|switch| switch.host_binding);
    let specs: Vec<_> = publish.iter().map(|spec| spec.with_default_host_ip(binding)).collect();
    let at = |ipv6: bool| specs.iter().any(|spec| spec.host_ip().is_some_and(|address| address.is_ipv6() == ipv6));
    if !network.has_family(true) && at(true) {
        return Err(cannot("which has no IPv6, at an IPv6 address", publish, network));
    }
    if !network.has_family(false) && at(false) {
        return Err(cannot("which has no IPv4, at an IPv4 address", publish, network));
    }
    Ok(specs)
}

fn cannot(why: &'static str, ports: &[PublishSpec], network: &Network) -> SwitchError {
    let ports: Vec<_> = ports.iter().map(PublishSpec::to_string).collect();
    SwitchError::CannotPublish { ports: ports.join(", "), network: network.name.clone(), why }
}

/// Returns the specs that no other connection of the container publishes, and every published or
/// waiting port of other containers with the name of its endpoint.
fn missing(
    state: &State,
    mut specs: Vec<PublishSpec>,
    is_sibling: impl Fn(&Endpoint) -> bool,
) -> (Vec<PublishSpec>, Vec<(Published, String)>) {
    let records = || state.endpoints.values().map(|entry| &entry.record);
    specs.retain(|spec| !records().filter(|record| is_sibling(record)).any(|record| publishes(record, spec)));
    let ports = |record: &Endpoint| {
        let name = record.name.to_string();
        record.held_ports().map(|port| (*port, name.clone())).collect::<Vec<_>>()
    };
    (specs, records().flat_map(ports).collect())
}

fn publishes(record: &Endpoint, spec: &PublishSpec) -> bool {
    record.published.iter().any(|port| asks(spec, port))
}

/// Returns whether an endpoint belongs to the container of a new endpoint of an engine.
fn is_of(record: &Endpoint, engine: Option<&EngineEndpoint>) -> bool {
    record
        .engine
        .as_ref()
        .zip(engine)
        .is_some_and(|(one, other)| one.id.owner() == other.id.owner() && one.container == other.container)
}

/// Returns whether a published port is one that a spec asks for.
fn asks(spec: &PublishSpec, port: &Published) -> bool {
    let host = spec.host().is_none_or(|range| range.contains(port.host_port));
    spec.protocol() == port.protocol
        && spec.host_ip() == port.host_ip
        && spec.container().contains(port.container_port)
        && host
}
