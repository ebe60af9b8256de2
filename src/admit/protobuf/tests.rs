//! Bodies as kubectl 1.33 sent them (`tests/fixtures/protobuf`), and bytes that nobody should send.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/protobuf/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn read(bytes: &[u8]) -> Result<Document, ProtobufError> {
    let envelope = envelope(bytes)?;
    let message = Message::of_kind(&envelope.api_version, &envelope.kind).expect("a kind of the table");
    document(&envelope, message)
}

fn sent(name: &str) -> Value {
    let document = read(&fixture(name)).expect(name);
    assert_eq!(document.complaints, Vec::<String>::new(), "{name}");
    document.value
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, inner: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(inner.len() as u64), inner.to_vec()].concat()
}

/// A whole body around the bytes of an object.
fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [PREFIX.to_vec(), bytes(1, &type_meta), bytes(2, raw)].concat()
}

fn pod(spec: &[u8]) -> Vec<u8> {
    body("v1", "Pod", &bytes(2, spec))
}

#[test]
fn what_kubectl_creates_reads_as_its_json_would() {
    assert_eq!(
        sent("configmap"),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c1"}, "data": {"a": "1", "empty": ""}})
    );
    assert_eq!(sent("configmap-binary")["binaryData"], json!({"bin": "/wAB"}));
    let secret = sent("secret");
    assert_eq!(
        (&secret["data"], &secret["type"]),
        (&json!({"password": "aHVudGVyMg=="}), &Value::Null)
    );
    assert_eq!(
        sent("namespace"),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n1"}, "spec": {}, "status": {}})
    );
    assert_eq!(sent("serviceaccount")["metadata"], json!({"name": "sa1"}));
    assert_eq!(
        sent("deployment"),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d1", "labels": {"app": "d1"}},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "d1"}}, "strategy": {},
                "template": {
                    "metadata": {"labels": {"app": "d1"}},
                    "spec": {"containers": [{
                        "name": "busybox", "image": "busybox:1", "command": ["sleep", "5"],
                        "ports": [{"containerPort": 80}], "resources": {},
                    }]},
                },
            },
            "status": {"observedGeneration": 0, "replicas": 0, "updatedReplicas": 0, "availableReplicas": 0,
                "unavailableReplicas": 0, "readyReplicas": 0},
        })
    );
}

#[test]
fn the_pod_of_kubectl_debug_keeps_every_field() {
    let pod = sent("pod");
    let spec = &pod["spec"];
    let main = &spec["containers"][0];
    assert_eq!(
        main["env"][1]["valueFrom"]["configMapKeyRef"],
        json!({"name": "cm", "key": "k", "optional": true})
    );
    assert_eq!(main["resources"]["limits"], json!({"cpu": "100m", "memory": "64Mi"}));
    assert_eq!(
        main["volumeMounts"],
        json!([{"name": "v", "mountPath": "/v", "readOnly": true}])
    );
    assert_eq!(
        spec["volumes"],
        json!([
            {"name": "v", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "c", "configMap": {"name": "cm", "defaultMode": 420}},
            {"name": "pr", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}},
        ])
    );
    assert_eq!(spec["securityContext"], json!({"runAsUser": 0, "fsGroup": 7}));
    assert_eq!(spec["terminationGracePeriodSeconds"], 0);
    assert_eq!(
        spec["hostAliases"],
        json!([{"ip": "10.0.0.1", "hostnames": ["a", "b"]}])
    );
    // No pointer in Go, so that its zero is always sent.
    assert_eq!(spec["hostNetwork"], Value::Null);
    assert_eq!(spec["containers"][1]["image"], "busybox:2");
}

#[test]
fn reviews_options_and_services_read_too() {
    assert_eq!(
        sent("access-review")["spec"]["resourceAttributes"],
        json!({"namespace": "default", "verb": "create", "resource": "pods", "subresource": "log"})
    );
    assert_eq!(sent("rules-review")["spec"], json!({"namespace": "default"}));
    assert_eq!(sent("self-review")["kind"], "SelfSubjectReview");
    assert_eq!(sent("token")["spec"]["expirationSeconds"], 3600);
    assert_eq!(
        sent("delete-options"),
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 7})
    );
    assert_eq!(
        sent("service")["spec"]["ports"],
        json!([{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080}])
    );
}

#[test]
fn an_unknown_field_number_is_told_with_its_place() {
    let container = [bytes(1, b"main"), number(4711, 1)].concat();
    let spec = [bytes(2, &container), bytes(9999, b"x")].concat();
    let document = read(&[pod(&spec), bytes(17, b"outside the object")].concat()).unwrap();
    assert_eq!(
        document.complaints,
        [
            "unknown field number 4711 in \"spec.containers[0]\"",
            "unknown field number 9999 in \"spec\"",
        ]
    );
    assert_eq!(document.value["spec"]["containers"][0], json!({"name": "main"}));
}

#[test]
fn times_quantities_and_either_or_are_as_json_has_them() {
    let time = [number(1, 1_700_000_000), number(2, 123_456_789)].concat();
    let meta = [bytes(1, b"e"), bytes(8, &time), bytes(9, b"")].concat();
    let event = [bytes(1, &meta), bytes(10, &time)].concat();
    let value = read(&body("v1", "Event", &event)).unwrap().value;
    assert_eq!(
        value["metadata"],
        json!({"name": "e", "creationTimestamp": "2023-11-14T22:13:20Z"})
    );
    assert_eq!(value["eventTime"], "2023-11-14T22:13:20.123456Z");

    let text = [number(1, 1), number(2, 0), bytes(3, b"http")].concat();
    let integer = [number(1, 0), number(2, 80), bytes(3, b"")].concat();
    for (port, expected) in [(text, json!("http")), (integer, json!(80))] {
        let service = bytes(2, &bytes(1, &[number(3, 80), bytes(4, &port)].concat()));
        let value = read(&body("v1", "Service", &service)).unwrap().value;
        assert_eq!(value["spec"]["ports"][0]["targetPort"], expected);
    }
    // A negative number is ten bytes long; a list of numbers may come packed.
    let context = [
        number(2, u64::MAX),
        bytes(4, &[varint(1), varint(300)].concat()),
        number(4, 5),
    ]
    .concat();
    let value = read(&pod(&bytes(14, &context))).unwrap().value;
    assert_eq!(
        value["spec"]["securityContext"],
        json!({"runAsUser": -1, "supplementalGroups": [1, 300, 5]})
    );
}

#[test]
fn a_message_in_two_pieces_is_one() {
    let spec = [number(4, 7), bytes(2, &bytes(1, b"a"))].concat();
    let more = [bytes(2, &bytes(1, b"b")), number(4, 8)].concat();
    let bytes = body("v1", "Pod", &[bytes(2, &spec), bytes(2, &more)].concat());
    let value = read(&bytes).unwrap().value;
    assert_eq!(
        value["spec"],
        json!({"terminationGracePeriodSeconds": 8, "containers": [{"name": "a"}, {"name": "b"}]})
    );
}

#[test]
fn broken_bodies_are_refused_with_the_place() {
    let deep = (0..70).fold(Vec::new(), |inner, _| bytes(2, &inner));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            b"{}".to_vec(),
            "does not appear to be a protobuf message, expected prefix [107, 56, 115, 0]",
        ),
        (b"k8s\0\x0a\x05".to_vec(), "ends in the middle of a field"),
        ([PREFIX.to_vec(), vec![0xff; 11]].concat(), "a tag is no varint"),
        ([PREFIX.to_vec(), vec![0x0b]].concat(), "wire type 3"),
        ([PREFIX.to_vec(), vec![0x02, 0x00]].concat(), "number 0"),
        (pod(&number(2, 1)), "spec.containers[0]: expected a message"),
        (
            pod(&bytes(2, &bytes(1, b"\xff"))),
            "spec.containers[0].name: expected text in UTF-8",
        ),
        (
            pod(&bytes(4, b"x")),
            "spec.terminationGracePeriodSeconds: expected an integer",
        ),
        ([pod(&[]), bytes(3, b"gzip")].concat(), "encoded as gzip"),
        (pod(&bytes(2, &[0x12, 0x7f])), "ends in the middle of a field"),
    ];
    for (bytes, expected) in cases {
        let message = read(&bytes).map(|d| d.value).unwrap_err().to_string();
        assert!(message.contains(expected), "{message} should contain {expected}");
    }
    // Deep nesting is unknown at once: no type of Kubernetes holds itself.
    assert!(read(&body("v1", "ConfigMap", &deep)).is_err());
}

#[test]
fn values_are_counted() {
    let entry = [bytes(1, b"k"), bytes(2, b"")].concat();
    let many = bytes(2, &entry).repeat(MAX_VALUES);
    let error = read(&body("v1", "ConfigMap", &many)).map(|d| d.value).unwrap_err();
    assert_eq!(error, ProtobufError::TooManyValues);
}

/// A message with every field it can have, as JSON and as bytes.
fn full(message: &'static Message) -> (Map<String, Value>, Vec<u8>) {
    let (mut object, mut raw) = (Map::new(), Vec::new());
    for field in message.fields {
        let tag = u64::from(field.number);
        if let Kind::Inline(inner) = field.kind {
            let (fields, inner) = full(inner);
            object.extend(fields);
            raw.extend(bytes(tag, &inner));
            continue;
        }
        let (value, number_or_bytes) = sample(&field.kind);
        let encoded = |tag: u64| match &number_or_bytes {
            Ok(value) => number(tag, *value),
            Err(inner) => bytes(tag, inner),
        };
        let value = match field.count {
            Count::One => {
                raw.extend(encoded(tag));
                value
            }
            Count::Many => {
                raw.extend(encoded(tag).repeat(2));
                json!([value, value])
            }
            Count::Map => {
                raw.extend(bytes(tag, &[bytes(1, b"key"), encoded(2)].concat()));
                json!({ "key": value })
            }
        };
        object.insert(field.name.to_owned(), value);
    }
    (object, raw)
}

/// A value as JSON, and as a number or as bytes.
fn sample(kind: &'static Kind) -> (Value, Result<u64, Vec<u8>>) {
    let time = [number(1, 0), number(2, 5000)].concat();
    match kind {
        Kind::Boolean => (json!(true), Ok(1)),
        Kind::Integer => (json!(7), Ok(7)),
        Kind::Text => (json!("text"), Err(b"text".to_vec())),
        Kind::Bytes => (json!("AP8="), Err(vec![0, 255])),
        Kind::Time => (json!("1970-01-01T00:00:00Z"), Err(time)),
        Kind::MicroTime => (json!("1970-01-01T00:00:00.000005Z"), Err(time)),
        Kind::Quantity => (json!("1Gi"), Err(bytes(1, b"1Gi"))),
        Kind::IntOrText => (json!("http"), Err([number(1, 1), bytes(3, b"http")].concat())),
        Kind::Json => (json!({"f:a": {}}), Err(bytes(1, br#"{"f:a":{}}"#))),
        Kind::Texts => (json!(["a", "b"]), Err([bytes(1, b"a"), bytes(1, b"b")].concat())),
        Kind::Message(inner) | Kind::Inline(inner) => {
            let (object, raw) = full(inner);
            (object.into(), Err(raw))
        }
    }
}

#[test]
fn every_field_of_every_kind_comes_through() {
    for (api_version, kind) in [
        ("v1", "Pod"),
        ("v1", "PodTemplate"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("v1", "Namespace"),
        ("v1", "ServiceAccount"),
        ("v1", "Service"),
        ("v1", "Node"),
        ("v1", "Event"),
        ("events.k8s.io/v1", "Event"),
        ("v1", "Binding"),
        ("v1", "DeleteOptions"),
        ("policy/v1", "Eviction"),
        ("coordination.k8s.io/v1", "Lease"),
        ("node.k8s.io/v1", "RuntimeClass"),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview"),
        ("authentication.k8s.io/v1", "SelfSubjectReview"),
        ("authentication.k8s.io/v1", "TokenRequest"),
        ("authentication.k8s.io/v1", "TokenReview"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "ReplicaSet"),
        ("autoscaling/v1", "Scale"),
    ] {
        let (mut object, raw) = full(Message::of_kind(api_version, kind).expect(kind));
        object.insert("apiVersion".to_owned(), api_version.into());
        object.insert("kind".to_owned(), kind.into());
        let document = read(&body(api_version, kind, &raw)).expect(kind);
        assert_eq!(document.value, Value::Object(object), "{kind}");
        assert_eq!(document.complaints, Vec::<String>::new(), "{kind}");
    }
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_document_or_an_error(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (version, kind) in [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Event")] {
            drop(read(&body(version, kind, &raw)));
        }
        drop(envelope(&[PREFIX, &raw].concat()));
    }

    #[test]
    fn a_spoilt_body_ends_in_a_document_or_an_error(at in 0_usize..453, byte in any::<u8>(), cut in 0_usize..453) {
        let mut bytes = fixture("pod");
        bytes[at] = byte;
        for bytes in [&bytes[..], &bytes[..cut]] {
            if let Ok(envelope) = envelope(bytes) {
                let message = Message::of_kind("v1", "Pod").unwrap();
                drop(document(&envelope, message));
            }
        }
    }
}
