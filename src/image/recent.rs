//! What names meant when they were last asked for: a container that is started again asks the same question.
//!
//! **Invariant:** forgets everything whenever a record of an image changes, and takes nothing in that was found before
//! the last change.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::ResolvedImage;

/// More names than one machine's pods use at a time.
const NAMES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Recent {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Grows with every change of the records.
    changes: u64,
    images: HashMap<String, ResolvedImage>,
}

impl Recent {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics with the lock held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, name: &str) -> Option<ResolvedImage> {
        self.inner().images.get(name).cloned()
    }

    /// To be asked before the records are read, and given to `put`.
    pub(super) fn changes(&self) -> u64 {
        self.inner().changes
    }

    pub(super) fn put(&self, changes: u64, name: &str, image: ResolvedImage) {
        let mut inner = self.inner();
        if inner.changes != changes {
            return;
        }
        if inner.images.len() >= NAMES_MAX {
            inner.images.clear();
        }
        inner.images.insert(name.to_owned(), image);
    }

    /// A record has changed.
    pub(super) fn forget(&self) {
        let mut inner = self.inner();
        inner.changes += 1;
        inner.images.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ImageConfig, ImageId};

    fn image(id: &str) -> ResolvedImage {
        ResolvedImage {
            repo_digest: None,
            id: ImageId(id.to_owned()),
            config: ImageConfig::default(),
            layers: Vec::new(),
        }
    }

    #[test]
    fn what_was_found_before_a_change_is_not_taken_in_after_it() {
        let recent = Recent::default();
        let before = recent.changes();
        recent.put(before, "a", image("1"));
        assert_eq!(recent.get("a"), Some(image("1")));
        recent.forget();
        assert_eq!(recent.get("a"), None);
        recent.put(before, "a", image("1"));
        assert_eq!(recent.get("a"), None);
        recent.put(recent.changes(), "a", image("2"));
        assert_eq!(recent.get("a"), Some(image("2")));
    }
}
