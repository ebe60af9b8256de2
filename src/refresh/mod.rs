//! The files of volumes follow what they tell of: ConfigMaps, Secrets, the pod itself, tokens.
//!
//! Goes in: changes of the store, and when tokens are to be renewed. Comes out: the volumes of running pods, written anew by
//! the runtime as soon as something that they show has changed.
//!
//! * Nothing is looked at from time to time: a change finds the pods that show the object, and one timer waits for the
//!   token that is due first.
//! * A new agent writes every pod's files anew once, and so does one that missed changes: whatever changed meanwhile is
//!   shown then.
//! * What is gone, though it must be there, is shown as it was; what may be missing vanishes.
//!
//! **Invariant:** nothing is made here that was not made when the pod was started, and nothing is remembered here that
//! could not be found out again.

#[cfg(test)]
mod tests;
mod watched;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use crate::admit;
use crate::model::{ObjectKind, PodSpec, Timestamp, Uid};
use crate::runtime::Files;
use crate::store::{Change, ChangeType, Origin, Store, StoredObject};
use watched::Watched;

const POD: &str = "Pod";

/// How many pods' files are written side by side.
const CONCURRENCY: usize = 4;

/// When files that could not be written are tried again although nothing has changed: a kubelet's period.
const RETRY: Duration = Duration::from_mins(1);

/// The sources that make a volume one with files.
const SOURCES: [&str; 4] = ["configMap", "secret", "downwardAPI", "projected"];

/// What the keeper of files works with.
#[derive(Debug)]
pub struct Refresher<R> {
    pub store: Store,
    pub runtime: Arc<R>,
    pub node_name: String,
    pub clock: fn() -> Timestamp,
}

/// What is known and what is to be done. All of it can be found out again.
#[derive(Debug, Default)]
struct State {
    watched: Watched,
    /// Whose files are to be written anew.
    waiting: BTreeSet<Uid>,
    /// Whose are being written.
    running: HashSet<Uid>,
    /// Whose are to be written anew although nothing has changed, and when.
    due: HashMap<Uid, Timestamp>,
    /// What was complained of last: nothing is told twice.
    complaints: HashMap<Uid, String>,
}

impl State {
    /// Know the pod. False: it has no files, or cannot be understood, which the controller complains of.
    fn watch(&mut self, pod: &StoredObject) -> bool {
        model(pod).is_ok_and(|pod| self.watched.insert(&pod))
    }

    fn forget(&mut self, uid: &Uid) {
        self.watched.remove(uid);
        self.waiting.remove(uid);
        self.due.remove(uid);
        self.complaints.remove(uid);
    }

    /// One that waits and is not being written.
    fn next(&mut self) -> Option<Uid> {
        let uid = self.waiting.iter().find(|uid| !self.running.contains(*uid)).cloned()?;
        self.waiting.remove(&uid);
        self.running.insert(uid.clone());
        Some(uid)
    }

    /// What is due by now waits from here on.
    fn wake(&mut self, now: Timestamp) {
        let waiting = &mut self.waiting;
        self.due.retain(|uid, at| {
            let is_due = *at <= now;
            if is_due {
                waiting.insert(uid.clone());
            }
            !is_due
        });
    }
}

impl<R: Files> Refresher<R> {
    /// Until `stop` says so.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.store.subscribe();
        let mut renewals = self.runtime.renewals().unwrap_or_else(|| mpsc::unbounded_channel().1);
        let keeper = Arc::new(self);
        let mut state = State::default();
        keeper.read_all(&mut state).await;
        let mut works: JoinSet<(Uid, Result<(), String>)> = JoinSet::new();
        loop {
            state.wake((keeper.clock)());
            while works.len() < CONCURRENCY
                && let Some(uid) = state.next()
            {
                works.spawn(Arc::clone(&keeper).refresh(uid));
            }
            let due = state.due.values().min().map(|at| wait_for((keeper.clock)(), *at));
            tokio::select! {
                // Cancel-safe: a watch receiver loses nothing when its future is dropped. A volume whose writing is cut short
                // shows what it has shown.
                told = stop.changed() => if told.is_err() || *stop.borrow() { return },
                // Cancel-safe: JoinSet keeps a finished task until it is joined.
                Some(joined) = works.join_next() => match joined {
                    Ok((uid, outcome)) => keeper.settle(&mut state, uid, outcome),
                    // Given up after another one panicked.
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => {
                        tracing::error!(%error, "the writing of files panicked: looking at all of them anew");
                        works.abort_all();
                        state = State::default();
                        keeper.read_all(&mut state).await;
                    }
                },
                // Cancel-safe: a broadcast receiver keeps its place.
                change = changes.recv() => match change {
                    Ok(change) => keeper.hear(&mut state, &change),
                    Err(broadcast::error::RecvError::Lagged(_)) => keeper.read_all(&mut state).await,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                // Cancel-safe: an mpsc receiver loses nothing when its future is dropped.
                Some((uid, at)) = renewals.recv() => {
                    state.due.insert(uid, at);
                }
                // Cancel-safe: it holds no state.
                () = until(due) => {}
            }
        }
    }

    /// Know every pod that has files, and have them all written anew.
    async fn read_all(&self, state: &mut State) {
        let pods = match self.store.list(POD, None, None, None).await {
            Ok(page) => page.objects,
            Err(error) => {
                tracing::error!(%error, "cannot list the pods of the store: their files may be old");
                return;
            }
        };
        state.watched.clear();
        for pod in pods {
            if self.is_ours(&pod.json) && state.watch(&pod) {
                state.waiting.insert(pod.uid);
            }
        }
    }

    /// A running pod of this node that has volumes with files.
    fn is_ours(&self, pod: &Value) -> bool {
        let has_files = |volume: &Value| SOURCES.iter().any(|source| !volume[source].is_null());
        pod["spec"]["volumes"]
            .as_array()
            .is_some_and(|volumes| volumes.iter().any(has_files))
            && pod["spec"]["nodeName"] == *self.node_name
            && !is_over(pod)
    }

    fn hear(&self, state: &mut State, change: &Change) {
        let object = &change.object;
        let kind = match &*object.kind {
            POD => return self.hear_of_pod(state, change),
            "ConfigMap" => ObjectKind::ConfigMap,
            "Secret" => ObjectKind::Secret,
            _ => return,
        };
        let name = (kind, object.namespace.to_string(), object.name.to_string());
        let concerned = state.watched.of_object(&name);
        state.waiting.extend(concerned.cloned());
    }

    fn hear_of_pod(&self, state: &mut State, change: &Change) {
        let pod = &change.object;
        let uid = &pod.uid;
        if change.change_type == ChangeType::Deleted || (state.watched.knows(uid) && is_over(&pod.json)) {
            return state.forget(uid);
        }
        if change.origin != Origin::Desired || !self.is_ours(&pod.json) {
            return;
        }
        let was_known = state.watched.knows(uid);
        // One that is new has its files written when it is started.
        if state.watch(pod) && was_known && state.watched.shows_itself(uid) {
            state.waiting.insert(uid.clone());
        }
    }

    /// Have one pod's files written anew.
    async fn refresh(self: Arc<Self>, uid: Uid) -> (Uid, Result<(), String>) {
        let outcome = match self.store.get_by_uid(POD, &uid).await {
            Ok(Some(pod)) if self.is_ours(&pod.json) => match model(&pod) {
                Ok(pod) => {
                    let refreshed = self.runtime.refresh_volumes(&pod).await;
                    refreshed.map_err(|error| error.message)
                }
                Err(error) => Err(error),
            },
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        (uid, outcome)
    }

    fn settle(&self, state: &mut State, uid: Uid, outcome: Result<(), String>) {
        state.running.remove(&uid);
        match outcome {
            Ok(()) => {
                state.complaints.remove(&uid);
            }
            Err(message) => {
                if state.complaints.get(&uid) != Some(&message) {
                    tracing::warn!(pod.uid = %uid, %message, "files of a pod stay as they are");
                }
                let again = (self.clock)().checked_add(RETRY).unwrap_or(Timestamp::MAX);
                // A token that is due before is no reason to wait longer.
                let at = state.due.get(&uid).map_or(again, |at| again.min(*at));
                state.due.insert(uid.clone(), at);
                state.complaints.insert(uid, message);
            }
        }
    }
}

/// Nothing of it will run again.
fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn model(pod: &StoredObject) -> Result<PodSpec, String> {
    let wire: Pod = serde_json::from_value(Value::clone(&pod.json)).map_err(|error| error.to_string())?;
    admit::to_model(&wire).map_err(|error| error.to_string())
}

/// From wall-clock time to a moment of this process.
fn wait_for(now: Timestamp, at: Timestamp) -> Instant {
    Instant::now() + Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => pending().await,
    }
}
