use serde_json::{Value, json};

use super::lists::MERGED;
use super::schemas::{identity, name};
use super::*;

fn part(group: &str, version: &str) -> Value {
    let mut text = Vec::new();
    write(&mut text, Version::V3_0, Some((group, version))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn kubectl_finds_what_it_looks_for_in_every_part() {
    for (group, version) in crate::api::discovery::group_versions() {
        let part = part(group, version);
        assert_eq!(part["openapi"], "3.0.0");
        assert!(part["paths"].get("/healthz").is_none());
        for kind in kinds_of(Some((group, version))) {
            let identity = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
            let schema = &part["components"]["schemas"][name((kind.group, kind.version, kind.kind))];
            assert_eq!(
                schema["x-kubernetes-group-version-kind"],
                json!([identity]),
                "{}",
                kind.kind
            );
            if !kind.verbs.contains(&"patch") {
                continue;
            }
            let patch = &part["paths"][format!("{}/{{name}}", kind.collection_path())]["patch"];
            assert_eq!(patch["x-kubernetes-group-version-kind"], identity);
            let names: Vec<&Value> = patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| &p["name"])
                .collect();
            assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")));
        }
    }
}

#[test]
fn a_part_holds_every_schema_that_it_refers_to() {
    for (group, version) in crate::api::discovery::group_versions() {
        let part = part(group, version);
        for reference in part.to_string().split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(part.pointer(pointer).is_some(), "{group}/{version}: {pointer}");
        }
    }
}

#[test]
fn schemas_say_how_their_lists_merge() {
    let schemas = all_schemas(&kinds_of(None), false);
    let of = |schema: &str, field: &str| schemas[&format!("io.k8s.{schema}")]["properties"][field].clone();
    let ports = of("api.core.v1.Container", "ports");
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(ports["x-kubernetes-list-type"], "map");
    assert_eq!(
        ports["x-kubernetes-list-map-keys"],
        json!(["containerPort", "protocol"])
    );
    assert_eq!(
        of("api.core.v1.PodSpec", "volumes")["x-kubernetes-patch-strategy"],
        "merge,retainKeys"
    );
    assert_eq!(
        of("api.core.v1.PodSpec", "tolerations")["x-kubernetes-list-type"],
        "atomic"
    );
    assert_eq!(
        of("api.core.v1.PodSpec", "nodeSelector")["x-kubernetes-map-type"],
        "atomic"
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.LocalObjectReference"]["x-kubernetes-map-type"],
        "atomic"
    );
    // A field that k8s-openapi renamed or lost would lose how it merges.
    for merged in MERGED {
        if let Some(schema) = schemas.get(&format!("io.k8s.{}", merged.schema)) {
            assert!(
                schema["properties"].get(merged.field).is_some(),
                "{}.{} is not there any more",
                merged.schema,
                merged.field
            );
        }
    }
}

#[test]
fn every_kind_has_its_schema_under_the_name_that_kubernetes_gives_it() {
    let schemas = all_schemas(&kinds_of(None), true);
    for kind in KINDS {
        let name = name(identity(kind));
        assert!(schemas.contains_key(&name), "{name}");
    }
    assert!(schemas.contains_key(schemas::STATUS));
    assert!(schemas.contains_key(schemas::VERSION_INFO));
}

#[test]
fn version_two_says_the_same_in_its_own_words() {
    let item = json!({
        "parameters": [{"name": "name", "in": "path", "required": true, "schema": {"type": "string"}}],
        "post": {
            "parameters": [
                {"name": "command", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}}
            ],
            "requestBody": {
                "required": true,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}},
            },
            "responses": {
                "200": {
                    "description": "OK",
                    "content": {"application/json": {"schema": {"anyOf": [{"$ref": "#/components/schemas/A"}, {}]}}},
                },
            },
        },
    });
    assert_eq!(
        swagger::path(item),
        json!({
            "parameters": [{"name": "name", "in": "path", "required": true, "type": "string"}],
            "post": {
                "consumes": ["application/json"],
                "produces": ["application/json"],
                "parameters": [
                    {
                        "name": "command", "in": "query", "type": "array", "items": {"type": "string"},
                        "collectionFormat": "multi",
                    },
                    {"name": "body", "in": "body", "required": true, "schema": {"$ref": "#/definitions/A"}},
                ],
                "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/A"}}},
            },
        })
    );
    assert_eq!(
        swagger::schema(json!({
            "properties": {
                "oneOf": {"allOf": [{"$ref": "#/components/schemas/B"}], "description": "a field of that name"},
                "port": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
            },
        })),
        json!({
            "properties": {
                "oneOf": {"$ref": "#/definitions/B", "description": "a field of that name"},
                "port": {"format": "int-or-string", "type": "string"},
            },
        })
    );
}
