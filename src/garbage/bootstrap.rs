//! What is there from the first start on: namespaces, what is in each of them, and the service `default/kubernetes` with
//! its endpoint, in both forms (`pkg/controlplane/reconcilers/instancecount.go`, `endpointsadapter.go`).

use serde_json::{Value, json};

use super::namespace::{metadata, new_uid};
use super::{Garbage, NAMESPACE, Settings};
use crate::admit::deletion::KUBERNETES;
use crate::store::{Store, StoreError};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Where the service and its endpoints are.
const PLACE: (&str, &str) = ("default", "kubernetes");

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
    room.keep_service().await?;
    room.keep_endpoints().await?;
    room.keep_endpoint_slice().await
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
        let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
        let parts = json!({ "spec": self.service_spec() });
        let status = json!({ "loadBalancer": {} });
        self.keep("v1", "Service", labels, parts, Some(status)).await
    }

    async fn keep_endpoints(&self) -> Result<(), StoreError> {
        let labels = json!({ "endpointslice.kubernetes.io/skip-mirror": "true" });
        let addresses = json!([{ "ip": self.settings.api.ip() }]);
        let parts = json!({ "subsets": [{ "addresses": addresses, "ports": self.endpoint_ports() }] });
        self.keep("v1", "Endpoints", labels, parts, None).await
    }

    async fn keep_endpoint_slice(&self) -> Result<(), StoreError> {
        let labels = json!({ "kubernetes.io/service-name": PLACE.1 });
        let endpoint = json!({ "addresses": [self.settings.api.ip()], "conditions": { "ready": true } });
        let parts = json!({
            "addressType": self.ip_family(), "endpoints": [endpoint], "ports": self.endpoint_ports(),
        });
        self.keep("discovery.k8s.io/v1", "EndpointSlice", labels, parts, None)
            .await
    }

    /// Make an object in its place, or have these parts of it be as they are to be.
    async fn keep(
        &self,
        api_version: &str,
        kind: &str,
        labels: Value,
        parts: Value,
        status: Option<Value>,
    ) -> Result<(), StoreError> {
        let (namespace, name) = PLACE;
        let lay = |object: &mut Value| {
            let mut wrong = false;
            for (part, wanted) in parts.as_object().into_iter().flatten() {
                wrong |= object[part] != *wanted;
                object[part] = wanted.clone();
            }
            wrong
        };
        if let Some(present) = self.store.get(kind, namespace, name).await? {
            return self.change(&present.uid, lay).await;
        }
        let uid = new_uid();
        let mut object = json!({
            "apiVersion": api_version, "kind": kind, "metadata": metadata(namespace, name, &uid, self.now()),
        });
        object["metadata"]["labels"] = labels;
        lay(&mut object);
        self.store
            .create_in_namespace(kind, namespace, name, &uid, object, status)
            .await
            .map(|_made| ())
    }

    fn ip_family(&self) -> &'static str {
        if self.settings.api.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    fn endpoint_ports(&self) -> Value {
        json!([{ "name": "https", "port": self.settings.api.port(), "protocol": "TCP" }])
    }

    fn service_spec(&self) -> Value {
        let address = self.settings.api.ip();
        json!({
            "clusterIP": address,
            "clusterIPs": [address],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": [self.ip_family()],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{ "name": "https", "port": self.settings.api.port(), "protocol": "TCP", "targetPort": self.settings.api.port() }],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        })
    }
}
