//! Limits: of a container, of a pod, and whom the kernel kills first.

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources,
};

use super::SpecInput;
use crate::linux::cgroup::{Controls, page_size_name};
use crate::model::{ContainerSpec, PodRuntime, PodSpec, QosClass, Resources};
use crate::shim::protocol::PodResources;

/// Microseconds over which a quota counts (kubelet `QuotaPeriod`).
const PERIOD: u64 = 100_000;
/// The least quota, in microseconds a period (kubelet `MinQuotaPeriod`).
const MIN_QUOTA: u64 = 1_000;
/// The kernel's limits for cpu shares (kubelet `MinShares`, `MaxShares`).
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// kubelet `pkg/kubelet/qos/policy.go`.
const GUARANTEED_OOM_SCORE: i32 = -997;
const BEST_EFFORT_OOM_SCORE: i32 = 1_000;

/// The pod's cgroup relative to each hierarchy's root, as a kubelet nests them: `<root>/pod<uid>` for Guaranteed pods, else
/// with the class between the two.
pub fn pod_cgroup(root: &str, pod: &PodSpec) -> String {
    match pod.qos_class() {
        QosClass::Guaranteed => format!("{root}/pod{}", pod.uid),
        QosClass::Burstable => format!("{root}/burstable/pod{}", pod.uid),
        QosClass::BestEffort => format!("{root}/besteffort/pod{}", pod.uid),
    }
}

/// Limits of the pod's own cgroup: shares for what the pod requests in all, and cpu and memory limits where every
/// container has one (kubelet `cm/helpers_linux.go`, `ResourceConfigForPod`), each with the pod's overhead
/// (`component-helpers/resource`, `PodRequests` and `PodLimits`). What the pod says of itself as a whole takes the place
/// of its containers' sum. `pids` is how many processes and threads a pod may have; `None`: only each container is limited.
pub fn pod_resources(pod: &PodSpec, controls: &Controls, pids: Option<i64>) -> PodResources {
    let every = |get: fn(&Resources) -> Option<u64>| {
        pod.containers
            .iter()
            .chain(&pod.init_containers)
            .all(|container| get(&container.resources).is_some_and(|limit| limit > 0))
    };
    let total = |get: fn(&Resources) -> Option<u64>| {
        let sum = || every(get).then(|| pod.at_most_at_once(|r| get(r).unwrap_or(0)));
        get(&pod.resources).or_else(sum)
    };
    let PodRuntime {
        class: _,
        overhead_cpu_milli,
        overhead_memory,
    } = pod.runtime;
    let cpu = total(|r| r.cpu_limit_milli).map(|milli| milli.saturating_add(overhead_cpu_milli));
    let memory = total(|r| r.memory_limit).map(|bytes| bytes.saturating_add(overhead_memory));
    PodResources {
        cpu_shares: Some(shares(pod.cpu_request_milli())),
        cpu_quota: cpu.and_then(quota),
        memory_limit: memory.and_then(limit),
        pids_limit: pids,
        hugepages: controls
            .page_sizes
            .iter()
            .map(|size| (page_size_name(*size), signed(pod.hugepages(*size))))
            .collect(),
    }
}

/// What a container of this pod may have: where it says nothing of a limit, what the whole pod may
/// (kubelet `kuberuntime_container_linux.go`, `getCPULimit`, `getMemoryLimit`).
pub(in crate::runtime) fn effective(pod: &PodSpec, resources: &Resources) -> Resources {
    let limit = |own: Option<u64>, pods: Option<u64>| own.filter(|limit| *limit > 0).or(pods);
    Resources {
        cpu_limit_milli: limit(resources.cpu_limit_milli, pod.resources.cpu_limit_milli),
        memory_limit: limit(resources.memory_limit, pod.resources.memory_limit),
        ..resources.clone()
    }
}

/// kubelet `GetContainerOOMScoreAdjust`: Guaranteed -997, `BestEffort` 1000, Burstable the less the more of the machine's
/// memory is requested, but never as low as Guaranteed nor as high as `BestEffort`. What the pod as a whole requests
/// beyond its containers counts for each of them alike. A sidecar is not killed before the containers that it serves: it
/// gets no more than what the least request among those gives. `memory` is the machine's, in bytes.
pub fn oom_score_adj(pod: &PodSpec, container: &ContainerSpec, memory: u64) -> i32 {
    let request = |container: &ContainerSpec| {
        let resources = &container.resources;
        resources.memory_request.or(resources.memory_limit).unwrap_or(0)
    };
    match pod.qos_class() {
        QosClass::Guaranteed => GUARANTEED_OOM_SCORE,
        QosClass::BestEffort => BEST_EFFORT_OOM_SCORE,
        QosClass::Burstable => {
            let own = request(container);
            let is_sidecar =
                container.is_sidecar() && pod.init_containers.iter().any(|init| init.name == container.name);
            let least = pod.containers.iter().map(request).min().filter(|_| is_sidecar);
            let counted = own.max(least.unwrap_or(0)).saturating_add(unclaimed(pod));
            let share = (u128::from(counted) * 1_000)
                .checked_div(u128::from(memory))
                .unwrap_or(0);
            let share = i32::try_from(share).unwrap_or(i32::MAX);
            (1_000 - share).clamp(1_000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
        }
    }
}

/// Each container's share of the memory that only the pod as a whole requests (kubelet `remainingPodMemReqPerContainer`).
fn unclaimed(pod: &PodSpec) -> u64 {
    let Some(request) = pod.resources.memory_request.or(pod.resources.memory_limit) else {
        return 0;
    };
    let claimed = pod.at_most_at_once(|r| r.memory_request.or(r.memory_limit).unwrap_or(0));
    let containers = (pod.containers.len() + pod.init_containers.len()).max(1);
    request.saturating_sub(claimed) / u64::try_from(containers).unwrap_or(u64::MAX)
}

pub(super) fn of_container(input: &SpecInput<'_>) -> LinuxResources {
    let resources = effective(input.pod, &input.container.resources);
    let mut all = limits(&resources, input.controls);
    let mut pids = LinuxPids::default();
    pids.set_limit(input.pids_limit);
    all.set_pids(Some(pids))
        .set_devices(Some(devices(input.container.security.privileged)));
    if input.controls.v2 {
        // Where one process of it must die for want of memory, all of it does: half a container is of no use (kubelet,
        // `singleProcessOOMKill: false`). v1 cannot do that.
        let group = ("memory.oom.group".to_owned(), "1".to_owned());
        let swap = ("memory.swap.max".to_owned(), "0".to_owned());
        let files = [Some(group), input.controls.swap.then_some(swap)];
        all.set_unified(Some(files.into_iter().flatten().collect()));
    }
    all
}

/// cpu, memory and huge pages of a container's cgroup. What has no limit is not named, but for huge pages, of which a
/// container has none unless it asked (kubelet `GetHugepageLimitsFromResources`). Nobody has any swap (kubelet, `NoSwap`):
/// in v1 that needs a limit of memory and is the same limit for both together.
pub(in crate::runtime) fn limits(resources: &Resources, controls: &Controls) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(shares(cpu_request(resources).unwrap_or(0))));
    if let Some(quota) = resources.cpu_limit_milli.and_then(quota) {
        cpu.set_quota(Some(quota)).set_period(Some(PERIOD));
    }
    let limit = resources.memory_limit.and_then(limit);
    let memory = limit.map(|limit| {
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit));
        if controls.swap && !controls.v2 {
            memory.set_swap(Some(limit));
        }
        memory
    });
    let pages = controls.page_sizes.iter().map(|size| {
        let mut page = LinuxHugepageLimit::default();
        page.set_page_size(page_size_name(*size))
            .set_limit(signed(resources.hugepages.get(size).copied().unwrap_or(0)));
        page
    });
    let pages: Vec<_> = pages.collect();
    let mut all = LinuxResources::default();
    all.set_cpu(Some(cpu))
        .set_memory(memory)
        .set_hugepage_limits((!pages.is_empty()).then_some(pages));
    all
}

/// Requests default to limits (Kubernetes `defaults.go`).
fn cpu_request(resources: &Resources) -> Option<u64> {
    resources.cpu_request_milli.or(resources.cpu_limit_milli)
}

/// kubelet `MilliCPUToShares`.
pub(in crate::runtime) fn shares(milli: u64) -> u64 {
    (milli.saturating_mul(1_024) / 1_000).clamp(MIN_SHARES, MAX_SHARES)
}

/// kubelet `MilliCPUToQuota`: microseconds in each period; none for 0.
fn quota(milli: u64) -> Option<i64> {
    let quota = milli.saturating_mul(PERIOD / 1_000).max(MIN_QUOTA);
    (milli > 0).then(|| i64::try_from(quota).unwrap_or(i64::MAX))
}

/// 0 is no limit.
fn limit(bytes: u64) -> Option<i64> {
    (bytes > 0).then(|| signed(bytes))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Nothing but the devices every container has (OCI config-linux.md, "Default Devices"), and nodes for others may be made
/// but not opened, as runc has it; or everything.
fn devices(privileged: bool) -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, B, C};
    if privileged {
        return vec![rule(true, A, None, None, "rwm")];
    }
    vec![
        rule(false, A, None, None, "rwm"),
        rule(true, C, None, None, "m"),
        rule(true, B, None, None, "m"),
        // null, zero, full, random, urandom.
        rule(true, C, Some(1), Some(3), "rwm"),
        rule(true, C, Some(1), Some(5), "rwm"),
        rule(true, C, Some(1), Some(7), "rwm"),
        rule(true, C, Some(1), Some(8), "rwm"),
        rule(true, C, Some(1), Some(9), "rwm"),
        // tty, console, ptmx, and the terminals of pts.
        rule(true, C, Some(5), Some(0), "rwm"),
        rule(true, C, Some(5), Some(1), "rwm"),
        rule(true, C, Some(5), Some(2), "rwm"),
        rule(true, C, Some(136), None, "rwm"),
    ]
}

fn rule(allow: bool, kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(kind))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}
