//! After `up`: what was recorded is brought back, what runs already is taken over, what is nobody's is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::overlay::PeerEntry;
use super::state::{EndpointEntry, NetworkEntry, PortHandle};
use super::{Switch, SwitchError};
use crate::apply::{Container, Scene, apply};
use crate::datapath::Xdp;
use crate::drivers;
use crate::etc::{self, Etc};
use crate::kernel::netlink::Link;
use crate::kernel::netns::{self, Netns};
use crate::model::{Driver, Endpoint, EndpointId, EndpointName, Network, NetworkId};
use crate::plan::Step;
use crate::reconcile::{Found, compare};
use crate::store::{Change, Recorded};

/// How many endpoints are attached again at once.
const AT_ONCE: usize = 8;

/// An endpoint that could not be brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its name.
    pub endpoint: String,
    /// Where it was attached.
    pub netns: PathBuf,
    /// Why it could not.
    pub reason: String,
}

/// What became of the record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Endpoints that were running all along.
    pub running: usize,
    /// Endpoints that were attached again.
    pub attached: usize,
    /// Endpoints that are gone.
    pub released: Vec<Release>,
    /// What somebody has to see to before it all works as it did.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Switch {
    /// Brings back what was recorded, and makes the networks that are always there.
    ///
    /// # Errors
    /// Where the kernel refuses what no network can be without. An endpoint that cannot be brought back is released.
    pub async fn restore(&self, recorded: Recorded) -> Result<Restored, SwitchError> {
        let links = self.netlink.links().await?;
        let ports: Vec<_> = self.datapath.ports()?.into_iter().map(|(number, port)| (number, port.ifindex)).collect();
        let found = Found { links: &links, ports: &ports };
        let difference = compare(&self.instance, &recorded.networks, &recorded.endpoints, found);
        for port in difference.stray_ports {
            self.remove_port(port).await?;
        }
        for (index, name) in difference.stray_links {
            tracing::info!("device {name} is left over, and is removed");
            self.netlink.delete_link(index).await?;
        }

        self.take_in(recorded).await?;
        self.restore_networks(&links).await?;
        self.adopt_tunnels()?;
        if let Err(error) = self.try_tunnels().await {
            tracing::error!("tunnels: {error}");
        }
        self.create_predefined().await?;
        self.reserve_again();
        self.follow_outside("what was recorded").await;

        self.note_address().await?;
        let warnings: Vec<String> = self.note_without_cluster().into_iter().collect();
        warnings.iter().for_each(|warning| tracing::error!("{warning}"));
        let mut restored = Restored { running: difference.running.len(), warnings, ..Restored::default() };
        let half_there: BTreeSet<EndpointId> = difference.unfinished.into_iter().collect();
        for (id, ifindex) in difference.running {
            self.take_over(id, ifindex).await?;
        }
        let attach = |id| async move { (id, self.attach_again(id).await) };
        let mut missing = futures::stream::iter(difference.missing).map(attach).buffer_unordered(AT_ONCE);
        while let Some((id, outcome)) = missing.next().await {
            match outcome {
                // It ran, only that this was not on disk yet.
                None if half_there.contains(&id) => restored.running += 1,
                None => restored.attached += 1,
                Some(release) => restored.released.push(release),
            }
        }
        let orphans: Vec<NetworkId> = {
            let state = self.state();
            let on_wire = state.networks.values().filter(|entry| entry.record.wire.is_some() && entry.uplink.is_none());
            on_wire.map(|entry| entry.record.id).collect()
        };
        for network in orphans {
            self.follow_parent(network).await;
        }
        self.settle_all().await;
        self.sweep_etc();
        restored.released.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
        for Release { endpoint, netns, reason } in &restored.released {
            tracing::warn!("endpoint {endpoint} at {} is released: {reason}", netns.display());
        }
        Ok(restored)
    }

    /// Enters the record into the state.
    async fn take_in(&self, recorded: Recorded) -> Result<(), SwitchError> {
        self.state().peers =
            recorded.peers.into_iter().map(|record| (record.address, PeerEntry::new(record))).collect();
        for record in recorded.networks {
            let mtu = self.mtu(&record).await?;
            let exclusive = Arc::new(Mutex::new(()));
            let entry =
                NetworkEntry { record, ready: true, mtu, host_port: None, uplink: None, tunnels: None, exclusive };
            self.state().networks.insert(entry.record.id, entry);
        }
        let mut state = self.state();
        for record in recorded.endpoints {
            let exclusive = Arc::new(Mutex::new(()));
            state.endpoints.insert(record.id, EndpointEntry { record, port: None, exclusive });
        }
        Ok(())
    }

    async fn restore_networks(&self, links: &[Link]) -> Result<(), SwitchError> {
        let networks: Vec<Network> = self.state().networks.values().map(|entry| entry.record.clone()).collect();
        for mut network in networks {
            self.add_host_port(&network).await?;
            let Some(interface) = network.interface().cloned() else { continue };
            let Some(link) = links.iter().find(|link| link.name == interface.as_str()) else {
                tracing::warn!(
                    "the uplink {interface} of network {} is not there; it is taken in when it comes",
                    network.name
                );
                continue;
            };
            // `down` forgets how it was found. What is still known is how it was before a daemon that died changed it.
            if network.uplink_before.as_ref().is_none_or(|before| before.index != link.index) {
                network.uplink_before = Some(self.uplink_before(&interface, link, network.bridge.xdp));
                self.record_network(&network).await?;
            }
            if let Err(error) = self.add_uplink(&network, link).await {
                // The rest of the network works without it, and so does the host.
                tracing::error!("{interface} cannot be the uplink of network {} now: {error}", network.name);
            }
        }
        Ok(())
    }

    /// Takes over an endpoint that runs: its port is brought in line with this daemon's options.
    async fn take_over(&self, id: EndpointId, ifindex: u32) -> Result<(), SwitchError> {
        let Some((endpoint, network)) = self.recorded(id) else { return Ok(()) };
        if let Err(error) = self.announce_running(&network, &endpoint) {
            // It runs, so it stays.
            tracing::error!("endpoint {} runs, and others do not know of it: {error}", endpoint.name);
        }
        let facts = self.facts_of(&network, &endpoint);
        let mut plan = drivers::plan(&self.instance, &network, &endpoint, facts);
        // The rest is there, or was changed by somebody who had a reason.
        plan.retain(|step| matches!(step, Step::AddPort(_) | Step::Offloads { .. }));
        let mut container = None;
        if plan.iter().any(|step| matches!(step, Step::Offloads { .. })) {
            let path = &endpoint.netns.path;
            container = match self.open_netns(path).await {
                Ok(netns) if is_same(&endpoint, &netns) => Container::open(netns, path).ok(),
                _ => None,
            };
            if container.is_none() {
                tracing::warn!(
                    "endpoint {} goes without XDP: {} leads elsewhere by now",
                    endpoint.name,
                    path.display()
                );
                plan.retain_mut(without_xdp);
            }
        }
        let made = match apply(&plan, Scene { container: container.as_ref(), ..self.scene() }).await {
            // Somebody in there has renamed the interface, or taken it for a bridge.
            Err(error) if container.is_some() => {
                tracing::warn!("endpoint {} goes without XDP: {error}", endpoint.name);
                plan.retain_mut(without_xdp);
                apply(&plan, self.scene()).await?
            }
            made => made?,
        };
        if let Some(entry) = self.state().endpoints.get_mut(&id) {
            entry.port = made.port.map(|(_, number)| PortHandle { ifindex, number });
        }
        Ok(())
    }

    /// Attaches an endpoint again, with the addresses it had; `Some` if it has to be released.
    async fn attach_again(&self, id: EndpointId) -> Option<Release> {
        let (mut endpoint, network) = self.recorded(id)?;
        let made = async {
            let netns = match (network.driver, self.open_netns(&endpoint.netns.path).await) {
                (Driver::Host, Err(SwitchError::OwnNamespace(_))) => Netns::current()?,
                (_, opened) => opened?,
            };
            let process = &endpoint.netns.process;
            let renewed = process.is_some() && netns::process_behind(&endpoint.netns.path) != *process;
            if endpoint.netns.is_of_process() && (renewed || !is_same(&endpoint, &netns)) {
                return Err(SwitchError::AnotherProcess(endpoint.netns.path.clone()));
            }
            self.announce_again(&network, &endpoint).await?;
            (endpoint.netns.dev, endpoint.netns.inode) = (netns.id().dev, netns.id().inode);
            let mtu = self.state().networks.get(&network.id).map(|entry| entry.mtu);
            if let (Some(address), Some(mtu)) = (&mut endpoint.address, mtu) {
                address.mtu = network.endpoint_mtu(&endpoint.port, mtu);
            }
            Ok(self.make(&network, &endpoint, netns).await?)
        };
        match made.await {
            Ok(made) => {
                // What its networks have together is settled when all are made.
                self.complete(endpoint, &network, &made);
                None
            }
            Err(error) => {
                self.close_outside(&endpoint).await;
                self.forget(id).await;
                self.settle_endpoint(&endpoint, true).await;
                let reason = error.to_string();
                Some(Release { endpoint: endpoint.name.to_string(), netns: endpoint.netns.path, reason })
            }
        }
    }

    /// Brings every endpoint's default route and resolv.conf in line: a daemon that died may have been at it.
    async fn settle_all(&self) {
        let endpoints: BTreeMap<EndpointName, Endpoint> = {
            let state = self.state();
            let made = state.endpoints.values().filter(|entry| entry.port.is_some());
            made.map(|entry| (entry.record.name.clone(), entry.record.clone())).collect()
        };
        for endpoint in endpoints.values() {
            self.settle_endpoint(endpoint, true).await;
        }
    }

    /// Removes what was written for namespaces that nobody knows any more.
    fn sweep_etc(&self) {
        let known: BTreeSet<String> = {
            let state = self.state();
            let paths = state.endpoints.values().map(|entry| &entry.record.netns.path);
            paths.filter_map(|path| etc::named(path)).map(str::to_owned).collect()
        };
        if let Err(error) = Etc::default().remove_all(self.instance.name(), |name| known.contains(name)) {
            tracing::warn!("{error}");
        }
    }

    /// Holds the host ports again that are recorded as published.
    fn reserve_again(&self) {
        let endpoints: Vec<Endpoint> = self.state().endpoints.values().map(|entry| entry.record.clone()).collect();
        for endpoint in endpoints {
            if let Err(error) = self.reservations.hold(&endpoint.published) {
                // Whoever has it now may keep it: what arrives from outside goes to the endpoint all the same.
                tracing::warn!("endpoint {}: {error}", endpoint.name);
            }
        }
    }

    /// An endpoint with its network.
    fn recorded(&self, id: EndpointId) -> Option<(Endpoint, Network)> {
        let mut state = self.state();
        let endpoint = state.endpoints.get(&id)?.record.clone();
        match state.networks.get(&endpoint.network) {
            Some(entry) => Some((endpoint, entry.record.clone())),
            None => {
                // Networks are removed after their endpoints: a record that says otherwise is of no use.
                state.endpoints.remove(&id);
                self.store.note(vec![Change::RemoveEndpoint(id)]);
                None
            }
        }
    }
}

fn is_same(endpoint: &Endpoint, netns: &Netns) -> bool {
    (netns.id().dev, netns.id().inode) == (endpoint.netns.dev, endpoint.netns.inode)
}

/// A step for a container that cannot be made ready for XDP.
fn without_xdp(step: &mut Step) -> bool {
    match step {
        Step::AddPort(port) => {
            (port.xdp, port.xdp_egress) = (Xdp::Off, false);
            true
        }
        _ => false,
    }
}
