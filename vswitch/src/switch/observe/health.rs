//! `doctor`: the settings of the ports' devices, and those that the path needs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::kernel::ethtool::{self, EthtoolError, Feature};
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::Netns;
use crate::model::{Endpoint, Network};
use crate::plan::apply::feature;
use crate::plan::{self, DeviceStep, InsideStep};
use crate::switch::error::SwitchError;
use crate::switch::observe::Observe;

/// The inspection of a device: its MTU, if the device exists, and its offloads.
type Seen = Result<(Option<u32>, BTreeMap<String, bool>), String>;

impl Observe {
    /// Returns the health of every port, by network and port.
    ///
    /// # Errors
    /// The host's devices cannot be inspected. An endpoint that cannot be inspected is returned
    /// with the reason.
    pub async fn health(&self) -> Result<Vec<PortHealth>, SwitchError> {
        let mut ports = self.health_of_host().await?;
        let endpoints: Vec<(Endpoint, Network)> = {
            let state = self.context.snapshot();
            let network = |record: &Endpoint| state.networks.get(&record.network).map(|entry| entry.record.clone());
            let attached = state.attached().into_iter().map(|entry| &entry.record);
            attached.filter_map(|record| Some((record.clone(), network(record)?))).collect()
        };
        for (endpoint, network) in &endpoints {
            ports.extend(self.health_of_endpoint(endpoint, network).await);
        }
        ports.sort_by(|one, other| (&one.network, &one.port).cmp(&(&other.network, &other.port)));
        Ok(ports)
    }

    /// Returns the health of host ports, uplinks and parents.
    async fn health_of_host(&self) -> Result<Vec<PortHealth>, SwitchError> {
        let mut ports: Vec<PortHealth> = {
            let state = self.context.snapshot();
            let mut ports = Vec::new();
            for entry in state.networks.values().filter(|entry| entry.ready) {
                let network = entry.record.name.to_string();
                if entry.host_port.is_some() {
                    let device = self.context.instance.host_device(entry.record.device_name());
                    ports.push(PortHealth::new(&device, "host", &network, &device));
                }
                if let Some(view) = self.interface_info(entry) {
                    let needs = entry.uplink.as_ref().is_some_and(|uplink| uplink.xdp);
                    // XDP does not see a VLAN tag that the driver removed.
                    let needs = needs.then(|| (Feature::RxVlan.name().to_owned(), false));
                    let port = PortHealth::new(&view.interface, "uplink", &network, &view.interface);
                    ports.push(PortHealth { hooks: view.hooks, needs: needs.into_iter().collect(), ..port });
                }
            }
            ports
        };
        for port in &mut ports {
            let mtu = self.context.netlink.link_by_name(&port.device).await?.map(|link| link.mtu);
            let device = port.device.clone();
            let offloads = tokio::task::spawn_blocking(move || offloads(&device)).await;
            let offloads = offloads.map_err(plan::apply::ApplyError::from)?;
            port.take(match (mtu, offloads) {
                (None, _) => Ok((None, BTreeMap::new())),
                (_, Err(error)) => Err(error.to_string()),
                (mtu, Ok(offloads)) => Ok((mtu, offloads)),
            });
        }
        Ok(ports)
    }

    async fn health_of_endpoint(&self, endpoint: &Endpoint, network: &Network) -> Option<PortHealth> {
        let device = endpoint.address.as_ref()?.ifname.to_string();
        let facts = self.context.facts_of(network, endpoint);
        let needs =
            plan::endpoint(&self.context.instance, network, endpoint, facts).inside.into_iter().filter_map(|step| {
                match step {
                    InsideStep::Device(DeviceStep::Offloads { settings, .. }) => Some(settings),
                    _ => None,
                }
            });
        let needs = needs.flatten().map(|(offload, on)| (feature(offload).name().to_owned(), on));
        let mut port = PortHealth::new(endpoint.name.as_str(), "endpoint", network.name.as_str(), &device);
        port.needs = needs.collect();
        port.tag_room = network.tag_room(&endpoint.port);
        port.netns = Some(endpoint.netns.path.clone());
        let number = self.context.snapshot().endpoints.get(&endpoint.id)?.port.map(|port| port.number);
        port.hooks = number.and_then(|number| self.context.datapath.port_hooks(number));
        port.take(match self.context.open_netns(&endpoint.netns.path).await {
            Ok(netns) => look_inside(Arc::new(netns), &device).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        });
        Some(port)
    }
}

async fn look_inside(netns: Arc<Netns>, device: &str) -> Result<(Option<u32>, BTreeMap<String, bool>), SwitchError> {
    let netlink = tokio::task::block_in_place(|| Netlink::open_in(&netns))?;
    let Some(link) = netlink.link_by_name(device).await? else { return Ok((None, BTreeMap::new())) };
    let name = device.to_owned();
    let offloads = tokio::task::spawn_blocking(move || netns.enter(|| offloads(&name))).await;
    let offloads = offloads.map_err(plan::apply::ApplyError::from)??.map_err(plan::apply::ApplyError::from)?;
    Ok((Some(link.mtu), offloads))
}

fn offloads(device: &str) -> Result<BTreeMap<String, bool>, EthtoolError> {
    let states = ethtool::states(device)?;
    Ok(states.into_iter().map(|(feature, on)| (feature.name().to_owned(), on)).collect())
}

/// The device of a port: its settings, and the settings that its path needs.
#[derive(Clone, Debug)]
pub struct PortHealth {
    /// The name of the port.
    pub port: String,
    /// The kind of the port.
    pub kind: &'static str,
    /// The name of its network.
    pub network: String,
    /// The device.
    pub device: String,
    /// The namespace of the device; `None` for a device of the host.
    pub netns: Option<PathBuf>,
    /// The hooks on the port.
    pub hooks: Option<String>,
    /// The MTU of the device, if the device exists.
    pub mtu: Option<u32>,
    /// The bytes that the MTU leaves for VLAN tags.
    pub tag_room: u32,
    /// The offloads of the device, and whether each is on.
    pub offloads: BTreeMap<String, bool>,
    /// The offloads that the path needs on or off.
    pub needs: BTreeMap<String, bool>,
    /// The reason why the device could not be inspected.
    pub unseen: Option<String>,
}

impl PortHealth {
    fn new(port: &str, kind: &'static str, network: &str, device: &str) -> Self {
        Self {
            port: port.to_owned(),
            kind,
            network: network.to_owned(),
            device: device.to_owned(),
            netns: None,
            hooks: None,
            mtu: None,
            tag_room: 0,
            offloads: BTreeMap::new(),
            needs: BTreeMap::new(),
            unseen: None,
        }
    }

    fn take(&mut self, seen: Seen) {
        match seen {
            Ok((mtu, offloads)) => (self.mtu, self.offloads) = (mtu, offloads),
            Err(error) => self.unseen = Some(error),
        }
    }
}
