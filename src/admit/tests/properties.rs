//! What holds for any input: nothing panics, what is accepted is understood, and admitting twice is admitting once.

use k8s_openapi::api::core::v1::Pod;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{context, full_pod};
use crate::admit::{Encoding, FieldValidation, decode, pod, to_model};

/// Decode, admit, understand; whatever is accepted must pass through all three.
fn pass_through(bytes: &[u8], encoding: Encoding) -> bool {
    for validation in [FieldValidation::Strict, FieldValidation::Warn, FieldValidation::Ignore] {
        let Ok(decoded) = decode::<Pod>(bytes, encoding, validation) else {
            continue;
        };
        let Ok(admitted) = pod(decoded.object, &context()) else {
            continue;
        };
        to_model(&admitted.pod).expect("what was admitted is understood");
        let again = pod(admitted.pod.clone(), &context()).expect("what was admitted is admitted again");
        assert_eq!(again, admitted);
        let text = serde_json::to_vec(&admitted.pod).expect("JSON");
        let back = decode::<Pod>(&text, Encoding::Json, FieldValidation::Strict).expect("what was stored is read back");
        assert_eq!(back.object, admitted.pod);
        if validation == FieldValidation::Ignore {
            return true;
        }
    }
    false
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop_oneof![
            Just(""),
            Just("1Gi"),
            Just("-1"),
            Just(".."),
            Just("/a/../b"),
            Just("None"),
            Just("Memory"),
            Just("a"),
            Just("10.0.0.1"),
            Just("Always"),
            Just("\0"),
            Just("$(A)"),
            Just("ALL"),
            Just("1e999"),
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(
                "[a-zA-Z]{0,10}|name|spec|containers|metadata|image|emptyDir|path",
                inner,
                0..4
            )
            .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Every place in a document, as JSON pointers.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                places(
                    value,
                    &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                    out,
                );
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                places(value, &format!("{at}/{i}"), out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?"
}

fn amount() -> impl Strategy<Value = String> {
    (
        "[0-9]{1,6}(\\.[0-9]{1,3})?",
        prop_oneof![Just(""), Just("m"), Just("k"), Just("M"), Just("Ki"), Just("Gi")],
    )
        .prop_map(|(number, suffix)| format!("{number}{suffix}"))
}

/// Pods that are valid by construction.
fn valid_pod() -> impl Strategy<Value = Value> {
    let container = (
        "[a-z]{1,10}(:[a-z0-9]{1,5})?",
        vec(".{0,10}".prop_filter("no NUL", |s| !s.contains('\0')), 0..3),
        vec(("[A-Za-z_][A-Za-z0-9_.-]{0,8}", "[^\\x00]{0,12}"), 0..4),
        prop::option::of((amount(), amount())),
        prop::option::of(0_i64..=i32::MAX.into()),
        vec(1_i32..=65_535, 0..3),
        any::<(bool, bool)>(),
    );
    (
        name(),
        vec(container, 1..4),
        prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        prop::option::of(0_i64..100_000),
        any::<bool>(),
        vec(
            prop_oneof![
                Just(json!({"emptyDir": {}})),
                Just(json!({"hostPath": {"path": "/srv"}}))
            ],
            0..3,
        ),
    )
        .prop_map(|(name, containers, restart, grace, share, volumes)| {
            let volumes: Vec<Value> = volumes
                .into_iter()
                .enumerate()
                .map(|(i, mut volume)| {
                    volume["name"] = json!(format!("v{i}"));
                    volume
                })
                .collect();
            let mounts: Vec<Value> = (0..volumes.len())
                .map(|i| json!({"name": format!("v{i}"), "mountPath": format!("/m/{i}")}))
                .collect();
            let containers: Vec<Value> = containers
                .into_iter()
                .enumerate()
                .map(|(i, (image, args, env, limits, user, ports, (tty, read_only)))| {
                    let mut security = json!({"readOnlyRootFilesystem": read_only});
                    if let Some(user) = user {
                        security["runAsUser"] = json!(user);
                    }
                    let mut resources = json!({});
                    if let Some((cpu, memory)) = limits {
                        resources["limits"] = json!({"cpu": cpu, "memory": memory});
                    }
                    json!({
                        "name": format!("c{i}"), "image": image, "args": args, "tty": tty, "resources": resources,
                        "securityContext": security, "volumeMounts": mounts,
                        "env": env.iter().map(|(n, v)| json!({"name": n, "value": v})).collect::<Vec<_>>(),
                        "ports": ports.iter().map(|p| json!({"containerPort": p})).collect::<Vec<_>>(),
                    })
                })
                .collect();
            let mut spec = json!({"containers": containers, "restartPolicy": restart, "volumes": volumes,
                "shareProcessNamespace": share});
            if let Some(grace) = grace {
                spec["terminationGracePeriodSeconds"] = json!(grace);
            }
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_pods_pass_in_both_encodings(manifest in valid_pod()) {
        prop_assert!(pass_through(manifest.to_string().as_bytes(), Encoding::Json));
        let wire: Pod = serde_json::from_value(manifest.clone()).expect("a pod");
        let text = serde_json::to_vec(&wire).expect("JSON");
        let decoded = decode::<Pod>(&text, Encoding::Json, FieldValidation::Strict).expect("decoded");
        prop_assert_eq!(decoded.object, wire);
        prop_assert_eq!(decoded.warnings, Vec::<String>::new());
    }

    #[test]
    fn any_json_is_handled(value in any_value()) {
        pass_through(value.to_string().as_bytes(), Encoding::Json);
        let spec = json!({"metadata": {"name": "x"}, "spec": value});
        pass_through(spec.to_string().as_bytes(), Encoding::Json);
    }

    #[test]
    fn any_bytes_are_handled(bytes in vec(any::<u8>(), 0..200), text in "[-a-z:\\[\\]{}&*!|>'\"%@# \n,0-9]{0,120}") {
        pass_through(&bytes, Encoding::Json);
        pass_through(&bytes, Encoding::Yaml);
        pass_through(text.as_bytes(), Encoding::Yaml);
    }

    #[test]
    fn a_pod_with_anything_put_anywhere_is_handled(
        changes in vec((any::<prop::sample::Index>(), any_value(), any::<bool>(), "[a-zA-Z]{1,8}"), 1..4),
    ) {
        let mut manifest = full_pod();
        for (at, value, replace, key) in changes {
            let mut all = Vec::new();
            places(&manifest, "", &mut all);
            let place = manifest.pointer_mut(at.get(&all).as_str()).expect("a place of the document");
            match place.as_object_mut().filter(|_| !replace) {
                Some(object) => drop(object.insert(key, value)),
                None => *place = value,
            }
        }
        pass_through(manifest.to_string().as_bytes(), Encoding::Json);
    }

    #[test]
    fn a_pod_with_a_broken_byte_is_handled(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (mut text, encoding) in [
            (full_pod().to_string().into_bytes(), Encoding::Json),
            (serde_yaml_ng::to_string(&full_pod()).expect("YAML").into_bytes(), Encoding::Yaml),
        ] {
            let at = at.index(text.len());
            text[at] = byte;
            pass_through(&text, encoding);
        }
    }
}
