//! Events: what happened to a pod or to the node, in a kubelet's and a scheduler's words, kept for people to read.
//!
//! Goes in: [`Note`]s, from whoever has something to tell ([`Recorder`]). Comes out: objects of kind `Event` in the store,
//! written a little later, many in one transaction, by a task of their own ([`Keeper`]).
//!
//! ```text
//! tell ──▶ queue (bounded) ──▶ correlate: again? similar? too many? ──▶ wait a second ──▶ write together
//!                                                  store's changes ──▶ shelf: an hour, so many ──▶ remove
//! ```
//!
//! **Invariants:** telling never waits and never fails: what does not fit into the queue is dropped, and so is what was
//! not written when the agent dies. Nothing is written while nothing is told and nothing is too old. What is told holds
//! no secret: no environment, no value of a Secret.

mod correlate;
mod keep;
mod shelf;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::model::{ContainerSpec, PodSpec, Timestamp};
use crate::store::Store;

pub use keep::Keeper;

/// The kind under which events are stored.
pub const EVENT: &str = "Event";

/// Notes that may wait to be written; more are dropped.
const QUEUE: usize = 1024;

/// Bytes of a message at most (Kubernetes' `note`).
const MESSAGE_MAX: usize = 1024;

/// `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Normal,
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Who tells: podd does the work of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Kubelet,
    Scheduler,
    TaintEviction,
}

impl Source {
    fn component(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Scheduler => "default-scheduler",
            Self::TaintEviction => "taint-eviction-controller",
        }
    }
}

/// What an event is about: `involvedObject`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    pub kind: &'static str,
    /// Empty for the node.
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// `spec.containers{name}`, of whichever list it is in, where it is about one container.
    pub field_path: Option<String>,
}

impl Subject {
    pub fn pod(pod: &PodSpec) -> Self {
        Self {
            kind: "Pod",
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.0.clone(),
            field_path: None,
        }
    }

    pub fn container(pod: &PodSpec, container: &str) -> Self {
        let is_in = |list: &[ContainerSpec]| list.iter().any(|known| known.name == container);
        let list = if is_in(&pod.init_containers) {
            "initContainers"
        } else if is_in(&pod.ephemeral_containers) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        Self {
            field_path: Some(format!("spec.{list}{{{container}}}")),
            ..Self::pod(pod)
        }
    }

    /// A kubelet puts the node's name where its uid should be, and clients look for it there.
    pub fn node(name: &str) -> Self {
        Self {
            kind: "Node",
            namespace: String::new(),
            name: name.to_owned(),
            uid: name.to_owned(),
            field_path: None,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub source: Source,
    pub subject: Subject,
    pub severity: Severity,
    pub reason: &'static str,
    pub message: String,
    pub at: Timestamp,
}

/// Where things are told. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    clock: fn() -> Timestamp,
}

impl Recorder {
    /// The recorder, and what keeps its events in `store` once it is run. `host` is the node's name.
    pub fn new(store: Store, host: &str, clock: fn() -> Timestamp) -> (Self, Keeper) {
        let (notes, told) = mpsc::channel(QUEUE);
        let keeper = Keeper::new(store, Arc::from(host), clock, told);
        (Self { notes, clock }, keeper)
    }

    /// One whose events are written at once.
    #[cfg(test)]
    pub(crate) fn hasty(store: Store, clock: fn() -> Timestamp) -> Self {
        let (recorder, keeper) = Self::new(store, "node-1", clock);
        let (forever, stop) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            keeper
                .with(shelf::Bounds::default(), std::time::Duration::ZERO)
                .run(stop)
                .await;
            drop(forever);
        });
        recorder
    }

    /// Tell it. Never waits.
    pub fn tell(
        &self,
        source: Source,
        subject: Subject,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let note = Note {
            source,
            subject,
            severity,
            reason,
            message: shortened(message.into()),
            at: (self.clock)(),
        };
        if let Err(error) = self.notes.try_send(note) {
            tracing::debug!(%error, reason, "an event is not kept");
        }
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let mut end = MESSAGE_MAX - 3;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    message
}
