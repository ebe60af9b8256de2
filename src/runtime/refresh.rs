//! The files of volumes, kept as the objects are that they tell of.
//!
//! Goes in: a pod whose objects may have changed. Comes out: its volumes show them as they are now.
//!
//! **Invariant:** for one pod at a time the objects are read and the files written, so that a reader who was slow never
//! puts older files over newer ones. What starts containers only writes files that are missing.

use std::collections::hash_map::DefaultHasher;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{MutexGuard, mpsc};

use super::StepError;
use super::machine::{Machine, blocking, step};
use crate::model::{FailureReason, PodSpec, Sources, Timestamp, Uid};

/// How many pods' files may be written side by side, at most.
const TURNS: usize = 64;

/// The machine, as the keeper of files sees it.
pub trait Files: Send + Sync + 'static {
    /// Write the pod's files anew, as the objects are now that they tell of. What is the same stays; a pod whose volumes
    /// were not made, or are gone, is left alone.
    ///
    /// # Errors
    /// `FailedMount`: the first volume's that could not be written, or something could not be looked up. What could not be
    /// written shows what it has shown.
    fn refresh_volumes(&self, pod: &PodSpec) -> impl Future<Output = Result<(), StepError>> + Send;

    /// When files of a pod are due to be written anew although nothing has changed: a token in them is to be replaced.
    /// The newest word on a pod counts. Taken once.
    fn renewals(&self) -> Option<mpsc::UnboundedReceiver<(Uid, Timestamp)>>;
}

/// Whose turn it is, and who is told of what is due.
#[derive(Debug)]
pub(super) struct Refreshing {
    turns: [tokio::sync::Mutex<()>; TURNS],
    due: mpsc::UnboundedSender<(Uid, Timestamp)>,
    renewals: Mutex<Option<mpsc::UnboundedReceiver<(Uid, Timestamp)>>>,
}

impl Default for Refreshing {
    fn default() -> Self {
        let (due, renewals) = mpsc::unbounded_channel();
        Self {
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            due,
            renewals: Mutex::new(Some(renewals)),
        }
    }
}

impl Refreshing {
    /// Held from before the pod's objects are read until its files are written. `None`: it has none.
    pub(super) async fn turn(&self, pod: &PodSpec) -> Option<MutexGuard<'_, ()>> {
        pod.projections().next()?;
        let mut hasher = DefaultHasher::new();
        pod.uid.hash(&mut hasher);
        let turns = u64::try_from(TURNS).unwrap_or(1);
        let at = usize::try_from(hasher.finish() % turns).unwrap_or_default();
        Some(self.turns[at].lock().await)
    }

    /// These were read for the pod.
    pub(super) fn note(&self, uid: &Uid, sources: &Sources) {
        if let Some(at) = sources.tokens.values().map(|token| token.renew_at).min() {
            // Nobody keeps files any more: the agent is ending.
            let _ = self.due.send((uid.clone(), at));
        }
    }
}

impl Files for Machine {
    async fn refresh_volumes(&self, pod: &PodSpec) -> Result<(), StepError> {
        let _turn = self.refreshing.turn(pod).await;
        if !self.volumes.has_files(&pod.uid) {
            return Ok(());
        }
        let sources = self.sources(pod, None, FailureReason::FailedMount).await?;
        let (volumes, pod) = (Arc::clone(&self.volumes), pod.clone());
        blocking("refresh volumes", move || {
            let refreshed = volumes.refresh(&pod, &sources);
            refreshed.map_err(|error| step(FailureReason::FailedMount, &error))
        })
        .await
    }

    fn renewals(&self) -> Option<mpsc::UnboundedReceiver<(Uid, Timestamp)>> {
        let mut renewals = self.refreshing.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        renewals.take()
    }
}
