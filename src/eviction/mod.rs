//! Pods that use more of the disk than they may.
//!
//! Goes in: a pod and its record, after each round of the controller ([`Evictions::watch`]). Comes out: why a pod has to
//! go ([`Evictions::verdict`]), and a hint to the controller.
//!
//! ```text
//! controller ── watch ──▶ pods with a limit, their directories measured every 10 s
//!            ◀── hint ─── verdict, when one of them is over its limit
//! ```
//!
//! Limits are `emptyDir.sizeLimit` (one in memory is kept by the kernel) and `ephemeral-storage` of containers. Rules,
//! their order and their words are a kubelet's (`pkg/kubelet/eviction/eviction_manager.go`, `localStorageEviction`).
//!
//! **Invariants:** nothing runs while no pod has such a limit. Nothing is written, and nothing is evicted here: the
//! controller records that a pod is given up, and what follows from it. No verdict lives longer than until it is
//! recorded: a new agent measures anew.

mod measure;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use crate::linux::process;
use crate::model::{Observed, PodSpec, Uid};
use measure::Limited;

/// Kubelet `evictionMonitoringPeriod`.
pub const PERIOD: Duration = Duration::from_secs(10);

/// Where pods write, and who is told.
#[derive(Debug)]
pub struct Parts {
    /// `ROOT/pods`.
    pub pods: PathBuf,
    pub log_dir: PathBuf,
    /// Wakes the controller.
    pub hints: mpsc::UnboundedSender<Uid>,
    /// How often pods are measured: [`PERIOD`].
    pub period: Duration,
}

/// All pods of this machine that have a limit. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Evictions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<Uid, Limited>,
    /// Why each of these has to go.
    verdicts: HashMap<Uid, String>,
    /// Somebody measures.
    is_measuring: bool,
}

impl Evictions {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            state: Mutex::default(),
        }))
    }

    /// From now on see to it that this pod keeps to its limits, if it has any and has not ended. Doing it again with the
    /// same record changes nothing.
    pub fn watch(&self, pod: &PodSpec, observed: &Observed) {
        let Parts { pods, log_dir, .. } = &self.0.parts;
        let over = pod.deletion.is_some() || observed.torn_down || observed.given_up.is_some();
        let limited = (!over).then(|| Limited::of(pod, observed, pods, log_dir)).flatten();
        let mut state = self.0.state();
        match limited {
            Some(limited) => {
                state.watched.insert(pod.uid.clone(), limited);
                if !std::mem::replace(&mut state.is_measuring, true) {
                    tokio::spawn(Arc::clone(&self.0).run());
                }
            }
            None if state.watched.is_empty() => {}
            None => {
                state.watched.remove(&pod.uid);
            }
        }
    }

    /// Why this pod has to go, in a kubelet's words.
    pub fn verdict(&self, uid: &Uid) -> Option<String> {
        let state = self.0.state();
        state.verdicts.get(uid).cloned()
    }

    /// The verdict is recorded, or of no interest any more.
    pub fn settle(&self, uid: &Uid) {
        let mut state = self.0.state();
        if !state.verdicts.is_empty() {
            state.verdicts.remove(uid);
        }
    }

    /// The pod is no more.
    pub fn forget(&self, uid: &Uid) {
        let mut state = self.0.state();
        if !state.watched.is_empty() || !state.verdicts.is_empty() {
            state.watched.remove(uid);
            state.verdicts.remove(uid);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic left is whole: every change of it is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measure from time to time, for as long as there is something to measure.
    async fn run(self: Arc<Self>) {
        let period = self.parts.period;
        let mut rounds = tokio::time::interval_at(Instant::now() + period, period);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let pods = {
                let mut state = self.state();
                if state.watched.is_empty() {
                    state.is_measuring = false;
                    return;
                }
                state.watched.clone()
            };
            for (uid, message) in measured(pods).await {
                let mut state = self.state();
                // It may have ended while it was measured.
                if state.watched.contains_key(&uid) {
                    state.verdicts.insert(uid.clone(), message);
                    let _closing = self.parts.hints.send(uid);
                }
            }
        }
    }
}

/// The pods that are over a limit, and which it is. On a thread of its own, which lets others go first.
async fn measured(pods: HashMap<Uid, Limited>) -> Vec<(Uid, String)> {
    let (done, found) = oneshot::channel();
    let measuring = std::thread::Builder::new().name("measure".to_owned()).spawn(move || {
        process::stand_back();
        let over = pods.into_iter().filter_map(|(uid, pod)| Some((uid, pod.excess()?)));
        let _closing = done.send(over.collect());
    });
    match measuring {
        Ok(_) => found.await.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "cannot measure what pods use of the disk");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests;
