//! The words of the house: a pod as podd means it, what is recorded of it, and what is to be done next.
//!
//! Goes in: nothing. Comes out: plain values that every other room speaks in.
//!
//! **Invariant:** this room does no I/O, reads no clock, knows neither the wire (Kubernetes' JSON) nor the store (rows).
//! Its types are not `Serialize`: they may change freely, since nothing outside the process ever sees them.

mod amounts;
mod claim;
pub mod downward;
pub mod expansion;
mod image;
mod names;
mod observed;
mod plan;
mod pod;
mod snapshot;
mod sources;
mod sysctl;
#[cfg(test)]
pub(crate) mod testing;

pub use amounts::{bytes_text, cpu_text};
pub use claim::{Allocatable, Amount, Claim, ClaimedPort, Lack};
pub use image::{ImageConfig, ImageId, ResolvedImage};
pub use names::{CLUSTER_DOMAIN, MIRROR, NameTooLong};
pub use observed::{
    Attempt, AttemptLife, AttemptState, Backoff, Exit, ExitStatus, FailedStep, Failure, FailureReason, GivenUp,
    GivenUpReason, Hook, HookRecord, Observed, ProbeKind, ProbeRecord, Report, Reported, Sandbox, SandboxEnd,
    SandboxState, Stop, StopReason, User, image_volume_of, of_image_volume,
};
pub use plan::{Plan, Step};
pub use pod::{
    About, Action, AppArmorProfile, Capabilities, Capacity, ContainerLife, ContainerSecurity, ContainerSpec, Deletion,
    DnsPolicy, DnsSpec, DownwardFile, DownwardValue, EmptyDirMedium, EnvFrom, EnvValue, EnvVar, Field, HostAlias,
    HostPathType, HostPort, IDS_PER_POD, Isolation, KeyToPath, Mount, ObjectKey, ObjectKind, PodRuntime, PodSecurity,
    PodSpec, Probe, Projection, Propagation, Protocol, PullPolicy, QosClass, ResizePolicy, ResourceField,
    ResourceValue, Resources, RestartAction, RestartPolicy, RestartRule, SeccompProfile, TerminationMessagePolicy, Uid,
    Volume, VolumeSource,
};
pub use snapshot::{ContainerPhase, ContainerSnapshot, InfraSnapshot, SandboxSnapshot, Snapshot};
pub use sources::{Data, Sources, Token, TokenRequest};
pub use sysctl::{
    AllowedSysctls, SYSCTL_MAX, SYSCTL_PATTERN, SysctlNamespace, SysctlPatternError, is_sysctl_name, normal_sysctl,
    sysctl_namespace, sysctl_path,
};

/// A point in time, always passed in, never read from a clock inside the core.
pub type Timestamp = jiff::Timestamp;
