//! Where variables come from: the rules, and the way to the model.

use serde_json::{Value, json};

use super::{admit, small_pod, with};
use crate::admit::to_model;
use crate::model::{EnvFrom, EnvValue, EnvVar, Field, ObjectKey, ObjectKind, ResourceField, ResourceValue};

const ENV: &str = "spec.containers[0].env[0]";

fn faults(pointer: &str, value: Value) -> Vec<String> {
    match admit(with(small_pod(), pointer, value)) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_source_is_exactly_one_and_well_formed() {
    for (value, expected) in [
        (json!({"fieldRef": {"fieldPath": "metadata.name"}}), vec![]),
        (json!({"fieldRef": {"fieldPath": "spec.host"}}), vec![]),
        (
            json!({"fieldRef": {"fieldPath": "metadata.labels['example.com/a']"}}),
            vec![],
        ),
        (
            json!({"fieldRef": {"fieldPath": "metadata.annotations['Example']"}}),
            vec![],
        ),
        (
            json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}),
            vec![],
        ),
        (
            json!({"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}}),
            vec![],
        ),
        (
            json!({"resourceFieldRef": {"resource": "limits.hugepages-2Mi"}}),
            vec![],
        ),
        (json!({"configMapKeyRef": {"name": "c", "key": "k.x_-"}}), vec![]),
        (
            json!({"secretKeyRef": {"name": "s", "key": "k", "optional": true}}),
            vec![],
        ),
        (
            json!({}),
            vec![
                ": Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
                 `secretKeyRef`",
            ],
        ),
        (
            json!({"fieldRef": {"fieldPath": "metadata.uid"}, "secretKeyRef": {"name": "s", "key": "k"}}),
            vec![": Invalid value: \"\": may not have more than one field specified at a time"],
        ),
        (
            json!({"configMapKeyRef": {"name": "", "key": ""}}),
            vec![
                ".configMapKeyRef.name: Required value",
                ".configMapKeyRef.key: Required value",
            ],
        ),
        (
            json!({"secretKeyRef": {"name": "s", "key": "a b"}}),
            vec![
                ".secretKeyRef.key: Invalid value: \"a b\": a valid config key must consist of alphanumeric \
                 characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for \
                 validation is '[-._a-zA-Z0-9]+')",
            ],
        ),
        (
            json!({"fieldRef": {"fieldPath": ""}}),
            vec![".fieldRef.fieldPath: Required value"],
        ),
        (
            json!({"fieldRef": {"apiVersion": "v2", "fieldPath": "metadata.name"}}),
            vec![
                ".fieldRef.fieldPath: Invalid value: \"metadata.name\": error converting fieldPath: unsupported pod \
                 version: v2",
            ],
        ),
        (
            json!({"fieldRef": {"fieldPath": "metadata.whoops"}}),
            vec![
                ".fieldRef.fieldPath: Invalid value: \"metadata.whoops\": error converting fieldPath: field label \
                 not supported: metadata.whoops",
            ],
        ),
        (
            json!({"fieldRef": {"fieldPath": "metadata.name['x']"}}),
            vec![
                ".fieldRef.fieldPath: Invalid value: \"metadata.name['x']\": error converting fieldPath: field label \
                 does not support subscript: metadata.name['x']",
            ],
        ),
        (
            json!({"fieldRef": {"fieldPath": "metadata.labels"}}),
            vec![
                ".fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \
                 \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \
                 \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        ),
        (
            json!({"fieldRef": {"fieldPath": "metadata.labels['']"}}),
            vec![
                ".fieldRef: Invalid value: \"\": name part must be non-empty",
                ".fieldRef: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', \
                 and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
                 regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ],
        ),
        (
            json!({"resourceFieldRef": {"resource": "limits.gpu"}}),
            vec![
                ".resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \"limits.cpu\", \
                 \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \
                 \"requests.memory\"",
            ],
        ),
        (
            json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "10m"}}),
            vec![
                ".resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are \
                 supported with the cpu resource",
            ],
        ),
        (
            json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1m"}}),
            vec![
                ".resourceFieldRef.divisor: Invalid value: \"limits.memory\": only divisor's values 1, 1k, 1M, 1G, \
                 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
            ],
        ),
        (
            json!({"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}),
            vec![".fileKeyRef: Forbidden: podd does not support variables from files of volumes yet"],
        ),
    ] {
        let expected: Vec<String> = expected.iter().map(|text| format!("{ENV}.valueFrom{text}")).collect();
        let env = json!([{"name": "A", "valueFrom": value}]);
        assert_eq!(faults("/spec/containers/0/env", env), expected, "{value}");
    }
    let both = json!([{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    assert_eq!(
        faults("/spec/containers/0/env", both),
        [format!(
            "{ENV}.valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"
        )]
    );
}

#[test]
fn env_from_names_one_object() {
    for (value, expected) in [
        (json!({"prefix": "p-", "configMapRef": {"name": "c"}}), vec![]),
        (json!({"secretRef": {"name": "s", "optional": true}}), vec![]),
        (
            json!({"prefix": "x"}),
            vec![": Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
        ),
        (
            json!({"configMapRef": {"name": "c"}, "secretRef": {"name": "s"}}),
            vec![": Invalid value: \"\": may not have more than one field specified at a time"],
        ),
        (
            json!({"configMapRef": {"name": ""}}),
            vec!["[0].configMapRef.name: Required value"],
        ),
        (
            json!({"prefix": "a=", "secretRef": {"name": "s"}}),
            vec![
                "[0].prefix: Invalid value: \"a=\": a valid environment variable name must consist only of printable \
                 ASCII characters other than '='",
            ],
        ),
    ] {
        let expected: Vec<String> = expected
            .iter()
            .map(|text| format!("spec.containers[0].envFrom{text}"))
            .collect();
        assert_eq!(
            faults("/spec/containers/0/envFrom", json!([value])),
            expected,
            "{value}"
        );
    }
}

#[test]
fn a_part_of_a_volume_is_named_once() {
    let pod = with(small_pod(), "/spec/volumes", json!([{"name": "v", "emptyDir": {}}]));
    for (mount, expected) in [
        (json!({"subPathExpr": "$(A)/b"}), vec![]),
        (json!({"subPathExpr": "", "subPath": "a"}), vec![]),
        (
            json!({"subPathExpr": "$(A)", "subPath": "a"}),
            vec!["Invalid value: \"$(A)\": subPathExpr and subPath are mutually exclusive"],
        ),
        (
            json!({"subPathExpr": "/$(A)"}),
            vec!["Invalid value: \"/$(A)\": must be a relative path"],
        ),
        (
            json!({"subPathExpr": "$(A)/../b"}),
            vec!["Invalid value: \"$(A)/../b\": must not contain '..'"],
        ),
    ] {
        let mut mount = mount;
        mount["name"] = json!("v");
        mount["mountPath"] = json!("/a");
        let found = match admit(with(
            pod.clone(),
            "/spec/containers/0/volumeMounts",
            json!([mount.clone()]),
        )) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        };
        let expected: Vec<String> = expected
            .iter()
            .map(|text| format!("spec.containers[0].volumeMounts[0].subPathExpr: {text}"))
            .collect();
        assert_eq!(found, expected, "{mount}");
    }
}

#[test]
fn sources_as_podd_means_them() {
    let pod = with(
        small_pod(),
        "/spec/containers/0",
        json!({
            "name": "a", "image": "i:1", "command": ["$(A)"],
            "envFrom": [
                {"prefix": "p", "configMapRef": {"name": "c"}},
                {"secretRef": {"name": "s", "optional": true}},
            ],
            "env": [
                {"name": "A", "value": "$(B)"},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['k']"}}},
                {"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                {"name": "F", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "G", "valueFrom": {"resourceFieldRef": {
                    "containerName": "a", "resource": "requests.memory", "divisor": "1Ki"}}},
                {"name": "H", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                {"name": "I", "valueFrom": {"resourceFieldRef": {
                    "resource": "limits.hugepages-2Mi", "divisor": "0"}}},
            ],
        }),
    );
    let admitted = admit(pod).expect("admitted").pod;
    let written = serde_json::to_value(&admitted).expect("JSON");
    assert_eq!(
        written["spec"]["containers"][0]["env"][3]["valueFrom"]["fieldRef"]["apiVersion"],
        "v1"
    );
    let container = &to_model(&admitted).expect("understood").containers[0];
    assert_eq!(container.command, ["$(A)"]);
    let from = |prefix: &str, kind, object: &str, optional| EnvFrom {
        prefix: prefix.to_owned(),
        kind,
        object: object.to_owned(),
        optional,
    };
    assert_eq!(
        container.env_from,
        [
            from("p", ObjectKind::ConfigMap, "c", false),
            from("", ObjectKind::Secret, "s", true)
        ]
    );
    let key = |object: &str, optional| ObjectKey {
        object: object.to_owned(),
        key: "k".to_owned(),
        optional,
    };
    let resource = |container: Option<&str>, resource, divisor| {
        EnvValue::Resource(ResourceValue {
            container: container.map(str::to_owned),
            resource,
            divisor,
        })
    };
    let expected = [
        EnvValue::Text("$(B)".to_owned()),
        EnvValue::ConfigMapKey(key("c", false)),
        EnvValue::SecretKey(key("s", true)),
        EnvValue::Field(Field::Annotation("k".to_owned())),
        EnvValue::Field(Field::PodIps),
        resource(None, ResourceField::LimitsCpu, 1000),
        resource(Some("a"), ResourceField::RequestsMemory, 1024),
        resource(None, ResourceField::RequestsCpu, 1),
        resource(None, ResourceField::LimitsHugepages(2 << 20), 1),
    ];
    let found: Vec<&EnvValue> = container.env.iter().map(|EnvVar { value, .. }| value).collect();
    assert_eq!(found, expected.iter().collect::<Vec<_>>());
}
