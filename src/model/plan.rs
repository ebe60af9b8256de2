//! What is to be done next, as a value: made by `reconcile`, carried out by the controller.

use super::{Backoff, Timestamp};

/// The next steps of one pod. Steps of one plan are independent of each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// When to look again although nothing happens (back-off, grace). `None`: only on a hint.
    pub wake_at: Option<Timestamp>,
}

/// One thing to do. Each names the attempt it means: carried out twice, it does nothing the second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make volumes, address, shim, infra and network of this sandbox attempt; record it `Ready`.
    CreateSandbox { attempt: u32 },
    /// Kill whatever is left in this sandbox attempt, end its shim, release its network; record it `Stopped` and every
    /// attempt that was live in it `Exited` (as the shim saw it, else `Lost`).
    StopSandbox { attempt: u32 },
    /// Start this attempt of the container in this (ready) sandbox; record it `Starting` before, `Running` after.
    StartContainer {
        container: String,
        attempt: u32,
        sandbox: u32,
        backoff: Backoff,
    },
    /// Send the image's stop signal (default SIGTERM), once; record `stop_signalled_at`.
    StopContainer { container: String, attempt: u32 },
    /// Send SIGKILL to everything in the container; record `killed_at` before.
    KillContainer { container: String, attempt: u32 },
    /// The pod has ended: release its address and, when it is being deleted, remove its volumes, logs and directories.
    /// Recorded as `torn_down`.
    TearDown,
    /// Nothing of a deleted pod is left but what a finished one keeps (its directories and logs): remove that, then the
    /// object itself.
    Forget,
}
