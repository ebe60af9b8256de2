//! Pulls that containers wait for, in the background of the controller's looks.
//!
//! Goes in: a container whose image is to be pulled. Comes out: that it is under way, and once it has ended (the pod is
//! hinted at then), what came of it, once.
//!
//! **Invariant:** nothing here is worth keeping: an agent that was killed asks for the image again, and what was
//! fetched is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::StepError;
use super::machine::step;
use crate::image::{ImageStore, Progress, PullError};
use crate::model::{FailureReason, Uid};

/// An image that one container wants: its own, or that of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: Uid,
    container: String,
    image: String,
}

#[derive(Debug)]
enum State {
    UnderWay { _waiting: Waiting },
    Ended(Result<Pulled, StepError>),
}

/// A container that waits for its image. A pull that nobody waits for is given up.
#[derive(Debug)]
struct Waiting(tokio::task::AbortHandle);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An image that has just come.
#[derive(Debug)]
pub(super) struct Pulled {
    /// Its id.
    pub(super) id: String,
    /// Kubernetes' words for it (`image_manager.go`).
    pub(super) message: String,
}

/// What is known of a container's pull.
#[derive(Debug)]
pub(super) enum Known {
    Nothing,
    UnderWay,
    Ended(Result<Pulled, StepError>),
}

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Pulling {
    images: ImageStore,
    hint: mpsc::UnboundedSender<Uid>,
    states: Arc<Mutex<HashMap<Key, State>>>,
}

impl Pulling {
    /// `hint` is told the uid of a pod whose pull has ended.
    pub(super) fn new(images: ImageStore, hint: mpsc::UnboundedSender<Uid>) -> Self {
        Self {
            images,
            hint,
            states: Arc::default(),
        }
    }

    fn states(&self) -> MutexGuard<'_, HashMap<Key, State>> {
        lock(&self.states)
    }

    /// What is known of this container's pull. An end is told once.
    pub(super) fn known(&self, uid: &Uid, container: &str, image: &str) -> Known {
        let key = key(uid, container, image);
        let mut states = self.states();
        match states.get(&key) {
            None => Known::Nothing,
            Some(State::UnderWay { .. }) => Known::UnderWay,
            Some(State::Ended(_)) => match states.remove(&key) {
                Some(State::Ended(ended)) => Known::Ended(ended),
                Some(State::UnderWay { .. }) | None => Known::Nothing,
            },
        }
    }

    /// Begin a pull. Gives the secrets of the pod that are of no use.
    pub(super) async fn begin(&self, uid: &Uid, container: &str, image: &str) -> Result<Vec<String>, StepError> {
        let brought = self.images.pod_credentials(uid).await;
        let brought = brought.map_err(|error| step(FailureReason::ErrImagePull, &error))?;
        let key = key(uid, container, image);
        let waiting = key.clone();
        let (images, hint, states) = (self.images.clone(), self.hint.clone(), Arc::clone(&self.states));
        // Held until the state is there: the end comes after it.
        let mut known = self.states();
        let work = tokio::spawn(async move {
            let asked = Instant::now();
            let begun = Mutex::new(asked);
            let pulled = images
                .pull(&key.image, brought.credentials, |progress| {
                    if progress == Progress::Resolving {
                        *lock(&begun) = Instant::now();
                    }
                })
                .await;
            let begun = *lock(&begun);
            let ended = match pulled {
                Ok(row) => Ok(Pulled {
                    message: success(&key.image, row.size, begun.elapsed(), asked.elapsed()),
                    id: row.id,
                }),
                Err(error) => Err(failure(&key.image, &error)),
            };
            let uid = key.uid.clone();
            // The pod may be gone: then nobody wants to know.
            if let Some(state) = lock(&states).get_mut(&key) {
                *state = State::Ended(ended);
            }
            // The controller has ended: so does this agent.
            let _ = hint.send(uid);
        });
        known.insert(
            waiting,
            State::UnderWay {
                _waiting: Waiting(work.abort_handle()),
            },
        );
        drop(known);
        Ok(brought.unusable)
    }

    /// The pod is gone.
    pub(super) fn forget(&self, uid: &Uid) {
        self.states().retain(|key, _| key.uid != *uid);
    }
}

fn key(uid: &Uid, container: &str, image: &str) -> Key {
    Key {
        uid: uid.clone(),
        container: container.to_owned(),
        image: image.to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics with a lock held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kubernetes `images/image_manager.go`.
fn success(image: &str, size: u64, took: Duration, with_waiting: Duration) -> String {
    format!(
        "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {size} bytes.",
        go_duration(took),
        go_duration(with_waiting),
    )
}

/// Kubernetes `images/image_manager.go evalCRIPullErr`.
fn failure(image: &str, error: &PullError) -> StepError {
    let mut said = step(FailureReason::ErrImagePull, error);
    if matches!(error, PullError::Name { .. }) {
        said.reason = FailureReason::InvalidImageName;
    } else if error.is_unavailable() {
        said.reason = FailureReason::RegistryUnavailable;
        said.message = format!(
            "image pull failed for {image} because the registry is unavailable: {}",
            said.message
        );
    }
    said
}

/// As Go prints a duration, cut to milliseconds: `1m2.5s`, `1.234s`, `56ms`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!(".{:03}", rest % 1000);
    let seconds = format!(
        "{}{}s",
        rest / 1000,
        fraction.trim_end_matches('0').trim_end_matches('.')
    );
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_prints_them() {
        for (millis, want) in [
            (0, "0s"),
            (56, "56ms"),
            (1000, "1s"),
            (1200, "1.2s"),
            (1234, "1.234s"),
            (62_500, "1m2.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), want);
        }
    }
}
