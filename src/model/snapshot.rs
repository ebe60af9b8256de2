//! What the machine has of a pod at one moment, as far as its shims wrote it down: the raw material of `Observed`.

use super::{ExitStatus, Timestamp};

/// Everything the machine has of one pod. Empty when there is nothing.
///
/// A snapshot is complete: when the machine could not be asked, there is an error instead of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// One for each sandbox attempt that still has a directory **of this boot** under the run directory, ascending.
    pub sandboxes: Vec<SandboxSnapshot>,
}

impl Snapshot {
    pub fn sandbox(&self, attempt: u32) -> Option<&SandboxSnapshot> {
        self.sandboxes.iter().find(|s| s.attempt == attempt)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSnapshot {
    pub attempt: u32,
    /// The shim process is alive. When it is not, the facts below are the last ones it wrote.
    pub shim_alive: bool,
    pub infra: InfraSnapshot,
    /// One for each container attempt the shim ever heard of, in the order it heard of them.
    pub containers: Vec<ContainerSnapshot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfraSnapshot {
    /// Not started yet.
    Absent,
    /// `pid` in the agent's pid namespace.
    Running {
        pid: i32,
        since: Timestamp,
    },
    Exited {
        at: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSnapshot {
    pub container: String,
    pub attempt: u32,
    pub phase: ContainerPhase,
    pub stop_signalled_at: Option<Timestamp>,
    pub killed_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerPhase {
    /// The shim wrote down that it is about to start it, and nothing since.
    Starting,
    Running {
        pid: i32,
        started_at: Timestamp,
    },
    /// It could not be executed.
    StartFailed {
        message: String,
        at: Timestamp,
    },
    /// `status` is never `Lost` or `StartError` here: the shim saw it.
    Exited {
        status: ExitStatus,
        started_at: Timestamp,
        finished_at: Timestamp,
    },
}
