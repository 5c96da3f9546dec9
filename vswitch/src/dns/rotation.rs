//! Rotates the order of several addresses behind one name.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hickory_proto::rr::RecordType;

/// Maximum number of counters, more than a network has names. All counters are reset when it is
/// reached.
const REMEMBERED: usize = 10_000;

/// Answer counters per name and record type. With one counter per name, a client that alternates A
/// and AAAA queries would always get the same address first.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    turns: Mutex<HashMap<(String, RecordType), usize>>,
}

impl Rotation {
    /// Rotates `several` by the number of earlier answers for this name and type.
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
    fn each_name_and_type_rotates_independently() {
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
