//! The groups that the ports of all networks listen to, with the times at which they cease to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vswitch_common::tables::{NetworkNumber, Port, PortKind, PortNumber, VlanKey};

use super::querier::{LAST_MEMBER, MEMBERSHIP, Querier, ROBUSTNESS, Rules, comes_first};
use super::query::Query;
use super::{Change, Family, Heard, Listener, Message, Question, is_snooped};

/// How many groups a port may listen to: more than any host does, and a small part of the table.
pub const MAX_GROUPS: usize = 512;
/// Queries about one group that are sent into a network in a second: whoever leaves groups makes us send to everybody.
const MAX_SPECIFIC: u32 = 32;
/// What that is counted over.
const SECOND: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The port is to get the group's frames.
    Listen(Listener),
    /// It is not to get them any more.
    Unlisten(Listener),
    /// A query is to be sent into the network.
    Ask(NetworkNumber, Query),
    /// A port listens to as many groups as may be; said once of each.
    Full(PortNumber),
}

/// What has to be known of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// A multicast router may be behind it. It gets all multicast, so nothing is kept of its groups.
    pub router: bool,
    /// It is the host's own: what it asks is asked by us, or by a router that the host is itself.
    pub host: bool,
    /// One host alone is behind it: what it leaves nobody else there wants.
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

/// A group, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The network.
    pub network: NetworkNumber,
    /// The VLAN in it.
    pub vlan: VlanKey,
    /// The group.
    pub group: IpAddr,
    /// Who listens.
    pub ports: Vec<PortNumber>,
    /// When the last of them is forgotten, if none says anything; `None` if nobody asks them to.
    pub expires_in: Option<Duration>,
}

/// Where queriers are: what they ask reaches one VLAN of a network, by one of the protocols.
type Segment = (NetworkNumber, VlanKey, Family);

/// All groups.
#[derive(Debug, Default)]
pub struct Groups {
    networks: BTreeMap<NetworkNumber, Rules>,
    queriers: BTreeMap<Segment, Querier>,
    listeners: BTreeMap<Listener, Times>,
    ports: BTreeMap<PortNumber, Load>,
    /// Queries about one group, since when and how many.
    specific: BTreeMap<NetworkNumber, (Instant, u32)>,
    /// When something is to be done, at the latest.
    wake: Option<Instant>,
}

/// What is known of a listener.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// When it was last heard.
    heard: Instant,
    /// When it is gone unless it is heard, because somebody behind the port has left.
    until: Option<Instant>,
    /// When to ask a second time.
    again: Option<Instant>,
}

/// What a port has.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    groups: usize,
    refused: u64,
}

impl Groups {
    /// The networks whose multicast goes to those who listen alone. What is known of others is forgotten.
    pub fn set_networks(&mut self, now: Instant, networks: BTreeMap<NetworkNumber, Rules>) -> Vec<Action> {
        // A number is given again: it is another network if the host has another station there.
        let stays = |number: &NetworkNumber, before: &BTreeMap<NetworkNumber, Rules>| {
            let (before, now) = (before.get(number), networks.get(number));
            before.zip(now).is_some_and(|(before, now)| before.asker.mac == now.asker.mac)
        };
        self.queriers.retain(|(network, ..), _| stays(network, &self.networks));
        let gone = self.listeners.keys().filter(|listener| !networks.contains_key(&listener.network));
        let gone: Vec<Listener> = gone.copied().collect();
        for (number, rules) in &networks {
            // In the host's own VLAN: its port is in no other, so that no query of ours gets there.
            for family in [Family::Ipv4, Family::Ipv6] {
                let querier = self.queriers.entry((*number, VlanKey::NONE, family)).or_default();
                querier.set_own(now, rules.querier);
            }
        }
        self.networks = networks;
        self.wake = Some(now);
        gone.into_iter().map(|listener| self.remove(listener)).collect()
    }

    /// Takes over what an earlier daemon knew, as if it had been heard now.
    pub fn take_over(&mut self, now: Instant, listeners: impl IntoIterator<Item = Listener>) -> Vec<Action> {
        let mut actions = Vec::new();
        for listener in listeners {
            match self.networks.contains_key(&listener.network) && is_snooped(listener.group) {
                true => actions.extend(self.join(now, listener).filter(|action| matches!(action, Action::Full(_)))),
                false => actions.push(Action::Unlisten(listener)),
            }
        }
        actions
    }

    /// Takes note of a message that came in by a port. `place` has the port, and the network and the VLAN of the frame.
    pub fn hear(
        &mut self,
        now: Instant,
        place: (NetworkNumber, VlanKey, PortNumber),
        facts: PortFacts,
        heard: &Heard,
    ) -> Vec<Action> {
        let (network, vlan, port) = place;
        let Some(rules) = self.networks.get(&network).copied() else { return Vec::new() };
        match &heard.message {
            Message::Query(question) => {
                // Of an endpoint it is none: nobody is to make the others talk, or us silent.
                if facts.router || facts.host {
                    let first = facts.router && comes_first(heard.source, &rules.asker);
                    self.asked(now, (network, vlan, Family::of(heard.source)), question, first, facts.router);
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
                        Change::Leave | Change::Fewer => self.doubt(now, listener),
                    }
                });
                actions.collect()
            }
            Message::Report(_) => Vec::new(),
        }
    }

    /// Does what is due.
    pub fn poll(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for ((network, _, family), querier) in &mut self.queriers {
            if querier.is_due(now) {
                actions.push(Action::Ask(*network, Query::General(*family)));
            }
        }
        let mut expired = Vec::new();
        let mut wake = self.queriers.values().filter_map(Querier::next).min();
        for (listener, times) in &mut self.listeners {
            if times.again.is_some_and(|again| again <= now) {
                times.again = None;
                actions.push(Action::Ask(listener.network, Query::Specific(listener.group)));
            }
            let end = end(&self.queriers, now, listener, times);
            match end {
                Some(end) if end <= now => expired.push(*listener),
                _ => wake = [wake, times.again, end].into_iter().flatten().min(),
            }
        }
        self.wake = wake;
        actions.extend(expired.into_iter().map(|listener| self.remove(listener)));
        actions
    }

    /// When to [`Groups::poll`].
    pub fn next(&self) -> Option<Instant> {
        self.wake
    }

    /// A port is gone: what it listened to, and how many groups it was refused.
    pub fn forget_port(&mut self, port: PortNumber) -> (Vec<Listener>, u64) {
        let Some(load) = self.ports.remove(&port) else { return (Vec::new(), 0) };
        (self.listeners.extract_if(.., |listener, _| listener.port == port).map(|(one, _)| one).collect(), load.refused)
    }

    /// The ports that listen, or did.
    pub fn ports(&self) -> BTreeSet<PortNumber> {
        self.ports.keys().copied().collect()
    }

    /// Forgets a listener that could not be made one.
    pub fn forget(&mut self, listener: Listener) {
        self.remove(listener);
    }

    /// In whose name is asked in a network.
    pub fn rules(&self, network: NetworkNumber) -> Option<Rules> {
        self.networks.get(&network).copied()
    }

    /// All groups, by network, VLAN and address.
    pub fn groups(&self, now: Instant) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (listener, times) in &self.listeners {
            let Listener { network, vlan, group, port } = *listener;
            let expires_in = end(&self.queriers, now, listener, times).map(|end| end.saturating_duration_since(now));
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

    fn asked(&mut self, now: Instant, segment: Segment, question: &Question, first: bool, router: bool) {
        let querier = self.queriers.entry(segment).or_default();
        // A question about one group makes nobody the querier: it may be our own that comes back to us.
        match question.group {
            None => {
                querier.hear(now, first);
                self.wake_by(now + MEMBERSHIP);
            }
            // Somebody left, and the router asks whether others are left (RFC 3376, 6.6.1 and 6.4.2).
            Some(group) if router && !question.suppress && !question.sources => {
                let until = now + question.response.max(LAST_MEMBER) * ROBUSTNESS;
                let (network, vlan, _) = segment;
                let of_group = self.listeners.iter_mut().filter(|(listener, _)| {
                    (listener.network, listener.vlan, listener.group) == (network, vlan, group)
                });
                for (_, times) in of_group {
                    times.until = Some(times.until.map_or(until, |before| before.min(until)));
                }
                self.wake_by(until);
            }
            Some(_) => {}
        }
    }

    /// Also of a listener that is known the table is written: should it ever have got lost there, it is not for long.
    fn join(&mut self, now: Instant, listener: Listener) -> Option<Action> {
        let load = self.ports.entry(listener.port).or_default();
        if !self.listeners.contains_key(&listener) {
            if load.groups >= MAX_GROUPS {
                load.refused += 1;
                return (load.refused == 1).then_some(Action::Full(listener.port));
            }
            load.groups += 1;
        }
        self.listeners.insert(listener, Times { heard: now, until: None, again: None });
        self.wake_by(now + MEMBERSHIP);
        Some(Action::Listen(listener))
    }

    /// Somebody behind a port has left a group, and perhaps nobody is left: asks. Where another asks, that one will, on
    /// the same occasion; and where nobody does, the port keeps the group, for nothing would give it back.
    fn doubt(&mut self, now: Instant, listener: Listener) -> Option<Action> {
        let querier = self.queriers.get(&(listener.network, listener.vlan, Family::of(listener.group)))?;
        let ours = querier.is_ours() && listener.vlan == VlanKey::NONE;
        let times = self.listeners.get_mut(&listener).filter(|times| ours && times.until.is_none())?;
        let (since, count) = self.specific.entry(listener.network).or_insert((now, 0));
        if now >= *since + SECOND {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count > MAX_SPECIFIC {
            return None;
        }
        times.until = Some(now + LAST_MEMBER * ROBUSTNESS);
        times.again = Some(now + LAST_MEMBER);
        self.wake_by(now + LAST_MEMBER);
        Some(Action::Ask(listener.network, Query::Specific(listener.group)))
    }

    fn remove(&mut self, listener: Listener) -> Action {
        if self.listeners.remove(&listener).is_some()
            && let Some(load) = self.ports.get_mut(&listener.port)
        {
            load.groups -= 1;
        }
        Action::Unlisten(listener)
    }

    fn wake_by(&mut self, time: Instant) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }
}

/// When a listener is forgotten if it is not heard again.
fn end(queriers: &BTreeMap<Segment, Querier>, now: Instant, listener: &Listener, times: &Times) -> Option<Instant> {
    let segment = (listener.network, listener.vlan, Family::of(listener.group));
    let asked = queriers.get(&segment).and_then(|querier| querier.since(now));
    // Who had nobody to answer to before that has been silent only since.
    let silent = asked.map(|since| times.heard.max(since) + MEMBERSHIP);
    [silent, times.until].into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
