//! One file of the manifest directory, understood.
//!
//! Goes in: the file's name and bytes, and the node's name. Comes out: the pod it means, checked as one that came through
//! the API is; or why it means none.
//!
//! **Invariant:** pure. The same file means the same pod under the same hash, whichever agent reads it.
//!
//! Rules and words: Kubernetes `pkg/kubelet/config/common.go` (`applyDefaults`, `tryDecodeSinglePod`) and
//! `pkg/api/pod/util.go` (`HasAPIObjectReference`).

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, Pod, PodSpec, Toleration, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::admit::{self, AdmitContext, DecodeError, Encoding, Fault, FieldValidation, ModelError};
use crate::model::{MIRROR, Timestamp, Uid};
use crate::schedule::Placement;
use crate::status;

/// `file`: where the pod comes from.
pub(super) const SOURCE: &str = "kubernetes.io/config.source";
/// What the file says, as a number: another one is another pod.
pub(super) const HASH: &str = "kubernetes.io/config.hash";
/// When the pod was made from its file.
const SEEN: &str = "kubernetes.io/config.seen";
/// podd's own: the name of that file.
pub(super) const FILE: &str = "podd.dev/manifest";

const DEFAULT_NAMESPACE: &str = "default";

/// A file that means no pod.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("invalid pod: name is needed for the pod")]
    NoName,
    #[error("static pods may not reference {resource}")]
    Reference { resource: &'static str },
    #[error("invalid pod: {}", list(.faults))]
    Faults { faults: Vec<Fault> },
    #[error("an admitted pod cannot be understood")]
    Model(#[from] ModelError),
    #[error("the pod cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

fn list(faults: &[Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    faults.join(", ")
}

/// A file that means a pod.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) hash: String,
    pod: Pod,
}

/// What is stored of it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) object: Value,
    pub(super) status: Value,
    pub(super) warnings: Vec<String>,
}

impl Manifest {
    /// Understand a file. `node` is the node's name.
    pub(super) fn read(file: &str, bytes: &[u8], node: &str) -> Result<Self, ManifestError> {
        let encoding = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => Encoding::Json,
            Some(_) | None => Encoding::Yaml,
        };
        let mut pod = admit::decode::<Pod>(bytes, encoding, FieldValidation::Strict)?.object;
        let name = pod.metadata.name.take().filter(|name| !name.is_empty());
        let name = format!("{}-{node}", name.ok_or(ManifestError::NoName)?);
        if let Some(resource) = reference(pod.spec.get_or_insert_default()) {
            return Err(ManifestError::Reference { resource });
        }
        pod.status = None;
        let hash = hash(&pod, &name, file)?;
        let given = pod.metadata.namespace.take().filter(|namespace| !namespace.is_empty());
        let namespace = given.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        pod.metadata.name = Some(name.clone());
        pod.metadata.namespace = Some(namespace.clone());
        let annotations = pod.metadata.annotations.get_or_insert_default();
        for (key, value) in [(SOURCE, "file"), (HASH, &hash), (MIRROR, &hash), (FILE, file)] {
            annotations.insert(key.to_owned(), value.to_owned());
        }
        let spec = pod.spec.get_or_insert_default();
        spec.node_name = Some(node.to_owned());
        let tolerates_all = Toleration {
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            ..Toleration::default()
        };
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&tolerates_all) {
            tolerations.push(tolerates_all);
        }
        let manifest = Self {
            namespace,
            name,
            hash,
            pod,
        };
        // What is wrong with it is said now, and not when it is needed.
        let nobody = Uid("00000000-0000-0000-0000-000000000000".to_owned());
        manifest.make(Timestamp::UNIX_EPOCH, &nobody, node, &nobody)?;
        Ok(manifest)
    }

    /// The pod to be stored: admitted, bound to the node, and owned by it.
    pub(super) fn make(&self, now: Timestamp, uid: &Uid, node: &str, node_uid: &Uid) -> Result<Made, ManifestError> {
        let mut pod = self.pod.clone();
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(SEEN.to_owned(), now.to_string());
        pod.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: node_uid.0.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        let context = AdmitContext {
            now,
            uid: uid.clone(),
            namespace: &self.namespace,
            name_suffix: "",
        };
        let admitted = admit::pod(pod, &context).map_err(|faults| ManifestError::Faults { faults })?;
        let model = admit::to_model(&admitted.pod)?;
        Ok(Made {
            object: serde_json::to_value(&admitted.pod)?,
            status: serde_json::to_value(status::initial(now, &model, &Placement::Bound))?,
            warnings: admitted.warnings,
        })
    }
}

/// Over what the file says, not how it says it; and over whose it is.
fn hash(pod: &Pod, name: &str, file: &str) -> Result<String, ManifestError> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(pod)?);
    hash.update(format!("name:{name}file:{file}"));
    let digest = hash.finalize();
    let digits = digest
        .iter()
        .take(16)
        .flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    Ok(digits.map(char::from).collect())
}

/// The kind of the first API object that the pod refers to, in a kubelet's words.
fn reference(spec: &PodSpec) -> Option<&'static str> {
    let names_account = [&spec.service_account_name, &spec.service_account];
    if names_account.into_iter().flatten().any(|account| !account.is_empty()) {
        return Some("serviceaccounts");
    }
    if spec
        .image_pull_secrets
        .as_ref()
        .is_some_and(|secrets| !secrets.is_empty())
    {
        return Some("secrets");
    }
    let containers: Vec<&Container> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
    let env = || containers.iter().flat_map(|container| container.env.iter().flatten());
    let env_from = || {
        containers
            .iter()
            .flat_map(|container| container.env_from.iter().flatten())
    };
    if env().any(is_from_secret) || env_from().any(|from: &EnvFromSource| from.secret_ref.is_some()) {
        return Some("secrets");
    }
    if env().any(is_from_config_map) || env_from().any(|from: &EnvFromSource| from.config_map_ref.is_some()) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(volume_reference)
}

fn is_from_secret(variable: &EnvVar) -> bool {
    let from = variable.value_from.as_ref();
    from.is_some_and(|from| from.secret_key_ref.is_some())
}

fn is_from_config_map(variable: &EnvVar) -> bool {
    let from = variable.value_from.as_ref();
    from.is_some_and(|from| from.config_map_key_ref.is_some())
}

fn volume_reference(volume: &Volume) -> Option<&'static str> {
    if volume.config_map.is_some() {
        return Some("configmaps (via configmap volumes)");
    }
    if volume.secret.is_some() {
        return Some("secrets (via secret volumes)");
    }
    if volume.csi.is_some() {
        return Some("csidrivers (via CSI volumes)");
    }
    if volume.persistent_volume_claim.is_some() {
        return Some("persistentvolumeclaims");
    }
    if volume.ephemeral.is_some() {
        return Some("persistentvolumeclaims (via ephemeral volumes)");
    }
    let sources = volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten());
    for source in sources {
        if source.config_map.is_some() {
            return Some("configmaps (via projected volumes)");
        }
        if source.secret.is_some() {
            return Some("secrets (via projected volumes)");
        }
        if source.service_account_token.is_some() {
            return Some("serviceaccounts (via projected volumes)");
        }
        if source.cluster_trust_bundle.is_some() {
            return Some("clustertrustbundles");
        }
        if source.pod_certificate.is_some() {
            return Some("podcertificates");
        }
    }
    None
}
