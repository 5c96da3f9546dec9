//! Maps and values that are cheap to copy: a copy shares everything that has not changed since.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A sorted map. A copy shares its entries with the original until one of them is changed.
#[derive(Debug)]
pub struct Table<K, V>(Arc<BTreeMap<K, Arc<V>>>);

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord, V> Table<K, V> {
    /// Returns an entry.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key).map(|value| &**value)
    }

    /// Returns whether the map has an entry.
    pub fn contains_key(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Returns the keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.0.keys()
    }

    /// Returns the entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.0.iter().map(|(key, value)| (key, &**value))
    }

    /// Returns the values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.0.values().map(|value| &**value)
    }

    /// Returns the entries from a key on.
    pub fn starting_at(&self, first: K) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.0.range(first..).map(|(key, value)| (key, &**value))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the map has no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// Returns an entry to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.0.contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.0).get_mut(key).map(Arc::make_mut)
    }

    /// Returns an entry to change it. Adds it first if the map does not have it.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        Arc::make_mut(Arc::make_mut(&mut self.0).entry(key).or_insert_with(|| Arc::new(make())))
    }

    /// Adds or replaces an entry, and returns the entry before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        Arc::make_mut(&mut self.0).insert(key, Arc::new(value)).map(Arc::unwrap_or_clone)
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        if !self.0.contains_key(key) {
            return None;
        }
        Arc::make_mut(&mut self.0).remove(key).map(Arc::unwrap_or_clone)
    }

    /// Returns all values to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        Arc::make_mut(&mut self.0).values_mut().map(Arc::make_mut)
    }

    /// Keeps the entries for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        Arc::make_mut(&mut self.0).retain(|key, value| keep(key, Arc::make_mut(value)));
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(Arc::new(entries.into_iter().map(|(key, value)| (key, Arc::new(value))).collect()))
    }
}

/// A value whose copies share it until one of them is changed.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_was_there_when_it_was_made() {
        let mut table: Table<u8, String> = [(1, "one".to_owned()), (2, "two".to_owned())].into_iter().collect();
        let copy = table.clone();
        table.get_mut(&1).expect("there").push('!');
        assert_eq!(table.remove(&2).as_deref(), Some("two"));
        assert_eq!(table.insert(3, "three".to_owned()), None);
        table.get_or_insert_with(4, || "fo".to_owned()).push_str("ur");
        assert_eq!(table.values().collect::<Vec<_>>(), ["one!", "three", "four"]);
        assert_eq!(copy.values().collect::<Vec<_>>(), ["one", "two"]);
        table.values_mut().for_each(String::clear);
        table.retain(|key, _| *key > 1);
        assert_eq!((table.len(), table.is_empty(), table.contains_key(&1)), (2, false, false));
        assert_eq!(copy.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>(), ["1 one", "2 two"]);
        assert_eq!(copy.starting_at(2).map(|(key, _)| *key).collect::<Vec<_>>(), [2]);
        assert!(table.get_mut(&9).is_none() && table.remove(&9).is_none());
    }

    #[test]
    fn an_unchanged_entry_is_shared_with_a_copy() {
        let mut table: Table<u8, Shared<String>> =
            [(1, Shared::from("one".to_owned())), (2, "two".to_owned().into())].into_iter().collect();
        let copy = table.clone();
        table.get_mut(&1).expect("there").push('!');
        let same = |key| std::ptr::eq::<String>(&**table.get(&key).expect("there"), &**copy.get(&key).expect("there"));
        assert!(!same(1) && same(2));
        assert_eq!(copy.get(&1).map(|value| value.as_str()), Some("one"));
    }
}
