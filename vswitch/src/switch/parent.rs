//! Parents: interfaces of the host that macvlan and ipvlan networks are on. Several networks may share one; in the switch
//! they are one network, as they are one segment on the wire.

mod error;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use vswitch_common::Mac;

pub use error::WireError;

use super::state::{State, UplinkPort};
use super::{Switch, SwitchError};
use crate::apply::{Container, Scene, apply};
use crate::datapath::Place;
use crate::drivers;
use crate::kernel::netlink::Link;
use crate::kernel::probe::{self, ProbeOn};
use crate::model::{
    Endpoint, EndpointId, Instance, InterfaceName, Layer, Network, NetworkId, NetworkName, Passage, Phase, StationMac,
    Subnet, SubnetConfig, VlanId, WireOptions, XdpChoice,
};
use crate::plan::{Device, Step};
use crate::store::Change;

/// How long machines on the wire have to say that an address is theirs.
const PROBE: Duration = Duration::from_millis(250);

/// What was asked for besides what is in the record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// An IPv6 subnet, even if none is given.
    pub ipv6: bool,
    /// Gateways: those of the subnets stay as they are.
    pub gateways: bool,
}

impl Switch {
    /// The network that is on an interface, if one is.
    pub(super) fn network_on(&self, interface: &InterfaceName) -> Option<NetworkName> {
        let state = self.state();
        let mut networks = state.networks.values().map(|entry| &entry.record);
        let on = networks.find(|record| record.wire.as_ref().is_some_and(|wire| wire.parent == *interface));
        on.map(|record| record.name.clone())
    }

    /// Finds the parent of a network that is to be, and the VLAN there; gives it subnets where it was given none.
    pub(super) async fn prepare_parent(
        &self,
        network: &mut Network,
        asked: Asked,
    ) -> Result<Option<Link>, SwitchError> {
        let Some(mut wire) = network.wire.clone() else { return Ok(None) };
        if network.internal {
            return Err(WireError::Internal(wire.parent).into());
        }
        let (link, vlan) = self.find_parent(&wire.parent).await?;
        (wire.parent, wire.vlan) = (link.name.parse()?, vlan);
        self.check_parent(&wire, &link).await?;
        self.default_subnets(network, &wire, &link, asked).await?;
        network.wire = Some(wire);
        Ok(Some(link))
    }

    /// An interface by its name; else one and a VLAN of it.
    async fn find_parent(&self, name: &InterfaceName) -> Result<(Link, Option<VlanId>), SwitchError> {
        if let Some(link) = self.netlink.link_by_name(name.as_str()).await? {
            return Ok((link, None));
        }
        let not_found = || WireError::NotFound(name.clone());
        let (parent, vlan) = name.as_str().rsplit_once('.').ok_or_else(not_found)?;
        let link = self.netlink.link_by_name(parent).await?.ok_or_else(not_found)?;
        let vlan = vlan.parse().map_err(|source| WireError::Vlan { interface: name.clone(), source })?;
        Ok((link, Some(vlan)))
    }

    async fn check_parent(&self, wire: &WireOptions, link: &Link) -> Result<(), SwitchError> {
        let interface = wire.parent.clone();
        if link.loopback {
            return Err(WireError::Loopback(interface).into());
        }
        if super::uplink::station(link).is_none() {
            return Err(WireError::NotEthernet(interface).into());
        }
        if let Some(master) = link.master {
            let master = self.netlink.link(master).await?.map_or_else(|| format!("device {master}"), |link| link.name);
            return Err(WireError::Enslaved { interface, master }.into());
        }
        if wire.layer == Layer::Mac && Path::new("/sys/class/net").join(&link.name).join("phy80211").exists() {
            return Err(WireError::Wireless(interface).into());
        }
        if let (true, Some(vlan)) = (wire.is_routed(), wire.vlan) {
            let mode = if wire.layer == Layer::L3 { "l3" } else { "l3s" };
            return Err(WireError::RoutedVlan { mode, parent: interface, vlan }.into());
        }
        let shared = {
            let state = self.state();
            let mut networks = state.networks.values().map(|entry| &entry.record);
            if let Some(other) = networks.clone().find(|other| other.bridge.uplink.as_ref() == Some(&interface)) {
                return Err(WireError::IsUplink { interface, network: other.name.clone() }.into());
            }
            let other = networks.find_map(|other| {
                other.wire.as_ref().filter(|other| other.parent == interface).map(|wire| (wire, &other.name))
            });
            if let Some((other, network)) = other
                && (other.passage == Passage::Passthru || wire.passage == Passage::Passthru)
            {
                return Err(WireError::Passthru { interface, network: network.clone() }.into());
            }
            other.is_some()
        };
        let ports = self.datapath.ports()?;
        let is_port = ports.iter().any(|(_, port)| [port.ifindex, port.egress_ifindex].contains(&link.index));
        if is_port && !shared || link.alias.as_deref().is_some_and(Instance::is_marked) {
            return Err(WireError::IsPort(interface).into());
        }
        Ok(())
    }

    /// The parent's own subnet where none is given; its router as the gateway where that is not given.
    async fn default_subnets(
        &self,
        network: &mut Network,
        wire: &WireOptions,
        link: &Link,
        asked: Asked,
    ) -> Result<(), SwitchError> {
        let routes = self.netlink.routes().await?;
        let gateways: Vec<IpAddr> = routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0 && route.index == Some(link.index))
            .filter_map(|route| route.gateway)
            .collect();
        let addresses = self.netlink.addresses(Some(link.index)).await?;
        for ipv6 in [false, true] {
            let given = network.subnets.iter().any(|config| config.subnet.is_ipv6() == ipv6);
            if given || ipv6 && !asked.ipv6 {
                continue;
            }
            // Link-local ones are every link's, and no subnet.
            let own = addresses.iter().filter(|(_, address)| wire.vlan.is_none() && address.addr().is_ipv6() == ipv6);
            let subnet = own
                .filter_map(|(_, address)| Subnet::new(address.trunc()).ok())
                .find(|subnet| !matches!(subnet.net().addr(), IpAddr::V4(first) if first.is_link_local()));
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let parent = || network.options.get("parent").cloned().unwrap_or_else(|| wire.parent.to_string());
            let subnet = subnet.ok_or_else(|| WireError::NoSubnet { parent: parent(), family })?;
            let place = if ipv6 { network.subnets.len() } else { 0 };
            network.subnets.insert(place, SubnetConfig::new(subnet, None, None)?);
        }
        if asked.gateways {
            return Ok(());
        }
        for config in &mut network.subnets {
            if let Some(gateway) = gateways.iter().find(|gateway| config.subnet.is_host(**gateway)) {
                config.gateway = *gateway;
            }
        }
        Ok(())
    }

    /// What all networks on the parent of this one ask of its port, and of XDP there: who wants it natively is given it.
    pub(super) fn asked_of_parent(&self, network: &Network) -> (Place, XdpChoice) {
        let state = self.state();
        let there = state.networks.values().map(|entry| &entry.record);
        let all = there.filter(|other| other.number == network.number && other.id != network.id).chain([network]);
        let xdp = all.clone().map(|network| network.bridge.xdp).max().unwrap_or_default();
        (drivers::union(all.filter_map(|network| network.wire.as_ref())), xdp)
    }

    /// Brings what is known of the host's own addresses on parents in line: those that come later are for the host, too.
    pub(super) async fn refresh_parents(&self) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let routed: Vec<(Network, UplinkPort)> = {
            let state = self.state();
            let there = state.networks.values().filter(|entry| entry.ready && entry.uplink.is_some());
            let routed = there.filter(|entry| entry.record.wire.as_ref().is_some_and(WireOptions::has_host_routes));
            routed.filter_map(|entry| Some((entry.record.clone(), entry.uplink.clone()?))).collect()
        };
        for (network, uplink) in routed {
            let index = uplink.port.ifindex;
            let addresses = self.netlink.addresses(Some(index)).await?;
            let same = addresses.iter().map(|(_, address)| address.addr()).eq(uplink.addresses);
            if !same && let Some(link) = self.netlink.link(index).await? {
                self.add_uplink(&network, &link).await?;
            }
        }
        Ok(())
    }

    /// Other networks on the same parent that have its port.
    pub(super) fn on_same_parent(&self, network: &Network) -> Option<Network> {
        network.wire.as_ref()?;
        let state = self.state();
        let mut others = state.networks.values();
        let other = others.find(|other| {
            other.record.number == network.number && other.record.id != network.id && other.uplink.is_some()
        });
        other.map(|other| other.record.clone())
    }

    /// Asks the wire whether somebody has an address of an endpoint already.
    pub(super) async fn probe(&self, network: &Network, endpoint: &Endpoint) -> Result<(), SwitchError> {
        let Some((wire, address)) = network.wire.as_ref().zip(endpoint.address.as_ref()) else { return Ok(()) };
        let Some(uplink) = self.state().networks.get(&network.id).and_then(|entry| entry.uplink.clone()) else {
            return Ok(());
        };
        if wire.is_routed() || self.netlink.link(uplink.port.ifindex).await?.is_none_or(|link| !link.running) {
            return Ok(());
        }
        let vlan = wire.vlan.map_or(0, |vlan| vlan.get());
        let on = ProbeOn { index: uplink.port.ifindex, mac: uplink.mac, vlan };
        let addresses: Vec<IpAddr> = address.ips().collect();
        match probe::holder(&on, &addresses, PROBE).await {
            Ok(None) => Ok(()),
            Ok(Some(holder)) => {
                let parent = wire.parent.clone();
                Err(WireError::InUse { address: holder.address, mac: holder.mac, parent }.into())
            }
            Err(error) => {
                tracing::warn!("addresses of {} were not looked for on the wire: {error}", endpoint.name);
                Ok(())
            }
        }
    }

    /// Takes the host's own way to an endpoint away.
    pub(super) async fn close_host_routes(&self, endpoint: &Endpoint) {
        let found = {
            let state = self.state();
            let entry = state.networks.get(&endpoint.network);
            entry.filter(|entry| entry.record.wire.as_ref().is_some_and(WireOptions::has_host_routes)).and_then(
                |entry| {
                    Some((entry.uplink.as_ref()?.port.ifindex, endpoint.address.as_ref()?.ips().collect::<Vec<_>>()))
                },
            )
        };
        let Some((index, addresses)) = found else { return };
        for address in addresses {
            let removed = self.netlink.remove_device_route(index, IpNet::from(address)).await;
            if let Err(error) = removed.and(self.netlink.remove_neighbor(index, address).await) {
                tracing::warn!("the host's route to {address} stays: {error}");
            }
        }
    }

    /// Tells the endpoints of a network that its parent has gone, or is there: by their carrier. One that is there again
    /// may have another MAC address.
    pub(super) async fn follow_parent(&self, id: NetworkId) {
        let (endpoints, parent): (Vec<_>, _) = {
            let state = self.state();
            let Some(entry) = state.networks.get(&id).filter(|entry| entry.record.wire.is_some()) else { return };
            let there = state.endpoints_of(id).filter(|entry| entry.record.phase == Phase::Attached);
            (there.map(|entry| entry.record.id).collect(), entry.uplink.clone())
        };
        for endpoint in endpoints {
            let followed = match &parent {
                Some(parent) => self.parent_is_there(endpoint, parent.mac).await,
                None => self.parent_is_gone(endpoint).await,
            };
            if let Err(error) = followed {
                tracing::warn!("endpoint {} does not follow its parent: {error}", endpoint.short());
            }
        }
    }

    async fn parent_is_gone(&self, id: EndpointId) -> Result<(), SwitchError> {
        let port = self.state().endpoints.get(&id).and_then(|entry| entry.port);
        match port {
            Some(port) => Ok(self.netlink.set_down(port.ifindex).await?),
            None => Ok(()),
        }
    }

    async fn parent_is_there(&self, id: EndpointId, mac: Mac) -> Result<(), SwitchError> {
        let Some(exclusive) = self.state().endpoints.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = {
            let state = self.state();
            state.endpoints.get(&id).and_then(|entry| {
                let network = state.networks.get(&entry.record.network)?;
                Some((entry.record.clone(), entry.port?, network.record.clone()))
            })
        };
        let Some((mut endpoint, port, network)) = found else { return Ok(()) };
        let (Some(wire), Some(address)) = (&network.wire, &mut endpoint.address) else { return Ok(()) };
        let another = wire.shares_mac() && address.mac.get() != mac;
        let interface = Device::container(address.ifname.as_str());
        if another {
            address.mac = StationMac::try_from(mac)?;
            let recorded = {
                let mut state = self.state();
                if let Some(entry) = state.endpoints.get_mut(&id) {
                    entry.record = endpoint.clone();
                }
                self.store.commit(vec![Change::PutEndpoint(endpoint.clone())])
            };
            recorded.await?;
        }
        let mut plan = drivers::plan(&self.instance, &network, &endpoint, self.facts_of(&network, &endpoint));
        plan.retain(|step| matches!(step, Step::AddPort(_) | Step::HostRoute { .. }));
        apply(&plan, self.scene()).await?;
        self.netlink.set_up(port.ifindex).await?;
        if another {
            let netns = self.open_netns(&endpoint.netns.path).await?;
            let path = endpoint.netns.path.clone();
            let container = tokio::task::block_in_place(|| Container::open(netns, &path))?;
            // Once it passes frames, so that the announcement of its new address goes out.
            let plan = [Step::CheckCarrier { device: interface.clone() }, Step::Mac { device: interface, mac }];
            apply(&plan, Scene { container: Some(&container), ..self.scene() }).await?;
        }
        Ok(())
    }
}

impl State {
    /// Whether two networks are in one VLAN of one interface.
    pub fn share_segment(one: &Network, other: &Network) -> bool {
        match (&one.wire, &other.wire) {
            (Some(one), Some(other)) => one.parent == other.parent && one.vlan == other.vlan,
            // What the host routes to a network of its own it does not find on a wire.
            _ => true,
        }
    }

    /// Who has a passthru network to itself.
    pub fn only_endpoint(&self, network: &Network) -> Option<String> {
        network.wire.as_ref().filter(|wire| wire.passage == Passage::Passthru)?;
        self.endpoints_of(network.id).next().map(|entry| entry.record.name.to_string())
    }
}
