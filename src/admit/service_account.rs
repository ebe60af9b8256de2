//! What a pod's service account adds to it (`plugin/pkg/admission/serviceaccount`).
//!
//! Goes in: a new pod and the account it names. Comes out: the pod with a volume that holds a token, the authority and the
//! namespace, mounted where clients look for them; or why it is refused.
//!
//! **Invariant:** a pod that has all of it is left as it is.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};

use serde_json::Value;

use super::change;

/// The account of a pod that names none; each namespace has one.
pub const DEFAULT_ACCOUNT: &str = "default";
/// What the name of the volume begins with.
const VOLUME: &str = "kube-api-access-";
/// Where clients look for their token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds that the token lives (`WarnOnlyBoundTokenExpirationPeriod`).
const TOKEN_LIFE: i64 = 60 * 60 + 7;
const FILE_MODE: i32 = 0o644;
/// Every namespace's copy of the authority's certificate.
const ROOT_CA: (&str, &str) = ("kube-root-ca.crt", "ca.crt");

/// Why a pod is refused because of its account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountRefusal {
    #[error("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found")]
    NotFound { namespace: String, name: String },
    #[error("a mirror pod may not reference service accounts")]
    OfMirror,
    #[error("a mirror pod may not use service account token projections")]
    TokenOfMirror,
}

/// The account that a new pod has: the one it names, else the namespace's own. `None`: it is a mirror pod, which has none.
///
/// # Errors
/// A mirror pod that names one.
pub fn account_of(pod: &Pod) -> Result<Option<&str>, AccountRefusal> {
    let Some(spec) = &pod.spec else {
        return Ok(Some(DEFAULT_ACCOUNT));
    };
    let fields = [&spec.service_account_name, &spec.service_account];
    let name = fields
        .into_iter()
        .flatten()
        .map(String::as_str)
        .find(|name| !name.is_empty());
    if !change::is_mirror(&pod.metadata) {
        return Ok(Some(name.unwrap_or(DEFAULT_ACCOUNT)));
    }
    if name.is_some() {
        return Err(AccountRefusal::OfMirror);
    }
    let projections = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.projected.as_ref());
    let mut sources = projections.flat_map(|projected| projected.sources.iter().flatten());
    if sources.any(|source| source.service_account_token.is_some()) {
        return Err(AccountRefusal::TokenOfMirror);
    }
    Ok(None)
}

/// Give the pod its account: the name, the account's image pull secrets where it has none of its own, and the volume with
/// the token, unless one of the two says that there is to be none. The volume's name ends in `suffix`.
pub fn apply_account(pod: &mut Pod, name: &str, account: &ServiceAccount, suffix: &str) {
    let spec = pod.spec.get_or_insert_default();
    spec.service_account_name = Some(name.to_owned());
    spec.service_account = Some(name.to_owned());
    let automount = spec
        .automount_service_account_token
        .or(account.automount_service_account_token);
    if automount != Some(false) {
        mount_token(spec, suffix);
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        let of_account = account.image_pull_secrets.as_ref().filter(|all| !all.is_empty());
        spec.image_pull_secrets = of_account.cloned();
    }
}

/// A pod is written again by somebody who knows its manifest alone, or what was made of it: the volume with the token, which
/// it got when it was made, stays, and so do its mounts. Both are pods as JSON.
pub fn keep_token(current: &Value, proposed: &mut Value) {
    let is_token = |volume: &&Value| volume["name"].as_str().is_some_and(|name| name.starts_with(VOLUME));
    let find = |pod: &Value| pod["spec"]["volumes"].as_array()?.iter().find(is_token).cloned();
    let Some(volume) = find(current).filter(|_| find(proposed).is_none() && proposed["spec"].is_object()) else {
        return;
    };
    for list in ["containers", "initContainers"] {
        let before = current["spec"][list].as_array().into_iter().flatten();
        for container in before {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            let mut of_token = mounts.filter(|mount| mount["name"] == volume["name"]);
            let again = proposed["spec"].get_mut(list).and_then(Value::as_array_mut);
            let again = again
                .into_iter()
                .flatten()
                .find(|again| again["name"] == container["name"]);
            if let (Some(mount), Some(again)) = (of_token.next(), again) {
                push(&mut again["volumeMounts"], mount.clone());
            }
        }
    }
    push(&mut proposed["spec"]["volumes"], volume);
}

/// What is no list, and is there all the same, is refused when the pod is read.
fn push(list: &mut Value, value: Value) {
    if list.is_null() {
        *list = Value::Array(vec![value]);
    } else if let Some(list) = list.as_array_mut() {
        list.push(value);
    }
}

/// The name is an alias of the older field: the newer one wins, and both are shown (`pkg/apis/core/v1/conversion.go`).
pub(super) fn mirror_name(spec: &mut PodSpec) {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let name = given(&spec.service_account_name).or_else(|| given(&spec.service_account));
    spec.service_account_name.clone_from(&name);
    spec.service_account = name;
}

fn mount_token(spec: &mut PodSpec, suffix: &str) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let present = volumes.iter().find(|volume| volume.name.starts_with(VOLUME));
    let name = present.map_or_else(|| format!("{VOLUME}{suffix}"), |volume| volume.name.clone());
    let is_there = present.is_some();
    let mut is_needed = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        is_needed |= mount(container, &name);
    }
    if is_needed && !is_there {
        spec.volumes.get_or_insert_default().push(token_volume(name));
    }
}

/// Whether the volume had to be mounted: whatever is mounted there already stays.
fn mount(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        mount_path: MOUNT_PATH.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    true
}

/// `TokenVolumeSource`.
fn token_volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: None,
        expiration_seconds: Some(TOKEN_LIFE),
        path: "token".to_owned(),
    };
    let (map, key) = ROOT_CA;
    let authority = ConfigMapProjection {
        name: map.to_owned(),
        items: Some(vec![KeyToPath {
            key: key.to_owned(),
            mode: None,
            path: key.to_owned(),
        }]),
        optional: None,
    };
    let namespace = DownwardAPIProjection {
        items: Some(vec![DownwardAPIVolumeFile {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.namespace".to_owned(),
            }),
            mode: None,
            path: "namespace".to_owned(),
            resource_field_ref: None,
        }]),
    };
    let sources = vec![
        VolumeProjection {
            service_account_token: Some(token),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            config_map: Some(authority),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            downward_api: Some(namespace),
            ..VolumeProjection::default()
        },
    ];
    Volume {
        name,
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(FILE_MODE),
            sources: Some(sources),
        }),
        ..Volume::default()
    }
}
