//! Kinds other than pods, and what is the same for all of them.

use super::*;

const NAMESPACES: &str = "/api/v1/namespaces";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const EVENTS_V1: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const MERGE: &str = "application/merge-patch+json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

impl Server {
    async fn made(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.text);
        answer.json()
    }

    async fn refused(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let media = if method == "PATCH" { MERGE } else { "application/json" };
        let answer = self.call(method, path, media, body.to_string()).await;
        assert!(!answer.code.is_success(), "{}", answer.text);
        (answer.code.as_u16(), answer.message())
    }

    async fn patched(&self, path: &str, change: &Value) -> Value {
        let answer = self.call("PATCH", path, MERGE, change.to_string()).await;
        assert_eq!(answer.code, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    async fn deleted(&self, path: &str) -> Value {
        let answer = self.call("DELETE", path, "application/json", "").await;
        assert_eq!(answer.code, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    /// The names of the columns and the cells of the first row.
    async fn row(&self, path: &str) -> (Vec<String>, Vec<Value>) {
        let table = self.get_as(path, TABLE).await.json();
        let columns = table["columnDefinitions"].as_array().unwrap();
        let names = columns.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect();
        (names, table["rows"][0]["cells"].as_array().cloned().unwrap_or_default())
    }
}

fn map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn named(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test]
async fn a_namespace_has_what_kubernetes_gives_it() {
    let server = Server::start().await;
    let made = server.made(NAMESPACES, &named("team-a")).await;
    assert_eq!(made["apiVersion"], "v1");
    assert_eq!(
        made["metadata"]["labels"],
        json!({"kubernetes.io/metadata.name": "team-a"})
    );
    assert_eq!(made["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(made["status"], json!({"phase": "Active"}));
    assert_eq!(made["metadata"]["generation"], Value::Null);
    let path = format!("{NAMESPACES}/team-a");
    let patched = server
        .patched(
            &path,
            &json!({"metadata": {"labels": {"x": "y"}}, "spec": {"finalizers": []}}),
        )
        .await;
    assert_eq!(patched["spec"], made["spec"]);
    assert_eq!(patched["metadata"]["labels"]["x"], "y");
    assert_eq!(
        server.refused("POST", NAMESPACES, &named("a.b")).await,
        (
            422,
            "Namespace \"a.b\" is invalid: metadata.name: Invalid value: \"a.b\": must not contain dots".to_owned()
        )
    );
    let terminating = server
        .get(&format!("{NAMESPACES}?fieldSelector=status.phase=Terminating"))
        .await;
    assert_eq!(terminating.json()["items"], json!([]));
    let (columns, cells) = server.row(&format!("{NAMESPACES}/team-a")).await;
    assert_eq!(columns, ["Name", "Status", "Age"]);
    assert_eq!(cells, [json!("team-a"), json!("Active"), json!("0s")]);
}

#[tokio::test]
async fn nothing_is_made_in_a_namespace_that_is_not_there_or_is_going() {
    let server = Server::start().await;
    let maps = |namespace: &str| format!("{NAMESPACES}/{namespace}/configmaps");
    for query in ["", "?dryRun=All"] {
        let answer = server.post(&format!("{}{query}", maps("nowhere")), &named("m")).await;
        assert_eq!(answer.code, StatusCode::NOT_FOUND);
        assert_eq!(answer.message(), "namespaces \"nowhere\" not found");
        assert_eq!(
            answer.json()["details"],
            json!({"name": "nowhere", "kind": "namespaces"})
        );
    }
    server.made(NAMESPACES, &named("going")).await;
    let going = server.deleted(&format!("{NAMESPACES}/going")).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    for query in ["", "?dryRun=All"] {
        let answer = server.post(&format!("{}{query}", maps("going")), &named("m")).await;
        assert_eq!(answer.code, StatusCode::FORBIDDEN);
        assert_eq!(
            answer.message(),
            "configmaps \"m\" is forbidden: unable to create new content in namespace going because it is being terminated"
        );
        assert_eq!(
            answer.json()["details"]["causes"],
            json!([{"reason": "NamespaceTerminating", "message": "namespace going is being terminated", "field": "metadata.namespace"}])
        );
    }
}

#[tokio::test]
async fn three_namespaces_stay_for_ever() {
    let server = Server::start().await;
    for name in ["default", "kube-system", "kube-public"] {
        assert_eq!(
            server
                .refused("DELETE", &format!("{NAMESPACES}/{name}"), &json!({}))
                .await,
            (
                403,
                format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted")
            )
        );
    }
    server.deleted(&format!("{NAMESPACES}/kube-node-lease")).await;
    let all = server.call("DELETE", NAMESPACES, "application/json", "").await;
    assert_eq!(all.code, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn finalize_lets_an_empty_namespace_go() {
    let server = Server::start().await;
    let path = format!("{NAMESPACES}/n");
    let mut namespace = server.made(NAMESPACES, &named("n")).await;
    namespace["spec"]["finalizers"] = json!(["example.com/mine"]);
    let finalize = |body: &Value| {
        server.call(
            "PUT",
            "/api/v1/namespaces/n/finalize",
            "application/json",
            body.to_string(),
        )
    };
    let held = finalize(&namespace).await.json();
    assert_eq!(held["spec"]["finalizers"], json!(["example.com/mine"]));
    let mut going = server.deleted(&path).await;
    assert_eq!(going["spec"]["finalizers"], json!(["example.com/mine"]));
    going["spec"]["finalizers"] = json!([]);
    assert_eq!(finalize(&going).await.code, StatusCode::OK);
    assert_eq!(server.get(&path).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_status_is_written_on_its_own_path_alone() {
    let server = Server::start().await;
    let made = server.made(NAMESPACES, &named("n")).await;
    let path = format!("{NAMESPACES}/n");
    let conditions = json!([{"type": "Patched", "status": "True"}]);
    let change = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"finalizers": []}, "status": {"conditions": conditions}});
    let ignored = server.patched(&path, &change).await;
    assert_eq!(ignored["status"], json!({"phase": "Active"}));
    let told = server.patched(&format!("{path}/status"), &change).await;
    assert_eq!(told["status"], json!({"phase": "Active", "conditions": conditions}));
    assert_eq!(told["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(told["spec"], made["spec"]);
    assert_eq!(server.get(&format!("{path}/status")).await.json(), told);
    let again = server.patched(&format!("{path}/status"), &change).await;
    assert_eq!(again, told);
    let mut stale = made;
    stale["status"]["phase"] = "Terminating".into();
    assert_eq!(server.refused("PUT", &format!("{path}/status"), &stale).await.0, 409);
}

#[tokio::test]
async fn config_maps_hold_what_files_could_be_made_of() {
    let server = Server::start().await;
    let made = server
        .made(
            MAPS,
            &json!({"metadata": {"generateName": "m-"}, "data": {"a": "1"}, "binaryData": {"b": "AAE="}}),
        )
        .await;
    assert_eq!(
        (&made["data"], &made["binaryData"]),
        (&json!({"a": "1"}), &json!({"b": "AAE="}))
    );
    let (columns, cells) = server
        .row(&format!("{MAPS}/{}", made["metadata"]["name"].as_str().unwrap()))
        .await;
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(cells[1], 2);
    let bad = json!({"metadata": {"name": "m"}, "data": {"..": "x", "k": "v"}, "binaryData": {"k": ""}});
    assert_eq!(
        server.refused("POST", MAPS, &bad).await,
        (
            422,
            "ConfigMap \"m\" is invalid: [data[..]: Invalid value: \"..\": must not be '..', data[k]: Invalid value: \"k\": duplicate of key present in binaryData]".to_owned()
        )
    );
    let large = map("m", &json!({"k": "x".repeat(1024 * 1024 + 1)}));
    let (code, message) = server.refused("POST", MAPS, &large).await;
    assert_eq!(code, 422);
    assert!(
        message.contains("Too long: may not be more than 1048576 bytes"),
        "{message}"
    );
    let wrong = server.refused("POST", MAPS, &map("m", &json!({"k": 1}))).await;
    assert_eq!(wrong.0, 400, "{}", wrong.1);
}

#[tokio::test]
async fn what_is_immutable_stays_so() {
    let server = Server::start().await;
    let mut body = map("m", &json!({"k": "v"}));
    body["immutable"] = true.into();
    server.made(MAPS, &body).await;
    let path = format!("{MAPS}/m");
    server
        .patched(&path, &json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!(
        server.refused("PATCH", &path, &json!({"data": {"k": "w"}, "immutable": null})).await,
        (
            422,
            "ConfigMap \"m\" is invalid: [immutable: Forbidden: field is immutable when `immutable` is set, data: Forbidden: field is immutable when `immutable` is set]".to_owned()
        )
    );
    server
        .made(SECRETS, &json!({"metadata": {"name": "s"}, "type": "example.com/x"}))
        .await;
    assert_eq!(
        server
            .refused("PATCH", &format!("{SECRETS}/s"), &json!({"type": "Opaque"}))
            .await,
        (
            422,
            "Secret \"s\" is invalid: type: Invalid value: \"Opaque\": field is immutable".to_owned()
        )
    );
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    server
        .made(
            classes,
            &json!({"metadata": {"name": "c"}, "handler": "runc", "overhead": {"podFixed": {"memory": "64Mi"}}}),
        )
        .await;
    assert_eq!(
        server
            .refused("PATCH", &format!("{classes}/c"), &json!({"handler": "crun"}))
            .await,
        (
            422,
            "RuntimeClass.node.k8s.io \"c\" is invalid: handler: Invalid value: \"crun\": field is immutable"
                .to_owned()
        )
    );
    assert_eq!(server.row(classes).await.0, ["Name", "Handler", "Age"]);
}

#[tokio::test]
async fn what_podd_says_in_the_metadata_cannot_be_changed() {
    let server = Server::start().await;
    let made = server.made(MAPS, &map("m", &json!({}))).await;
    let path = format!("{MAPS}/m");
    let after = server
        .patched(&path, &json!({"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "deletionTimestamp": "2001-01-01T00:00:00Z", "generation": 7}, "data": {"a": "b"}}))
        .await;
    assert_eq!(
        after["metadata"]["creationTimestamp"],
        made["metadata"]["creationTimestamp"]
    );
    assert_eq!(after["metadata"]["deletionTimestamp"], Value::Null);
    assert_eq!(after["metadata"]["generation"], Value::Null);
    assert_eq!(after["metadata"]["uid"], made["metadata"]["uid"]);
    for (patch, code) in [
        (json!({"metadata": {"name": "other"}}), 400),
        (json!({"metadata": {"namespace": "other"}}), 400),
        (json!({"metadata": {"uid": "other"}}), 409),
        (json!({"metadata": {"resourceVersion": "1"}}), 409),
        (json!({"metadata": {"labels": {"a b": "c"}}}), 422),
        (json!({"metadata": {"finalizers": ["mine"]}}), 422),
        (
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"}]}}),
            422,
        ),
    ] {
        assert_eq!(server.refused("PATCH", &path, &patch).await.0, code, "{patch}");
    }
    let elsewhere = json!({"metadata": {"name": "x", "namespace": "kube-system"}});
    assert_eq!(
        server.refused("POST", MAPS, &elsewhere).await,
        (
            400,
            "the namespace of the provided object does not match the namespace sent on the request".to_owned()
        )
    );
}

#[tokio::test]
async fn secrets_merge_their_strings_and_tell_no_one() {
    let server = Server::start().await;
    let made = server
        .made(
            SECRETS,
            &json!({"metadata": {"name": "s"}, "data": {"a": "MQ==", "b": "Mg=="}, "stringData": {"b": "zwei"}}),
        )
        .await;
    assert_eq!(made["type"], "Opaque");
    assert_eq!(made["stringData"], Value::Null);
    assert_eq!(made["data"], json!({"a": "MQ==", "b": "endlaQ=="}));
    let patched = server
        .patched(&format!("{SECRETS}/s"), &json!({"stringData": {"c": "3"}}))
        .await;
    assert_eq!(patched["data"], json!({"a": "MQ==", "b": "endlaQ==", "c": "Mw=="}));
    let (columns, cells) = server.row(&format!("{SECRETS}?fieldSelector=type=Opaque")).await;
    assert_eq!(columns, ["Name", "Type", "Data", "Age"]);
    assert_eq!(cells, [json!("s"), json!("Opaque"), json!(3), json!("0s")]);

    let hidden = "hunter2!";
    for body in [
        json!({"metadata": {"name": "t"}, "data": {"k": hidden}}),
        json!({"metadata": {"name": "t"}, "data": {"k": [hidden]}}),
        json!({"metadata": {"name": "t"}, "data": hidden}),
        json!({"metadata": {"name": "t"}, "stringData": hidden}),
        json!({"metadata": {"name": "t"}, "stringData": {"k": {"x": hidden}}}),
        json!({"metadata": {"name": "t"}, "stringData": {"bad key": hidden}}),
        json!({"metadata": {"name": "t"}, "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": hidden}}),
        json!({"metadata": {"name": "t"}, "immutable": hidden}),
    ] {
        for (method, path) in [
            ("POST", SECRETS.to_owned()),
            ("PUT", format!("{SECRETS}/s")),
            ("PATCH", format!("{SECRETS}/s")),
        ] {
            let mut body = body.clone();
            if method != "POST" {
                body["metadata"]["name"] = "s".into();
            }
            let (code, message) = server.refused(method, &path, &body).await;
            assert!(code == 400 || code == 422, "{method} {body}: {message}");
            assert!(!message.contains(hidden), "{message}");
        }
    }
    for body in [
        "metadata: {name: t}\nstringData: {k: !!int hunter2!}",
        "metadata: {name: t}\nstringData: {k: !!float hunter2!}",
        "metadata: {name: t}\nstringData: {k: *hunter2!}",
        "metadata: {name: t}\nstringData: {k: \"\\hunter2!\"}",
        "hunter2!",
    ] {
        let answer = server.call("POST", SECRETS, "application/yaml", body).await;
        assert_eq!(answer.code, StatusCode::BAD_REQUEST, "{body}");
        assert!(!answer.text.contains(hidden), "{}", answer.text);
    }
    let stored = server.store.get("Secret", "default", "s").await.unwrap().unwrap();
    assert!(!format!("{stored:?}").contains("endlaQ"), "{stored:?}");
}

#[tokio::test]
async fn a_secret_of_a_known_type_has_its_keys() {
    let server = Server::start().await;
    for (secret_type, wanted) in [
        (
            "kubernetes.io/tls",
            "[data[tls.crt]: Required value, data[tls.key]: Required value]",
        ),
        ("kubernetes.io/ssh-auth", "data[ssh-privatekey]: Required value"),
        (
            "kubernetes.io/basic-auth",
            "[data[username]: Required value, data[password]: Required value]",
        ),
        ("kubernetes.io/dockercfg", "data[.dockercfg]: Required value"),
        (
            "kubernetes.io/service-account-token",
            "metadata.annotations[kubernetes.io/service-account.name]: Required value",
        ),
    ] {
        let body = json!({"metadata": {"name": "s"}, "type": secret_type});
        assert_eq!(
            server.refused("POST", SECRETS, &body).await,
            (422, format!("Secret \"s\" is invalid: {wanted}"))
        );
    }
    let name = json!({"kubernetes.io/service-account.name": "default"});
    let body = json!({"metadata": {"name": "s", "annotations": name}, "type": "kubernetes.io/service-account-token"});
    let wanted = "Secret \"s\" is invalid: type: Forbidden: podd does not support tokens that never expire yet";
    assert_eq!(server.refused("POST", SECRETS, &body).await, (422, wanted.to_owned()));
}

#[tokio::test]
async fn events_are_the_same_under_both_names() {
    let server = Server::start().await;
    let core = server
        .made(
            EVENTS,
            &json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": "u-1"},
                "reason": "Started", "message": "it runs ", "type": "Normal", "count": 3, "source": {"component": "podd", "host": "node-1"},
                "firstTimestamp": "2025-12-31T23:58:00Z", "lastTimestamp": "2025-12-31T23:59:30Z"}),
        )
        .await;
    let seen = server.get(&format!("{EVENTS_V1}/e")).await.json();
    assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
    assert_eq!(seen["regarding"], core["involvedObject"]);
    assert_eq!(
        (
            &seen["note"],
            &seen["deprecatedCount"],
            &seen["deprecatedSource"]["component"]
        ),
        (&json!("it runs "), &json!(3), &json!("podd"))
    );
    assert_eq!(seen["metadata"], core["metadata"]);
    let list = server.get(EVENTS_V1).await.json();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("EventList"), &json!("events.k8s.io/v1"))
    );
    assert_eq!(list["items"], json!([seen]));
    assert_eq!(server.get("/api/v1/events").await.json()["items"], json!([core]));

    let patched = server
        .patched(
            &format!("{EVENTS_V1}/e"),
            &json!({"note": "it still runs", "deprecatedCount": 4}),
        )
        .await;
    assert_eq!(patched["note"], "it still runs");
    let core = server.get(&format!("{EVENTS}/e")).await.json();
    assert_eq!((&core["message"], &core["count"]), (&json!("it still runs"), &json!(4)));
    assert_eq!(core.get("note"), None);

    let (columns, cells) = server.row(&format!("{EVENTS}/e")).await;
    assert_eq!(
        columns,
        [
            "Last Seen",
            "Type",
            "Reason",
            "Object",
            "Subobject",
            "Source",
            "Message",
            "First Seen",
            "Count",
            "Name"
        ]
    );
    let wanted = json!([
        "30s",
        "Normal",
        "Started",
        "pod/web",
        "",
        "podd, node-1",
        "it still runs",
        "2m",
        4,
        "e"
    ]);
    assert_eq!(json!(cells), wanted);
    assert_eq!(json!(server.row(&format!("{EVENTS_V1}/e")).await.1), wanted);

    for (path, selector, found) in [
        (
            EVENTS,
            "involvedObject.name=web,involvedObject.uid=u-1,reason=Started",
            1,
        ),
        (EVENTS, "involvedObject.name!=web", 0),
        (EVENTS, "source=podd,type=Normal", 1),
        (EVENTS_V1, "regarding.name=web,regarding.kind=Pod", 1),
        (EVENTS_V1, "regarding.name=other", 0),
    ] {
        let list = server.get(&format!("{path}?fieldSelector={selector}")).await.json();
        assert_eq!(
            list["items"].as_array().map(Vec::len),
            Some(found),
            "{selector}: {list}"
        );
    }
    assert_eq!(
        server
            .get(&format!("{EVENTS_V1}?fieldSelector=involvedObject.name=web"))
            .await
            .code,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn an_event_made_in_its_own_group_is_one_of_the_core_group() {
    let server = Server::start().await;
    let mut watch = server.stream(&format!("{EVENTS_V1}?watch=true")).await;
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "regarding": {"kind": "Pod", "namespace": "default", "name": "web"}, "eventTime": "2025-12-31T23:59:00.000001Z",
        "reportingController": "example.com/x", "reportingInstance": "x-1", "action": "Run", "reason": "Ran", "note": "done",
        "type": "Normal", "series": {"count": 5, "lastObservedTime": "2025-12-31T23:59:50.000000Z"}});
    let made = server.made(EVENTS_V1, &event).await;
    assert_eq!(
        (&made["regarding"], &made["note"]),
        (&event["regarding"], &event["note"])
    );
    let told = watch.next().await.unwrap();
    assert_eq!((&told["type"], &told["object"]), (&json!("ADDED"), &made));
    let core = server.get(&format!("{EVENTS}/e")).await.json();
    assert_eq!(
        (&core["involvedObject"], &core["message"]),
        (&event["regarding"], &event["note"])
    );
    assert_eq!(core["reportingComponent"], "example.com/x");
    let (_, cells) = server.row(&format!("{EVENTS}/e")).await;
    assert_eq!(
        (&cells[0], &cells[5], &cells[8]),
        (&json!("10s"), &json!("example.com/x, x-1"), &json!(5))
    );

    let mut bad = event.clone();
    bad["metadata"]["name"] = "f".into();
    bad["regarding"]["namespace"] = "other".into();
    assert_eq!(
        server.refused("POST", EVENTS_V1, &bad).await,
        (
            422,
            "Event \"f\" is invalid: involvedObject.namespace: Invalid value: \"other\": does not match event.namespace".to_owned()
        )
    );
    bad["eventTime"] = Value::Null;
    assert_eq!(
        server.refused("POST", EVENTS_V1, &bad).await,
        (
            422,
            "Event.events.k8s.io \"f\" is invalid: eventTime: Required value".to_owned()
        )
    );
    assert_eq!(server.deleted(&format!("{EVENTS_V1}/e")).await["status"], "Success");
    assert_eq!(server.get(&format!("{EVENTS}/e")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_node_keeps_its_status_and_can_be_cordoned() {
    let server = Server::start().await;
    let nodes = "/api/v1/nodes";
    let made = server
        .made(
            nodes,
            &json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": ""}},
                "status": {"nodeInfo": {"kubeletVersion": "v1", "architecture": "", "bootID": "", "containerRuntimeVersion": "podd://1",
                    "kernelVersion": "6.1", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "linux", "osImage": "Debian", "systemUUID": ""},
                    "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
        )
        .await;
    assert_eq!(made["status"]["nodeInfo"]["osImage"], "Debian");
    let path = format!("{nodes}/n");
    let cordoned = server.patched(&path, &json!({"spec": {"unschedulable": true}})).await;
    assert_eq!(cordoned["status"], made["status"]);
    let (columns, cells) = server.row(&path).await;
    assert_eq!(
        columns,
        [
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "Internal-IP",
            "External-IP",
            "OS-Image",
            "Kernel-Version",
            "Container-Runtime"
        ]
    );
    assert_eq!(
        json!(cells),
        json!([
            "n",
            "Ready,SchedulingDisabled",
            "worker",
            "0s",
            "v1",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.1",
            "podd://1"
        ])
    );
    for (selector, found) in [("spec.unschedulable=true", 1), ("spec.unschedulable=false", 0)] {
        let list = server.get(&format!("{nodes}?fieldSelector={selector}")).await.json();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(found));
    }
    let told = server
        .patched(
            &format!("{path}/status"),
            &json!({"status": {"capacity": {"cpu": "2"}}, "spec": {"unschedulable": null}}),
        )
        .await;
    assert_eq!(told["status"]["capacity"], json!({"cpu": "2"}));
    assert_eq!(told["spec"], json!({"unschedulable": true}));
    let taint = json!({"spec": {"taints": [{"key": "a", "effect": "Never"}]}});
    let (code, message) = server.refused("PATCH", &path, &taint).await;
    assert_eq!(code, 422);
    assert!(
        message.contains("spec.taints[0].effect: Unsupported value: \"Never\""),
        "{message}"
    );
    assert_eq!(
        server
            .refused("PATCH", &path, &json!({"spec": {"providerID": "x://y"}}))
            .await
            .0,
        422
    );
}

#[tokio::test]
async fn leases_and_templates_are_kept() {
    let server = Server::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    server
        .made(
            leases,
            &json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 40}}),
        )
        .await;
    let (columns, cells) = server.row(leases).await;
    assert_eq!(columns, ["Name", "Holder", "Age"]);
    assert_eq!(json!(cells), json!(["l", "me", "0s"]));
    assert_eq!(
        server
            .refused("PATCH", &format!("{leases}/l"), &json!({"spec": {"leaseDurationSeconds": 0}}))
            .await,
        (
            422,
            "Lease.coordination.k8s.io \"l\" is invalid: spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0".to_owned()
        )
    );
    assert_eq!(
        server.get(&format!("{leases}/x")).await.message(),
        "leases.coordination.k8s.io \"x\" not found"
    );
    let templates = "/api/v1/namespaces/default/podtemplates";
    let made = server
        .made(
            templates,
            &json!({"metadata": {"name": "t"}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}),
        )
        .await;
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["template"]["spec"]["restartPolicy"], "Always");
    let labelled = server
        .patched(&format!("{templates}/t"), &json!({"metadata": {"labels": {"x": "y"}}}))
        .await;
    assert_eq!(labelled["metadata"]["generation"], 1);
    let changed = server
        .patched(
            &format!("{templates}/t"),
            &json!({"template": {"metadata": {"labels": {"a": "c"}}}}),
        )
        .await;
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(
        json!(server.row(templates).await.1),
        json!(["t", "c", "i", "a=c", "0s"])
    );
}

#[tokio::test]
async fn kinds_without_a_controller_are_empty_and_say_why() {
    let server = Server::start().await;
    for (path, resource, kind) in [
        (
            "/apis/apps/v1/namespaces/default/deployments",
            "deployments.apps",
            "Deployment",
        ),
        (
            "/apis/apps/v1/namespaces/default/daemonsets",
            "daemonsets.apps",
            "DaemonSet",
        ),
        (
            "/apis/apps/v1/namespaces/default/replicasets",
            "replicasets.apps",
            "ReplicaSet",
        ),
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            "statefulsets.apps",
            "StatefulSet",
        ),
        ("/apis/batch/v1/namespaces/default/jobs", "jobs.batch", "Job"),
        (
            "/api/v1/namespaces/default/replicationcontrollers",
            "replicationcontrollers",
            "ReplicationController",
        ),
        ("/api/v1/namespaces/kube-system/services", "services", "Service"),
    ] {
        let list = server.get(path).await;
        assert_eq!(list.code, StatusCode::OK, "{path}");
        assert_eq!(list.json()["items"], json!([]), "{path}");
        assert_eq!(server.get_as(path, TABLE).await.json()["rows"], json!([]), "{path}");
        let body = json!({"kind": kind, "metadata": {"name": "x"}});
        assert_eq!(
            server.refused("POST", path, &body).await,
            (
                403,
                format!("{resource} \"x\" is forbidden: podd has no controller for {resource} yet: it runs pods alone")
            )
        );
        let delete = server.call("DELETE", path, "application/json", "").await;
        assert_eq!(delete.code, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    for (path, resource, kind) in [
        ("/api/v1/namespaces/default/endpoints", "endpoints", "Endpoints"),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            "endpointslices.discovery.k8s.io",
            "EndpointSlice",
        ),
    ] {
        let list = server.get(path).await;
        assert_eq!(list.json()["items"][0]["metadata"]["name"], "kubernetes", "{path}");
        let warned = list
            .headers
            .get("warning")
            .map(|warning| warning.to_str().unwrap().to_owned());
        let expected = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
        assert_eq!(warned.as_deref(), (kind == "Endpoints").then_some(expected));
        let body = json!({"kind": kind, "metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": []});
        let (code, why) = server.refused("POST", path, &body).await;
        assert_eq!(code, 403, "{why}");
        assert!(
            why.starts_with(&format!("{resource} \"x\" is forbidden: podd has no controller for")),
            "{why}"
        );
    }
    let (_, cells) = server.row("/api/v1/endpoints").await;
    assert_eq!(json!(cells), json!(["kubernetes", "10.1.2.3:6443", "0s"]));
    let (_, cells) = server.row("/apis/discovery.k8s.io/v1/endpointslices").await;
    assert_eq!(json!(cells), json!(["kubernetes", "IPv4", "6443", "10.1.2.3", "0s"]));
    let (columns, cells) = server.row("/api/v1/services").await;
    assert_eq!(
        columns,
        [
            "Name",
            "Type",
            "Cluster-IP",
            "External-IP",
            "Port(s)",
            "Age",
            "Selector"
        ]
    );
    assert_eq!(
        json!(cells),
        json!([
            "kubernetes",
            "ClusterIP",
            "10.1.2.3",
            "<none>",
            "6443/TCP",
            "0s",
            "<none>"
        ])
    );
}

#[tokio::test]
async fn every_kind_is_listed_watched_and_has_as_many_cells_as_columns() {
    let server = Server::start().await;
    for kind in KINDS.iter().filter(|kind| kind.is_stored()) {
        let path = format!("{}/{}", kind.base_path(), kind.plural);
        let list = server.get(&path).await;
        assert_eq!(list.code, StatusCode::OK, "{path}");
        assert_eq!(list.json()["kind"], format!("{}List", kind.kind));
        let mut watch = server
            .stream(&format!(
                "{path}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
            ))
            .await;
        while watch.event().await.0 != "BOOKMARK" {}
        let row = (kind.row)(&json!({"metadata": {"name": "x"}}), now());
        let empty = kind.group == "apps" || kind.group == "batch" || kind.kind == "ReplicationController";
        assert!(empty || row.cells.len() == kind.columns.len(), "{}", kind.kind);
    }
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::start().await;
    let mut body = map("m", &json!({}));
    body["metadata"]["finalizers"] = json!(["a.com/b", "a.com/c"]);
    server.made(MAPS, &body).await;
    let path = format!("{MAPS}/m");
    let marked = server.deleted(&path).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(server.deleted(&path).await, marked);
    assert_eq!(
        server
            .refused("PATCH", &path, &json!({"metadata": {"finalizers": ["a.com/b", "a.com/new"]}}))
            .await,
        (
            422,
            "ConfigMap \"m\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.com/new\"}".to_owned()
        )
    );
    let one = server
        .patched(&path, &json!({"metadata": {"finalizers": ["a.com/c"]}}))
        .await;
    assert_eq!(one["metadata"]["finalizers"], json!(["a.com/c"]));
    let mut watch = server
        .stream(&format!(
            "{MAPS}?watch=true&resourceVersion={}",
            one["metadata"]["resourceVersion"].as_str().unwrap()
        ))
        .await;
    server.patched(&path, &json!({"metadata": {"finalizers": null}})).await;
    watch.expect(&[("DELETED", "m")]).await;
    assert_eq!(server.get(&path).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_pod_with_finalizers_outlives_its_containers() {
    let server = Server::start().await;
    let mut body = pod("p", &json!({}));
    body["metadata"]["finalizers"] = json!(["a.com/b"]);
    let answer = server.post(PODS, &body).await;
    assert_eq!(
        (answer.code, answer.headers.get("warning")),
        (StatusCode::CREATED, None)
    );
    let made = answer.json();
    server.deleted(&format!("{PODS}/p")).await;
    let uid = crate::model::Uid(made["metadata"]["uid"].as_str().unwrap().to_owned());
    assert!(!server.store.forget_pod(&uid).await.unwrap());
    let (code, _) = server
        .refused(
            "PATCH",
            &format!("{PODS}/p"),
            &json!({"metadata": {"finalizers": ["a.com/b", "a.com/c"]}}),
        )
        .await;
    assert_eq!(code, 422);
    server
        .patched(&format!("{PODS}/p"), &json!({"metadata": {"finalizers": null}}))
        .await;
    assert!(server.store.forget_pod(&uid).await.unwrap());
    assert_eq!(server.get(&format!("{PODS}/p")).await.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn deletions_keep_to_their_options() {
    let server = Server::start().await;
    server.made(MAPS, &map("m", &json!({}))).await;
    let path = format!("{MAPS}/m");
    for (options, code) in [
        (json!({"preconditions": {"uid": "other"}}), 409),
        (json!({"preconditions": {"resourceVersion": "1"}}), 409),
        (json!({"propagationPolicy": "Later"}), 422),
        (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), 422),
    ] {
        assert_eq!(server.refused("DELETE", &path, &options).await.0, code, "{options}");
    }
    let delete = |options: Value| server.call("DELETE", &path, "application/json", options.to_string());
    assert_eq!(delete(json!({"dryRun": ["All"]})).await.code, StatusCode::OK);
    let foreground = delete(json!({"propagationPolicy": "Foreground"})).await.json();
    assert_eq!(foreground["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    server.made(MAPS, &map("a", &json!({}))).await;
    server.made(MAPS, &map("b", &json!({}))).await;
    let all = server
        .call(
            "DELETE",
            &format!("{MAPS}?fieldSelector=metadata.name!=kube-root-ca.crt"),
            "application/json",
            "",
        )
        .await;
    assert_eq!(all.json()["items"].as_array().map(Vec::len), Some(3));
    let left = server.get(MAPS).await.json();
    let left: Vec<&str> = left["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|m| m["metadata"]["name"].as_str())
        .collect();
    assert_eq!(left, ["kube-root-ca.crt", "m"]);
}

#[tokio::test]
async fn a_namespace_made_over_http_is_complete_and_ends_with_its_pods() {
    let server = Server::start().await;
    let garbage = crate::garbage::Garbage {
        store: server.store.clone(),
        settings: garbage(),
    };
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(garbage.run(stopped));
    server.made(NAMESPACES, &named("n")).await;
    let mut accounts = server
        .stream("/api/v1/namespaces/n/serviceaccounts?watch=true&fieldSelector=metadata.name=default")
        .await;
    accounts.expect(&[("ADDED", "default")]).await;
    let mut authorities = server.stream("/api/v1/namespaces/n/configmaps?watch=true").await;
    authorities.expect(&[("ADDED", "kube-root-ca.crt")]).await;
    let made = server.made("/api/v1/namespaces/n/pods", &pod("p", &json!({}))).await;
    let uid = crate::model::Uid(made["metadata"]["uid"].as_str().unwrap().to_owned());
    let mut pods = server.stream("/api/v1/namespaces/n/pods?watch=true").await;
    pods.expect(&[("ADDED", "p")]).await;
    let mut namespaces = server
        .stream(&format!(
            "{NAMESPACES}?watch=true&fieldSelector=metadata.name=n&labelSelector=kubernetes.io/metadata.name=n"
        ))
        .await;
    namespaces.expect(&[("ADDED", "n")]).await;
    server.deleted(&format!("{NAMESPACES}/n")).await;
    pods.expect(&[("MODIFIED", "p")]).await;
    server.store.forget_pod(&uid).await.unwrap();
    pods.expect(&[("DELETED", "p")]).await;
    loop {
        let (event, _) = namespaces.event().await;
        if event == "DELETED" {
            break;
        }
        assert_eq!(event, "MODIFIED");
    }
    assert_eq!(server.get(&format!("{NAMESPACES}/n")).await.code, StatusCode::NOT_FOUND);
}
