//! `fdb show`, `add`, `del`, `flush` and `watch`: where the switch knows stations to be.

mod watch;

use std::collections::BTreeMap;

use vswitch_common::tables::{FdbEntry, FdbKey, NetworkNumber, Port, PortNumber, VlanKey};

pub use watch::FdbWatch;

use super::views::NamedPort;
use super::{Switch, SwitchError};
use crate::api::{FdbFilter, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic, StationKind, StationView};
use crate::datapath::Datapath;
use crate::model::{NetworkId, StationMac};

/// Stations to look at: of a network, behind a port, in a VLAN.
#[derive(Debug, Default)]
struct Selection {
    network: Option<NetworkNumber>,
    port: Option<PortNumber>,
    vlan: Option<VlanKey>,
}

impl Selection {
    fn has(&self, key: &FdbKey, entry: &FdbEntry) -> bool {
        self.network.is_none_or(|network| key.network == network)
            && self.port.is_none_or(|port| entry.port == port)
            && self.vlan.is_none_or(|vlan| key.vlan == vlan)
    }
}

impl Switch {
    /// The stations, by network, address and VLAN.
    ///
    /// # Errors
    /// There is no such network or port, or the FDB cannot be read.
    pub fn stations(&self, filter: &FdbFilter) -> Result<Vec<StationView>, SwitchError> {
        let ports = self.ports_by_number();
        let selection =
            self.select(filter.network.as_deref(), filter.port.as_deref(), filter.vlan.as_deref(), &ports)?;
        let networks = self.network_names();
        let stations =
            self.datapath.fdb()?.into_iter().filter(|(key, entry)| {
                selection.has(key, entry) && filter.kind.is_none_or(|wanted| wanted == kind(entry))
            });
        let stations = stations.filter_map(|(key, entry)| view(&key, &entry, &networks, &ports));
        let mut stations: Vec<_> = stations.collect();
        stations
            .sort_by(|one, other| (&one.network, &one.mac, &one.vlan).cmp(&(&other.network, &other.mac, &other.vlan)));
        Ok(stations)
    }

    /// Writes a station that is never forgotten, or one that stays where it is as long as it is heard.
    ///
    /// # Errors
    /// There is no such network or port, the address is no station's, or it is one of an endpoint.
    pub async fn add_station(&self, request: &FdbStatic) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let key = self.key(&request.key)?;
        let ports = self.ports_by_number();
        let (id, name) = {
            let state = self.state();
            let network = &state.network(&request.key.network)?.record;
            (network.id, network.name.clone())
        };
        let port = self.port(&request.port, Some(id), &ports)?;
        if port.network != id {
            return Err(SwitchError::PortElsewhere { port: port.name.clone(), network: name });
        }
        self.check_not_own(&key, &ports)?;
        let written = if request.sticky {
            self.datapath.fdb_add_sticky(key, port.number)
        } else {
            self.datapath.fdb_add_static(key, port.number)
        };
        Ok(written?)
    }

    /// Removes a station; it may be learned again.
    ///
    /// # Errors
    /// There is no such network, or the station is an endpoint itself.
    pub async fn remove_station(&self, request: &FdbKeyRequest) -> Result<FdbFlushed, SwitchError> {
        let _leave = self.leave().await?;
        let key = self.key(request)?;
        self.check_not_own(&key, &self.ports_by_number())?;
        Ok(FdbFlushed { removed: usize::from(self.datapath.fdb_remove(&key)?) })
    }

    /// Removes learned stations.
    ///
    /// # Errors
    /// There is no such network or port, or no VLAN can have this number.
    pub async fn flush_stations(&self, request: &FdbFlush) -> Result<FdbFlushed, SwitchError> {
        let _leave = self.leave().await?;
        let FdbFlush { network, port, vlan } = request;
        let ports = self.ports_by_number();
        let selection = self.select(network.as_deref(), port.as_deref(), vlan.as_deref(), &ports)?;
        // In one go: what somebody writes by hand meanwhile in the place of a learned one stays.
        let removed = self.datapath.forget(|key, entry| !entry.is_fixed() && selection.has(key, entry))?;
        Ok(FdbFlushed { removed })
    }

    fn select(
        &self,
        network: Option<&str>,
        port: Option<&str>,
        of_vlan: Option<&str>,
        ports: &BTreeMap<PortNumber, NamedPort>,
    ) -> Result<Selection, SwitchError> {
        let state = self.state();
        let network = network.map(|network| state.network(network)).transpose()?;
        let network = network.map(|entry| (entry.record.id, entry.record.number));
        drop(state);
        let id = network.map(|(id, _)| id);
        let port = port.map(|port| self.port(port, id, ports).map(|port| port.number)).transpose()?;
        let vlan = of_vlan.map(vlan).transpose()?;
        Ok(Selection { network: network.map(|(_, number)| number), port, vlan })
    }

    /// The port of this name: an endpoint's, or a device's. An endpoint has one in each of its networks: the one in this
    /// network is meant, if it is in it.
    fn port<'a>(
        &self,
        name: &str,
        network: Option<NetworkId>,
        ports: &'a BTreeMap<PortNumber, NamedPort>,
    ) -> Result<&'a NamedPort, SwitchError> {
        let state = self.state();
        let of_endpoint = match state.endpoint(name) {
            Ok(entries) => entries.into_iter().filter_map(|entry| entry.port).map(|port| port.number).collect(),
            Err(SwitchError::EndpointNotFound(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        let named = ports.values().filter(|port| port.name == name);
        let found: Vec<_> = of_endpoint.iter().filter_map(|number| ports.get(number)).chain(named).collect();
        let here = found.iter().find(|port| network.is_none_or(|network| port.network == network));
        here.or(found.first()).copied().ok_or_else(|| SwitchError::PortNotFound(name.to_owned()))
    }

    fn key(&self, request: &FdbKeyRequest) -> Result<FdbKey, SwitchError> {
        let network = self.state().network(&request.network)?.record.number;
        let mac: StationMac = request.mac.parse()?;
        let vlan = request.vlan.as_deref().map_or(Ok(VlanKey::NONE), vlan)?;
        Ok(FdbKey { network, vlan, mac: mac.get() })
    }

    /// An endpoint's own station, and the host's, stay as long as their ports.
    fn check_not_own(&self, key: &FdbKey, ports: &BTreeMap<PortNumber, NamedPort>) -> Result<(), SwitchError> {
        let is_own = |port: &Port| (port.mac, port.network, port.vlan) == (key.mac, key.network, key.vlan);
        let owner = self.datapath.ports()?.into_iter().find(|(_, port)| is_own(port));
        match owner {
            Some((number, _)) => {
                let holder = ports.get(&number).map_or_else(|| "a port".to_owned(), |port| port.name.clone());
                Err(SwitchError::OwnStation { mac: key.mac, holder })
            }
            None => Ok(()),
        }
    }

    /// The networks by number; all names of those that are one in the switch, on one parent.
    pub(super) fn network_names(&self) -> BTreeMap<NetworkNumber, String> {
        let mut names: BTreeMap<NetworkNumber, Vec<String>> = BTreeMap::new();
        for entry in self.state().networks.values() {
            names.entry(entry.record.number).or_default().push(entry.record.name.to_string());
        }
        let joined = |mut names: Vec<String>| {
            names.sort();
            names.join(",")
        };
        names.into_iter().map(|(number, names)| (number, joined(names))).collect()
    }
}

/// How a station came into the FDB.
fn kind(entry: &FdbEntry) -> StationKind {
    match (entry.is_static(), entry.is_fixed()) {
        (true, _) => StationKind::Static,
        (_, true) => StationKind::Sticky,
        _ => StationKind::Dynamic,
    }
}

/// A station, as it is shown; none where what it belongs to has no name: it is about to come, or to go.
fn view(
    key: &FdbKey,
    entry: &FdbEntry,
    networks: &BTreeMap<NetworkNumber, String>,
    ports: &BTreeMap<PortNumber, NamedPort>,
) -> Option<StationView> {
    let port = ports.get(&entry.port)?;
    let network = networks.get(&key.network)?;
    // Of several on one parent, the endpoint's own.
    let network = if port.kind == "endpoint" { &port.network_name } else { network };
    Some(StationView {
        mac: key.mac.to_string(),
        network: network.clone(),
        vlan: key.vlan.0 & !VlanKey::SERVICE,
        service_tag: key.vlan.0 & VlanKey::SERVICE != 0,
        port: port.name.clone(),
        kind: kind(entry),
        age: (!entry.is_static()).then(|| Datapath::age_of(entry)),
        moves: entry.moves,
        held: Datapath::is_held(entry),
    })
}

/// Reads a VLAN: `30` is that of an 802.1Q tag, `s30` that of a service tag, 0 none.
pub(super) fn vlan(text: &str) -> Result<VlanKey, SwitchError> {
    let invalid = || SwitchError::Vlan(text.to_owned());
    let (digits, service) = match text.strip_prefix('s') {
        Some(digits) => (digits, VlanKey::SERVICE),
        None => (text, 0),
    };
    let id: u16 = digits.parse().map_err(|_| invalid())?;
    match id {
        0 if service == 0 => Ok(VlanKey::NONE),
        1..=4094 => Ok(VlanKey(id | service)),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_numbers_and_service_tags_have_an_s() {
        assert_eq!(vlan("0").ok(), Some(VlanKey::NONE));
        assert_eq!(vlan("30").ok(), Some(VlanKey(30)));
        assert_eq!(vlan("s30").ok(), Some(VlanKey(VlanKey::SERVICE | 30)));
        for bad in ["", "s", "s0", "4095", "-1", "x"] {
            assert!(matches!(vlan(bad), Err(SwitchError::Vlan(_))), "{bad}");
        }
    }
}
