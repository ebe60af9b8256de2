//! Sidecars: begun before the others, started again always, told to stop last, never deciding what the pod came to.

use serde_json::{Value, json};

use super::init::{init_status, initialised, shared};
use crate::common::{Agent, signal, uid, with};

fn sidecars(mut pod: Value, names: &[&str]) -> Value {
    for container in pod["spec"]["initContainers"].as_array_mut().unwrap() {
        if names.iter().any(|name| container["name"] == *name) {
            container["restartPolicy"] = json!("Always");
        }
    }
    pod
}

#[test]
fn a_sidecar_runs_beside_the_others_and_decides_nothing() {
    let agent = Agent::start();
    let made = with(
        initialised(
            "job",
            &[("side", "trap 'exit 9' TERM; while :; do sleep 0.1; done")],
            &[("main", "exit 0")],
        ),
        |p| p["spec"]["restartPolicy"] = json!("Never"),
    );
    agent.create(&sidecars(made, &["side"]));
    let ended = agent.wait_phase("job", "Succeeded");
    let code = &init_status(&ended, "side")["state"]["terminated"]["exitCode"];
    assert_eq!(*code, 9, "{ended:#}");
}

#[test]
fn a_sidecar_is_started_again_even_in_a_pod_that_never_restarts() {
    let agent = Agent::start();
    let made = with(
        initialised("p", &[("side", "exec sleep 1000")], &[("main", "exec sleep 1000")]),
        |p| p["spec"]["restartPolicy"] = json!("Never"),
    );
    let made = agent.create(&sidecars(made, &["side"]));
    agent.wait_running("p");
    let id = uid(&made);
    let main = agent.container_pid(&id, "main");
    signal(agent.container_pid(&id, "side"), "KILL");
    agent.wait_pod("p", "to have its sidecar back", |p| {
        let status = init_status(p, "side");
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    assert_eq!(agent.container_pid(&id, "main"), main);
}

#[test]
fn sidecars_are_told_to_stop_last_and_in_reverse() {
    let agent = Agent::start();
    let stops = |name: &str| format!("trap 'echo {name} >> /data/stops; exit 0' TERM; while :; do sleep 0.1; done");
    let (first, second, main) = (stops("first"), stops("second"), stops("main"));
    let made = with(
        initialised("p", &[("first", &first), ("second", &second)], &[("main", &main)]),
        |p| {
            p["spec"]["volumes"][0] = json!({"name": "data", "hostPath": {
                "path": agent.root().join("stops"), "type": "DirectoryOrCreate"}});
        },
    );
    let made = agent.create(&sidecars(made, &["first", "second"]));
    agent.wait_running("p");
    agent.delete("p", Some(20));
    agent.wait_gone("p");
    let stops = std::fs::read_to_string(agent.root().join("stops/stops")).unwrap_or_default();
    assert_eq!(stops.lines().collect::<Vec<_>>(), ["main", "second", "first"]);
    assert!(shared(&agent, &uid(&made), "stops").is_empty());
}
