//! Pods that wait for the node: looked at again when something changed that could matter to them.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::{ATTEMPTS, NodeError, NodeKeeper, read, view};
use crate::event::{Severity, Source, Subject};
use crate::schedule::{self, NodeView, Placement};
use crate::status::set_placement;
use crate::store::{Change, ChangeType, Origin, StoreError, StoredObject};

/// The kind that is bound.
pub(super) const POD: &str = "Pod";

/// Pods read from the store at once.
const CHUNK: usize = 500;

impl NodeKeeper {
    /// Look at every pod that has no node.
    pub(super) async fn bind_all(&self) -> Result<(), NodeError> {
        let node = view(&self.store, &self.identity.name).await?;
        let mut after: Option<StoredObject> = None;
        loop {
            let place = after.as_ref().map(|pod| (&*pod.namespace, &*pod.name));
            let page = self.store.list(POD, None, place, Some(CHUNK)).await?;
            for pod in page.objects.iter().filter(|pod| waits(&pod.json)) {
                self.consider(pod.clone(), &node).await?;
            }
            if page.objects.len() < CHUNK {
                return Ok(());
            }
            after = page.objects.last().cloned();
        }
    }

    pub(super) async fn pod_changed(&self, change: &Change) -> Result<(), NodeError> {
        let pod = &change.object;
        match change.change_type {
            ChangeType::Added => self.tell_of_new(pod),
            ChangeType::Modified => {}
            ChangeType::Deleted => return Ok(()),
        }
        if change.origin == Origin::Desired && waits(&pod.json) {
            let node = view(&self.store, &self.identity.name).await?;
            self.consider(pod.clone(), &node).await?;
        }
        Ok(())
    }

    /// What the API decided when it made the pod.
    fn tell_of_new(&self, pod: &StoredObject) {
        let conditions = pod.json["status"]["conditions"].as_array();
        let scheduled = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "PodScheduled");
        let Some(scheduled) = scheduled else { return };
        if scheduled["status"] == "True" {
            self.tell_bound(pod);
        } else if scheduled["reason"] == "Unschedulable" {
            self.tell_unschedulable(pod, scheduled["message"].as_str().unwrap_or_default());
        }
    }

    fn tell_bound(&self, pod: &StoredObject) {
        let message = format!(
            "Successfully assigned {}/{} to {}",
            pod.namespace, pod.name, self.identity.name
        );
        self.recorder
            .tell(Source::Scheduler, subject(pod), Severity::Normal, "Scheduled", message);
    }

    fn tell_unschedulable(&self, pod: &StoredObject, message: &str) {
        self.recorder.tell(
            Source::Scheduler,
            subject(pod),
            Severity::Warning,
            "FailedScheduling",
            message,
        );
    }

    async fn consider(&self, mut pod: StoredObject, node: &NodeView) -> Result<(), NodeError> {
        for _ in 0..ATTEMPTS {
            match self.try_once(&pod, node).await {
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::NotFound { .. }) => return Ok(()),
                done => return Ok(done?),
            }
            match self.store.get_by_uid(POD, &pod.uid).await? {
                Some(newer) if waits(&newer.json) => pod = newer,
                Some(_) | None => return Ok(()),
            }
        }
        Err(NodeError::Busy { what: "a pod" })
    }

    async fn try_once(&self, stored: &StoredObject, node: &NodeView) -> Result<(), StoreError> {
        // What cannot be understood is left to whoever wrote it.
        let Some(mut pod) = read::<Pod>(stored) else {
            return Ok(());
        };
        let Some(spec) = &mut pod.spec else { return Ok(()) };
        let placement = schedule::place(spec, node);
        let generation = pod.metadata.generation.unwrap_or(1);
        let mut status = pod.status.take().unwrap_or_default();
        set_placement((self.clock)(), &mut status, generation, &placement);
        let status = serde_json::to_value(status).unwrap_or_default();
        match placement {
            Placement::Bound | Placement::Foreign => Ok(()),
            Placement::Fits => {
                let mut bound = (*stored.json).clone();
                bound["spec"]["nodeName"] = self.identity.name.clone().into();
                bound["status"] = status;
                let (namespace, name) = (&stored.namespace, &stored.name);
                let version = stored.resource_version;
                self.store.update_whole(POD, namespace, name, version, bound).await?;
                self.tell_bound(stored);
                Ok(())
            }
            Placement::Gated => self.say(stored, status).await.map(drop),
            Placement::Unschedulable(message) => {
                if self.say(stored, status).await? {
                    self.tell_unschedulable(stored, &message);
                }
                Ok(())
            }
        }
    }

    /// False: it was said already.
    async fn say(&self, pod: &StoredObject, status: Value) -> Result<bool, StoreError> {
        let version = pod.resource_version;
        self.store.set_status_over(&pod.uid, version, status).await
    }
}

/// It has no node, and is not on its way out.
fn waits(pod: &Value) -> bool {
    pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) && !is_ending(pod)
}

pub(super) fn is_ending(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_string()
}

pub(super) fn subject(pod: &StoredObject) -> Subject {
    Subject {
        kind: POD,
        namespace: pod.namespace.as_ref().to_owned(),
        name: pod.name.as_ref().to_owned(),
        uid: pod.uid.0.clone(),
        field_path: None,
    }
}
