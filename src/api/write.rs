//! POST, PUT and PATCH, for every kind.
//!
//! **Invariant:** nothing is stored that its kind's `admit` or `amend` did not return; a change is stored only over the
//! version it was made from.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use uuid::Uuid;

use super::Api;
use super::body;
use super::error::ApiError;
use super::kinds::{Draft, Kind};
use super::params::Head;
use super::read;
use crate::admit::{Decoded, Encoding, FieldValidation};
use crate::model::Uid;
use crate::store::{StoreError, StoredObject};

/// How often a made-up name is made up anew when it is taken (`rest.Store`, `maxNameGenerationCreateAttempts`).
const NAME_ATTEMPTS: u32 = 8;
/// How often a PATCH is applied anew to a newer object (`apiserver/pkg/endpoints/handlers/patch.go`, `MaxRetryWhenPatchConflicts`).
const CONFLICT_ATTEMPTS: u32 = 5;
/// Operations of one JSON patch: each may copy, so their number times the body's size bounds the work.
const PATCH_OPERATIONS: usize = 1000;

pub(crate) async fn create(state: &Api, kind: &'static Kind, head: &Head, body: Body) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let dry_run = head.params.dry_run("CreateOptions")?;
    let validation = head.params.field_validation("CreateOptions")?;
    let encoding = body::encoding(&head.headers)?;
    let bytes = body::read(&head.headers, body, state.limits.body_timeout).await?;
    if encoding == Encoding::Json {
        body::check_depth(&bytes)?;
    }
    let namespace = head.namespace();
    let mut attempt = 1;
    loop {
        let uid = Uid(Uuid::new_v4().to_string());
        let suffix = name_suffix(Uuid::new_v4());
        let draft = Draft {
            bytes: &bytes,
            encoding,
            validation,
            namespace,
            node_name: &state.node_name,
            asker: head.asker.as_deref(),
            now: state.now(),
            uid: uid.clone(),
            suffix: &suffix,
        };
        let admitted = (kind.admit)(&draft)?;
        if !kind.is_stored() {
            return answer.object(StatusCode::CREATED, &admitted.object, &admitted.warnings);
        }
        let name = admitted.name.as_str();
        if dry_run {
            if state
                .store
                .get(kind.kind, namespace, name)
                .await
                .map_err(|e| ApiError::from_store(e, kind, name))?
                .is_some()
            {
                return Err(ApiError::AlreadyExists {
                    kind,
                    name: name.to_owned(),
                });
            }
            return answer.object(StatusCode::CREATED, &admitted.object, &admitted.warnings);
        }
        match state
            .store
            .create(kind.kind, namespace, name, &uid, admitted.object)
            .await
        {
            Ok(stored) => return answer.object(StatusCode::CREATED, &stored.json, &admitted.warnings),
            Err(StoreError::AlreadyExists { .. }) if admitted.generated && attempt < NAME_ATTEMPTS => attempt += 1,
            Err(error) => return Err(ApiError::from_store(error, kind, name)),
        }
    }
}

/// Five characters of Kubernetes' alphabet for made-up names (`apimachinery/pkg/util/rand`: no vowels, no look-alikes).
fn name_suffix(random: Uuid) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    random
        .as_bytes()
        .iter()
        .take(5)
        .map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]))
        .collect()
}

/// Store a changed object over the version it was made from.
async fn store_over(
    state: &Api,
    kind: &'static Kind,
    current: &StoredObject,
    desired: Value,
) -> Result<StoredObject, StoreError> {
    let (namespace, name) = (&current.namespace, &current.name);
    state
        .store
        .update(
            kind.kind,
            namespace,
            name,
            current.resource_version,
            without_status(desired),
        )
        .await
}

/// What the store takes as desired: the object without what the store itself adds.
pub(crate) fn without_status(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
    }
    object
}

/// An update that asks for a version other than the current one comes too late.
fn check_version(kind: &'static Kind, proposed: &Value, current: &StoredObject) -> Result<(), ApiError> {
    match proposed["metadata"]["resourceVersion"].as_str() {
        None | Some("") => Ok(()),
        Some(asked) if asked == current.resource_version.to_string() => Ok(()),
        Some(_) => Err(ApiError::conflict(kind, &current.name)),
    }
}

fn parse(bytes: &Bytes) -> Result<Value, ApiError> {
    body::check_depth(bytes)?;
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::bad_request(format!("the body of the request is not JSON: {e}")))
}

pub(crate) async fn replace(state: &Api, kind: &'static Kind, head: &Head, body: Body) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let dry_run = head.params.dry_run("UpdateOptions")?;
    let validation = head.params.field_validation("UpdateOptions")?;
    let encoding = body::encoding(&head.headers)?;
    let bytes = body::read(&head.headers, body, state.limits.body_timeout).await?;
    if encoding == Encoding::Json {
        body::check_depth(&bytes)?;
    }
    let Decoded {
        object: proposed,
        mut warnings,
    } = (kind.read)(&bytes, encoding, validation)?;
    let unconditional = proposed["metadata"]["resourceVersion"]
        .as_str()
        .is_none_or(str::is_empty);
    let mut attempt = 1;
    loop {
        let current = read::stored(state, kind, head.namespace(), head.name()?).await?;
        check_version(kind, &proposed, &current)?;
        let amended = (kind.amend)(&current.json, proposed.clone(), FieldValidation::Ignore)?;
        warnings.extend(amended.warnings);
        warnings.dedup();
        if dry_run || amended.object == *current.json {
            return answer.object(StatusCode::OK, &amended.object, &warnings);
        }
        match store_over(state, kind, &current, amended.object).await {
            Ok(stored) => return answer.object(StatusCode::OK, &stored.json, &warnings),
            Err(StoreError::Conflict { .. }) if unconditional && attempt < CONFLICT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(ApiError::from_store(error, kind, &current.name)),
        }
    }
}

/// A patch as it came, not yet applied to anything.
#[derive(Debug)]
enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(Vec<json_patch::PatchOperation>),
}

const PATCHES: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json (of maps alone)";

impl Patch {
    fn read(headers: &HeaderMap, bytes: &Bytes) -> Result<Self, ApiError> {
        let unsupported = || ApiError::UnsupportedMediaType { accepted: PATCHES };
        match body::media_type(headers).as_deref() {
            Some("application/merge-patch+json") => Ok(Self::Merge(parse(bytes)?)),
            Some("application/strategic-merge-patch+json") => {
                let patch = parse(bytes)?;
                // Where no list and no directive is in it, a strategic merge is a plain merge.
                if is_plain(&patch) {
                    Ok(Self::Merge(patch))
                } else {
                    Err(unsupported())
                }
            }
            Some("application/json-patch+json") => {
                body::check_depth(bytes)?;
                let operations: Vec<json_patch::PatchOperation> = serde_json::from_slice(bytes)
                    .map_err(|e| ApiError::bad_request(format!("the body of the request is not a JSON patch: {e}")))?;
                if operations.len() > PATCH_OPERATIONS {
                    return Err(ApiError::TooLarge {
                        limit: PATCH_OPERATIONS,
                    });
                }
                Ok(Self::Json(operations))
            }
            Some(_) | None => Err(unsupported()),
        }
    }

    fn apply(&self, object: &mut Value) -> Result<(), ApiError> {
        match self {
            Self::Merge(patch) => json_patch::merge(object, patch),
            Self::Json(operations) => {
                for operation in operations {
                    json_patch::patch(object, std::slice::from_ref(operation))
                        .map_err(|e| ApiError::Unprocessable { why: e.to_string() })?;
                    // `copy` can double a document at every step.
                    let copies = matches!(operation, json_patch::PatchOperation::Copy(_));
                    if copies && object.to_string().len() > body::BODY_LIMIT {
                        return Err(ApiError::TooLarge {
                            limit: body::BODY_LIMIT,
                        });
                    }
                }
            }
        }
        if object.is_object() {
            Ok(())
        } else {
            Err(ApiError::Unprocessable {
                why: "the patch leaves no object".to_owned(),
            })
        }
    }
}

fn is_plain(patch: &Value) -> bool {
    match patch {
        Value::Object(fields) => fields
            .iter()
            .all(|(name, value)| !name.starts_with('$') && is_plain(value)),
        Value::Array(_) => false,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

pub(crate) async fn patch(state: &Api, kind: &'static Kind, head: &Head, body: Body) -> Result<Response, ApiError> {
    let answer = read::answer(state, kind, head)?;
    let dry_run = head.params.dry_run("PatchOptions")?;
    let validation: FieldValidation = head.params.field_validation("PatchOptions")?;
    let bytes = body::read(&head.headers, body, state.limits.body_timeout).await?;
    let patch = Patch::read(&head.headers, &bytes)?;
    let mut attempt = 1;
    loop {
        let current = read::stored(state, kind, head.namespace(), head.name()?).await?;
        let mut proposed = current.json.as_ref().clone();
        patch.apply(&mut proposed)?;
        check_version(kind, &proposed, &current)?;
        let amended = (kind.amend)(&current.json, proposed, validation)?;
        if dry_run || amended.object == *current.json {
            return answer.object(StatusCode::OK, &amended.object, &amended.warnings);
        }
        match store_over(state, kind, &current, amended.object).await {
            Ok(stored) => return answer.object(StatusCode::OK, &stored.json, &amended.warnings),
            Err(StoreError::Conflict { .. }) if attempt < CONFLICT_ATTEMPTS => attempt += 1,
            Err(error) => return Err(ApiError::from_store(error, kind, &current.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header;
    use serde_json::json;

    fn patched(media: &str, patch: &Value) -> Result<Value, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
        let mut object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        Patch::read(&headers, &Bytes::from(patch.to_string()))?.apply(&mut object)?;
        Ok(object)
    }

    #[test]
    fn merge_patches_remove_with_null() {
        for media in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
            let after = patched(media, &json!({"metadata": {"labels": {"a": null, "c": "3"}}})).unwrap();
            assert_eq!(after, json!({"metadata": {"labels": {"b": "2", "c": "3"}}}));
        }
    }

    #[test]
    fn json_patches_are_applied_in_order_and_a_failed_test_is_said() {
        let media = "application/json-patch+json";
        let after = patched(
            media,
            &json!([{"op": "replace", "path": "/metadata/labels/a", "value": "9"}]),
        )
        .unwrap();
        assert_eq!(after["metadata"]["labels"]["a"], "9");
        let error = patched(
            media,
            &json!([{"op": "test", "path": "/metadata/labels/a", "value": "9"}]),
        )
        .unwrap_err();
        assert_eq!(error.status()["code"], 422);
    }

    #[test]
    fn a_copy_bomb_stops_at_the_body_limit() {
        let mut operations = vec![json!({"op": "add", "path": "/x", "value": ["0123456789".repeat(100)]})];
        for _ in 0..40 {
            operations.push(json!({"op": "copy", "from": "/x", "path": "/x/-"}));
        }
        let error = patched("application/json-patch+json", &operations.into()).unwrap_err();
        assert_eq!(error.status()["code"], 413);
    }

    #[test]
    fn patches_podd_cannot_apply_truly_are_refused() {
        for (media, patch) in [
            (
                "application/strategic-merge-patch+json",
                json!({"spec": {"containers": []}}),
            ),
            (
                "application/strategic-merge-patch+json",
                json!({"metadata": {"$patch": "replace"}}),
            ),
            ("application/apply-patch+yaml", json!({})),
            ("text/plain", json!({})),
        ] {
            assert_eq!(patched(media, &patch).unwrap_err().status()["code"], 415, "{media}");
        }
    }

    #[test]
    fn made_up_names_use_kubernetes_alphabet() {
        let suffix = name_suffix(Uuid::from_bytes([255; 16]));
        assert_eq!(suffix.len(), 5);
        assert!(suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)));
    }
}
