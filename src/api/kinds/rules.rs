//! What is the same for every kind that is only kept: decoding, metadata, changes, the status.
//!
//! A kind of this sort is its type of `k8s_openapi` and its [`Rules`]; [`kind`] makes a [`Kind`] of them, of which the
//! kind's file overrides what it wants to be different.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ALL_VERBS, Admitted, Amended, BY_NAME, BY_NAMESPACE_AND_NAME, Draft, Kind, Row, qualified};
use crate::admit::{self, AdmitContext, Decoded, Encoding, Fault, FieldValidation, Findings, MetadataRules};
use crate::api::error::ApiError;
use crate::model::Timestamp;

/// What of `metadata` a client may change; everything else in it is podd's.
const OPEN_METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// The rules of a kind that podd only keeps.
pub(super) trait Rules:
    Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Serialize + JsonSchema + 'static
{
    const METADATA: MetadataRules;

    /// The part whose changes `metadata.generation` counts, if the kind has one.
    const COUNTED: &'static str = "/spec";

    fn kind() -> &'static Kind;

    fn decode(bytes: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Decoded<Self>, ApiError> {
        admit::decode(bytes, encoding, validation).map_err(|e| ApiError::bad_request(e.to_string()))
    }

    /// The defaults of the server. The metadata is filled in already.
    fn fill(&mut self) {}

    /// Everything that is wrong with it, but for its metadata.
    fn check(&self, _findings: &mut Findings) {}

    /// Take over from the object as it was what a client cannot change and is not told so.
    fn keep(&mut self, _before: &Self) {}

    /// What may not be changed.
    fn check_change(&self, _before: &Self, _findings: &mut Findings) {}

    /// The status of a new object, from the one that the client sent.
    fn first_status(_sent: Option<Value>) -> Option<Value> {
        None
    }
}

/// The kind of a type, with nothing but a name and an age in its table yet.
pub(super) const fn kind<T: Rules>(singular: &'static str) -> Kind {
    Kind {
        group: T::GROUP,
        version: T::VERSION,
        kind: T::KIND,
        stored_as: T::KIND,
        plural: T::URL_PATH_SEGMENT,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: T::METADATA.namespaced,
        verbs: ALL_VERBS,
        subresources: &[],
        columns: &[super::NAME, super::AGE],
        selectable: if T::METADATA.namespaced {
            BY_NAMESPACE_AND_NAME
        } else {
            BY_NAME
        },
        row: name_and_age,
        read: read::<T>,
        admit: admit_new::<T>,
        amend: amend::<T>,
        deprecated: None,
        view: None,
        schema: schema::<T>,
    }
}

fn name_and_age(object: &Value, now: Timestamp) -> Row {
    super::row(vec![super::name_cell(object), super::age_cell(object, now)])
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn written<T: Serialize>(object: &T) -> Result<Value, ApiError> {
    // The source is left out: it may quote what it could not write.
    serde_json::to_value(object).map_err(|_| ApiError::internal("an object cannot be written", "it is no JSON"))
}

fn invalid<T: Rules>(name: &str, faults: Vec<Fault>) -> ApiError {
    ApiError::Invalid {
        group: T::GROUP,
        kind: T::KIND,
        name: name.to_owned(),
        faults,
    }
}

pub(super) fn read<T: Rules>(
    bytes: &[u8],
    encoding: Encoding,
    validation: FieldValidation,
) -> Result<Decoded<Value>, ApiError> {
    let Decoded { object, warnings } = T::decode(bytes, encoding, validation)?;
    Ok(Decoded {
        object: written(&object)?,
        warnings,
    })
}

pub(super) fn admit_new<T: Rules>(draft: &Draft<'_>) -> Result<Admitted, ApiError> {
    let Decoded {
        mut object,
        mut warnings,
    } = T::decode(draft.bytes, draft.encoding, draft.validation)?;
    let asked = object.metadata();
    let elsewhere = |ns: &str| !ns.is_empty() && ns != draft.namespace;
    if T::METADATA.namespaced && asked.namespace.as_deref().is_some_and(elsewhere) {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let asked_name = asked.name.clone().filter(|n| !n.is_empty());
    let shown_name = asked_name.clone().or_else(|| asked.generate_name.clone());
    let context = AdmitContext {
        now: draft.now,
        uid: draft.uid.clone(),
        namespace: draft.namespace,
        name_suffix: draft.suffix,
    };
    let mut findings = Findings::default();
    let metadata = std::mem::take(object.metadata_mut());
    *object.metadata_mut() = admit::metadata(metadata, T::METADATA, &context, &mut findings);
    object.fill();
    object.check(&mut findings);
    let said = findings
        .finish()
        .map_err(|faults| invalid::<T>(shown_name.as_deref().unwrap_or_default(), faults))?;
    warnings.extend(said);
    let name = object.metadata().name.clone().unwrap_or_default();
    let mut object = written(&object)?;
    let sent = object.as_object_mut().and_then(|fields| fields.remove("status"));
    Ok(Admitted {
        name,
        object,
        status: T::first_status(sent),
        generated: asked_name.is_none(),
        warnings,
    })
}

/// The proposed object, read; what is podd's in its metadata comes from the current one.
struct Proposed<T> {
    before: T,
    after: T,
    warnings: Vec<String>,
}

fn propose<T: Rules>(
    current: &Value,
    mut proposed: Value,
    validation: FieldValidation,
) -> Result<Proposed<T>, ApiError> {
    check_identity(T::kind(), current, &proposed)?;
    if proposed["metadata"].is_null() {
        proposed["metadata"] = Value::Object(serde_json::Map::new());
    }
    if let Some(metadata) = proposed["metadata"].as_object_mut() {
        metadata.retain(|field, _| OPEN_METADATA.contains(&field.as_str()));
        for (field, value) in current["metadata"].as_object().into_iter().flatten() {
            if !OPEN_METADATA.contains(&field.as_str()) {
                metadata.insert(field.clone(), value.clone());
            }
        }
    }
    let unreadable = |_| ApiError::internal("the stored object cannot be read", "it is not of its kind");
    let before = T::deserialize(current).map_err(unreadable)?;
    let bytes = serde_json::to_vec(&proposed)
        .map_err(|_| ApiError::internal("an object cannot be written", "it is no JSON"))?;
    let Decoded {
        object: after,
        warnings,
    } = T::decode(&bytes, Encoding::Json, validation)?;
    Ok(Proposed {
        before,
        after,
        warnings,
    })
}

/// PUT and PATCH of the object: all of it but its status, as far as the rules let it.
pub(super) fn amend<T: Rules>(
    current: &Value,
    proposed: Value,
    validation: FieldValidation,
) -> Result<Amended, ApiError> {
    let Proposed {
        before,
        mut after,
        mut warnings,
    } = propose::<T>(current, proposed, validation)?;
    let name = current["metadata"]["name"].as_str().unwrap_or_default();
    after.keep(&before);
    after.fill();
    let mut findings = Findings::default();
    admit::metadata_change(before.metadata(), after.metadata(), &mut findings);
    after.check(&mut findings);
    after.check_change(&before, &mut findings);
    warnings.extend(findings.finish().map_err(|faults| invalid::<T>(name, faults))?);

    let after = written(&after)?;
    let mut object = current.clone();
    if let (Some(fields), Some(new)) = (object.as_object_mut(), after.as_object()) {
        fields.retain(|field, _| new.contains_key(field) || field == "status");
        for (field, value) in new {
            if field != "metadata" && field != "status" {
                fields.insert(field.clone(), value.clone());
            }
        }
    }
    set_open_metadata(&mut object, &after);
    if T::METADATA.generation && object.pointer(T::COUNTED) != current.pointer(T::COUNTED) {
        let generation = current["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        object["metadata"]["generation"] = generation.into();
    }
    Ok(Amended { object, warnings })
}

/// PUT and PATCH of `/status`: the status, and what of the metadata is the client's.
pub(super) fn amend_status<T: Rules>(
    current: &Value,
    proposed: Value,
    validation: FieldValidation,
) -> Result<Amended, ApiError> {
    let Proposed {
        before,
        after,
        mut warnings,
    } = propose::<T>(current, proposed, validation)?;
    let name = current["metadata"]["name"].as_str().unwrap_or_default();
    let mut findings = Findings::default();
    admit::metadata_change(before.metadata(), after.metadata(), &mut findings);
    warnings.extend(findings.finish().map_err(|faults| invalid::<T>(name, faults))?);
    let after = written(&after)?;
    let mut object = current.clone();
    set_open_metadata(&mut object, &after);
    if let Some(status) = after.get("status") {
        object["status"] = status.clone();
    }
    Ok(Amended { object, warnings })
}

/// Give `object` the client's part of the metadata of `from`.
pub(super) fn set_open_metadata(object: &mut Value, from: &Value) {
    for field in OPEN_METADATA {
        let value = &from["metadata"][field];
        if value.is_null() {
            object["metadata"].as_object_mut().and_then(|m| m.remove(field));
        } else {
            object["metadata"][field] = value.clone();
        }
    }
}

/// The proposed object must be the one it is to replace.
pub(super) fn check_identity(kind: &'static Kind, current: &Value, proposed: &Value) -> Result<(), ApiError> {
    let meta = |field: &str| current["metadata"][field].as_str().unwrap_or("");
    let fields: &[&str] = if kind.namespaced {
        &["name", "namespace"]
    } else {
        &["name"]
    };
    for field in fields {
        let given = proposed["metadata"][*field].as_str().unwrap_or("");
        if !given.is_empty() && given != meta(field) {
            return Err(ApiError::bad_request(format!(
                "the {field} of the object ({given}) does not match the {field} on the URL ({})",
                meta(field)
            )));
        }
    }
    let other = |uid: &&str| !uid.is_empty() && *uid != meta("uid");
    match proposed["metadata"]["uid"].as_str().filter(other) {
        Some(uid) => Err(ApiError::Conflict {
            kind,
            name: meta("name").to_owned(),
            why: format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta("uid")
            ),
        }),
        None => Ok(()),
    }
}

/// A POST of a kind whose objects podd cannot carry out yet.
pub(super) fn refuse<T: Rules>(draft: &Draft<'_>) -> Result<Admitted, ApiError> {
    let Decoded { object, .. } = T::decode(draft.bytes, draft.encoding, FieldValidation::Ignore)?;
    Err(ApiError::ForbiddenObject {
        kind: T::kind(),
        name: object.metadata().name.clone().unwrap_or_default(),
        why: format!(
            "podd has no controller for {} yet: it runs pods alone",
            qualified(T::URL_PATH_SEGMENT, T::GROUP)
        ),
        causes: Vec::new(),
    })
}
