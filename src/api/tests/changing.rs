//! Changes of a pod that is there: its spec, its resources, its ephemeral containers; and which containers can be named.

use super::*;

const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MERGE: &str = "application/merge-patch+json";

impl Server {
    async fn patch(&self, below: &str, media: &str, change: &Value) -> Answer {
        let path = format!("{PODS}/{below}");
        self.call("PATCH", &path, media, change.to_string()).await
    }

    /// The object after a PATCH that is taken.
    async fn amended(&self, below: &str, media: &str, change: &Value) -> Value {
        let answer = self.patch(below, media, change).await;
        assert_eq!(answer.code, StatusCode::OK, "{}", answer.text);
        answer.json()
    }
}

fn generation(pod: &Value) -> i64 {
    pod["metadata"]["generation"].as_i64().unwrap()
}

#[tokio::test]
async fn an_image_is_set_and_counted() {
    let server = Server::start().await;
    let init = json!([{"name": "before", "image": "busybox:test"}]);
    let made = server.create_with("web", &json!({"initContainers": init})).await;
    // As `kubectl set image` has it.
    let patch = json!({"spec": {"containers": [{"name": "main", "image": "busybox:2"}],
        "initContainers": [{"name": "before", "image": "busybox:3"}]}});
    let changed = server.amended("web", STRATEGIC, &patch).await;
    assert_eq!(generation(&changed), generation(&made) + 1);
    assert_eq!(changed["spec"]["containers"][0]["image"], "busybox:2");
    assert_eq!(changed["spec"]["initContainers"][0]["image"], "busybox:3");
    assert_eq!(
        changed["spec"]["containers"][0]["command"],
        made["spec"]["containers"][0]["command"]
    );
    let mut replaced = changed.clone();
    replaced["spec"]["activeDeadlineSeconds"] = json!(60);
    let url = format!("{PODS}/web");
    let replaced = server.call("PUT", &url, "application/json", replaced.to_string()).await;
    assert_eq!(replaced.code, StatusCode::OK, "{}", replaced.text);
    assert_eq!(generation(&replaced.json()), generation(&made) + 2);
    let removed = json!([{"op": "remove", "path": "/spec/activeDeadlineSeconds"}]);
    let refused = server.patch("web", "application/json-patch+json", &removed).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused.message(),
        "Pod \"web\" is invalid: spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive \
         integer to nil value"
    );
}

#[tokio::test]
async fn what_may_not_be_changed_is_shown() {
    let server = Server::start().await;
    let made = server.create("web", &json!({})).await;
    let patch = json!({"spec": {"containers": [{"name": "main", "workingDir": "/x"}]}});
    let refused = server.patch("web", STRATEGIC, &patch).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    let cause = &refused.json()["details"]["causes"][0];
    assert_eq!(
        (&cause["field"], &cause["reason"]),
        (&json!("spec"), &json!("FieldValueForbidden"))
    );
    let message = refused.message();
    let shown = "\n- containers[0].workingDir: null\n+ containers[0].workingDir: \"/x\"";
    assert!(message.ends_with(shown), "{message}");
    assert_eq!(server.get(&format!("{PODS}/web")).await.json(), made);
}

#[tokio::test]
async fn a_resize_changes_the_resources_alone() {
    let server = Server::start().await;
    let resources = json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "100m"}});
    let containers = json!([{"name": "main", "image": "busybox:test", "resources": resources}]);
    let made = server.create_with("web", &json!({"containers": containers})).await;
    assert_eq!(server.get(&format!("{PODS}/web/resize")).await.json(), made);
    let patch = |limit: &str| {
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never",
            "containers": [{"name": "main", "resources": {"limits": {"cpu": limit}}}]}})
    };
    let refused = server.patch("web", STRATEGIC, &patch("2")).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY, "not by an update");
    let dry = server.amended("web/resize?dryRun=All", STRATEGIC, &patch("2")).await;
    assert_eq!(dry["spec"]["containers"][0]["resources"]["limits"]["cpu"], "2");
    assert_eq!(server.get(&format!("{PODS}/web")).await.json(), made);
    let resized = server.amended("web/resize", STRATEGIC, &patch("2")).await;
    assert_eq!(
        resized["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "2", "memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}})
    );
    assert_eq!(generation(&resized), generation(&made) + 1);
    // What else was sent is dropped.
    assert_eq!(resized["spec"]["restartPolicy"], "Always");
    assert_eq!(resized["metadata"]["labels"], made["metadata"]["labels"]);
    let again = server.amended("web/resize", STRATEGIC, &patch("2")).await;
    assert_eq!(again, resized, "the same once more changes nothing");

    let mut whole = resized.clone();
    whole["spec"]["containers"][0]["resources"]["limits"]["memory"] = json!("32Mi");
    whole["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("32Mi");
    let url = format!("{PODS}/web/resize");
    let replaced = server.call("PUT", &url, "application/json", whole.to_string()).await;
    assert_eq!(replaced.code, StatusCode::OK, "{}", replaced.text);
    whole["spec"]["containers"][0]["resources"]["limits"] = json!({"cpu": "2"});
    whole["metadata"]["resourceVersion"] = Value::Null;
    let refused = server.call("PUT", &url, "application/json", whole.to_string()).await;
    assert_eq!(
        refused.message(),
        "Pod \"web\" is invalid: spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"
    );
}

#[tokio::test]
async fn ephemeral_containers_are_added_and_found() {
    let server = Server::start().await;
    let made = server.create("web", &json!({})).await;
    assert_eq!(
        server.get(&format!("{PODS}/web/ephemeralcontainers")).await.json(),
        made
    );
    // As `kubectl debug` has it.
    let debugger = json!({"name": "debugger", "image": "busybox:test", "imagePullPolicy": "Never", "resources": {},
        "stdin": true, "tty": true, "targetContainerName": "main", "terminationMessagePolicy": "File"});
    let patch = json!({"spec": {"$setElementOrder/ephemeralContainers": [{"name": "debugger"}],
        "ephemeralContainers": [debugger]}});
    let refused = server.patch("web", STRATEGIC, &patch).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY, "not by an update");
    let changed = server.amended("web/ephemeralcontainers", STRATEGIC, &patch).await;
    assert_eq!(changed["spec"]["ephemeralContainers"][0]["targetContainerName"], "main");
    assert_eq!(generation(&changed), generation(&made) + 1);
    let one_more = json!({"name": "second", "image": "busybox:test"});
    let patch = json!({"spec": {"ephemeralContainers": [one_more]}});
    let changed = server.amended("web/ephemeralcontainers", STRATEGIC, &patch).await;
    assert_eq!(changed["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(2));
    let none = json!({"spec": {"ephemeralContainers": null}});
    let refused = server.patch("web/ephemeralcontainers", MERGE, &none).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        refused
            .message()
            .contains("existing ephemeral containers \"debugger\" may not be removed"),
        "{}",
        refused.message()
    );

    let waiting = json!([{"name": "debugger", "image": "busybox:test", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]);
    server
        .set_status(
            &made,
            json!({"phase": "Running", "ephemeralContainerStatuses": waiting}),
        )
        .await;
    let log = |container: &str| format!("{PODS}/web/log?container={container}");
    assert_eq!(
        server.get(&log("debugger")).await.message(),
        "container \"debugger\" in pod \"web\" is waiting to start: ContainerCreating"
    );
    assert_eq!(
        server.get(&log("nobody")).await.message(),
        "container nobody is not valid for pod web"
    );
    assert_eq!(
        server.get(&log("second")).await.message(),
        "container \"second\" in pod \"web\" is not available"
    );
    // Without a name the pod's one container is meant, whatever else was added to it.
    assert_eq!(
        server.get(&format!("{PODS}/web/log")).await.message(),
        "container \"main\" in pod \"web\" is not available"
    );
}

#[tokio::test]
async fn a_static_pod_is_changed_in_its_file_alone() {
    let server = Server::start().await;
    let mut body = pod("web", &json!({}));
    body["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    let unbound = server.post(PODS, &body).await;
    assert_eq!(
        unbound.message(),
        "Pod \"web\" is invalid: metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set \
         spec.nodeName if mirror pod annotation is set"
    );
    body["spec"]["nodeName"] = json!("node-1");
    assert_eq!(server.post(PODS, &body).await.code, StatusCode::CREATED);
    for patch in [
        json!({"metadata": {"labels": {"a": "b"}}}),
        json!({"spec": {"containers": [{"name": "main", "image": "busybox:2"}]}}),
    ] {
        let refused = server.patch("web", STRATEGIC, &patch).await;
        assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
        let message = refused.message();
        assert!(
            message.ends_with("Forbidden: static pods are changed in their files alone"),
            "{message}"
        );
    }
    let deleted = server
        .call("DELETE", &format!("{PODS}/web"), "application/json", "")
        .await;
    assert_eq!(deleted.code, StatusCode::OK);
}
