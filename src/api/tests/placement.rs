//! Pods on their way to a node and off it: binding, eviction, status, and what is refused by name.

use super::*;
use crate::model::Uid;

impl Server {
    /// The node as the agent makes it, with this spec and these labels beside its own.
    async fn node(&self, spec: Value, label: Option<(&str, &str)>) {
        let mut labels = serde_json::to_value(crate::schedule::own_labels("node-1")).unwrap();
        if let Some((key, value)) = label {
            labels[key] = value.into();
        }
        let node = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-1", "uid": "node-uid", "labels": labels}, "spec": spec});
        let uid = Uid("node-uid".to_owned());
        match self.store.get("Node", "", "node-1").await.unwrap() {
            None => self.store.create("Node", "", "node-1", &uid, node).await.unwrap(),
            Some(old) => {
                let version = old.resource_version;
                self.store.update("Node", "", "node-1", version, node).await.unwrap()
            }
        };
    }

    pub(super) async fn create_with(&self, name: &str, spec: &Value) -> Value {
        let mut pod = pod(name, &json!({}));
        for (field, value) in spec.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        let answer = self.post(PODS, &pod).await;
        assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.text);
        answer.json()
    }

    async fn pod(&self, name: &str) -> Value {
        self.get(&format!("{PODS}/{name}")).await.json()
    }
}

fn binding(name: &str, target: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target})
}

fn to_node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "name": name})
}

#[tokio::test]
async fn a_new_pod_is_bound_and_pending_from_its_first_answer_on() {
    let server = Server::start().await;
    server.node(json!({}), None).await;
    let made = server.create("web", &json!({})).await;
    assert_eq!(made["spec"]["nodeName"], "node-1");
    assert_eq!(
        made["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1},
        ]})
    );
    assert_eq!(made["spec"]["tolerations"].as_array().unwrap().len(), 2);
    // It is one change: a watch sees the pod bound.
    let changes = server.store.changes("Pod", 0, 10).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(*changes[0].object.json, made);
    assert_eq!(server.names("fieldSelector=status.phase=Pending").await, ["web"]);
}

#[tokio::test]
async fn a_pod_that_does_not_fit_says_why() {
    let server = Server::start().await;
    let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    for (node, label, spec, reason) in [
        (
            json!({"unschedulable": true}),
            None,
            json!({}),
            "node(s) were unschedulable",
        ),
        (
            json!({"taints": taint}),
            None,
            json!({}),
            "node(s) had untolerated taint {k: v}",
        ),
        (
            json!({}),
            Some(("disk", "hdd")),
            json!({"nodeSelector": {"disk": "ssd"}}),
            "node(s) didn't match Pod's node affinity/selector",
        ),
    ] {
        server.node(node, label).await;
        let made = server.create_with("web", &spec).await;
        assert_eq!(made["spec"]["nodeName"], Value::Null, "{reason}");
        let told = &made["status"]["conditions"][0];
        assert_eq!(
            (told["type"].as_str(), told["status"].as_str(), told["reason"].as_str()),
            (Some("PodScheduled"), Some("False"), Some("Unschedulable"))
        );
        assert_eq!(
            told["message"],
            format!(
                "0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            )
        );
        // Whoever names the node asks nobody.
        let mut named = spec.clone();
        named["nodeName"] = "node-1".into();
        assert_eq!(server.create_with("named", &named).await["spec"]["nodeName"], "node-1");
        let uids = [&made, &server.pod("named").await].map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned());
        for uid in uids {
            server.store.forget_pod(&Uid(uid)).await.unwrap();
        }
    }
    // A change of the node holds for the very next request.
    server.node(json!({}), Some(("disk", "ssd"))).await;
    let made = server
        .create_with("web", &json!({"nodeSelector": {"disk": "ssd"}}))
        .await;
    assert_eq!(made["spec"]["nodeName"], "node-1");
}

#[tokio::test]
async fn gates_are_taken_away_and_never_added() {
    let server = Server::start().await;
    let gated = server
        .create_with("web", &json!({"schedulingGates": [{"name": "a"}, {"name": "b"}]}))
        .await;
    assert_eq!(gated["status"]["conditions"][0]["reason"], "SchedulingGated");
    let path = format!("{PODS}/web");
    let set = async |gates: Value| {
        let body = json!({"spec": {"schedulingGates": gates}}).to_string();
        server.call("PATCH", &path, "application/merge-patch+json", body).await
    };
    let added = set(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}])).await;
    assert_eq!(added.code, StatusCode::UNPROCESSABLE_ENTITY, "{}", added.text);
    let fewer = set(json!([{"name": "b"}])).await;
    assert_eq!(
        fewer.json()["spec"]["schedulingGates"],
        json!([{"name": "b"}]),
        "{}",
        fewer.text
    );
    assert_eq!(fewer.json()["metadata"]["generation"], 2);
    let none = set(Value::Null).await.json();
    assert_eq!(none["spec"]["schedulingGates"], Value::Null);
}

#[tokio::test]
async fn another_scheduler_binds_its_pods_itself() {
    let server = Server::start().await;
    let waiting = server.create_with("web", &json!({"schedulerName": "mine"})).await;
    assert_eq!(waiting["spec"]["nodeName"], Value::Null);
    assert_eq!(waiting["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    let path = format!("{PODS}/web/binding");

    for (body, code, why) in [
        (
            binding("other", &to_node("node-1")),
            400,
            "name in URL does not match name in Binding object: \"other\"",
        ),
        (
            binding("web", &json!({"kind": "Node"})),
            422,
            "Binding \"web\" is invalid: target.name: Required value",
        ),
        (
            binding("web", &json!({"kind": "Pod", "name": "x"})),
            422,
            "Binding \"web\" is invalid: target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"\"",
        ),
    ] {
        let refused = server.post(&path, &body).await;
        assert_eq!((refused.code.as_u16(), refused.message().as_str()), (code, why));
    }
    let dry = server
        .post(&format!("{path}?dryRun=All"), &binding("web", &to_node("node-1")))
        .await;
    assert_eq!(dry.code, StatusCode::CREATED);
    assert_eq!(server.pod("web").await["spec"]["nodeName"], Value::Null);

    let mut body = binding("web", &to_node("node-1"));
    body["metadata"]["annotations"] = json!({"mine/score": "9"});
    let bound = server.post(&path, &body).await;
    assert_eq!(bound.code, StatusCode::CREATED, "{}", bound.text);
    assert_eq!(
        bound.json(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
    );
    let pod = server.pod("web").await;
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    assert_eq!(pod["metadata"]["annotations"]["mine/score"], "9");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(pod["status"]["conditions"][0]["status"], "True");

    let twice = server.post(&path, &binding("web", &to_node("node-2"))).await;
    assert_eq!(twice.code, StatusCode::CONFLICT);
    assert_eq!(
        twice.message(),
        "Operation cannot be fulfilled on pods \"web\": pod web is already assigned to node \"node-1\""
    );
    // The older path, where the body names the pod.
    server.create_with("two", &json!({"schedulerName": "mine"})).await;
    let answer = server
        .post("/api/v1/namespaces/default/bindings", &binding("two", &to_node("mars")))
        .await;
    assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.text);
    assert_eq!(server.pod("two").await["spec"]["nodeName"], "mars");
    let missing = server
        .post("/api/v1/namespaces/default/bindings", &binding("none", &to_node("x")))
        .await;
    assert_eq!(missing.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_gated_or_ending_pod_is_not_bound() {
    let server = Server::start().await;
    server
        .create_with(
            "gated",
            &json!({"schedulerName": "mine", "schedulingGates": [{"name": "a"}]}),
        )
        .await;
    let refused = server
        .post(&format!("{PODS}/gated/binding"), &binding("gated", &to_node("n")))
        .await;
    assert_eq!(refused.code, StatusCode::CONFLICT);
    server.create_with("ending", &json!({"schedulerName": "mine"})).await;
    let deleted = server
        .call("DELETE", &format!("{PODS}/ending"), "application/json", "")
        .await
        .json();
    // Nothing runs of it that could need a grace.
    assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 0);
    let refused = server
        .post(&format!("{PODS}/ending/binding"), &binding("ending", &to_node("n")))
        .await;
    assert!(
        refused
            .message()
            .contains("is being deleted, cannot be assigned to a host"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn an_eviction_is_a_delete_that_says_why() {
    let server = Server::start().await;
    let made = server.create("web", &json!({})).await;
    let eviction = |options: Value| {
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web", "namespace": "default"},
            "deleteOptions": options})
    };
    let path = format!("{PODS}/web/eviction");
    for dry in [
        server.post(&path, &eviction(json!({"dryRun": ["All"]}))).await,
        server.post(&format!("{path}?dryRun=All"), &eviction(Value::Null)).await,
    ] {
        assert_eq!(dry.code, StatusCode::CREATED, "{}", dry.text);
        assert_eq!(server.pod("web").await, made);
    }
    let other = server
        .post(&path, &eviction(json!({"preconditions": {"uid": "another"}})))
        .await;
    assert_eq!(other.code, StatusCode::CONFLICT);
    let mut wrong = eviction(Value::Null);
    wrong["apiVersion"] = "policy/v1beta1".into();
    assert_eq!(server.post(&path, &wrong).await.code, StatusCode::BAD_REQUEST);
    wrong = eviction(Value::Null);
    wrong["metadata"]["name"] = "other".into();
    assert_eq!(
        server.post(&path, &wrong).await.message(),
        "name in URL does not match name in Eviction object: \"other\""
    );
    assert_eq!(server.pod("web").await, made);

    let version = &made["metadata"]["resourceVersion"];
    let options = json!({"gracePeriodSeconds": 7, "preconditions": {"resourceVersion": version}});
    let evicted = server.post(&path, &eviction(options)).await;
    assert_eq!(evicted.code, StatusCode::CREATED, "{}", evicted.text);
    assert_eq!(evicted.json()["status"], "Success");
    let pod = server.pod("web").await;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
    let told = &pod["status"]["conditions"][1];
    assert_eq!(
        (told["type"].as_str(), told["reason"].as_str(), told["message"].as_str()),
        (
            Some("DisruptionTarget"),
            Some("EvictionByEvictionAPI"),
            Some("Eviction API: evicting")
        )
    );
    let gone = server
        .post(&format!("{PODS}/none/eviction"), &json!({"metadata": {"name": "none"}}))
        .await;
    assert_eq!(gone.code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn clients_write_conditions_of_their_own_and_no_others() {
    let server = Server::start().await;
    let made = server.create("web", &json!({})).await;
    let path = format!("{PODS}/web/status");
    let theirs = json!({"type": "example.com/ready", "status": "True"});
    let mut proposed = made.clone();
    proposed["status"] = json!({"phase": "Failed", "podIP": "1.2.3.4", "conditions": [
        {"type": "PodScheduled", "status": "False"}, theirs]});
    proposed["spec"]["containers"][0]["image"] = "other".into();
    let answer = server
        .call("PUT", &path, "application/json", proposed.to_string())
        .await;
    assert_eq!(answer.code, StatusCode::OK, "{}", answer.text);
    let pod = answer.json();
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["podIP"], Value::Null);
    assert_eq!(
        pod["status"]["conditions"],
        json!([made["status"]["conditions"][0], theirs])
    );
    assert_eq!(pod["spec"], made["spec"]);
    // The controller is to hear of it: a readiness gate may have opened.
    let changes = server.store.changes("Pod", 0, 10).await.unwrap();
    assert_eq!(changes.last().unwrap().origin, crate::store::Origin::Desired);

    let stale = server
        .call("PUT", &path, "application/json", proposed.to_string())
        .await;
    assert_eq!(stale.code, StatusCode::CONFLICT);
    let body = json!([{"op": "remove", "path": "/status/conditions/1"}]).to_string();
    let patched = server.call("PATCH", &path, "application/json-patch+json", body).await;
    assert_eq!(patched.json()["status"], made["status"], "{}", patched.text);
    let many: Vec<Value> = (0..65)
        .map(|n| json!({"type": format!("t{n}"), "status": "True"}))
        .collect();
    let body = json!({"status": {"conditions": many}}).to_string();
    let refused = server.call("PATCH", &path, "application/merge-patch+json", body).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn the_status_of_a_pod_elsewhere_is_written_by_whoever_runs_it() {
    let server = Server::start().await;
    server.create_with("web", &json!({"nodeName": "mars"})).await;
    let body = json!({"status": {"phase": "Running", "podIP": "10.1.1.1"}}).to_string();
    let path = format!("{PODS}/web/status");
    let pod = server
        .call("PATCH", &path, "application/merge-patch+json", body)
        .await
        .json();
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.1.1.1");
}

#[tokio::test]
async fn a_manifest_may_be_sent_again_as_it_was() {
    let server = Server::start().await;
    let manifest = pod("web", &json!({"a": "1"}));
    server.post(PODS, &manifest).await;
    let again = server
        .call("PUT", &format!("{PODS}/web"), "application/json", manifest.to_string())
        .await;
    assert_eq!(again.code, StatusCode::OK, "{}", again.text);
    assert_eq!(again.json()["spec"]["nodeName"], "node-1");
}
