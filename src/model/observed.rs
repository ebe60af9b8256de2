//! Observed state: everything recorded of a pod that a decision may rest on.
//!
//! All of it is stored before anything is decided from it, so a decision made twice from the same records is the same.

use std::net::IpAddr;
use std::time::Duration;

use super::{ImageId, PodSpec, Resources, Timestamp, VolumeSource};

/// Everything recorded of one pod. A fresh pod has `Observed::default()`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The newest sandbox, if one was ever asked for. Older ones are gone.
    pub sandbox: Option<Sandbox>,
    /// Attempts, ascending by (container, attempt): for each container at least the newest one and the newest ended one.
    pub attempts: Vec<Attempt>,
    /// Failures of steps that are not yet followed by a success, at most one for each `FailedStep`.
    pub failures: Vec<Failure>,
    /// When the pod was first seen by the controller (`status.startTime`).
    pub started_at: Option<Timestamp>,
    /// Set when all that the pod had on the machine was removed after its end; nothing is left to tear down.
    pub torn_down: bool,
    /// Set when the pod as a whole was given up: whatever its containers do, it ends as `Failed`.
    pub given_up: Option<GivenUp>,
}

impl Observed {
    /// The newest attempt of a container.
    pub fn newest(&self, container: &str) -> Option<&Attempt> {
        self.attempts
            .iter()
            .filter(|a| a.container == container)
            .max_by_key(|a| a.attempt)
    }

    /// The newest attempt before `attempt` of the same container that has ended: what `lastState` reports.
    pub fn ended_before(&self, container: &str, attempt: u32) -> Option<(&Attempt, &Exit)> {
        self.attempts
            .iter()
            .filter(|a| a.container == container && a.attempt < attempt)
            .filter_map(|a| a.exit().map(|exit| (a, exit)))
            .max_by_key(|(a, _)| a.attempt)
    }

    pub fn failure(&self, step: &FailedStep) -> Option<&Failure> {
        self.failures.iter().find(|f| f.step == *step)
    }
}

/// One sandbox: the infra process with its namespaces, and the shim that is its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// 0 for the first. The count of sandboxes ever made for this pod is `attempt + 1`.
    pub attempt: u32,
    pub state: SandboxState,
    /// The pod's address; `None` with the host's network. Kept over sandboxes.
    pub ip: Option<IpAddr>,
    pub created_at: Timestamp,
    /// `/proc/sys/kernel/random/boot_id` when it was made: with another one today, nothing of it is alive.
    pub boot_id: String,
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxState {
    /// Asked for and recorded, not known to be alive: creating it is (re)tried under the same attempt, which does
    /// nothing if it is there already.
    Creating,
    /// Infra runs and the network is there: containers may be started in it.
    Ready { ready_at: Timestamp },
    /// Infra or shim is dead, or the boot is another one: what is left of it must be stopped, then a new one is made.
    Dead { at: Timestamp, end: SandboxEnd },
    /// Stopped: no process, no link, no mount of it is left. A new sandbox takes the next attempt.
    Stopped { at: Timestamp },
}

/// Why a sandbox died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxEnd {
    /// The infra process exited or was killed.
    InfraExited,
    /// The shim is gone, and with it every exit it had not written down.
    ShimLost,
    /// The machine was started again: nothing of the old boot is alive.
    Rebooted,
}

/// One life of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub container: String,
    /// 0 for the first; equals `restartCount` and the number of its log file.
    pub attempt: u32,
    /// The sandbox attempt it was started in.
    pub sandbox: u32,
    /// The name of the image as the spec gave it when this attempt was decided, and the image it meant.
    pub image: String,
    pub image_id: Option<ImageId>,
    pub state: AttemptState,
    /// Back-off as it stood when this attempt was started.
    pub backoff: Backoff,
    /// Set once the stop signal was sent to this attempt.
    pub stop_signalled_at: Option<Timestamp>,
    /// Set once SIGKILL was sent to this attempt.
    pub killed_at: Option<Timestamp>,
    pub life: AttemptLife,
}

/// What happened to an attempt between its start and its end. All of it is stored: a new agent forgets no count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptLife {
    /// The image it was started from, as `repository@sha256:<hex>`.
    pub repo_digest: Option<String>,
    /// What it was started with, or resized to since.
    pub resources: Option<Resources>,
    /// Whom it runs as: worked out once for an image, and the same at every restart from it. `None` in what an older
    /// podd wrote.
    pub user: Option<User>,
    pub startup: ProbeRecord,
    pub liveness: ProbeRecord,
    pub readiness: ProbeRecord,
    pub post_start: HookRecord,
    pub pre_stop: HookRecord,
    /// Set once it was decided that this attempt has to end although its pod is not being deleted.
    pub stop: Option<Stop>,
}

/// Whom the processes of a container run as, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// `gid` first, then those of the image, then those of the pod.
    pub groups: Vec<u32>,
    /// Where the user is at home in the image: `HOME`, unless image or pod say otherwise.
    pub home: String,
}

/// What is known of one probe of one attempt (Kubernetes `pkg/kubelet/prober/worker.go`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeRecord {
    /// The result that counts: it changes when a threshold is reached. `None`: none was yet.
    pub result: Option<bool>,
    /// The newest outcome, and how often it came in a row; the count stops at its threshold, so that a probe that goes
    /// on as before writes nothing.
    pub last: Option<bool>,
    pub count: u32,
}

/// Where a hook of an attempt is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HookRecord {
    #[default]
    NotRun,
    /// Begun and recorded; run again when the agent that began it is gone (at least once, as Kubernetes promises).
    Begun {
        at: Timestamp,
    },
    Done {
        at: Timestamp,
    },
    Failed {
        at: Timestamp,
        message: String,
    },
}

/// Why and how an attempt has to end before its pod does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub why: StopReason,
    /// The grace counts from here.
    pub asked_at: Timestamp,
    pub grace: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    LivenessFailed,
    StartupFailed,
    PostStartFailed,
    /// Its image, or what else cannot be changed in a running container, is another one now.
    SpecChanged,
    /// A resize that its `resizePolicy` answers with a restart.
    Resized,
    /// Nothing else of the pod will run: its sidecars go, or the whole pod was given up.
    PodEnds,
    /// All containers of the pod begin anew (`RestartAllContainers`). An attempt that had ended by then, or was never
    /// seen to begin, has this reason too: it belongs to what is over.
    AllRestart,
}

/// The end of a pod that does not come from its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    pub at: Timestamp,
    /// `status.reason`: `DeadlineExceeded` ...
    pub reason: GivenUpReason,
    /// `status.message`.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUpReason {
    DeadlineExceeded,
    /// It used more of the disk than it may.
    Evicted,
    /// The rest are rejections: the pod was never begun (Kubernetes `pkg/kubelet/lifecycle/predicate.go`).
    OutOfCpu,
    OutOfMemory,
    OutOfEphemeralStorage,
    OutOfPods,
    /// Of pages of so many bytes.
    OutOfHugepages(u64),
    NodePorts,
    SysctlForbidden,
    AppArmor,
    UnexpectedAdmissionError,
}

impl GivenUpReason {
    /// Each word once; of huge pages, the sizes that Linux has on the machines that podd is made for.
    pub const ALL: [Self; 15] = [
        Self::DeadlineExceeded,
        Self::Evicted,
        Self::OutOfCpu,
        Self::OutOfMemory,
        Self::OutOfEphemeralStorage,
        Self::OutOfPods,
        Self::OutOfHugepages(64 << 10),
        Self::OutOfHugepages(2 << 20),
        Self::OutOfHugepages(32 << 20),
        Self::OutOfHugepages(1 << 30),
        Self::OutOfHugepages(0),
        Self::NodePorts,
        Self::SysctlForbidden,
        Self::AppArmor,
        Self::UnexpectedAdmissionError,
    ];

    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::Evicted => "Evicted",
            Self::OutOfCpu => "OutOfcpu",
            Self::OutOfMemory => "OutOfmemory",
            Self::OutOfEphemeralStorage => "OutOfephemeral-storage",
            Self::OutOfPods => "OutOfpods",
            Self::OutOfHugepages(size) => match size {
                0x1_0000 => "OutOfhugepages-64Ki",
                0x20_0000 => "OutOfhugepages-2Mi",
                0x200_0000 => "OutOfhugepages-32Mi",
                0x4000_0000 => "OutOfhugepages-1Gi",
                _ => "OutOfhugepages",
            },
            Self::NodePorts => "NodePorts",
            Self::SysctlForbidden => "SysctlForbidden",
            Self::AppArmor => "AppArmor",
            Self::UnexpectedAdmissionError => "UnexpectedAdmissionError",
        }
    }

    /// The pod was turned away before anything of it was begun: its status tells that and no more.
    pub fn is_rejection(self) -> bool {
        !matches!(self, Self::DeadlineExceeded | Self::Evicted)
    }
}

/// What a prober or a hook has to tell of an attempt; folded into the record by `reconcile::report`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub container: String,
    pub attempt: u32,
    pub at: Timestamp,
    pub what: Reported,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    /// A probe that could be carried out; one that could not is not reported.
    Probe { kind: ProbeKind, success: bool },
    /// A hook that ended; the text says what went wrong.
    Hook { hook: Hook, result: Result<(), String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    PostStart,
    PreStop,
}

impl Attempt {
    /// It was begun before all containers of its pod began anew.
    pub fn is_left_behind(&self) -> bool {
        self.life
            .stop
            .as_ref()
            .is_some_and(|stop| stop.why == StopReason::AllRestart)
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            AttemptState::Exited(exit) => Some(exit),
            AttemptState::Starting | AttemptState::Running { .. } => None,
        }
    }

    pub fn is_live(&self) -> bool {
        match &self.state {
            AttemptState::Exited(_) => false,
            AttemptState::Starting | AttemptState::Running { .. } => true,
        }
    }
}

/// Where an attempt is in its life. States only move down this list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptState {
    /// Decided and recorded; perhaps it was started, perhaps not: starting it is retried under the same attempt, and
    /// the shim does nothing if it has that attempt already.
    Starting,
    Running {
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub status: ExitStatus,
    /// `None`: it never ran.
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
    /// What went wrong, for `StartError` and `Lost`; else empty.
    pub message: String,
}

/// How an attempt ended, as the kernel said it; nothing here is ever guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// exit(2) with this code, 0 to 255.
    Code(i32),
    /// Killed by this signal; on the wire `exitCode` is 128 + signal, and `signal` is set.
    Signal(i32),
    /// exit(2) with this code, of a container in which the kernel had killed a process for want of memory (`OOMKilled`).
    OomCode(i32),
    /// Killed by this signal, as was at least one process of the container for want of memory (`OOMKilled`).
    OomSignal(i32),
    /// It could not be executed (`StartError`, 128).
    StartError,
    /// It ran, and nobody is left who saw its end (`ContainerStatusUnknown`): the shim died, or the machine was reset.
    Lost,
}

impl ExitStatus {
    /// As the wire has it, `exitCode`, and what restart rules look at.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Code(code) | Self::OomCode(code) => code,
            Self::Signal(signal) | Self::OomSignal(signal) => signal.saturating_add(128),
            Self::StartError => 128,
            Self::Lost => 137,
        }
    }

    /// Success decides `OnFailure` and the pod's final phase, and it is the exit code alone that tells.
    pub fn is_success(self) -> bool {
        self.exit_code() == 0
    }

    /// An init container has done its work: one that lacked memory has failed whatever its exit code (Kubernetes
    /// `kuberuntime_container.go isInitContainerFailed`).
    pub fn is_init_success(self) -> bool {
        self == Self::Code(0)
    }
}

/// Crash-loop back-off as of the start of an attempt, so that the next start can be computed from records alone.
///
/// Kubernetes `kuberuntime_manager.go doBackOff` with `client-go/util/flowcontrol/backoff.go`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    /// How long to wait after this attempt's end before the next one starts. Zero for a first attempt: the first
    /// restart comes at once.
    pub delay: Duration,
    /// When `delay` was set (the start of this attempt); a run that ends more than 600 s later clears it.
    pub set_at: Option<Timestamp>,
}

/// A step that failed, retried under back-off until it succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub step: FailedStep,
    pub reason: FailureReason,
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When it failed last: the back-off (10 s, doubled, at most 300 s) counts from here.
    pub at: Timestamp,
}

/// The message of a container's failure that is the image of one of its volumes, not its own: so it is stored.
pub fn of_image_volume(volume: &str, message: &str) -> String {
    format!("volume {volume:?}: {message}")
}

/// The image that a container's failure is about, when it is that of a volume, and the message about it alone.
pub fn image_volume_of<'a>(pod: &'a PodSpec, message: &'a str) -> Option<(&'a str, &'a str)> {
    pod.volumes.iter().find_map(|volume| match &volume.source {
        VolumeSource::Image { reference, .. } => {
            let rest = message.strip_prefix(of_image_volume(&volume.name, "").as_str())?;
            Some((reference.as_str(), rest))
        }
        VolumeSource::EmptyDir { .. } | VolumeSource::HostPath { .. } | VolumeSource::Projected { .. } => None,
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailedStep {
    /// Making the sandbox, its network or the pod's volumes.
    Sandbox,
    /// Anything before a container's process exists, and its stop signal.
    Container(String),
    /// Stopping the sandbox or removing what the pod left.
    Teardown,
    /// Giving running containers other resources: the machine has no room for them now.
    Resize,
}

/// The `reason` Kubernetes gives each (`images/types.go`, `kuberuntime_container.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    CreatePodSandboxError,
    FailedMount,
    ErrImagePull,
    ErrImageNeverPull,
    InvalidImageName,
    RegistryUnavailable,
    CreateContainerConfigError,
    CreateContainerError,
    RunContainerError,
    KillPodSandboxError,
    /// Of a resize that waits for room (`PodReasonDeferred`).
    Deferred,
}

impl FailureReason {
    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreatePodSandboxError => "CreatePodSandboxError",
            Self::FailedMount => "FailedMount",
            Self::ErrImagePull => "ErrImagePull",
            Self::ErrImageNeverPull => "ErrImageNeverPull",
            Self::InvalidImageName => "InvalidImageName",
            Self::RegistryUnavailable => "RegistryUnavailable",
            Self::CreateContainerConfigError => "CreateContainerConfigError",
            Self::CreateContainerError => "CreateContainerError",
            Self::RunContainerError => "RunContainerError",
            Self::KillPodSandboxError => "KillPodSandboxError",
            Self::Deferred => "Deferred",
        }
    }
}
