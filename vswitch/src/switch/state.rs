//! The state of the switch, and the decisions on names, addresses and numbers. All of it is under
//! one lock.

mod reference;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use vswitch_common::Mac;
use vswitch_common::tables::{MAX_PORTS, NetworkNumber, PortNumber};

use crate::kernel::netns::NetnsId;
use crate::model::{
    Endpoint, EndpointAddress, EndpointId, EngineKey, InterfaceName, Network, NetworkId, NetworkName, ParentOptions,
    Passage, Peer, Phase, Pool, PoolId, Published, StationMac, Subnet, SubnetConfig, Vni,
};
use crate::plan;
use crate::plan::ipam::{self, Occupied};
use crate::switch::error::SwitchError;
use crate::switch::others::Others;
use crate::switch::overlay::OverlayError;
pub use reference::Referred;
pub use table::{Shared, Table};

/// The networks, endpoints and peers of this host, and those of the cluster.
///
/// A copy is a snapshot: it shares everything with the original until that changes.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub networks: Table<NetworkId, NetworkEntry>,
    pub endpoints: Table<EndpointId, EndpointEntry>,
    pub peers: Table<IpAddr, PeerEntry>,
    /// The address pools of engines.
    pub pools: Table<PoolId, Pool>,
    /// The networks and endpoints of other hosts in the cluster.
    pub others: Shared<Others>,
    /// The endpoints that are gone while rules of their published ports may still be there.
    pub closing: Vec<Closing>,
}

/// The addresses and host ports of an endpoint that is gone. They are not free until the rules that
/// lead to them are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    pub endpoint: EndpointId,
    pub network: NetworkId,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Published>,
}

/// A network with its ports in the kernel.
#[derive(Clone, Debug)]
pub struct NetworkEntry {
    pub record: Network,
    /// Whether other requests find the network: false while it is created or removed.
    pub ready: bool,
    /// The MTU of new endpoints.
    pub mtu: u32,
    pub host_port: Option<PortHandle>,
    pub uplink: Option<UplinkPort>,
    /// The tunnels by peer; `None` for a network that is no overlay network, and while it is
    /// created or removed.
    pub tunnels: Option<BTreeMap<IpAddr, PortHandle>>,
    /// Held while the devices of the network are changed.
    pub exclusive: Arc<AsyncMutex<()>>,
    /// The addresses that were assigned last, IPv4 and IPv6. The next ones follow them.
    last: [Option<IpAddr>; 2],
}

impl NetworkEntry {
    /// Returns a network that is not ready and has no ports.
    pub fn new(record: Network, mtu: u32) -> Self {
        Self {
            record,
            ready: false,
            mtu,
            host_port: None,
            uplink: None,
            tunnels: None,
            exclusive: Arc::default(),
            last: [None; 2],
        }
    }

    /// Returns the address of a family that was assigned last.
    pub const fn last(&self, ipv6: bool) -> Option<IpAddr> {
        self.last[ipv6 as usize]
    }

    /// Notes that an address was assigned. It is assigned again after all others.
    pub const fn assigned(&mut self, address: IpAddr) {
        self.last[address.is_ipv6() as usize] = Some(address);
    }
}

impl NetworkEntry {
    /// Returns whether packets of the network leave by an interface of the host that exists, or by
    /// tunnels, without the host's stack: then the MTU is that of the interface or the tunnels.
    pub const fn has_path(&self) -> bool {
        self.uplink.is_some() || self.tunnels.is_some()
    }
}

/// An endpoint with its port in the kernel.
#[derive(Clone, Debug)]
pub struct EndpointEntry {
    pub record: Endpoint,
    pub port: Option<PortHandle>,
    /// Held while the endpoint is changed.
    pub exclusive: Arc<AsyncMutex<()>>,
}

/// A peer, and when a frame last came from it.
#[derive(Clone, Debug)]
pub struct PeerEntry {
    pub record: Peer,
    /// The count of frames from the peer at the last look.
    pub frames: u64,
    pub heard: Option<Instant>,
}

impl PeerEntry {
    pub const fn new(record: Peer) -> Self {
        Self { record, frames: 0, heard: None }
    }
}

/// A port with its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortHandle {
    pub ifindex: u32,
    pub number: PortNumber,
}

impl PortHandle {
    /// Returns a port without a number, for a device that is none yet.
    pub const fn unnumbered(ifindex: u32) -> Self {
        Self { ifindex, number: PortNumber::NONE }
    }
}

/// The port of an uplink or parent whose interface exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkPort {
    pub port: PortHandle,
    /// The MAC address of the interface.
    pub mac: Mac,
    /// The MTU of the interface in bytes.
    pub mtu: u32,
    /// The host's IP addresses on the interface; collected for parents only.
    pub addresses: Vec<IpAddr>,
    /// Whether XDP runs on the interface.
    pub xdp: bool,
    /// The reason why XDP does not run, if the reason is worth a note.
    pub note: Option<&'static str>,
}

/// An endpoint to admit, before it has addresses.
#[derive(Debug)]
pub struct Wanted {
    pub endpoint: Endpoint,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<StationMac>,
    /// The MAC address of the parent, if endpoints share it.
    pub parent_mac: Option<StationMac>,
    /// The interface in the namespace; the next free one for `None`.
    pub ifname: Option<InterfaceName>,
    /// Addresses in use outside of the switch, with their holders.
    pub taken: BTreeMap<IpAddr, String>,
    /// Names of the interfaces in the namespace, for `ifname: None`.
    pub interfaces: BTreeSet<String>,
    /// The holder of the requested MAC address, if the FDB knows one.
    pub station: Option<String>,
}

/// A network to admit, before it has subnets.
#[derive(Debug)]
pub struct WantedNetwork {
    pub network: Network,
    /// The families that the network has even if the user named no subnet.
    pub families: Families,
    /// The MTU of new endpoints.
    pub mtu: u32,
}

/// The families that a network has even if the user named no subnet of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Families {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl State {
    /// Returns all connections of the namespace of an endpoint, this one included, in the order of
    /// [`State::gateway_order`]. They share a default route and DNS servers, whatever their names
    /// are.
    pub fn sharing(&self, endpoint: &Endpoint) -> Vec<&EndpointEntry> {
        let mut there: Vec<_> = self.endpoints.values().filter(|entry| same_place(&entry.record, endpoint)).collect();
        there.sort_by_cached_key(|entry| self.gateway_order(&entry.record));
        there
    }

    /// Returns an endpoint in each of its networks, in the order of [`State::gateway_order`].
    pub fn connections(&self, endpoint: &Endpoint) -> Vec<&EndpointEntry> {
        let mut all: Vec<_> = self.endpoints.values().filter(|entry| entry.record.is_with(endpoint)).collect();
        all.sort_by_cached_key(|entry| self.gateway_order(&entry.record));
        all
    }

    /// Returns an endpoint in one network.
    pub fn endpoint_in(&self, endpoint: &Endpoint, network: NetworkId) -> Option<&EndpointEntry> {
        self.endpoints_of(network).find(|entry| entry.record.is_with(endpoint))
    }

    /// Returns the endpoint that an engine gave this key.
    pub fn owned(&self, key: &EngineKey) -> Option<&EndpointEntry> {
        self.endpoints.values().find(|entry| entry.record.engine.as_ref().is_some_and(|engine| engine.id == *key))
    }

    /// Returns the network that an engine gave this name.
    pub fn external(&self, owner: &str, external_id: &str) -> Option<&NetworkEntry> {
        self.networks.values().find(|entry| {
            let engine = entry.record.engine.as_ref();
            engine.is_some_and(|engine| engine.owner == owner && engine.external_id == external_id)
        })
    }

    /// Returns the ports of an endpoint that wait for a connection to a network.
    pub fn waiting_ports(&self, endpoint: &Endpoint, network: NetworkId) -> Vec<Published> {
        let connections = self.endpoints.values().filter(|entry| entry.record.is_with(endpoint));
        let waiting = connections.flat_map(|entry| &entry.record.waiting).filter(|waiting| waiting.network == network);
        waiting.flat_map(|waiting| waiting.ports.iter().copied()).collect()
    }

    /// Returns the sort key of an endpoint's networks; the default route goes by the first. As in
    /// Docker: the higher priority, then the network's name. Networks without a route to other
    /// networks come last.
    pub fn gateway_order(&self, endpoint: &Endpoint) -> (bool, i32, String) {
        let network = self.networks.get(&endpoint.network).map(|entry| &entry.record);
        let without =
            network.is_none_or(|network| network.capabilities().interfaces.is_err() || !network.has_way_out(endpoint));
        let name = network.map_or_else(String::new, |network| network.name.to_string());
        (without, endpoint.gw_priority.saturating_neg(), name)
    }

    /// Returns the endpoints of a network.
    pub fn endpoints_of(&self, network: NetworkId) -> impl Iterator<Item = &EndpointEntry> {
        self.endpoints.values().filter(move |entry| entry.record.network == network)
    }

    /// Returns the attached endpoints by name.
    pub fn attached(&self) -> Vec<&EndpointEntry> {
        let attached = self.endpoints.values().filter(|entry| entry.record.phase == Phase::Attached);
        let mut attached: Vec<_> = attached.collect();
        attached.sort_by(|one, other| one.record.name.cmp(&other.record.name));
        attached
    }

    /// Checks a network against the existing ones, and chooses the missing subnets. Does not choose
    /// a VNI.
    pub fn check_network(
        &self,
        network: &mut Network,
        families: Families,
        pools: &[Subnet],
        occupied: &[Occupied],
    ) -> Result<(), SwitchError> {
        self.check_name(&network.name)?;
        if network.overlay().is_some_and(|overlay| overlay.vni.is_some()) {
            self.give_vni(network)?;
        }
        self.give_subnets(network, families, pools, occupied)
    }

    /// Checks that no network has a name.
    pub fn check_name(&self, name: &NetworkName) -> Result<(), SwitchError> {
        let is_taken = self.networks.values().any(|entry| entry.record.name == *name);
        if is_taken { Err(SwitchError::NetworkExists(name.clone())) } else { Ok(()) }
    }

    /// Adds a network that is not ready yet: chooses its number, its VNI and the missing subnets.
    pub fn admit_network(
        &mut self,
        wanted: WantedNetwork,
        pools: &[Subnet],
        occupied: &[Occupied],
    ) -> Result<(Network, OwnedMutexGuard<()>), SwitchError> {
        let WantedNetwork { mut network, families, mtu } = wanted;
        self.check_name(&network.name)?;
        let uplink = network.uplink();
        let bridged = |entry: &&NetworkEntry| uplink.is_some() && entry.record.uplink() == uplink;
        if let (Some(interface), Some(other)) = (uplink, self.networks.values().find(bridged)) {
            return Err(SwitchError::UplinkInUse { interface: interface.clone(), network: other.record.name.clone() });
        }
        self.give_vni(&mut network)?;
        self.give_subnets(&mut network, families, pools, occupied)?;
        let parent = network.parent().map(|options| &options.parent);
        let there = self.networks.values().map(|entry| &entry.record);
        let on_parent =
            there.filter(|_| parent.is_some()).find(|other| other.parent().map(|options| &options.parent) == parent);
        network.number = match on_parent {
            // Networks on one parent are one segment, in the datapath as on the wire.
            Some(other) => other.number,
            None => self.free_number()?,
        };
        let entry = NetworkEntry::new(network.clone(), mtu);
        let guard = lock_new(&entry.exclusive);
        self.networks.insert(network.id, entry);
        Ok((network, guard))
    }

    /// Checks the VNI of an overlay network, or chooses the first free one.
    fn give_vni(&self, network: &mut Network) -> Result<(), SwitchError> {
        let Some(overlay) = network.overlay_mut() else { return Ok(()) };
        let others =
            self.networks.values().filter_map(|entry| Some((entry.record.overlay()?.vni?, &entry.record.name)));
        let others: BTreeMap<Vni, &NetworkName> = others.collect();
        let Some(vni) = overlay.vni else {
            let mut free = Vni::automatic().filter(|vni| !others.contains_key(vni));
            overlay.vni = Some(free.next().ok_or(OverlayError::NoFreeVni)?);
            return Ok(());
        };
        if let Some(holder) = others.get(&vni) {
            return Err(OverlayError::VniInUse { vni, network: (*holder).clone() }.into());
        }
        Ok(())
    }

    /// Returns the subnets of other networks that a network must not overlap.
    fn subnets_beside<'a>(&'a self, network: &Network) -> Vec<(&'a NetworkName, Subnet)> {
        let there = self.networks.values().map(|entry| &entry.record);
        there.filter(|other| Self::share_segment(network, other)).flat_map(subnets_of).collect()
    }

    /// Checks that the given subnets overlap no pool of another owner, and no other pool than those
    /// that a network of the same owner has its subnets from.
    fn check_pools(&self, network: &Network) -> Result<(), SwitchError> {
        let owner = network.engine.as_ref().map_or("", |engine| engine.owner.as_str());
        for config in &network.subnets {
            let is_own = |pool: &Pool| pool.owner == owner && pool.subnet == config.subnet;
            let mut others = self.pools.values().filter(|pool| !is_own(pool));
            if let Some(pool) = others.find(|pool| pool.subnet.overlaps(&config.subnet.net())) {
                return Err(pool_overlap(config.subnet, pool));
            }
        }
        Ok(())
    }

    /// Checks that a subnet overlaps no network and no other pool, or chooses one that overlaps nothing
    /// that is occupied either.
    pub fn choose_pool(
        &self,
        subnet: Option<Subnet>,
        ipv6: bool,
        pools: &[Subnet],
        occupied: &[Occupied],
        id: PoolId,
    ) -> Result<Subnet, SwitchError> {
        let networks = || self.networks.values().map(|entry| &entry.record).flat_map(subnets_of);
        let Some(subnet) = subnet else {
            let mut used: Vec<Subnet> = networks().map(|(_, subnet)| subnet).collect();
            used.extend(self.pools.values().map(|pool| pool.subnet));
            if ipv6 && !pools.iter().any(Subnet::is_ipv6) {
                let candidates = id.bytes().as_chunks().0.iter().map(|bytes| Subnet::unique_local(*bytes));
                let is_free = |subnet: &Subnet| {
                    used.iter().all(|other| !subnet.overlaps(&other.net()))
                        && occupied.iter().all(|other| !subnet.overlaps(&other.net))
                };
                let mut free = candidates.filter(is_free);
                return free.next().ok_or(SwitchError::NoFamily);
            }
            return ipam::free_subnet(pools, ipv6, &used, occupied).map_err(SwitchError::Pool);
        };
        if let Some((network, other)) = networks().find(|(_, other)| subnet.overlaps(&other.net())) {
            return Err(SwitchError::SubnetOverlap { subnet, other, network: network.clone() });
        }
        if let Some(pool) = self.pools.values().find(|pool| pool.subnet.overlaps(&subnet.net())) {
            return Err(pool_overlap(subnet, pool));
        }
        // What the host has is checked when the network is created: a network on a parent has the
        // parent's subnet.
        Ok(subnet)
    }

    /// Returns the addresses that engines have leased in a network, with the engines.
    fn leased<'a>(&'a self, network: &'a Network) -> impl Iterator<Item = (&'a str, IpAddr)> + 'a {
        let of_network = self.pools.values().filter(|pool| network.subnets.iter().any(|own| own.subnet == pool.subnet));
        of_network.flat_map(|pool| pool.leases.keys().map(|address| (pool.owner.as_str(), *address)))
    }

    /// Checks that the given subnets overlap neither each other nor those of another network.
    fn check_subnets(&self, network: &Network) -> Result<(), SwitchError> {
        self.check_pools(network)?;
        let others = self.subnets_beside(network);
        for (place, config) in network.subnets.iter().enumerate() {
            let own = network.subnets[..place].iter().map(|config| (&network.name, config.subnet));
            let mut used = others.iter().copied().chain(own);
            if let Some((other_network, other)) = used.find(|(_, other)| config.subnet.overlaps(&other.net())) {
                let (subnet, network) = (config.subnet, other_network.clone());
                return Err(SwitchError::SubnetOverlap { subnet, other, network });
            }
        }
        Ok(())
    }

    /// Checks that the host neither has nor routes elsewhere any address of the given subnets, if
    /// it is to route packets to them.
    pub fn check_occupied(&self, network: &Network, occupied: &[Occupied]) -> Result<(), SwitchError> {
        // An overlap with a network names the network, not the network's device.
        self.check_subnets(network)?;
        if !network.capabilities().switched && !network.parent().is_some_and(ParentOptions::is_routed) {
            return Ok(());
        }
        network.subnets.iter().try_for_each(|config| check_free(config.subnet, occupied))
    }

    fn give_subnets(
        &self,
        network: &mut Network,
        families: Families,
        pools: &[Subnet],
        occupied: &[Occupied],
    ) -> Result<(), SwitchError> {
        self.check_subnets(network)?;
        if !network.capabilities().switched {
            return Ok(());
        }
        let ipv4 = families.ipv4 && !network.has_family(false);
        // In a cluster etcd decides on the subnet. Without one, each host would choose another.
        if ipv4 && network.overlay().is_some_and(|overlay| !overlay.shared) {
            return Err(OverlayError::NoSubnet(network.name.clone()).into());
        }
        let others = self.subnets_beside(network);
        let own = subnets_of(network).map(|(_, subnet)| subnet);
        let pooled = self.pools.values().map(|pool| pool.subnet);
        let used: Vec<Subnet> = others.iter().map(|(_, subnet)| *subnet).chain(own).chain(pooled).collect();
        if ipv4 {
            let subnet = ipam::free_subnet(pools, false, &used, occupied).map_err(SwitchError::Pool)?;
            network.subnets.insert(0, SubnetConfig::new(subnet, None, None)?);
        }
        if families.ipv6 && !network.has_family(true) {
            let subnet = if pools.iter().any(Subnet::is_ipv6) {
                ipam::free_subnet(pools, true, &used, occupied).map_err(SwitchError::Pool)?
            } else {
                unique_local(network, &others, occupied)?
            };
            network.subnets.push(SubnetConfig::new(subnet, None, None)?);
        }
        Ok(())
    }

    fn free_number(&self) -> Result<NetworkNumber, SwitchError> {
        let used: BTreeSet<u32> = self.networks.values().map(|entry| entry.record.number.0).collect();
        let free = (1..MAX_PORTS).find(|number| !used.contains(number));
        free.map(NetworkNumber).ok_or(SwitchError::NoFreeNetwork { limit: MAX_PORTS - 1 })
    }

    /// Adds an endpoint with its addresses. No other endpoint gets the same ones from here on.
    pub fn admit_endpoint(&mut self, wanted: Wanted) -> Result<(Endpoint, Network, OwnedMutexGuard<()>), SwitchError> {
        let mut endpoint = wanted.endpoint.clone();
        let gone = || SwitchError::NetworkNotFound(endpoint.network.to_string());
        let entry = self.networks.get(&endpoint.network).filter(|entry| entry.ready).ok_or_else(gone)?;
        let network = &entry.record;
        if let (Some(address), Some(ifname)) = (&mut endpoint.address, &wanted.ifname) {
            address.ifname = ifname.clone();
        }
        self.check_free(&endpoint, network)?;
        if let Some(address) = &mut endpoint.address {
            self.give_addresses(entry, &wanted, address)?;
            address.mtu = network.endpoint_mtu(&endpoint.port, entry.mtu);
        }
        let network = network.clone();
        let exclusive = Arc::new(AsyncMutex::new(()));
        let guard = lock_new(&exclusive);
        self.endpoints.insert(endpoint.id, EndpointEntry { record: endpoint.clone(), port: None, exclusive });
        Ok((endpoint, network, guard))
    }

    fn give_addresses(
        &self,
        entry: &NetworkEntry,
        wanted: &Wanted,
        address: &mut EndpointAddress,
    ) -> Result<(), SwitchError> {
        let network = &entry.record;
        address.mac = match wanted.parent_mac.or(wanted.mac) {
            Some(mac) if wanted.parent_mac.is_some() => mac,
            Some(mac) => match self.mac_holder(entry, mac).or_else(|| wanted.station.clone()) {
                Some(holder) => {
                    return Err(SwitchError::MacInUse { mac: mac.get(), network: network.name.clone(), holder });
                }
                None => mac,
            },
            None => {
                let name = wanted.endpoint.name.as_str();
                let mut made = (0..).map(|n| StationMac::generated(&network.id, name, n));
                made.find(|mac| self.mac_holder(entry, *mac).is_none()).unwrap_or(address.mac)
            }
        };
        address.ifname = match &wanted.ifname {
            Some(ifname) => ifname.clone(),
            None => self.free_interface(&wanted.endpoint, &wanted.interfaces),
        };
        let others = || self.endpoints_of(network.id).filter_map(|other| Some((other, other.record.address.as_ref()?)));
        let mut used: BTreeSet<IpAddr> = others().flat_map(|(_, other)| other.ips()).collect();
        used.extend(wanted.taken.keys());
        // An engine leases the address of an endpoint, and then names it.
        let named = [wanted.ip.map(IpAddr::V4), wanted.ip6.map(IpAddr::V6)];
        let is_own = |owner: &str, address| owner == wanted.endpoint.owner() && named.contains(&Some(address));
        used.extend(
            self.leased(network).filter(|(owner, address)| !is_own(owner, *address)).map(|(_, address)| address),
        );
        let closing = || self.closing.iter().filter(|closing| closing.network == network.id);
        used.extend(closing().flat_map(|closing| &closing.addresses));
        let allocate = |ipv6: bool, asked: Option<IpAddr>| {
            let allocated = ipam::allocate(&network.of_family(ipv6), &used, asked, entry.last(ipv6));
            allocated.map_err(|source| match source {
                ipam::IpamError::InUse(address) => {
                    let holder = others().find(|(_, other)| other.ips().any(|ip| ip == address));
                    let auxiliary = || {
                        let mut auxiliary = network.subnets.iter().flat_map(|config| &config.auxiliary);
                        auxiliary.find(|(_, other)| **other == address).map(|(name, _)| name)
                    };
                    let holder = match (holder, auxiliary()) {
                        (Some((holder, _)), _) => format!("endpoint {}", holder.record.name),
                        (None, Some(name)) => format!("auxiliary address {name}"),
                        (None, None) if network.gateways().any(|gateway| gateway == address) => {
                            "the gateway".to_owned()
                        }
                        (None, None) if closing().any(|closing| closing.addresses.contains(&address)) => {
                            "published ports that are not closed yet".to_owned()
                        }
                        (None, None) if self.leased(network).any(|(_, leased)| leased == address) => {
                            "a lease of an address pool".to_owned()
                        }
                        (None, None) => wanted.taken.get(&address).cloned().unwrap_or_else(|| "the host".to_owned()),
                    };
                    SwitchError::AddressInUse { address, network: network.name.clone(), holder }
                }
                source => SwitchError::Ipam { network: network.name.clone(), source },
            })
        };
        address.ipv4 = match allocate(false, wanted.ip.map(Into::into))? {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        };
        address.ipv6 = match allocate(true, wanted.ip6.map(Into::into))? {
            Some(IpAddr::V6(ip)) => Some(ip),
            _ => None,
        };
        Ok(())
    }

    /// Returns the owner of a MAC address on the segment of a network: the host, the uplink or
    /// parent, or an endpoint of this network or of another one in the same VLAN of the parent.
    fn mac_holder(&self, entry: &NetworkEntry, mac: StationMac) -> Option<String> {
        let network = &entry.record;
        if plan::host_mac(network) == Some(mac.get()) {
            return Some("the gateway".to_owned());
        }
        let passthru = network.parent().is_some_and(|options| options.passage == Passage::Passthru);
        if let (Some(uplink), Some(interface), false) = (&entry.uplink, network.interface(), passthru)
            && uplink.mac == mac.get()
        {
            let kind = if network.parent().is_some() { "parent" } else { "uplink" };
            return Some(format!("{interface}, the {kind} of the network"));
        }
        let there = self.networks.values().map(|entry| &entry.record);
        let mut segment = there.filter(|other| {
            other.id == network.id
                || network.parent().is_some() && Self::share_segment(network, other) && other.parent().is_some()
        });
        let has = |entry: &&EndpointEntry| entry.record.address.as_ref().is_some_and(|address| address.mac == mac);
        if let Some(holder) = segment.find_map(|network| self.endpoints_of(network.id).find(has)) {
            return Some(format!("endpoint {}", holder.record.name));
        }
        let other = self.others.with_mac(network.id, mac)?;
        Some(format!("endpoint {} of another host", other.name))
    }

    /// Continues the assignment of addresses after those of the newest endpoint of each network.
    pub fn continue_after_newest(&mut self) {
        let mut endpoints: Vec<&Endpoint> = self.endpoints.values().map(|entry| &entry.record).collect();
        endpoints.sort_by_key(|record| (record.created, record.address.as_ref().map(|address| address.ipv4)));
        for record in endpoints {
            let Some(entry) = self.networks.get_mut(&record.network) else { continue };
            record.address.iter().flat_map(EndpointAddress::ips).for_each(|ip| entry.assigned(ip));
        }
    }

    /// Returns `eth0`, or the next name that no other connection and none of these interfaces of the
    /// namespace has.
    fn free_interface(&self, endpoint: &Endpoint, interfaces: &BTreeSet<String>) -> InterfaceName {
        let there = self.endpoints.values().filter(|other| same_place(&other.record, endpoint));
        let used: BTreeSet<&InterfaceName> =
            there.filter_map(|other| other.record.address.as_ref()).map(|address| &address.ifname).collect();
        let mut names = (0_u32..).filter_map(|number| format!("eth{number}").parse().ok());
        match names.find(|name: &InterfaceName| !used.contains(name) && !interfaces.contains(name.as_str())) {
            Some(name) => name,
            None => unreachable!("there are more names than endpoints"),
        }
    }

    fn check_free(&self, endpoint: &Endpoint, network: &Network) -> Result<(), SwitchError> {
        if let Some(engine) = &endpoint.engine
            && self.owned(&engine.id).is_some()
        {
            return Err(SwitchError::KeyExists(engine.id.clone()));
        }
        // An engine names the interface, and may want several in one network.
        let another_interface = |other: &Endpoint| {
            let ifname = |endpoint: &Endpoint| endpoint.address.as_ref().map(|address| address.ifname.clone());
            endpoint.engine.is_some() && other.engine.is_some() && ifname(endpoint) != ifname(other)
        };
        if let Some(other) = self.endpoints_of(network.id).find(|other| {
            same_place(&other.record, endpoint)
                && !another_interface(&other.record)
                && (!network.capabilities().host_namespace || other.record.name == endpoint.name)
        }) {
            return Err(SwitchError::AlreadyAttached {
                path: endpoint.netns.path.clone(),
                network: network.name.clone(),
                endpoint: other.record.name.clone(),
            });
        }
        let namesake = |other: &&EndpointEntry| {
            other.record.name == endpoint.name && other.record.engine.is_none() && endpoint.engine.is_none()
        };
        if self.endpoints.values().filter(namesake).any(|other| !same_place(&other.record, endpoint)) {
            return Err(SwitchError::EndpointExists(endpoint.name.clone()));
        }
        Ok(())
    }

    /// Returns whether an endpoint is attached at this namespace.
    pub fn is_at(entry: &EndpointEntry, netns: NetnsId) -> bool {
        (entry.record.netns.dev, entry.record.netns.inode) == (netns.dev, netns.inode)
    }
}

/// Returns whether two endpoints are at the same namespace.
fn same_place(one: &Endpoint, other: &Endpoint) -> bool {
    if one.left().is_some() || other.left().is_some() {
        // The engine says where it moves an interface to, before the namespace is there.
        return one.is_with(other);
    }
    let reused = one.netns.cookie.zip(other.netns.cookie).is_some_and(|(one, other)| one != other);
    (one.netns.dev, one.netns.inode) == (other.netns.dev, other.netns.inode) && !reused
}

/// Returns the error about a subnet that overlaps a pool.
fn pool_overlap(subnet: Subnet, pool: &Pool) -> SwitchError {
    let by = format!("{}, an address pool of {}", pool.subnet, pool.owner);
    SwitchError::SubnetOccupied { subnet, by }
}

/// Checks that a subnet overlaps nothing that is occupied.
fn check_free(subnet: Subnet, occupied: &[Occupied]) -> Result<(), SwitchError> {
    match occupied.iter().find(|other| subnet.overlaps(&other.net)) {
        Some(other) => Err(SwitchError::SubnetOccupied { subnet, by: other.by.clone() }),
        None => Ok(()),
    }
}

/// Chooses a unique-local subnet for a network that overlaps no other network and nothing that is
/// occupied.
fn unique_local(
    network: &Network,
    others: &[(&NetworkName, Subnet)],
    occupied: &[Occupied],
) -> Result<Subnet, SwitchError> {
    let candidates: Vec<Subnet> = match network.overlay() {
        // Derived from the VNI, so that every host chooses the same subnet.
        Some(overlay) if !overlay.shared => {
            let [a, b, c, d] = overlay.vni_number().to_be_bytes();
            vec![Subnet::unique_local([0x76, a, b, c, d])]
        }
        // Each five of the random bytes are a candidate.
        _ => network.id.bytes().as_chunks().0.iter().map(|bytes| Subnet::unique_local(*bytes)).collect(),
    };
    let check = |subnet: &Subnet| match others.iter().find(|(_, other)| subnet.overlaps(&other.net())) {
        Some((network, other)) => {
            Err(SwitchError::SubnetOverlap { subnet: *subnet, other: *other, network: (*network).clone() })
        }
        None => check_free(*subnet, occupied),
    };
    let mut refused = None;
    for subnet in candidates {
        match check(&subnet) {
            Ok(()) => return Ok(subnet),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(SwitchError::NoFamily))
}

fn subnets_of(network: &Network) -> impl Iterator<Item = (&NetworkName, Subnet)> {
    network.subnets.iter().map(|config| (&network.name, config.subnet))
}

/// Locks a lock that no other task has seen yet.
fn lock_new(lock: &Arc<AsyncMutex<()>>) -> OwnedMutexGuard<()> {
    match lock.clone().try_lock_owned() {
        Ok(guard) => guard,
        Err(_) => unreachable!("it was made here"),
    }
}

#[cfg(test)]
mod tests;
