//! Containers that are to have other resources than they have.
//!
//! Rules: Kubernetes `kuberuntime_manager.go computePodResizeAction`, `pkg/kubelet/allocation` (`canResizePod`).

use crate::model::{Attempt, Capacity, Claim, ContainerSpec, Observed, PodSpec, Resources, Step, StopReason};

/// The container is to have other resources than it has.
pub(crate) fn is_resized(container: &ContainerSpec, running: &Attempt) -> bool {
    let has = running.life.resources.as_ref();
    has.is_some_and(|has| *has != container.resources)
}

/// `resizePolicy` answers this resize with a restart.
pub(super) fn restarts_when_resized(container: &ContainerSpec, running: &Attempt) -> bool {
    let cpu = |of: &Resources| (of.cpu_request_milli, of.cpu_limit_milli);
    let memory = |of: &Resources| (of.memory_request, of.memory_limit);
    let (policy, wants) = (container.life.resize_policy, &container.resources);
    running.life.resources.as_ref().is_some_and(|has| {
        policy.cpu_restarts && cpu(has) != cpu(wants) || policy.memory_restarts && memory(has) != memory(wants)
    })
}

/// Why no resize of this pod can ever be done, in a kubelet's words: it asks for more than the machine has.
pub(crate) fn infeasible(desired: &PodSpec, capacity: Option<Capacity>) -> Option<String> {
    let Capacity {
        cpu_milli,
        memory,
        storage: _,
    } = capacity?;
    let Claim {
        cpu_milli: cpu_wanted,
        memory: memory_wanted,
        storage: _,
        hugepages: _,
        ports: _,
    } = desired.claim();
    let (what, wanted, has) = if memory_wanted > memory {
        ("memory", memory_wanted, memory)
    } else if cpu_wanted > cpu_milli {
        ("cpu", cpu_wanted, cpu_milli)
    } else {
        return None;
    };
    Some(format!(
        "Node didn't have enough capacity: {what}, requested: {wanted}, capacity: {has}"
    ))
}

/// Carrying out this step gives a container other resources than it had: there must be room for them before.
pub(crate) fn needs_room(desired: &PodSpec, observed: &Observed, step: &Step) -> bool {
    match step {
        Step::Resize { .. } => true,
        Step::BeginStop { stop, .. } => stop.why == StopReason::Resized,
        Step::StartContainer { container, .. } => match (desired.container(container), observed.newest(container)) {
            (Some(spec), Some(newest)) => is_resized(spec, newest),
            // Nothing tells what it was to have before the pod was changed.
            (Some(_), None) => desired.generation > 1,
            (None, _) => false,
        },
        Step::CreateSandbox { .. }
        | Step::StopSandbox { .. }
        | Step::RunHook { .. }
        | Step::GiveUp { .. }
        | Step::StopContainer { .. }
        | Step::KillContainer { .. }
        | Step::TearDown
        | Step::Forget => false,
    }
}

/// Every container has, or had last, what it is to have.
pub(crate) fn is_settled(desired: &PodSpec, observed: &Observed) -> bool {
    let mut all = desired.init_containers.iter().chain(&desired.containers);
    all.all(|container| {
        let newest = observed.newest(&container.name);
        newest.is_some_and(|newest| !is_resized(container, newest))
    })
}

/// The pod with the resources that its containers had last: how it goes on while a resize of it waits for room
/// (Kubernetes `pkg/kubelet/allocation`, `UpdatePodFromAllocation`).
pub(crate) fn as_allotted(desired: &PodSpec, observed: &Observed) -> PodSpec {
    let mut allotted = desired.clone();
    for container in allotted.init_containers.iter_mut().chain(&mut allotted.containers) {
        let newest = observed.newest(&container.name);
        if let Some(had) = newest.and_then(|newest| newest.life.resources.clone()) {
            container.resources = had;
        }
    }
    allotted
}
