//! `fdb show`, `add`, `del`, `flush` and `watch`: the entries of the FDB.

mod watch;

use std::collections::BTreeMap;

use vswitch_common::Mac;
use vswitch_common::tables::{FdbEntry, FdbKey, NetworkNumber, Port, PortNumber, VlanKey};

pub use watch::{FdbWatch, StationChange};

use crate::datapath::Datapath;
use crate::model::{NetworkId, StationKind, StationMac};
use crate::switch::context::NamedPort;
use crate::switch::error::SwitchError;
use crate::switch::observe::Observe;
use crate::switch::state::{EndpointEntry, NetworkEntry, State};

/// Selects FDB entries by names. Every `None` selects all.
#[derive(Clone, Debug, Default)]
pub struct StationFilter {
    /// Name or id of the network.
    pub network: Option<String>,
    /// The name of the port: of an endpoint or of a device.
    pub port: Option<String>,
    /// The kind of the entry.
    pub kind: Option<StationKind>,
    /// The VLAN.
    pub vlan: Option<VlanKey>,
}

/// The key of an FDB entry, by names.
#[derive(Clone, Debug)]
pub struct StationKey {
    /// Name or id of the network.
    pub network: String,
    /// The VLAN.
    pub vlan: VlanKey,
    /// The MAC address.
    pub mac: StationMac,
}

/// A station in the FDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// The MAC address.
    pub mac: Mac,
    /// The name of the network; on a parent with several networks, all names.
    pub network: String,
    /// The VLAN.
    pub vlan: VlanKey,
    /// The name of the port.
    pub port: String,
    /// The origin of the entry.
    pub kind: StationKind,
    /// The seconds since the station was heard; `None` for a static entry.
    pub age: Option<u64>,
    /// The number of moves of the station.
    pub moves: u32,
    /// Whether the entry is held at its port because the station moved too often.
    pub held: bool,
}

/// A filter by numbers. Every `None` selects all.
#[derive(Debug, Default)]
struct Selection {
    network: Option<NetworkNumber>,
    port: Option<PortNumber>,
    vlan: Option<VlanKey>,
}

/// What a reference to a network or to a port is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Look,
    Change,
}

impl Purpose {
    fn network<'a>(self, state: &'a State, reference: &str) -> Result<&'a NetworkEntry, SwitchError> {
        match self {
            Self::Look => state.find_network(reference),
            Self::Change => state.network(reference),
        }
    }

    fn endpoint<'a>(self, state: &'a State, reference: &str) -> Result<Vec<&'a EndpointEntry>, SwitchError> {
        match self {
            Self::Look => state.find_endpoint(reference),
            Self::Change => state.endpoint(reference),
        }
    }
}

impl Selection {
    fn has(&self, key: &FdbKey, entry: &FdbEntry) -> bool {
        self.network.is_none_or(|network| key.network == network)
            && self.port.is_none_or(|port| entry.port == port)
            && self.vlan.is_none_or(|vlan| key.vlan == vlan)
    }
}

impl Observe {
    /// Returns the selected stations by network, address and VLAN.
    ///
    /// # Errors
    /// The network or port does not exist, or the FDB cannot be read.
    pub fn stations(&self, filter: &StationFilter) -> Result<Vec<Station>, SwitchError> {
        let ports = self.context.ports_by_number();
        let selection = self.select(filter, &ports, Purpose::Look)?;
        let networks = self.context.network_names();
        let stations =
            self.context.datapath.fdb()?.into_iter().filter(|(key, entry)| {
                selection.has(key, entry) && filter.kind.is_none_or(|wanted| wanted == kind(entry))
            });
        let stations = stations.filter_map(|(key, entry)| view(&key, &entry, &networks, &ports));
        let mut stations: Vec<_> = stations.collect();
        stations.sort_by(|one, other| {
            let id = |vlan: VlanKey| vlan.0 & !VlanKey::SERVICE;
            (&one.network, one.mac, id(one.vlan)).cmp(&(&other.network, other.mac, id(other.vlan)))
        });
        Ok(stations)
    }

    /// Writes a static FDB entry, or a sticky one, which keeps its port until the station is
    /// silent.
    ///
    /// # Errors
    /// The network or port does not exist, or the address is an endpoint's own.
    pub async fn add_station(&self, key: &StationKey, port: &str, sticky: bool) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let network = &key.network;
        let key = self.key(key)?;
        let ports = self.context.ports_by_number();
        let (id, name) = {
            let state = self.context.snapshot();
            let network = &state.network(network)?.record;
            (network.id, network.name.clone())
        };
        let port = self.port(port, Some(id), &ports, Purpose::Change)?;
        if port.network != id {
            return Err(SwitchError::PortElsewhere { port: port.name.clone(), network: name });
        }
        self.check_not_own(&key, &ports)?;
        let written = if sticky {
            self.context.datapath.fdb_add_sticky(key, port.number)
        } else {
            self.context.datapath.fdb_add_static(key, port.number)
        };
        Ok(written?)
    }

    /// Removes an FDB entry and returns whether it existed. The station may be learned again.
    ///
    /// # Errors
    /// The network does not exist, or the station is an endpoint's own.
    pub async fn remove_station(&self, key: &StationKey) -> Result<bool, SwitchError> {
        let _change = self.context.begin_change().await?;
        let key = self.key(key)?;
        self.check_not_own(&key, &self.context.ports_by_number())?;
        Ok(self.context.datapath.fdb_remove(&key)?)
    }

    /// Removes the selected learned entries and returns their number.
    ///
    /// # Errors
    /// The network or port does not exist.
    pub async fn flush_stations(&self, filter: &StationFilter) -> Result<usize, SwitchError> {
        let _change = self.context.begin_change().await?;
        let ports = self.context.ports_by_number();
        let selection = self.select(filter, &ports, Purpose::Change)?;
        // In one pass, so that an entry that is written by hand meanwhile in the place of a learned
        // one stays.
        Ok(self.context.datapath.forget(|key, entry| !entry.is_static_or_sticky() && selection.has(key, entry))?)
    }

    fn select(
        &self,
        filter: &StationFilter,
        ports: &BTreeMap<PortNumber, NamedPort>,
        purpose: Purpose,
    ) -> Result<Selection, SwitchError> {
        let state = self.context.snapshot();
        let network = filter.network.as_deref().map(|network| purpose.network(&state, network)).transpose()?;
        let network = network.map(|entry| (entry.record.id, entry.record.number));
        let id = network.map(|(id, _)| id);
        let port = filter.port.as_deref().map(|port| self.port(port, id, ports, purpose)).transpose()?;
        let port = port.map(|port| port.number);
        Ok(Selection { network: network.map(|(_, number)| number), port, vlan: filter.vlan })
    }

    /// Returns the port with this name: of an endpoint, or of a device. For an endpoint in several
    /// networks, the port in `network` goes before the others.
    fn port<'a>(
        &self,
        name: &str,
        network: Option<NetworkId>,
        ports: &'a BTreeMap<PortNumber, NamedPort>,
        purpose: Purpose,
    ) -> Result<&'a NamedPort, SwitchError> {
        let state = self.context.snapshot();
        let of_endpoint = match purpose.endpoint(&state, name) {
            Ok(entries) => entries.into_iter().filter_map(|entry| entry.port).map(|port| port.number).collect(),
            Err(SwitchError::EndpointNotFound(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        let named = ports.values().filter(|port| port.name == name);
        let found: Vec<_> = of_endpoint.iter().filter_map(|number| ports.get(number)).chain(named).collect();
        let here = found.iter().find(|port| network.is_none_or(|network| port.network == network));
        here.or(found.first()).copied().ok_or_else(|| SwitchError::PortNotFound(name.to_owned()))
    }

    fn key(&self, key: &StationKey) -> Result<FdbKey, SwitchError> {
        let network = self.context.snapshot().network(&key.network)?.record.number;
        Ok(FdbKey { network, vlan: key.vlan, mac: key.mac.get() })
    }

    /// Refuses to change the entry of a port's own station, which exists as long as the port.
    fn check_not_own(&self, key: &FdbKey, ports: &BTreeMap<PortNumber, NamedPort>) -> Result<(), SwitchError> {
        let is_own = |port: &Port| (port.mac, port.network, port.vlan) == (key.mac, key.network, key.vlan);
        let owner = self.context.datapath.ports()?.into_iter().find(|(_, port)| is_own(port));
        match owner {
            Some((number, _)) => {
                let holder = ports.get(&number).map_or_else(|| "a port".to_owned(), |port| port.name.clone());
                Err(SwitchError::OwnStation { mac: key.mac, holder })
            }
            None => Ok(()),
        }
    }
}

/// Returns how an entry came into the FDB.
fn kind(entry: &FdbEntry) -> StationKind {
    match (entry.is_static(), entry.is_static_or_sticky()) {
        (true, _) => StationKind::Static,
        (_, true) => StationKind::Sticky,
        _ => StationKind::Dynamic,
    }
}

/// Returns a station with names; `None` if its port or its network has no name, because it is being
/// created or removed.
fn view(
    key: &FdbKey,
    entry: &FdbEntry,
    networks: &BTreeMap<NetworkNumber, String>,
    ports: &BTreeMap<PortNumber, NamedPort>,
) -> Option<Station> {
    let port = ports.get(&entry.port)?;
    let network = networks.get(&key.network)?;
    // Networks on one parent share a number, so an endpoint's station gets the endpoint's own
    // network.
    let network = if port.kind == "endpoint" { &port.network_name } else { network };
    Some(Station {
        mac: key.mac,
        network: network.clone(),
        vlan: key.vlan,
        port: port.name.clone(),
        kind: kind(entry),
        age: (!entry.is_static()).then(|| Datapath::age_of(entry)),
        moves: entry.moves,
        held: Datapath::is_held(entry),
    })
}
