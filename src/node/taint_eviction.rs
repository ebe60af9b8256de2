//! Pods that a `NoExecute` taint drives off the node.
//!
//! Goes in: the node's taints, pods as they come and change. Comes out: pods marked for deletion, with the condition and
//! the events of Kubernetes' taint eviction controller (`pkg/controller/tainteviction/taint_eviction.go`).
//!
//! How long a pod may stay follows from what is stored (when the taint was added, when the pod was bound), so that an agent
//! that comes later decides the same.
//!
//! **Invariant:** nothing is looked at while the node has no such taint.

use std::collections::{HashMap, HashSet};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::binder::{POD, is_ending, subject};
use super::{ATTEMPTS, NodeError, NodeKeeper, object, read, view};
use crate::admit::deletion::{self, Deletion, Manner};
use crate::event::{Severity, Source, Subject};
use crate::model::{Timestamp, Uid};
use crate::schedule::{self, NodeView};
use crate::status::{DISRUPTION_TARGET, set_condition};
use crate::store::{StoreError, StoredObject};

/// Pods read from the store at once.
const CHUNK: usize = 500;

/// When a pod that could not be marked is tried anew.
const RETRY: SignedDuration = SignedDuration::from_secs(1);

/// What is known of the pods that have to go.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// The node has a taint that drives pods off.
    tainted: bool,
    /// When each pod goes that has leave to stay for a while.
    later: HashMap<Uid, (Timestamp, Subject)>,
}

impl Departures {
    /// When the first of them goes.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.later.values().map(|(at, _)| *at).min()
    }

    pub(super) fn forget(&mut self, uid: &Uid) {
        self.later.remove(uid);
    }
}

impl NodeKeeper {
    /// The node has changed, or a pod's time has come: look at every pod on it.
    pub(super) async fn drive_off_all(&self, departures: &mut Departures) -> Result<(), NodeError> {
        let node = view(&self.store, &self.identity.name).await?;
        departures.tainted = node.taints.iter().any(schedule::drives_off);
        if !departures.tainted {
            for (_, (_, pod)) in departures.later.drain() {
                self.tell_staying(pod);
            }
            return Ok(());
        }
        let mut seen = HashSet::new();
        let mut after: Option<StoredObject> = None;
        loop {
            let place = after.as_ref().map(|pod| (&*pod.namespace, &*pod.name));
            let page = self.store.list(POD, None, place, Some(CHUNK)).await?;
            for pod in &page.objects {
                self.look(pod, &node, departures).await?;
                seen.insert(pod.uid.clone());
            }
            if page.objects.len() < CHUNK {
                // Nobody may have told of the end of the others.
                departures.later.retain(|uid, _| seen.contains(uid));
                return Ok(());
            }
            after = page.objects.last().cloned();
        }
    }

    /// A pod is new or has changed.
    pub(super) async fn drive_off(&self, pod: &StoredObject, departures: &mut Departures) -> Result<(), NodeError> {
        if !departures.tainted {
            return Ok(());
        }
        let node = view(&self.store, &self.identity.name).await?;
        self.look(pod, &node, departures).await
    }

    async fn look(&self, pod: &StoredObject, node: &NodeView, departures: &mut Departures) -> Result<(), NodeError> {
        let is_here = pod.json["spec"]["nodeName"].as_str() == Some(&*self.identity.name);
        if !is_here || is_ending(&pod.json) {
            departures.forget(&pod.uid);
            return Ok(());
        }
        // What cannot be understood is left to whoever wrote it.
        let Some(wire) = read::<Pod>(pod) else { return Ok(()) };
        let bound = bound_at(&wire).unwrap_or_else(|| self.now());
        let leaves = schedule::leaves_at(wire.spec.as_ref(), &node.taints, bound);
        match leaves {
            None => {
                if let Some((_, pod)) = departures.later.remove(&pod.uid) {
                    self.tell_staying(pod);
                }
            }
            Some(at) if at <= self.now() => {
                let anew = self.now().saturating_add(RETRY).unwrap_or(Timestamp::MAX);
                departures.later.insert(pod.uid.clone(), (anew, subject(pod)));
                self.evict(pod).await?;
                departures.forget(&pod.uid);
            }
            Some(at) => {
                departures.later.insert(pod.uid.clone(), (at, subject(pod)));
            }
        }
        Ok(())
    }

    async fn evict(&self, pod: &StoredObject) -> Result<(), NodeError> {
        let message = format!("Marking for deletion Pod {}/{}", pod.namespace, pod.name);
        self.tell_taint(subject(pod), message);
        for _ in 0..ATTEMPTS {
            let Some(pod) = self.store.get_by_uid(POD, &pod.uid).await? else {
                return Ok(());
            };
            if is_ending(&pod.json) {
                return Ok(());
            }
            let marked = deletion::delete(Manner::of(POD), &pod.json, None, None, self.now());
            let Deletion::Mark(mut marked) = marked else {
                return Ok(());
            };
            let Some(wire) = read::<Pod>(&pod) else { return Ok(()) };
            let mut status = wire.status.unwrap_or_default();
            let condition = PodCondition {
                type_: DISRUPTION_TARGET.to_owned(),
                status: "True".to_owned(),
                reason: Some("DeletionByTaintManager".to_owned()),
                message: Some("Taint manager: deleting due to NoExecute taint".to_owned()),
                last_probe_time: None,
                last_transition_time: Some(object::wire_time(self.now())),
                observed_generation: wire.metadata.generation,
            };
            set_condition(&mut status, condition);
            marked["status"] = serde_json::to_value(status).map_err(NodeError::Json)?;
            let (namespace, name, version) = (&pod.namespace, &pod.name, pod.resource_version);
            match self.store.update_whole(POD, namespace, name, version, marked).await {
                Err(StoreError::Conflict { .. }) => {}
                Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(NodeError::Busy { what: "a pod" })
    }

    fn tell_staying(&self, pod: Subject) {
        let message = format!("Cancelling deletion of Pod {}/{}", pod.namespace, pod.name);
        self.tell_taint(pod, message);
    }

    fn tell_taint(&self, pod: Subject, message: String) {
        self.recorder.tell(
            Source::TaintEviction,
            pod,
            Severity::Normal,
            "TaintManagerEviction",
            message,
        );
    }
}

/// When the pod came to the node.
fn bound_at(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let scheduled = conditions
        .into_iter()
        .flatten()
        .find(|told| told.type_ == "PodScheduled");
    let scheduled = scheduled.and_then(|told| told.last_transition_time.as_ref());
    scheduled
        .or(pod.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
}
