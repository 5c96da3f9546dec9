//! Whose turn it is to be the first of several addresses behind one name.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hickory_proto::rr::RecordType;

/// Names whose turn is remembered, before all start again: more than a network has.
const REMEMBERED: usize = 10_000;

/// Counts answers, by name and by type: a client that asks for A and AAAA in turn would otherwise always get the same one.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    turns: Mutex<HashMap<(String, RecordType), usize>>,
}

impl Rotation {
    /// Puts the one whose turn it is in front, and those that follow it behind.
    pub(super) fn rotate<T>(&self, name: &str, kind: RecordType, several: &mut [T]) {
        if several.len() < 2 {
            return;
        }
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= REMEMBERED {
            turns.clear();
        }
        let turn = turns.entry((name.to_owned(), kind)).or_default();
        several.rotate_left(*turn % several.len());
        *turn = turn.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_whatever_else_is_asked_between() {
        let rotation = Rotation::default();
        let turn = |name: &str, kind| {
            let mut several = [1, 2, 3];
            rotation.rotate(name, kind, &mut several);
            several
        };
        assert_eq!(turn("web", RecordType::A), [1, 2, 3]);
        assert_eq!(turn("web", RecordType::AAAA), [1, 2, 3]);
        assert_eq!(turn("db", RecordType::A), [1, 2, 3]);
        assert_eq!(turn("web", RecordType::A), [2, 3, 1]);
        assert_eq!(turn("web", RecordType::A), [3, 1, 2]);
        assert_eq!(turn("web", RecordType::A), [1, 2, 3]);
        assert_eq!(turn("web", RecordType::AAAA), [2, 3, 1]);
    }
}
