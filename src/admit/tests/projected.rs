//! Volumes whose files podd writes: what is refused with which words, what is filled in, what is meant.

use std::time::Duration;

use serde_json::{Value, json};

use super::{admit, faults, small_pod, with};
use crate::admit::to_model;
use crate::model::{
    DownwardFile, DownwardValue, Field, KeyToPath, ObjectKind, Projection, ResourceField, ResourceValue, VolumeSource,
};

fn volume(source: &Value) -> Value {
    let mut volume = json!({"name": "v"});
    for (key, value) in source.as_object().expect("a source") {
        volume[key] = value.clone();
    }
    with(small_pod(), "/spec/volumes", json!([volume]))
}

/// Each with the faults beneath `spec.volumes[0].`.
fn check(rows: Vec<(Value, &[&str])>) {
    for (source, expected) in rows {
        let expected: Vec<String> = expected.iter().map(|text| format!("spec.volumes[0].{text}")).collect();
        assert_eq!(faults(volume(&source)), expected, "{source}");
    }
}

const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

#[test]
fn objects_and_their_items() {
    check(vec![
        (json!({"configMap": {"name": "c"}}), &[]),
        (json!({"configMap": {"name": "not-there", "optional": true}}), &[]),
        (json!({"configMap": {}}), &["configMap.name: Required value"]),
        (json!({"secret": {}}), &["secret.secretName: Required value"]),
        (
            json!({"secret": {"secretName": "s", "defaultMode": 0o1000}}),
            &[&format!("secret.defaultMode: Invalid value: 512: {BAD_MODE}")],
        ),
        (
            json!({"configMap": {"name": "c", "items": [{"key": "", "path": ""}]}}),
            &[
                "configMap.items[0].key: Required value",
                "configMap.items[0].path: Required value",
            ],
        ),
        (
            json!({"configMap": {"name": "c", "items": [{"key": "k", "path": "/abs", "mode": -1}]}}),
            &[
                "configMap.items[0].path: Invalid value: \"/abs\": must be a relative path",
                &format!("configMap.items[0].mode: Invalid value: -1: {BAD_MODE}"),
            ],
        ),
        (
            json!({"secret": {"secretName": "s", "items": [{"key": "k", "path": "a/../b"}, {"key": "k", "path": ".."}]}}),
            &[
                "secret.items[0].path: Invalid value: \"a/../b\": must not contain '..'",
                "secret.items[1].path: Invalid value: \"..\": must not contain '..'",
            ],
        ),
        (
            json!({"secret": {"secretName": "s", "items": [{"key": "k", "path": "..data"}, {"key": "k", "path": "./"}]}}),
            &[
                "secret.items[0].path: Invalid value: \"..data\": must not start with '..'",
                "secret.items[1].path: Invalid value: \"./\": must name a file",
            ],
        ),
        (
            json!({"configMap": {"name": "c"}, "secret": {"secretName": "s"}}),
            &["secret: Forbidden: may not specify more than 1 volume type"],
        ),
    ]);
}

fn downward(item: &Value) -> Value {
    let mut file = json!({"path": "f"});
    for (key, value) in item.as_object().expect("an item") {
        file[key] = value.clone();
    }
    json!({"downwardAPI": {"items": [file]}})
}

#[test]
fn what_a_pod_may_ask_of_itself() {
    let field = |path: &str| downward(&json!({"fieldRef": {"fieldPath": path}}));
    let resource = |selector: Value| downward(&json!({"resourceFieldRef": selector}));
    let at = "downwardAPI.items[0]";
    check(vec![
        (field("metadata.name"), &[]),
        (field("metadata.labels['a/b']"), &[]),
        (field("metadata.annotations['A']"), &[]),
        (
            field("status.podIP"),
            &[&format!(
                "{at}.fieldRef.fieldPath: Unsupported value: \"status.podIP\": supported values: \
                 \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \
                 \"metadata.uid\""
            )],
        ),
        (
            field("spec.nonsense"),
            &[&format!(
                "{at}.fieldRef.fieldPath: Invalid value: \"spec.nonsense\": error converting fieldPath: field label \
                 not supported: spec.nonsense"
            )],
        ),
        (
            field("metadata.name['x']"),
            &[&format!(
                "{at}.fieldRef.fieldPath: Invalid value: \"metadata.name['x']\": error converting fieldPath: field \
                 label does not support subscript: metadata.name['x']"
            )],
        ),
        (
            field("metadata.labels['']"),
            &[
                &format!("{at}.fieldRef: Invalid value: \"\": name part must be non-empty"),
                &format!(
                    "{at}.fieldRef: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' \
                     or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
                     '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                ),
            ],
        ),
        (
            downward(&json!({"fieldRef": {"fieldPath": "metadata.uid", "apiVersion": "v2"}})),
            &[&format!(
                "{at}.fieldRef.fieldPath: Invalid value: \"metadata.uid\": error converting fieldPath: unsupported pod \
                 version: v2"
            )],
        ),
        (
            downward(&json!({})),
            &[&format!(
                "{at}: Required value: one of fieldRef and resourceFieldRef is required"
            )],
        ),
        (
            downward(&json!({
                "fieldRef": {"fieldPath": "metadata.uid"},
                "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"},
            })),
            &[&format!(
                "{at}: Invalid value: \"resource\": fieldRef and resourceFieldRef can not be specified simultaneously"
            )],
        ),
        (
            resource(json!({"containerName": "c", "resource": "limits.cpu", "divisor": "1m"})),
            &[],
        ),
        (
            resource(json!({"containerName": "c", "resource": "limits.hugepages-2Mi", "divisor": "1Mi"})),
            &[],
        ),
        (
            resource(json!({"resource": "limits.cpu"})),
            &[&format!("{at}.resourceFieldRef.containerName: Required value")],
        ),
        (
            resource(json!({"containerName": "c", "resource": "limits.cpu", "divisor": "10m"})),
            &[&format!(
                "{at}.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are \
                 supported with the cpu resource"
            )],
        ),
        (
            resource(json!({"containerName": "c", "resource": "requests.memory", "divisor": "3"})),
            &[&format!(
                "{at}.resourceFieldRef.divisor: Invalid value: \"requests.memory\": only divisor's values 1, 1k, 1M, \
                 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource"
            )],
        ),
        (
            resource(json!({"containerName": "c", "resource": "limits.gpu"})),
            &[&format!(
                "{at}.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \"limits.cpu\", \
                 \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \
                 \"requests.memory\""
            )],
        ),
    ]);
}

#[test]
fn projected_sources() {
    let of = |sources: Value| json!({"projected": {"sources": sources}});
    let token = |token: Value| of(json!([{"serviceAccountToken": token}]));
    let at = "projected.sources[0]";
    check(vec![
        (json!({"projected": {}}), &[]),
        (
            json!({"projected": {"defaultMode": 0o7777, "sources": []}}),
            &[&format!("projected.defaultMode: Invalid value: 4095: {BAD_MODE}")],
        ),
        (
            of(json!([{"secret": {}}, {"configMap": {}}])),
            &[
                "projected.sources[0].secret.name: Required value",
                "projected.sources[1].configMap.name: Required value",
            ],
        ),
        (
            of(json!([{"secret": {"name": "s"}, "configMap": {"name": "c"}}])),
            &[&format!(
                "{at}: Forbidden: may not specify more than 1 volume type per source"
            )],
        ),
        (
            of(json!([
                {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                {"configMap": {"name": "c", "items": [{"key": "k", "path": "p"}]}},
                {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
            ])),
            &[
                "projected: Invalid value: \"c\": conflicting duplicate paths",
                "projected: Invalid value: \"p\": conflicting duplicate paths",
            ],
        ),
        (token(json!({"path": "token"})), &[]),
        (
            token(json!({"expirationSeconds": 599})),
            &[
                &format!(
                    "{at}.serviceAccountToken.expirationSeconds: Invalid value: 599: may not specify a duration less \
                     than 10 minutes"
                ),
                &format!("{at}.serviceAccountToken.path: Required value"),
            ],
        ),
        (
            token(json!({"path": "../t", "expirationSeconds": (1_i64 << 32) + 1})),
            &[
                &format!(
                    "{at}.serviceAccountToken.expirationSeconds: Invalid value: 4294967297: may not specify a duration \
                     larger than 2^32 seconds"
                ),
                &format!("{at}.serviceAccountToken.path: Invalid value: \"../t\": must not contain '..'"),
            ],
        ),
    ]);
}

#[test]
fn defaults_are_filled_in() {
    let pod = with(
        small_pod(),
        "/spec/volumes",
        json!([
            {"name": "a", "configMap": {"name": "c"}},
            {"name": "b", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "c", "downwardAPI": {"items": [{"path": "f", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
            {"name": "d", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t"}},
                {"downwardAPI": {"items": [{"path": "f", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
            ]}},
        ]),
    );
    let pod = serde_json::to_value(admit(pod).expect("admitted").pod).expect("JSON");
    let volumes = &pod["spec"]["volumes"];
    assert_eq!(volumes[0]["configMap"]["defaultMode"], 0o644);
    assert_eq!(volumes[1]["secret"]["defaultMode"], 0o400);
    assert_eq!(volumes[2]["downwardAPI"]["defaultMode"], 0o644);
    assert_eq!(volumes[2]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"], "v1");
    let projected = &volumes[3]["projected"];
    assert_eq!(projected["defaultMode"], 0o644);
    assert_eq!(
        projected["sources"][0]["serviceAccountToken"]["expirationSeconds"],
        3600
    );
    assert_eq!(
        projected["sources"][1]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"],
        "v1"
    );
}

#[test]
fn what_is_meant() {
    let pod = with(
        small_pod(),
        "/spec/volumes",
        json!([
            {"name": "a", "configMap": {"name": "c", "items": [{"key": "k", "path": "./x//y/", "mode": 0o600}]}},
            {"name": "b", "secret": {"secretName": "s", "optional": true, "defaultMode": 0o400}},
            {"name": "c", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t", "audience": "vault", "expirationSeconds": 600}},
                {"downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "label", "fieldRef": {"fieldPath": "metadata.labels['a/b']"}},
                    {"path": "cpu", "mode": 0o440, "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}},
                    {"path": "mem", "resourceFieldRef":
                        {"containerName": "c", "resource": "requests.memory", "divisor": "1Mi"}},
                ]}},
            ]}},
        ]),
    );
    let model = to_model(&admit(pod).expect("admitted").pod).expect("understood");
    let sources: Vec<_> = model.volumes.iter().map(|volume| volume.source.clone()).collect();
    let file = |path: &str, mode, value| DownwardFile {
        path: path.into(),
        mode,
        value,
    };
    let resource = |resource, divisor| {
        DownwardValue::Resource(ResourceValue {
            container: Some("c".to_owned()),
            resource,
            divisor,
        })
    };
    assert_eq!(
        sources,
        [
            VolumeSource::Projected {
                sources: vec![Projection::Object {
                    kind: ObjectKind::ConfigMap,
                    name: "c".to_owned(),
                    items: vec![KeyToPath {
                        key: "k".to_owned(),
                        path: "x/y".into(),
                        mode: Some(0o600)
                    }],
                    optional: false,
                }],
                default_mode: 0o644,
            },
            VolumeSource::Projected {
                sources: vec![Projection::Object {
                    kind: ObjectKind::Secret,
                    name: "s".to_owned(),
                    items: Vec::new(),
                    optional: true,
                }],
                default_mode: 0o400,
            },
            VolumeSource::Projected {
                sources: vec![
                    Projection::Token {
                        audience: "vault".to_owned(),
                        expiration: Duration::from_mins(10),
                        path: "t".into(),
                    },
                    Projection::Downward {
                        items: vec![
                            file("labels", None, DownwardValue::Field(Field::Labels)),
                            file("label", None, DownwardValue::Field(Field::Label("a/b".to_owned()))),
                            file("cpu", Some(0o440), resource(ResourceField::LimitsCpu, 1_000)),
                            file("mem", None, resource(ResourceField::RequestsMemory, 1 << 20)),
                        ],
                    },
                ],
                default_mode: 0o644,
            },
        ]
    );
}
