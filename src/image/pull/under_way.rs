//! One pull of an image at a time, however many ask for it, and one fetch of a layer, however many images have it.
//!
//! Goes in: who asks. Comes out: the pull that serves them, begun if there was none.
//!
//! **Invariant:** whoever has other credentials has another pull: nobody gets by waiting what he may not ask for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Semaphore, broadcast, watch};

use super::{Progress, PullError, Result};
use crate::image::ImageStore;
use crate::image::reference::Reference;
use crate::image::registry::Credentials;
use crate::image::stream::Digest;
use crate::store::ImageRow;

/// Pulls at a time; more wait.
const PULLS: usize = 4;
/// Steps of progress that a slow listener may be behind before it misses some.
const STEPS_WAITING: usize = 256;

pub(super) type Outcome = Result<ImageRow, Arc<PullError>>;

/// The pulls that are under way.
#[derive(Debug)]
pub(in crate::image) struct Pulls {
    under_way: Mutex<HashMap<(String, Credentials), UnderWay>>,
    /// Who fetches a layer holds its lock.
    layers: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    pub(super) places: Semaphore,
}

impl Default for Pulls {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
            layers: Mutex::default(),
            places: Semaphore::new(PULLS),
        }
    }
}

/// A pull that is under way.
#[derive(Debug, Clone)]
pub(super) struct UnderWay {
    pub(super) steps: broadcast::Sender<Progress>,
    pub(super) outcome: watch::Receiver<Option<Outcome>>,
}

impl Pulls {
    fn under_way(&self) -> MutexGuard<'_, HashMap<(String, Credentials), UnderWay>> {
        // Every change of the map is one call: a panic leaves it whole.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who makes this layer holds this.
    pub(super) fn layer(&self, layer: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = layers.get(layer).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        layers.insert(layer.clone(), Arc::downgrade(&lock));
        lock
    }
}

/// Tells everybody who waits for a pull how far it is.
#[derive(Debug, Clone)]
pub(super) struct Teller(broadcast::Sender<Progress>);

impl Teller {
    pub(super) fn tell(&self, step: Progress) {
        // Nobody may be listening.
        let _ = self.0.send(step);
    }
}

impl ImageStore {
    /// The pull of this image that is under way, or a new one.
    pub(super) fn join(&self, reference: Reference, credentials: Credentials) -> UnderWay {
        let key = (reference.to_string(), credentials.clone());
        let mut all = self.pulls.under_way();
        if let Some(known) = all.get(&key) {
            return known.clone();
        }
        let (steps, _) = broadcast::channel(STEPS_WAITING);
        let (said, outcome) = watch::channel(None);
        let under_way = UnderWay { steps, outcome };
        all.insert(key.clone(), under_way.clone());
        let images = self.clone();
        let teller = Teller(under_way.steps.clone());
        let work = {
            let images = self.clone();
            tokio::spawn(async move { images.pull_in_turn(&reference, &credentials, &teller).await })
        };
        tokio::spawn(async move {
            let done = work.await.unwrap_or_else(|error| Err(PullError::Panicked(error)));
            // Whoever asks from now on asks the registry anew.
            images.pulls.under_way().remove(&key);
            said.send_replace(Some(done.map_err(Arc::new)));
        });
        under_way
    }
}
