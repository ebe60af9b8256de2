//! Whether mounts can be propagated between the machine and a container.
//!
//! Goes in: a container and where its volumes lie. Comes out: nothing, or containerd's words for why not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::StepError;
use super::machine::step;
use crate::linux::mounts::{self, Peers};
use crate::model::{ContainerSpec, FailureReason, Propagation};

/// What a container wants that a mount of the machine does not give (containerd `ensureShared`, `ensureSharedOrSlave`).
#[derive(Debug, thiserror::Error)]
enum PropagationError {
    #[error("path {path:?} is mounted on {mount:?} but it is not a shared mount")]
    NotShared { path: PathBuf, mount: PathBuf },
    #[error("path {path:?} is mounted on {mount:?} but it is not a shared or slave mount")]
    NotSharedOrSlave { path: PathBuf, mount: PathBuf },
    #[error("cannot tell what {path:?} is mounted on")]
    Look {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("mount propagation Bidirectional is not supported by the runtime handler of class {class:?}")]
    Handler { class: String },
}

/// Nothing is looked at for a container that wants no propagation. `class`: of the pod, when a command makes its
/// containers, in which no mount finds its way to the machine.
pub(super) fn check(
    container: &ContainerSpec,
    volumes: &BTreeMap<String, PathBuf>,
    class: Option<&str>,
) -> Result<(), StepError> {
    for mount in &container.mounts {
        let Some(path) = volumes.get(&mount.volume) else {
            continue;
        };
        check_one(path, mount.propagation, class).map_err(|error| step(FailureReason::CreateContainerError, &error))?;
    }
    Ok(())
}

fn check_one(path: &Path, wanted: Propagation, class: Option<&str>) -> Result<(), PropagationError> {
    if wanted == Propagation::None {
        return Ok(());
    }
    if let (Propagation::Bidirectional, Some(class)) = (wanted, class) {
        return Err(PropagationError::Handler {
            class: class.to_owned(),
        });
    }
    let (mount, peers) = mounts::peers_of(path).map_err(|source| PropagationError::Look {
        path: path.to_owned(),
        source,
    })?;
    let path = path.to_owned();
    match (wanted, peers) {
        (Propagation::Bidirectional, Peers::None | Peers::Slave) => Err(PropagationError::NotShared { path, mount }),
        (Propagation::HostToContainer, Peers::None) => Err(PropagationError::NotSharedOrSlave { path, mount }),
        (Propagation::None, _)
        | (Propagation::HostToContainer, Peers::Slave | Peers::Shared)
        | (Propagation::Bidirectional, Peers::Shared) => Ok(()),
    }
}
