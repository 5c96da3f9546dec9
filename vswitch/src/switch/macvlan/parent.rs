//! Parents: the host interfaces under macvlan and ipvlan networks. Networks on one parent share its
//! port and their number, as they are one segment on the wire.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use vswitch_common::Mac;

use super::uplink::station;
use crate::kernel::netlink::Link;
use crate::kernel::probe::{self, ProbeOn};
use crate::model::{
    Endpoint, EndpointId, Instance, InterfaceName, Layer, Network, NetworkId, NetworkName, ParentOptions, Passage,
    Phase, StationMac, Subnet, SubnetConfig, VlanId,
};
use crate::plan::apply::{Container, apply, apply_inside};
use crate::plan::store::Change;
use crate::plan::{self, DeviceStep, HostStep, InsideStep, ParentNeeds};
use crate::switch::error::SwitchError;
use crate::switch::macvlan::{Macvlan, ParentError};
use crate::switch::state::{State, UplinkPort};

/// The time that a probe waits for an answer.
const PROBE: Duration = Duration::from_millis(250);

/// The parts of a request that are not in the record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requested {
    /// Whether the network gets an IPv4 subnet even if the user named none.
    pub ipv4: bool,
    /// Whether the network gets an IPv6 subnet even if the user named none.
    pub ipv6: bool,
    /// Whether the user named gateways: then those of the subnets stay.
    pub gateways: bool,
}

impl Macvlan {
    /// Returns the network on an interface.
    pub fn network_on(&self, interface: &InterfaceName) -> Option<NetworkName> {
        let state = self.context.state();
        let mut networks = state.networks.values().map(|entry| &entry.record);
        let on = networks.find(|record| record.parent().is_some_and(|options| options.parent == *interface));
        on.map(|record| record.name.clone())
    }

    /// Finds the parent of a new network and its VLAN, and chooses the missing subnets.
    pub async fn prepare_parent(
        &self,
        network: &mut Network,
        requested: Requested,
    ) -> Result<Option<Link>, SwitchError> {
        let Some(mut options) = network.parent().cloned() else { return Ok(None) };
        if network.internal {
            return Err(ParentError::Internal(options.parent).into());
        }
        let (link, vlan) = self.find_parent(&options.parent).await?;
        (options.parent, options.vlan) = (link.name.parse()?, vlan);
        self.check_parent(&options, &link).await?;
        self.default_subnets(network, &options, &link, requested).await?;
        if let Some(there) = network.parent_mut() {
            *there = options;
        }
        Ok(Some(link))
    }

    /// Returns the interface with a name, or the interface and the VLAN of `INTERFACE.VLAN`.
    async fn find_parent(&self, name: &InterfaceName) -> Result<(Link, Option<VlanId>), SwitchError> {
        if let Some(link) = self.context.netlink.link_by_name(name.as_str()).await? {
            return Ok((link, None));
        }
        let not_found = || ParentError::NotFound(name.clone());
        let (parent, vlan) = name.as_str().rsplit_once('.').ok_or_else(not_found)?;
        let link = self.context.netlink.link_by_name(parent).await?.ok_or_else(not_found)?;
        let vlan = vlan.parse().map_err(|source| ParentError::Vlan { interface: name.clone(), source })?;
        Ok((link, Some(vlan)))
    }

    async fn check_parent(&self, options: &ParentOptions, link: &Link) -> Result<(), SwitchError> {
        let interface = options.parent.clone();
        if link.loopback {
            return Err(ParentError::Loopback(interface).into());
        }
        if station(link).is_none() {
            return Err(ParentError::NotEthernet(interface).into());
        }
        if let Some(master) = link.master {
            let master =
                self.context.netlink.link(master).await?.map_or_else(|| format!("device {master}"), |link| link.name);
            return Err(ParentError::Enslaved { interface, master }.into());
        }
        if options.layer == Layer::Mac && Path::new("/sys/class/net").join(&link.name).join("phy80211").exists() {
            return Err(ParentError::Wireless(interface).into());
        }
        if let (true, Some(vlan)) = (options.is_routed(), options.vlan) {
            let mode = if options.layer == Layer::L3 { "l3" } else { "l3s" };
            return Err(ParentError::RoutedVlan { mode, parent: interface, vlan }.into());
        }
        let shared = {
            let state = self.context.state();
            let mut networks = state.networks.values().map(|entry| &entry.record);
            if let Some(other) = networks.clone().find(|other| other.uplink() == Some(&interface)) {
                return Err(ParentError::IsUplink { interface, network: other.name.clone() }.into());
            }
            let other = networks.find_map(|other| {
                other.parent().filter(|other| other.parent == interface).map(|options| (options, &other.name))
            });
            if let Some((other, network)) = other
                && (other.passage == Passage::Passthru || options.passage == Passage::Passthru)
            {
                return Err(ParentError::Passthru { interface, network: network.clone() }.into());
            }
            other.is_some()
        };
        let ports = self.context.datapath.ports()?;
        let is_port = ports.iter().any(|(_, port)| [port.ifindex, port.egress_ifindex].contains(&link.index));
        if is_port && !shared || link.alias.as_deref().is_some_and(Instance::is_marked) {
            return Err(ParentError::IsPort(interface).into());
        }
        Ok(())
    }

    /// Chooses the parent's own subnet where the user named none, and its router as the gateway
    /// where the user named none.
    async fn default_subnets(
        &self,
        network: &mut Network,
        options: &ParentOptions,
        link: &Link,
        requested: Requested,
    ) -> Result<(), SwitchError> {
        let routes = self.context.netlink.routes().await?;
        let gateways: Vec<IpAddr> = routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0 && route.index == Some(link.index))
            .filter_map(|route| route.gateway)
            .collect();
        let addresses = self.context.netlink.addresses(Some(link.index)).await?;
        for (ipv6, wanted) in [(false, requested.ipv4), (true, requested.ipv6)] {
            if network.has_family(ipv6) || !wanted {
                continue;
            }
            // Every link has link-local addresses; they are no subnet.
            let own =
                addresses.iter().filter(|(_, address)| options.vlan.is_none() && address.addr().is_ipv6() == ipv6);
            let subnet = own
                .filter_map(|(_, address)| Subnet::new(address.trunc()).ok())
                .find(|subnet| !matches!(subnet.net().addr(), IpAddr::V4(first) if first.is_link_local()));
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            let parent = || network.options.get("parent").cloned().unwrap_or_else(|| options.parent.to_string());
            let subnet = subnet.ok_or_else(|| ParentError::NoSubnet { parent: parent(), family })?;
            let place = if ipv6 { network.subnets.len() } else { 0 };
            network.subnets.insert(place, SubnetConfig::new(subnet, None, None)?);
        }
        if requested.gateways {
            return Ok(());
        }
        for config in &mut network.subnets {
            if let Some(gateway) = gateways.iter().find(|gateway| config.subnet.is_host(**gateway)) {
                config.gateway = *gateway;
            }
        }
        Ok(())
    }

    /// Returns what all networks on a network's parent need of its port.
    pub fn needs_of_parent(&self, network: &Network) -> ParentNeeds {
        let state = self.context.state();
        let there = state.networks.values().map(|entry| &entry.record);
        let all = there.filter(|other| other.number == network.number && other.id != network.id).chain([network]);
        ParentNeeds::of(all)
    }

    /// Updates the known host addresses on parents to match the kernel: packets to an address that
    /// was added later are the host's, too.
    pub async fn refresh_parents(&self) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let routed: Vec<(Network, UplinkPort)> = {
            let state = self.context.state();
            let there = state.networks.values().filter(|entry| entry.ready && entry.uplink.is_some());
            let routed = there.filter(|entry| entry.record.parent().is_some_and(ParentOptions::has_host_routes));
            routed.filter_map(|entry| Some((entry.record.clone(), entry.uplink.clone()?))).collect()
        };
        for (network, uplink) in routed {
            let index = uplink.port.ifindex;
            let addresses = self.context.netlink.addresses(Some(index)).await?;
            let same = addresses.iter().map(|(_, address)| address.addr()).eq(uplink.addresses);
            if !same && let Some(link) = self.context.netlink.link(index).await? {
                self.add_uplink(&network, &link).await?;
            }
        }
        Ok(())
    }

    /// Returns another network on the same parent that has its port.
    pub fn on_same_parent(&self, network: &Network) -> Option<Network> {
        network.parent()?;
        let state = self.context.state();
        let mut others = state.networks.values();
        let other = others.find(|other| {
            other.record.number == network.number && other.record.id != network.id && other.uplink.is_some()
        });
        other.map(|other| other.record.clone())
    }

    /// Probes whether a machine on the wire has an address of an endpoint.
    pub async fn probe(&self, network: &Network, endpoint: &Endpoint) -> Result<(), SwitchError> {
        let Some((options, address)) = network.parent().zip(endpoint.address.as_ref()) else { return Ok(()) };
        let Some(uplink) = self.context.state().networks.get(&network.id).and_then(|entry| entry.uplink.clone()) else {
            return Ok(());
        };
        if !network.capabilities().probed
            || self.context.netlink.link(uplink.port.ifindex).await?.is_none_or(|link| !link.running)
        {
            return Ok(());
        }
        let vlan = options.vlan.map_or(0, |vlan| vlan.get());
        let on = ProbeOn { index: uplink.port.ifindex, mac: uplink.mac, vlan };
        let addresses: Vec<IpAddr> = address.ips().collect();
        match probe::find_holder(&on, &addresses, PROBE).await {
            Ok(None) => Ok(()),
            Ok(Some(holder)) => {
                let parent = options.parent.clone();
                Err(ParentError::InUse { address: holder.address, mac: holder.mac, parent }.into())
            }
            Err(error) => {
                tracing::warn!("addresses of {} were not looked for on the wire: {error}", endpoint.name);
                Ok(())
            }
        }
    }

    /// Removes the host's routes and neighbor entries for an endpoint.
    pub async fn close_host_routes(&self, endpoint: &Endpoint) {
        let device = {
            let state = self.context.state();
            let network = state.networks.get(&endpoint.network).map(|entry| &entry.record);
            network.and_then(|network| match network.parent() {
                Some(options) => Some(options.parent.to_string()).filter(|_| options.has_host_routes()),
                None => network.uplink().map(|_| self.context.instance.host_device(network.device_name())),
            })
        };
        let Some((device, address)) = device.zip(endpoint.address.as_ref()) else { return };
        let index = match self.context.netlink.link_by_name(&device).await {
            Ok(Some(link)) => link.index,
            // The routes are gone with the device.
            Ok(None) => return,
            Err(error) => return tracing::warn!("the host's routes to {} stay: {error}", endpoint.name),
        };
        for address in address.ips() {
            let removed = self.context.netlink.remove_device_route(index, IpNet::from(address)).await;
            if let Err(error) = removed.and(self.context.netlink.remove_neighbor(index, address).await) {
                tracing::warn!("the host's route to {address} stays: {error}");
            }
        }
    }

    /// Sets the carrier of a network's endpoints to that of its parent. A parent that returns may
    /// have another MAC address.
    pub async fn follow_parent(&self, id: NetworkId) {
        let (endpoints, parent): (Vec<_>, _) = {
            let state = self.context.state();
            let Some(entry) = state.networks.get(&id).filter(|entry| entry.record.parent().is_some()) else { return };
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
        let port = self.context.state().endpoints.get(&id).and_then(|entry| entry.port);
        match port {
            Some(port) => Ok(self.context.netlink.set_down(port.ifindex).await?),
            None => Ok(()),
        }
    }

    async fn parent_is_there(&self, id: EndpointId, mac: Mac) -> Result<(), SwitchError> {
        let Some(exclusive) = self.context.state().endpoints.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = {
            let state = self.context.state();
            state.endpoints.get(&id).and_then(|entry| {
                let network = state.networks.get(&entry.record.network)?;
                Some((entry.record.clone(), entry.port?, network.record.clone()))
            })
        };
        let Some((mut endpoint, port, network)) = found else { return Ok(()) };
        let (Some(options), Some(address)) = (network.parent(), &mut endpoint.address) else { return Ok(()) };
        let another = options.shares_mac() && address.mac.get() != mac;
        let interface = address.ifname.to_string();
        if another {
            address.mac = StationMac::try_from(mac)?;
            let recorded = {
                let mut state = self.context.state();
                if let Some(entry) = state.endpoints.get_mut(&id) {
                    entry.record = endpoint.clone();
                }
                self.context.store.commit(vec![Change::PutEndpoint(endpoint.clone())])
            };
            recorded.await?;
        }
        let mut plan =
            plan::endpoint(&self.context.instance, &network, &endpoint, self.context.facts_of(&network, &endpoint));
        plan.host.retain(|step| matches!(step, HostStep::AddPort(_) | HostStep::HostRoute { .. }));
        apply(&plan.host, self.context.scene()).await?;
        self.context.netlink.set_up(port.ifindex).await?;
        if another {
            let netns = self.context.open_netns(&endpoint.netns.path).await?;
            let path = endpoint.netns.path.clone();
            let container = tokio::task::block_in_place(|| Container::open(netns, &path))?;
            // Waits for the carrier, so that the announcement of the new address goes out.
            let carrier = DeviceStep::CheckCarrier { device: interface.clone() };
            let steps = [InsideStep::Device(carrier), InsideStep::Mac { device: interface, mac }];
            apply_inside(&steps, self.context.scene(), &container).await?;
        }
        Ok(())
    }
}

impl State {
    /// Returns whether two networks are in one VLAN of one interface.
    pub fn share_segment(one: &Network, other: &Network) -> bool {
        match (one.parent(), other.parent()) {
            (Some(one), Some(other)) => one.parent == other.parent && one.vlan == other.vlan,
            // The host cannot route to a subnet both in a network of its own and on a wire.
            _ => true,
        }
    }

    /// Returns the MAC address of a network's parent, if the endpoints share it and the parent
    /// exists.
    pub fn shared_mac(&self, network: NetworkId) -> Option<StationMac> {
        let entry = self.networks.get(&network)?;
        entry.record.parent().filter(|options| options.shares_mac())?;
        StationMac::try_from(entry.uplink.as_ref()?.mac).ok()
    }

    /// Returns the networks with endpoints that have a former MAC address of their parent.
    pub fn with_former_macs(&self) -> Vec<NetworkId> {
        let has_former = |id: NetworkId| {
            let mac = self.shared_mac(id);
            let mut addresses = self.endpoints_of(id).filter_map(|entry| entry.record.address.as_ref());
            mac.is_some_and(|mac| addresses.any(|address| address.mac != mac))
        };
        self.networks.keys().copied().filter(|id| has_former(*id)).collect()
    }

    /// Returns the endpoint of a passthru network that has one already.
    pub fn only_endpoint(&self, network: &Network) -> Option<String> {
        network.parent().filter(|options| options.passage == Passage::Passthru)?;
        self.endpoints_of(network.id).next().map(|entry| entry.record.name.to_string())
    }
}
