//! `status.phase`.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

use super::containers::RESTARTING_ALL;
use crate::model::{ContainerSpec, PodSpec};
use crate::reconcile::{Fate, fate_of_code};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    fn is_terminal(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed => true,
        }
    }
}

/// What a phase rests on, beside the pod itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// Nothing of the pod runs or will run again, and its sandbox is gone.
    pub(super) over: bool,
    /// Something of it may still run.
    pub(super) lives: bool,
    /// It was given up.
    pub(super) given_up: bool,
}

/// Kubernetes `kubelet_pods.go getPhase`, and `generateAPIPodStatus`: a terminal phase is never left, and never entered
/// while anything of the pod may still run (`status_manager.go mergePodStatus`).
pub(super) fn phase(
    desired: &PodSpec,
    ends: Ends,
    init: &[ContainerStatus],
    containers: &[ContainerStatus],
    previous: Option<&PodStatus>,
) -> Phase {
    match previous.and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => return Phase::Succeeded,
        Some("Failed") => return Phase::Failed,
        Some(_) | None => {}
    }
    if ends.over && ends.given_up {
        return Phase::Failed;
    }
    let phase = by_containers(desired, ends.over, init, containers);
    if phase.is_terminal() && ends.lives {
        return if has_started(containers) {
            Phase::Running
        } else {
            Phase::Pending
        };
    }
    if phase.is_terminal() && ends.given_up {
        return Phase::Failed;
    }
    phase
}

fn by_containers(desired: &PodSpec, over: bool, init: &[ContainerStatus], containers: &[ContainerStatus]) -> Phase {
    let (mut running, mut waiting, mut failed, mut restarting) = (0, 0, 0, 0);
    for (spec, container) in desired.containers.iter().zip(containers) {
        if is_running(container) {
            running += 1;
        } else {
            // A container that waits to be started again counts as stopped, by how it ended last.
            match end(container) {
                None => waiting += 1,
                Some(end) => {
                    failed += u32::from(end.exit_code != 0);
                    restarting += u32::from(restarts(desired, spec, end));
                }
            }
        }
    }
    let by_exit_codes = if failed == 0 { Phase::Succeeded } else { Phase::Failed };
    if over {
        // `TerminatePod`: what never ran has failed.
        return if waiting == 0 && running == 0 {
            by_exit_codes
        } else {
            Phase::Failed
        };
    }
    let (mut pending_init, mut pending_sidecars, mut failed_init) = (0, 0, 0);
    for (spec, container) in desired.init_containers.iter().zip(init) {
        if spec.is_sidecar() {
            // One that has ended counts neither way: it will be back, and it decides nothing.
            if is_running(container) {
                running += 1;
                pending_sidecars += u32::from(container.started != Some(true));
            } else if end(container).is_none() {
                pending_sidecars += 1;
                waiting += 1;
            }
        } else if is_running(container) {
            pending_init += 1;
        } else {
            match end(container) {
                None => pending_init += 1,
                Some(end) => failed_init += u32::from(end.exit_code != 0 && !restarts(desired, spec, end)),
            }
        }
    }
    if failed_init > 0 {
        return Phase::Failed;
    }
    if pending_init > 0 || (pending_sidecars > 0 && !has_started(containers)) || waiting > 0 {
        return Phase::Pending;
    }
    if running > 0 || restarting > 0 {
        return Phase::Running;
    }
    by_exit_codes
}

/// The container is to be started again after this end.
fn restarts(desired: &PodSpec, container: &ContainerSpec, end: &ContainerStateTerminated) -> bool {
    let is_left_behind = end.reason.as_deref() == Some(RESTARTING_ALL);
    is_left_behind || fate_of_code(desired, container, end.exit_code) != Fate::Done
}

fn is_running(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// The end of a container that does not run, as it is or as it was last.
fn end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let mut states = [&container.state, &container.last_state].into_iter().flatten();
    states.find_map(|state| state.terminated.as_ref())
}

/// A regular container was started, now or before: the pod was initialised (`HasAnyRegularContainerStarted`).
pub(super) fn has_started(containers: &[ContainerStatus]) -> bool {
    containers
        .iter()
        .any(|container| is_running(container) || end(container).is_some())
}
