//! What a pod brings to a registry: its `imagePullSecrets`, and where it names none, those of its service account.
//!
//! Goes in: a pod's uid. Comes out: credentials, and the names of secrets that are of no use.
//! (Kubernetes: the `ServiceAccount` admission plugin, `kubelet_pods.go getPullSecretsForPod`,
//! `credentialprovider/secrets.go`.)
//!
//! **Invariant:** read from the store at each pull and kept nowhere; no secret is printed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::ImageStore;
use super::registry::{Credentials, DockerConfig};
use crate::model::Uid;
use crate::store::StoreError;

/// The credentials of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodCredentials {
    pub credentials: Credentials,
    /// Secrets that are not there, or hold no docker config, in the pod's order.
    pub unusable: Vec<String>,
}

impl ImageStore {
    /// What the pod shows to registries. A pod that is not there has nothing to show.
    pub async fn pod_credentials(&self, pod: &Uid) -> Result<PodCredentials, StoreError> {
        let store = &self.inner.store;
        let Some(pod) = store.get_by_uid("Pod", pod).await? else {
            return Ok(PodCredentials::default());
        };
        let namespace = &pod.namespace;
        let mut names = secret_names(&pod.json["spec"]["imagePullSecrets"]);
        if names.is_empty() {
            let account = pod.json["spec"]["serviceAccountName"]
                .as_str()
                .filter(|name| !name.is_empty())
                .unwrap_or("default");
            if let Some(account) = store.get("ServiceAccount", namespace, account).await? {
                names = secret_names(&account.json["imagePullSecrets"]);
            }
        }
        let mut configs = Vec::new();
        let mut unusable = Vec::new();
        for name in names {
            let secret = store.get("Secret", namespace, &name).await?;
            match secret.and_then(|secret| docker_config(&secret.json, &name)) {
                Some(config) => configs.push(config),
                None => unusable.push(name),
            }
        }
        Ok(PodCredentials {
            credentials: Credentials::of_configs(configs),
            unusable,
        })
    }
}

fn secret_names(list: &Value) -> Vec<String> {
    let entries = list.as_array().into_iter().flatten();
    entries
        .filter_map(|entry| entry["name"].as_str())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn docker_config(secret: &Value, name: &str) -> Option<DockerConfig> {
    let what = format!("secret {name}");
    let data = |key: &str| STANDARD.decode(secret["data"][key].as_str()?).ok();
    let config = match secret["type"].as_str() {
        Some("kubernetes.io/dockerconfigjson") => DockerConfig::parse(&data(".dockerconfigjson")?, &what),
        Some("kubernetes.io/dockercfg") => DockerConfig::parse_entries(&data(".dockercfg")?, &what),
        Some(_) | None => return None,
    };
    config
        .inspect_err(|error| tracing::warn!(%error, "an image pull secret is of no use"))
        .ok()
        // A helper is a program of this machine: a secret names none.
        .map(DockerConfig::without_helpers)
}
