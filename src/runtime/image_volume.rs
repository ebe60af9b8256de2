//! Volumes that are images: found, brought and mounted before a container that wants one is started.
//!
//! Goes in: a pod and a container of it. Comes out: the volumes' layers, or what Kubernetes calls it when an image is not
//! there: the failure is the container's own (kubelet `toKubeContainerImageVolumes`).
//!
//! **Invariant:** a volume means one image for the whole life of its pod, over restarts of containers, agent and machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::OFlags;

use super::machine::{Machine, step, unresolved};
use super::work::Joined;
use super::{Image, StepError, VolumeNews};
use crate::linux::path::open_beneath;
use crate::model::{ContainerSpec, FailureReason, PodSpec, PullPolicy, VolumeSource, of_image_volume};
use crate::shim::protocol::SubPath;
use crate::volume::{Prepared, Volumes};

/// Unpacked layers, topmost first, by the volume's name.
pub(super) type VolumeLayers = BTreeMap<String, Vec<PathBuf>>;

impl Machine {
    /// See that the images of the volumes that this container mounts are there, as their pull policies have it. False: one
    /// is being pulled, and the start is to wait for it. `news` is told what happened.
    pub(super) async fn bring_volumes(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        news: &mut Vec<VolumeNews>,
    ) -> Result<bool, StepError> {
        for (volume, reference, policy) in mounted(pod, container) {
            let bound = self.images.volume(&pod.uid, volume).await;
            if bound.map_err(|error| unresolved(&error))?.is_some() {
                continue;
            }
            let named = self.named(pod, &container.name, reference, policy).await;
            let named = named.map_err(|error| StepError {
                message: of_image_volume(volume, &error.message),
                ..error
            })?;
            let name = reference.to_owned();
            match named {
                Image::Present { image, pulled } => {
                    news.push(VolumeNews::Present { image: name, pulled });
                    let bound = self.images.bind_volume(&pod.uid, volume, &image.id).await;
                    bound.map_err(|error| step(FailureReason::CreateContainerError, &error))?;
                }
                Image::Pulling {
                    begun,
                    unusable_secrets,
                } => {
                    if begun {
                        news.push(VolumeNews::Pulling {
                            image: name,
                            unusable_secrets,
                        });
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The layers of the image volumes that this container mounts, once they were brought.
    pub(super) async fn volume_layers(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
    ) -> Result<VolumeLayers, StepError> {
        let mut layers = BTreeMap::new();
        for (volume, reference, _) in mounted(pod, container) {
            let image = self.images.volume(&pod.uid, volume).await;
            let image = image.map_err(|error| unresolved(&error))?.ok_or_else(|| StepError {
                reason: FailureReason::ErrImagePull,
                message: format!("image {reference:?} of volume {volume:?} is not there any more"),
            })?;
            layers.insert(volume.to_owned(), image.layers);
        }
        Ok(layers)
    }
}

/// Volumes that are images and that this container mounts: name, reference, policy.
fn mounted<'a>(pod: &'a PodSpec, container: &'a ContainerSpec) -> impl Iterator<Item = (&'a str, &'a str, PullPolicy)> {
    pod.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Image { reference, pull_policy } => {
            let is_mounted = container.mounts.iter().any(|mount| mount.volume == volume.name);
            is_mounted.then_some((volume.name.as_str(), reference.as_str(), *pull_policy))
        }
        VolumeSource::EmptyDir { .. } | VolumeSource::HostPath { .. } | VolumeSource::Projected { .. } => None,
    })
}

/// See that the parts of image volumes that a container mounts (`subPath`) are there: nothing can be made in an image, and
/// a start that fails is no run of the container. `parts` are by the mounts' places in the container.
pub(super) fn check_parts(
    pod: &PodSpec,
    container: &ContainerSpec,
    prepared: &Prepared,
    parts: &[SubPath],
) -> Result<(), StepError> {
    for (name, _, _) in mounted(pod, container) {
        let Some(source) = prepared.sources.get(name) else {
            continue;
        };
        let places = container.mounts.iter().filter(|mount| mount.volume == name);
        for part in places.filter_map(|mount| parts.iter().find(|part| part.destination == mount.path)) {
            let opened = File::open(source).and_then(|root| open_beneath(root.as_fd(), &part.path, OFlags::PATH));
            if let Err(error) = opened
                && error.kind() == io::ErrorKind::NotFound
            {
                return Err(StepError {
                    reason: FailureReason::CreateContainerError,
                    message: format!(
                        "failed to mount subPath \"{}\" of image volume {name:?}: no such file or directory",
                        part.path.display()
                    ),
                });
            }
        }
    }
    Ok(())
}

/// Mount them on the machine, and say where.
pub(super) fn mount(
    volumes: &Volumes,
    pod: &PodSpec,
    layers: &VolumeLayers,
    joined: &Joined,
    prepared: &mut Prepared,
) -> Result<(), StepError> {
    // In a user namespace the layers' files belong to the same numbers there as on the disk.
    let mapped_as = joined.first_id.map(|_| joined.infra_pid);
    for (name, layers) in layers {
        let path = volumes
            .mount_image(&pod.uid, name, layers, mapped_as)
            .map_err(|error| step(FailureReason::FailedMount, &error))?;
        prepared.sources.insert(name.clone(), path);
    }
    Ok(())
}
