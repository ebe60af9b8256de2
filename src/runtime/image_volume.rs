//! Volumes that are images: found, brought and mounted before a container that wants one is started.
//!
//! Goes in: a pod and a container of it. Comes out: the volumes' layers, or what Kubernetes calls it when an image is not
//! there: the failure is the container's own (kubelet `toKubeContainerImageVolumes`).
//!
//! **Invariant:** a volume means one image for the whole life of its pod, over restarts of containers, agent and machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::StepError;
use super::machine::{Machine, step};
use crate::model::{ContainerSpec, FailureReason, PodSpec, VolumeSource};
use crate::volume::{Prepared, Volumes};

/// Unpacked layers, topmost first, by the volume's name.
pub(super) type VolumeLayers = BTreeMap<String, Vec<PathBuf>>;

impl Machine {
    /// The layers of the image volumes that this container mounts.
    pub(super) async fn volume_layers(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
    ) -> Result<VolumeLayers, StepError> {
        let mut layers = BTreeMap::new();
        for volume in &pod.volumes {
            let VolumeSource::Image { reference, pull_policy } = &volume.source else {
                continue;
            };
            if !container.mounts.iter().any(|mount| mount.volume == volume.name) {
                continue;
            }
            let bound = self.images.volume(&pod.uid, &volume.name, reference).await;
            let image = match bound.map_err(|error| Self::unresolved(&error))? {
                Some(image) => image,
                None => return Err(Self::absent(reference, *pull_policy)),
            };
            layers.insert(volume.name.clone(), image.layers);
        }
        Ok(layers)
    }
}

/// Mount them on the machine, and say where.
pub(super) fn mount(
    volumes: &Volumes,
    pod: &PodSpec,
    layers: &VolumeLayers,
    prepared: &mut Prepared,
) -> Result<(), StepError> {
    for (name, layers) in layers {
        let path = volumes
            .mount_image(&pod.uid, name, layers)
            .map_err(|error| step(FailureReason::FailedMount, &error))?;
        prepared.sources.insert(name.clone(), path);
    }
    Ok(())
}
