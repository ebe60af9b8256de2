//! What is there from the first start on: namespaces, what is in each of them, and the service `default/kubernetes`.

use serde_json::{Value, json};

use super::namespace::{metadata, new_uid};
use super::{Garbage, NAMESPACE, Settings};
use crate::admit::deletion::KUBERNETES;
use crate::store::{Store, StoreError};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const SERVICE: (&str, &str, &str) = ("Service", "default", "kubernetes");

/// Make what is missing. Whoever comes after finds all of it.
///
/// Pods of an older agent may be in namespaces that nobody made: those are made too.
pub async fn bootstrap(store: &Store, settings: &Settings) -> Result<(), StoreError> {
    let room = Garbage {
        store: store.clone(),
        settings: settings.clone(),
    };
    let older = store.unknown_namespaces().await?;
    for name in NAMESPACES.into_iter().chain(older.iter().map(String::as_str)) {
        room.make_namespace(name).await?;
        room.complete(name).await?;
    }
    room.keep_service().await
}

impl Garbage {
    async fn make_namespace(&self, name: &str) -> Result<(), StoreError> {
        if self.store.get(NAMESPACE, "", name).await?.is_some() {
            return Ok(());
        }
        let uid = new_uid();
        let mut namespace = json!({
            "apiVersion": "v1", "kind": NAMESPACE, "metadata": metadata("", name, &uid, self.now()),
            "spec": { "finalizers": [KUBERNETES] },
        });
        namespace["metadata"]["labels"] = json!({ "kubernetes.io/metadata.name": name });
        let status = json!({ "phase": "Active" });
        self.store
            .create_in_namespace(NAMESPACE, "", name, &uid, namespace, Some(status))
            .await
            .map(|_made| ())
    }

    /// The service leads to where the API is now.
    async fn keep_service(&self) -> Result<(), StoreError> {
        let (kind, namespace, name) = SERVICE;
        let spec = self.service_spec();
        if let Some(present) = self.store.get(kind, namespace, name).await? {
            return self
                .change(&present.uid, |service| {
                    let wrong = service["spec"] != spec;
                    service["spec"] = spec.clone();
                    wrong
                })
                .await;
        }
        let uid = new_uid();
        let mut service = json!({
            "apiVersion": "v1", "kind": kind, "metadata": metadata(namespace, name, &uid, self.now()), "spec": spec,
        });
        service["metadata"]["labels"] = json!({ "component": "apiserver", "provider": "kubernetes" });
        let status = json!({ "loadBalancer": {} });
        self.store
            .create_in_namespace(kind, namespace, name, &uid, service, Some(status))
            .await
            .map(|_made| ())
    }

    fn service_spec(&self) -> Value {
        let address = self.settings.api.ip();
        json!({
            "clusterIP": address,
            "clusterIPs": [address],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": [if address.is_ipv4() { "IPv4" } else { "IPv6" }],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{ "name": "https", "port": self.settings.api.port(), "protocol": "TCP", "targetPort": self.settings.api.port() }],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        })
    }
}
