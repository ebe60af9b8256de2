//! What is made ahead while the agent decides: when a container ends, the cgroup of its next attempt, with the limits of
//! the one that ended. Making it takes as long as most of the other work of a start together.
//!
//! Goes in: the spec of the attempt that ended, and how its successor's cgroup would be called. Comes out: that cgroup,
//! for a start which asks for exactly this one; else its name, to be removed.
//!
//! **Invariant:** nothing runs in a spare, and a start that differs from what was guessed never gets it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

use crate::linux::cgroup::Cgroups;

/// How to make the cgroup of an attempt's successor.
#[derive(Debug, Clone)]
pub(super) struct Ahead {
    /// The spec of the attempt that runs.
    pub(super) spec: PathBuf,
    pub(super) cgroup: String,
}

/// By the container's name.
#[derive(Debug, Default)]
pub(super) struct Spares(BTreeMap<String, Spare>);

/// What there was for a start.
#[derive(Debug)]
pub(super) enum Taken {
    Ready,
    /// A cgroup of this name, made in vain: another one, or with other limits.
    Other(String),
    Nothing,
}

#[derive(Debug)]
struct Spare {
    cgroup: String,
    resources: LinuxResources,
}

impl Spares {
    /// The container has ended: make the cgroup of its successor. A name that comes out is of a cgroup that is not
    /// whole, or of an older spare.
    pub(super) fn make(&mut self, container: String, ahead: Ahead, cgroups: &Cgroups) -> Vec<String> {
        let Ahead { spec, cgroup } = ahead;
        let mut waste: Vec<String> = self.0.remove(&container).map(|old| old.cgroup).into_iter().collect();
        let Some(resources) = resources(&spec) else {
            return waste;
        };
        // What fails here fails again, and is told, when the container is started.
        if cgroups.create(&cgroup).is_ok() && cgroups.apply(&cgroup, &resources).is_ok() {
            self.0.insert(container, Spare { cgroup, resources });
        } else {
            waste.push(cgroup);
        }
        waste
    }

    /// Whether this cgroup is there, with exactly these limits.
    pub(super) fn take(&mut self, container: &str, cgroup: &str, resources: Option<&LinuxResources>) -> Taken {
        match self.0.remove(container) {
            Some(spare) if spare.cgroup == cgroup && Some(&spare.resources) == resources => Taken::Ready,
            Some(spare) => Taken::Other(spare.cgroup),
            None => Taken::Nothing,
        }
    }

    /// No start comes any more.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = String> + use<> {
        std::mem::take(&mut self.0).into_values().map(|spare| spare.cgroup)
    }
}

fn resources(spec: &Path) -> Option<LinuxResources> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(spec).ok()?).ok()?;
    spec.linux().as_ref()?.resources().clone()
}
