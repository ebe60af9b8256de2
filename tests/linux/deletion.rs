//! A pod is deleted: first asked to stop, then made to, and nothing of it is left.

use serde_json::json;

use crate::common::{Agent, pod, signal, uid, wait_dead, wait_for, with};

#[test]
fn a_deleted_pod_leaves_nothing() {
    let agent = Agent::start();
    let made = agent.create(&with(
        pod("p", &[("a", "exec sleep 1000"), ("b", "exec sleep 1000")]),
        |p| {
            p["spec"]["volumes"] =
                json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]);
            p["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}]);
        },
    ));
    agent.wait_running("p");
    let id = uid(&made);
    let pids = [
        agent.infra_pid(&id),
        agent.shim_pid(&id),
        agent.container_pid(&id, "a"),
        agent.container_pid(&id, "b"),
    ];
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    for pid in pids {
        wait_dead(pid);
    }
    agent.wait_no_leftovers();
}

#[test]
fn a_container_that_handles_sigterm_ends_in_its_own_way() {
    let agent = Agent::start();
    agent.create(&with(
        pod(
            "polite",
            &[(
                "c",
                "trap 'echo bye > /out/said; exit 0' TERM; while true; do sleep 0.05; done",
            )],
        ),
        |p| {
            p["spec"]["volumes"] =
                json!([{"name": "out", "hostPath": {"path": agent.dir.join("out"), "type": "DirectoryOrCreate"}}]);
            p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
            p["spec"]["terminationGracePeriodSeconds"] = json!(30);
        },
    ));
    agent.wait_running("polite");
    agent.delete("polite", None);
    agent.wait_gone("polite");
    assert_eq!(std::fs::read_to_string(agent.dir.join("out/said")).unwrap(), "bye\n");
}

#[test]
fn a_container_that_ignores_sigterm_is_killed_when_its_grace_ends() {
    let agent = Agent::start();
    agent.create(&pod(
        "deaf",
        &[("c", "trap '' TERM; echo deaf; while true; do sleep 0.05; done")],
    ));
    agent.wait_log("deaf", "", "deaf");
    let events = agent.watch("/api/v1/namespaces/default/pods?watch=true&timeoutSeconds=60");
    agent.delete("deaf", Some(1));
    let mut last = serde_json::Value::Null;
    for event in events {
        if event["type"] == "DELETED" {
            break;
        }
        last = event["object"].clone();
    }
    assert!(last["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(last["metadata"]["deletionGracePeriodSeconds"], 1);
    let terminated = &last["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["exitCode"], 137, "{last:#}");
    assert_eq!(last["status"]["phase"], "Failed");
}

#[test]
fn a_second_delete_may_shorten_the_grace_but_not_lengthen_it() {
    let agent = Agent::start();
    agent.create(&pod(
        "deaf",
        &[("c", "trap '' TERM; echo deaf; while true; do sleep 0.05; done")],
    ));
    agent.wait_log("deaf", "", "deaf");
    agent.delete("deaf", Some(600));
    let terminating = agent.pod("deaf");
    assert_eq!(terminating["metadata"]["deletionGracePeriodSeconds"], 600);
    agent.delete("deaf", Some(900));
    assert_eq!(agent.pod("deaf")["metadata"]["deletionGracePeriodSeconds"], 600);
    agent.delete("deaf", Some(0));
    agent.wait_gone("deaf");
    agent.wait_no_leftovers();
}

#[test]
fn a_half_deleted_pod_is_finished_by_the_next_agent() {
    let mut agent = Agent::start();
    agent.create(&pod(
        "deaf",
        &[("c", "trap '' TERM; echo deaf; while true; do sleep 0.05; done")],
    ));
    agent.wait_log("deaf", "", "deaf");
    agent.delete("deaf", Some(2));
    agent.kill();
    agent.start_again();
    agent.wait_gone("deaf");
    agent.wait_no_leftovers();
}

#[test]
fn what_the_machine_has_and_the_store_has_not_is_removed() {
    let mut agent = Agent::start();
    let made = agent.create(&pod("orphan", &[("c", "exec sleep 1000")]));
    agent.wait_running("orphan");
    let pid = agent.container_pid(&uid(&made), "c");
    agent.kill();
    for name in ["podd.db", "podd.db-wal", "podd.db-shm"] {
        let _ = std::fs::remove_file(agent.root().join(name));
    }
    agent.start_again();
    wait_dead(pid);
    crate::common::wait_for("the orphan to be gone", || {
        let left: Vec<String> = agent
            .leftovers()
            .into_iter()
            .filter(|l| !l.starts_with("log directory"))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}

#[test]
fn a_pod_is_deletable_before_it_ever_ran() {
    let agent = Agent::start_empty(&[]);
    agent.create(&pod("never", &[("c", "exec sleep 1000")]));
    agent.wait_pod("never", "to miss its image", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            .as_str()
            .is_some_and(|r| r.contains("Image"))
    });
    agent.delete("never", None);
    agent.wait_gone("never");
    agent.wait_no_leftovers();
}

#[test]
fn a_pod_whose_infra_was_killed_in_the_middle_of_its_end_still_ends() {
    let agent = Agent::start();
    let made = agent.create(&pod(
        "deaf",
        &[("c", "trap '' TERM; echo deaf; while true; do sleep 0.05; done")],
    ));
    agent.wait_log("deaf", "", "deaf");
    let infra = agent.infra_pid(&uid(&made));
    agent.delete("deaf", Some(1));
    signal(infra, "KILL");
    agent.wait_gone("deaf");
    agent.wait_no_leftovers();
}

#[test]
fn a_namespace_ends_with_its_pods_though_the_agent_dies_half_way() {
    let mut agent = Agent::start();
    let namespace = json!({"metadata": {"name": "team"}});
    assert_eq!(agent.request("POST", "/api/v1/namespaces", Some(&namespace)).code, 201);
    let polite = with(
        pod(
            "p",
            &[("c", "trap 'sleep 0.3; exit 0' TERM; while true; do sleep 0.05; done")],
        ),
        |p| {
            p["metadata"]["finalizers"] = json!(["example.com/held"]);
        },
    );
    let path = "/api/v1/namespaces/team/pods";
    let made = agent.request("POST", path, Some(&polite));
    assert_eq!(made.code, 201, "{made:?}");
    wait_for("the pod to run", || {
        let pod = agent.request("GET", &format!("{path}/p"), None).json();
        let running = pod["status"]["phase"] == "Running";
        running.then_some(()).ok_or_else(|| pod["status"].to_string())
    });
    let id = uid(&made.json());
    let pids = [agent.infra_pid(&id), agent.container_pid(&id, "c")];
    assert_eq!(agent.request("DELETE", "/api/v1/namespaces/team", None).code, 200);
    agent.kill();
    agent.start_again();
    for pid in pids {
        wait_dead(pid);
    }
    // Nothing of it runs; its finalizer holds it, and it holds its namespace.
    let held = agent.request("GET", &format!("{path}/p"), None);
    assert_eq!(held.code, 200, "{held:?}");
    let refused = agent.request("POST", path, Some(&pod("late", &[("c", "true")])));
    assert_eq!(refused.code, 403, "{refused:?}");
    let free = br#"{"metadata":{"finalizers":null}}"#;
    let freed = agent
        .raw_request("PATCH", &format!("{path}/p"), "application/merge-patch+json", free)
        .unwrap();
    assert_eq!(freed.code, 200, "{freed:?}");
    wait_for("the namespace to go", || {
        let answer = agent.request("GET", "/api/v1/namespaces/team", None);
        (answer.code == 404).then_some(()).ok_or_else(|| format!("{answer:?}"))
    });
    agent.wait_no_leftovers();
}
