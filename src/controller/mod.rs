//! The loop: for each pod that something happened to, observe, record, decide, act, look again.
//!
//! Goes in: hints (a pod was written, a journal grew, a probe or a hook has reported, a pod
//! uses too much of the disk, a timer is due). Comes out: steps carried out by the runtime,
//! records and statuses in the store, and events. Pods of no node or of another one are let be.
//!
//! **Invariant:** nothing is decided here and nothing is remembered here: `reconcile` decides, from what the store has.
//! A pod is looked at by one task at a time. When observing or storing fails, nothing is planned.

mod acts;
mod life;
mod pass;
mod place;
mod queue;
mod room;
mod telling;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

use crate::event::Recorder;
use crate::eviction::Evictions;
use crate::model::{Timestamp, Uid};
use crate::probe::Probes;
use crate::reconcile::Limits;
use crate::runtime::Runtime;
use crate::status::NodeFacts;
use crate::store::{Change, Origin, Store};
use pass::{Pass, PassError};
use queue::Queue;
pub use room::Room;

pub use waiting::Waiting;

/// The kind this controller is about.
pub const POD: &str = "Pod";

/// How many pods are looked at side by side. Steps wait for the disk and the kernel more than for the processor.
const CONCURRENCY: usize = 8;

/// How soon a look that failed is repeated: the store was busy, a journal could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// What the controller works with.
#[derive(Debug)]
pub struct Controller<R> {
    pub store: Store,
    pub runtime: Arc<R>,
    /// What asks running containers, and runs their hooks.
    pub probes: Probes,
    /// What looks after the disk that pods use.
    pub evictions: Evictions,
    pub limits: Limits,
    pub node: NodeFacts,
    pub boot_id: String,
    /// First and last address for pods.
    pub pool: (std::net::Ipv4Addr, std::net::Ipv4Addr),
    /// What there is for all pods together.
    pub room: Room,
    /// Pods that lack what another object may bring.
    pub waiting: Waiting,
    /// Where what happens is told, for people.
    pub recorder: Recorder,
    /// The time, for records.
    pub clock: fn() -> Timestamp,
}

impl<R: Runtime> Controller<R> {
    /// Run until `stop` says so. Looks that have begun are finished first.
    ///
    /// `ready` is set once every pod that the store or the machine has was looked at.
    pub async fn run(self, mut stop: watch::Receiver<bool>, ready: watch::Sender<bool>) {
        let mut changes = self.store.subscribe();
        let mut hints = self.runtime.hints().unwrap_or_else(|| mpsc::unbounded_channel().1);
        let mut queue = Queue::default();
        let controller = Arc::new(self);
        if let Err(error) = controller.count_unclaimed().await {
            tracing::error!(%error, "cannot tell what the pods of this machine take of it");
        }
        controller.wake_all(&mut queue).await;

        let mut looks: JoinSet<Result<Option<Timestamp>, PassError>> = JoinSet::new();
        let mut looking: HashMap<Id, Uid> = HashMap::new();
        let mut stopping = false;
        loop {
            while !stopping && looks.len() < CONCURRENCY {
                let Some(uid) = queue.pop(Instant::now()) else { break };
                let pass = Pass::new(Arc::clone(&controller), uid.clone());
                let handle = looks.spawn(pass.run());
                looking.insert(handle.id(), uid);
            }
            if queue.is_idle() {
                ready.send_if_modified(|ready| !std::mem::replace(ready, true));
            }
            if stopping && looks.is_empty() {
                return;
            }
            let due = queue.next_planned().filter(|_| !stopping);
            tokio::select! {
                // Cancel-safe: a watch receiver loses nothing when its future is dropped.
                told = stop.changed(), if !stopping => stopping = told.is_err() || *stop.borrow(),
                // Cancel-safe: JoinSet keeps a finished task until it is joined.
                Some(joined) = looks.join_next_with_id() => {
                    controller.finish(&mut queue, &mut looking, joined);
                }
                // Cancel-safe: a broadcast receiver keeps its place.
                change = changes.recv(), if !stopping => match change {
                    Ok(change) => wake_for(&mut queue, &controller.waiting, &change),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        controller.waiting.clear();
                        controller.wake_all(&mut queue).await;
                    }
                    Err(broadcast::error::RecvError::Closed) => stopping = true,
                },
                // Cancel-safe: an mpsc receiver loses nothing when its future is dropped.
                Some(uid) = hints.recv(), if !stopping => queue.wake(uid),
                // Cancel-safe: it holds no state.
                () = until(due) => {}
            }
        }
    }

    /// Look at every pod that the store has, and at everything on the machine that the store may not know.
    async fn wake_all(&self, queue: &mut Queue) {
        match self.store.pod_uids().await {
            Ok(uids) => uids.into_iter().for_each(|uid| queue.wake(uid)),
            Err(error) => tracing::error!(%error, "cannot list the pods of the store"),
        }
        match self.runtime.pods().await {
            Ok(uids) => uids.into_iter().for_each(|uid| queue.wake(uid)),
            Err(error) => tracing::error!(%error, "cannot list the pods of the machine"),
        }
    }

    fn finish(
        &self,
        queue: &mut Queue,
        looking: &mut HashMap<Id, Uid>,
        joined: Result<(Id, Result<Option<Timestamp>, PassError>), JoinError>,
    ) {
        let (id, outcome) = match joined {
            Ok((id, Ok(wake_at))) => (id, Ok(wake_at)),
            Ok((id, Err(error))) => (id, Err(error.to_string())),
            Err(error) => (error.id(), Err(format!("the look panicked: {error}"))),
        };
        let Some(uid) = looking.remove(&id) else { return };
        let wait = match outcome {
            Ok(wake_at) => wake_at.map(|at| wait_for((self.clock)(), at)),
            Err(error) => {
                tracing::error!(pod.uid = %uid, %error, "could not look after a pod: trying again in {} s", RETRY.as_secs());
                Some(RETRY)
            }
        };
        queue.wake_at(&uid, wait.map(|wait| Instant::now() + wait));
        queue.done(&uid);
        for waiting in self.room.woken() {
            queue.wake(waiting);
        }
    }
}

/// A pod was written by a user, or what it waits for: look at it. What this controller wrote itself it knows.
fn wake_for(queue: &mut Queue, waiting: &Waiting, change: &Change) {
    let kind = &*change.object.kind;
    if kind == POD && change.origin == Origin::Desired {
        queue.wake(change.object.uid.clone());
    } else if waiting::KINDS.contains(&kind) {
        for uid in waiting.stir(&change.object.namespace) {
            queue.wake(uid);
        }
    }
}

/// From wall-clock time to a duration, once; from here on a jump of the clock moves nothing.
fn wait_for(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => pending().await,
    }
}
