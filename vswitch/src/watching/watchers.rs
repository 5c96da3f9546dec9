//! Those who watch: what the programs are to show for all of them together, and who gets which frame.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use vswitch_common::tables::{NetworkNumber, PortNumber};
use vswitch_common::verdict::action;
use vswitch_common::watch::{Event, Watch};

/// Frames that may wait for a watcher: some megabytes of them.
const WAITING: usize = 4096;

/// Which frames somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this network alone.
    pub network: Option<NetworkNumber>,
    /// From and to these ports alone; all if there are none.
    pub ports: BTreeSet<PortNumber>,
    /// Dropped ones alone.
    pub drops: bool,
    /// As they leave, too.
    pub leaving: bool,
    /// As much of them as there is, not the beginning alone.
    pub whole: bool,
    /// How many a second, on each CPU.
    pub rate: u32,
}

/// What somebody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A frame: what became of it, and its bytes without a tag kept beside it.
    Frame(Event, Vec<u8>),
    /// That so many frames were not shown.
    Lost(u64),
}

impl Filter {
    /// What it asks of the programs.
    fn watch(&self) -> Watch {
        Watch {
            mode: if self.whole { Watch::FRAMES } else { Watch::HEADERS },
            network: self.network.map_or(0, |network| network.0),
            // They look for one port alone; of several, those that are not meant are taken out here.
            port: if self.ports.len() == 1 { self.ports.first().map_or(0, |port| port.0) } else { 0 },
            drops: self.drops.into(),
            leaving: self.leaving.into(),
            // A tick is a little longer than a second, which nobody notices.
            limit: self.rate,
        }
    }

    /// Whether it asks for this frame: what the programs look at, in the same way.
    fn has(&self, event: &Event) -> bool {
        let decision = &event.decision;
        let of = self.network.is_none_or(|network| decision.station.network == network);
        let by = |port| self.ports.is_empty() || self.ports.contains(&port);
        of && (by(decision.ingress) || by(decision.to.port))
            && (!self.drops || decision.action == action::DROP)
            && (self.leaving || event.kind == Event::ENTERING)
    }
}

/// All who watch.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    next: u64,
    closed: bool,
    all: BTreeMap<u64, Entry>,
    /// Frames that the programs have not shown and have not told of yet, but that those who watch know of.
    known: u64,
}

#[derive(Debug)]
struct Entry {
    filter: Filter,
    frames: mpsc::Sender<Seen>,
    /// Frames that it was not shown since the last one.
    lost: u64,
}

impl Watchers {
    /// One more; none if it is over.
    pub(super) fn add(&mut self, filter: Filter) -> Option<(u64, mpsc::Receiver<Seen>)> {
        if self.closed {
            return None;
        }
        if self.all.is_empty() {
            // The programs count from nothing.
            self.known = 0;
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        let number = self.next;
        self.next += 1;
        self.all.insert(number, Entry { filter, frames: sender, lost: 0 });
        Some((number, receiver))
    }

    /// Whether nobody watches.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// One less; nothing happens if it has gone.
    pub(super) fn remove(&mut self, number: u64) {
        self.all.remove(&number);
    }

    /// All go, and nobody comes any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.all.clear();
    }

    /// What the programs are to show, so that everybody sees what they ask for: in what not all agree on, everything.
    pub(super) fn union(&self) -> Watch {
        let both = |one: u32, other: u32| if one == other { one } else { 0 };
        let watches = self.all.values().map(|entry| entry.filter.watch());
        let union = watches.reduce(|one, other| Watch {
            mode: one.mode.max(other.mode),
            network: both(one.network, other.network),
            port: both(one.port, other.port),
            drops: both(one.drops, other.drops),
            leaving: one.leaving.max(other.leaving),
            limit: one.limit.max(other.limit),
        });
        union.unwrap_or_default()
    }

    /// Hands a frame to those who ask for it. What the programs did not show may have been for anybody.
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

    /// Tells those who watch of frames that they were not shown, though none comes after them. `unshown` are those of which
    /// the programs have not told yet: they do with the next frame.
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
    /// Tells it what it was not shown, if there is room.
    fn tell_lost(&mut self) {
        if self.lost > 0 && self.send(Seen::Lost(self.lost)) {
            self.lost = 0;
        }
    }

    /// Sends it something; false if there is no room. One that has gone is about to be removed.
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
    fn the_programs_show_nothing_unless_somebody_watches() {
        let mut watchers = Watchers::default();
        assert_eq!(watchers.union(), Watch::default());
        let (number, _frames) = watchers.add(of_ports(&[3])).expect("open");
        assert_eq!(
            watchers.union(),
            Watch { mode: Watch::HEADERS, network: 0, port: 3, drops: 0, leaving: 0, limit: 10 }
        );
        watchers.remove(number);
        assert_eq!(watchers.union(), Watch::default());
        watchers.close();
        assert!(watchers.add(Filter::default()).is_none());
    }

    #[test]
    fn of_several_watchers_everyone_is_shown_enough() {
        let network = Some(NetworkNumber(1));
        let all = [
            Filter { network, drops: true, rate: 5, ..of_ports(&[3]) },
            Filter { network, whole: true, rate: 9, ..of_ports(&[4]) },
        ];
        let mut watchers = Watchers::default();
        let _kept: Vec<_> = all.into_iter().map(|filter| watchers.add(filter)).collect();
        assert_eq!(
            watchers.union(),
            Watch { mode: Watch::FRAMES, network: 1, port: 0, drops: 0, leaving: 0, limit: 9 }
        );
        let _kept = watchers.add(Filter { rate: 1, ..of_ports(&[3, 4]) });
        assert_eq!(
            watchers.union(),
            Watch { mode: Watch::FRAMES, network: 0, port: 0, drops: 0, leaving: 0, limit: 9 }
        );
    }

    #[test]
    fn each_sees_what_it_asked_for() {
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
    fn who_does_not_keep_up_is_told_how_many_frames_it_lost() {
        let mut watchers = Watchers::default();
        let (_, mut slow) = watchers.add(Filter::default()).expect("open");
        let (_, mut other) = watchers.add(of_ports(&[7])).expect("open");
        for _ in 0..WAITING + 5 {
            watchers.show(&forwarded(3, 4), &[1]);
        }
        let frame = |event, byte| Ok(Seen::Frame(event, vec![byte]));
        for _ in 0..WAITING {
            assert_eq!(slow.try_recv(), frame(forwarded(3, 4), 1));
        }
        let late = Event { lost: 2, ..forwarded(3, 4) };
        watchers.show(&late, &[2]);
        // Five for which there was no room, and two that the programs did not show.
        assert_eq!((slow.try_recv(), slow.try_recv()), (Ok(Seen::Lost(7)), frame(late, 2)));
        assert!(slow.try_recv().is_err());
        // What the programs did not show may have been for the other one, too.
        watchers.show(&forwarded(7, 4), &[3]);
        assert_eq!((other.try_recv(), other.try_recv()), (Ok(Seen::Lost(2)), frame(forwarded(7, 4), 3)));
    }

    #[test]
    fn lost_frames_are_told_once_whether_or_not_another_comes() {
        let mut watchers = Watchers::default();
        let (_, mut frames) = watchers.add(Filter::default()).expect("open");
        watchers.tell_lost(0);
        assert!(frames.try_recv().is_err());
        watchers.tell_lost(5);
        watchers.tell_lost(5);
        assert_eq!(frames.try_recv(), Ok(Seen::Lost(5)));
        assert!(frames.try_recv().is_err());
        // The programs tell CPU by CPU of what is known, and of what has come since.
        for (told, news) in [(3, None), (4, Some(2)), (1, Some(1))] {
            watchers.show(&Event { lost: told, ..forwarded(3, 4) }, &[]);
            if let Some(news) = news {
                assert_eq!(frames.try_recv(), Ok(Seen::Lost(news)));
            }
            assert!(matches!(frames.try_recv(), Ok(Seen::Frame(..))));
        }
        watchers.tell_lost(0);
        assert!(frames.try_recv().is_err());
    }
}
