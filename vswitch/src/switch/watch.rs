//! What the programs tell: frames for those who watch, with the names of ports in the place of numbers, and stations
//! that are held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;
use vswitch_common::tables::{NetworkNumber, PortKind, PortNumber};
use vswitch_common::verdict::{Answer, Delivery, Flood, Verdict};
use vswitch_common::watch::Event;

use super::views::NamedPort;
use super::{Switch, SwitchError};
use crate::api::{Direction, FrameMessage, FrameView, FramesFilter, VerdictView};
use crate::watching::{Filter, Seen, Watcher};

/// How many frames a second and CPU somebody is shown who has not said.
const RATE: u32 = 1000;
/// How old the names of ports may be.
const NAMES: Duration = Duration::from_secs(1);
/// Frames that are handed on at once, if they are there.
const BATCH: usize = 64;

impl Switch {
    /// Watches frames, until what is returned is dropped.
    ///
    /// # Errors
    /// There is no such port or network, or the kernel refused it.
    pub fn watch(self: &Arc<Self>, wanted: &FramesFilter) -> Result<Frames, SwitchError> {
        let filter = self.filter(wanted)?;
        let watcher = self.watching.watch(filter)?.ok_or(SwitchError::ShuttingDown)?;
        Ok(Frames { watcher, names: Names::of(self), switch: self.clone() })
    }

    fn filter(&self, wanted: &FramesFilter) -> Result<Filter, SwitchError> {
        let FramesFilter { of, network, port, drops, leaving, whole, rate } = wanted;
        let rate = rate.unwrap_or(RATE);
        let number = |reference: &String| Ok::<_, SwitchError>(self.state().network(reference)?.record.number);
        let mut filter = Filter { drops: *drops, leaving: *leaving, whole: *whole, rate, ..Filter::default() };
        filter.network = network.as_ref().map(number).transpose()?;
        if let Some(port) = port {
            filter.ports = self.ports_called(port, network.as_deref())?;
        }
        if let Some(of) = of {
            match self.ports_called(of, None) {
                Ok(ports) => filter.ports = ports,
                Err(SwitchError::PortNotFound(_)) => {
                    let nothing = |error| match error {
                        SwitchError::NetworkNotFound(reference) => SwitchError::NothingFound(reference),
                        other => other,
                    };
                    filter.network = Some(number(of).map_err(nothing)?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filter)
    }

    /// The ports of an endpoint, or the one of a device; in this network alone, if one is given.
    fn ports_called(&self, name: &str, network: Option<&str>) -> Result<BTreeSet<PortNumber>, SwitchError> {
        let ports = self.ports_by_number();
        let state = self.state();
        let of_endpoint: BTreeSet<PortNumber> = match state.endpoint(name) {
            Ok(entries) => entries.into_iter().filter_map(|entry| entry.port).map(|port| port.number).collect(),
            Err(SwitchError::EndpointNotFound(_)) => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        let mut found: Vec<_> =
            ports.values().filter(|port| of_endpoint.contains(&port.number) || port.name == name).collect();
        if found.is_empty() {
            return Err(SwitchError::PortNotFound(name.to_owned()));
        }
        if let Some(network) = network {
            let record = &state.network(network)?.record;
            found.retain(|port| port.network == record.id);
            if found.is_empty() {
                return Err(SwitchError::PortElsewhere { port: name.to_owned(), network: record.name.clone() });
            }
        }
        Ok(found.into_iter().map(|port| port.number).collect())
    }

    /// Reports stations that moved too often, for as long as the daemon lives.
    pub async fn report_held(self: Arc<Self>) {
        let mut held = self.watching.subscribe(Event::HELD);
        while let Some(told) = held.recv().await {
            let decision = told.event.decision;
            let names = Names::of(&self);
            // It may have been forgotten since.
            let stays = self.datapath.fdb_entry(&decision.station).ok().flatten();
            tracing::warn!(
                "station {} of network {} moves too often: it is held at {}, and what it sends from {} is dropped (is there \
                 a loop, or a second one with this address?)",
                decision.station.mac,
                names.networks.get(&decision.station.network).map_or("?", String::as_str),
                stays.map_or_else(|| "its port".to_owned(), |entry| names.port(entry.port)),
                names.port(decision.ingress),
            );
        }
    }

    /// Ends what everybody watches.
    pub fn end_watching(&self) {
        self.watching.close();
    }
}

/// Frames that somebody watches.
#[derive(Debug)]
pub struct Frames {
    watcher: Watcher,
    switch: Arc<Switch>,
    names: Names,
}

impl Frames {
    /// The next frames, as many as are there; none when the switch ends.
    pub async fn next(&mut self) -> Option<Vec<FrameMessage>> {
        let first = self.watcher.next().await?;
        if self.names.read.elapsed() > NAMES {
            self.names = Names::of(&self.switch);
        }
        let offset = wall_clock_offset();
        let mut messages = Vec::new();
        let mut next = Some(first);
        while let Some(seen) = next {
            messages.push(match seen {
                Seen::Frame(event, bytes) => FrameMessage::Frame(self.names.view(&event, bytes, offset)),
                Seen::Lost(frames) => FrameMessage::Lost { frames },
            });
            next = if messages.len() < BATCH { self.watcher.try_next() } else { None };
        }
        Some(messages)
    }
}

/// Nanoseconds from the start of the clock of [`Event::time`] back to 1970. The wall clock may be set at any time.
fn wall_clock_offset() -> i128 {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let monotonic = monotonic.map_or(0, |now| i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()));
    OffsetDateTime::now_utc().unix_timestamp_nanos() - monotonic
}

/// The names of ports and networks, as they were a moment ago.
#[derive(Debug)]
struct Names {
    ports: BTreeMap<PortNumber, NamedPort>,
    networks: BTreeMap<NetworkNumber, String>,
    read: Instant,
}

impl Names {
    fn of(switch: &Switch) -> Self {
        Self { ports: switch.ports_by_number(), networks: switch.network_names(), read: Instant::now() }
    }

    /// What a port is called; its number if it has gone or has just come.
    fn port(&self, number: PortNumber) -> String {
        self.ports.get(&number).map_or_else(|| format!("port {}", number.0), |port| port.name.clone())
    }

    fn view(&self, event: &Event, mut bytes: Vec<u8>, offset: i128) -> FrameView {
        let decision = &event.decision;
        let leaving = event.kind == Event::LEAVING;
        let at = if leaving { decision.to.port } else { decision.ingress };
        let is_port = |number: PortNumber| number != PortNumber::NONE;
        let port = self.ports.get(&at);
        // A frame that was refused at once has no station yet.
        let network = self.networks.get(&decision.station.network).cloned();
        let mut length = event.length;
        if event.tag != 0 && bytes.len() >= 12 {
            bytes.splice(12..12, event.tag.to_be_bytes());
            length += 4;
        }
        let nanoseconds = i128::from(event.time) + offset;
        FrameView {
            time: OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH),
            direction: if leaving { Direction::Leaving } else { Direction::Entering },
            network: network.or_else(|| port.map(|port| port.network_name.clone())),
            port: is_port(at).then(|| self.port(at)),
            kind: port.map(|port| port.kind.to_owned()),
            from: (leaving && is_port(decision.ingress)).then(|| self.port(decision.ingress)),
            verdict: if leaving { None } else { decision.verdict().map(|verdict| self.verdict(verdict)) },
            length,
            segment: (event.segment != 0).then_some(event.segment),
            bytes,
        }
    }

    fn verdict(&self, verdict: Verdict) -> VerdictView {
        match verdict {
            Verdict::Redirect(to) if to.way == Delivery::LOCAL || to.kind() == Some(PortKind::Host) => {
                VerdictView::Host
            }
            Verdict::Redirect(to) => VerdictView::Redirect { to: self.port(to.port) },
            Verdict::Flood(flood) => VerdictView::Flood { to: flood_name(flood).to_owned() },
            Verdict::Answer(answer, port) => {
                let protocol = match answer {
                    Answer::Arp => "arp",
                    Answer::Neighbor => "neighbor",
                    Answer::TooBig => "too_big",
                };
                VerdictView::Answer { protocol: protocol.to_owned(), r#for: self.port(port) }
            }
            // What XDP leaves to tcx is shown there.
            Verdict::Pass | Verdict::Leave => VerdictView::Pass,
            Verdict::Drop(reason) => VerdictView::Drop { reason: reason.name().to_owned() },
        }
    }
}

const fn flood_name(flood: Flood) -> &'static str {
    match flood {
        Flood::Group => "group",
        Flood::UnknownUnicast => "unknown_unicast",
        Flood::Apart => "apart",
        Flood::Listeners => "listeners",
        Flood::ListenersApart => "listeners_apart",
        Flood::Routers => "routers",
        Flood::Reflected => "reflected",
        Flood::Children => "children",
    }
}

#[cfg(test)]
mod tests {
    use vswitch_common::verdict::{Decision, action};

    use super::*;
    use crate::model::NetworkId;

    fn names() -> Names {
        let port = |number, name: &str, kind| {
            let network = NetworkId::from_bytes([1; 32]);
            let network_name = "lan".to_owned();
            (
                PortNumber(number),
                NamedPort { number: PortNumber(number), name: name.to_owned(), kind, network, network_name },
            )
        };
        Names {
            ports: [port(1, "web1", "endpoint"), port(2, "web2", "endpoint")].into(),
            networks: [(NetworkNumber(7), "lan".to_owned())].into(),
            read: Instant::now(),
        }
    }

    fn event(kind: u32, decision: Decision) -> Event {
        Event { time: 1_000, decision, kind, length: 1514, captured: 20, tag: 0, segment: 0, lost: 0 }
    }

    #[test]
    fn a_tag_kept_beside_the_frame_is_put_back() {
        let event =
            Event { tag: 0x8100_001e, ..event(Event::ENTERING, Decision::new(action::FLOOD_GROUP, PortNumber(1))) };
        let bytes: Vec<u8> = (0..20).collect();
        let view = names().view(&event, bytes.clone(), 5_000);
        assert_eq!(view.bytes, [&bytes[..12], &[0x81, 0, 0, 30], &bytes[12..]].concat());
        assert_eq!((view.length, view.time.unix_timestamp_nanos()), (1518, 6_000));
        assert_eq!((view.network.as_deref(), view.kind.as_deref()), (Some("lan"), Some("endpoint")));
        assert_eq!(view.verdict, Some(VerdictView::Flood { to: "group".to_owned() }));
        // Of what is not even a header there is nothing to put it into.
        let stub = names().view(&event, vec![1; 8], 0);
        assert_eq!((stub.bytes.len(), stub.length), (8, 1514));
    }

    #[test]
    fn a_frame_is_at_the_port_that_it_enters_or_leaves_by() {
        let mut decision = Decision::new(action::REDIRECT, PortNumber(1));
        decision.to.port = PortNumber(2);
        decision.station.network = NetworkNumber(7);
        let view = |kind| names().view(&event(kind, decision), Vec::new(), 0);
        let (entering, leaving) = (view(Event::ENTERING), view(Event::LEAVING));
        assert_eq!((entering.port.as_deref(), entering.from), (Some("web1"), None));
        assert_eq!(entering.verdict, Some(VerdictView::Redirect { to: "web2".to_owned() }));
        assert_eq!((leaving.port.as_deref(), leaving.from.as_deref()), (Some("web2"), Some("web1")));
        assert_eq!((leaving.direction, leaving.verdict), (Direction::Leaving, None));
    }

    #[test]
    fn what_has_no_name_is_not_made_one_up() {
        let of = |ingress| {
            let event = event(Event::ENTERING, Decision::new(action::PASS, ingress));
            names().view(&event, Vec::new(), 0)
        };
        assert_eq!((of(PortNumber::NONE).port, of(PortNumber::NONE).network), (None, None));
        assert_eq!(of(PortNumber(99)).port.as_deref(), Some("port 99"));
    }
}
