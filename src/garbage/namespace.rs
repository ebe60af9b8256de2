//! The life of a namespace: what is in it from the beginning, and its end
//! (`pkg/controller/namespace`, `pkg/controller/serviceaccount`, `pkg/controller/certificates/rootcacertpublisher`).

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Garbage, NAMESPACE, is_ending};
use crate::admit::deletion::{KUBERNETES, Propagation};
use crate::model::{Timestamp, Uid};
use crate::store::{StoreError, StoredObject};

/// How many objects of one namespace are deleted side by side.
const CONCURRENCY: usize = 16;

const SERVICE_ACCOUNT: (&str, &str) = ("ServiceAccount", "default");
const ROOT_CA: (&str, &str) = ("ConfigMap", "kube-root-ca.crt");
const ROOT_CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// An object that every namespace has.
pub(super) fn is_default(kind: &str, name: &str) -> bool {
    [SERVICE_ACCOUNT, ROOT_CA].contains(&(kind, name))
}

/// The metadata of an object that podd itself makes.
pub(super) fn metadata(namespace: &str, name: &str, uid: &Uid, now: Timestamp) -> Value {
    let created = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let mut metadata = json!({ "name": name, "uid": uid.as_str(), "creationTimestamp": created });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

pub(super) fn new_uid() -> Uid {
    Uid(Uuid::new_v4().to_string())
}

impl Garbage {
    /// See what a namespace is in need of.
    pub(super) async fn namespace(&self, name: &str) -> Result<(), StoreError> {
        match self.store.get(NAMESPACE, "", name).await? {
            Some(namespace) if is_ending(&namespace.json) => self.end(&namespace).await,
            Some(_) => self.complete(name).await,
            None => self.empty(name).await.map(|_left| ()),
        }
    }

    /// Make what every namespace has, where it is missing or wrong.
    pub(super) async fn complete(&self, namespace: &str) -> Result<(), StoreError> {
        let (account, authority) = tokio::join!(self.complete_account(namespace), self.complete_authority(namespace));
        account.and(authority)
    }

    async fn complete_account(&self, namespace: &str) -> Result<(), StoreError> {
        let (kind, name) = SERVICE_ACCOUNT;
        if self.store.get(kind, namespace, name).await?.is_some() {
            return Ok(());
        }
        let uid = new_uid();
        let account = json!({
            "apiVersion": "v1", "kind": kind, "metadata": metadata(namespace, name, &uid, self.now()),
        });
        self.make(kind, namespace, name, &uid, account).await
    }

    async fn complete_authority(&self, namespace: &str) -> Result<(), StoreError> {
        let (kind, name) = ROOT_CA;
        let data = json!({ "ca.crt": self.settings.ca });
        let Some(present) = self.store.get(kind, namespace, name).await? else {
            let uid = new_uid();
            let mut map = json!({
                "apiVersion": "v1", "kind": kind, "metadata": metadata(namespace, name, &uid, self.now()), "data": data,
            });
            map["metadata"]["annotations"] = json!({ "kubernetes.io/description": ROOT_CA_DESCRIPTION });
            return self.make(kind, namespace, name, &uid, map).await;
        };
        let wrong = |map: &Value| map["data"] != data && !is_ending(map);
        if !wrong(&present.json) {
            return Ok(());
        }
        self.change(&present.uid, |map| {
            let wrong = wrong(map);
            map["data"] = data.clone();
            wrong
        })
        .await
    }

    async fn make(&self, kind: &str, namespace: &str, name: &str, uid: &Uid, object: Value) -> Result<(), StoreError> {
        match self
            .store
            .create_in_namespace(kind, namespace, name, uid, object, None)
            .await
        {
            // Someone else was faster, or the namespace is going: then this is of no use any more.
            Err(
                StoreError::AlreadyExists { .. } | StoreError::NoNamespace { .. } | StoreError::EndingNamespace { .. },
            ) => Ok(()),
            made => made.map(|_object| ()),
        }
    }

    /// Empty a namespace, and once it is empty let it go.
    async fn end(&self, namespace: &StoredObject) -> Result<(), StoreError> {
        let held = |object: &Value| {
            let finalizers = object.pointer("/spec/finalizers").and_then(Value::as_array);
            finalizers.is_some_and(|all| all.iter().any(|name| name == KUBERNETES))
        };
        if !held(&namespace.json) {
            return Ok(());
        }
        let left = self.empty(&namespace.name).await?;
        if left > 0 {
            // Each of them that goes wakes this look again.
            return self.tell_what_remains(namespace, left).await;
        }
        self.change(&namespace.uid, |object| {
            let change = held(object);
            if let Some(finalizers) = object.pointer_mut("/spec/finalizers").and_then(Value::as_array_mut) {
                finalizers.retain(|name| name != KUBERNETES);
            }
            change
        })
        .await
    }

    /// Delete everything in a namespace. How many objects take longer: pods, and what finalizers hold.
    async fn empty(&self, name: &str) -> Result<usize, StoreError> {
        let contents = self.store.contents(name).await?;
        if contents.is_empty() {
            return Ok(0);
        }
        let mut deletions = stream::iter(contents)
            .map(|uid| async move { self.delete(&uid, Propagation::Background).await })
            .buffer_unordered(CONCURRENCY);
        while let Some(deleted) = deletions.next().await {
            deleted?;
        }
        self.store.contents(name).await.map(|left| left.len())
    }

    /// The condition that says why a namespace is still there.
    async fn tell_what_remains(&self, namespace: &StoredObject, left: usize) -> Result<(), StoreError> {
        const CONDITION: &str = "NamespaceContentRemaining";
        let message = format!("Some resources are remaining: {left} resource instances");
        self.change(&namespace.uid, |object| {
            let at = metadata("", "", &Uid(String::new()), self.now())["creationTimestamp"].take();
            let conditions = object["status"]["conditions"].as_array_mut();
            let told = conditions.as_ref().is_some_and(|all| {
                all.iter()
                    .any(|condition| condition["type"] == CONDITION && condition["message"] == message.as_str())
            });
            if told {
                return false;
            }
            let condition = json!({
                "type": CONDITION, "status": "True", "lastTransitionTime": at,
                "reason": "SomeResourcesRemain", "message": message,
            });
            match conditions {
                Some(all) => {
                    all.retain(|other| other["type"] != CONDITION);
                    all.push(condition);
                }
                None => object["status"]["conditions"] = json!([condition]),
            }
            true
        })
        .await
    }
}
