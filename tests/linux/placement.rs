//! Where a pod runs, when it counts as ready, and how it is sent away.

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, signal, uid, with};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn sleeper(name: &str, field: &str, value: Value) -> Value {
    with(pod(name, &[("c", "exec sleep 1000")]), |pod| {
        pod["spec"][field] = value;
    })
}

fn condition<'a>(pod: &'a Value, type_: &str) -> &'a Value {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.find(|told| told["type"] == type_).unwrap_or(&Value::Null)
}

#[test]
fn a_pod_of_another_node_is_left_alone_and_goes_when_it_is_deleted() {
    let agent = Agent::start();
    let made = agent.create(&sleeper("elsewhere", "nodeName", json!("mars")));
    // By the time a later pod runs, this one would have been started too.
    agent.create(&pod("here", &[("c", "exec sleep 1000")]));
    agent.wait_running("here");
    let after = agent.pod("elsewhere");
    assert_eq!(after, made, "nobody has touched it");
    assert_eq!(after["status"]["phase"], "Pending");
    agent.delete("elsewhere", None);
    agent.wait_gone("elsewhere");
    assert_eq!(agent.pod("here")["status"]["phase"], "Running");
}

#[test]
fn a_pod_with_a_scheduler_of_its_own_starts_once_that_one_binds_it() {
    let agent = Agent::start();
    let made = agent.create(&sleeper("web", "schedulerName", json!("mine")));
    assert_eq!(made["spec"]["nodeName"], Value::Null);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node-under-test"},
    });
    let bound = agent.request("POST", &format!("{PODS}/web/binding"), Some(&binding));
    assert_eq!(bound.code, 201, "{bound:?}");
    let running = agent.wait_running("web");
    assert_eq!(running["spec"]["nodeName"], "node-under-test");
    assert_eq!(condition(&running, "PodScheduled")["status"], "True");
}

#[test]
fn a_readiness_gate_is_opened_from_outside_and_stays_open_over_a_restart() {
    let agent = Agent::start();
    let made = agent.create(&sleeper(
        "web",
        "readinessGates",
        json!([{"conditionType": "example.com/lb"}]),
    ));
    let held = agent.wait_pod("web", "ready containers", |pod| {
        condition(pod, "ContainersReady")["status"] == "True"
    });
    assert_eq!(condition(&held, "Ready")["status"], "False");
    assert_eq!(condition(&held, "Ready")["reason"], "ReadinessGatesNotReady");

    let open = json!({"status": {"conditions": [{"type": "example.com/lb", "status": "True"}]}}).to_string();
    let media = "application/merge-patch+json";
    let answer = agent
        .raw_request("PATCH", &format!("{PODS}/web/status"), media, open.as_bytes())
        .unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    agent.wait_pod("web", "Ready", |pod| condition(pod, "Ready")["status"] == "True");

    signal(agent.container_pid(&uid(&made), "c"), "KILL");
    let again = agent.wait_pod("web", "its restart", |pod| {
        container(pod, "c")["restartCount"] == 1 && condition(pod, "Ready")["status"] == "True"
    });
    assert_eq!(condition(&again, "example.com/lb")["status"], "True");
}

#[test]
fn an_evicted_pod_is_told_to_stop_and_goes() {
    let agent = Agent::start();
    agent.create(&sleeper("web", "terminationGracePeriodSeconds", json!(30)));
    agent.wait_running("web");
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web", "namespace": "default"},
        "deleteOptions": {"gracePeriodSeconds": 0},
    });
    let evicted = agent.request("POST", &format!("{PODS}/web/eviction"), Some(&eviction));
    assert_eq!(evicted.code, 201, "{evicted:?}");
    assert_eq!(evicted.json()["status"], "Success");
    agent.wait_gone("web");
    agent.wait_no_leftovers();
}
