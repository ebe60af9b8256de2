//! What is reported of a pod: desired and observed state as a Kubernetes `PodStatus`.
//!
//! Goes in: the time, the node, the pod as wanted, the record, and the status before this one. Comes out: the status.
//!
//! **Invariants:** pure and total, from the very records that the decision sees. A terminal phase is never left, a
//! restart count never falls, `lastTransitionTime` moves only when the condition's status does, and nothing in it
//! changes while nothing happens: an equal status is not written again.
//!
//! Words and order of rules: Kubernetes `pkg/kubelet/kubelet_pods.go` (`getPhase`, `convertToAPIContainerStatuses`),
//! `pkg/kubelet/status/generate.go` (conditions), `pkg/kubelet/status/status_manager.go` (`TerminatePod`).

mod conditions;
pub mod quantity;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    PodIP, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::{
    Attempt, AttemptState, ContainerSpec, Exit, ExitStatus, FailedStep, Failure, FailureReason, Observed, PodSpec,
    QosClass, Resources, RestartPolicy, SandboxState, Timestamp,
};
use crate::reconcile::{is_done, is_finished, is_pull_error_fresh, restart_due};
use crate::schedule::Placement;
use conditions::conditions;
pub use conditions::{DISRUPTION_TARGET, OWN_CONDITIONS, set_condition, set_placement};

/// What a pod's status says of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The machine's own addresses, the preferred one first.
    pub host_ips: Vec<IpAddr>,
    pub name: String,
}

/// The status of the pod as of `now`. `previous` is the one stored now, if any.
pub fn status(
    now: Timestamp,
    node: &NodeFacts,
    desired: &PodSpec,
    observed: &Observed,
    previous: Option<&PodStatus>,
) -> PodStatus {
    let over = is_over(desired, observed);
    let containers: Vec<ContainerStatus> = desired
        .containers
        .iter()
        .map(|spec| container_status(now, desired, observed, spec, over))
        .collect();
    let phase = phase(desired.restart_policy, over, &containers, previous);
    let conditions = conditions(now, desired, observed, phase, &containers, previous);
    let host_ips: Vec<String> = node.host_ips.iter().map(ToString::to_string).collect();
    let pod_ips = pod_ips(desired, observed, &host_ips, previous);
    PodStatus {
        conditions: Some(conditions),
        container_statuses: Some(containers),
        host_ip: host_ips.first().cloned(),
        host_ips: (!host_ips.is_empty()).then(|| host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        observed_generation: Some(desired.generation),
        phase: Some(phase.as_str().to_owned()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: Some(qos_class(desired.qos_class()).to_owned()),
        start_time: observed.started_at.map(wire_time),
        ..PodStatus::default()
    }
}

/// The status that a pod begins with: nothing has run, and a scheduler may have said something of it.
pub fn initial(now: Timestamp, desired: &PodSpec, placement: &Placement) -> PodStatus {
    let mut status = PodStatus {
        phase: Some(Phase::Pending.as_str().to_owned()),
        qos_class: Some(qos_class(desired.qos_class()).to_owned()),
        ..PodStatus::default()
    };
    set_placement(now, &mut status, desired.generation, placement);
    status
}

/// Nothing of the pod runs or will run again, and its sandbox is gone: what is said now is final.
fn is_over(desired: &PodSpec, observed: &Observed) -> bool {
    let sandbox_is_gone = observed.sandbox.as_ref().is_none_or(|sandbox| match &sandbox.state {
        SandboxState::Creating | SandboxState::Ready { .. } | SandboxState::Dead { .. } => false,
        SandboxState::Stopped { .. } => true,
    });
    let will_not_run = desired.deletion.is_some() || observed.torn_down || is_finished(desired, observed);
    will_not_run && sandbox_is_gone && !observed.attempts.iter().any(Attempt::is_live)
}

fn is_sandbox_ready(observed: &Observed) -> bool {
    observed
        .sandbox
        .as_ref()
        .is_some_and(|sandbox| matches!(sandbox.state, SandboxState::Ready { .. }))
}

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// Kubernetes `kubelet_pods.go getPhase`, and `generateAPIPodStatus`: a terminal phase is never left.
fn phase(policy: RestartPolicy, over: bool, containers: &[ContainerStatus], previous: Option<&PodStatus>) -> Phase {
    match previous.and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => return Phase::Succeeded,
        Some("Failed") => return Phase::Failed,
        Some(_) | None => {}
    }
    let (mut running, mut waiting, mut failed) = (0, 0, 0);
    for container in containers {
        let state = container.state.as_ref();
        let ended = |state: Option<&ContainerState>| state.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
        if state.is_some_and(|state| state.running.is_some()) {
            running += 1;
        } else {
            // A container that waits to be started again counts as stopped, by how it ended last.
            match ended(state).or_else(|| ended(container.last_state.as_ref())) {
                None => waiting += 1,
                Some(0) => {}
                Some(_) => failed += 1,
            }
        }
    }
    let by_exit_codes = if failed == 0 { Phase::Succeeded } else { Phase::Failed };
    if over {
        // `TerminatePod`: what never ran has a terminated state by now, and not a zero one.
        return if waiting == 0 && running == 0 {
            by_exit_codes
        } else {
            Phase::Failed
        };
    }
    if waiting > 0 {
        return Phase::Pending;
    }
    if running > 0 {
        return Phase::Running;
    }
    match policy {
        RestartPolicy::Always => Phase::Running,
        RestartPolicy::OnFailure if failed > 0 => Phase::Running,
        RestartPolicy::OnFailure | RestartPolicy::Never => by_exit_codes,
    }
}

/// Kubernetes `kubelet_pods.go convertToAPIContainerStatuses`.
fn container_status(
    now: Timestamp,
    desired: &PodSpec,
    observed: &Observed,
    spec: &ContainerSpec,
    over: bool,
) -> ContainerStatus {
    let newest = observed.newest(&spec.name);
    let earlier = newest.and_then(|newest| observed.ended_before(&spec.name, newest.attempt));
    let exited = |(attempt, exit): (&Attempt, &Exit)| terminated(desired, attempt, exit);
    let (state, last_state, shown) = match newest {
        None => (creating(now, observed, spec), None, None),
        Some(newest) => match &newest.state {
            // Not counted before it runs, since it may turn out never to have run.
            AttemptState::Starting => (
                creating(now, observed, spec),
                earlier.map(exited),
                earlier.map(|(attempt, _)| attempt),
            ),
            AttemptState::Running { started_at } => (running(*started_at), earlier.map(exited), Some(newest)),
            AttemptState::Exited(exit) => match waiting_for_restart(now, desired, observed, spec, newest, exit) {
                Some(waiting) => (waiting, Some(exited((newest, exit))), Some(newest)),
                None => (exited((newest, exit)), earlier.map(exited), Some(newest)),
            },
        },
    };
    let state = if over && state.terminated.is_none() {
        never_located()
    } else {
        state
    };
    let is_running = state.running.is_some();
    ContainerStatus {
        container_id: shown.map(|attempt| container_id(desired, attempt)),
        image: shown
            .map_or(&spec.image, |attempt| {
                if attempt.image.is_empty() {
                    &spec.image
                } else {
                    &attempt.image
                }
            })
            .clone(),
        image_id: shown
            .and_then(|attempt| attempt.image_id.as_ref())
            .map(|id| id.0.clone())
            .unwrap_or_default(),
        last_state: Some(last_state.unwrap_or_default()),
        name: spec.name.clone(),
        ready: is_running && is_sandbox_ready(observed),
        resources: is_running.then(|| resources(&spec.resources)).flatten(),
        restart_count: shown.map_or(0, |attempt| i32::try_from(attempt.attempt).unwrap_or(i32::MAX)),
        started: Some(is_running),
        state: Some(state),
        ..ContainerStatus::default()
    }
}

/// What an ended container waits for, if it is to be started again and that is not due yet. One that is due is still
/// reported by its end ("it will be restarted soon, so we prefer the original state here").
fn waiting_for_restart(
    now: Timestamp,
    desired: &PodSpec,
    observed: &Observed,
    spec: &ContainerSpec,
    newest: &Attempt,
    exit: &Exit,
) -> Option<ContainerState> {
    if desired.deletion.is_some() || observed.torn_down || is_done(desired.restart_policy, exit) {
        return None;
    }
    if let Some(failure) = observed.failure(&FailedStep::Container(spec.name.clone())) {
        return Some(failed(now, failure, spec));
    }
    restart_due(now, newest, exit, &spec.image, Duration::MAX)?;
    let message = format!(
        "back-off {} restarting failed container={} pod={}_{}({})",
        quantity::duration(newest.backoff.delay),
        spec.name,
        desired.name,
        desired.namespace,
        desired.uid,
    );
    Some(waiting("CrashLoopBackOff", Some(message)))
}

/// A container that has no process yet.
fn creating(now: Timestamp, observed: &Observed, spec: &ContainerSpec) -> ContainerState {
    if let Some(failure) = observed.failure(&FailedStep::Container(spec.name.clone())) {
        return failed(now, failure, spec);
    }
    let sandbox = observed.failure(&FailedStep::Sandbox);
    waiting(
        "ContainerCreating",
        sandbox.map(|f| format!("{}: {}", f.reason.as_str(), f.message)),
    )
}

/// Kubernetes `images/image_manager.go EnsureImageExists` for the words about images.
fn failed(now: Timestamp, failure: &Failure, spec: &ContainerSpec) -> ContainerState {
    let reason = failure.reason.as_str();
    match failure.reason {
        FailureReason::ErrImagePull | FailureReason::RegistryUnavailable if !is_pull_error_fresh(now, failure) => {
            let message = format!(
                "Back-off pulling image \"{}\": {reason}: {}",
                spec.image, failure.message
            );
            waiting("ImagePullBackOff", Some(message))
        }
        FailureReason::ErrImagePull
        | FailureReason::RegistryUnavailable
        | FailureReason::CreatePodSandboxError
        | FailureReason::FailedMount
        | FailureReason::ErrImageNeverPull
        | FailureReason::InvalidImageName
        | FailureReason::CreateContainerConfigError
        | FailureReason::CreateContainerError
        | FailureReason::RunContainerError
        | FailureReason::KillPodSandboxError => waiting(reason, Some(failure.message.clone())),
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    }
}

fn running(started_at: Timestamp) -> ContainerState {
    ContainerState {
        running: Some(ContainerStateRunning {
            started_at: Some(wire_time(started_at)),
        }),
        ..ContainerState::default()
    }
}

/// Reasons as containerd gives them, `ContainerStatusUnknown` as the kubelet does.
fn terminated(desired: &PodSpec, attempt: &Attempt, exit: &Exit) -> ContainerState {
    let (exit_code, signal, reason) = match exit.status {
        ExitStatus::Code(0) => (0, None, "Completed"),
        ExitStatus::Code(code) => (code, None, "Error"),
        ExitStatus::Signal(signal) => (signal.saturating_add(128), Some(signal), "Error"),
        ExitStatus::OomKilled => (137, Some(9), "OOMKilled"),
        ExitStatus::StartError => (128, None, "StartError"),
        ExitStatus::Lost => (137, None, "ContainerStatusUnknown"),
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(desired, attempt)),
            exit_code,
            finished_at: Some(wire_time(exit.finished_at)),
            message: (!exit.message.is_empty()).then(|| exit.message.clone()),
            reason: Some(reason.to_owned()),
            signal,
            started_at: exit.started_at.map(wire_time),
        }),
        ..ContainerState::default()
    }
}

/// Kubernetes `status_manager.go TerminatePod`: "any missing status is treated as a failure".
fn never_located() -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            reason: Some("ContainerStatusUnknown".to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn container_id(desired: &PodSpec, attempt: &Attempt) -> String {
    format!(
        "podd://{}",
        desired.uid.container_id(&attempt.container, attempt.attempt)
    )
}

/// The pod's addresses: said once the first sandbox is ready, and kept after the pod's end.
fn pod_ips(desired: &PodSpec, observed: &Observed, host_ips: &[String], previous: Option<&PodStatus>) -> Vec<String> {
    if desired.host_network {
        return host_ips.to_vec();
    }
    let was_said = previous.is_some_and(|status| status.pod_ip.is_some());
    let sandbox = observed.sandbox.as_ref().filter(|sandbox| match &sandbox.state {
        SandboxState::Ready { .. } => true,
        SandboxState::Creating | SandboxState::Dead { .. } | SandboxState::Stopped { .. } => was_said,
    });
    sandbox
        .and_then(|sandbox| sandbox.ip)
        .map(|ip| ip.to_string())
        .into_iter()
        .collect()
}

fn qos_class(class: QosClass) -> &'static str {
    match class {
        QosClass::Guaranteed => "Guaranteed",
        QosClass::Burstable => "Burstable",
        QosClass::BestEffort => "BestEffort",
    }
}

/// What the container got (`status.containerStatuses[].resources`); `None` when nothing was asked for.
fn resources(resources: &Resources) -> Option<ResourceRequirements> {
    let list = |cpu: Option<u64>, memory: Option<u64>| {
        let cpu = cpu.map(|milli| ("cpu".to_owned(), Quantity(quantity::cpu(milli))));
        let memory = memory.map(|bytes| ("memory".to_owned(), Quantity(quantity::bytes(bytes))));
        let list: BTreeMap<String, Quantity> = cpu.into_iter().chain(memory).collect();
        (!list.is_empty()).then_some(list)
    };
    let Resources {
        cpu_request_milli,
        cpu_limit_milli,
        memory_request,
        memory_limit,
    } = *resources;
    (!resources.is_empty()).then(|| ResourceRequirements {
        claims: None,
        limits: list(cpu_limit_milli, memory_limit),
        requests: list(cpu_request_milli.or(cpu_limit_milli), memory_request.or(memory_limit)),
    })
}

/// Kubernetes' times have whole seconds on the wire.
fn wire_time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
