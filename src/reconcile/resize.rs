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
    let wanted = |get: fn(&Resources) -> Option<u64>| {
        let sidecars = desired.init_containers.iter().filter(|init| init.is_sidecar());
        let all = sidecars.chain(&desired.containers);
        let sum = || {
            let each = all.map(|container| get(&container.resources).unwrap_or_default());
            each.fold(0, u64::saturating_add)
        };
        // What the pod says of itself as a whole is what counts.
        get(&desired.resources).unwrap_or_else(sum)
    };
    let cpu_wanted = wanted(|r| r.cpu_request_milli.or(r.cpu_limit_milli));
    let memory_wanted = wanted(|r| r.memory_request.or(r.memory_limit));
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
