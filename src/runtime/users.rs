//! Whom a container runs as, worked out from its image and what its pod says.
//!
//! Goes in: the pod, the container, its image. Comes out: numbers, or why nobody may run it.
//!
//! **Invariant:** what was worked out once for an image is kept with the attempt, and the controller asks only for what
//! is not kept: a restart from the same image is the same user.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::StepError;
use super::machine::blocking;
use crate::image::user::{self, Wish};
use crate::model::{ContainerSpec, FailureReason, ImageId, PodSpec, ResolvedImage, User};

/// More than the containers that are being started at one time.
const KEPT_MAX: usize = 256;

/// What was worked out lately: a container that was made ready ahead is asked for again at once.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<HashMap<(ImageId, Wish), User>>);

impl Users {
    /// Whom a container from this image runs as.
    ///
    /// # Errors
    /// `CreateContainerConfigError`, in a kubelet's or containerd's words.
    pub(super) async fn of(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        image: &ResolvedImage,
    ) -> Result<User, StepError> {
        let wish = wish(pod, container);
        let key = (image.id.clone(), wish);
        let known = self.lock().get(&key).cloned();
        let user = match known {
            Some(user) => user,
            None => {
                let (image, wish) = (image.clone(), key.1.clone());
                let user = blocking("look up a user", move || look_up(&image, &wish)).await?;
                let mut kept = self.lock();
                if kept.len() >= KEPT_MAX {
                    kept.clear();
                }
                kept.insert(key, user.clone());
                user
            }
        };
        if container.security.run_as_non_root {
            check_non_root(pod, container, image, &user)?;
        }
        Ok(user)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(ImageId, Wish), User>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wish(pod: &PodSpec, container: &ContainerSpec) -> Wish {
    let own = pod.security.fs_group.iter();
    Wish {
        run_as_user: container.security.run_as_user,
        run_as_group: container.security.run_as_group,
        groups: own.chain(&pod.security.supplemental_groups).copied().collect(),
        strict_groups: pod.security.strict_groups,
    }
}

fn config_error(message: String) -> StepError {
    StepError {
        reason: FailureReason::CreateContainerConfigError,
        message,
    }
}

fn look_up(image: &ResolvedImage, wish: &Wish) -> Result<User, StepError> {
    let failed = |error: user::UserError| super::machine::step(FailureReason::CreateContainerConfigError, &error);
    let user::UserIds {
        uid,
        gid,
        additional_gids,
    } = user::resolve_user(&image.layers, &image.config.user, wish).map_err(failed)?;
    Ok(User {
        uid,
        gid,
        groups: additional_gids,
        home: user::home_of(&image.layers, uid).map_err(failed)?,
    })
}

/// kubelet `verifyRunAsNonRoot`.
fn check_non_root(
    pod: &PodSpec,
    container: &ContainerSpec,
    image: &ResolvedImage,
    user: &User,
) -> Result<(), StepError> {
    user::check_non_root(&image.config.user, container.security.run_as_user, user.uid).map_err(|error| {
        let PodSpec {
            name, namespace, uid, ..
        } = pod;
        config_error(format!(
            "{error} (pod: \"{name}_{namespace}({uid})\", container: {})",
            container.name
        ))
    })
}
