//! One pull of an image at a time, however many ask for it, and one fetch of a layer, however many images have it.
//!
//! Goes in: who asks. Comes out: the pull that serves them, begun if there was none.
//!
//! A pull that nobody waits for any more is given up: it would keep its place from others for as long as its registry
//! likes.
//!
//! **Invariant:** whoever has other credentials has another pull: nobody gets by waiting what he may not ask for.

use std::collections::{HashMap, hash_map};
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

#[derive(Debug)]
struct UnderWay {
    steps: broadcast::Sender<Progress>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// One of those who wait for a pull.
#[derive(Debug)]
pub(super) struct Waiting {
    /// While anybody has one, the pull is wanted.
    pub(super) steps: broadcast::Receiver<Progress>,
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

    /// Go on with something until nobody waits for the pull any more.
    pub(super) async fn while_wanted<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            // Whoever gives this work knows what becomes of it when it is dropped.
            done = work => Ok(done),
            // Cancel-safe: it only waits.
            () = self.0.closed() => Err(PullError::Unwanted),
        }
    }
}

impl ImageStore {
    /// The pull of this image that is under way, or a new one.
    pub(super) fn join(&self, reference: Reference, credentials: Credentials) -> Waiting {
        let key = (reference.to_string(), credentials.clone());
        let mut all = self.pulls.under_way();
        // One that nobody waits for is being given up.
        if let Some(known) = all.get(&key).filter(|known| known.steps.receiver_count() > 0) {
            return Waiting {
                steps: known.steps.subscribe(),
                outcome: known.outcome.clone(),
            };
        }
        let (steps, first) = broadcast::channel(STEPS_WAITING);
        let (said, outcome) = watch::channel(None);
        let teller = Teller(steps.clone());
        let waiting = Waiting {
            steps: first,
            outcome: outcome.clone(),
        };
        all.insert(key.clone(), UnderWay { steps, outcome });
        let images = self.clone();
        let work = {
            let images = self.clone();
            tokio::spawn(async move { images.pull_in_turn(&reference, &credentials, &teller).await })
        };
        let own = waiting.outcome.clone();
        tokio::spawn(async move {
            let done = work.await.unwrap_or_else(|error| Err(PullError::Panicked(error)));
            // Whoever asks from now on asks the registry anew.
            let is_this = |known: &UnderWay| known.outcome.same_channel(&own);
            if let hash_map::Entry::Occupied(known) = images.pulls.under_way().entry(key)
                && is_this(known.get())
            {
                known.remove();
            }
            said.send_replace(Some(done.map_err(Arc::new)));
        });
        waiting
    }
}
