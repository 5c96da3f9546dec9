//! Groups that the ports of all networks listen to, with their expiry times.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vswitch_common::tables::{NetworkNumber, Port, PortKind, PortNumber, VlanKey};

use super::querier::{Querier, QuerierSettings, has_precedence};
use super::query::Query;
use super::query::{LAST_MEMBER, MEMBERSHIP, ROBUSTNESS};
use super::{Change, Family, Listener, Message, Question, SnoopedMessage, is_snooped};

/// Maximum number of groups per port, which is more than any host joins and a small part of the
/// table.
pub const MAX_GROUPS: usize = 512;
/// Maximum number of group-specific queries per network and second. Without a limit, a host could
/// flood the network with queries by leaving groups.
const MAX_SPECIFIC_QUERIES: u32 = 32;
/// Period over which group-specific queries are counted.
const COUNTING_PERIOD: Duration = Duration::from_secs(1);

/// An action that the caller must take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the group's frames to the port.
    Listen(Listener),
    /// Stop sending the group's frames to the port.
    Unlisten(Listener),
    /// Send a query into the network.
    SendQuery(NetworkNumber, Query),
    /// Report that a port reached [`MAX_GROUPS`]; returned once per port.
    LimitReached(PortNumber),
}

/// Properties of a port that affect snooping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// A multicast router may be behind the port. The port gets all multicast frames, so its groups
    /// are not tracked.
    pub router: bool,
    /// The port is the host port. Its queries come from the switch itself, or from the host as a
    /// router.
    pub host: bool,
    /// Fast leave: at most one host is behind the port, so a Leave removes the group at once.
    pub single: bool,
}

impl From<&Port> for PortFacts {
    fn from(port: &Port) -> Self {
        let kind = port.kind();
        let host = kind == Some(PortKind::Host);
        Self {
            router: kind == Some(PortKind::Uplink) || port.has(Port::ROUTER),
            host,
            single: host || kind == Some(PortKind::Container) && !port.has(Port::LEARN),
        }
    }
}

/// A group with its listeners, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Network of the group.
    pub network: NetworkNumber,
    /// VLAN in the network.
    pub vlan: VlanKey,
    /// Group address.
    pub group: IpAddr,
    /// Ports that listen to the group.
    pub ports: Vec<PortNumber>,
    /// Time until the last listener expires without further reports; `None` if they do not expire,
    /// because no querier is active.
    pub expires_in: Option<Duration>,
}

/// Scope of a querier: one VLAN of a network and one protocol.
type Segment = (NetworkNumber, VlanKey, Family);

/// Snooping state of all networks.
#[derive(Debug, Default)]
pub struct Groups {
    networks: BTreeMap<NetworkNumber, QuerierSettings>,
    queriers: BTreeMap<Segment, Querier>,
    listeners: BTreeMap<Listener, Timers>,
    ports: BTreeMap<PortNumber, PortLoad>,
    /// Start of the current counting period and number of group-specific queries in it.
    specific_queries: BTreeMap<NetworkNumber, (Instant, u32)>,
    /// Latest time of the next call of [`Groups::poll`].
    next_poll: Option<Instant>,
}

/// Timers of a listener.
#[derive(Clone, Copy, Debug)]
struct Timers {
    /// Time of its last report.
    last_report: Instant,
    /// Time at which it expires without a report, after a host behind the port left the group.
    leaves_at: Option<Instant>,
    /// Time of the second group-specific query.
    query_again_at: Option<Instant>,
}

/// Number of groups of a port, and of refused groups.
#[derive(Clone, Copy, Debug, Default)]
struct PortLoad {
    groups: usize,
    refused: u64,
}

impl Groups {
    /// Sets the networks with snooping. Removes the state of all other networks.
    pub fn set_networks(&mut self, now: Instant, networks: BTreeMap<NetworkNumber, QuerierSettings>) -> Vec<Action> {
        // Network numbers are reused. A number belongs to another network if the MAC address of the
        // switch's queries there has changed.
        let is_same_network = |number: &NetworkNumber, before: &BTreeMap<NetworkNumber, QuerierSettings>| {
            let (old, new) = (before.get(number), networks.get(number));
            old.zip(new).is_some_and(|(old, new)| old.source.mac == new.source.mac)
        };
        self.queriers.retain(|(network, ..), _| is_same_network(network, &self.networks));
        let removed = self.listeners.keys().filter(|listener| !networks.contains_key(&listener.network));
        let removed: Vec<Listener> = removed.copied().collect();
        for (number, settings) in &networks {
            // The switch's own querier serves only the VLAN of the host port. The host port is in
            // no other VLAN, so queries of the switch reach no other VLAN.
            for family in [Family::Ipv4, Family::Ipv6] {
                let querier = self.queriers.entry((*number, VlanKey::NONE, family)).or_default();
                querier.set_own(now, settings.querier);
            }
        }
        self.networks = networks;
        self.next_poll = Some(now);
        removed.into_iter().map(|listener| self.remove(listener)).collect()
    }

    /// Takes over the listeners of an earlier daemon, as if each had sent a report now.
    pub fn take_over(&mut self, now: Instant, listeners: impl IntoIterator<Item = Listener>) -> Vec<Action> {
        let mut actions = Vec::new();
        for listener in listeners {
            match self.networks.contains_key(&listener.network) && is_snooped(listener.group) {
                true => {
                    actions.extend(self.join(now, listener).filter(|action| matches!(action, Action::LimitReached(_))));
                }
                false => actions.push(Action::Unlisten(listener)),
            }
        }
        actions
    }

    /// Processes a message that a port received. `place` is the network and VLAN of the frame, and
    /// the port.
    pub fn process(
        &mut self,
        now: Instant,
        place: (NetworkNumber, VlanKey, PortNumber),
        facts: PortFacts,
        received: &SnoopedMessage,
    ) -> Vec<Action> {
        let (network, vlan, port) = place;
        let Some(settings) = self.networks.get(&network).copied() else { return Vec::new() };
        match &received.message {
            Message::Query(question) => {
                // Queries from endpoints are ignored. Otherwise an endpoint could make the others
                // send reports, or silence the switch's querier.
                if facts.router || facts.host {
                    let precedes = facts.router && has_precedence(received.source, &settings.source);
                    self.process_query(
                        now,
                        (network, vlan, Family::of(received.source)),
                        question,
                        precedes,
                        facts.router,
                    );
                }
                Vec::new()
            }
            Message::Report(records) if !facts.router => {
                let records = records.iter().filter(|record| is_snooped(record.group));
                let actions = records.filter_map(|record| {
                    let listener = Listener { network, vlan, group: record.group, port };
                    match record.change {
                        Change::Join => self.join(now, listener),
                        Change::Leave if facts.single => {
                            self.listeners.contains_key(&listener).then(|| self.remove(listener))
                        }
                        Change::Leave | Change::Fewer => self.process_leave(now, listener),
                    }
                });
                actions.collect()
            }
            Message::Report(_) => Vec::new(),
        }
    }

    /// Returns the actions that are due: queries to send and listeners that expired.
    pub fn poll(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for ((network, _, family), querier) in &mut self.queriers {
            if querier.is_due(now) {
                actions.push(Action::SendQuery(*network, Query::General(*family)));
            }
        }
        let mut expired = Vec::new();
        let mut next_poll = self.queriers.values().filter_map(Querier::next_query).min();
        for (listener, timers) in &mut self.listeners {
            if timers.query_again_at.is_some_and(|time| time <= now) {
                timers.query_again_at = None;
                actions.push(Action::SendQuery(listener.network, Query::Specific(listener.group)));
            }
            let expiry_time = expiry(&self.queriers, now, listener, timers);
            match expiry_time {
                Some(end) if end <= now => expired.push(*listener),
                _ => next_poll = [next_poll, timers.query_again_at, expiry_time].into_iter().flatten().min(),
            }
        }
        self.next_poll = next_poll;
        actions.extend(expired.into_iter().map(|listener| self.remove(listener)));
        actions
    }

    /// Returns the time of the next call of [`Groups::poll`], or `None` if nothing is pending.
    pub fn next_poll(&self) -> Option<Instant> {
        self.next_poll
    }

    /// Removes a port. Returns its listeners and the number of groups that it was refused.
    pub fn forget_port(&mut self, port: PortNumber) -> (Vec<Listener>, u64) {
        let Some(load) = self.ports.remove(&port) else { return (Vec::new(), 0) };
        (self.listeners.extract_if(.., |listener, _| listener.port == port).map(|(one, _)| one).collect(), load.refused)
    }

    /// Returns the ports that listen to a group, or did earlier.
    pub fn ports(&self) -> BTreeSet<PortNumber> {
        self.ports.keys().copied().collect()
    }

    /// Removes a listener that could not be added to the table.
    pub fn forget(&mut self, listener: Listener) {
        self.remove(listener);
    }

    /// Returns the querier settings of a network.
    pub fn settings(&self, network: NetworkNumber) -> Option<QuerierSettings> {
        self.networks.get(&network).copied()
    }

    /// Returns all groups, sorted by network, VLAN and address.
    pub fn groups(&self, now: Instant) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (listener, timers) in &self.listeners {
            let Listener { network, vlan, group, port } = *listener;
            let expires_in =
                expiry(&self.queriers, now, listener, timers).map(|end| end.saturating_duration_since(now));
            match groups.last_mut().filter(|last| (last.network, last.vlan, last.group) == (network, vlan, group)) {
                Some(last) => {
                    last.ports.push(port);
                    last.expires_in = last.expires_in.zip(expires_in).map(|(one, other)| one.max(other));
                }
                None => groups.push(Group { network, vlan, group, ports: vec![port], expires_in }),
            }
        }
        groups
    }

    fn process_query(&mut self, now: Instant, segment: Segment, question: &Question, precedes: bool, router: bool) {
        let querier = self.queriers.entry(segment).or_default();
        // A group-specific query does not take part in the election: it may be a query of this
        // switch that came back.
        match question.group {
            None => {
                querier.record_query(now, precedes);
                self.poll_by(now + MEMBERSHIP);
            }
            // A host left the group, and the router asks for remaining listeners (RFC 3376 sections
            // 6.6.1 and 6.4.2).
            Some(group) if router && !question.suppress && !question.sources => {
                let until = now + question.response.max(LAST_MEMBER) * ROBUSTNESS;
                let (network, vlan, _) = segment;
                let of_group = self.listeners.iter_mut().filter(|(listener, _)| {
                    (listener.network, listener.vlan, listener.group) == (network, vlan, group)
                });
                for (_, timers) in of_group {
                    timers.leaves_at = Some(timers.leaves_at.map_or(until, |earlier| earlier.min(until)));
                }
                self.poll_by(until);
            }
            Some(_) => {}
        }
    }

    /// Records a report of a listener. The action is also returned for a known listener, so that an
    /// entry that was lost from the table is written again.
    fn join(&mut self, now: Instant, listener: Listener) -> Option<Action> {
        let load = self.ports.entry(listener.port).or_default();
        if !self.listeners.contains_key(&listener) {
            if load.groups >= MAX_GROUPS {
                load.refused += 1;
                return (load.refused == 1).then_some(Action::LimitReached(listener.port));
            }
            load.groups += 1;
        }
        self.listeners.insert(listener, Timers { last_report: now, leaves_at: None, query_again_at: None });
        self.poll_by(now + MEMBERSHIP);
        Some(Action::Listen(listener))
    }

    /// Handles a leave on a port with possibly several hosts: sends a group-specific query. If
    /// another querier is active, that one sends the query. Without any querier the listener is
    /// kept, because no report would add it again.
    fn process_leave(&mut self, now: Instant, listener: Listener) -> Option<Action> {
        let querier = self.queriers.get(&(listener.network, listener.vlan, Family::of(listener.group)))?;
        let is_querier = querier.is_active() && listener.vlan == VlanKey::NONE;
        let timers = self.listeners.get_mut(&listener).filter(|timers| is_querier && timers.leaves_at.is_none())?;
        let (since, count) = self.specific_queries.entry(listener.network).or_insert((now, 0));
        if now >= *since + COUNTING_PERIOD {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > MAX_SPECIFIC_QUERIES {
            return None;
        }
        timers.leaves_at = Some(now + LAST_MEMBER * ROBUSTNESS);
        timers.query_again_at = Some(now + LAST_MEMBER);
        self.poll_by(now + LAST_MEMBER);
        Some(Action::SendQuery(listener.network, Query::Specific(listener.group)))
    }

    fn remove(&mut self, listener: Listener) -> Action {
        if self.listeners.remove(&listener).is_some()
            && let Some(load) = self.ports.get_mut(&listener.port)
        {
            load.groups -= 1;
        }
        Action::Unlisten(listener)
    }

    fn poll_by(&mut self, time: Instant) {
        self.next_poll = Some(self.next_poll.map_or(time, |planned| planned.min(time)));
    }
}

/// Returns the time at which a listener expires without another report. Returns `None` if it does
/// not expire.
fn expiry(
    queriers: &BTreeMap<Segment, Querier>,
    now: Instant,
    listener: &Listener,
    timers: &Timers,
) -> Option<Instant> {
    let segment = (listener.network, listener.vlan, Family::of(listener.group));
    let active_since = queriers.get(&segment).and_then(|querier| querier.active_since(now));
    // Before the querier's first query, listeners had no reason to send a report, so the interval
    // starts there.
    let silence_ends = active_since.map(|since| timers.last_report.max(since) + MEMBERSHIP);
    [silence_ends, timers.leaves_at].into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
