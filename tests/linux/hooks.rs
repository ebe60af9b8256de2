//! Hooks: postStart before the container counts as started, preStop before it is told to stop.

use serde_json::json;

use crate::common::{Agent, container, pod, with};

#[test]
fn pre_stop_is_run_before_the_stop_signal() {
    let agent = Agent::start();
    agent.create(&with(
        pod(
            "p",
            &[(
                "c",
                "trap 'echo signal >> /data/order; exit 0' TERM; while :; do sleep 0.1; done",
            )],
        ),
        |p| {
            p["spec"]["volumes"] = json!([{"name": "data", "hostPath": {
                "path": agent.root().join("hooks"), "type": "DirectoryOrCreate"}}]);
            let c = &mut p["spec"]["containers"][0];
            c["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
            c["lifecycle"] = json!({"preStop": {"exec": {"command":
                ["/bin/sh", "-c", "sleep 1; echo hook >> /data/order"]}}});
        },
    ));
    agent.wait_running("p");
    agent.delete("p", Some(20));
    agent.wait_gone("p");
    let order = std::fs::read_to_string(agent.root().join("hooks/order")).unwrap_or_default();
    assert_eq!(order.lines().collect::<Vec<_>>(), ["hook", "signal"]);
}

#[test]
fn the_next_container_begins_after_post_start() {
    let agent = Agent::start();
    agent.create(&with(
        pod(
            "p",
            &[
                ("a", "exec sleep 1000"),
                ("b", "echo b >> /data/order; exec sleep 1000"),
            ],
        ),
        |p| {
            p["spec"]["volumes"] = json!([{"name": "data", "hostPath": {
                "path": agent.root().join("hooks"), "type": "DirectoryOrCreate"}}]);
            for n in 0..2 {
                p["spec"]["containers"][n]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
            }
            p["spec"]["containers"][0]["lifecycle"] = json!({"postStart": {"exec": {"command":
                ["/bin/sh", "-c", "sleep 1; echo hook >> /data/order"]}}});
        },
    ));
    let file = agent.root().join("hooks/order");
    let lines = || std::fs::read_to_string(&file).unwrap_or_default();
    agent.wait_pod("p", "to have begun both", |_| lines().lines().count() == 2);
    assert_eq!(lines().lines().collect::<Vec<_>>(), ["hook", "b"]);
}

#[test]
fn a_failed_post_start_hook_ends_its_container() {
    let agent = Agent::start();
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["terminationGracePeriodSeconds"] = json!(1);
        p["spec"]["containers"][0]["lifecycle"] =
            json!({"postStart": {"exec": {"command": ["/bin/sh", "-c", "exit 7"]}}});
    }));
    let after = agent.wait_pod("p", "to have ended its container", |p| {
        container(p, "c")["restartCount"]
            .as_i64()
            .is_some_and(|count| count >= 1)
    });
    assert!(
        container(&after, "c")["lastState"]["terminated"].is_object(),
        "{after:#}"
    );
}
