//! What the node tells of its machine, and what its taints do to pods.

use serde_json::{Value, json};

use crate::common::{Agent, pod, wait_for, with};

const NODE: &str = "/api/v1/nodes/node-under-test";

fn sleeper(name: &str, tolerations: &Value) -> Value {
    with(pod(name, &[("c", "exec sleep 1000")]), |pod| {
        pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
        pod["spec"]["tolerations"] = tolerations.clone();
    })
}

fn condition<'a>(object: &'a Value, type_: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.find(|told| told["type"] == type_).unwrap_or(&Value::Null)
}

fn taint(agent: &Agent, taints: &Value) {
    let patch = json!({"spec": {"taints": taints}}).to_string();
    let answer = agent.raw_request("PATCH", NODE, "application/merge-patch+json", patch.as_bytes());
    let answer = answer.unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
}

fn wait_event(agent: &Agent, reason: &str, message: &str) {
    wait_for(&format!("event {reason}"), || {
        let events = agent.request("GET", "/api/v1/events", None).json();
        let is_told = |event: &Value| event["reason"] == reason && event["message"] == message;
        let told = events["items"].as_array().unwrap().iter().any(is_told);
        told.then_some(()).ok_or_else(|| events.to_string())
    });
}

#[test]
fn a_machine_that_is_short_of_something_says_so_and_takes_no_new_pods() {
    let mut agent = Agent::start_with(&["--eviction-hard="]);
    agent.create(&sleeper("old", &json!(null)));
    let old = agent.wait_running("old");
    agent.stop();

    // More than any machine has.
    let missed = "--eviction-hard=memory.available<4Ei,nodefs.available<99.999%,pid.available<1G";
    agent.start_again_with(&[missed, "--eviction-pressure-transition-period=0"]);
    let node = agent.request("GET", NODE, None).json();
    for (type_, reason, message) in [
        (
            "MemoryPressure",
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        ),
        ("DiskPressure", "KubeletHasDiskPressure", "kubelet has disk pressure"),
        (
            "PIDPressure",
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
        ),
    ] {
        let told = condition(&node, type_);
        let found = (&told["status"], &told["reason"], &told["message"]);
        assert_eq!(found, (&json!("True"), &json!(reason), &json!(message)), "{node}");
    }
    let taints = node["spec"]["taints"].as_array().unwrap().iter();
    let taints: Vec<_> = taints.map(|taint| (&taint["key"], &taint["effect"])).collect();
    assert_eq!(
        json!(taints),
        json!([
            ["node.kubernetes.io/memory-pressure", "NoSchedule"],
            ["node.kubernetes.io/disk-pressure", "NoSchedule"],
            ["node.kubernetes.io/pid-pressure", "NoSchedule"],
        ])
    );
    wait_event(
        &agent,
        "NodeHasDiskPressure",
        "Node node-under-test status is now: NodeHasDiskPressure",
    );
    let waits = agent.create(&sleeper("waits", &json!(null)));
    let why = condition(&waits, "PodScheduled")["message"]
        .as_str()
        .unwrap_or_default();
    let reason = "node(s) had untolerated taint {node.kubernetes.io/memory-pressure: }";
    assert!(why.contains(reason), "{waits}");
    let tolerant = json!([{"operator": "Exists", "effect": "NoSchedule"}]);
    agent.create(&sleeper("tolerant", &tolerant));
    agent.wait_running("tolerant");
    // What ran before is let be.
    assert_eq!(
        agent.pod("old")["status"]["containerStatuses"],
        old["status"]["containerStatuses"]
    );

    agent.stop();
    agent.start_again_with(&["--eviction-hard=memory.available<1,nodefs.available<0.001%,pid.available<1"]);
    agent.wait_running("waits");
    let node = agent.request("GET", NODE, None).json();
    assert_eq!(condition(&node, "DiskPressure")["status"], "False");
    assert_eq!(node["spec"]["taints"], Value::Null);
    wait_event(
        &agent,
        "NodeHasNoDiskPressure",
        "Node node-under-test status is now: NodeHasNoDiskPressure",
    );
}

#[test]
fn a_taint_drives_pods_off_when_their_time_has_come_though_the_agent_dies_meanwhile() {
    let mut agent = Agent::start();
    let toleration =
        |seconds: u32| json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    agent.create(&sleeper("plain", &json!(null)));
    agent.create(&sleeper("soon", &toleration(4)));
    agent.create(&sleeper("late", &toleration(3600)));
    for name in ["plain", "soon", "late"] {
        agent.wait_running(name);
    }
    taint(&agent, &json!([{"key": "k", "value": "v", "effect": "NoExecute"}]));
    agent.wait_gone("plain");
    wait_event(&agent, "TaintManagerEviction", "Marking for deletion Pod default/plain");
    agent.kill();
    agent.start_again();
    agent.wait_gone("soon");
    wait_event(&agent, "TaintManagerEviction", "Marking for deletion Pod default/soon");

    taint(&agent, &json!(null));
    wait_event(
        &agent,
        "TaintManagerEviction",
        "Cancelling deletion of Pod default/late",
    );
    let late = agent.pod("late");
    assert_eq!(late["status"]["phase"], "Running");
    assert_eq!(late["metadata"]["deletionTimestamp"], Value::Null);
}
