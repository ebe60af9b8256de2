//! The sandbox itself: the pod's cgroup and the infra process in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxHugepageLimit, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::protocol::{PodResources, SandboxConfig, Users};
use crate::linux::cgroup::{CgroupError, Cgroups};
use crate::linux::container::Machine;
use crate::linux::idmap::{self, MapError};
use crate::linux::infra::{self, InfraConfig, Sysctl, UserIds};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

#[derive(Debug, thiserror::Error)]
pub(super) enum InfraFailure {
    #[error("control groups")]
    Cgroup(#[from] CgroupError),
    #[error("machine")]
    Machine(#[from] io::Error),
    #[error(transparent)]
    Infra(#[from] infra::InfraError),
    #[error("user namespace: {}", path.display())]
    Unmapped {
        path: PathBuf,
        #[source]
        source: MapError,
    },
}

/// The pod's cgroup with its limits, and infra in a cgroup beneath it.
pub(super) fn make_infra(config: &SandboxConfig, mounts: &OwnedFd) -> Result<(Machine, infra::Infra), InfraFailure> {
    let cgroups = Cgroups::detect(Path::new(CGROUP_ROOT))?;
    cgroups.create(&config.cgroup)?;
    cgroups.apply(&config.cgroup, &pod_resources(&config.resources))?;
    let cgroup = infra_cgroup(config);
    cgroups.create(&cgroup)?;
    let entry = cgroups.entry(&cgroup)?;
    let sysctls = config.sysctls.iter().map(|(name, value)| Sysctl::new(name, value));
    let infra = infra::start(&InfraConfig {
        host_network: config.host_network,
        host_pid: config.host_pid,
        host_ipc: config.host_ipc,
        sysctls: sysctls.collect::<Result<_, _>>()?,
        users: config
            .users
            .as_ref()
            .map(|&Users { first, count, .. }| UserIds { first, count }),
        hostname: &config.hostname,
        oom_score_adj: config.oom_score_adj,
        cgroup: entry,
        mounts: mounts.as_fd(),
    })?;
    for path in config.users.iter().flat_map(|users| &users.mapped) {
        let unmapped = |source| InfraFailure::Unmapped {
            path: path.clone(),
            source,
        };
        idmap::try_mapped(path, infra.pid).map_err(unmapped)?;
    }
    Ok((Machine::look(cgroups)?, infra))
}

pub(super) fn infra_cgroup(config: &SandboxConfig) -> String {
    format!("{}/infra", config.cgroup)
}

fn pod_resources(limits: &PodResources) -> LinuxResources {
    let PodResources {
        cpu_shares,
        cpu_quota,
        memory_limit,
        pids_limit,
        hugepages,
    } = limits;
    let mut resources = LinuxResourcesBuilder::default();
    if cpu_shares.is_some() || cpu_quota.is_some() {
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(shares) = cpu_shares {
            cpu = cpu.shares(*shares);
        }
        if let Some(quota) = cpu_quota {
            cpu = cpu.quota(*quota).period(100_000_u64);
        }
        resources = resources.cpu(cpu.build().expect("every field has a default"));
    }
    if let Some(limit) = memory_limit {
        let memory = LinuxMemoryBuilder::default().limit(*limit);
        resources = resources.memory(memory.build().expect("every field has a default"));
    }
    if let Some(limit) = pids_limit {
        resources = resources.pids(
            LinuxPidsBuilder::default()
                .limit(*limit)
                .build()
                .expect("the limit is given"),
        );
    }
    if !hugepages.is_empty() {
        let limits = hugepages.iter().map(|(size, limit)| {
            let mut page = LinuxHugepageLimit::default();
            page.set_page_size(size.clone()).set_limit(*limit);
            page
        });
        resources = resources.hugepage_limits(limits.collect::<Vec<_>>());
    }
    resources.build().expect("every field has a default")
}
