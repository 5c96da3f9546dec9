//! Uplinks: host interfaces bridged into a network. They keep their addresses and routes.

use std::net::IpAddr;

use vswitch_common::Mac;

use crate::kernel::ethtool::{self, Feature};
use crate::kernel::netlink::Link;
use crate::model::{Instance, InterfaceName, Network, NetworkId, StationMac, UplinkBefore, Xdp, XdpChoice};
use crate::plan::apply::{Scene, apply};
use crate::plan::{self, DeviceStep, HostStep, InterfaceFacts, Offload};
use crate::switch::error::SwitchError;
use crate::switch::macvlan::{Macvlan, ParentError};
use crate::switch::state::{PortHandle, UplinkPort};

/// The note on a veth without XDP.
const VETH_NOTE: &str = "no XDP: its frames may have unfinished checksums, for it is a veth; -o xdp=native asks for it";

impl Macvlan {
    /// Returns the interface of a new uplink.
    pub async fn inspect_uplink(&self, interface: &InterfaceName) -> Result<Link, SwitchError> {
        let user = {
            let state = self.context.state();
            let mut networks = state.networks.values();
            networks.find(|entry| entry.record.uplink() == Some(interface)).map(|entry| entry.record.name.clone())
        };
        if let Some(network) = self.network_on(interface) {
            return Err(ParentError::IsParent { interface: interface.clone(), network }.into());
        }
        if let Some(network) = user {
            return Err(SwitchError::UplinkInUse { interface: interface.clone(), network });
        }
        let not_found = || SwitchError::UplinkNotFound(interface.clone());
        let link = self.context.netlink.link_by_name(interface.as_str()).await?.ok_or_else(not_found)?;
        if link.loopback {
            return Err(SwitchError::UplinkLoopback(interface.clone()));
        }
        if station(&link).is_none() {
            return Err(SwitchError::UplinkNotEthernet(interface.clone()));
        }
        let is_port = self
            .context
            .datapath
            .ports()?
            .iter()
            .any(|(_, port)| [port.ifindex, port.egress_ifindex].contains(&link.index));
        if is_port || link.alias.as_deref().is_some_and(Instance::is_marked) {
            return Err(SwitchError::UplinkIsPort(interface.clone()));
        }
        if let Some(master) = link.master {
            let master =
                self.context.netlink.link(master).await?.map_or_else(|| format!("device {master}"), |link| link.name);
            return Err(SwitchError::UplinkEnslaved { interface: interface.clone(), master });
        }
        Ok(link)
    }

    /// Refuses a gateway that the uplink's interface has itself: machines on the wire would find the
    /// address at two devices of the host.
    pub async fn check_gateways(&self, network: &Network, link: &Link) -> Result<(), SwitchError> {
        let own = self.context.netlink.addresses(Some(link.index)).await?;
        let is_own = |gateway: &IpAddr| own.iter().any(|(_, address)| address.addr() == *gateway);
        match network.gateways().find(is_own) {
            Some(gateway) => {
                let (network, interface) = (network.name.clone(), link.name.clone());
                Err(SwitchError::UplinkHasGateway { gateway, network, interface })
            }
            None => Ok(()),
        }
    }

    /// Returns the settings of an interface before it is changed.
    pub fn uplink_before(&self, interface: &InterfaceName, link: &Link, choice: XdpChoice) -> UplinkBefore {
        let wants_xdp = self.facts(link).is_some_and(|facts| plan::uplink_xdp(choice, &facts) != Xdp::Off);
        UplinkBefore {
            interface: interface.clone(),
            index: link.index,
            promiscuous: link.promiscuous,
            // A driver that does not report the setting cannot change it either.
            rx_vlan_offload: wants_xdp.then(|| ethtool::get(&link.name, Feature::RxVlan).ok()).flatten(),
        }
    }

    fn facts(&self, link: &Link) -> Option<InterfaceFacts> {
        let veth = link.kind.as_deref() == Some("veth");
        station(link).map(|mac| InterfaceFacts {
            mac,
            mtu: link.mtu,
            veth,
            mode: self.context.mode,
            addresses: Vec::new(),
        })
    }

    /// Makes an interface a port of a network. `network.uplink_before` holds its former settings.
    pub async fn add_uplink(&self, network: &Network, link: &Link) -> Result<(), SwitchError> {
        let (Some(before), Some(mut facts)) = (&network.uplink_before, self.facts(link)) else { return Ok(()) };
        if network.parent().is_some() {
            let addresses = self.context.netlink.addresses(Some(link.index)).await?;
            facts.addresses = addresses.into_iter().map(|(_, address)| address.addr()).collect();
        }
        let plan = plan::interface(network, before, &facts, self.needs_of_parent(network));
        let made = apply(&plan, self.context.scene()).await?;
        let Some((ifindex, number)) = made.port else { return Ok(()) };
        let hooks = self.context.datapath.port_hooks(number).unwrap_or_default();
        let xdp = hooks.starts_with("xdp");
        if !xdp && before.rx_vlan_offload == Some(true) {
            // The offload was changed for an XDP hook that could not be attached.
            let (device, settings) = (before.interface.to_string(), vec![(Offload::RxVlan, true)]);
            apply(&[HostStep::Device(DeviceStep::Offloads { device, settings })], self.context.scene()).await?;
        }
        let note = (network.xdp() == XdpChoice::Auto && facts.veth && !xdp).then_some(VETH_NOTE);
        tracing::info!(
            "{} is the {} of network {} ({hooks}{})",
            link.name,
            if network.parent().is_some() { "parent" } else { "uplink" },
            network.name,
            note.map(|note| format!("; {note}")).unwrap_or_default()
        );
        let uplink = UplinkPort {
            port: PortHandle { ifindex, number },
            mac: facts.mac.get(),
            mtu: facts.mtu,
            addresses: facts.addresses,
            xdp,
            note,
        };
        if let Some(entry) = self.context.state().networks.get_mut(&network.id) {
            entry.mtu = network.mtu_on(uplink.mtu);
            entry.uplink = Some(uplink);
        }
        Ok(())
    }

    /// Removes the port of an interface and restores its settings.
    pub async fn release_uplink(&self, network: &Network) -> Result<(), SwitchError> {
        let uplink = self.context.state().networks.get_mut(&network.id).and_then(|entry| entry.uplink.take());
        if let Some(other) = self.on_same_parent(network) {
            // The interface stays the parent of other networks, with the settings that those need.
            return match self.context.netlink.link_by_name(other.interface().map_or("", InterfaceName::as_str)).await? {
                Some(link) => match self.add_uplink(&other, &link).await {
                    // The interface is gone meanwhile.
                    Err(_) if self.context.netlink.link(link.index).await?.is_none() => Ok(()),
                    done => done,
                },
                None => Ok(()),
            };
        }
        if let Some(uplink) = uplink {
            self.multicast.remove_port(uplink.port.number).await?;
        }
        if let Some(before) = &network.uplink_before {
            restore_uplink(before, self.context.scene()).await;
        }
        Ok(())
    }

    /// Makes an interface that appeared or changed the uplink of its network again.
    pub async fn uplink_changed(&self, id: NetworkId, link: Link) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let Some(exclusive) = self.context.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let changed = {
            let _exclusive = exclusive.lock().await;
            self.renew_uplink(id, link).await?
        };
        if changed { self.context.fit_networks([id].into()).await } else { Ok(()) }
    }

    /// Updates the port of an uplink or parent to match its interface. Returns whether it had to.
    async fn renew_uplink(&self, id: NetworkId, link: Link) -> Result<bool, SwitchError> {
        let found = {
            let state = self.context.state();
            state
                .networks
                .get(&id)
                .filter(|entry| entry.ready)
                .map(|entry| (entry.record.clone(), entry.uplink.clone()))
        };
        let Some((mut network, uplink)) = found else { return Ok(false) };
        // The event may be stale, so the link is read again.
        let Some(link) = self.context.netlink.link(link.index).await? else { return Ok(false) };
        let mut same = false;
        match uplink {
            Some(uplink) if uplink.port.ifindex == link.index => {
                let Some(mac) = station(&link) else { return Ok(false) };
                if mac.get() != uplink.mac {
                    // The old MAC address is no longer the host's.
                    self.multicast.remove_port(uplink.port.number).await?;
                } else if link.mtu != uplink.mtu {
                    same = true;
                    tracing::info!("{} has an MTU of {} now, not {}", link.name, link.mtu, uplink.mtu);
                } else {
                    return Ok(false);
                }
            }
            Some(_) => return Ok(false),
            None => {
                let Some(interface) = network.interface().cloned().filter(|name| name.as_str() == link.name) else {
                    return Ok(false);
                };
                if network.uplink_before.as_ref().is_none_or(|before| before.index != link.index) {
                    network.uplink_before = Some(self.uplink_before(&interface, &link, network.xdp()));
                    self.context.record_network(&network).await?;
                }
            }
        }
        self.add_uplink(&network, &link).await?;
        if !same {
            self.follow_parent(id).await;
        }
        Ok(true)
    }

    /// Records the new name of a parent. The network stays on the interface.
    pub async fn parent_renamed(&self, id: NetworkId, name: &str) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let interface: InterfaceName = name.parse()?;
        let Some(mut network) = self.context.state().networks.get(&id).map(|entry| entry.record.clone()) else {
            return Ok(());
        };
        let name = network.name.clone();
        let Some(options) = network.parent_mut() else { return Ok(()) };
        tracing::info!("{}, the parent of network {name}, is called {interface} now", options.parent);
        options.parent = interface.clone();
        if let Some(before) = &mut network.uplink_before {
            before.interface = interface;
        }
        self.context.record_network(&network).await
    }

    /// Removes the port of an uplink that is gone. It is added again when the interface returns.
    pub async fn uplink_removed(&self, id: NetworkId, ifindex: u32) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let Some(exclusive) = self.context.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        if self.context.netlink.link(ifindex).await?.is_some() {
            return Ok(());
        }
        let uplink = {
            let mut state = self.context.state();
            let entry = state.networks.get_mut(&id);
            entry.and_then(|entry| {
                let name = entry.record.name.clone();
                entry.uplink.take_if(|uplink| uplink.port.ifindex == ifindex).map(|uplink| (uplink, name))
            })
        };
        let Some((uplink, network)) = uplink else { return Ok(()) };
        tracing::warn!("the interface of network {network} is gone");
        self.multicast.remove_port(uplink.port.number).await?;
        self.follow_parent(id).await;
        Ok(())
    }
}

/// Restores the settings of an interface, if it still exists. A setting that cannot be restored is
/// logged.
pub async fn restore_uplink(before: &UplinkBefore, scene: Scene<'_>) {
    let there = match scene.host.link(before.index).await {
        Ok(link) => link.is_some_and(|link| link.name == before.interface.as_str()),
        Err(_) => false,
    };
    if !there {
        return;
    }
    // The removal of the port also removed the hooks. A daemon that died left both.
    crate::datapath::release_device(before.index);
    if let Err(error) = scene.host.remove_own_routes_and_neighbors(Some(before.index)).await {
        tracing::warn!("routes of ours stay on {}: {error}", before.interface);
    }
    if let Err(error) = apply(&plan::release_uplink(before), scene).await {
        tracing::warn!("{} could not be given back as it was: {error}", before.interface);
    }
}

pub fn station(link: &Link) -> Option<StationMac> {
    link.mac.and_then(|mac: Mac| StationMac::try_from(mac).ok())
}
