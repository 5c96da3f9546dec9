//! Endpoints after `up`: running ones are taken over, missing ones are attached again, the others
//! are released.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::datapath::Xdp;
use crate::etc_files::{self, Etc};
use crate::kernel::netlink::{Link, Netlink};
use crate::kernel::netns::Netns;
use crate::model::{Endpoint, EndpointId, Network, Phase};
use crate::plan::apply::{Container, apply, apply_endpoint, apply_inside};
use crate::plan::store::Change;
use crate::plan::{self, DeviceStep, HostStep, InsideStep};
use crate::switch::endpoints::attach::endpoint_note;
use crate::switch::endpoints::{Endpoints, has_another_process, is_at};
use crate::switch::error::SwitchError;
use crate::switch::state::PortHandle;

/// An endpoint that could not be attached again after `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The name of the endpoint.
    pub endpoint: String,
    /// The path of its namespace.
    pub netns: PathBuf,
    /// The reason why the attachment failed.
    pub reason: String,
}

impl Endpoints {
    /// Takes over a running endpoint: updates its port to match this daemon's options. The other
    /// end of the device may have any name, in any namespace: it is not touched.
    ///
    /// # Errors
    /// The device is gone, or the kernel refused a change.
    pub async fn take_over(&self, id: EndpointId, link: &Link) -> Result<(), SwitchError> {
        let Some((endpoint, network)) = self.recorded(id) else { return Ok(()) };
        if let Err(error) = self.etcd.announce_running(&network, &endpoint) {
            // A running endpoint stays attached, whatever the cluster says.
            tracing::error!("endpoint {} runs, and others do not know of it: {error}", endpoint.name);
        }
        let facts = self.context.facts_of(&network, &endpoint);
        let mut plan = plan::endpoint(&self.context.instance, &network, &endpoint, facts);
        if endpoint.bare {
            plan.leave_bare();
        }
        let whole = plan.inside.clone();
        // Everything else exists already, or the operator changed it.
        plan.host.retain(|step| match step {
            HostStep::AddPort(_) => true,
            // An earlier version added none beside an uplink.
            HostStep::HostRoute { .. } => network.uplink().is_some(),
            _ => false,
        });
        plan.inside.retain(|step| matches!(step, InsideStep::Device(DeviceStep::Offloads { .. })));
        if endpoint.left().is_some() {
            // The settings went along with the interface.
            plan.inside.clear();
        }
        for step in &mut plan.host {
            if let HostStep::AddPort(port) = step {
                (port.device, port.egress) = (link.name.clone(), link.name.clone());
            }
        }
        let unfinished = endpoint.phase != Phase::Attached;
        let container = match plan.inside.is_empty() && !unfinished || endpoint.left().is_some() {
            true => None,
            false => self.container_of(&endpoint, link).await,
        };
        let scene = self.context.scene();
        if unfinished {
            // An earlier daemon died when the port ran, or shortly before.
            let finished = match &container {
                Some(container) => apply_inside(&whole, scene, container).await.map(drop),
                None => Ok(()),
            };
            if let Err(error) = finished {
                tracing::warn!("endpoint {} is taken over as it is: {error}", endpoint.name);
            }
        }
        if !plan.inside.is_empty() && container.is_none() {
            let path = endpoint.netns.path.display();
            tracing::warn!("endpoint {} goes without XDP: its interface is not at {path} any more", endpoint.name);
            without_xdp(&mut plan.host);
        }
        let made = match &container {
            Some(container) => match apply_endpoint(&plan, scene, container).await {
                // A process in the container renamed the interface, or made it a port of a bridge.
                Err(error) if !plan.inside.is_empty() => {
                    tracing::warn!("endpoint {} goes without XDP: {error}", endpoint.name);
                    without_xdp(&mut plan.host);
                    apply(&plan.host, scene).await?
                }
                made => made?,
            },
            None => apply(&plan.host, scene).await?,
        };
        if unfinished {
            self.complete(endpoint, &network, made.port);
        } else if let Some(entry) = self.context.state().endpoints.get_mut(&id) {
            entry.port = made.port.map(|(_, number)| PortHandle { ifindex: link.index, number });
        }
        Ok(())
    }

    /// Opens the container of a running endpoint, if the other end of its device is there under
    /// its recorded name.
    async fn container_of(&self, endpoint: &Endpoint, link: &Link) -> Option<Container> {
        let path = &endpoint.netns.path;
        let netns = self.context.open_netns(path).await.ok().filter(|netns| is_at(&endpoint.netns, netns))?;
        let netlink = tokio::task::block_in_place(|| Netlink::open_in(&netns)).ok()?;
        let ifname = endpoint.address.as_ref()?.ifname.as_str();
        let interface = netlink.link_by_name(ifname).await.ok()??;
        let is_other_end = interface.peer_index == Some(link.index) && link.peer_index == Some(interface.index);
        is_other_end.then(|| Container::open(netns, path).ok())?
    }

    /// Attaches a recorded endpoint again, with its recorded addresses. Returns the release if that
    /// failed.
    pub async fn attach_again(&self, id: EndpointId) -> Option<Release> {
        let (mut endpoint, network) = self.recorded(id)?;
        let made = async {
            if let Some(left) = endpoint.left() {
                let name = left.name.clone();
                let path = left.sandbox.clone().ok_or(SwitchError::NotJoined(name))?;
                let netns = self.context.open_netns(&path).await?;
                self.etcd.announce_again(&network, &endpoint).await?;
                self.renew_address(&mut endpoint);
                return Ok(self.make(&network, &endpoint, netns).await?);
            }
            let netns =
                match (network.capabilities().host_namespace, self.context.open_netns(&endpoint.netns.path).await) {
                    (true, Err(SwitchError::OwnNamespace(_))) => Netns::current()?,
                    (_, opened) => opened?,
                };
            let another = has_another_process(&endpoint.netns) || !is_at(&endpoint.netns, &netns);
            if endpoint.netns.is_of_process() && another {
                return Err(SwitchError::AnotherProcess(endpoint.netns.path.clone()));
            }
            self.etcd.announce_again(&network, &endpoint).await?;
            (endpoint.netns.dev, endpoint.netns.inode) = (netns.id().dev, netns.id().inode);
            endpoint.netns.cookie = tokio::task::block_in_place(|| netns.cookie()).ok();
            let device = self.context.instance.port_device(&endpoint.id);
            // A device that an attach has made before the daemon died keeps what is recorded. It
            // follows its network like those of other running endpoints.
            if self.context.netlink.link_by_name(&device).await?.is_none() {
                self.renew_address(&mut endpoint);
            }
            Ok(self.make(&network, &endpoint, netns).await?)
        };
        match made.await {
            Ok(made) => {
                // The caller settles the endpoint once all its networks are restored.
                self.complete(endpoint, &network, made.port);
                None
            }
            Err(error) => {
                self.release(&endpoint).await;
                let reason = error.to_string();
                Some(Release { endpoint: endpoint.name.to_string(), netns: endpoint.netns.path, reason })
            }
        }
    }

    /// Updates what an address owes to the network's interface: the MTU, and a MAC address that
    /// endpoints share with their parent. The parent may have another one after a reboot.
    fn renew_address(&self, endpoint: &mut Endpoint) {
        let state = self.context.state();
        let (Some(address), Some(network)) = (&mut endpoint.address, state.networks.get(&endpoint.network)) else {
            return;
        };
        address.mtu = network.record.endpoint_mtu(&endpoint.port, network.mtu);
        address.mac = state.shared_mac(endpoint.network).unwrap_or(address.mac);
    }

    /// Notes in `status` that an endpoint could not be restored, and returns the note.
    pub fn note_failure(&self, id: EndpointId, what: &str, error: &SwitchError) -> Option<String> {
        let name = self.context.state().endpoints.get(&id).map(|entry| entry.record.name.clone())?;
        let note = format!("endpoint {name} {what}: {error} (detach it: `vswitch detach {name}`, and attach it again)");
        tracing::error!("{note}");
        self.context.note(&endpoint_note(id), Some(note.clone()));
        Some(note)
    }

    /// Updates the default route and resolv.conf of every endpoint: an earlier daemon may have died
    /// while it changed them.
    pub async fn settle_all(&self) {
        let endpoints: BTreeMap<(String, String), Endpoint> = {
            let state = self.context.state();
            let made = state.endpoints.values().filter(|entry| entry.port.is_some());
            made.map(|entry| (container_key(&entry.record), entry.record.clone())).collect()
        };
        for endpoint in endpoints.values() {
            self.settle_endpoint(endpoint, true).await;
        }
    }

    /// Removes the files in /etc/netns of namespaces without an endpoint.
    pub fn sweep_etc(&self) {
        let known: BTreeSet<String> = {
            let state = self.context.state();
            let paths = state.endpoints.values().map(|entry| &entry.record.netns.path);
            paths.filter_map(|path| etc_files::netns_name(path)).map(str::to_owned).collect()
        };
        if let Err(error) = Etc::default().remove_all(self.context.instance.name(), |name| known.contains(name)) {
            tracing::warn!("{error}");
        }
    }

    /// Returns an endpoint with its network. Forgets an endpoint whose network is gone.
    fn recorded(&self, id: EndpointId) -> Option<(Endpoint, Network)> {
        let mut state = self.context.state();
        let endpoint = state.endpoints.get(&id)?.record.clone();
        match state.networks.get(&endpoint.network) {
            Some(entry) => Some((endpoint, entry.record.clone())),
            None => {
                // A network is removed after its endpoints, so a record without a network is
                // invalid.
                state.endpoints.remove(&id);
                self.context.store.note(vec![Change::RemoveEndpoint(id)]);
                None
            }
        }
    }
}

/// Returns what all connections of one container have in common.
fn container_key(endpoint: &Endpoint) -> (String, String) {
    let container = endpoint.engine.as_ref().map_or(endpoint.name.as_str(), |engine| &engine.container);
    (endpoint.owner().to_owned(), container.to_owned())
}

/// Disables XDP on the ports of a plan whose container cannot be prepared for it.
fn without_xdp(steps: &mut [HostStep]) {
    for step in steps {
        if let HostStep::AddPort(port) = step {
            (port.xdp, port.xdp_egress) = (Xdp::Off, false);
        }
    }
}
