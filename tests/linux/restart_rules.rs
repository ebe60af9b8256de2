//! Containers with a restart policy and rules of their own, and the restart of all containers of a pod in place: the
//! stories of Kubernetes' own `container_restart_policy.go`, and what a user sees beside them.

use serde_json::{Value, json};

use super::init::{init_status, initialised, shared};
use crate::common::{Agent, container, pod, uid, with};

/// A pod with one container that ends at once, with a policy of its own and a rule for code 42 if it is to have them.
fn one(policy: &str, own: Option<&str>, has_rule: bool, script: &str) -> Value {
    with(pod("p", &[("main", script)]), |p| {
        p["spec"]["restartPolicy"] = json!(policy);
        let main = &mut p["spec"]["containers"][0];
        if let Some(own) = own {
            main["restartPolicy"] = json!(own);
        }
        if has_rule {
            main["restartPolicyRules"] = rule("Restart");
        }
    })
}

fn rule(action: &str) -> Value {
    json!([{"action": action, "exitCodes": {"operator": "In", "values": [42]}}])
}

/// Gives this container of the list a rule that restarts all on code 42.
fn restarts_all(p: &mut Value, list: &str, index: usize, own: &str) {
    let source = &mut p["spec"][list][index];
    source["restartPolicy"] = json!(own);
    source["restartPolicyRules"] = rule("RestartAllContainers");
}

fn status_of<'a>(p: &'a Value, name: &str) -> &'a Value {
    let init = init_status(p, name);
    if init.is_null() { container(p, name) } else { init }
}

fn condition<'a>(p: &'a Value, type_: &str) -> &'a Value {
    let conditions = p["status"]["conditions"].as_array();
    conditions
        .and_then(|all| all.iter().find(|condition| condition["type"] == type_))
        .unwrap_or(&Value::Null)
}

/// Waits until each of these was restarted so often and those that do not end run.
fn wait_restarted(agent: &Agent, counts: &[(&str, u64)]) -> Value {
    agent.wait_pod("p", "to have begun anew", |p| {
        let all_began = counts.iter().all(|(name, count)| {
            let status = status_of(p, name);
            let is_done = status["state"]["terminated"]["reason"] == "Completed";
            status["restartCount"] == *count && (is_done || status["state"]["running"].is_object())
        });
        all_began && p["status"]["phase"] == "Running"
    })
}

#[test]
fn policies_and_rules_of_one_container_decide_whether_it_restarts() {
    let agent = Agent::start();
    for (pod, restarts) in [
        (one("Never", Some("Never"), true, "exit 42"), true),
        (one("Never", Some("Never"), true, "exit 1"), false),
        (one("Always", Some("Never"), false, "exit 1"), false),
        (one("Never", Some("Always"), false, "exit 1"), true),
        (one("Always", None, false, "exit 1"), true),
    ] {
        agent.create(&pod);
        if restarts {
            let p = agent.wait_pod("p", "to restart its container", |p| {
                container(p, "main")["restartCount"].as_u64() > Some(0)
            });
            assert_eq!(p["status"]["phase"], "Running", "{pod:#}");
        } else {
            let p = agent.wait_pod("p", "to end", |p| p["status"]["phase"] == "Failed");
            assert_eq!(container(&p, "main")["restartCount"], 0, "{pod:#}");
            assert_eq!(container(&p, "main")["state"]["terminated"]["exitCode"], 1, "{pod:#}");
        }
        assert!(condition(&agent.pod("p"), "AllContainersRestarting").is_null());
        agent.delete("p", Some(0));
        agent.wait_gone("p");
    }
}

#[test]
fn an_end_of_a_container_restarts_all_in_the_same_sandbox() {
    let mut agent = Agent::start();
    let pod = with(
        initialised(
            "p",
            &[
                ("init", "echo init >> /data/order"),
                ("sidecar", "echo sidecar >> /data/order; exec sleep 1000"),
            ],
            &[
                (
                    "source",
                    "if [ -f /data/once ]; then exec sleep 1000; fi; until [ -f /data/go ]; do sleep 0.05; done
                     touch /data/once; exit 42",
                ),
                ("regular", "exec sleep 1000"),
                ("done", "exit 0"),
            ],
        ),
        |p| {
            p["spec"]["restartPolicy"] = json!("Never");
            p["spec"]["initContainers"][1]["restartPolicy"] = json!("Always");
            let hook = json!({"preStop": {"exec": {"command": ["touch", "/data/hook"]}}});
            p["spec"]["containers"][1]["lifecycle"] = hook;
            restarts_all(p, "containers", 0, "Never");
        },
    );
    let id = uid(&agent.create(&pod));
    let before = agent.wait_pod("p", "to have begun and one of it to be done", |p| {
        let runs = |name| status_of(p, name)["state"]["running"].is_object();
        let is_done = container(p, "done")["state"]["terminated"]["exitCode"] == 0;
        runs("sidecar") && runs("source") && runs("regular") && is_done
    });
    assert_eq!(
        condition(&before, "AllContainersRestarting")["status"],
        "False",
        "{before:#}"
    );
    let (infra, shim) = (agent.infra_pid(&id), agent.shim_pid(&id));
    let watched = agent.watch("/api/v1/namespaces/default/pods?watch=1&resourceVersion=0");
    std::fs::write(agent.root().join("pods").join(&id).join("volumes/data/go"), "").unwrap();

    let mut told = watched.map(|event| condition(&event["object"], "AllContainersRestarting").clone());
    let began = told.find(|told| told["status"] == "True");
    let began = began.expect("an endless watch");
    assert_eq!(began["reason"], "RestartAllContainersStarted");
    assert_eq!(began["message"], "container exited with restart policy rule");

    let names = ["init", "sidecar", "source", "regular", "done"];
    let after = wait_restarted(&agent, &names.map(|name| (name, 1)));
    assert_eq!((agent.infra_pid(&id), agent.shim_pid(&id)), (infra, shim));
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"]);
    for name in names {
        let last = &status_of(&after, name)["lastState"]["terminated"];
        assert_eq!(last["reason"], "RestartingAllContainers", "{name} in {after:#}");
        assert_eq!(last["exitCode"], 137, "{name} in {after:#}");
    }
    assert_eq!(
        condition(&after, "AllContainersRestarting")["status"],
        "False",
        "{after:#}"
    );
    assert_eq!(condition(&after, "Initialized")["status"], "True", "{after:#}");
    assert_eq!(
        shared(&agent, &id, "order"),
        "init\nsidecar\ninit\nsidecar\n",
        "the volume stays"
    );
    let hook = agent.root().join("pods").join(&id).join("volumes/data/hook");
    assert!(!hook.exists(), "no hook is run");

    // Another agent finds nothing to do.
    agent.kill();
    agent.start_again();
    let later = wait_restarted(&agent, &names.map(|name| (name, 1)));
    for name in ["sidecar", "source", "regular"] {
        assert_eq!(status_of(&later, name), status_of(&after, name));
    }
    assert_eq!(agent.infra_pid(&id), infra);
}

#[test]
fn a_sidecar_and_an_init_container_restart_all_too() {
    let agent = Agent::start();
    let once = "if [ -f /data/once ]; then exec sleep 1000; fi; touch /data/once; sleep 1; exit 42";
    let pod = with(
        initialised(
            "p",
            &[("init", "exit 0"), ("sidecar", "exec sleep 1000"), ("source", once)],
            &[("regular", "exec sleep 1000")],
        ),
        |p| {
            p["spec"]["restartPolicy"] = json!("Never");
            p["spec"]["initContainers"][1]["restartPolicy"] = json!("Always");
            restarts_all(p, "initContainers", 2, "Always");
        },
    );
    agent.create(&pod);
    wait_restarted(&agent, &[("init", 1), ("sidecar", 1), ("source", 1), ("regular", 1)]);
    agent.delete("p", Some(0));
    agent.wait_gone("p");

    let pod = with(
        initialised(
            "p",
            &[
                ("sidecar", "exec sleep 1000"),
                ("init", "exit 0"),
                (
                    "source",
                    "if [ -f /data/once ]; then exit 0; fi; touch /data/once; exit 42",
                ),
            ],
            &[("regular", "exec sleep 1000")],
        ),
        |p| {
            p["spec"]["restartPolicy"] = json!("Never");
            p["spec"]["initContainers"][0]["restartPolicy"] = json!("Always");
            restarts_all(p, "initContainers", 2, "Never");
        },
    );
    agent.create(&pod);
    wait_restarted(&agent, &[("sidecar", 1), ("init", 1), ("source", 1), ("regular", 0)]);
}

#[test]
fn what_was_killed_to_restart_all_restarts_nothing_in_its_turn() {
    let agent = Agent::start();
    let pod = with(
        initialised(
            "p",
            &[],
            &[
                (
                    "source",
                    "if [ -f /data/once ]; then exec sleep 1000; fi; touch /data/once; sleep 1; exit 42",
                ),
                ("regular", "exec sleep 1000"),
            ],
        ),
        |p| {
            p["spec"]["restartPolicy"] = json!("Never");
            restarts_all(p, "containers", 0, "Never");
            restarts_all(p, "containers", 1, "Never");
            // How it is killed is among the codes of its own rule.
            p["spec"]["containers"][1]["restartPolicyRules"][0]["exitCodes"]["values"] = json!([42, 137]);
        },
    );
    agent.create(&pod);
    wait_restarted(&agent, &[("source", 1), ("regular", 1)]);
}

#[test]
fn a_container_that_restarted_before_restarts_all() {
    let agent = Agent::start();
    let pod = with(
        initialised(
            "p",
            &[],
            &[
                (
                    "source",
                    "if [ -f /data/two ]; then exec sleep 1000; fi
                     if [ -f /data/one ]; then touch /data/two; exit 42; fi; touch /data/one; exit 1",
                ),
                ("regular", "exec sleep 1000"),
            ],
        ),
        |p| restarts_all(p, "containers", 0, "Always"),
    );
    agent.create(&pod);
    wait_restarted(&agent, &[("source", 2), ("regular", 1)]);
}
