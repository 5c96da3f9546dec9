//! Uplinks: interfaces of the host bridged into a network, which keep everything that is their own.

use vswitch_common::Mac;

use super::state::{PortHandle, UplinkPort};
use super::{DEFAULT_MTU, Switch, SwitchError, WireError};
use crate::apply::{Scene, apply};
use crate::datapath::Xdp;
use crate::drivers::{self, UplinkFacts};
use crate::kernel::ethtool::{self, Feature};
use crate::kernel::netlink::{Link, Netlink};
use crate::model::{Instance, InterfaceName, Network, NetworkId, StationMac, UplinkBefore, XdpChoice};
use crate::plan::{Device, Offload, Step};
use crate::store::Change;

/// Why XDP is left off where nobody has said so.
const VETH_NOTE: &str = "no XDP: its frames may have unfinished checksums, for it is a veth; -o xdp=native asks for it";

impl Switch {
    /// Looks at an interface that is to be an uplink, and says how it is.
    pub(super) async fn inspect_uplink(&self, interface: &InterfaceName) -> Result<Link, SwitchError> {
        let user = {
            let state = self.state();
            let mut networks = state.networks.values();
            networks
                .find(|entry| entry.record.bridge.uplink.as_ref() == Some(interface))
                .map(|entry| entry.record.name.clone())
        };
        if let Some(network) = self.network_on(interface) {
            return Err(WireError::IsParent { interface: interface.clone(), network }.into());
        }
        if let Some(network) = user {
            return Err(SwitchError::UplinkInUse { interface: interface.clone(), network });
        }
        let not_found = || SwitchError::UplinkNotFound(interface.clone());
        let link = self.netlink.link_by_name(interface.as_str()).await?.ok_or_else(not_found)?;
        if link.loopback {
            return Err(SwitchError::UplinkLoopback(interface.clone()));
        }
        if station(&link).is_none() {
            return Err(SwitchError::UplinkNotEthernet(interface.clone()));
        }
        let is_port =
            self.datapath.ports()?.iter().any(|(_, port)| [port.ifindex, port.egress_ifindex].contains(&link.index));
        if is_port || link.alias.as_deref().is_some_and(Instance::is_marked) {
            return Err(SwitchError::UplinkIsPort(interface.clone()));
        }
        if let Some(master) = link.master {
            let master = self.netlink.link(master).await?.map_or_else(|| format!("device {master}"), |link| link.name);
            return Err(SwitchError::UplinkEnslaved { interface: interface.clone(), master });
        }
        Ok(link)
    }

    /// How the interface is now, to be recorded before it is changed.
    pub(super) fn uplink_before(&self, interface: &InterfaceName, link: &Link, choice: XdpChoice) -> UplinkBefore {
        let wants_xdp = self.facts(link).is_some_and(|facts| drivers::uplink_xdp(choice, &facts) != Xdp::Off);
        UplinkBefore {
            interface: interface.clone(),
            index: link.index,
            promiscuous: link.promiscuous,
            // A driver that cannot say cannot be told either.
            rx_vlan_offload: wants_xdp.then(|| ethtool::get(&link.name, Feature::RxVlan).ok()).flatten(),
        }
    }

    fn facts(&self, link: &Link) -> Option<UplinkFacts> {
        let veth = link.kind.as_deref() == Some("veth");
        station(link).map(|mac| UplinkFacts { mac, mtu: link.mtu, veth, mode: self.mode, addresses: Vec::new() })
    }

    /// Makes the interface a port; `network.uplink_before` says how it was found.
    pub(super) async fn add_uplink(&self, network: &Network, link: &Link) -> Result<(), SwitchError> {
        let (Some(before), Some(mut facts)) = (&network.uplink_before, self.facts(link)) else { return Ok(()) };
        if network.wire.is_some() {
            let addresses = self.netlink.addresses(Some(link.index)).await?;
            facts.addresses = addresses.into_iter().map(|(_, address)| address.addr()).collect();
        }
        let plan = match &network.wire {
            Some(_) => {
                let (place, xdp) = self.asked_of_parent(network);
                drivers::parent(network, before, &facts, place, xdp)
            }
            None => drivers::uplink(network, before, &facts),
        };
        let made = apply(&plan, self.scene()).await?;
        let Some((ifindex, number)) = made.port else { return Ok(()) };
        let hooks = self.datapath.port_hooks(number).unwrap_or_default();
        let xdp = hooks.starts_with("xdp");
        if !xdp && before.rx_vlan_offload == Some(true) {
            // Made ready for an XDP that could not be had.
            let device = Device::host(before.interface.as_str());
            apply(&[Step::Offloads { device, settings: vec![(Offload::RxVlan, true)] }], self.scene()).await?;
        }
        let note = (network.bridge.xdp == XdpChoice::Auto && facts.veth && !xdp).then_some(VETH_NOTE);
        tracing::info!(
            "{} is the {} of network {} ({hooks}{})",
            link.name,
            if network.wire.is_some() { "parent" } else { "uplink" },
            network.name,
            note.map(|note| format!("; {note}")).unwrap_or_default()
        );
        let uplink = UplinkPort {
            port: PortHandle { ifindex, number },
            mac: facts.mac.get(),
            addresses: facts.addresses,
            xdp,
            note,
        };
        if let Some(entry) = self.state().networks.get_mut(&network.id) {
            entry.uplink = Some(uplink);
        }
        Ok(())
    }

    /// Gives the interface back as it was found.
    pub(super) async fn release_uplink(&self, network: &Network) -> Result<(), SwitchError> {
        let uplink = self.state().networks.get_mut(&network.id).and_then(|entry| entry.uplink.take());
        if let Some(other) = self.on_same_parent(network) {
            // It stays their parent, and does what they ask for.
            return match self.netlink.link_by_name(other.interface().map_or("", InterfaceName::as_str)).await? {
                Some(link) => match self.add_uplink(&other, &link).await {
                    // It has gone meanwhile, with all that was on it.
                    Err(_) if self.netlink.link(link.index).await?.is_none() => Ok(()),
                    done => done,
                },
                None => Ok(()),
            };
        }
        if let Some(uplink) = uplink {
            self.remove_port(uplink.port.number).await?;
        }
        if let Some(before) = &network.uplink_before {
            restore_uplink(before, self.scene()).await;
        }
        Ok(())
    }

    /// An interface has come or changed: if it is a network's uplink, that network has it again.
    pub(super) async fn uplink_changed(&self, id: NetworkId, link: Link) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let Some(exclusive) = self.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = {
            let state = self.state();
            state
                .networks
                .get(&id)
                .filter(|entry| entry.ready)
                .map(|entry| (entry.record.clone(), entry.uplink.clone()))
        };
        let Some((mut network, uplink)) = found else { return Ok(()) };
        // Events tell of the past: what counts is how it is now.
        let Some(link) = self.netlink.link(link.index).await? else { return Ok(()) };
        match uplink {
            Some(uplink) if uplink.port.ifindex == link.index => {
                if station(&link).is_none_or(|mac| mac.get() == uplink.mac) {
                    return Ok(());
                }
                // Another address: the old one must not be taken for the host's any longer.
                self.remove_port(uplink.port.number).await?;
            }
            Some(_) => return Ok(()),
            None => {
                let Some(interface) = network.interface().cloned().filter(|name| name.as_str() == link.name) else {
                    return Ok(());
                };
                if network.uplink_before.as_ref().is_none_or(|before| before.index != link.index) {
                    network.uplink_before = Some(self.uplink_before(&interface, &link, network.bridge.xdp));
                    self.record_network(&network).await?;
                }
            }
        }
        self.add_uplink(&network, &link).await?;
        self.follow_parent(id).await;
        Ok(())
    }

    /// An interface has another name by now: the network is on the interface, whatever it is called.
    pub(super) async fn parent_renamed(&self, id: NetworkId, name: &str) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let interface: InterfaceName = name.parse()?;
        let Some(mut network) = self.state().networks.get(&id).map(|entry| entry.record.clone()) else {
            return Ok(());
        };
        let Some(wire) = &mut network.wire else { return Ok(()) };
        tracing::info!("{}, the parent of network {}, is called {interface} now", wire.parent, network.name);
        wire.parent = interface.clone();
        if let Some(before) = &mut network.uplink_before {
            before.interface = interface;
        }
        self.record_network(&network).await
    }

    /// An uplink is gone; it will be taken in again when it returns.
    pub(super) async fn uplink_removed(&self, id: NetworkId, ifindex: u32) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let Some(exclusive) = self.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        if self.netlink.link(ifindex).await?.is_some() {
            return Ok(());
        }
        let uplink = {
            let mut state = self.state();
            let entry = state.networks.get_mut(&id);
            entry.and_then(|entry| {
                let name = entry.record.name.clone();
                entry.uplink.take_if(|uplink| uplink.port.ifindex == ifindex).map(|uplink| (uplink, name))
            })
        };
        let Some((uplink, network)) = uplink else { return Ok(()) };
        tracing::warn!("the interface of network {network} is gone");
        self.remove_port(uplink.port.number).await?;
        self.follow_parent(id).await;
        Ok(())
    }

    /// Records what has changed about a network.
    pub(super) async fn record_network(&self, network: &Network) -> Result<(), SwitchError> {
        let recorded = {
            let mut state = self.state();
            if let Some(entry) = state.networks.get_mut(&network.id) {
                entry.record = network.clone();
            }
            self.store.commit(vec![Change::PutNetwork(network.clone())])
        };
        Ok(recorded.await?)
    }

    /// The MTU of a network: as given, the uplink's, that of the way out, or Ethernet's own.
    pub(super) async fn mtu(&self, network: &Network) -> Result<u32, SwitchError> {
        if let Some(mtu) = network.bridge.mtu {
            return Ok(mtu);
        }
        if let Some(overlay) = network.overlay {
            return self.overlay_mtu(overlay.encrypted).await;
        }
        let link = match network.interface() {
            Some(interface) => self.netlink.link_by_name(interface.as_str()).await?,
            None => default_route_link(&self.netlink).await?,
        };
        Ok(link.map_or(DEFAULT_MTU, |link| link.mtu))
    }
}

/// Gives an interface back as it was found, if it is still there. What cannot be restored is logged.
pub async fn restore_uplink(before: &UplinkBefore, scene: Scene<'_>) {
    let there = match scene.host.link(before.index).await {
        Ok(link) => link.is_some_and(|link| link.name == before.interface.as_str()),
        Err(_) => false,
    };
    if !there {
        return;
    }
    // Where the port was removed it is gone already; where the daemon died it is not.
    crate::datapath::release_device(before.index);
    if let Err(error) = scene.host.remove_ours(Some(before.index)).await {
        tracing::warn!("routes of ours stay on {}: {error}", before.interface);
    }
    if let Err(error) = apply(&drivers::release_uplink(before), scene).await {
        tracing::warn!("{} could not be given back as it was: {error}", before.interface);
    }
}

/// The device of the IPv4 default route that is preferred.
pub(super) async fn default_route_link(netlink: &Netlink) -> Result<Option<Link>, SwitchError> {
    let routes = netlink.routes().await?;
    let defaults =
        routes.iter().filter(|route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv4());
    let index = defaults.min_by_key(|route| route.metric).and_then(|route| route.index);
    match index {
        Some(index) => Ok(netlink.link(index).await?),
        None => Ok(None),
    }
}

pub(super) fn station(link: &Link) -> Option<StationMac> {
    link.mac.and_then(|mac: Mac| StationMac::try_from(mac).ok())
}
