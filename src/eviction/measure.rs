//! What one pod may use of the disk, and whether it does.

use std::io;
use std::path::{Path, PathBuf};

use crate::linux::usage;
use crate::model::{EmptyDirMedium, MIRROR, Observed, PodSpec, VolumeSource, bytes_text};
use crate::runtime::LogDirName;

/// A pod with limits, and where it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limited {
    volumes: Vec<Volume>,
    containers: Vec<Container>,
    /// Of the whole pod, in bytes.
    limit: Option<u64>,
    /// The logs of all its containers.
    logs: PathBuf,
}

/// An emptyDir on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Volume {
    name: String,
    path: PathBuf,
    limit: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Container {
    name: String,
    /// What its live attempt writes to its root file system; `None`: it does not live.
    upper: Option<PathBuf>,
    logs: PathBuf,
    limit: Option<u64>,
}

impl Limited {
    /// `None`: the pod has no limit, or is never evicted. `pods` and `log_dir` are those of all pods.
    pub(super) fn of(pod: &PodSpec, observed: &Observed, pods: &Path, log_dir: &Path) -> Option<Self> {
        let limit = pod.storage_limit();
        let is_limited = |volume: &crate::model::Volume| match volume.source {
            VolumeSource::EmptyDir { medium, size_limit } => medium == EmptyDirMedium::Disk && size_limit.is_some(),
            VolumeSource::HostPath { .. } | VolumeSource::Image { .. } | VolumeSource::Projected { .. } => false,
        };
        let has_limit = limit.is_some() || pod.volumes.iter().any(is_limited);
        // Nobody would put another in the place of one that a file of the machine asks for: it is critical, and never
        // evicted (`eviction_manager.go evictPod`, `types.IsCriticalPod`).
        if !has_limit || pod.about.annotations.contains_key(MIRROR) {
            return None;
        }
        let own = pods.join(pod.uid.as_str());
        let logs = log_dir.join(LogDirName::of(pod).0);
        let volumes = pod.volumes.iter().filter_map(|volume| match volume.source {
            VolumeSource::EmptyDir {
                medium: EmptyDirMedium::Disk,
                size_limit,
            } => Some(Volume {
                name: volume.name.clone(),
                path: own.join("volumes").join(&volume.name),
                limit: size_limit,
            }),
            VolumeSource::EmptyDir {
                medium: EmptyDirMedium::Memory,
                ..
            }
            | VolumeSource::HostPath { .. }
            | VolumeSource::Image { .. }
            | VolumeSource::Projected { .. } => None,
        });
        let is_regular = |name: &str| pod.containers.iter().any(|container| container.name == name);
        let containers = pod
            .init_containers
            .iter()
            .chain(&pod.containers)
            .chain(&pod.ephemeral_containers);
        let containers = containers.map(|container| {
            let name = &container.name;
            let live = observed.newest(name).filter(|newest| newest.is_live());
            Container {
                name: name.clone(),
                upper: live.map(|live| own.join(name).join(live.attempt.to_string()).join("upper")),
                logs: logs.join(name),
                // A kubelet looks at regular containers alone; of the others it counts what the whole pod uses.
                limit: container.resources.storage_limit.filter(|_| is_regular(name)),
            }
        });
        Some(Self {
            volumes: volumes.collect(),
            containers: containers.collect(),
            limit,
            logs,
        })
    }

    /// Which limit the pod is over, in a kubelet's words; `None`: none. What cannot be read is not counted.
    pub(super) fn excess(&self) -> Option<String> {
        let mut total = 0_u64;
        for volume in &self.volumes {
            // Counted for the pod as well, if that has a limit.
            if volume.limit.is_none() && self.limit.is_none() {
                continue;
            }
            let used = used(&volume.path);
            if let Some(limit) = volume.limit.filter(|limit| used > *limit) {
                return Some(format!(
                    "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                    volume.name,
                    bytes_text(limit)
                ));
            }
            total = total.saturating_add(used);
        }
        let limit = self.limit?;
        let written = |container: &Container| container.upper.as_deref().map_or(0, used);
        let written: Vec<u64> = self.containers.iter().map(written).collect();
        total = written.iter().fold(total, |sum, used| sum.saturating_add(*used));
        total = total.saturating_add(used(&self.logs));
        if total > limit {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
                bytes_text(limit)
            ));
        }
        for (container, written) in self.containers.iter().zip(written) {
            let Some(limit) = container.limit else { continue };
            if written.saturating_add(used(&container.logs)) > limit {
                return Some(format!(
                    "Container {} exceeded its local ephemeral storage limit {:?}. ",
                    container.name,
                    bytes_text(limit)
                ));
            }
        }
        None
    }
}

fn used(path: &Path) -> u64 {
    usage::of(path).unwrap_or_else(|error: io::Error| {
        tracing::debug!(path = %path.display(), %error, "cannot measure");
        0
    })
}
