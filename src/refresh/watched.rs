//! Which pods show what: so that a change finds the pods that it concerns.
//!
//! **Invariant:** pure, and all of it can be found out again from the store.

use std::collections::{BTreeSet, HashMap};

use crate::model::{ObjectKind, PodSpec, Projection, Uid};

/// A ConfigMap or Secret: kind, namespace, name.
pub(super) type ObjectName = (ObjectKind, String, String);

/// What one pod's volumes show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    objects: BTreeSet<ObjectName>,
    /// Something of the pod itself.
    is_itself: bool,
}

/// Pods that have volumes with files.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pods: HashMap<Uid, Shown>,
    by_object: HashMap<ObjectName, BTreeSet<Uid>>,
}

impl Watched {
    /// Know a pod, or know it anew. False: it has no such volumes.
    pub(super) fn insert(&mut self, pod: &PodSpec) -> bool {
        self.remove(&pod.uid);
        let mut any = false;
        let mut shown = Shown::default();
        for (_, projection) in pod.projections() {
            any = true;
            match projection {
                Projection::Object { kind, name, .. } => {
                    shown.objects.insert((*kind, pod.namespace.clone(), name.clone()));
                }
                Projection::Downward { .. } => shown.is_itself = true,
                // Renewed by the clock.
                Projection::Token { .. } => {}
            }
        }
        if any {
            for object in &shown.objects {
                let pods = self.by_object.entry(object.clone()).or_default();
                pods.insert(pod.uid.clone());
            }
            self.pods.insert(pod.uid.clone(), shown);
        }
        any
    }

    pub(super) fn remove(&mut self, uid: &Uid) {
        let Some(shown) = self.pods.remove(uid) else { return };
        for object in shown.objects {
            if let Some(pods) = self.by_object.get_mut(&object) {
                pods.remove(uid);
                if pods.is_empty() {
                    self.by_object.remove(&object);
                }
            }
        }
    }

    pub(super) fn knows(&self, uid: &Uid) -> bool {
        self.pods.contains_key(uid)
    }

    /// Whether files tell of the pod itself.
    pub(super) fn shows_itself(&self, uid: &Uid) -> bool {
        self.pods.get(uid).is_some_and(|shown| shown.is_itself)
    }

    /// The pods that show this object.
    pub(super) fn of_object(&self, object: &ObjectName) -> impl Iterator<Item = &Uid> {
        self.by_object.get(object).into_iter().flatten()
    }

    pub(super) fn clear(&mut self) {
        self.pods.clear();
        self.by_object.clear();
    }
}
