//! The schemas of the document: k8s-openapi's own, with what Kubernetes' documents have beside them.
//!
//! Goes in: kinds. Comes out: every schema they lead to, by name, in the form of `OpenAPI` 3.0.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    APIGroup, APIGroupList, APIResourceList, APIVersions, DeleteOptions, ListMeta, Status,
};
use k8s_openapi::apimachinery::pkg::version::Info;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::lists::{ATOMIC_LISTS, ATOMIC_MAPS, List, MERGED};
use crate::api::kinds::Kind;

const PREFIX: &str = "#/components/schemas/";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const VERSION_INFO: &str = "io.k8s.apimachinery.pkg.version.Info";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// Schemas by their names.
pub(super) type Schemas = Map<String, Value>;

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{PREFIX}{name}") })
}

/// The name of the schema of a group, version and kind: `io.k8s.api.core.v1.Pod`.
pub(super) fn name((group, version, kind): (&str, &str, &str)) -> String {
    let package = match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    };
    format!("io.k8s.api.{package}.{version}.{kind}")
}

pub(super) fn identity(kind: &Kind) -> (&'static str, &'static str, &'static str) {
    (kind.group, kind.version, kind.kind)
}

/// What a subresource takes and answers where it is no kind of its own.
pub(super) fn of_subresource((group, version, kind): (&str, &str, &str)) -> Option<fn(&mut SchemaGenerator) -> Schema> {
    match (group, version, kind) {
        ("", "v1", "Binding") => Some(SchemaGenerator::subschema_for::<Binding>),
        ("policy", "v1", "Eviction") => Some(SchemaGenerator::subschema_for::<Eviction>),
        ("authentication.k8s.io", "v1", "TokenRequest") => Some(SchemaGenerator::subschema_for::<TokenRequest>),
        ("autoscaling", "v1", "Scale") => Some(SchemaGenerator::subschema_for::<Scale>),
        _ => None,
    }
}

/// Everything that these kinds, their lists and their subresources lead to; `general` adds what discovery answers.
pub(super) fn of(kinds: &[&Kind], general: bool) -> Schemas {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut identities = Vec::new();
    for kind in kinds {
        (kind.schema)(&mut generator);
        identities.push((name(identity(kind)), identity(kind)));
        for sub in kind.subresources {
            if let Some(schema) = of_subresource(sub.kind) {
                schema(&mut generator);
                identities.push((name(sub.kind), sub.kind));
            }
        }
    }
    generator.subschema_for::<Status>();
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<ListMeta>();
    identities.push((STATUS.to_owned(), ("", "v1", "Status")));
    identities.push((DELETE_OPTIONS.to_owned(), ("", "v1", "DeleteOptions")));
    if general {
        generator.subschema_for::<APIVersions>();
        generator.subschema_for::<APIGroupList>();
        generator.subschema_for::<APIGroup>();
        generator.subschema_for::<APIResourceList>();
        generator.subschema_for::<Info>();
    }
    let mut schemas = generator.take_definitions(true);
    for kind in kinds.iter().filter(|k| k.verbs.contains(&"list")) {
        let one = name(identity(kind));
        schemas.insert(format!("{one}List"), list(kind, &one));
    }
    for (name, schema) in &mut schemas {
        if let Some(schema) = schema.as_object_mut() {
            conform(name, schema);
        }
    }
    for (name, (group, version, kind)) in identities {
        if let Some(schema) = schemas.get_mut(&name) {
            schema["x-kubernetes-group-version-kind"] = json!([{ "group": group, "version": version, "kind": kind }]);
        }
    }
    schemas
}

fn list(kind: &Kind, one: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("{}List is a list of {}.", kind.kind, kind.plural),
        "required": ["items"],
        "properties": {
            "apiVersion": {
                "type": "string",
                "description": "APIVersion defines the versioned schema of this representation of an object.",
            },
            "kind": { "type": "string", "description": "Kind says what this object is." },
            "metadata": {
                "allOf": [reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")],
                "description": "Standard list metadata.",
            },
            "items": { "type": "array", "description": format!("The {}.", kind.plural), "items": reference(one) },
        },
        "x-kubernetes-group-version-kind": [
            { "group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind) }
        ],
    })
}

/// What k8s-openapi says otherwise than Kubernetes' own documents, or does not say.
fn conform(name: &str, schema: &mut Map<String, Value>) {
    match name {
        INT_OR_STRING => {
            schema.remove("x-kubernetes-int-or-string");
            schema.insert("format".to_owned(), "int-or-string".into());
            schema.insert("oneOf".to_owned(), json!([{ "type": "integer" }, { "type": "string" }]));
        }
        QUANTITY => {
            schema.remove("x-kubernetes-int-or-string");
            schema.insert("oneOf".to_owned(), json!([{ "type": "string" }, { "type": "number" }]));
        }
        _ => {}
    }
    // k8s-openapi always writes the metadata of whole objects and wants it; Kubernetes does not want it.
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "metadata");
        if required.is_empty() {
            schema.remove("required");
        }
    }
    let short = name.strip_prefix("io.k8s.").unwrap_or(name);
    if ATOMIC_MAPS.contains(&(short, "")) {
        schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (_, fields) in ATOMIC_LISTS.iter().filter(|(s, _)| *s == short) {
        for field in *fields {
            extend(properties, field, "x-kubernetes-list-type", "atomic".into());
        }
    }
    for (_, field) in ATOMIC_MAPS.iter().filter(|(s, f)| *s == short && !f.is_empty()) {
        extend(properties, field, "x-kubernetes-map-type", "atomic".into());
    }
    for merged in MERGED.iter().filter(|m| m.schema == short) {
        let mut add = |extension, value| extend(properties, merged.field, extension, value);
        match merged.list {
            List::Atomic => add("x-kubernetes-list-type", "atomic".into()),
            List::Set => add("x-kubernetes-list-type", "set".into()),
            List::Map(keys) => {
                add("x-kubernetes-list-type", "map".into());
                add("x-kubernetes-list-map-keys", json!(keys));
            }
            List::Unsaid => {}
        }
        if !merged.strategy.is_empty() {
            add("x-kubernetes-patch-strategy", merged.strategy.into());
        }
        if !merged.key.is_empty() {
            add("x-kubernetes-patch-merge-key", merged.key.into());
        }
    }
}

fn extend(properties: &mut Map<String, Value>, field: &str, extension: &str, value: Value) {
    if let Some(property) = properties.get_mut(field).and_then(Value::as_object_mut) {
        property.insert(extension.to_owned(), value);
    }
}
