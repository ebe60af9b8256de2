//! What a container finds in its environment, and what it waits for.

use serde_json::{Value, json};

use crate::common::{Agent, pod, with};

/// A pod that runs once.
fn once(name: &str, script: &str, change: impl FnOnce(&mut Value)) -> Value {
    with(pod(name, &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        change(p);
    })
}

fn make(agent: &Agent, plural: &str, object: &Value) {
    let answer = agent.request("POST", &format!("/api/v1/namespaces/default/{plural}"), Some(object));
    assert_eq!(answer.code, 201, "{answer:?}");
}

fn config_map(agent: &Agent, name: &str, data: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    make(agent, "configmaps", &object);
}

fn secret(agent: &Agent, name: &str, data: &Value) {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    make(agent, "secrets", &object);
}

fn merge(agent: &Agent, path: &str, change: &Value) {
    let media = "application/merge-patch+json";
    let answer = agent.raw_request("PATCH", path, media, change.to_string().as_bytes());
    let answer = answer.unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
}

/// Its log, once it ended well.
fn ended(agent: &Agent, pod: &Value) -> String {
    agent.create(pod);
    let name = pod["metadata"]["name"].as_str().unwrap();
    agent.wait_phase(name, "Succeeded");
    agent.log(name, "")
}

fn waiting(pod: &Value) -> (&str, &str) {
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let text = |field: &str| waiting[field].as_str().unwrap_or("");
    (text("reason"), text("message"))
}

/// Wait until its container waits for this.
fn wait_config_error(agent: &Agent, name: &str, message: &str) {
    let pod = agent.wait_pod(name, &format!("to lack something: {message}"), |p| {
        waiting(p) == ("CreateContainerConfigError", message)
    });
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[test]
fn variables_from_objects_fields_and_resources() {
    let agent = Agent::start();
    config_map(&agent, "config", &json!({"color": "red", "size": "large"}));
    secret(&agent, "secret", &json!({"color": "hidden", "word": "open sesame"}));
    let log = ended(
        &agent,
        &once("all", "env | sort; echo args \"$0\" \"$1\"", |p| {
            p["metadata"]["labels"] = json!({"app": "shop"});
            p["metadata"]["annotations"] = json!({"team": "blue"});
            let c = &mut p["spec"]["containers"][0];
            c["resources"] = json!({"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}});
            c["args"] = json!(["$(NAME)-$(MISSING)", "$$(NAME)"]);
            c["envFrom"] = json!([
                {"configMapRef": {"name": "config"}},
                {"secretRef": {"name": "secret"}},
                {"prefix": "C_", "configMapRef": {"name": "config"}},
                {"configMapRef": {"name": "absent", "optional": true}},
            ]);
            c["env"] = json!([
                {"name": "size", "value": "small, not $(size)"},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "color"}}},
                {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "word"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "no", "optional": true}}},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['team']"}}},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MILLI", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "SUM", "value": "$(C_color) $(KEY) $(NAME)@$(NODE)"},
            ]);
        }),
    );
    let pod = agent.pod("all");
    let told = |field: &str| pod["status"][field].as_str().unwrap().to_owned();
    for line in [
        "color=hidden",
        "size=small, not large",
        "word=open sesame",
        "C_color=red",
        "C_size=large",
        "KEY=red",
        "WORD=open sesame",
        "NAME=all",
        "APP=shop",
        "TEAM=blue",
        "NODE=node-under-test",
        &format!("IP={}", told("podIP")),
        &format!("HOST={}", told("hostIP")),
        "CPU=2",
        "MILLI=250",
        "MEM=64",
        "SUM=red red all@node-under-test",
        "args all-$(MISSING) $(NAME)",
    ] {
        assert!(log.lines().any(|found| found == line), "{line} in {log}");
    }
    assert!(!log.contains("GONE="), "{log}");
}

#[test]
fn limits_that_are_not_set_are_all_that_the_node_has() {
    let agent = Agent::start();
    let log = ended(
        &agent,
        &once("unlimited", "echo $CPU $MEM $REQUEST", |p| {
            let resource = |resource: &str| json!({"resourceFieldRef": {"resource": resource}});
            p["spec"]["containers"][0]["env"] = json!([
                {"name": "CPU", "valueFrom": resource("limits.cpu")},
                {"name": "MEM", "valueFrom": resource("limits.memory")},
                {"name": "REQUEST", "valueFrom": resource("requests.memory")},
            ]);
        }),
    );
    let node = agent.request("GET", "/api/v1/nodes/node-under-test", None).json();
    let cpus = node["status"]["allocatable"]["cpu"].as_str().unwrap();
    let words: Vec<&str> = log.split_whitespace().collect();
    assert_eq!((words[0], words[2]), (cpus, "0"), "{log}");
    let total = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
    let told: u64 = words[1].parse().unwrap();
    assert!(told > 0 && told <= total * 1024, "{log}");
}

#[test]
fn what_is_missing_is_waited_for_and_then_it_starts_by_itself() {
    let mut agent = Agent::start();
    let from = |kind: &str, name: &str| json!([{"name": "V", "valueFrom": {kind: {"name": name, "key": "k"}}}]);
    let lacks = |name: &str, env: Value| once(name, "echo got $V", |p| p["spec"]["containers"][0]["env"] = env);
    agent.create(&lacks("wants-map", from("configMapKeyRef", "map")));
    agent.create(&lacks("wants-secret", from("secretKeyRef", "safe")));
    agent.create(&once("wants-all", "echo got $k", |p| {
        p["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "safe"}}]);
    }));
    wait_config_error(&agent, "wants-map", "configmap \"map\" not found");
    wait_config_error(&agent, "wants-secret", "secret \"safe\" not found");
    wait_config_error(&agent, "wants-all", "secret \"safe\" not found");

    // The object is there, and its key is not.
    config_map(&agent, "map", &json!({"other": "x"}));
    wait_config_error(&agent, "wants-map", "couldn't find key k in ConfigMap default/map");
    merge(
        &agent,
        "/api/v1/namespaces/default/configmaps/map",
        &json!({"data": {"k": "mapped"}}),
    );
    agent.wait_phase("wants-map", "Succeeded");
    assert_eq!(agent.log("wants-map", ""), "got mapped\n");

    // What appeared while nobody looked is found.
    agent.kill();
    agent.start_again();
    secret(&agent, "safe", &json!({"k": "kept"}));
    for name in ["wants-secret", "wants-all"] {
        agent.wait_phase(name, "Succeeded");
        assert_eq!(agent.log(name, ""), "got kept\n");
    }
}

#[test]
fn a_restarted_container_sees_what_its_objects_say_now() {
    let agent = Agent::start();
    config_map(&agent, "map", &json!({"k": "first"}));
    agent.create(&with(
        pod(
            "again",
            &[(
                "c",
                "echo saw $V; while ! test -e /v/end; do sleep 0.05; done; rm /v/end; exit 1",
            )],
        ),
        |p| {
            p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
            let c = &mut p["spec"]["containers"][0];
            c["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
            c["env"] = json!([{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "k"}}}]);
        },
    ));
    agent.wait_log("again", "", "saw first");
    let path = "/api/v1/namespaces/default/configmaps/map";
    merge(&agent, path, &json!({"data": {"k": "second"}}));
    let pod = agent.pod("again");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    std::fs::write(agent.root().join("pods").join(uid).join("volumes/v/end"), "").unwrap();
    agent.wait_pod("again", "to run again", |p| {
        p["status"]["containerStatuses"][0]["restartCount"] == 1
            && p["status"]["containerStatuses"][0]["state"]["running"].is_object()
    });
    agent.wait_log("again", "", "saw second");
}

#[test]
fn a_part_of_a_volume_is_named_by_variables_and_can_be_repaired() {
    let agent = Agent::start();
    let mounting = |name: &str, annotation: &str, script: &str| {
        once(name, script, |p| {
            p["metadata"]["annotations"] = json!({"part": annotation});
            p["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
            let c = &mut p["spec"]["containers"][0];
            c["env"] = json!([
                {"name": "PART", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['part']"}}},
            ]);
            c["volumeMounts"] = json!([
                {"name": "v", "mountPath": "/part", "subPathExpr": "$(PART)/logs"},
                {"name": "v", "mountPath": "/whole"},
            ]);
        })
    };
    let log = ended(
        &agent,
        &mounting("good", "web", "echo hi > /part/f; cat /whole/web/logs/f"),
    );
    assert_eq!(log, "hi\n");

    agent.create(&mounting("absolute", "/tmp", "true"));
    wait_config_error(
        &agent,
        "absolute",
        "error SubPath `/tmp/logs` must not be an absolute path",
    );
    agent.create(&mounting("upwards", "..", "true"));
    wait_config_error(
        &agent,
        "upwards",
        "unable to provision SubPath `../logs`: must not contain '..'",
    );
    agent.create(&mounting("empty", "", "ls -d /whole/mine/logs"));
    wait_config_error(&agent, "empty", "missing value for PART");
    merge(
        &agent,
        "/api/v1/namespaces/default/pods/empty",
        &json!({"metadata": {"annotations": {"part": "mine"}}}),
    );
    agent.wait_phase("empty", "Succeeded");
    assert_eq!(agent.log("empty", ""), "/whole/mine/logs\n");
}

#[test]
fn a_strict_namespace_takes_strict_pods_alone() {
    let agent = Agent::start();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict",
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let answer = agent.request("POST", "/api/v1/namespaces", Some(&namespace));
    assert_eq!(answer.code, 201, "{answer:?}");
    let pods = "/api/v1/namespaces/strict/pods";
    let mut pod = once("p", "id -u", |_| {});
    let refused = agent.request("POST", pods, Some(&pod));
    assert_eq!(refused.code, 403, "{refused:?}");
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .starts_with("pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": "),
        "{refused:?}"
    );
    pod["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}});
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let made = agent.request("POST", pods, Some(&pod));
    assert_eq!(made.code, 201, "{made:?}");
}
