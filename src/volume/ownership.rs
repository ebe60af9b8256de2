//! Volumes that belong to a group: `fsGroup`.
//!
//! Goes in: the pod, before its first container. Comes out: its volumes, owned by the group.
//!
//! Rules: Kubernetes `pkg/volume/volume_linux.go SetVolumeOwnership`; which kinds of volumes: `pkg/volume/emptydir`,
//! `configmap`, `secret`, `downwardapi` and `projected`. What is the machine's own (`hostPath`) or an image's stays as it is.
//!
//! **Invariant:** no link is followed, and nothing outside the volume is changed.

use std::path::Path;

use super::{VolumeError, Volumes, plain};
use crate::linux::ownership;
use crate::model::{PodSpec, VolumeSource};

impl Volumes {
    /// Give the pod's own directories to its group, those that are not the group's yet. A kubelet does that when it makes
    /// an emptyDir, and never again; `fsGroupChangePolicy` is for other kinds of volumes.
    ///
    /// # Errors
    /// The first file that cannot be given.
    pub fn give_to_group(&self, pod: &PodSpec) -> Result<(), VolumeError> {
        let Some(gid) = pod.security.fs_group else {
            return Ok(());
        };
        for volume in &pod.volumes {
            match &volume.source {
                VolumeSource::EmptyDir { .. } => {
                    let directory = self.pods.join(plain(pod.uid.as_str())?).join("volumes");
                    give(&directory.join(plain(&volume.name)?), gid)?;
                }
                // Their files are written with the group.
                VolumeSource::Projected { .. } | VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => {}
            }
        }
        Ok(())
    }
}

fn give(root: &Path, gid: u32) -> Result<(), VolumeError> {
    let is_given = ownership::is_given(root, gid).map_err(|source| VolumeError::Read {
        path: root.to_owned(),
        source,
    })?;
    if !is_given {
        ownership::give_to_group(root, gid)?;
    }
    Ok(())
}
