//! What is to be done next, as a value: made by `reconcile`, carried out by the controller.

use super::{Backoff, GivenUpReason, Hook, Resources, Stop, Timestamp};

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
    /// Record that this attempt has to end, or, when all containers restart, that it is left behind. Nothing is done yet:
    /// what follows from it is the next plan's.
    BeginStop {
        container: String,
        attempt: u32,
        stop: Stop,
    },
    /// Begin a hook of this attempt; record it `Begun` before. It is planned again for as long as it is not done, so that
    /// a new agent runs it: one that is under way is not begun a second time, and is no reason to look again at once.
    RunHook {
        container: String,
        attempt: u32,
        hook: Hook,
    },
    /// Give a running attempt other limits; record them after.
    Resize {
        container: String,
        attempt: u32,
        resources: Resources,
    },
    /// Record that the pod as a whole is given up. What follows from it is the next plan's.
    GiveUp { reason: GivenUpReason, message: String },
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
