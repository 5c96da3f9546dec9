//! `fdb watch`: the changes of the FDB, found by comparing it with its former state. The FDB is
//! read while a client watches, and at no other time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Interval, MissedTickBehavior};
use vswitch_common::tables::{FdbEntry, FdbKey, NetworkNumber, PortNumber};

use super::{Purpose, Station, StationFilter, kind, view};
use crate::model::FdbChangeKind;
use crate::switch::context::NamedPort;
use crate::switch::error::SwitchError;
use crate::switch::observe::Observe;

/// The interval at which the FDB is read.
const PERIOD: Duration = Duration::from_millis(250);

/// A watch of the FDB.
#[derive(Debug)]
pub struct FdbWatch {
    observe: Arc<Observe>,
    /// The names that select changes.
    network: Option<String>,
    port: Option<String>,
    last: Snapshot,
    ticks: Interval,
}

/// A change of the FDB.
#[derive(Clone, Debug)]
pub struct StationChange {
    /// When the change was seen, to the millisecond.
    pub time: OffsetDateTime,
    /// The kind of the change.
    pub change: FdbChangeKind,
    /// The station, for a removed one as it was.
    pub station: Station,
    /// The port that the station moved from.
    pub from: Option<String>,
}

/// The FDB at one moment, with the names of that moment.
#[derive(Debug, Default)]
struct Snapshot {
    stations: HashMap<FdbKey, FdbEntry>,
    networks: BTreeMap<NetworkNumber, String>,
    ports: BTreeMap<PortNumber, NamedPort>,
}

/// A change, with numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    key: FdbKey,
    change: FdbChangeKind,
    /// The former port of a station that moved.
    from: Option<PortNumber>,
}

impl FdbWatch {
    /// Begins to watch. Present entries are no change.
    ///
    /// # Errors
    /// The network or port does not exist, or the FDB cannot be read.
    pub fn begin(observe: Arc<Observe>, filter: &StationFilter) -> Result<Self, SwitchError> {
        let ports = observe.context.ports_by_number();
        let network = filter.network.as_deref().map(|network| {
            let state = observe.context.snapshot();
            state.find_network(network).map(|entry| (entry.record.id, entry.record.name.to_string()))
        });
        let network = network.transpose()?;
        let id = network.as_ref().map(|(id, _)| *id);
        let port = filter
            .port
            .as_deref()
            .map(|port| observe.port(port, id, &ports, Purpose::Look).map(|port| port.name.clone()));
        let port = port.transpose()?;
        let last = Snapshot::take(&observe)?;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { network: network.map(|(_, name)| name), port, last, ticks, observe })
    }

    /// Waits for changes. Returns `None` when the switch shuts down or the FDB cannot be read any
    /// more.
    pub async fn changes(&mut self) -> Option<Vec<StationChange>> {
        loop {
            self.ticks.tick().await;
            drop(self.observe.context.begin_change().await.ok()?);
            let observe = self.observe.clone();
            let taken = tokio::task::spawn_blocking(move || Snapshot::take(&observe)).await;
            let now =
                taken.ok()?.inspect_err(|error| tracing::warn!("cannot read the FDB for `fdb watch`: {error}")).ok()?;
            let mut changes = named(&self.last, &now);
            self.last = now;
            changes.retain(|change| self.is_wanted(change));
            if !changes.is_empty() {
                return Some(changes);
            }
        }
    }

    fn is_wanted(&self, change: &StationChange) -> bool {
        let here = |port: &String| *port == change.station.port || Some(port) == change.from.as_ref();
        self.network.as_ref().is_none_or(|network| *network == change.station.network)
            && self.port.as_ref().is_none_or(here)
    }
}

impl Snapshot {
    fn take(observe: &Observe) -> Result<Self, SwitchError> {
        let stations = observe.context.datapath.fdb()?;
        let (networks, ports) = (observe.context.network_names(), observe.context.ports_by_number());
        // `fdb show` omits entries without names, too.
        let named =
            |(key, entry): &(FdbKey, FdbEntry)| networks.contains_key(&key.network) && ports.contains_key(&entry.port);
        Ok(Self { stations: stations.into_iter().filter(named).collect(), networks, ports })
    }
}

/// Returns the changes, with the former names of what is gone.
fn named(before: &Snapshot, now: &Snapshot) -> Vec<StationChange> {
    let time = OffsetDateTime::now_utc();
    let time = time.replace_nanosecond(time.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(time);
    let port =
        |number: PortNumber| now.ports.get(&number).or_else(|| before.ports.get(&number)).map(|port| port.name.clone());
    let change = |Difference { key, change, from }| {
        let at = if change == FdbChangeKind::Del { before } else { now };
        let station = view(&key, at.stations.get(&key)?, &at.networks, &at.ports)?;
        Some(StationChange { time, change, station, from: from.and_then(port) })
    };
    differences(&before.stations, &now.stations).into_iter().filter_map(change).collect()
}

/// Returns the changes by network, VLAN and address.
fn differences(before: &HashMap<FdbKey, FdbEntry>, now: &HashMap<FdbKey, FdbEntry>) -> Vec<Difference> {
    let difference = |key: &FdbKey, change| Difference { key: *key, change, from: None };
    let gone = before.keys().filter(|key| !now.contains_key(key)).map(|key| difference(key, FdbChangeKind::Del));
    let mut differences: Vec<_> = gone.collect();
    for (key, entry) in now {
        let Some(was) = before.get(key) else {
            differences.push(difference(key, FdbChangeKind::Add));
            continue;
        };
        let rewritten = kind(was) != kind(entry);
        if rewritten {
            differences.push(difference(key, FdbChangeKind::Add));
        } else if (was.port, was.moves) != (entry.port, entry.moves) {
            differences.push(Difference { key: *key, change: FdbChangeKind::Move, from: Some(was.port) });
        }
        // The mark of a held station stays until it moves again; each hold has a new start time.
        let held = |entry: &FdbEntry| (entry.flags & FdbEntry::HELD != 0).then_some(entry.since);
        if held(entry).is_some() && held(was) != held(entry) {
            differences.push(difference(key, FdbChangeKind::Held));
        }
    }
    differences.sort_unstable();
    differences
}

#[cfg(test)]
mod tests {
    use vswitch_common::tables::VlanKey;

    use super::*;

    fn key(last: u8) -> FdbKey {
        let mac = format!("02:00:00:00:00:{last:02x}").parse().expect("a MAC address");
        FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac }
    }

    fn at(port: u32) -> FdbEntry {
        FdbEntry { port: PortNumber(port), ..FdbEntry::default() }
    }

    fn compare(before: &[(u8, FdbEntry)], now: &[(u8, FdbEntry)]) -> Vec<(u8, FdbChangeKind, Option<u32>)> {
        let map = |entries: &[(u8, FdbEntry)]| entries.iter().map(|(last, entry)| (key(*last), *entry)).collect();
        let differences = differences(&map(before), &map(now));
        let short = |difference: Difference| {
            let last = (1..9).find(|last| key(*last) == difference.key).expect("one of ours");
            (last, difference.change, difference.from.map(|port| port.0))
        };
        differences.into_iter().map(short).collect()
    }

    #[test]
    fn added_removed_and_moved_stations_are_changes() {
        use FdbChangeKind::{Add, Del, Move};
        assert_eq!(compare(&[(1, at(1))], &[(1, at(1))]), []);
        assert_eq!(compare(&[(2, at(1))], &[(1, at(1))]), [(1, Add, None), (2, Del, None)]);
        assert_eq!(compare(&[(1, at(1))], &[(1, FdbEntry { moves: 1, ..at(2) })]), [(1, Move, Some(1))]);
        // The station moved and returned between two reads.
        assert_eq!(compare(&[(1, at(1))], &[(1, FdbEntry { moves: 2, ..at(1) })]), [(1, Move, Some(1))]);
        // A frame from the station is no change.
        assert_eq!(compare(&[(1, at(1))], &[(1, FdbEntry { seen: 9, ..at(1) })]), []);
        let fixed = FdbEntry { flags: FdbEntry::STATIC, ..at(1) };
        assert_eq!(compare(&[(1, at(1))], &[(1, fixed)]), [(1, Add, None)]);
    }

    #[test]
    fn a_held_station_is_reported_once() {
        let held = FdbEntry { flags: FdbEntry::HELD, since: 7, ..at(1) };
        assert_eq!(compare(&[(1, at(1))], &[(1, held)]), [(1, FdbChangeKind::Held, None)]);
        assert_eq!(compare(&[(1, held)], &[(1, held)]), []);
        let again = FdbEntry { since: 20, ..held };
        assert_eq!(compare(&[(1, held)], &[(1, again)]), [(1, FdbChangeKind::Held, None)]);
        assert_eq!(compare(&[(1, held)], &[(1, at(1))]), []);
    }
}
