//! `fdb watch`: what changes in the FDB, seen by comparing it with how it was. It is looked at while somebody watches,
//! and at no other time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Interval, MissedTickBehavior};
use vswitch_common::tables::{FdbEntry, FdbKey, NetworkNumber, PortNumber};

use super::super::views::NamedPort;
use super::super::{Switch, SwitchError};
use super::{kind, view};
use crate::api::{FdbChange, FdbChangeKind, FdbFilter};

/// How often the FDB is looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// Somebody who watches the FDB.
#[derive(Debug)]
pub struct FdbWatch {
    switch: Arc<Switch>,
    /// The names that changes are to have.
    network: Option<String>,
    port: Option<String>,
    last: Snapshot,
    ticks: Interval,
}

/// How the FDB was at a moment, and what everything was called.
#[derive(Debug, Default)]
struct Snapshot {
    stations: HashMap<FdbKey, FdbEntry>,
    networks: BTreeMap<NetworkNumber, String>,
    ports: BTreeMap<PortNumber, NamedPort>,
}

/// A change, before names are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    key: FdbKey,
    change: FdbChangeKind,
    /// Where it was, if it has moved.
    from: Option<PortNumber>,
}

impl FdbWatch {
    /// Begins to watch: what is there now is no change.
    ///
    /// # Errors
    /// There is no such network or port, or the FDB cannot be read.
    pub fn begin(switch: Arc<Switch>, filter: &FdbFilter) -> Result<Self, SwitchError> {
        let ports = switch.ports_by_number();
        let network = filter.network.as_deref().map(|network| {
            let state = switch.state();
            state.network(network).map(|entry| (entry.record.id, entry.record.name.to_string()))
        });
        let network = network.transpose()?;
        let id = network.as_ref().map(|(id, _)| *id);
        let port = filter.port.as_deref().map(|port| switch.port(port, id, &ports).map(|port| port.name.clone()));
        let port = port.transpose()?;
        let last = Snapshot::take(&switch)?;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { network: network.map(|(_, name)| name), port, last, ticks, switch })
    }

    /// Waits for changes; `None` when the switch goes down or the FDB can be read no more.
    pub async fn changes(&mut self) -> Option<Vec<FdbChange>> {
        loop {
            self.ticks.tick().await;
            drop(self.switch.leave().await.ok()?);
            let switch = self.switch.clone();
            let taken = tokio::task::spawn_blocking(move || Snapshot::take(&switch)).await;
            let now = taken.ok()?.inspect_err(|error| tracing::warn!("nobody can watch the FDB: {error}")).ok()?;
            let mut changes = named(&self.last, &now);
            self.last = now;
            changes.retain(|change| self.is_wanted(change));
            if !changes.is_empty() {
                return Some(changes);
            }
        }
    }

    fn is_wanted(&self, change: &FdbChange) -> bool {
        let here = |port: &String| *port == change.station.port || Some(port) == change.from.as_ref();
        self.network.as_ref().is_none_or(|network| *network == change.station.network)
            && self.port.as_ref().is_none_or(here)
    }
}

impl Snapshot {
    fn take(switch: &Switch) -> Result<Self, SwitchError> {
        let stations = switch.datapath.fdb()?;
        let (networks, ports) = (switch.network_names(), switch.ports_by_number());
        // What has no name yet, or none any more, is as good as not there: `fdb show` does not have it either.
        let named =
            |(key, entry): &(FdbKey, FdbEntry)| networks.contains_key(&key.network) && ports.contains_key(&entry.port);
        Ok(Self { stations: stations.into_iter().filter(named).collect(), networks, ports })
    }
}

/// What is different, with the names of then for what is gone.
fn named(before: &Snapshot, now: &Snapshot) -> Vec<FdbChange> {
    let time = OffsetDateTime::now_utc();
    let time = time.replace_nanosecond(time.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(time);
    let port =
        |number: PortNumber| now.ports.get(&number).or_else(|| before.ports.get(&number)).map(|port| port.name.clone());
    let change = |Difference { key, change, from }| {
        let at = if change == FdbChangeKind::Del { before } else { now };
        let station = view(&key, at.stations.get(&key)?, &at.networks, &at.ports)?;
        Some(FdbChange { time, change, station, from: from.and_then(port) })
    };
    differences(&before.stations, &now.stations).into_iter().filter_map(change).collect()
}

/// What is different, by network, VLAN and address.
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
        // The mark of a station stays until it moves again; each time that it is held starts anew.
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
    fn what_comes_goes_and_moves_is_a_change() {
        use FdbChangeKind::{Add, Del, Move};
        assert_eq!(compare(&[(1, at(1))], &[(1, at(1))]), []);
        assert_eq!(compare(&[(2, at(1))], &[(1, at(1))]), [(1, Add, None), (2, Del, None)]);
        assert_eq!(compare(&[(1, at(1))], &[(1, FdbEntry { moves: 1, ..at(2) })]), [(1, Move, Some(1))]);
        // There and back again between two looks.
        assert_eq!(compare(&[(1, at(1))], &[(1, FdbEntry { moves: 2, ..at(1) })]), [(1, Move, Some(1))]);
        // Being heard is none.
        assert_eq!(compare(&[(1, at(1))], &[(1, FdbEntry { seen: 9, ..at(1) })]), []);
        let fixed = FdbEntry { flags: FdbEntry::STATIC, ..at(1) };
        assert_eq!(compare(&[(1, at(1))], &[(1, fixed)]), [(1, Add, None)]);
    }

    #[test]
    fn a_station_that_is_held_is_told_once() {
        let held = FdbEntry { flags: FdbEntry::HELD, since: 7, ..at(1) };
        assert_eq!(compare(&[(1, at(1))], &[(1, held)]), [(1, FdbChangeKind::Held, None)]);
        assert_eq!(compare(&[(1, held)], &[(1, held)]), []);
        let again = FdbEntry { since: 20, ..held };
        assert_eq!(compare(&[(1, held)], &[(1, again)]), [(1, FdbChangeKind::Held, None)]);
        assert_eq!(compare(&[(1, held)], &[(1, at(1))]), []);
    }
}
