//! Which images are needed, and when each was last used.
//!
//! Goes in: what is recorded of pods, and every question for an image. Comes out: what must not be removed.
//!
//! **Invariant:** a use costs a write at most once an hour for each image; what was asked for a moment ago counts as
//! used, whatever the records say yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::{ImageStore, ResolveError};
use crate::model::{ImageId, ResolvedImage, Timestamp, Uid};
use crate::store::StoreError;

/// How old a recorded use may be.
const HOUR: Duration = Duration::from_hours(1);

/// Between the question for an image and the record of the container that it was asked for.
pub(super) const SETTLING: Duration = Duration::from_secs(10);
/// The same for those who remove an image by hand, and wait for it.
const STARTING: Duration = Duration::from_secs(2);
const SETTLED_ROUNDS: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Usage {
    inner: Mutex<HashMap<ImageId, Use>>,
}

#[derive(Debug, Clone, Copy)]
struct Use {
    at: Timestamp,
    /// The same by a clock that nobody turns back.
    asked: Instant,
    /// `None`: not yet.
    written: Option<Timestamp>,
}

impl Usage {
    fn inner(&self) -> MutexGuard<'_, HashMap<ImageId, Use>> {
        // Nothing panics with the lock held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True: this use is to be written.
    pub(super) fn touch(&self, image: &ImageId, now: Timestamp) -> bool {
        let asked = Instant::now();
        let mut inner = self.inner();
        if let Some(known) = inner.get_mut(image) {
            (known.at, known.asked) = (now, asked);
            return known.written.is_none_or(|written| age(now, written) >= HOUR);
        }
        let (at, written) = (now, None);
        inner.insert(image.clone(), Use { at, asked, written });
        true
    }

    fn written(&self, image: &ImageId, now: Timestamp) {
        if let Some(known) = self.inner().get_mut(image) {
            known.written = Some(now);
        }
    }

    /// When somebody asked for it last to run it.
    pub(super) fn asked(&self, image: &ImageId) -> Option<Instant> {
        self.inner().get(image).map(|known| known.asked)
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
    /// Write down that an image was asked for.
    pub(super) async fn note_use(&self, image: &ImageId, now: Timestamp) {
        match self.inner.store.note_image_use(&image.0, now).await {
            Ok(()) => self.inner.usage.written(image, now),
            // It only decides which image goes first when the disk is full.
            Err(error) => warn!(image = %image.0, %error, "cannot record that an image was used"),
        }
    }

    /// Somebody asked for it just now: a container may start of it that is not recorded yet.
    pub(super) fn is_starting(&self, image: &ImageId) -> bool {
        let asked = self.inner.usage.asked(image);
        asked.is_some_and(|asked| asked.elapsed() < STARTING)
    }

    /// Wait, for a while, until nobody has asked for it just now.
    pub(super) async fn settled(&self, image: &ImageId) {
        for _ in 0..SETTLED_ROUNDS {
            match self.inner.usage.asked(image).map(|asked| asked + STARTING) {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until.into()).await,
                Some(_) | None => return,
            }
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
