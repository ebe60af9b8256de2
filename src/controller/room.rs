//! What the machine has for its pods, and which pods wait for some of it.
//!
//! What is taken is in the store alone. What is remembered here only spares work: with all of it forgotten, each pod is
//! looked at once more.

use std::collections::BTreeSet;
use std::mem::take;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{Allocatable, Uid};

/// See the module's doc.
#[derive(Debug, Default)]
pub struct Room {
    allocatable: Allocatable,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    /// Pods whose resize waits until others take less.
    waiting: BTreeSet<Uid>,
    /// Some pod takes less since those that wait were woken.
    freed: bool,
    /// Changed pods whose claims are known to be what they ask for now.
    settled: BTreeSet<Uid>,
}

impl Room {
    pub fn new(allocatable: Allocatable) -> Self {
        Self {
            allocatable,
            notes: Mutex::default(),
        }
    }

    /// For all pods together.
    pub(super) fn allocatable(&self) -> Allocatable {
        self.allocatable.clone()
    }

    /// There was no room for what this pod is to have.
    pub(super) fn wait(&self, uid: &Uid) {
        self.notes().waiting.insert(uid.clone());
    }

    /// This pod counts with more than it may need from now on, until it is settled.
    pub(super) fn raised(&self, uid: &Uid) {
        let mut notes = self.notes();
        notes.waiting.remove(uid);
        notes.settled.remove(uid);
    }

    pub(super) fn is_settled(&self, uid: &Uid) -> bool {
        self.notes().settled.contains(uid)
    }

    /// This pod counts with what it asks for, which may be less than before.
    pub(super) fn settled(&self, uid: &Uid) {
        let mut notes = self.notes();
        notes.settled.insert(uid.clone());
        notes.freed = true;
    }

    /// This pod takes nothing any more.
    pub(super) fn freed(&self, uid: &Uid) {
        let mut notes = self.notes();
        notes.waiting.remove(uid);
        notes.settled.remove(uid);
        notes.freed = true;
    }

    /// Pods that may find room now; each is given once.
    pub(super) fn woken(&self) -> BTreeSet<Uid> {
        let mut notes = self.notes();
        if take(&mut notes.freed) {
            take(&mut notes.waiting)
        } else {
            BTreeSet::new()
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Whoever panicked left whole sets.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_once_when_something_is_free() {
        let (a, b) = (Uid("a".to_owned()), Uid("b".to_owned()));
        let room = Room::default();
        room.wait(&a);
        assert!(room.woken().is_empty());
        room.freed(&b);
        assert_eq!(room.woken(), [a.clone()].into());
        assert!(room.woken().is_empty());
        // Who found room meanwhile is not woken, and what was freed before one waits is no news to it.
        room.freed(&b);
        assert!(room.woken().is_empty());
        room.wait(&a);
        room.raised(&a);
        room.settled(&b);
        assert!(room.woken().is_empty());
        assert!(room.is_settled(&b) && !room.is_settled(&a));
        room.raised(&b);
        assert!(!room.is_settled(&b));
    }
}
