//! PUT and PATCH of a pod, of its `/resize` and of its `/ephemeralcontainers`.
//!
//! The changed pod is admitted anew as a whole; then the rules of the change decide (`admit::change`). Of what comes out,
//! the spec is taken and, of a change of the pod itself, `metadata`'s open fields.

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;

use super::{POD, invalid, written};
use crate::admit::{self, AdmitContext, Encoding, Fault, FaultReason, FieldValidation, change};
use crate::api::error::ApiError;
use crate::api::kinds::Amended;
use crate::api::kinds::rules::{check_identity, set_open_metadata};
use crate::model::{MIRROR, Timestamp, Uid};

/// The stored pod and the changed one in, the admitted one out.
type Rules = fn(&Pod, Pod, &AdmitContext<'_>) -> Result<admit::Admitted, Vec<Fault>>;

/// PUT and PATCH of the pod itself. What a static pod is, its file alone says.
pub(super) fn update(current: &Value, mut proposed: Value, validation: FieldValidation) -> Result<Amended, ApiError> {
    // What a new pod gets beyond its manifest, it keeps where the manifest is sent again.
    for field in [
        "nodeName",
        "tolerations",
        "overhead",
        "serviceAccountName",
        "serviceAccount",
        "imagePullSecrets",
    ] {
        let kept = &current["spec"][field];
        if !kept.is_null() && proposed["spec"].is_object() && proposed["spec"][field].is_null() {
            proposed["spec"][field] = kept.clone();
        }
    }
    admit::keep_token(current, &mut proposed);
    let (admitted, warnings) = admitted(current, proposed, validation, change::update)?;
    let mut object = with_spec(current, &admitted);
    set_open_metadata(&mut object, &admitted);
    let is_mirror = !current["metadata"]["annotations"][MIRROR].is_null();
    if is_mirror && object != *current {
        let fault = Fault {
            field: String::new(),
            reason: FaultReason::Forbidden,
            detail: "Forbidden: static pods are changed in their files alone".to_owned(),
        };
        return Err(invalid(current["metadata"]["name"].as_str(), vec![fault]));
    }
    Ok(Amended { object, warnings })
}

/// PUT and PATCH of `/resize`.
pub(super) fn resize(current: &Value, proposed: Value, validation: FieldValidation) -> Result<Amended, ApiError> {
    let (admitted, warnings) = admitted(current, proposed, validation, change::resize)?;
    let object = with_spec(current, &admitted);
    Ok(Amended { object, warnings })
}

/// PUT and PATCH of `/ephemeralcontainers`.
pub(super) fn ephemeral_containers(
    current: &Value,
    proposed: Value,
    validation: FieldValidation,
) -> Result<Amended, ApiError> {
    let (admitted, warnings) = admitted(current, proposed, validation, change::ephemeral_containers)?;
    let object = with_spec(current, &admitted);
    Ok(Amended { object, warnings })
}

/// The stored object with another spec; `metadata.generation` counts the change.
fn with_spec(current: &Value, admitted: &Value) -> Value {
    let mut object = current.clone();
    if admitted["spec"] != current["spec"] {
        object["spec"] = admitted["spec"].clone();
        let generation = current["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
        object["metadata"]["generation"] = generation.into();
    }
    object
}

/// The changed pod as it was admitted, and warnings.
fn admitted(
    current: &Value,
    mut proposed: Value,
    validation: FieldValidation,
    rules: Rules,
) -> Result<(Value, Vec<String>), ApiError> {
    let meta = |field: &str| current["metadata"][field].as_str().unwrap_or("");
    let (name, namespace) = (meta("name"), meta("namespace"));
    check_identity(&POD, current, &proposed)?;
    if let Some(object) = proposed.as_object_mut() {
        object.remove("status");
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for own in [
                "resourceVersion",
                "generation",
                "creationTimestamp",
                "managedFields",
                "selfLink",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "uid",
                "generateName",
            ] {
                metadata.remove(own);
            }
            metadata.insert("name".to_owned(), name.into());
        }
    }
    let bytes = serde_json::to_vec(&proposed).map_err(|e| ApiError::internal("a pod cannot be written", e))?;
    let decoded =
        admit::decode::<Pod>(&bytes, Encoding::Json, validation).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let (mut after, mut warnings) = (decoded.object, decoded.warnings);
    admit::complete(&mut after);
    let before = Pod::deserialize(current).map_err(|e| ApiError::internal("the stored pod cannot be read", e))?;
    let context = AdmitContext {
        now: meta("creationTimestamp").parse().unwrap_or(Timestamp::UNIX_EPOCH),
        uid: Uid(meta("uid").to_owned()),
        namespace,
        name_suffix: "",
    };
    let admitted = rules(&before, after, &context).map_err(|faults| invalid(Some(name), faults))?;
    warnings.extend(admitted.warnings);
    Ok((written(&admitted.pod)?, warnings))
}
