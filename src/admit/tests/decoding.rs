//! From bytes to objects: what is said of each slip, and what becomes of it under each `fieldValidation`.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{full_pod, small_pod, wire};
use crate::admit::{DecodeError, Decoded, Encoding, FieldValidation, decode};

fn json_body(body: &str, validation: FieldValidation) -> Result<Decoded<Pod>, DecodeError> {
    decode(body.as_bytes(), Encoding::Json, validation)
}

fn refusal(body: &str) -> String {
    json_body(body, FieldValidation::Strict)
        .expect_err("refused")
        .to_string()
}

const PREFIX: &str = "Pod in version \"v1\" cannot be handled as a Pod: ";

#[test]
fn both_encodings_give_the_same_pod() {
    let (json, yaml) = (
        full_pod().to_string(),
        serde_yaml_ng::to_string(&full_pod()).expect("YAML"),
    );
    let from_json = json_body(&json, FieldValidation::Strict).expect("decoded");
    let from_yaml: Decoded<Pod> = decode(yaml.as_bytes(), Encoding::Yaml, FieldValidation::Strict).expect("decoded");
    assert_eq!(from_json, from_yaml);
    assert_eq!(
        from_json,
        Decoded {
            object: wire(full_pod()),
            warnings: vec![]
        }
    );
}

#[test]
fn unknown_fields_follow_field_validation() {
    let body = json!({"spec": {"bogusField": 1, "containers": [{"name": "c", "cammand": ["x"]}]}}).to_string();
    assert_eq!(
        refusal(&body),
        format!(
            "{PREFIX}strict decoding error: unknown field \"spec.bogusField\", unknown field \
             \"spec.containers[0].cammand\", did you mean \"command\"?"
        )
    );
    let warned = json_body(&body, FieldValidation::Warn).expect("decoded");
    assert_eq!(
        warned.warnings,
        [
            "unknown field \"spec.bogusField\"",
            "unknown field \"spec.containers[0].cammand\", did you mean \"command\"?"
        ]
    );
    let ignored = json_body(&body, FieldValidation::Ignore).expect("decoded");
    assert_eq!(ignored.warnings, Vec::<String>::new());
    assert_eq!(ignored.object, warned.object);
}

#[test]
fn doubled_fields_follow_field_validation() {
    let body = r#"{"metadata":{"name":"a","name":"b"},"spec":{"containers":[{"name":"c","image":"x","image":"y"}]}}"#;
    assert_eq!(
        refusal(body),
        format!(
            "{PREFIX}strict decoding error: duplicate field \"metadata.name\", duplicate field \
             \"spec.containers[0].image\""
        )
    );
    let warned = json_body(body, FieldValidation::Warn).expect("decoded");
    assert_eq!(warned.warnings.len(), 2);
    assert_eq!(warned.object.metadata.name.as_deref(), Some("b"), "the last one counts");
}

#[test]
fn another_case_is_another_name_but_suggested() {
    let body = json!({"Spec": {}, "metadata": {"Name": "x"}}).to_string();
    assert_eq!(
        refusal(&body),
        format!(
            "{PREFIX}strict decoding error: unknown field \"Spec\", did you mean \"spec\"?, unknown field \
             \"metadata.Name\", did you mean \"name\"?"
        )
    );
}

#[test]
fn wrong_types_name_the_field() {
    for (body, expected) in [
        (
            json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": "http"}]}]}}),
            "spec.containers[0].ports[0].containerPort: expected an integer, found the string \"http\"",
        ),
        (
            json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": 10}]}]}}),
            "spec.containers[0].env[0].value: expected a string, found the integer 10; write it in quotes: \"10\"",
        ),
        (
            json!({"spec": {"hostNetwork": "yes"}}),
            "spec.hostNetwork: expected a boolean, found the string \"yes\"",
        ),
        (
            json!({"spec": {"containers": {}}}),
            "spec.containers: expected a list, found an object",
        ),
        (json!({"spec": []}), "spec: expected an object, found a list"),
        (
            json!({"spec": {"containers": [null]}}),
            "spec.containers[0]: expected an object, found null",
        ),
        (
            json!({"spec": {"terminationGracePeriodSeconds": 1.5}}),
            "spec.terminationGracePeriodSeconds: expected an integer, found the number 1.5",
        ),
        (
            json!({"spec": {"priority": 1_i64 << 40}}),
            "spec.priority: expected an integer between -2147483648 and 2147483647, found the integer 1099511627776",
        ),
        (
            json!({"metadata": {"creationTimestamp": "yesterday"}}),
            "metadata.creationTimestamp: expected a time such as 2006-01-02T15:04:05Z, found the string \"yesterday\"",
        ),
        (
            json!({"metadata": {"labels": {"a": true}}}),
            "metadata.labels.a: expected a string, found the boolean true; write it in quotes: \"true\"",
        ),
        (
            json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": []}}}]}}),
            "spec.containers[0].resources.limits.cpu: expected a quantity (a number or a string), found a list",
        ),
        (
            json!({"spec": {"containers": [{"name": "c",
                "livenessProbe": {"httpGet": {"port": 1.5}}}]}}),
            "spec.containers[0].livenessProbe.httpGet.port: expected a 32-bit integer or a string, found the number 1.5",
        ),
    ] {
        assert_eq!(refusal(&body.to_string()), format!("{PREFIX}{expected}"));
    }
    let several = json!({"spec": {"hostNetwork": 1, "hostPID": 2, "bogus": 3}}).to_string();
    assert_eq!(
        refusal(&several),
        format!(
            "{PREFIX}spec.hostNetwork: expected a boolean, found the integer 1, spec.hostPID: expected a boolean, \
             found the integer 2; strict decoding error: unknown field \"spec.bogus\""
        )
    );
}

#[test]
fn null_is_the_same_as_absent() {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod", "status": {},
        "metadata": {"name": "small", "creationTimestamp": null, "labels": {"a": null}},
        "spec": {
            "volumes": null, "restartPolicy": null,
            "containers": [{"name": "c", "image": "x", "resources": {}, "ports": null, "env": [
                {"name": "A", "value": null}]}],
        },
    });
    let pod = json_body(&body.to_string(), FieldValidation::Strict)
        .expect("decoded")
        .object;
    let expected = json!({
        "metadata": {"name": "small", "labels": {"a": ""}}, "status": {},
        "spec": {"containers": [{"name": "c", "image": "x", "resources": {}, "env": [{"name": "A"}]}]},
    });
    assert_eq!(pod, wire(expected));
}

#[test]
fn api_version_and_kind_are_kinds_own_or_absent() {
    let body = |api_version: &str, kind: &str| {
        let mut body = small_pod();
        body["apiVersion"] = json!(api_version);
        body["kind"] = json!(kind);
        body.to_string()
    };
    assert!(json_body(&small_pod().to_string(), FieldValidation::Strict).is_ok());
    assert!(json_body(&body("v1", "Pod"), FieldValidation::Strict).is_ok());
    assert!(json_body(&body("", ""), FieldValidation::Strict).is_ok());
    assert_eq!(
        refusal(&body("apps/v1beta1", "Deployment")),
        "Deployment in version \"v1beta1\" cannot be handled as a Pod: the API version in the data (apps/v1beta1) \
         does not match the expected API version (v1)"
    );
    assert_eq!(
        refusal(&body("v1", "Service")),
        "Service in version \"v1\" cannot be handled as a Pod: the kind in the data does not match the expected kind"
    );
    assert_eq!(
        refusal(r#"{"kind":5}"#),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; kind must be a string"
    );
}

#[test]
fn what_is_no_object_is_said_so() {
    for (body, reason) in [
        ("", "json parse error: EOF while parsing a value at line 1 column 0"),
        ("{", "json parse error: EOF while parsing an object at line 1 column 1"),
        ("[]", "the body must hold one object"),
        ("null", "the body must hold one object"),
        ("{}{}", "json parse error: trailing characters at line 1 column 3"),
    ] {
        assert_eq!(
            refusal(body),
            format!("the object provided is unrecognized (must be of type Pod): couldn't get version/kind; {reason}")
        );
    }
    let two = b"kind: Pod\n---\nkind: Pod\n";
    let error = decode::<Pod>(two, Encoding::Yaml, FieldValidation::Warn)
        .expect_err("refused")
        .to_string();
    assert!(error.contains("more than one document"), "{error}");
}

#[test]
fn a_flood_of_unknown_fields_is_cut() {
    let spec: serde_json::Map<_, _> = (0..5_000).map(|i| (format!("zzzzzzzz{i:04}"), json!(1))).collect();
    let message = refusal(&json!({"spec": spec}).to_string());
    assert!(
        message.ends_with(", and 4900 more") && message.len() < 10_000,
        "{}",
        message.len()
    );
}

/// Every kind that podd may serve one day goes the same way.
#[test]
fn other_kinds_are_decoded_too() {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    let body = br#"{"metadata":{"name":"a"},"data":{"k":"v"},"imutable":true}"#;
    let error = decode::<ConfigMap>(body, Encoding::Json, FieldValidation::Strict)
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("unknown field \"imutable\", did you mean \"immutable\"?"),
        "{error}"
    );
    let secret = br#"{"data":{"k":"%%%"}}"#;
    let error = decode::<Secret>(secret, Encoding::Json, FieldValidation::Ignore)
        .expect_err("refused")
        .to_string();
    assert!(
        error.starts_with("Secret in version \"v1\" cannot be handled as a Secret: "),
        "{error}"
    );
}
