//! Observed frames with the names of ports, and reports of held stations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;
use vswitch_common::observe::Event;
use vswitch_common::tables::{NetworkNumber, PortKind, PortNumber};
use vswitch_common::verdict::{Answer, Delivery, DropReason, Flood, Verdict};

use crate::model::{Direction, Network};
use crate::observe::{Filter, Observation, Seen};
use crate::switch::context::{Context, NamedPort};
use crate::switch::error::SwitchError;
use crate::switch::observe::Observe;
use crate::switch::state::{Referred, State};

/// The most frames a second and CPU if the user gives no rate.
const RATE: u32 = 1000;
/// The age at which the names of ports are read again.
const NAMES: Duration = Duration::from_secs(1);
/// The most frames that are returned at once.
const BATCH: usize = 64;

/// The frames to observe.
#[derive(Clone, Debug, Default)]
pub struct FrameFilter {
    /// Name or id of an endpoint, a device or a network.
    pub of: Option<String>,
    /// Name or id of a network.
    pub network: Option<String>,
    /// The name of a port: of an endpoint or of a device.
    pub port: Option<String>,
    /// Dropped frames only.
    pub drops: bool,
    /// Each frame also as it leaves.
    pub leaving: bool,
    /// Frames in full, not their headers only.
    pub whole: bool,
    /// The most frames a second and CPU.
    pub rate: Option<u32>,
}

/// An item of the stream of observed frames.
#[derive(Clone, Debug)]
pub enum FrameMessage {
    /// A frame.
    Frame(Frame),
    /// The number of frames that were not shown.
    Lost(u64),
}

/// An observed frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When the frame came.
    pub time: OffsetDateTime,
    /// Whether the frame enters or leaves by the port.
    pub direction: Direction,
    /// The name of the network, where it is known.
    pub network: Option<String>,
    /// The name of the port.
    pub port: Option<String>,
    /// The kind of the port.
    pub kind: Option<&'static str>,
    /// The port that a leaving frame came in by.
    pub from: Option<String>,
    /// The verdict on an entering frame.
    pub verdict: Option<FrameVerdict>,
    /// The length on the wire in bytes.
    pub length: u32,
    /// The payload length of each segment of a GSO frame.
    pub segment: Option<u32>,
    /// The captured bytes.
    pub bytes: Vec<u8>,
}

/// A verdict with the names of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameVerdict {
    /// Redirected to this port.
    Redirect(String),
    /// Delivered to the host.
    Host,
    /// Flooded to these receivers.
    Flood(&'static str),
    /// Answered by the switch.
    Answer {
        /// The protocol of the answer.
        protocol: &'static str,
        /// The port that the switch answered for.
        target: String,
    },
    /// Passed to the host's stack on the device.
    Pass,
    /// Dropped.
    Drop(DropReason),
}

impl Observe {
    /// Observes frames until the returned stream is dropped.
    ///
    /// # Errors
    /// The port or network does not exist, or the kernel refused it.
    pub fn observe(self: &Arc<Self>, wanted: &FrameFilter) -> Result<Frames, SwitchError> {
        let filter = self.filter(wanted)?;
        let observation = self.observer.observe(filter)?.ok_or(SwitchError::ShuttingDown)?;
        Ok(Frames { observation, names: Names::of(&self.context), observe: self.clone() })
    }

    fn filter(&self, wanted: &FrameFilter) -> Result<Filter, SwitchError> {
        let FrameFilter { of, network, port, drops, leaving, whole, rate } = wanted;
        let rate = rate.unwrap_or(RATE);
        let state = self.context.snapshot();
        let network = network.as_deref().map(|network| state.find_network(network)).transpose()?;
        let network = network.map(|entry| &entry.record);
        let mut filter = Filter { drops: *drops, leaving: *leaving, whole: *whole, rate, ..Filter::default() };
        filter.network = network.map(|network| network.number);
        if let Some(port) = port {
            filter.ports = self.ports_called(&state, port, network)?;
        }
        if let Some(of) = of {
            match self.device_called(&state, of) {
                Some(port) => filter.ports = [port].into(),
                None => match state.find(of)? {
                    Referred::Endpoint(_) => filter.ports = self.ports_called(&state, of, None)?,
                    Referred::Network(entry) => filter.network = Some(entry.record.number),
                },
            }
        }
        Ok(filter)
    }

    /// Returns the port of a device with this name, unless an endpoint has the name.
    fn device_called(&self, state: &State, name: &str) -> Option<PortNumber> {
        let ports = self.context.named_ports(state);
        let is_device = |port: &&NamedPort| port.name == name && port.kind != "endpoint";
        ports
            .iter()
            .find(is_device)
            .filter(|_| state.endpoints_named(name).is_ok_and(|named| named.is_empty()))
            .map(|port| port.number)
    }

    /// Returns the ports of an endpoint, or the port of a device; with `network` only those in it.
    fn ports_called(
        &self,
        state: &State,
        name: &str,
        network: Option<&Network>,
    ) -> Result<BTreeSet<PortNumber>, SwitchError> {
        let of_endpoint: BTreeSet<PortNumber> = match state.find_endpoint(name) {
            Ok(entries) => entries.into_iter().filter_map(|entry| entry.port).map(|port| port.number).collect(),
            Err(SwitchError::EndpointNotFound(_)) => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        let mut found = self.context.named_ports(state);
        found.retain(|port| of_endpoint.contains(&port.number) || port.name == name);
        if found.is_empty() {
            return Err(SwitchError::PortNotFound(name.to_owned()));
        }
        if let Some(record) = network {
            found.retain(|port| port.network == record.id);
            if found.is_empty() {
                return Err(SwitchError::PortElsewhere { port: name.to_owned(), network: record.name.clone() });
            }
        }
        Ok(found.into_iter().map(|port| port.number).collect())
    }

    /// Logs stations that moved too often, for as long as the daemon lives.
    pub async fn report_held(self: Arc<Self>) {
        let mut held = self.observer.subscribe(Event::HELD);
        while let Some(told) = held.recv().await {
            let decision = told.event.decision;
            let names = Names::of(&self.context);
            // The entry may be removed already.
            let stays = self.context.datapath.fdb_entry(&decision.station).ok().flatten();
            tracing::warn!(
                "station {} of network {} moves too often: it is held at {}, and what it sends from elsewhere is dropped \
                 (is there a loop, or a second one with this address? The last frame came from {})",
                decision.station.mac,
                names.networks.get(&decision.station.network).map_or("?", String::as_str),
                stays.map_or_else(|| "its port".to_owned(), |entry| names.port(entry.port)),
                names.port(decision.ingress),
            );
        }
    }

    /// Ends all streams of frames.
    pub fn close_observer(&self) {
        self.observer.close();
    }
}

/// A stream of observed frames.
#[derive(Debug)]
pub struct Frames {
    observation: Observation,
    observe: Arc<Observe>,
    names: Names,
}

impl Frames {
    /// Waits for frames and returns those that are there; `None` when the switch ends.
    pub async fn next(&mut self) -> Option<Vec<FrameMessage>> {
        let first = self.observation.next().await?;
        if self.names.read.elapsed() > NAMES {
            self.names = Names::of(&self.observe.context);
        }
        let offset = wall_clock_offset();
        let mut messages = Vec::new();
        let mut next = Some(first);
        while let Some(seen) = next {
            messages.push(match seen {
                Seen::Frame(event, bytes) => FrameMessage::Frame(self.names.view(&event, bytes, offset)),
                Seen::Lost(frames) => FrameMessage::Lost(frames),
            });
            next = if messages.len() < BATCH { self.observation.try_next() } else { None };
        }
        Some(messages)
    }
}

/// Returns the nanoseconds from 1970 to the start of the clock of [`Event::time`]. The wall clock
/// may be set at any time.
fn wall_clock_offset() -> i128 {
    let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let monotonic = monotonic.map_or(0, |now| i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()));
    OffsetDateTime::now_utc().unix_timestamp_nanos() - monotonic
}

/// The names of ports and networks, as of `read`.
#[derive(Debug)]
struct Names {
    ports: BTreeMap<PortNumber, NamedPort>,
    networks: BTreeMap<NetworkNumber, String>,
    read: Instant,
}

impl Names {
    fn of(context: &Context) -> Self {
        Self { ports: context.ports_by_number(), networks: context.network_names(), read: Instant::now() }
    }

    /// Returns the name of a port, or its number if the port has no name.
    fn port(&self, number: PortNumber) -> String {
        self.ports.get(&number).map_or_else(|| format!("port {}", number.0), |port| port.name.clone())
    }

    fn view(&self, event: &Event, mut bytes: Vec<u8>, offset: i128) -> Frame {
        let decision = &event.decision;
        let leaving = event.kind == Event::LEAVING;
        let at = if leaving { decision.to.port } else { decision.ingress };
        let is_port = |number: PortNumber| number != PortNumber::NONE;
        let port = self.ports.get(&at);
        // A frame that was dropped before its station was determined has no network here.
        let network = self.networks.get(&decision.station.network).cloned();
        let mut length = event.length;
        if event.tag != 0 && bytes.len() >= 12 {
            bytes.splice(12..12, event.tag.to_be_bytes());
            length += 4;
        }
        let nanoseconds = i128::from(event.time) + offset;
        Frame {
            time: OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH),
            direction: if leaving { Direction::Leaving } else { Direction::Entering },
            network: network.or_else(|| port.map(|port| port.network_name.clone())),
            port: is_port(at).then(|| self.port(at)),
            kind: port.map(|port| port.kind),
            from: (leaving && is_port(decision.ingress)).then(|| self.port(decision.ingress)),
            verdict: if leaving { None } else { decision.verdict().map(|verdict| self.verdict(verdict)) },
            length,
            segment: (event.segment != 0).then_some(event.segment),
            bytes,
        }
    }

    fn verdict(&self, verdict: Verdict) -> FrameVerdict {
        match verdict {
            Verdict::Redirect(to) if to.way == Delivery::LOCAL || to.kind() == Some(PortKind::Host) => {
                FrameVerdict::Host
            }
            Verdict::Redirect(to) => FrameVerdict::Redirect(self.port(to.port)),
            Verdict::Flood(flood) => FrameVerdict::Flood(flood_name(flood)),
            Verdict::Answer(answer, port) => {
                let protocol = match answer {
                    Answer::Arp => "arp",
                    Answer::Neighbor => "neighbor",
                    Answer::TooBig => "too_big",
                };
                FrameVerdict::Answer { protocol, target: self.port(port) }
            }
            // A frame that XDP defers is shown by tcx.
            Verdict::Pass | Verdict::Defer => FrameVerdict::Pass,
            Verdict::Drop(reason) => FrameVerdict::Drop(reason),
        }
    }
}

const fn flood_name(flood: Flood) -> &'static str {
    match flood {
        Flood::Group => "group",
        Flood::UnknownUnicast => "unknown_unicast",
        Flood::ExceptHost => "apart",
        Flood::Listeners => "listeners",
        Flood::ListenersExceptHost => "listeners_apart",
        Flood::Routers => "routers",
        Flood::Reflected => "reflected",
        Flood::Children => "children",
        Flood::Host => "host",
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
        assert_eq!((view.network.as_deref(), view.kind), (Some("lan"), Some("endpoint")));
        assert_eq!(view.verdict, Some(FrameVerdict::Flood("group")));
        // A capture shorter than an Ethernet header has no place for the tag.
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
        assert_eq!(entering.verdict, Some(FrameVerdict::Redirect("web2".to_owned())));
        assert_eq!((leaving.port.as_deref(), leaving.from.as_deref()), (Some("web2"), Some("web1")));
        assert_eq!((leaving.direction, leaving.verdict), (Direction::Leaving, None));
    }

    #[test]
    fn a_port_without_a_name_is_shown_by_its_number() {
        let of = |ingress| {
            let event = event(Event::ENTERING, Decision::new(action::PASS, ingress));
            names().view(&event, Vec::new(), 0)
        };
        assert_eq!((of(PortNumber::NONE).port, of(PortNumber::NONE).network), (None, None));
        assert_eq!(of(PortNumber(99)).port.as_deref(), Some("port 99"));
    }
}
