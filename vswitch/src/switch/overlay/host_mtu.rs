//! The host's device in a network has the MTU that all of the network's endpoints have in common. They keep the one that they
//! were attached with, whatever new ones get.

use std::collections::BTreeSet;

use vswitch_common::forward::LEAST_IPV6;

use crate::apply::apply;
use crate::drivers;
use crate::model::{Network, NetworkId};
use crate::plan::Step;
use crate::switch::state::State;
use crate::switch::{Switch, SwitchError};

/// How long packets of the host and to the host may be in a network, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::switch) struct HostMtus {
    /// What the host's device may send: no more than any endpoint takes.
    pub device: u32,
    /// What may be sent to the host: all that any endpoint may send.
    pub port: u32,
}

impl State {
    /// What is right for the host in a network; `None` if it is gone.
    pub(in crate::switch) fn host_mtus(&self, network: NetworkId) -> Option<HostMtus> {
        let entry = self.networks.get(&network)?;
        let takes = self.endpoints_of(network).filter_map(|endpoint| entry.record.longest_of(&endpoint.record));
        let start = HostMtus { device: entry.mtu, port: entry.mtu };
        Some(takes.fold(start, |mtus, takes| HostMtus { device: mtus.device.min(takes), port: mtus.port.max(takes) }))
    }
}

impl Switch {
    /// Brings the host's devices and ports in these networks in line, after what new endpoints get has changed.
    pub(super) async fn fit_host_ports(&self, networks: BTreeSet<NetworkId>) -> Result<(), SwitchError> {
        for id in networks {
            let Some(exclusive) = self.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else { continue };
            let _exclusive = exclusive.lock().await;
            let found = {
                let state = self.state();
                let entry = state.networks.get(&id).filter(|entry| entry.ready && entry.host_port.is_some());
                entry.map(|entry| entry.record.clone()).zip(state.host_mtus(id))
            };
            let Some((network, mtus)) = found else { continue };
            let device = self.instance.host_device(&network.name);
            if self.netlink.link_by_name(&device).await?.is_none() {
                // Whoever makes it again asks for all this himself.
                continue;
            }
            let mut plan = drivers::host_port(&self.instance, &network, mtus.device, mtus.port);
            plan.retain(|step| matches!(step, Step::AddPort(_)));
            apply(&plan, self.scene()).await?;
            self.fit_host_devices(&network, mtus.device).await?;
        }
        Ok(())
    }

    /// Gives both ends of the host's veth in a network this MTU.
    pub(in crate::switch) async fn fit_host_devices(&self, network: &Network, mtu: u32) -> Result<(), SwitchError> {
        // With less the kernel takes the addresses away, and the gateway with them.
        let ipv6 = network.subnets.iter().any(|config| config.subnet.is_ipv6());
        let mtu = if ipv6 { mtu.max(LEAST_IPV6.into()) } else { mtu };
        for device in [self.instance.host_device(&network.name), self.instance.host_port_device(&network.id)] {
            if let Some(link) = self.netlink.link_by_name(&device).await?.filter(|link| link.mtu != mtu) {
                self.netlink.set_mtu(link.index, mtu).await?;
            }
        }
        Ok(())
    }
}
