//! Which events there are, how old they are, and which of them must go.
//!
//! Goes in: what the store says of each event. Comes out: those that are too old or too many, oldest first.
//!
//! **Invariant:** pure; holds names and times alone, never the events themselves.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::model::Timestamp;

/// How long an event is kept after it happened last (`kube-apiserver --event-ttl`).
pub(super) const KEPT: Duration = Duration::from_hours(1);

/// Events kept at most: of one namespace, and of all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) namespace: usize,
    pub(super) all: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            namespace: 1_000,
            all: 10_000,
        }
    }
}

/// Namespace and name.
pub(super) type Key = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub(super) struct Shelf {
    bounds: Bounds,
    events: HashMap<Key, (Timestamp, u64)>,
    by_age: BTreeSet<(Timestamp, Key)>,
    of_namespace: BTreeMap<Arc<str>, BTreeSet<(Timestamp, Arc<str>)>>,
}

impl Shelf {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// The resource version of an event.
    pub(super) fn version(&self, key: &Key) -> Option<u64> {
        self.events.get(key).map(|(_, version)| *version)
    }

    /// An event was written. Whether there are so many now that some must go is told by [`Shelf::is_too_full`].
    pub(super) fn put(&mut self, key: Key, at: Timestamp, version: u64) {
        if self.version(&key).is_some_and(|known| known > version) {
            return;
        }
        self.remove(&key);
        self.by_age.insert((at, key.clone()));
        let (namespace, name) = &key;
        let neighbours = self.of_namespace.entry(Arc::clone(namespace)).or_default();
        neighbours.insert((at, Arc::clone(name)));
        self.events.insert(key, (at, version));
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some((at, _)) = self.events.remove(key) else {
            return;
        };
        self.by_age.remove(&(at, key.clone()));
        let (namespace, name) = key;
        if let Some(neighbours) = self.of_namespace.get_mut(namespace) {
            neighbours.remove(&(at, Arc::clone(name)));
            if neighbours.is_empty() {
                self.of_namespace.remove(namespace);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bounds);
    }

    /// What happened before `before`.
    pub(super) fn older(&self, before: Timestamp) -> Vec<Key> {
        let old = self.by_age.iter().take_while(|(at, _)| *at <= before);
        old.map(|(_, key)| key.clone()).collect()
    }

    /// An eighth beyond the bounds, so that removing is rarely done and never for one event.
    pub(super) fn is_too_full(&self, namespace: &str) -> bool {
        let is_beyond = |found: usize, bound: usize| found > bound + bound / 8;
        let neighbours = self.of_namespace.get(namespace).map_or(0, BTreeSet::len);
        is_beyond(self.events.len(), self.bounds.all) || is_beyond(neighbours, self.bounds.namespace)
    }

    /// What is beyond the bounds, oldest first.
    pub(super) fn too_many(&self) -> Vec<Key> {
        let mut found = BTreeSet::new();
        for (namespace, neighbours) in &self.of_namespace {
            let beyond = neighbours.len().saturating_sub(self.bounds.namespace);
            let oldest = neighbours.iter().take(beyond);
            found.extend(oldest.map(|(_, name)| (Arc::clone(namespace), Arc::clone(name))));
        }
        let beyond = self.events.len().saturating_sub(found.len() + self.bounds.all);
        let others: Vec<Key> = self
            .by_age
            .iter()
            .map(|(_, key)| key)
            .filter(|key| !found.contains(*key))
            .take(beyond)
            .cloned()
            .collect();
        found.extend(others);
        found.into_iter().collect()
    }

    /// When the oldest one happened.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.by_age.first().map(|(at, _)| *at)
    }
}
