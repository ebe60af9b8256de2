//! Which images are needed, and when each was last used.
//!
//! Goes in: what is recorded of pods, and every question for an image. Comes out: what must not be removed.
//!
//! **Invariant:** a use costs a write at most once an hour for each image; what was asked for a moment ago counts as
//! used, whatever the records say yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use super::{ImageStore, ResolveError};
use crate::model::{ImageId, ResolvedImage, Timestamp, Uid};
use crate::store::StoreError;

/// How old a recorded use may be.
const HOUR: Duration = Duration::from_hours(1);

/// Between the question for an image and the record of the container that it was asked for.
pub(super) const SETTLING: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Usage {
    inner: Mutex<HashMap<ImageId, Use>>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    at: Timestamp,
    written: Timestamp,
}

impl Usage {
    fn inner(&self) -> MutexGuard<'_, HashMap<ImageId, Use>> {
        // Nothing panics with the lock held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True: this use is to be written.
    fn touch(&self, image: &ImageId, now: Timestamp) -> bool {
        match self.inner().get_mut(image) {
            Some(known) => {
                known.at = now;
                let due = age(now, known.written) >= HOUR;
                if due {
                    known.written = now;
                }
                due
            }
            None => true,
        }
    }

    fn written(&self, image: ImageId, now: Timestamp) {
        self.inner().insert(image, Use { at: now, written: now });
    }

    /// When it was used last, as far as this process knows.
    pub(super) fn last(&self, image: &ImageId) -> Option<Timestamp> {
        self.inner().get(image).map(|known| known.at)
    }

    pub(super) fn forget(&self, image: &ImageId) {
        self.inner().remove(image);
    }
}

/// How long `then` is past; nothing when the clock was turned back.
pub(super) fn age(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

impl ImageStore {
    /// Somebody asked for this image to run it.
    pub(super) async fn used(&self, image: &ImageId) {
        let now = (self.inner.clock)();
        if !self.inner.usage.touch(image, now) {
            return;
        }
        match self.inner.store.note_image_use(&image.0, now).await {
            Ok(()) => self.inner.usage.written(image.clone(), now),
            // It only decides which image goes first when the disk is full.
            Err(error) => warn!(image = %image.0, %error, "cannot record that an image was used"),
        }
    }

    /// The image that a volume of a pod was bound to. `None`: to none yet, or that one is not whole.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub async fn volume(&self, uid: &Uid, volume: &str) -> Result<Option<ResolvedImage>, ResolveError> {
        match self.inner.store.image_volume(uid, volume).await? {
            Some(bound) => self.resolve(&bound).await,
            None => Ok(None),
        }
    }

    /// From now on this volume of a pod means this image, which is kept for as long as the pod is. It must have been
    /// resolved just now, so that nothing has removed it.
    ///
    /// # Errors
    /// It cannot be recorded.
    pub async fn bind_volume(&self, uid: &Uid, volume: &str, image: &ImageId) -> Result<(), StoreError> {
        self.inner.store.bind_image_volume(uid, volume, &image.0).await
    }

    /// Images that pods need: those of living containers, of containers that may be started again, and of volumes.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn in_use(&self) -> Result<HashSet<ImageId>, StoreError> {
        let mut in_use = HashSet::new();
        for uid in self.inner.store.pod_uids().await? {
            let observed = self.inner.store.observed(&uid).await?;
            for attempt in &observed.attempts {
                let newest = observed
                    .newest(&attempt.container)
                    .is_some_and(|newest| newest.attempt == attempt.attempt);
                if attempt.is_live() || (newest && !observed.torn_down) {
                    in_use.extend(attempt.image_id.clone());
                }
            }
            if !observed.torn_down {
                in_use.extend(self.inner.store.image_volumes(&uid).await?.into_iter().map(ImageId));
            }
        }
        Ok(in_use)
    }
}
