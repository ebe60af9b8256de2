//! Making, reading, changing and deleting objects.

use super::*;

#[tokio::test]
async fn a_pod_is_made_read_and_listed() {
    let server = Server::start().await;
    let made = server.create("web", &json!({"app": "web"})).await;
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["spec"]["nodeName"], "node-1");
    assert_eq!(made["spec"]["restartPolicy"], "Always");
    assert!(
        made["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    let read = server.get(&format!("{PODS}/web")).await;
    assert_eq!((read.code, read.json()), (StatusCode::OK, made.clone()));
    assert_eq!(server.get(&format!("{PODS}/web/status")).await.json(), made);
    let list = server.get("/api/v1/pods").await.json();
    assert_eq!(list["kind"], "PodList");
    assert_eq!(list["apiVersion"], "v1");
    assert_eq!(list["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(list["items"], json!([made]));
    assert_eq!(
        server.get("/api/v1/namespaces/other/pods").await.json()["items"],
        json!([])
    );
}

#[tokio::test]
async fn yaml_is_taken_and_given() {
    let server = Server::start().await;
    let body = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: y\nspec:\n  containers:\n  - name: main\n    image: busybox:test\n";
    let answer = server.call("POST", PODS, "application/yaml", body).await;
    assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.text);
    let read = server.get_as(&format!("{PODS}/y"), "application/yaml").await;
    assert_eq!(read.headers[header::CONTENT_TYPE], "application/yaml");
    assert!(read.text.contains("image: busybox:test"), "{}", read.text);
}

#[tokio::test]
async fn refusals_are_worded_as_kubernetes_words_them() {
    let server = Server::start().await;
    server.create("web", &json!({})).await;
    let twice = server.post(PODS, &pod("web", &json!({}))).await;
    assert_eq!(
        (twice.code, twice.message()),
        (StatusCode::CONFLICT, "pods \"web\" already exists".to_owned())
    );
    assert_eq!(twice.json()["reason"], "AlreadyExists");
    let absent = server.get(&format!("{PODS}/x")).await;
    assert_eq!(
        (absent.code, absent.message()),
        (StatusCode::NOT_FOUND, "pods \"x\" not found".to_owned())
    );
    let nowhere = server.get("/api/v1/widgets").await;
    assert_eq!(
        (nowhere.code, nowhere.message()),
        (
            StatusCode::NOT_FOUND,
            "the server could not find the requested resource".to_owned()
        )
    );
    let method = server.call("PUT", PODS, "application/json", "{}").await;
    assert_eq!(
        (method.code, method.json()["reason"].clone()),
        (StatusCode::METHOD_NOT_ALLOWED, json!("MethodNotAllowed"))
    );
    let media = server
        .call("POST", PODS, "text/plain", pod("t", &json!({})).to_string())
        .await;
    assert_eq!(media.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let elsewhere = server
        .post(
            "/api/v1/namespaces/b/pods",
            &json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "x", "namespace": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        )
        .await;
    assert_eq!(elsewhere.code, StatusCode::BAD_REQUEST);
    assert_eq!(
        elsewhere.message(),
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    let not_acceptable = server.get_as(PODS, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(not_acceptable.code, StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn every_faulty_field_is_named_at_once() {
    let server = Server::start().await;
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "c"}, {"name": "C", "image": "i"}]}});
    let answer = server.post(PODS, &body).await;
    assert_eq!(answer.code, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text);
    let status = answer.json();
    assert_eq!(status["reason"], "Invalid");
    let fields: Vec<&str> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert!(
        fields.contains(&"spec.containers[0].image") && fields.contains(&"spec.containers[1].name"),
        "{fields:?}"
    );
    assert!(
        answer.message().starts_with("Pod \"x\" is invalid: ["),
        "{}",
        answer.message()
    );
}

#[tokio::test]
async fn unknown_fields_follow_field_validation() {
    let server = Server::start().await;
    let mut body = pod("x", &json!({}));
    body["spec"]["containers"][0]["cammand"] = json!(["x"]);
    let strict = server.post(&format!("{PODS}?fieldValidation=Strict"), &body).await;
    assert_eq!(strict.code, StatusCode::BAD_REQUEST);
    assert!(
        strict
            .message()
            .contains("strict decoding error: unknown field \"spec.containers[0].cammand\""),
        "{}",
        strict.message()
    );
    let warned = server.post(PODS, &body).await;
    assert_eq!(warned.code, StatusCode::CREATED);
    let warning = warned.headers[header::WARNING].to_str().unwrap();
    assert!(
        warning.starts_with("299 - \"unknown field \\\"spec.containers[0].cammand\\\""),
        "{warning}"
    );
    body["metadata"]["name"] = "y".into();
    let ignored = server.post(&format!("{PODS}?fieldValidation=Ignore"), &body).await;
    assert_eq!(ignored.code, StatusCode::CREATED);
    assert!(!ignored.headers.contains_key(header::WARNING));
}

#[tokio::test]
async fn names_are_made_up_on_request_and_a_dry_run_stores_nothing() {
    let server = Server::start().await;
    let mut body = pod("x", &json!({}));
    body["metadata"] = json!({"generateName": "job-"});
    let made = server.post(PODS, &body).await.json();
    assert!(made["metadata"]["name"].as_str().unwrap().starts_with("job-"));
    let dry = server
        .post(&format!("{PODS}?dryRun=All"), &pod("dry", &json!({})))
        .await;
    assert_eq!(dry.code, StatusCode::CREATED);
    assert_eq!(server.get(&format!("{PODS}/dry")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn large_and_deep_bodies_are_refused() {
    let server = Server::start().await;
    let large = server
        .call("POST", PODS, "application/json", vec![b' '; 3 * 1024 * 1024 + 1])
        .await;
    assert_eq!(large.code, StatusCode::PAYLOAD_TOO_LARGE);
    let deep = server.call("POST", PODS, "application/json", "[".repeat(100_000)).await;
    assert_eq!(deep.code, StatusCode::BAD_REQUEST);
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let references = vec![format!("*a{}", i - 1); 9].join(", ");
        bomb = format!("{bomb}a{i}: &a{i} [{references}]\n");
    }
    let refused = server.call("POST", PODS, "application/yaml", bomb.clone()).await;
    assert_eq!(refused.code, StatusCode::BAD_REQUEST, "{}", refused.text);
    let web = server.create("web", &json!({})).await;
    let replacing = server
        .call("PUT", &format!("{PODS}/web"), "application/yaml", bomb.clone())
        .await;
    assert_eq!(replacing.code, StatusCode::BAD_REQUEST, "{}", replacing.text);
    let options = server
        .call("DELETE", &format!("{PODS}/web"), "application/yaml", bomb)
        .await;
    assert_eq!(options.code, StatusCode::BAD_REQUEST, "{}", options.text);
    assert_eq!(server.get(&format!("{PODS}/web")).await.json(), web);
}

#[tokio::test]
async fn selectors_thin_out_a_list() {
    let server = Server::start().await;
    let web = server.create("web", &json!({"app": "web"})).await;
    server.create("db", &json!({"app": "db"})).await;
    server.create("bare", &json!({})).await;
    server.set_status(&web, json!({"phase": "Running"})).await;
    assert_eq!(server.names("labelSelector=app%20in%20(web,db)").await, ["db", "web"]);
    assert_eq!(server.names("labelSelector=!app").await, ["bare"]);
    assert_eq!(server.names("fieldSelector=metadata.name%3Ddb").await, ["db"]);
    assert_eq!(
        server
            .names("fieldSelector=status.phase=Running,spec.nodeName=node-1")
            .await,
        ["web"]
    );
    assert_eq!(
        server
            .names("fieldSelector=status.phase!=Running&labelSelector=app")
            .await,
        ["db"]
    );
    let unknown = server.get(&format!("{PODS}?fieldSelector=spec.shoeSize=43")).await;
    assert_eq!(
        (unknown.code, unknown.message()),
        (
            StatusCode::BAD_REQUEST,
            "field label not supported: spec.shoeSize".to_owned()
        )
    );
}

#[tokio::test]
async fn pages_lead_through_a_list_once_and_carry_its_version() {
    let server = Server::start().await;
    for i in 0..7 {
        server
            .create(&format!("p{i}"), &json!({"odd": (i % 2 == 1).to_string()}))
            .await;
    }
    for (selector, wanted) in [
        ("", vec!["p0", "p1", "p2", "p3", "p4", "p5", "p6"]),
        ("&labelSelector=odd=true", vec!["p1", "p3", "p5"]),
    ] {
        let (mut names, mut token, mut versions) = (Vec::new(), String::new(), Vec::new());
        loop {
            let list = server.get(&format!("{PODS}?limit=2{selector}{token}")).await.json();
            let items = list["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            names.extend(items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()));
            versions.push(list["metadata"]["resourceVersion"].clone());
            // What changes between two pages is told by a watch from the list's version.
            server
                .create(&format!("a{}{}", selector.len(), names.len()), &json!({}))
                .await;
            match list["metadata"]["continue"].as_str() {
                Some(next) => token = format!("&continue={next}"),
                None => break,
            }
        }
        assert_eq!(names, wanted);
        versions.dedup();
        assert_eq!(versions.len(), 1);
        for name in server.names("").await.iter().filter(|n| n.starts_with('a')) {
            server
                .store
                .delete("Pod", "default", name, version(&server, name).await)
                .await
                .unwrap();
        }
    }
}

async fn version(server: &Server, name: &str) -> u64 {
    server
        .store
        .get("Pod", "default", name)
        .await
        .unwrap()
        .unwrap()
        .resource_version
}

#[tokio::test]
async fn a_token_from_before_what_is_remembered_is_expired() {
    let server = Server::with(
        Limits::default(),
        crate::store::Limits {
            changes: 4,
            bytes: 1 << 40,
        },
    )
    .await;
    server.create("a", &json!({})).await;
    server.create("b", &json!({})).await;
    let list = server.get(&format!("{PODS}?limit=1")).await.json();
    let token = list["metadata"]["continue"].as_str().unwrap().to_owned();
    for i in 0..50 {
        server.create(&format!("p{i}"), &json!({})).await;
    }
    let expired = server.get(&format!("{PODS}?limit=1&continue={token}")).await;
    assert_eq!(
        (expired.code, expired.json()["reason"].clone()),
        (StatusCode::GONE, json!("Expired"))
    );
    let nonsense = server.get(&format!("{PODS}?continue=nonsense")).await;
    assert_eq!(nonsense.code, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn tables_are_what_kubectl_prints() {
    let server = Server::start().await;
    server.create("web", &json!({"app": "web"})).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = server.get_as(PODS, accept).await.json();
    assert_eq!(table["kind"], "Table");
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "Name",
            "Ready",
            "Status",
            "Restarts",
            "Age",
            "IP",
            "Node",
            "Nominated Node",
            "Readiness Gates"
        ]
    );
    assert_eq!(table["rows"][0]["cells"][0], "web");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let one = server
        .get_as(&format!("{PODS}/web?includeObject=Object"), accept)
        .await
        .json();
    assert_eq!(one["rows"][0]["object"]["kind"], "Pod");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
    let list = server.get_as(PODS, partial).await.json();
    assert_eq!(
        (list["kind"].as_str().unwrap(), &list["items"][0]["spec"]),
        ("PartialObjectMetadataList", &Value::Null)
    );
}

#[tokio::test]
async fn a_delete_marks_the_pod_and_leaves_the_rest_to_the_controller() {
    let server = Server::start().await;
    let made = server.create("web", &json!({})).await;
    let path = format!("{PODS}/web");
    let dry = server
        .call("DELETE", &format!("{path}?dryRun=All"), "application/json", "")
        .await;
    assert_eq!(dry.json()["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(server.get(&path).await.json(), made);
    let wrong = server
        .call(
            "DELETE",
            &path,
            "application/json",
            r#"{"preconditions":{"uid":"other"}}"#,
        )
        .await;
    assert_eq!(wrong.code, StatusCode::CONFLICT);
    assert!(
        wrong
            .message()
            .contains("Precondition failed: UID in precondition: other"),
        "{}",
        wrong.message()
    );
    let marked = server
        .call(
            "DELETE",
            &path,
            "application/json",
            r#"{"propagationPolicy":"Background"}"#,
        )
        .await;
    assert_eq!(marked.code, StatusCode::OK);
    let metadata = &marked.json()["metadata"];
    assert_eq!(metadata["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(metadata["deletionGracePeriodSeconds"], 30);
    assert_eq!(
        metadata["generation"],
        made["metadata"]["generation"].as_i64().unwrap() + 1
    );
    let sooner = server
        .call(
            "DELETE",
            &format!("{path}?gracePeriodSeconds=5"),
            "application/json",
            "",
        )
        .await
        .json();
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    let later = server
        .call("DELETE", &path, "application/json", r#"{"gracePeriodSeconds":60}"#)
        .await
        .json();
    assert_eq!(later, sooner);
    let absent = server
        .call("DELETE", &format!("{PODS}/x"), "application/json", "")
        .await;
    assert_eq!(absent.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        server.create(name, &json!({"app": app})).await;
    }
    let deleted = server
        .call("DELETE", &format!("{PODS}?labelSelector=app=x"), "application/json", "")
        .await
        .json();
    assert_eq!(deleted["kind"], "PodList");
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let kept = server.get(&format!("{PODS}/c")).await.json();
    assert_eq!(kept["metadata"]["deletionTimestamp"], Value::Null);
}

#[tokio::test]
async fn labels_and_annotations_can_be_changed_and_nothing_else() {
    let server = Server::start().await;
    let made = server.create("web", &json!({"a": "1"})).await;
    let path = format!("{PODS}/web");
    let merge = "application/merge-patch+json";
    let patched = server
        .call(
            "PATCH",
            &path,
            merge,
            r#"{"metadata":{"labels":{"a":null,"b":"2"},"annotations":{"x":"y"}}}"#,
        )
        .await;
    assert_eq!(patched.code, StatusCode::OK, "{}", patched.text);
    let patched = patched.json();
    assert_eq!(patched["metadata"]["labels"], json!({"b": "2"}));
    assert_eq!(patched["metadata"]["annotations"], json!({"x": "y"}));
    assert_eq!(patched["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(patched["metadata"]["generation"], made["metadata"]["generation"]);
    assert_eq!(
        patched["metadata"]["creationTimestamp"],
        made["metadata"]["creationTimestamp"]
    );
    assert_ne!(
        patched["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    let nothing = server
        .call("PATCH", &path, merge, r#"{"metadata":{"labels":{"b":"2"}}}"#)
        .await
        .json();
    assert_eq!(nothing, patched);
    let spec = server
        .call("PATCH", &path, merge, r#"{"spec":{"restartPolicy":"Never"}}"#)
        .await;
    assert_eq!(spec.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        spec.message()
            .starts_with("Pod \"web\" is invalid: spec: Forbidden: pod updates may not change fields other than"),
        "{}",
        spec.message()
    );
    let bad = server
        .call("PATCH", &path, merge, r#"{"metadata":{"labels":{"b":"not a label"}}}"#)
        .await;
    assert_eq!(bad.code, StatusCode::UNPROCESSABLE_ENTITY);
    let mut stale = made.clone();
    stale["metadata"]["labels"] = json!({"c": "3"});
    let conflict = server.call("PUT", &path, "application/json", stale.to_string()).await;
    assert_eq!(
        (conflict.code, conflict.json()["reason"].clone()),
        (StatusCode::CONFLICT, json!("Conflict"))
    );
    stale["metadata"]["resourceVersion"] = Value::Null;
    let replaced = server.call("PUT", &path, "application/json", stale.to_string()).await;
    assert_eq!(
        replaced.json()["metadata"]["labels"],
        json!({"c": "3"}),
        "{}",
        replaced.text
    );
}

#[tokio::test]
async fn discovery_tells_both_old_and_new_clients_what_there_is() {
    let server = Server::start().await;
    for path in ["/version", "/version/"] {
        let version = server.get(path).await.json();
        assert_eq!(version["gitVersion"], "v1.36.0+podd.0.1.0");
        assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    }
    assert_eq!(server.get("/api/").await.json()["versions"], json!(["v1"]));
    let groups = server.get("/apis").await.json();
    let groups: Vec<&str> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        groups,
        [
            "apps",
            "batch",
            "coordination.k8s.io",
            "discovery.k8s.io",
            "events.k8s.io",
            "node.k8s.io",
            "authentication.k8s.io",
            "authorization.k8s.io"
        ]
    );
    let resources = server.get("/api/v1").await.json();
    assert_eq!(resources["resources"][0]["name"], "pods");
    assert_eq!(resources["resources"][0]["shortNames"], json!(["po"]));
    for version in ["v2", "v2beta1"] {
        let accept =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList,application/json");
        let answer = server.get_as("/api", &accept).await;
        let content_type = answer.headers[header::CONTENT_TYPE].to_str().unwrap();
        assert_eq!(
            content_type,
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
        );
        let list = answer.json();
        assert_eq!(list["apiVersion"], format!("apidiscovery.k8s.io/{version}"));
        assert_eq!(
            list["items"][0]["versions"][0]["resources"][0]["responseKind"]["kind"],
            "Pod"
        );
        let named = server.get_as("/apis", &accept).await.json();
        assert_eq!(named["items"].as_array().map(Vec::len), Some(8));
        assert_eq!(
            named["items"][0]["versions"][0]["resources"][0]["verbs"],
            json!(["get", "list", "watch"])
        );
    }
}

#[tokio::test]
async fn openapi_is_served_by_hash() {
    let server = Server::start().await;
    let index = server.get("/openapi/v3").await.json();
    let url = index["paths"]["api/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let part = server.get(&url).await;
    assert_eq!(part.headers[header::CACHE_CONTROL], "public, immutable");
    assert_eq!(part.json()["openapi"], "3.0.0");
    assert_eq!(
        server.get("/openapi/v3/api/v1").await.headers[header::CACHE_CONTROL],
        "no-cache, private"
    );
    assert_eq!(server.get("/openapi/v3/apis/x/v1").await.code, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/openapi.json").await.json()["openapi"], "3.1.0");
}

#[tokio::test]
async fn readiness_is_the_agents_to_say() {
    let server = Server::start().await;
    assert_eq!(server.get("/readyz").await.code, StatusCode::SERVICE_UNAVAILABLE);
    server.ready.send_replace(true);
    assert_eq!(server.get("/readyz").await.text, "ok");
    assert_eq!(server.get("/livez").await.text, "ok");
    assert_eq!(server.get("/healthz").await.text, "ok");
}
