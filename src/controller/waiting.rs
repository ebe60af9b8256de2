//! Pods that lack something which another object may bring: a ConfigMap, a Secret, a service account.
//!
//! Goes in: which pods failed for want of it, and that something was written in a namespace. Comes out: whom to look at
//! again, without waiting for the end of a back-off.
//!
//! **Invariant:** only hints are kept here. A pod that is not known counts as one whose objects may have changed, so what
//! an agent forgets as it dies costs one try.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{About, PodSpec, Uid};

/// The kinds of what pods wait for.
pub(super) const KINDS: [&str; 3] = ["ConfigMap", "Secret", "ServiceAccount"];

/// See the module's doc.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// How many writes there were.
    writes: u64,
    pods: HashMap<Uid, Waits>,
}

#[derive(Debug)]
struct Waits {
    namespace: String,
    /// Its own labels and annotations, as they were at the failure: they, too, may be what was wrong.
    about: About,
    /// Something was written since.
    stirred: bool,
}

impl Waiting {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many writes there were so far. To be asked for before anything is read.
    pub(super) fn writes(&self) -> u64 {
        self.known().writes
    }

    /// The pod failed for want of something. `writes`: how many there were before it was looked for.
    pub(super) fn begin(&self, pod: &PodSpec, writes: u64) {
        let mut known = self.known();
        let waits = Waits {
            namespace: pod.namespace.clone(),
            about: pod.about.clone(),
            stirred: known.writes != writes,
        };
        known.pods.insert(pod.uid.clone(), waits);
    }

    /// Something was written in this namespace: the pods to look at.
    pub(super) fn stir(&self, namespace: &str) -> Vec<Uid> {
        let mut known = self.known();
        known.writes = known.writes.wrapping_add(1);
        let here = known.pods.iter_mut().filter(|(_, waits)| waits.namespace == namespace);
        here.map(|(uid, waits)| {
            waits.stirred = true;
            uid.clone()
        })
        .collect()
    }

    /// Writes were missed: nobody is known.
    pub(super) fn clear(&self) {
        let mut known = self.known();
        known.writes = known.writes.wrapping_add(1);
        known.pods.clear();
    }

    /// Something was written since the pod failed.
    pub(super) fn is_stirred(&self, uid: &Uid) -> bool {
        self.known().pods.get(uid).is_some_and(|waits| waits.stirred)
    }

    /// Whether what the pod failed for may be there by now. If so, it no longer waits.
    pub(super) fn end(&self, pod: &PodSpec) -> bool {
        let mut known = self.known();
        let still = |waits: &Waits| !waits.stirred && waits.about == pod.about;
        let waits = known.pods.get(&pod.uid).is_some_and(still);
        if !waits {
            known.pods.remove(&pod.uid);
        }
        !waits
    }

    /// The pod waits for nothing.
    pub(super) fn forget(&self, uid: &Uid) {
        self.known().pods.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RestartPolicy;
    use crate::reconcile::testing::pod;

    #[test]
    fn a_write_in_its_namespace_ends_a_pods_wait() {
        let waiting = Waiting::default();
        let pod = pod(RestartPolicy::Always, &["a"]);
        assert!(waiting.end(&pod), "one that nobody knows of is tried");
        waiting.begin(&pod, waiting.writes());
        assert!(!waiting.end(&pod));
        assert_eq!(waiting.stir("elsewhere"), []);
        assert!(!waiting.end(&pod) && !waiting.is_stirred(&pod.uid));
        assert_eq!(waiting.stir(&pod.namespace), std::slice::from_ref(&pod.uid));
        assert!(waiting.is_stirred(&pod.uid));
        assert!(waiting.end(&pod));
        assert_eq!(waiting.stir(&pod.namespace), [], "it waits no longer");
    }

    #[test]
    fn a_write_between_the_look_and_the_failure_is_not_missed() {
        let waiting = Waiting::default();
        let pod = pod(RestartPolicy::Always, &["a"]);
        let writes = waiting.writes();
        waiting.stir(&pod.namespace);
        waiting.begin(&pod, writes);
        assert!(waiting.is_stirred(&pod.uid) && waiting.end(&pod));
    }

    #[test]
    fn its_own_annotations_and_missed_writes_end_a_wait() {
        let waiting = Waiting::default();
        let mut pod = pod(RestartPolicy::Always, &["a"]);
        waiting.begin(&pod, waiting.writes());
        pod.about.annotations.insert("path".to_owned(), "here".to_owned());
        assert!(waiting.end(&pod));
        waiting.begin(&pod, waiting.writes());
        let writes = waiting.writes();
        waiting.clear();
        assert!(waiting.end(&pod));
        assert_ne!(waiting.writes(), writes);
        waiting.begin(&pod, waiting.writes());
        waiting.forget(&pod.uid);
        assert_eq!(waiting.stir(&pod.namespace), []);
    }
}
