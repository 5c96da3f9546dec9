//! MTUs: the endpoints of a network and its host device follow the MTU of the network.

use std::collections::BTreeSet;

use vswitch_common::forward::LEAST_IPV6;

use crate::kernel::netlink::{Link, Netlink};
use crate::model::{Endpoint, EndpointId, Network, NetworkId, Phase};
use crate::plan::apply::apply;
use crate::plan::store::Change;
use crate::plan::{self, HostStep};
use crate::switch::context::Context;
use crate::switch::error::SwitchError;
use crate::switch::state::{EndpointEntry, State};

/// The longest packets from and to the host in a network, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMtus {
    /// The MTU of the host device: no more than any endpoint accepts.
    pub device: u32,
    /// The longest packet to the host: as long as any endpoint may send.
    pub port: u32,
}

impl State {
    /// Returns the MTUs of the host in a network; `None` if the network is gone.
    pub fn host_mtus(&self, network: NetworkId) -> Option<HostMtus> {
        let entry = self.networks.get(&network)?;
        let takes = self.endpoints_of(network).filter_map(|endpoint| entry.record.longest_of(&endpoint.record));
        let start = HostMtus { device: entry.mtu, port: entry.mtu };
        Some(takes.fold(start, |mtus, takes| HostMtus { device: mtus.device.min(takes), port: mtus.port.max(takes) }))
    }

    /// Returns the MTU that a running endpoint should have; `None` for an endpoint that has it, and
    /// for one without a device.
    fn outdated_mtu(&self, entry: &EndpointEntry) -> Option<u32> {
        let (endpoint, _) = (&entry.record, entry.port?);
        let address = endpoint.address.as_ref().filter(|_| endpoint.phase == Phase::Attached)?;
        // The MTU of other networks is that of their creation, because the host routes there and
        // answers packets that are too long.
        let network = self.networks.get(&endpoint.network).filter(|network| network.has_path())?;
        let mtu = network.record.endpoint_mtu(&endpoint.port, network.mtu);
        // Below this the kernel switches IPv6 off on the interface, and forgets its addresses.
        let mtu = if address.ipv6.is_some() { mtu.max(LEAST_IPV6.into()) } else { mtu };
        (address.mtu != mtu).then_some(mtu)
    }

    /// Returns the networks with running endpoints that have another MTU than they should have.
    pub fn outdated_mtus(&self) -> BTreeSet<NetworkId> {
        let outdated = self.endpoints.values().filter(|entry| self.outdated_mtu(entry).is_some());
        outdated.map(|entry| entry.record.network).collect()
    }
}

impl Context {
    /// Updates the running endpoints, host devices and host ports of networks whose MTU changed.
    ///
    /// # Errors
    /// The kernel refused a change of a host device. Endpoints that keep their MTU are in a note.
    pub async fn fit_networks(&self, networks: BTreeSet<NetworkId>) -> Result<(), SwitchError> {
        for id in networks {
            self.fit_endpoints(id).await;
            self.fit_host_port(id).await?;
        }
        Ok(())
    }

    /// Updates the MTU of the running endpoints of a network, and notes those that keep theirs.
    async fn fit_endpoints(&self, id: NetworkId) {
        let (network, mtu, outdated) = {
            let state = self.state();
            let Some(entry) = state.networks.get(&id) else { return };
            let outdated = state.endpoints_of(id).filter(|entry| state.outdated_mtu(entry).is_some());
            let outdated: Vec<_> = outdated.map(|entry| (entry.record.id, entry.record.name.clone())).collect();
            (entry.record.name.clone(), entry.mtu, outdated)
        };
        let mut kept = Vec::new();
        for (endpoint, name) in outdated {
            if let Err(error) = self.fit_endpoint(endpoint).await {
                kept.push(format!("{name}: {error}"));
            }
        }
        let note = (!kept.is_empty()).then(|| {
            format!(
                "endpoints of network {network} do not have its MTU of {mtu}, so long packets are lost: {} (set the MTU inside: \
                 `ip link set IFNAME mtu {mtu}`, or attach the endpoint again)",
                kept.join("; ")
            )
        });
        let about = note_about_mtu(id);
        if let Some(note) = note.as_ref().filter(|_| !self.has_note(&about)) {
            tracing::warn!("{note}");
        }
        self.note(&about, note);
    }

    /// Sets the MTU of a running endpoint to that of its network: on both ends of its veth pair and
    /// in the datapath. The interface is found by its other end, whatever its name is.
    async fn fit_endpoint(&self, id: EndpointId) -> Result<(), SwitchError> {
        let Some(exclusive) = self.state().endpoints.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = {
            let state = self.state();
            state.endpoints.get(&id).and_then(|entry| {
                let network = state.networks.get(&entry.record.network)?.record.clone();
                Some((entry.record.clone(), entry.port?, network, state.outdated_mtu(entry)?))
            })
        };
        let Some((mut endpoint, port, network, mtu)) = found else { return Ok(()) };
        let Some(device) = self.netlink.link(port.ifindex).await? else { return Ok(()) };
        let (inside, interface) = self.interface_of(&endpoint, &device).await?;
        let grows = mtu > device.mtu;
        let longest = u16::try_from(mtu + network.tag_room(&endpoint.port)).unwrap_or(0);
        let outside = async {
            self.netlink.set_mtu(port.ifindex, mtu).await?;
            self.in_datapath(move |datapath| datapath.set_port_mtu(port.number, port.ifindex, longest)).await
        };
        // No packet is sent that the other side does not accept yet.
        if grows {
            outside.await?;
            inside.set_mtu(interface, mtu).await?;
        } else {
            inside.set_mtu(interface, mtu).await?;
            outside.await?;
        }
        let Some(address) = &mut endpoint.address else { return Ok(()) };
        tracing::info!(
            "endpoint {} has an MTU of {mtu} in network {}, not {}",
            endpoint.name,
            network.name,
            address.mtu
        );
        address.mtu = mtu;
        let recorded = {
            let mut state = self.state();
            if let Some(entry) = state.endpoints.get_mut(&id) {
                entry.record = endpoint.clone();
            }
            self.store.commit(vec![Change::PutEndpoint(endpoint)])
        };
        Ok(recorded.await?)
    }

    /// Finds the interface of an endpoint in its namespace, at the other end of the port's device.
    /// Returns its index, and a connection in the namespace.
    pub async fn interface_of(&self, endpoint: &Endpoint, device: &Link) -> Result<(Netlink, u32), SwitchError> {
        let path = &endpoint.netns.path;
        let netns = self.open_netns(path).await?;
        let inside = tokio::task::block_in_place(|| Netlink::open_in(&netns))?;
        let moved = || SwitchError::InterfaceMoved { path: path.clone() };
        let index = device.peer_index.ok_or_else(moved)?;
        let interface = inside.link(index).await?;
        // Indexes repeat in other namespaces.
        let recorded = (endpoint.netns.dev, endpoint.netns.inode);
        let is_same = endpoint.left().is_some() || (netns.id().dev, netns.id().inode) == recorded;
        interface.filter(|interface| is_same && interface.peer_index == Some(device.index)).ok_or_else(moved)?;
        Ok((inside, index))
    }

    /// Updates the host device and the host port of a network after its MTU or that of endpoints
    /// changed.
    async fn fit_host_port(&self, id: NetworkId) -> Result<(), SwitchError> {
        let Some(exclusive) = self.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = {
            let state = self.state();
            let entry = state.networks.get(&id).filter(|entry| entry.ready && entry.host_port.is_some());
            entry.map(|entry| entry.record.clone()).zip(state.host_mtus(id))
        };
        let Some((network, mtus)) = found else { return Ok(()) };
        let device = self.instance.host_device(network.device_name());
        if self.netlink.link_by_name(&device).await?.is_none() {
            // The device is created again with the current MTU.
            return Ok(());
        }
        let mut plan = plan::host_port(&self.instance, &network, mtus.device, mtus.port);
        plan.retain(|step| matches!(step, HostStep::AddPort(_)));
        apply(&plan, self.scene()).await?;
        self.fit_host_devices(&network, mtus.device).await
    }

    /// Sets the MTU of both ends of the host's veth pair.
    pub async fn fit_host_devices(&self, network: &Network, mtu: u32) -> Result<(), SwitchError> {
        // Below this the kernel removes the IPv6 addresses, and with them the gateway.
        let ipv6 = network.subnets.iter().any(|config| config.subnet.is_ipv6());
        let mtu = if ipv6 { mtu.max(LEAST_IPV6.into()) } else { mtu };
        for device in [self.instance.host_device(network.device_name()), self.instance.host_port_device(&network.id)] {
            if let Some(link) = self.netlink.link_by_name(&device).await?.filter(|link| link.mtu != mtu) {
                self.netlink.set_mtu(link.index, mtu).await?;
            }
        }
        Ok(())
    }
}

/// Returns the subject of the note on endpoints that keep another MTU than their network's.
pub fn note_about_mtu(id: NetworkId) -> String {
    format!("mtu {id}")
}
