//! What was last stored of the pods that something happened to lately: a container that is started again asks for what
//! was written a moment ago, and reading it back costs more than deciding. And when each kind was last changed, for who
//! keeps what was read.
//!
//! Goes in: what the writer has committed. Comes out: the same, or nothing, and then it is read from the database.
//!
//! **Invariant:** only the writer puts anything in, after the commit and before anyone is answered, so that what is here
//! is what a read begun at the same moment would find. What was read is never kept: it may be older than it looks.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoredObject;
use crate::model::{Observed, Uid};

/// A record takes one or two kilobytes.
const RECORDS_MAX: usize = 512;
/// A pod's object takes ten to twenty kilobytes, and is shared with the changes that are being watched.
const OBJECTS_MAX: usize = 64;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Recent(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    records: Newest<Uid, Arc<Observed>>,
    objects: Newest<Uid, StoredObject>,
    /// By kind.
    changed: HashMap<Arc<str>, u64>,
}

impl Default for Recent {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            records: Newest::new(RECORDS_MAX),
            objects: Newest::new(OBJECTS_MAX),
            changed: HashMap::new(),
        })))
    }
}

impl Recent {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics with the lock held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, uid: &Uid) -> Option<Arc<Observed>> {
        self.inner().records.get(uid).map(Arc::clone)
    }

    pub(super) fn object(&self, uid: &Uid) -> Option<StoredObject> {
        self.inner().objects.get(uid).cloned()
    }

    /// See [`super::Store::changed`].
    pub(super) fn changed(&self, kind: &str) -> u64 {
        self.inner().changed.get(kind).copied().unwrap_or(0)
    }

    /// An object of this kind was changed.
    pub(super) fn put_change(&self, kind: &Arc<str>, version: u64) {
        let mut inner = self.inner();
        match inner.changed.get_mut(kind) {
            Some(changed) => *changed = version,
            None => {
                inner.changed.insert(Arc::clone(kind), version);
            }
        }
    }

    /// This is committed; `None`: nothing is stored of the pod any more.
    pub(super) fn put_record(&self, uid: Uid, record: Option<Arc<Observed>>) {
        self.inner().records.put(uid, record);
    }

    /// This is committed; `None`: the object is gone.
    pub(super) fn put_object(&self, uid: Uid, object: Option<StoredObject>) {
        self.inner().objects.put(uid, object);
    }
}

/// The values put last, at most so many.
#[derive(Debug)]
struct Newest<K, V> {
    max: usize,
    values: HashMap<K, (V, u64)>,
    /// When each was put, oldest first; a key that was put again stands here twice.
    order: VecDeque<(K, u64)>,
    puts: u64,
}

impl<K: Hash + Eq + Clone, V> Newest<K, V> {
    fn new(max: usize) -> Self {
        Self {
            max,
            values: HashMap::new(),
            order: VecDeque::new(),
            puts: 0,
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(value, _put)| value)
    }

    fn put(&mut self, key: K, value: Option<V>) {
        let Some(value) = value else {
            self.values.remove(&key);
            return;
        };
        self.puts += 1;
        self.order.push_back((key.clone(), self.puts));
        self.values.insert(key, (value, self.puts));
        while self.values.len() > self.max || self.order.len() > 2 * self.max {
            let Some((key, put)) = self.order.pop_front() else {
                break;
            };
            // Put again later: that one counts.
            if self.values.get(&key).is_some_and(|(_value, newest)| *newest == put) {
                self.values.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_what_is_put_again_is_new() {
        let mut newest = Newest::new(2);
        newest.put("a", Some(1));
        newest.put("b", Some(2));
        newest.put("a", Some(3));
        newest.put("c", Some(4));
        assert_eq!(
            (newest.get(&"a"), newest.get(&"b"), newest.get(&"c")),
            (Some(&3), None, Some(&4))
        );
        newest.put("a", None);
        assert_eq!(newest.get(&"a"), None);
    }

    #[test]
    fn one_key_put_for_ever_takes_no_room() {
        let mut newest = Newest::new(2);
        for value in 0..1000 {
            newest.put("a", Some(value));
        }
        assert_eq!(newest.get(&"a"), Some(&999));
        assert!(newest.order.len() <= 4, "{}", newest.order.len());
    }
}
