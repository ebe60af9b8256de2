//! Which notes are the same event again, which are so alike that they are told as one, and which are too many.
//!
//! Goes in: notes, one by one. Comes out: the event each of them is, or nothing.
//!
//! **Invariant:** pure. What is remembered is bounded; what is forgotten becomes a new event.
//!
//! The rules and numbers are client-go's (`tools/record/events_cache.go`).

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::{Note, Severity, Source, Subject};
use crate::model::{Timestamp, Uid};

/// Things remembered of each sort.
const REMEMBERED: usize = 4096;
/// So many different messages alike in all else are told one by one; more are told as one.
const SIMILAR: usize = 10;
/// After so many seconds of silence they are told one by one again.
const SIMILAR_SECONDS: i64 = 600;
/// Events of one source about one object at once.
const BURST: f64 = 25.0;
/// Seconds until there is room for one more.
const REFILL_SECONDS: f64 = 300.0;
/// Names are DNS subdomains.
const NAME_MAX: usize = 253;

/// An event as it is to be stored: made, or written anew under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) note: Note,
    pub(super) first: Timestamp,
    pub(super) count: i32,
}

/// What makes two notes the same event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Like {
    source: Source,
    subject: Subject,
    severity: Severity,
    reason: &'static str,
    /// `None`: whatever the message.
    message: Option<String>,
}

#[derive(Debug, Clone)]
struct Seen {
    name: String,
    uid: Uid,
    first: Timestamp,
    count: i32,
}

#[derive(Debug)]
struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Correlator {
    seen: Memory<Like, Seen>,
    similar: Memory<Like, Similar>,
    buckets: Memory<(Source, Subject), Bucket>,
    /// The newest number that a name was made with.
    newest: i128,
}

impl Correlator {
    /// `uid` is for the event should it be a new one. `None`: there are too many of this kind.
    pub(super) fn observe(&mut self, mut note: Note, uid: Uid) -> Option<Entry> {
        let whole = Subject {
            field_path: None,
            ..note.subject.clone()
        };
        let mut like = Like {
            source: note.source,
            subject: note.subject.clone(),
            severity: note.severity,
            reason: note.reason,
            message: Some(note.message.clone()),
        };
        if self.is_one_of_many(&note, &whole) {
            note.message = format!("(combined from similar events): {}", note.message);
            like.subject = whole.clone();
            like.message = None;
        }
        let seen = if let Some(seen) = self.seen.get(&like) {
            seen.count = seen.count.saturating_add(1);
            seen.clone()
        } else {
            let seen = Seen {
                name: self.name(&note),
                uid,
                first: note.at,
                count: 1,
            };
            self.seen.put(like, seen.clone());
            seen
        };
        if !self.has_room(&note, whole) {
            return None;
        }
        let Seen {
            name,
            uid,
            first,
            count,
        } = seen;
        Some(Entry {
            name,
            uid,
            note,
            first,
            count,
        })
    }

    /// The event is not in the store any more: the next one like it is a new one.
    pub(super) fn forget(&mut self, name: &str) {
        self.seen.retain(|seen| seen.name != name);
    }

    fn is_one_of_many(&mut self, note: &Note, whole: &Subject) -> bool {
        let like = Like {
            source: note.source,
            subject: whole.clone(),
            severity: note.severity,
            reason: note.reason,
            message: None,
        };
        let Some(similar) = self.similar.get(&like) else {
            let similar = Similar {
                messages: HashSet::from([note.message.clone()]),
                last: note.at,
            };
            self.similar.put(like, similar);
            return false;
        };
        if note.at.duration_since(similar.last).as_secs() > SIMILAR_SECONDS {
            similar.messages.clear();
        }
        similar.last = note.at;
        if similar.messages.contains(&note.message) {
            return similar.messages.len() >= SIMILAR;
        }
        if similar.messages.len() + 1 < SIMILAR {
            similar.messages.insert(note.message.clone());
            return false;
        }
        true
    }

    fn has_room(&mut self, note: &Note, whole: Subject) -> bool {
        let key = (note.source, whole);
        let mut bucket = self.buckets.get(&key).copied().unwrap_or(Bucket {
            left: BURST,
            at: note.at,
        });
        let passed = note.at.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.left = (bucket.left + passed / REFILL_SECONDS).min(BURST);
        bucket.at = note.at;
        let has_room = bucket.left >= 1.0;
        if has_room {
            bucket.left -= 1.0;
        }
        self.buckets.put(key, bucket);
        has_room
    }

    /// `<name>.<nanoseconds in hexadecimal>`, never the same twice.
    fn name(&mut self, note: &Note) -> String {
        self.newest = note.at.as_nanosecond().max(self.newest + 1);
        let suffix = format!(".{:x}", self.newest);
        let name = &note.subject.name;
        let kept = name.get(..NAME_MAX - suffix.len()).unwrap_or(name);
        format!("{}{suffix}", kept.trim_end_matches(['-', '.']))
    }
}

/// A map that forgets what was not asked for longest.
#[derive(Debug)]
struct Memory<K, V> {
    known: HashMap<K, (u64, V)>,
    uses: u64,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            uses: 0,
        }
    }
}

impl<K: Eq + Hash, V> Memory<K, V> {
    fn get(&mut self, key: &K) -> Option<&mut V> {
        self.uses += 1;
        let (used, value) = self.known.get_mut(key)?;
        *used = self.uses;
        Some(value)
    }

    fn put(&mut self, key: K, value: V) {
        self.uses += 1;
        self.known.insert(key, (self.uses, value));
        if self.known.len() > REMEMBERED {
            // A quarter at once, so that this is rarely done.
            let mut uses: Vec<u64> = self.known.values().map(|(used, _)| *used).collect();
            let (_, oldest_kept, _) = uses.select_nth_unstable(REMEMBERED / 4);
            let oldest_kept = *oldest_kept;
            self.known.retain(|_, (used, _)| *used >= oldest_kept);
        }
    }

    fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.known.retain(|_, (_, value)| keep(value));
    }
}
