//! Init containers: one after the other, then the others, and what becomes of the pod when one fails.

use serde_json::{Value, json};

use crate::common::{Agent, pod, signal, uid, with};

pub(crate) fn init_status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let statuses = pod["status"]["initContainerStatuses"].as_array();
    statuses
        .and_then(|all| all.iter().find(|status| status["name"] == name))
        .unwrap_or(&Value::Null)
}

/// A pod with init containers and a volume that all of it shares at /data.
pub(crate) fn initialised(name: &str, init: &[(&str, &str)], containers: &[(&str, &str)]) -> Value {
    with(pod(name, containers), |p| {
        let made = pod(name, init);
        p["spec"]["initContainers"] = made["spec"]["containers"].clone();
        p["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        for list in ["initContainers", "containers"] {
            for container in p["spec"][list].as_array_mut().unwrap() {
                container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
            }
        }
    })
}

pub(crate) fn shared(agent: &Agent, uid: &str, file: &str) -> String {
    let file = agent.root().join("pods").join(uid).join("volumes/data").join(file);
    std::fs::read_to_string(file).unwrap_or_default()
}

#[test]
fn init_containers_run_in_order_and_once() {
    let mut agent = Agent::start();
    let made = agent.create(&initialised(
        "p",
        &[("one", "echo one >> /data/order"), ("two", "echo two >> /data/order")],
        &[("c", "echo c >> /data/order; exec sleep 1000")],
    ));
    let id = uid(&made);
    let running = agent.wait_running("p");
    for name in ["one", "two"] {
        let status = init_status(&running, name);
        assert_eq!(status["state"]["terminated"]["reason"], "Completed", "{running:#}");
        assert_eq!(status["ready"], true, "{running:#}");
    }
    agent.wait_pod("p", "to have written its line", |_| {
        shared(&agent, &id, "order").lines().count() == 3
    });
    signal(agent.container_pid(&id, "c"), "KILL");
    agent.wait_pod("p", "to have begun the container again", |_| {
        shared(&agent, &id, "order").lines().count() == 4
    });
    agent.kill();
    agent.start_again();
    agent.wait_running("p");
    let order = shared(&agent, &id, "order");
    assert_eq!(order.lines().collect::<Vec<_>>(), ["one", "two", "c", "c"]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let agent = Agent::start();
    agent.create(&with(initialised("p", &[("i", "exit 3")], &[("c", "exit 0")]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
    }));
    let failed = agent.wait_phase("p", "Failed");
    assert_eq!(
        init_status(&failed, "i")["state"]["terminated"]["exitCode"],
        3,
        "{failed:#}"
    );
    assert!(
        failed["status"]["containerStatuses"][0]["state"]["running"].is_null(),
        "{failed:#}"
    );
}

#[test]
fn a_failed_init_container_is_run_again_until_it_succeeds() {
    let agent = Agent::start();
    agent.create(&initialised(
        "p",
        &[("i", "[ -e /data/once ] || { touch /data/once; exit 1; }")],
        &[("c", "exec sleep 1000")],
    ));
    let running = agent.wait_running("p");
    let status = init_status(&running, "i");
    assert_eq!(status["restartCount"], 1, "{running:#}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1, "{running:#}");
}

#[test]
fn a_pod_that_initialises_says_so_and_can_be_deleted() {
    let agent = Agent::start();
    agent.create(&initialised(
        "p",
        &[("i", "exec sleep 1000")],
        &[("c", "exec sleep 1000")],
    ));
    let pending = agent.wait_pod("p", "to initialise", |p| {
        init_status(p, "i")["state"]["running"].is_object()
    });
    assert_eq!(pending["status"]["phase"], "Pending", "{pending:#}");
    let waiting = &pending["status"]["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "PodInitializing", "{pending:#}");
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    agent.wait_no_leftovers();
}
