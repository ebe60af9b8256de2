//! The body of a PATCH: which of the three forms it is by its media type, and what it makes of an object.
//!
//! **Invariant:** a patch is read before any object is, and bounded: in bytes (`body`), depth, and operations.

use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::Value;

use super::body;
use super::error::ApiError;
use super::kinds::Kind;
use crate::admit::patch::{PatchError, strategic};
use crate::admit::{Decoded, FieldValidation, decode_json};

/// Operations of one JSON patch: each may copy, so their number times the body's size bounds the work.
const OPERATIONS: usize = 1000;

const ACCEPTED: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

/// A patch as it came, not yet applied to anything.
#[derive(Debug)]
pub(crate) enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(Vec<json_patch::PatchOperation>),
    /// Kubernetes' own.
    Strategic(Value),
}

impl Patch {
    /// The patch, and what of it is worth a warning.
    pub(crate) fn read(
        headers: &HeaderMap,
        bytes: &Bytes,
        validation: FieldValidation,
    ) -> Result<(Self, Vec<String>), ApiError> {
        let read = match body::media_type(headers).as_deref() {
            Some("application/merge-patch+json") => Self::Merge,
            Some("application/strategic-merge-patch+json") => Self::Strategic,
            Some("application/json-patch+json") => {
                let Decoded { object, warnings } = parse(bytes, validation)?;
                return Ok((Self::Json(operations(object)?), warnings));
            }
            Some("application/apply-patch+yaml" | "application/apply-patch+cbor" | "application/apply-patch") => {
                return Err(ApiError::ServerSideApply { accepted: ACCEPTED });
            }
            Some(_) | None => return Err(ApiError::UnsupportedMediaType { accepted: ACCEPTED }),
        };
        let Decoded { object, warnings } = parse(bytes, validation)?;
        Ok((read(object), warnings))
    }

    /// The object as the patch makes it. What it may not have is found later, by its kind.
    pub(crate) fn apply(&self, kind: &Kind, current: &Value) -> Result<Value, ApiError> {
        let mut object = current.clone();
        match self {
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => strategic(&mut object, patch.clone(), &kind.api_version(), kind.kind)
                .map_err(|error| refused(&error))?,
            Self::Json(operations) => {
                let mut size = object.to_string().len();
                for operation in operations {
                    // `copy` can double a document at every step.
                    if let json_patch::PatchOperation::Copy(copy) = operation {
                        size += object.pointer(copy.from.as_str()).map_or(0, |v| v.to_string().len());
                        // What was replaced or removed since makes room again; asked only when it would matter.
                        if size > body::BODY_LIMIT {
                            let copied = object.pointer(copy.from.as_str()).map_or(0, |v| v.to_string().len());
                            size = object.to_string().len() + copied;
                        }
                        if size > body::BODY_LIMIT {
                            return Err(ApiError::TooLarge {
                                limit: body::BODY_LIMIT,
                            });
                        }
                    }
                    json_patch::patch(&mut object, std::slice::from_ref(operation))
                        .map_err(|e| ApiError::Unprocessable { why: e.to_string() })?;
                }
            }
        }
        if object.is_object() {
            Ok(object)
        } else {
            Err(ApiError::Unprocessable {
                why: "the patch leaves no object".to_owned(),
            })
        }
    }
}

/// `apiserver/pkg/endpoints/handlers/patch.go`, `interpretStrategicMergePatchError`. What is an internal error there,
/// though it is the client's fault, is a bad request here.
fn refused(error: &PatchError) -> ApiError {
    if *error == PatchError::Unsupported {
        return ApiError::UnsupportedMediaType {
            accepted: "application/json-patch+json, application/merge-patch+json",
        };
    }
    if error.is_unprocessable() {
        ApiError::Unprocessable { why: error.to_string() }
    } else {
        ApiError::bad_request(error.to_string())
    }
}

fn parse(bytes: &Bytes, validation: FieldValidation) -> Result<Decoded<Value>, ApiError> {
    decode_json(bytes, validation)
        .map_err(|e| ApiError::bad_request(format!("the patch in the body of the request cannot be read: {e}")))
}

fn operations(patch: Value) -> Result<Vec<json_patch::PatchOperation>, ApiError> {
    if let Some(found) = patch.as_array().map(Vec::len).filter(|n| *n > OPERATIONS) {
        return Err(ApiError::TooManyOperations {
            limit: OPERATIONS,
            found,
        });
    }
    serde_json::from_value(patch)
        .map_err(|e| ApiError::bad_request(format!("the body of the request is not a JSON patch: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::pod::POD;
    use axum::http::header;
    use serde_json::json;

    fn patched(media: &str, patch: &Value) -> Result<Value, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let (patch, _) = Patch::read(&headers, &Bytes::from(patch.to_string()), FieldValidation::Strict)?;
        patch.apply(&POD, &object)
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
    fn more_operations_than_a_patch_may_have_are_refused_with_their_number() {
        let operations = vec![json!({"op": "test", "path": "/metadata/labels/a", "value": "1"}); OPERATIONS + 1];
        let error = patched("application/json-patch+json", &operations.into()).unwrap_err();
        assert_eq!(error.status()["code"], 413);
        assert_eq!(
            error.to_string(),
            "Request entity too large: The allowed maximum operations in a JSON patch is 1000, got 1001"
        );
    }

    #[test]
    fn forms_that_are_not_served_are_refused_and_server_side_apply_by_its_name() {
        for media in ["application/apply-patch+yaml", "application/apply-patch+cbor"] {
            let error = patched(media, &json!({})).unwrap_err();
            assert_eq!(error.status()["code"], 415);
            assert!(error.to_string().starts_with("server-side apply is not served here"));
        }
        for media in ["text/plain", "application/json"] {
            assert_eq!(patched(media, &json!({})).unwrap_err().status()["code"], 415, "{media}");
        }
    }

    #[test]
    fn faults_of_a_strategic_patch_have_kubernetes_codes() {
        let media = "application/strategic-merge-patch+json";
        for (patch, code) in [
            (json!([]), 400),
            (json!({"metadata": {"$patch": "sideways"}}), 400),
            (json!({"metadata": {"$retainKeys": "labels"}}), 400),
            (
                json!({"metadata": {"$setElementOrder/ownerReferences": [{"name": "x"}]}}),
                422,
            ),
        ] {
            assert_eq!(patched(media, &patch).unwrap_err().status()["code"], code, "{patch}");
        }
    }
}
