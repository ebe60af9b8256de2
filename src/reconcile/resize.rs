//! Containers that are to have other resources than they have.
//!
//! Rules: Kubernetes `kuberuntime_manager.go computePodResizeAction`, `pkg/kubelet/allocation` (`canResizePod`).

use crate::model::{Attempt, Capacity, ContainerSpec, PodSpec, Resources};

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

/// Why no resize of this pod can ever be done, in a kubelet's words: all its containers together ask for more than the
/// machine has.
pub(crate) fn infeasible(desired: &PodSpec, capacity: Option<Capacity>) -> Option<String> {
    let Capacity {
        cpu_milli,
        memory,
        storage: _,
    } = capacity?;
    let sidecars = desired
        .init_containers
        .iter()
        .filter(|container| container.is_sidecar());
    let (mut cpu_wanted, mut memory_wanted) = (0_u64, 0_u64);
    for Resources {
        cpu_request_milli,
        cpu_limit_milli,
        memory_request,
        memory_limit,
        storage_request: _,
        storage_limit: _,
        hugepages: _,
    } in sidecars
        .chain(&desired.containers)
        .map(|container| &container.resources)
    {
        cpu_wanted = cpu_wanted.saturating_add(cpu_request_milli.or(*cpu_limit_milli).unwrap_or_default());
        memory_wanted = memory_wanted.saturating_add(memory_request.or(*memory_limit).unwrap_or_default());
    }
    let (what, wanted, has) = if cpu_wanted > cpu_milli {
        ("cpu", cpu_wanted, cpu_milli)
    } else if memory_wanted > memory {
        ("memory", memory_wanted, memory)
    } else {
        return None;
    };
    Some(format!(
        "Node didn't have enough capacity: {what}, requested: {wanted}, capacity: {has}"
    ))
}
