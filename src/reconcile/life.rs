//! What is true of one attempt, from its record alone.
//!
//! Goes in: a container as it is wanted, and one of its attempts. Comes out: whether it is started and ready.
//!
//! **Invariant:** nothing but the record counts, so that a new agent says the same as the one before it.

use crate::model::{Attempt, AttemptState, ContainerSpec, HookRecord, Observed, PodSpec, ProbeKind};

/// The attempt runs, its postStart hook is done, and its startup probe has passed, if there are such: only then does the
/// container after it begin (Kubernetes `prober_manager.go isContainerStarted`).
pub fn is_started(container: &ContainerSpec, attempt: &Attempt) -> bool {
    is_running(attempt)
        && is_post_start_over(container, attempt)
        && (container.life.startup.is_none() || attempt.life.startup.result == Some(true))
}

/// The attempt is started, and its readiness probe says so, if there is one (`prober_manager.go UpdatePodStatus`).
pub fn is_ready(container: &ContainerSpec, attempt: &Attempt) -> bool {
    is_started(container, attempt)
        && (container.life.readiness.is_none() || attempt.life.readiness.result == Some(true))
}

/// The probes of a container that are to run now: the startup probe alone before it is started, then the two others. At
/// the container's end readiness alone goes on; a startup probe with a result and a liveness probe that failed rest until
/// there is a new attempt (Kubernetes `pkg/kubelet/prober/worker.go`).
pub fn probes_due(desired: &PodSpec, observed: &Observed, container: &str) -> Vec<ProbeKind> {
    let mut due = Vec::new();
    let sidecars = desired.init_containers.iter().filter(|spec| spec.is_sidecar());
    let spec = desired
        .containers
        .iter()
        .chain(sidecars)
        .find(|spec| spec.name == container);
    let (Some(spec), Some(attempt)) = (spec, observed.newest(container)) else {
        return due;
    };
    let is_ending = desired.deletion.is_some() || observed.given_up.is_some() || attempt.life.stop.is_some();
    let awaits_startup = is_running(attempt)
        && spec.life.startup.is_some()
        && is_post_start_over(spec, attempt)
        && attempt.life.startup.result.is_none();
    if awaits_startup && !is_ending {
        due.push(ProbeKind::Startup);
    }
    let is_started = is_started(spec, attempt);
    if is_started && !is_ending && spec.life.liveness.is_some() && attempt.life.liveness.result != Some(false) {
        due.push(ProbeKind::Liveness);
    }
    if is_started && spec.life.readiness.is_some() {
        due.push(ProbeKind::Readiness);
    }
    due
}

pub(crate) fn is_running(attempt: &Attempt) -> bool {
    matches!(attempt.state, AttemptState::Running { .. })
}

/// There is no postStart hook, or it was done. One that failed is never over: the container goes.
pub(super) fn is_post_start_over(container: &ContainerSpec, attempt: &Attempt) -> bool {
    container.life.post_start.is_none() || matches!(attempt.life.post_start, HookRecord::Done { .. })
}

/// The postStart hook is still to be run or under way: nothing after this container is started before it ends.
pub(super) fn awaits_post_start(container: &ContainerSpec, attempt: &Attempt) -> bool {
    container.life.post_start.is_some()
        && attempt.life.stop.is_none()
        && matches!(attempt.life.post_start, HookRecord::NotRun | HookRecord::Begun { .. })
}
