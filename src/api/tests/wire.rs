//! What real clients send beyond plain JSON, and the rules of lists and watches that they rely on.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::api::serve::serve_unix_with;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A field of bytes; everything in these tests is shorter than 128.
fn bytes(number: u8, inner: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(inner.len()).unwrap()], inner].concat()
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), bytes(1, &type_meta), bytes(2, raw)].concat()
}

/// The pod `name` as client-go writes it, with more bytes in its container.
fn pod_bytes(name: &str, more: &[u8]) -> Vec<u8> {
    let container = [&bytes(1, b"main")[..], &bytes(2, b"busybox:test"), more].concat();
    let raw = [bytes(1, &bytes(1, name.as_bytes())), bytes(2, &bytes(2, &container))].concat();
    envelope("v1", "Pod", &raw)
}

#[tokio::test]
async fn objects_and_options_are_read_from_protobuf() {
    let server = Server::start().await;
    let made = server.call("POST", PODS, PROTOBUF, pod_bytes("a", &[])).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.text);
    assert_eq!(made.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(made.json()["spec"]["containers"][0]["image"], "busybox:test");
    let replaced = server
        .call("PUT", &format!("{PODS}/a"), PROTOBUF, pod_bytes("a", &[]))
        .await;
    assert_eq!(replaced.code, StatusCode::OK, "{}", replaced.text);

    let fixture = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/protobuf/delete-options.bin"
    ))
    .unwrap();
    let deleted = server.call("DELETE", &format!("{PODS}/a"), PROTOBUF, fixture).await;
    assert_eq!(deleted.code, StatusCode::OK, "{}", deleted.text);
    assert_eq!(deleted.json()["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test]
async fn unknown_numbers_in_protobuf_follow_field_validation() {
    let server = Server::start().await;
    let body = pod_bytes("b", &[]);
    let unknown = pod_bytes("a", &[0xf8, 0x06, 0x01]);
    let strict = server
        .call(
            "POST",
            &format!("{PODS}?fieldValidation=Strict"),
            PROTOBUF,
            unknown.clone(),
        )
        .await;
    assert_eq!(strict.code, StatusCode::BAD_REQUEST);
    assert_eq!(
        strict.message(),
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field number 111 in \"spec.containers[0]\""
    );
    let warned = server.call("POST", PODS, PROTOBUF, unknown).await;
    assert_eq!(warned.code, StatusCode::CREATED, "{}", warned.text);
    assert_eq!(
        warned.headers[header::WARNING],
        "299 - \"unknown field number 111 in \\\"spec.containers[0]\\\"\""
    );
    for (spoilt, message) in [
        (b"{}".to_vec(), "expected prefix [107, 56, 115, 0]"),
        (
            body[..body.len() - 3].to_vec(),
            "the message ends in the middle of a field",
        ),
        (
            envelope("v1", "ConfigMap", &[]),
            "ConfigMap in version \"v1\" cannot be handled as a Pod",
        ),
        (
            envelope("apps/v1", "Pod", &[]),
            "does not match the expected API version (v1)",
        ),
    ] {
        let refused = server.call("POST", PODS, PROTOBUF, spoilt).await;
        assert_eq!(refused.code, StatusCode::BAD_REQUEST, "{}", refused.text);
        assert!(refused.message().contains(message), "{}", refused.message());
    }
}

#[tokio::test]
async fn a_strategic_patch_merges_lists_by_their_keys() {
    let server = Server::start().await;
    server.create("a", &json!({"x": "1"})).await;
    let object = format!("{PODS}/a");
    // What `kubectl apply` sends when nothing but a label changes.
    let patch = json!({
        "metadata": {"labels": {"x": null, "y": "2"}, "finalizers": ["example.com/one", "example.com/two"]},
        "spec": {"$setElementOrder/containers": [{"name": "main"}], "containers": [{"name": "main", "image": "busybox:test"}]},
    });
    let patched = server.call("PATCH", &object, STRATEGIC, patch.to_string()).await;
    assert_eq!(patched.code, StatusCode::OK, "{}", patched.text);
    assert_eq!(patched.json()["metadata"]["labels"], json!({"y": "2"}));
    let fewer = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/one"]}}).to_string();
    let patched = server
        .call("PATCH", &format!("{object}?dryRun=All"), STRATEGIC, fewer.clone())
        .await;
    assert_eq!(patched.json()["metadata"]["finalizers"], json!(["example.com/two"]));
    assert_eq!(
        server.get(&object).await.json()["metadata"]["finalizers"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let patched = server.call("PATCH", &object, STRATEGIC, fewer).await;
    assert_eq!(patched.json()["metadata"]["finalizers"], json!(["example.com/two"]));

    let bad = server
        .call("PATCH", &object, STRATEGIC, r#"{"metadata":{"$patch":"sideways"}}"#)
        .await;
    assert_eq!(
        (bad.code, bad.message()),
        (
            StatusCode::BAD_REQUEST,
            "metadata: unknown patch type: \"sideways\"".to_owned()
        )
    );
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"z": "3"}}}).to_string();
    assert_eq!(
        server.call("PATCH", &object, STRATEGIC, stale).await.code,
        StatusCode::CONFLICT
    );
    for media in ["application/apply-patch+yaml", "application/apply-patch+cbor"] {
        let apply = server
            .call("PATCH", &format!("{object}?fieldManager=m"), media, "{}")
            .await;
        assert_eq!(apply.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(
            apply.message().starts_with("server-side apply is not served here"),
            "{}",
            apply.message()
        );
    }
}

#[tokio::test]
async fn doubled_keys_of_a_patch_follow_field_validation() {
    let server = Server::start().await;
    server.create("a", &json!({})).await;
    let object = format!("{PODS}/a");
    let doubled = r#"{"metadata":{"labels":{"x":"1","x":"2"}}}"#;
    for media in [STRATEGIC, "application/merge-patch+json"] {
        let strict = server
            .call("PATCH", &format!("{object}?fieldValidation=Strict"), media, doubled)
            .await;
        assert_eq!(strict.code, StatusCode::BAD_REQUEST);
        assert!(
            strict
                .message()
                .ends_with("strict decoding error: duplicate field \"metadata.labels.x\"")
        );
        let warned = server.call("PATCH", &object, media, doubled).await;
        assert_eq!(
            warned.headers[header::WARNING],
            "299 - \"duplicate field \\\"metadata.labels.x\\\"\""
        );
        assert_eq!(warned.json()["metadata"]["labels"]["x"], "2");
    }
}

#[tokio::test]
async fn all_pages_of_a_list_show_the_state_of_the_first() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        server.create(name, &json!({"of": "first"})).await;
    }
    let first = server.get(&format!("{PODS}?limit=2")).await.json();
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let version = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // One goes, one changes, one comes.
    let found = server.store.get("Pod", "default", "c").await.unwrap().unwrap();
    server
        .store
        .delete("Pod", "default", "c", found.resource_version)
        .await
        .unwrap();
    let merge = "application/merge-patch+json";
    server
        .call(
            "PATCH",
            &format!("{PODS}/d"),
            merge,
            r#"{"metadata":{"labels":{"of":"later"}}}"#,
        )
        .await;
    server.create("cc", &json!({})).await;

    let second = server.get(&format!("{PODS}?limit=2&continue={token}")).await.json();
    let names: Vec<&str> = second["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["c", "d"]);
    assert_eq!(second["items"][1]["metadata"]["labels"]["of"], "first");
    assert_eq!(
        (
            &second["metadata"]["resourceVersion"],
            &second["metadata"]["remainingItemCount"]
        ),
        (&json!(version), &json!(1))
    );
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{PODS}?limit=2&continue={token}")).await.json();
    assert_eq!(third["items"][0]["metadata"]["name"], "e");
    assert_eq!(
        (&third["metadata"]["continue"], &third["metadata"]["remainingItemCount"]),
        (&Value::Null, &Value::Null)
    );

    assert_eq!(
        server
            .names(&format!("resourceVersion={version}&resourceVersionMatch=Exact"))
            .await,
        ["a", "b", "c", "d", "e"]
    );
    assert_eq!(
        server.names(&format!("resourceVersion={version}&limit=9")).await,
        ["a", "b", "c", "d", "e"]
    );
    assert_eq!(
        server
            .names(&format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan"))
            .await,
        ["a", "b", "cc", "d", "e"]
    );
    let selected = server
        .get(&format!("{PODS}?limit=1&labelSelector=of=first"))
        .await
        .json();
    assert!(selected["metadata"]["continue"].is_string());
    assert_eq!(selected["metadata"]["remainingItemCount"], Value::Null);
}

#[tokio::test]
async fn a_state_that_is_no_longer_known_is_expired_and_the_rest_can_still_be_had() {
    let history = crate::store::Limits {
        changes: 4,
        bytes: 1 << 40,
    };
    let server = Server::with(Limits::default(), history).await;
    server.create("a", &json!({})).await;
    server.create("b", &json!({})).await;
    let list = server.get(&format!("{PODS}?limit=1")).await.json();
    let token = list["metadata"]["continue"].as_str().unwrap().to_owned();
    for i in 0..50 {
        server.create(&format!("p{i}"), &json!({})).await;
    }
    let expired = server.get(&format!("{PODS}?limit=1&continue={token}")).await;
    assert_eq!(expired.code, StatusCode::GONE);
    assert!(
        expired
            .message()
            .starts_with("The provided continue parameter is too old to display a consistent list result.")
    );
    let inconsistent = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = server.get(&format!("{PODS}?continue={inconsistent}")).await.json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 51);
    assert_eq!(rest["items"][0]["metadata"]["name"], "b");
    let exact = server
        .get(&format!("{PODS}?resourceVersion=2&resourceVersionMatch=Exact"))
        .await;
    assert_eq!(exact.code, StatusCode::GONE);
    assert!(
        exact.message().starts_with("too old resource version: 2 ("),
        "{}",
        exact.message()
    );
}

#[tokio::test]
async fn options_of_lists_that_make_no_sense_are_refused_as_kubernetes_refuses_them() {
    let server = Server::start().await;
    let match_is = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: ";
    for (query, message) in [
        (
            "resourceVersionMatch=Exact",
            "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Sideways",
            "Unsupported value: \"Sideways\": supported values: \"\", \"Exact\", \"NotOlderThan\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Exact&continue=e30",
            "continue key is not valid",
        ),
        (
            "sendInitialEvents=true",
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            "watch=true&sendInitialEvents=true",
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "watch=true&resourceVersionMatch=NotOlderThan",
            "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        ("includeObject=All", "unrecognized includeObject value: \"All\""),
    ] {
        let refused = server.get(&format!("{PODS}?{query}")).await;
        let code = refused.code.as_u16();
        assert!(code == 422 || code == 400, "{query}: {}", refused.text);
        assert!(refused.message().contains(message), "{query}: {}", refused.message());
        if code == 422 && !query.starts_with("sendInitialEvents") {
            let prefix = match_is.replace("ListOptions.meta.k8s.io", "ListOptions");
            assert!(
                refused.message().starts_with(match_is) || refused.message().starts_with(&prefix),
                "{}",
                refused.message()
            );
        }
    }
    let current = server.store.resource_version().await.unwrap();
    for path in [
        format!("{PODS}?resourceVersion=99"),
        format!("{PODS}/a?resourceVersion=99"),
        format!("{PODS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=99"),
    ] {
        let early = server.get(&path).await;
        assert_eq!(
            (early.code, early.message()),
            (
                StatusCode::GATEWAY_TIMEOUT,
                format!("Too large resource version: 99, current: {current}")
            )
        );
        assert_eq!(
            early.json()["details"]["causes"][0]["reason"],
            "ResourceVersionTooLarge"
        );
    }
}

#[tokio::test]
async fn every_verb_answers_in_the_form_that_was_asked_for() {
    let server = Server::start().await;
    let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    let send = async |method: &str, path: &str, media: &str, body: String| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, partial)
            .header(header::CONTENT_TYPE, media);
        server.send(request.body(body.into()).unwrap()).await.json()
    };
    let of_a = |object: &Value| {
        assert_eq!(object["kind"], "PartialObjectMetadata", "{object}");
        assert_eq!(
            (&object["apiVersion"], &object["metadata"]["name"]),
            (&json!("meta.k8s.io/v1"), &json!("a"))
        );
        assert_eq!(object["spec"], Value::Null);
    };
    let object = format!("{PODS}/a");
    of_a(&send("POST", PODS, "application/json", pod("a", &json!({})).to_string()).await);
    of_a(&send("GET", &object, "application/json", String::new()).await);
    of_a(
        &send(
            "PATCH",
            &object,
            STRATEGIC,
            r#"{"metadata":{"labels":{"x":"1"}}}"#.to_owned(),
        )
        .await,
    );
    let list = server
        .get_as(PODS, &partial.replace("Metadata;", "MetadataList;"))
        .await
        .json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    of_a(&list["items"][0]);
    let request = Request::get(format!("{PODS}?watch=true"))
        .header(header::ACCEPT, partial)
        .body(Body::empty())
        .unwrap();
    let response = server.router.clone().oneshot(request).await.unwrap();
    let mut events = Events {
        body: response.into_body().into_data_stream(),
    };
    of_a(&events.next().await.unwrap()["object"]);

    assert_eq!(
        server
            .get_as(&format!("{PODS}?watch=true"), "application/yaml")
            .await
            .code,
        StatusCode::NOT_ACCEPTABLE
    );
    let none = server
        .get_as(PODS, "application/json;as=Table;v=v7;g=meta.k8s.io")
        .await;
    assert_eq!(
        (none.code, none.json()["reason"].clone()),
        (StatusCode::NOT_ACCEPTABLE, json!("NotAcceptable"))
    );
}

/// Text of the next frame of a WebSocket; `None` for a close.
async fn frame(stream: &mut UnixStream) -> Option<String> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    let length = match head[1] {
        126 => stream.read_u16().await.unwrap().into(),
        127 => usize::try_from(stream.read_u64().await.unwrap()).unwrap(),
        short => short.into(),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.unwrap();
    match head[0] {
        0x81 => Some(String::from_utf8(payload).unwrap()),
        0x88 => None,
        other => panic!("a frame of type {other:#x}"),
    }
}

#[tokio::test]
async fn a_watch_over_a_websocket_sends_each_event_as_a_text() {
    let server = Server::start().await;
    server.create("a", &json!({})).await;
    let path = server.dir.path().join("podd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(serve_unix_with(
        listener,
        server.router.clone(),
        stopping,
        Limits::default(),
    ));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let head = format!(
        "GET {PODS}?watch=1&timeoutSeconds=600 HTTP/1.1\r\nHost: podd\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.c2VjcmV0, base64.binary.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(
        answer.contains("sec-websocket-protocol: base64.binary.k8s.io\r\n"),
        "{answer}"
    );

    let event = |text: Option<String>| -> Value { serde_json::from_str(&text.unwrap()).unwrap() };
    assert_eq!(event(frame(&mut stream).await)["object"]["metadata"]["name"], "a");
    server.create("b", &json!({})).await;
    let added = event(frame(&mut stream).await);
    assert_eq!(
        (&added["type"], &added["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("b"))
    );
    stop.send_replace(true);
    assert_eq!(frame(&mut stream).await, None, "the agent's end is a proper close");
    task.await.unwrap();
}
