//! The statuses of containers, of all three kinds.
//!
//! Words and order of rules: Kubernetes `pkg/kubelet/kubelet_pods.go convertToAPIContainerStatuses`,
//! `pkg/kubelet/prober/prober_manager.go UpdatePodStatus`, `status_manager.go TerminatePod`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{is_sandbox_ready, quantity, wire_time};
use crate::model::{
    Attempt, AttemptState, ContainerSpec, Exit, ExitStatus, FailedStep, Failure, FailureReason, HookRecord, Observed,
    PodSpec, Resources, StopReason, Timestamp, User, image_volume_of,
};
use crate::reconcile::{is_done, is_finished, is_pull_error_fresh, is_ready, is_started, restart_due};

/// Kubernetes `kubelet_pods.go convertToAPIContainerStatuses`, of a container that is to begin anew with all others.
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";
const LEFT_BEHIND: &str = "The container is removed because RestartAllContainers in place";
/// 128 and SIGKILL.
const KILLED: i32 = 137;

/// Which of the pod's three lists a container is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Runs to its end before the regular containers begin.
    Init,
    /// Runs beside them: of `containers`, or a sidecar.
    Regular,
    Ephemeral,
}

/// The statuses of a pod's containers.
pub(super) struct Statuses {
    pub(super) init: Vec<ContainerStatus>,
    pub(super) regular: Vec<ContainerStatus>,
    pub(super) ephemeral: Vec<ContainerStatus>,
}

/// `over`: what is said now of the pod is final.
pub(super) fn statuses(now: Timestamp, desired: &PodSpec, observed: &Observed, over: bool) -> Statuses {
    let place = Place { now, desired, observed };
    // "Any missing status is treated as a failure", where the container's turn had come at all.
    let begun = |container: &ContainerSpec| observed.newest(&container.name).is_some();
    let initialised = desired.init_containers.is_empty() || desired.containers.iter().any(begun);
    let last_begun = desired.init_containers.iter().rposition(begun);
    let init = |(n, container): (usize, &ContainerSpec)| {
        let kind = if container.is_sidecar() {
            Kind::Regular
        } else {
            Kind::Init
        };
        let had_its_turn = last_begun.is_some_and(|last| n <= last);
        place.container(container, kind, over && had_its_turn)
    };
    let regular = |container| place.container(container, Kind::Regular, over && initialised);
    let ephemeral = |container: &ContainerSpec| place.container(container, Kind::Ephemeral, over && begun(container));
    Statuses {
        init: desired.init_containers.iter().enumerate().map(init).collect(),
        regular: desired.containers.iter().map(regular).collect(),
        ephemeral: desired.ephemeral_containers.iter().map(ephemeral).collect(),
    }
}

/// What every status is made from.
#[derive(Clone, Copy)]
struct Place<'a> {
    now: Timestamp,
    desired: &'a PodSpec,
    observed: &'a Observed,
}

impl Place<'_> {
    /// `is_final`: a container of which nothing is known by now is taken to have failed.
    fn container(self, spec: &ContainerSpec, kind: Kind, is_final: bool) -> ContainerStatus {
        let (desired, observed) = (self.desired, self.observed);
        let newest = observed.newest(&spec.name);
        let earlier = newest.and_then(|newest| observed.ended_before(&spec.name, newest.attempt));
        let exited = |(attempt, exit): (&Attempt, &Exit)| terminated(desired, attempt, exit);
        let (state, last_state, shown) = match newest {
            None => (self.creating(spec, true), None, None),
            Some(newest) => match &newest.state {
                // Not counted before it runs, since it may turn out never to have run.
                AttemptState::Starting => (
                    self.creating(spec, earlier.is_none()),
                    earlier.map(exited),
                    earlier.map(|(attempt, _)| attempt),
                ),
                AttemptState::Running { started_at } => (running(*started_at), earlier.map(exited), Some(newest)),
                AttemptState::Exited(exit) => match self.waiting_for_restart(spec, kind, newest, exit) {
                    Some(waiting) => (waiting, Some(exited((newest, exit))), Some(newest)),
                    None => (exited((newest, exit)), earlier.map(exited), Some(newest)),
                },
            },
        };
        let state = if is_final && state.terminated.is_none() {
            never_located()
        } else {
            state
        };
        let runs = newest.filter(|_| state.running.is_some());
        let ready = match kind {
            Kind::Init => {
                let exit = newest.and_then(Attempt::exit);
                state.terminated.is_some() && exit.is_some_and(|exit| exit.status.is_init_success())
            }
            Kind::Regular => runs.is_some_and(|runs| is_ready(spec, runs)) && is_sandbox_ready(observed),
            Kind::Ephemeral => false,
        };
        let has = runs.map(|runs| runs.life.resources.as_ref().unwrap_or(&spec.resources));
        let resources = has.and_then(resources).filter(|_| kind != Kind::Ephemeral);
        ContainerStatus {
            allocated_resources: resources.as_ref().and_then(|resources| resources.requests.clone()),
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
                .and_then(|attempt| {
                    let id = attempt.image_id.as_ref().map(|id| &id.0);
                    attempt.life.repo_digest.as_ref().or(id)
                })
                .cloned()
                .unwrap_or_default(),
            last_state: Some(last_state.unwrap_or_default()),
            name: spec.name.clone(),
            volume_mounts: volume_mounts(spec),
            ready,
            resources,
            restart_count: shown.map_or(0, |attempt| i32::try_from(attempt.attempt).unwrap_or(i32::MAX)),
            started: (kind != Kind::Ephemeral).then(|| runs.is_some_and(|runs| is_started(spec, runs))),
            stop_signal: shown.and(spec.life.stop_signal.clone()),
            user: shown.and_then(|attempt| attempt.life.user.as_ref()).map(user),
            state: Some(state),
            ..ContainerStatus::default()
        }
    }

    /// What an ended container waits for, if it is to be started again and that is not due yet. One that is due is still
    /// reported by its end ("it will be restarted soon, so we prefer the original state here").
    fn waiting_for_restart(
        self,
        spec: &ContainerSpec,
        kind: Kind,
        newest: &Attempt,
        exit: &Exit,
    ) -> Option<ContainerState> {
        let Self { now, desired, observed } = self;
        let stays = match kind {
            Kind::Init => exit.status.is_init_success() && !newest.is_left_behind(),
            Kind::Regular => false,
            Kind::Ephemeral => true,
        };
        let is_ending = desired.deletion.is_some() || observed.torn_down || is_finished(desired, observed);
        if stays || is_ending || is_done(desired, spec, newest, exit) {
            return None;
        }
        if let Some(failure) = observed.failure(&FailedStep::Container(spec.name.clone())) {
            return Some(failed(now, failure, desired, spec));
        }
        if let HookRecord::Failed { message, .. } = &newest.life.post_start
            && newest
                .life
                .stop
                .as_ref()
                .is_some_and(|stop| stop.why == StopReason::PostStartFailed)
        {
            return Some(waiting("PostStartHookError", Some(message.clone())));
        }
        if newest.is_left_behind() {
            return Some(waiting(RESTARTING_ALL, Some(LEFT_BEHIND.to_owned())));
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

    /// A container that has no process yet. `first`: it never had one.
    fn creating(self, spec: &ContainerSpec, first: bool) -> ContainerState {
        if let Some(failure) = self.observed.failure(&FailedStep::Container(spec.name.clone())) {
            return failed(self.now, failure, self.desired, spec);
        }
        let sandbox = self.observed.failure(&FailedStep::Sandbox);
        let reason = if first && !self.desired.init_containers.is_empty() {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
        waiting(reason, sandbox.map(|f| format!("{}: {}", f.reason.as_str(), f.message)))
    }
}

/// Kubernetes `images/image_manager.go EnsureImageExists` for the words about images.
fn failed(now: Timestamp, failure: &Failure, pod: &PodSpec, spec: &ContainerSpec) -> ContainerState {
    let reason = failure.reason.as_str();
    // The image of a volume holds a container up as its own does.
    let (image, message) = image_volume_of(pod, &failure.message).unwrap_or((&spec.image, &failure.message));
    match failure.reason {
        FailureReason::ErrImagePull | FailureReason::RegistryUnavailable if !is_pull_error_fresh(now, failure) => {
            let message = format!("Back-off pulling image \"{image}\": {reason}: {message}");
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
        | FailureReason::KillPodSandboxError
        | FailureReason::Deferred => waiting(reason, Some(message.to_owned())),
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

/// Reasons as containerd gives them, `ContainerStatusUnknown` as the kubelet does. Of what was left behind when all
/// containers restarted the kubelet says one and the same, however it ended.
fn terminated(desired: &PodSpec, attempt: &Attempt, exit: &Exit) -> ContainerState {
    let (signal, reason) = match exit.status {
        _ if attempt.is_left_behind() => (None, RESTARTING_ALL),
        ExitStatus::Code(0) => (None, "Completed"),
        ExitStatus::Code(_) => (None, "Error"),
        ExitStatus::Signal(signal) => (Some(signal), "Error"),
        ExitStatus::OomCode(_) => (None, "OOMKilled"),
        ExitStatus::OomSignal(signal) => (Some(signal), "OOMKilled"),
        ExitStatus::StartError => (None, "StartError"),
        ExitStatus::Lost => (None, "ContainerStatusUnknown"),
    };
    let (exit_code, message) = if attempt.is_left_behind() {
        (KILLED, LEFT_BEHIND)
    } else {
        (exit.status.exit_code(), exit.message.as_str())
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(desired, attempt)),
            exit_code,
            finished_at: Some(wire_time(exit.finished_at)),
            message: (!message.is_empty()).then(|| message.to_owned()),
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
            exit_code: KILLED,
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

/// Whom the container runs or ran as (`kubelet_pods.go convertToAPIContainerStatuses`).
fn user(user: &User) -> ContainerUser {
    let User {
        uid,
        gid,
        groups,
        home: _,
    } = user;
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: i64::from(*uid),
            gid: i64::from(*gid),
            supplemental_groups: Some(groups.iter().copied().map(i64::from).collect()),
        }),
    }
}

/// What is mounted, as the spec has it (kubelet: `recursiveReadOnly` is told of read-only mounts alone, and never
/// `IfPossible`).
fn volume_mounts(spec: &ContainerSpec) -> Option<Vec<VolumeMountStatus>> {
    let told = spec.mounts.iter().map(|mount| {
        let mode = if mount.recursive_read_only {
            "Enabled"
        } else {
            "Disabled"
        };
        VolumeMountStatus {
            mount_path: mount.path.display().to_string(),
            name: mount.volume.clone(),
            read_only: mount.read_only.then_some(true),
            recursive_read_only: mount.read_only.then(|| mode.to_owned()),
            volume_status: None,
        }
    });
    Some(told.collect::<Vec<_>>()).filter(|mounts| !mounts.is_empty())
}

/// What a container, or a pod as a whole, got (`status.containerStatuses[].resources`, `status.resources`); `None` when
/// nothing was asked for.
pub(super) fn resources(resources: &Resources) -> Option<ResourceRequirements> {
    let Resources {
        cpu_request_milli,
        cpu_limit_milli,
        memory_request,
        memory_limit,
        storage_request,
        storage_limit,
        hugepages,
    } = resources;
    let list = |cpu: Option<u64>, memory: Option<u64>, storage: Option<u64>| {
        let bytes = |name: &str, bytes: u64| (name.to_owned(), Quantity(quantity::bytes(bytes)));
        let cpu = cpu.map(|milli| ("cpu".to_owned(), Quantity(quantity::cpu(milli))));
        let memory = memory.map(|amount| bytes("memory", amount));
        let storage = storage.map(|amount| bytes("ephemeral-storage", amount));
        let pages = hugepages
            .iter()
            .map(|(size, amount)| bytes(&format!("hugepages-{}", quantity::bytes(*size)), *amount));
        let list: BTreeMap<String, Quantity> = cpu.into_iter().chain(memory).chain(storage).chain(pages).collect();
        (!list.is_empty()).then_some(list)
    };
    (!resources.is_empty()).then(|| ResourceRequirements {
        claims: None,
        limits: list(*cpu_limit_milli, *memory_limit, *storage_limit),
        requests: list(
            cpu_request_milli.or(*cpu_limit_milli),
            memory_request.or(*memory_limit),
            storage_request.or(*storage_limit),
        ),
    })
}
