//! The MTU of the host device of a network is the smallest of its endpoints. An endpoint keeps the
//! MTU that it was attached with.

use std::collections::BTreeSet;

use vswitch_common::forward::LEAST_IPV6;

use crate::model::{Network, NetworkId};
use crate::plan::apply::apply;
use crate::plan::{self, HostStep};
use crate::switch::error::SwitchError;
use crate::switch::overlay::Overlay;
use crate::switch::state::State;

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
}

impl Overlay {
    /// Updates the host devices and host ports of networks after the MTU of new endpoints changed.
    pub async fn fit_host_ports(&self, networks: BTreeSet<NetworkId>) -> Result<(), SwitchError> {
        for id in networks {
            let Some(exclusive) = self.context.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else {
                continue;
            };
            let _exclusive = exclusive.lock().await;
            let found = {
                let state = self.context.state();
                let entry = state.networks.get(&id).filter(|entry| entry.ready && entry.host_port.is_some());
                entry.map(|entry| entry.record.clone()).zip(state.host_mtus(id))
            };
            let Some((network, mtus)) = found else { continue };
            let device = self.context.instance.host_device(&network.name);
            if self.context.netlink.link_by_name(&device).await?.is_none() {
                // The device is created again with the current MTU.
                continue;
            }
            let mut plan = plan::host_port(&self.context.instance, &network, mtus.device, mtus.port);
            plan.retain(|step| matches!(step, HostStep::AddPort(_)));
            apply(&plan, self.context.scene()).await?;
            self.fit_host_devices(&network, mtus.device).await?;
        }
        Ok(())
    }

    /// Sets the MTU of both ends of the host's veth pair.
    pub async fn fit_host_devices(&self, network: &Network, mtu: u32) -> Result<(), SwitchError> {
        // Below this the kernel removes the IPv6 addresses, and with them the gateway.
        let ipv6 = network.subnets.iter().any(|config| config.subnet.is_ipv6());
        let mtu = if ipv6 { mtu.max(LEAST_IPV6.into()) } else { mtu };
        for device in
            [self.context.instance.host_device(&network.name), self.context.instance.host_port_device(&network.id)]
        {
            if let Some(link) = self.context.netlink.link_by_name(&device).await?.filter(|link| link.mtu != mtu) {
                self.context.netlink.set_mtu(link.index, mtu).await?;
            }
        }
        Ok(())
    }
}
