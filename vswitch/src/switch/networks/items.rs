//! What [`keep`](super::keep) compares: by network and by endpoint, from their plans.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use tokio::sync::Mutex as AsyncMutex;
use vswitch_common::forward::LEAST_IPV6;

use super::Networks;
use super::keep::{Scope, Snapshot};
use crate::kernel::netlink::{Link, NetlinkError};
use crate::model::{EndpointId, NetworkId, ParentOptions, Phase};
use crate::plan::drift::DeviceNeeds;
use crate::plan::{self, HostStep};
use crate::switch::error::SwitchError;
use crate::switch::state::PortHandle;

/// The host's side of one object.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The subject of its note.
    pub(super) subject: String,
    pub(super) exclusive: Arc<AsyncMutex<()>>,
    /// The indexes of its links.
    pub(super) links: BTreeSet<u32>,
    pub(super) checks: Vec<Check>,
    /// The network, if the object is one.
    pub(super) network: Option<NetworkId>,
    of: Of,
}

/// The object of an item.
#[derive(Clone, Copy, Debug)]
enum Of {
    Network(NetworkId),
    Endpoint(EndpointId),
}

/// A part of the host's side of an object.
#[derive(Clone, Debug)]
pub(super) enum Check {
    /// A device of the switch.
    Device(DeviceNeeds),
    /// A step whose result is on an interface of the host, with its index.
    Step { step: HostStep, index: u32 },
}

impl Check {
    /// Returns the fact that holds while the result of a step exists.
    pub(super) fn fact(&self) -> String {
        match self {
            Self::Step { step: HostStep::HostRoute { device, address, .. }, .. } => {
                format!("{device} has the host's route to {address}")
            }
            Self::Step { step: HostStep::Promiscuous { device, .. }, .. } => {
                format!("{device} is in promiscuous mode")
            }
            Self::Step { step, .. } => format!("{step:?} is done"),
            Self::Device(needs) => format!("{} is there", needs.device),
        }
    }
}

impl Networks {
    /// Returns the items in a part of the host.
    pub(super) fn items(&self, scope: &Scope, snapshot: &Snapshot) -> Vec<Item> {
        let (networks, endpoints) = {
            let state = self.context.state();
            let networks: Vec<NetworkId> =
                state.networks.values().filter(|entry| entry.ready).map(|entry| entry.record.id).collect();
            let touched = |index: Option<u32>| index.is_some_and(|index| scope.links.contains(&index));
            let parent = |id: &NetworkId| {
                let entry = state.networks.get(id)?;
                entry.record.parent().filter(|options| options.has_host_routes())?;
                entry.uplink.as_ref().map(|uplink| uplink.port.ifindex)
            };
            let endpoints = state.endpoints.values().filter(|entry| {
                let port = entry.port.map(|port| port.ifindex);
                port.is_some() && (scope.all || touched(port) || touched(parent(&entry.record.network)))
            });
            (networks, endpoints.map(|entry| entry.record.id).collect::<Vec<_>>())
        };
        let mut items: Vec<Item> = networks.into_iter().filter_map(|id| self.network_item(id)).collect();
        let mut known = BTreeSet::new();
        for item in &mut items {
            let devices = item.checks.iter().filter_map(|check| match check {
                Check::Device(needs) => snapshot.links.iter().find(|link| link.name == needs.device),
                Check::Step { .. } => None,
            });
            item.links.extend(devices.map(|link| link.index));
            known.extend(item.links.iter().copied());
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
        // A device that is missing under its name has lost it, or its namespace.
        let is_complete = |item: &Item| {
            let mut devices = item.checks.iter().filter_map(|check| match check {
                Check::Device(needs) => Some(needs.device.as_str()),
                Check::Step { .. } => None,
            });
            devices.all(|device| snapshot.links.iter().any(|link| link.name == device))
        };
        items.retain(|item| scope.all || !item.links.is_disjoint(&scope.links) || !is_complete(item));
        items.extend(endpoints.into_iter().filter_map(|id| self.endpoint_item(id)));
        items
    }

    /// Returns an item again as its object is now; `None` if the object is gone.
    pub(super) fn renewed(&self, item: &Item) -> Option<Item> {
        match item.of {
            Of::Network(id) => self.network_item(id),
            Of::Endpoint(id) => self.endpoint_item(id),
        }
    }

    /// Returns the host port and the uplink of a network.
    fn network_item(&self, id: NetworkId) -> Option<Item> {
        let (network, host_port, uplink, exclusive, mtus) = {
            let state = self.context.state();
            let entry = state.networks.get(&id).filter(|entry| entry.ready)?;
            let uplink = entry.uplink.as_ref().map(|uplink| uplink.port.ifindex);
            (entry.record.clone(), entry.host_port, uplink, entry.exclusive.clone(), state.host_mtus(id)?)
        };
        let (mut checks, mut links) = (Vec::new(), BTreeSet::new());
        if let Some(port) = host_port {
            // Below this the kernel removes the IPv6 addresses.
            let ipv6 = network.subnets.iter().any(|config| config.subnet.is_ipv6());
            let mtu = if ipv6 { mtus.device.max(LEAST_IPV6.into()) } else { mtus.device };
            let plan = plan::host_port(&self.context.instance, &network, mtu, mtus.port);
            checks.extend(DeviceNeeds::of(&plan).into_iter().map(Check::Device));
            links.insert(port.ifindex);
        }
        if let (Some(index), Some(before)) = (uplink, &network.uplink_before)
            && !before.promiscuous
        {
            let step = HostStep::Promiscuous { device: before.interface.to_string(), on: true };
            checks.push(Check::Step { step, index });
            links.insert(index);
        }
        let (subject, network, of) = (format!("keep: network {id}"), Some(id), Of::Network(id));
        (!checks.is_empty()).then_some(Item { subject, exclusive, links, checks, network, of })
    }

    /// Returns the port of an endpoint, and the host's routes to it.
    fn endpoint_item(&self, id: EndpointId) -> Option<Item> {
        let (endpoint, network, uplink, exclusive, port) = {
            let state = self.context.state();
            let entry = state.endpoints.get(&id).filter(|entry| entry.record.phase == Phase::Attached)?;
            let network = state.networks.get(&entry.record.network).filter(|network| network.ready)?;
            let uplink = network.uplink.as_ref().map(|uplink| uplink.port.ifindex);
            (entry.record.clone(), network.record.clone(), uplink, entry.exclusive.clone(), entry.port?)
        };
        // Without its parent, the endpoint has no carrier.
        if network.parent().is_some() && uplink.is_none() {
            return None;
        }
        let facts = self.context.facts_of(&network, &endpoint);
        let plan = plan::endpoint(&self.context.instance, &network, &endpoint, facts);
        let mut checks: Vec<Check> = DeviceNeeds::of(&plan.host).into_iter().map(Check::Device).collect();
        let mut links = BTreeSet::from([port.ifindex]);
        if let Some(index) = uplink.filter(|_| network.parent().is_some_and(ParentOptions::has_host_routes)) {
            let routes = plan.host.into_iter().filter(|step| matches!(step, HostStep::HostRoute { .. }));
            checks.extend(routes.map(|step| Check::Step { step, index }));
            links.insert(index);
        }
        let (subject, of) = (format!("keep: endpoint {id}"), Of::Endpoint(id));
        Some(Item { subject, exclusive, links, checks, network: None, of })
    }

    /// Returns whether a device that is missing under its name exists under another one, or in
    /// another namespace.
    pub(super) async fn is_misplaced(&self, item: &Item, needs: &DeviceNeeds) -> Result<bool, SwitchError> {
        Ok(self.found(item, needs).await?.is_some())
    }

    /// Returns the link of the port of a network, and the link of a missing device of the pair if
    /// it is still in this namespace.
    async fn found(&self, item: &Item, needs: &DeviceNeeds) -> Result<Option<(Link, Option<Link>)>, SwitchError> {
        let Some(PortHandle { ifindex, .. }) = item.network.and_then(|id| {
            let state = self.context.state();
            state.networks.get(&id)?.host_port
        }) else {
            return Ok(None);
        };
        let Some(port) = self.context.netlink.link(ifindex).await? else { return Ok(None) };
        if needs.mark.is_none() {
            return Ok(Some((port.clone(), Some(port))));
        }
        let device = match port.peer_index.filter(|_| port.peer_netnsid.is_none()) {
            Some(peer) => self.context.netlink.link(peer).await?,
            None => None,
        };
        Ok(Some((port, device)))
    }

    /// Renames a device back. Removes the pair of a device that is in another namespace: link
    /// events cause it to be made again.
    pub(super) async fn bring_back(&self, item: &Item, needs: &DeviceNeeds) -> Result<(), SwitchError> {
        let Some((port, device)) = self.found(item, needs).await? else { return Ok(()) };
        let netlink = &self.context.netlink;
        let Some(device) = device else { return Ok(netlink.delete_link(port.index).await?) };
        match netlink.set_name(device.index, &needs.device).await {
            Err(NetlinkError::Kernel { errno: nix::errno::Errno::EBUSY, .. }) => {
                netlink.set_down(device.index).await?;
                Ok(netlink.set_name(device.index, &needs.device).await?)
            }
            renamed => Ok(renamed?),
        }
    }
}
