//! Other limits for a container that runs.
//!
//! Goes in: the cgroups of a container and of its pod, and what each shall have. Comes out: that written, or why not.
//!
//! A pod's limit is raised before a container's and lowered after it, each resource by itself, so that a container never
//! has more than its pod (kubelet `kuberuntime_manager.go`, `doPodResizeAction`); v1 would not even take it.
//!
//! **Invariant:** memory is never taken away from under a container: a limit below what is in use is refused before
//! anything is written, since v2 would kill for it. Written already, all is written again, with the same outcome.

use std::sync::Arc;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::spec;
use crate::linux::cgroup::{CgroupError, Cgroups, Controls, Limits};
use crate::model::Resources;
use crate::shim::protocol::PodResources;

/// What is to be limited, and how.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) pod_cgroup: String,
    pub(super) container_cgroup: String,
    pub(super) container: String,
    /// What it may have, with what it has from its pod ([`spec::effective`]).
    pub(super) resources: Resources,
    pub(super) controls: Arc<Controls>,
    /// What the pod shall have when all its containers have what they shall.
    pub(super) pod: PodResources,
}

/// Why the limits are as they were, or some of them.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResizeError {
    #[error("attempting to set container {container:?} memory limit ({limit}) below current usage ({usage})")]
    ContainerInUse { container: String, limit: u64, usage: u64 },
    #[error("attempting to set pod memory limit ({limit}) below current usage ({usage})")]
    PodInUse { limit: u64, usage: u64 },
    #[error("cannot resize")]
    Cgroup(#[from] CgroupError),
}

/// Write the limits. See the module's doc for the order.
pub(super) fn resize(cgroups: &Cgroups, target: &Target) -> Result<(), ResizeError> {
    let Target {
        pod_cgroup,
        container_cgroup,
        container,
        resources,
        controls,
        pod,
    } = target;
    // How many processes, and how many huge pages: neither can be changed.
    let PodResources {
        cpu_shares,
        cpu_quota,
        memory_limit,
        pids_limit: _,
        hugepages: _,
    } = *pod;
    let pod_memory = memory_limit.and_then(|limit| u64::try_from(limit).ok());
    if let Some((limit, usage)) = below_usage(cgroups, container_cgroup, resources.memory_limit)? {
        let container = container.clone();
        return Err(ResizeError::ContainerInUse {
            container,
            limit,
            usage,
        });
    }
    if let Some((limit, usage)) = below_usage(cgroups, pod_cgroup, pod_memory)? {
        return Err(ResizeError::PodInUse { limit, usage });
    }
    let present = cgroups.limits(pod_cgroup)?;
    let raises_cpu = is_more(cpu_quota, present.cpu_quota);
    let raises_memory = is_more(pod_memory, present.memory);
    let of_pod = |raised: bool| {
        let mut all = LinuxResources::default();
        if raises_cpu == raised {
            all.set_cpu(Some(cpu(cpu_shares, cpu_quota)));
        }
        if raises_memory == raised {
            all.set_memory(Some(memory(memory_limit, None)));
        }
        all
    };
    cgroups.apply(pod_cgroup, &of_pod(true))?;
    cgroups.apply(container_cgroup, &of_container(resources, controls))?;
    if !raises_cpu && !fits(cgroups, pod_cgroup, cpu_quota)? {
        // Another container of the pod is about to be made smaller; whoever comes last finds that all fit.
        let mut all = of_pod(false);
        all.set_cpu(None);
        return Ok(cgroups.apply(pod_cgroup, &all)?);
    }
    Ok(cgroups.apply(pod_cgroup, &of_pod(false))?)
}

/// Before a container is started anew, perhaps with other limits than it had: make the pod as large as it shall be, and
/// smaller where nothing stands in the way. Nothing is written where nothing changes.
pub(super) fn fit_pod(cgroups: &Cgroups, pod_cgroup: &str, pod: &PodResources) -> Result<(), ResizeError> {
    let PodResources {
        cpu_shares,
        cpu_quota,
        memory_limit,
        pids_limit: _,
        hugepages: _,
    } = *pod;
    let wanted = Limits {
        cpu_quota,
        memory: memory_limit.and_then(|limit| u64::try_from(limit).ok()),
    };
    let present = cgroups.limits(pod_cgroup)?;
    if present == wanted {
        return Ok(());
    }
    let mut all = LinuxResources::default();
    if is_more(wanted.cpu_quota, present.cpu_quota) || fits(cgroups, pod_cgroup, cpu_quota)? {
        all.set_cpu(Some(cpu(cpu_shares, cpu_quota)));
    }
    if below_usage(cgroups, pod_cgroup, wanted.memory)?.is_none() {
        all.set_memory(Some(memory(memory_limit, None)));
    }
    Ok(cgroups.apply(pod_cgroup, &all)?)
}

/// The new limit and what is in use, if that is more, and the limit is a lower one than now.
fn below_usage(cgroups: &Cgroups, path: &str, limit: Option<u64>) -> Result<Option<(u64, u64)>, CgroupError> {
    let Some(limit) = limit.filter(|limit| *limit > 0) else {
        return Ok(None);
    };
    if is_more(Some(limit), cgroups.limits(path)?.memory) {
        return Ok(None);
    }
    let usage = cgroups.memory_usage(path)?;
    Ok(usage.filter(|usage| *usage > limit).map(|usage| (limit, usage)))
}

/// Without a limit is more than any.
fn is_more<T: PartialOrd>(new: Option<T>, old: Option<T>) -> bool {
    match (new, old) {
        (None, old) => old.is_some(),
        (Some(_), None) => false,
        (Some(new), Some(old)) => new > old,
    }
}

/// Whether no container of the pod may use more of the cpus than the pod shall.
fn fits(cgroups: &Cgroups, pod: &str, quota: Option<i64>) -> Result<bool, CgroupError> {
    let Some(quota) = quota else { return Ok(true) };
    for name in cgroups.list(pod)? {
        match cgroups.limits(&format!("{pod}/{name}")) {
            Ok(Limits { cpu_quota, memory: _ }) if cpu_quota.is_some_and(|own| own > quota) => return Ok(false),
            // One that has just ended is not in the way.
            Ok(_) | Err(CgroupError::Read { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// As a start would have it, and what is not limited any more is said so.
fn of_container(resources: &Resources, controls: &Controls) -> LinuxResources {
    let limits = spec::limits(resources, controls);
    let shares = limits.cpu().as_ref().and_then(LinuxCpu::shares);
    let quota = limits.cpu().as_ref().and_then(LinuxCpu::quota);
    let limit = limits.memory().as_ref().and_then(LinuxMemory::limit);
    let swap = limits.memory().as_ref().and_then(LinuxMemory::swap);
    // In v2 nobody has any swap, whatever the limit of memory is.
    let swap = swap.or_else(|| (controls.swap && !controls.v2).then_some(UNLIMITED));
    let mut all = LinuxResources::default();
    all.set_cpu(Some(cpu(shares, quota)))
        .set_memory(Some(memory(limit, swap)));
    all
}

/// OCI config-linux.md: no limit.
const UNLIMITED: i64 = -1;
/// Microseconds over which a quota counts (kubelet `QuotaPeriod`).
const PERIOD: u64 = 100_000;

fn cpu(shares: Option<u64>, quota: Option<i64>) -> LinuxCpu {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(shares)
        .set_quota(Some(quota.unwrap_or(UNLIMITED)))
        .set_period(Some(PERIOD));
    cpu
}

fn memory(limit: Option<i64>, swap: Option<i64>) -> LinuxMemory {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(limit.unwrap_or(UNLIMITED))).set_swap(swap);
    memory
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Files shaped like a machine's v2 hierarchy, with one pod and one container.
    struct Fake {
        dir: tempfile::TempDir,
        cgroups: Cgroups,
    }

    impl Fake {
        fn new(pod: (&str, &str, &str), container: (&str, &str, &str)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
            for (path, (cpu, memory, usage)) in [("pod", pod), ("pod/web-0", container)] {
                let path = dir.path().join(path);
                fs::create_dir_all(&path).unwrap();
                for (file, text) in [
                    ("cpu.max", cpu),
                    ("memory.max", memory),
                    ("memory.current", usage),
                    ("cpu.weight", "1"),
                    ("memory.swap.max", "0"),
                ] {
                    fs::write(path.join(file), text).unwrap();
                }
            }
            let cgroups = Cgroups::detect(dir.path()).unwrap();
            Self { dir, cgroups }
        }

        fn resize(&self, cpu_milli: Option<u64>, memory: Option<u64>) -> Result<(), ResizeError> {
            let resources = Resources {
                cpu_request_milli: cpu_milli,
                cpu_limit_milli: cpu_milli,
                memory_request: memory,
                memory_limit: memory,
                ..Resources::default()
            };
            let pod = PodResources {
                cpu_shares: Some(512),
                cpu_quota: cpu_milli.map(|milli| i64::try_from(milli * 100).unwrap()),
                memory_limit: memory.map(|bytes| i64::try_from(bytes).unwrap()),
                ..PodResources::default()
            };
            let target = Target {
                pod_cgroup: "pod".to_owned(),
                container_cgroup: "/pod/web-0".to_owned(),
                container: "web".to_owned(),
                resources,
                controls: Arc::new(Controls {
                    v2: true,
                    swap: true,
                    page_sizes: Vec::new(),
                }),
                pod,
            };
            resize(&self.cgroups, &target)
        }

        fn text(&self, path: &str) -> String {
            fs::read_to_string(self.dir.path().join(Path::new(path))).unwrap()
        }

        fn limits(&self) -> [String; 4] {
            [
                "pod/cpu.max",
                "pod/memory.max",
                "pod/web-0/cpu.max",
                "pod/web-0/memory.max",
            ]
            .map(|path| self.text(path))
        }
    }

    #[test]
    fn container_and_pod_get_what_they_shall_have() {
        let fake = Fake::new(("50000 100000", "67108864", "1"), ("50000 100000", "67108864", "1"));
        fake.resize(Some(200), Some(128 * MIB)).unwrap();
        let expected = ["20000 100000", "134217728", "20000 100000", "134217728"];
        assert_eq!(fake.limits(), expected);
        fake.resize(Some(200), Some(128 * MIB)).unwrap();
        assert_eq!(fake.limits(), expected, "a second time changes nothing");
    }

    #[test]
    fn what_is_not_limited_any_more_is_said_so() {
        // Shorter than what is written: a real file forgets what it was, these do not.
        let fake = Fake::new(("5 10", "7", "1"), ("5 10", "7", "1"));
        fake.resize(None, None).unwrap();
        assert_eq!(fake.limits(), ["max 100000", "max", "max 100000", "max"]);
        assert_eq!(fake.text("pod/web-0/memory.swap.max"), "0", "there never is any swap");
    }

    #[test]
    fn memory_in_use_is_not_taken_away_and_nothing_is_written() {
        let present = ("50000 100000", "134217728", "100000000");
        let fake = Fake::new(present, present);
        let before = fake.limits();
        let error = fake.resize(Some(100), Some(64 * MIB)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "attempting to set container \"web\" memory limit (67108864) below current usage (100000000)"
        );
        assert_eq!(fake.limits(), before);
        let fake = Fake::new(present, ("50000 100000", "134217728", "1"));
        let error = fake.resize(Some(100), Some(64 * MIB)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "attempting to set pod memory limit (67108864) below current usage (100000000)"
        );
    }

    #[test]
    fn a_pod_stays_as_large_as_its_largest_container() {
        let fake = Fake::new(("60000 100000", "max", "1"), ("10000 100000", "max", "1"));
        let other = fake.dir.path().join("pod/other-0");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("cpu.max"), "50000 100000").unwrap();
        fs::write(other.join("memory.max"), "max").unwrap();
        fake.resize(Some(200), None).unwrap();
        assert_eq!(fake.text("pod/cpu.max"), "60000 100000");
        fs::write(other.join("cpu.max"), "10000 100000").unwrap();
        fake.resize(Some(200), None).unwrap();
        assert_eq!(fake.text("pod/cpu.max"), "20000 100000");
    }

    #[test]
    fn a_pod_grows_before_a_container_that_is_started_anew() {
        let fake = Fake::new(
            ("20000 100000", "67108864", "60000000"),
            ("20000 100000", "67108864", "1"),
        );
        let fit = |quota: i64, memory: u64| {
            let pod = PodResources {
                cpu_shares: Some(512),
                cpu_quota: Some(quota),
                memory_limit: Some(i64::try_from(memory).unwrap()),
                ..PodResources::default()
            };
            fit_pod(&fake.cgroups, "pod", &pod).unwrap();
            [fake.text("pod/cpu.max"), fake.text("pod/memory.max")]
        };
        assert_eq!(fit(50_000, 80 * MIB), ["50000 100000", "83886080"]);
        // What is used is left, and so is what a container may use.
        assert_eq!(fit(10_000, 32 * MIB), ["50000 100000", "83886080"]);
        assert_eq!(fit(20_000, 64 * MIB), ["20000 100000", "67108864"]);
    }

    /// A pod's cgroup of this machine, which takes what it is told as the kernel does.
    struct Real {
        cgroups: Cgroups,
        pod: String,
    }

    impl Drop for Real {
        fn drop(&mut self) {
            let _removed = self.cgroups.remove(&self.pod);
        }
    }

    #[test]
    fn the_kernel_takes_every_step_in_this_order() {
        let cgroups = Cgroups::detect(Path::new("/sys/fs/cgroup")).unwrap();
        let real = Real {
            cgroups,
            pod: format!("podd-resize-test-{}", std::process::id()),
        };
        let container_cgroup = format!("{}/web-0", real.pod);
        real.cgroups.create(&container_cgroup).unwrap();
        for (cpu, memory) in [
            (Some(500), Some(64 * MIB)),
            (Some(1500), Some(256 * MIB)),
            (Some(200), Some(256 * MIB)),
            (Some(400), Some(32 * MIB)),
            (None, None),
            (Some(100), Some(64 * MIB)),
        ] {
            let quota = cpu.map(|milli| i64::try_from(milli * 100).unwrap());
            let target = Target {
                pod_cgroup: real.pod.clone(),
                container_cgroup: container_cgroup.clone(),
                container: "web".to_owned(),
                resources: Resources {
                    cpu_request_milli: None,
                    cpu_limit_milli: cpu,
                    memory_request: None,
                    memory_limit: memory,
                    ..Resources::default()
                },
                controls: Arc::new(Controls::of(&real.cgroups, Path::new("/"))),
                pod: PodResources {
                    cpu_shares: Some(512),
                    cpu_quota: quota,
                    memory_limit: memory.map(|bytes| i64::try_from(bytes).unwrap()),
                    ..PodResources::default()
                },
            };
            resize(&real.cgroups, &target).unwrap();
            let expected = Limits {
                cpu_quota: quota,
                memory,
            };
            for path in [&real.pod, &container_cgroup] {
                assert_eq!(real.cgroups.limits(path).unwrap(), expected, "{path}");
            }
        }
    }
}
