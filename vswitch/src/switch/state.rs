//! What the switch knows, and the decisions on it: names, addresses and numbers are given here, under one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use vswitch_common::Mac;
use vswitch_common::tables::{MAX_PORTS, NetworkNumber, PortNumber};

use super::SwitchError;
use crate::ipam;
use crate::kernel::netns::NetnsId;
use crate::model::{Endpoint, EndpointId, Network, NetworkId, Phase, StationMac, Subnet, SubnetConfig};

/// Everything that is there.
#[derive(Debug, Default)]
pub struct State {
    pub networks: BTreeMap<NetworkId, NetworkEntry>,
    pub endpoints: BTreeMap<EndpointId, EndpointEntry>,
}

/// A network, with what it has in the kernel.
#[derive(Debug)]
pub struct NetworkEntry {
    pub record: Network,
    /// Whether it is there for others: not while it is made or removed.
    pub ready: bool,
    /// The MTU that its endpoints get.
    pub mtu: u32,
    pub host_port: Option<PortHandle>,
    pub uplink: Option<UplinkPort>,
    /// Held by whoever works on its devices.
    pub exclusive: Arc<AsyncMutex<()>>,
}

/// An endpoint, with what it has in the kernel.
#[derive(Debug)]
pub struct EndpointEntry {
    pub record: Endpoint,
    pub port: Option<PortHandle>,
    /// Held by whoever works on it.
    pub exclusive: Arc<AsyncMutex<()>>,
}

/// A port and its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortHandle {
    pub ifindex: u32,
    pub number: PortNumber,
}

/// An uplink that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkPort {
    pub port: PortHandle,
    /// The interface's own address.
    pub mac: Mac,
    /// Whether XDP runs on it.
    pub xdp: bool,
    /// Why not, where somebody may wonder.
    pub note: Option<&'static str>,
}

/// What somebody wants attached, as far as it is known before an address is given.
#[derive(Debug)]
pub struct Wanted {
    pub endpoint: Endpoint,
    pub ip: Option<Ipv4Addr>,
    pub mac: Option<StationMac>,
    /// Addresses that are taken outside of the switch.
    pub taken: Vec<Ipv4Addr>,
}

impl State {
    /// The network of this name, or whose id begins like this.
    pub fn network(&self, reference: &str) -> Result<&NetworkEntry, SwitchError> {
        let ready = || self.networks.values().filter(|entry| entry.ready);
        if let Some(entry) = ready().find(|entry| entry.record.name.as_str() == reference) {
            return Ok(entry);
        }
        let found = by_id(ready(), reference, |entry| entry.record.id.to_string())?;
        found.ok_or_else(|| SwitchError::NetworkNotFound(reference.to_owned()))
    }

    /// The endpoint of this name, or whose id begins like this.
    pub fn endpoint(&self, reference: &str) -> Result<&EndpointEntry, SwitchError> {
        if let Some(entry) = self.endpoints.values().find(|entry| entry.record.name.as_str() == reference) {
            return Ok(entry);
        }
        let found = by_id(self.endpoints.values(), reference, |entry| entry.record.id.to_string())?;
        found.ok_or_else(|| SwitchError::EndpointNotFound(reference.to_owned()))
    }

    /// The endpoints of a network.
    pub fn endpoints_of(&self, network: NetworkId) -> impl Iterator<Item = &EndpointEntry> {
        self.endpoints.values().filter(move |entry| entry.record.network == network)
    }

    /// The endpoints that are there for others, by name.
    pub fn attached(&self) -> Vec<&EndpointEntry> {
        let attached = self.endpoints.values().filter(|entry| entry.record.phase == Phase::Attached);
        let mut attached: Vec<_> = attached.collect();
        attached.sort_by(|one, other| one.record.name.cmp(&other.record.name));
        attached
    }

    /// Takes a network in, not ready yet: gives it a number, and a subnet where none is given.
    pub fn admit_network(
        &mut self,
        mut network: Network,
        pools: &[Subnet],
        routes: &[Ipv4Net],
        mtu: u32,
    ) -> Result<(Network, OwnedMutexGuard<()>), SwitchError> {
        if self.networks.values().any(|entry| entry.record.name == network.name) {
            return Err(SwitchError::NetworkExists(network.name));
        }
        let uplink = network.bridge.uplink.as_ref();
        let bridged = |entry: &&NetworkEntry| uplink.is_some() && entry.record.bridge.uplink.as_ref() == uplink;
        if let (Some(interface), Some(other)) = (uplink, self.networks.values().find(bridged)) {
            return Err(SwitchError::UplinkInUse { interface: interface.clone(), network: other.record.name.clone() });
        }
        self.give_subnet(&mut network, pools, routes)?;
        network.number = self.free_number()?;
        let exclusive = Arc::new(AsyncMutex::new(()));
        let guard = lock_new(&exclusive);
        let entry =
            NetworkEntry { record: network.clone(), ready: false, mtu, host_port: None, uplink: None, exclusive };
        self.networks.insert(network.id, entry);
        Ok((network, guard))
    }

    fn give_subnet(&self, network: &mut Network, pools: &[Subnet], routes: &[Ipv4Net]) -> Result<(), SwitchError> {
        let used =
            || self.networks.values().flat_map(|entry| entry.record.subnets.iter().map(move |used| (entry, used)));
        for config in &network.subnets {
            if let Some((entry, other)) = used().find(|(_, other)| config.subnet.overlaps(&other.subnet.net())) {
                let (subnet, other, network) = (config.subnet, other.subnet, entry.record.name.clone());
                return Err(SwitchError::SubnetOverlap { subnet, other, network });
            }
        }
        if network.subnets.is_empty() && network.driver == crate::model::Driver::Bridge {
            let networks: Vec<Subnet> = used().map(|(_, config)| config.subnet).collect();
            let subnet = ipam::free_subnet(pools, &networks, routes).map_err(SwitchError::Pool)?;
            network.subnets.push(SubnetConfig::new(subnet, None, None)?);
        }
        Ok(())
    }

    fn free_number(&self) -> Result<NetworkNumber, SwitchError> {
        let used: BTreeSet<u32> = self.networks.values().map(|entry| entry.record.number.0).collect();
        let free = (1..MAX_PORTS).find(|number| !used.contains(number));
        free.map(NetworkNumber).ok_or(SwitchError::NoFreeNetwork { limit: MAX_PORTS - 1 })
    }

    /// Takes an endpoint in: gives it its addresses. Nobody else gets the same from now on.
    pub fn admit_endpoint(&mut self, wanted: Wanted) -> Result<(Endpoint, Network, OwnedMutexGuard<()>), SwitchError> {
        let Wanted { mut endpoint, ip, mac, taken } = wanted;
        let gone = || SwitchError::NetworkNotFound(endpoint.network.to_string());
        let entry = self.networks.get(&endpoint.network).filter(|entry| entry.ready).ok_or_else(gone)?;
        let network = &entry.record;
        self.check_free(&endpoint, network)?;
        if let Some(address) = &mut endpoint.address {
            let others =
                || self.endpoints_of(network.id).filter_map(|other| Some((other, other.record.address.as_ref()?)));
            let mac_holder = |mac: StationMac| others().find(|(_, other)| other.mac == mac);
            address.mac = match mac {
                Some(mac) => match mac_holder(mac) {
                    Some((holder, _)) => {
                        let holder = format!("endpoint {}", holder.record.name);
                        return Err(SwitchError::MacInUse { mac: mac.get(), network: network.name.clone(), holder });
                    }
                    None => mac,
                },
                None => {
                    let mut made = (0..).map(|n| StationMac::generated(&network.id, endpoint.name.as_str(), n));
                    made.find(|mac| mac_holder(*mac).is_none()).unwrap_or(address.mac)
                }
            };
            address.mtu = entry.mtu;
            if let Some(config) = network.subnets.first() {
                let mut used: BTreeSet<_> = others().map(|(_, other)| other.ipv4).collect();
                used.extend(taken);
                address.ipv4 = ipam::allocate(config, &used, ip).map_err(|source| match source {
                    ipam::IpamError::InUse(address) => {
                        let endpoint = others().find(|(_, other)| other.ipv4 == address);
                        let holder = match endpoint {
                            Some((holder, _)) => format!("endpoint {}", holder.record.name),
                            None if address == config.gateway => "the gateway".to_owned(),
                            None => "the host".to_owned(),
                        };
                        SwitchError::AddressInUse { address, network: network.name.clone(), holder }
                    }
                    source => SwitchError::Ipam { network: network.name.clone(), source },
                })?;
            }
        }
        let network = network.clone();
        let exclusive = Arc::new(AsyncMutex::new(()));
        let guard = lock_new(&exclusive);
        self.endpoints.insert(endpoint.id, EndpointEntry { record: endpoint.clone(), port: None, exclusive });
        Ok((endpoint, network, guard))
    }

    fn check_free(&self, endpoint: &Endpoint, network: &Network) -> Result<(), SwitchError> {
        let same_place = |other: &&EndpointEntry| {
            let (one, other) = (&endpoint.netns, &other.record.netns);
            (one.dev, one.inode) == (other.dev, other.inode)
        };
        if let Some(other) = self.endpoints_of(network.id).find(same_place) {
            return Err(SwitchError::AlreadyAttached {
                path: endpoint.netns.path.clone(),
                network: network.name.clone(),
                endpoint: other.record.name.clone(),
            });
        }
        if self.endpoints.values().any(|other| other.record.name == endpoint.name) {
            return Err(SwitchError::EndpointExists(endpoint.name.clone()));
        }
        Ok(())
    }

    /// Whether an endpoint is attached at this namespace.
    pub fn is_at(entry: &EndpointEntry, netns: NetnsId) -> bool {
        (entry.record.netns.dev, entry.record.netns.inode) == (netns.dev, netns.inode)
    }
}

fn by_id<'a, T>(
    entries: impl Iterator<Item = &'a T>,
    beginning: &str,
    id: impl Fn(&T) -> String,
) -> Result<Option<&'a T>, SwitchError> {
    if beginning.is_empty() {
        return Ok(None);
    }
    let mut found = entries.filter(|entry| id(entry).starts_with(beginning));
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(SwitchError::Ambiguous(beginning.to_owned())),
        (found, _) => Ok(found),
    }
}

/// Locks a lock that nobody else has seen.
fn lock_new(lock: &Arc<AsyncMutex<()>>) -> OwnedMutexGuard<()> {
    match lock.clone().try_lock_owned() {
        Ok(guard) => guard,
        Err(_) => unreachable!("it was made here"),
    }
}
