//! The observations: the frames that the programs show for all of them, and the frames that each
//! gets.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use vswitch_common::observe::{Event, FrameFilter};
use vswitch_common::tables::{NetworkNumber, PortNumber};
use vswitch_common::verdict::action;

/// The most frames that wait for an observation: some megabytes.
const WAITING: usize = 4096;

/// The frames of an observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The only network.
    pub network: Option<NetworkNumber>,
    /// The only ports that frames come from or go to; all ports if empty.
    pub ports: BTreeSet<PortNumber>,
    /// Dropped frames only.
    pub drops: bool,
    /// Each frame also as it leaves.
    pub leaving: bool,
    /// Frames in full, not their beginning only.
    pub whole: bool,
    /// The most frames a second and CPU.
    pub rate: u32,
}

/// An item of an observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A frame: the event, and the bytes without a tag kept beside them.
    Frame(Event, Vec<u8>),
    /// The number of frames that were lost.
    Lost(u64),
}

impl Filter {
    /// Returns the setting of the programs for this filter.
    fn watch(&self) -> FrameFilter {
        FrameFilter {
            mode: if self.whole { FrameFilter::FRAMES } else { FrameFilter::HEADERS },
            network: self.network.map_or(0, |network| network.0),
            // The programs filter by one port only. Of several ports, the rest is filtered here.
            port: if self.ports.len() == 1 { self.ports.first().map_or(0, |port| port.0) } else { 0 },
            drops: self.drops.into(),
            leaving: self.leaving.into(),
            // A tick is slightly longer than a second.
            limit: self.rate,
        }
    }

    /// Returns whether the filter selects a frame, as the programs decide it.
    fn has(&self, event: &Event) -> bool {
        let decision = &event.decision;
        let of = self.network.is_none_or(|network| decision.station.network == network);
        let by = |port| self.ports.is_empty() || self.ports.contains(&port);
        of && (by(decision.ingress) || by(decision.to.port))
            && (!self.drops || decision.action == action::DROP)
            && (self.leaving || event.kind == Event::ENTERING)
    }
}

/// All observations.
#[derive(Debug, Default)]
pub(super) struct Observations {
    next: u64,
    closed: bool,
    all: BTreeMap<u64, Entry>,
    /// The lost frames that were reported to the observations already, and that the programs will
    /// report with their next frame.
    known: u64,
}

#[derive(Debug)]
struct Entry {
    filter: Filter,
    frames: mpsc::Sender<Seen>,
    /// The frames that were lost since the last report.
    lost: u64,
}

impl Observations {
    /// Adds an observation; `None` after [`Observations::close`].
    pub(super) fn add(&mut self, filter: Filter) -> Option<(u64, mpsc::Receiver<Seen>)> {
        if self.closed {
            return None;
        }
        if self.all.is_empty() {
            // The programs count from zero.
            self.known = 0;
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let number = self.next;
        self.next += 1;
        self.all.insert(number, Entry { filter, frames: sender, lost: 0 });
        Some((number, receiver))
    }

    /// Returns whether no observation exists.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Removes an observation, if it exists.
    pub(super) fn remove(&mut self, number: u64) {
        self.all.remove(&number);
    }

    /// Removes all observations, and refuses new ones.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.all.clear();
    }

    /// Returns the setting of the programs for all observations: where they differ, everything is
    /// shown.
    pub(super) fn union(&self) -> FrameFilter {
        let both = |one: u32, other: u32| if one == other { one } else { 0 };
        let watches = self.all.values().map(|entry| entry.filter.watch());
        let union = watches.reduce(|one, other| FrameFilter {
            mode: one.mode.max(other.mode),
            network: both(one.network, other.network),
            port: both(one.port, other.port),
            drops: both(one.drops, other.drops),
            leaving: one.leaving.max(other.leaving),
            limit: one.limit.max(other.limit),
        });
        union.unwrap_or_default()
    }

    /// Hands a frame to the observations that select it. A frame that the programs did not show
    /// counts as lost for every observation.
    pub(super) fn show(&mut self, event: &Event, bytes: &[u8]) {
        let lost = u64::from(event.lost);
        let news = lost.saturating_sub(self.known);
        self.known -= lost - news;
        for entry in self.all.values_mut() {
            entry.lost += news;
            if entry.filter.has(event) {
                entry.tell_lost();
                if entry.lost > 0 || !entry.send(Seen::Frame(*event, bytes.to_vec())) {
                    entry.lost += 1;
                }
            }
        }
    }

    /// Reports lost frames although no frame follows them. `unshown` is the number that the
    /// programs will report with their next frame.
    pub(super) fn tell_lost(&mut self, unshown: u64) {
        let news = unshown.saturating_sub(self.known);
        self.known += news;
        for entry in self.all.values_mut() {
            entry.lost += news;
            entry.tell_lost();
        }
    }
}

impl Entry {
    /// Reports lost frames, if the channel has room.
    fn tell_lost(&mut self) {
        if self.lost > 0 && self.send(Seen::Lost(self.lost)) {
            self.lost = 0;
        }
    }

    /// Sends an item; false if the channel has no room. A closed channel is about to be removed.
    fn send(&self, seen: Seen) -> bool {
        !matches!(self.frames.try_send(seen), Err(TrySendError::Full(_)))
    }
}

#[cfg(test)]
mod tests {
    use vswitch_common::verdict::{Decision, DropReason};

    use super::*;

    fn event(decision: Decision, lost: u32) -> Event {
        Event { time: 1, decision, kind: Event::ENTERING, length: 60, captured: 0, tag: 0, segment: 0, lost }
    }

    fn forwarded(from: u32, to: u32) -> Event {
        let mut decision = Decision::new(action::REDIRECT, PortNumber(from));
        decision.to.port = PortNumber(to);
        decision.station.network = NetworkNumber(1);
        event(decision, 0)
    }

    fn of_ports(ports: &[u32]) -> Filter {
        Filter { ports: ports.iter().copied().map(PortNumber).collect(), rate: 10, ..Filter::default() }
    }

    #[test]
    fn the_programs_show_nothing_without_an_observation() {
        let mut observations = Observations::default();
        assert_eq!(observations.union(), FrameFilter::default());
        let (number, _frames) = observations.add(of_ports(&[3])).expect("open");
        assert_eq!(
            observations.union(),
            FrameFilter { mode: FrameFilter::HEADERS, network: 0, port: 3, drops: 0, leaving: 0, limit: 10 }
        );
        observations.remove(number);
        assert_eq!(observations.union(), FrameFilter::default());
        observations.close();
        assert!(observations.add(Filter::default()).is_none());
    }

    #[test]
    fn the_programs_show_enough_for_every_observation() {
        let network = Some(NetworkNumber(1));
        let all = [
            Filter { network, drops: true, rate: 5, ..of_ports(&[3]) },
            Filter { network, whole: true, rate: 9, ..of_ports(&[4]) },
        ];
        let mut observations = Observations::default();
        let _kept: Vec<_> = all.into_iter().map(|filter| observations.add(filter)).collect();
        assert_eq!(
            observations.union(),
            FrameFilter { mode: FrameFilter::FRAMES, network: 1, port: 0, drops: 0, leaving: 0, limit: 9 }
        );
        let _kept = observations.add(Filter { rate: 1, ..of_ports(&[3, 4]) });
        assert_eq!(
            observations.union(),
            FrameFilter { mode: FrameFilter::FRAMES, network: 0, port: 0, drops: 0, leaving: 0, limit: 9 }
        );
    }

    #[test]
    fn each_observation_gets_the_frames_of_its_filter() {
        let network = |number| Filter { network: Some(NetworkNumber(number)), ..Filter::default() };
        let drops = Filter { drops: true, ..Filter::default() };
        let dropped = event(Decision::drop(DropReason::IpSpoofed, PortNumber(3)), 0);
        let leaving = Event { kind: Event::LEAVING, ..forwarded(3, 4) };
        let everything = Filter { leaving: true, ..Filter::default() };
        for (filter, event, seen) in [
            (Filter::default(), forwarded(3, 4), true),
            (of_ports(&[3]), forwarded(3, 4), true),
            (of_ports(&[9, 4]), forwarded(3, 4), true),
            (of_ports(&[9]), forwarded(3, 4), false),
            (network(1), forwarded(3, 4), true),
            (network(2), forwarded(3, 4), false),
            (drops.clone(), forwarded(3, 4), false),
            (drops, dropped, true),
            (Filter::default(), leaving, false),
            (everything, leaving, true),
        ] {
            assert_eq!(filter.has(&event), seen, "{filter:?} {event:?}");
        }
    }

    #[test]
    fn a_slow_observation_gets_the_number_of_lost_frames() {
        let mut observations = Observations::default();
        let (_, mut slow) = observations.add(Filter::default()).expect("open");
        let (_, mut other) = observations.add(of_ports(&[7])).expect("open");
        for _ in 0..WAITING + 5 {
            observations.show(&forwarded(3, 4), &[1]);
        }
        let frame = |event, byte| Ok(Seen::Frame(event, vec![byte]));
        for _ in 0..WAITING {
            assert_eq!(slow.try_recv(), frame(forwarded(3, 4), 1));
        }
        let late = Event { lost: 2, ..forwarded(3, 4) };
        observations.show(&late, &[2]);
        // Five frames had no room in the channel, and the programs did not show two.
        assert_eq!((slow.try_recv(), slow.try_recv()), (Ok(Seen::Lost(7)), frame(late, 2)));
        assert!(slow.try_recv().is_err());
        // The frames that the programs did not show may have been for the other observation, too.
        observations.show(&forwarded(7, 4), &[3]);
        assert_eq!((other.try_recv(), other.try_recv()), (Ok(Seen::Lost(2)), frame(forwarded(7, 4), 3)));
    }

    #[test]
    fn lost_frames_are_reported_once_with_and_without_a_further_frame() {
        let mut observations = Observations::default();
        let (_, mut frames) = observations.add(Filter::default()).expect("open");
        observations.tell_lost(0);
        assert!(frames.try_recv().is_err());
        observations.tell_lost(5);
        observations.tell_lost(5);
        assert_eq!(frames.try_recv(), Ok(Seen::Lost(5)));
        assert!(frames.try_recv().is_err());
        // Each CPU reports its losses separately: those reported before, and new ones.
        for (told, news) in [(3, None), (4, Some(2)), (1, Some(1))] {
            observations.show(&Event { lost: told, ..forwarded(3, 4) }, &[]);
            if let Some(news) = news {
                assert_eq!(frames.try_recv(), Ok(Seen::Lost(news)));
            }
            assert!(matches!(frames.try_recv(), Ok(Seen::Frame(..))));
        }
        observations.tell_lost(0);
        assert!(frames.try_recv().is_err());
    }
}
