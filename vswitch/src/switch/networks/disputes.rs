//! Facts that other programs undo: how often, and what `status` says about it. Time is a parameter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The most times within [`WINDOW`] that a fact is mended.
const ROUNDS: usize = 10;
/// The time after which a mended fact counts as undisputed.
const WINDOW: Duration = Duration::from_secs(60);

/// What a fact is about: a network, an endpoint, or the host's settings.
pub type Subject = String;

/// A fact that was mended lately, or could not be mended.
#[derive(Debug, Default)]
struct Dispute {
    /// The times at which it was mended.
    mended: VecDeque<Instant>,
    /// The reason why it could not be mended.
    failure: Option<String>,
}

/// The facts that other programs undo.
#[derive(Debug, Default)]
pub struct Disputes(BTreeMap<(Subject, String), Dispute>);

/// What to do about a fact that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Mend it, for the first time in a while.
    First,
    /// Mend it once more.
    Again,
    /// Leave it: another program undoes it again and again.
    Never,
}

impl Disputes {
    /// Returns what to do about a fact that does not hold now.
    pub fn turn(&mut self, subject: &str, fact: &str, now: Instant) -> Turn {
        let dispute = self.0.entry((subject.to_owned(), fact.to_owned())).or_default();
        dispute.forget(now);
        match dispute.mended.len() {
            0 => Turn::First,
            rounds if rounds < ROUNDS => Turn::Again,
            _ => Turn::Never,
        }
    }

    /// Records the attempt to mend a fact. Returns whether its failure is new.
    pub fn record(&mut self, subject: &str, fact: &str, failure: Option<String>, now: Instant) -> bool {
        let dispute = self.0.entry((subject.to_owned(), fact.to_owned())).or_default();
        if failure.is_none() {
            dispute.mended.push_back(now);
        }
        let is_new = failure.is_some() && dispute.failure.is_none();
        dispute.failure = failure;
        is_new
    }

    /// Forgets what no longer matters: the facts of a subject that hold (all but `broken`), and
    /// were not mended lately.
    pub fn settle(&mut self, subject: &str, broken: &BTreeSet<String>, now: Instant) {
        self.0.retain(|(about, fact), dispute| {
            dispute.forget(now);
            if about != subject {
                return true;
            }
            if !broken.contains(fact) {
                dispute.failure = None;
            }
            dispute.failure.is_some() || !dispute.mended.is_empty()
        });
    }

    /// Returns whether facts of a subject were mended lately, or could not be mended.
    pub fn knows(&self, subject: &str) -> bool {
        self.0.keys().any(|(about, _)| about == subject)
    }

    /// Returns whether any fact is undone again and again, or could not be mended.
    pub fn is_open(&self) -> bool {
        self.0.values().any(|dispute| dispute.failure.is_some() || dispute.mended.len() >= ROUNDS)
    }

    /// Forgets all rounds: the operator asks for another attempt.
    pub fn clear(&mut self) {
        self.0.values_mut().for_each(|dispute| dispute.mended.clear());
    }

    /// Forgets the subjects that are gone, and returns them.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) -> BTreeSet<Subject> {
        let mut gone = BTreeSet::new();
        self.0.retain(|(about, _), _| {
            let stays = is_there(about);
            if !stays {
                gone.insert(about.clone());
            }
            stays
        });
        gone
    }

    /// Returns the note on a subject, if it needs one. `command` is the command of the instance.
    pub fn note(&self, subject: &str, command: &str) -> Option<String> {
        let notes = self.0.iter().filter(|((about, _), _)| about == subject).filter_map(|((_, fact), dispute)| {
            if let Some(failure) = &dispute.failure {
                return Some(format!("it is not so that {fact}, and cannot be mended: {failure} (then `{command} up` mends it)"));
            }
            (dispute.mended.len() >= ROUNDS).then(|| {
                format!(
                    "another program undoes it again and again that {fact} (let it leave vswitch's devices and settings alone, see \"The host's devices\" in the operator's guide; then `{command} up` mends it)"
                )
            })
        });
        let notes: Vec<String> = notes.collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

impl Dispute {
    fn forget(&mut self, now: Instant) {
        while self.mended.front().is_some_and(|then| now.saturating_duration_since(*then) >= WINDOW) {
            self.mended.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: &str = "vsw-front is up";

    #[test]
    fn a_fact_is_mended_some_rounds_and_then_noted() {
        let (mut disputes, mut now) = (Disputes::default(), Instant::now());
        assert_eq!(disputes.turn("front", UP, now), Turn::First);
        for round in 0..ROUNDS {
            assert_ne!(disputes.turn("front", UP, now), Turn::Never, "{round}");
            assert_eq!(disputes.note("front", "vswitch"), None);
            assert!(!disputes.record("front", UP, None, now));
            now += Duration::from_secs(1);
        }
        assert_eq!(disputes.turn("front", UP, now), Turn::Never);
        let note = disputes.note("front", "vswitch").expect("a note");
        assert!(note.contains(UP) && note.contains("`vswitch up`"), "{note}");
        assert_eq!(disputes.note("back", "vswitch"), None);
        // `up` asks for another attempt.
        disputes.clear();
        assert_eq!((disputes.turn("front", UP, now), disputes.note("front", "vswitch")), (Turn::First, None));
    }

    #[test]
    fn a_fact_that_holds_for_a_while_is_forgotten() {
        let (mut disputes, now) = (Disputes::default(), Instant::now());
        for _ in 0..ROUNDS {
            disputes.record("front", UP, None, now);
        }
        disputes.settle("front", &BTreeSet::new(), now + WINDOW / 2);
        assert!(disputes.note("front", "vswitch").is_some(), "it may be undone again");
        disputes.settle("front", &BTreeSet::new(), now + WINDOW);
        assert_eq!((disputes.note("front", "vswitch"), disputes.knows("front")), (None, false));
    }

    #[test]
    fn a_failure_is_noted_until_the_fact_holds() {
        let (mut disputes, now) = (Disputes::default(), Instant::now());
        assert!(disputes.record("front", UP, Some("no permission".to_owned()), now), "it is new");
        assert!(!disputes.record("front", UP, Some("no permission".to_owned()), now), "it is known");
        disputes.settle("front", &BTreeSet::from([UP.to_owned()]), now);
        assert!(disputes.note("front", "vswitch").is_some_and(|note| note.contains("no permission")));
        disputes.settle("front", &BTreeSet::new(), now);
        assert_eq!(disputes.note("front", "vswitch"), None);
        assert!(disputes.record("front", UP, Some("no permission".to_owned()), now));
        assert_eq!(disputes.retain(|subject| subject != "front"), BTreeSet::from(["front".to_owned()]));
        assert_eq!(disputes.note("front", "vswitch"), None);
    }
}
