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
    /// an emptyDir, whatever `fsGroupChangePolicy` says; looked at again, one that is right is left alone.
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
                    give(&directory.join(plain(&volume.name)?), gid, false, true)?;
                }
                // Their files are written with the group.
                VolumeSource::Projected { .. } | VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => {}
            }
        }
        Ok(())
    }
}

/// Give a volume to a group. `on_root_mismatch`: only when its root is not the group's yet (`fsGroupChangePolicy`).
///
/// # Errors
/// The first file that cannot be given.
pub fn give(root: &Path, gid: u32, read_only: bool, on_root_mismatch: bool) -> Result<(), VolumeError> {
    let looked = || {
        ownership::is_given(root, gid, read_only).map_err(|source| VolumeError::Read {
            path: root.to_owned(),
            source,
        })
    };
    if on_root_mismatch && looked()? {
        return Ok(());
    }
    Ok(ownership::give_to_group(root, gid, read_only)?)
}
