//! What dies, what is started again, and what stays as it is.

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, signal, uid, wait_dead, wait_for, with};

/// Everything about a pod that must not change when one of its containers is started again.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    infra: i32,
    shim: i32,
    ip: Value,
    other: i32,
    other_status: Value,
}

fn identity(agent: &Agent, pod: &Value) -> Identity {
    let uid = uid(pod);
    Identity {
        infra: agent.infra_pid(&uid),
        shim: agent.shim_pid(&uid),
        ip: pod["status"]["podIP"].clone(),
        other: agent.container_pid(&uid, "other"),
        other_status: container(pod, "other").clone(),
    }
}

fn duo() -> Value {
    with(
        pod(
            "duo",
            &[
                ("victim", "echo start >> /data/starts; exec sleep 1000"),
                ("other", "exec sleep 1000"),
            ],
        ),
        |p| {
            p["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
            for n in 0..2 {
                p["spec"]["containers"][n]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
            }
        },
    )
}

fn starts(agent: &Agent, uid: &str) -> usize {
    let file = agent.root().join("pods").join(uid).join("volumes/data/starts");
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn a_killed_container_is_started_again_and_its_pod_stays() {
    let agent = Agent::start();
    agent.create(&duo());
    let before = agent.wait_running("duo");
    let id = uid(&before);
    let was = identity(&agent, &before);
    let victim = agent.container_pid(&id, "victim");

    signal(victim, "KILL");
    let after = agent.wait_pod("duo", "to run again", |p| {
        container(p, "victim")["restartCount"] == 1 && container(p, "victim")["state"]["running"].is_object()
    });
    assert_ne!(agent.container_pid(&id, "victim"), victim);
    assert_eq!(identity(&agent, &after), was);
    let last = &container(&after, "victim")["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 137);
    assert_eq!(last["containerID"], container(&before, "victim")["containerID"]);
    wait_for("two starts in the shared volume", || match starts(&agent, &id) {
        2 => Ok(()),
        n => Err(n.to_string()),
    });
}

#[test]
fn an_agent_that_is_killed_and_started_again_restarts_nothing() {
    let mut agent = Agent::start();
    agent.create(&duo());
    let before = agent.wait_running("duo");
    let id = uid(&before);
    let was = (identity(&agent, &before), agent.container_pid(&id, "victim"));
    for _ in 0..3 {
        agent.kill();
        agent.start_again();
        let now = agent.wait_running("duo");
        assert_eq!((identity(&agent, &now), agent.container_pid(&id, "victim")), was);
        assert_eq!(now["status"], before["status"], "nothing about the pod has changed");
    }
    assert_eq!(starts(&agent, &id), 1);
}

#[test]
fn an_exit_while_the_agent_is_down_is_told_truly() {
    let mut agent = Agent::start();
    let made = agent.create(&with(
        pod("p", &[("c", "while [ ! -e /data/go ]; do sleep 0.05; done; exit 42")]),
        |p| {
            p["spec"]["restartPolicy"] = json!("Never");
            p["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
            p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        },
    ));
    agent.wait_running("p");
    let id = uid(&made);
    let pid = agent.container_pid(&id, "c");
    agent.kill();
    std::fs::write(agent.root().join("pods").join(&id).join("volumes/data/go"), "").unwrap();
    wait_dead(pid);
    agent.start_again();
    let ended = agent.wait_phase("p", "Failed");
    assert_eq!(container(&ended, "c")["state"]["terminated"]["exitCode"], 42);
}

#[test]
fn when_infra_dies_the_sandbox_is_made_anew_and_all_containers_with_it() {
    let agent = Agent::start();
    agent.create(&duo());
    let before = agent.wait_running("duo");
    let id = uid(&before);
    let old = agent.infra_pid(&id);
    signal(old, "KILL");
    let after = agent.wait_pod("duo", "to be made anew", |p| {
        ["victim", "other"]
            .iter()
            .all(|name| container(p, name)["restartCount"] == 1 && container(p, name)["state"]["running"].is_object())
    });
    assert_ne!(agent.infra_pid(&id), old);
    assert!(
        agent.sandbox_dir(&id).ends_with("1"),
        "the second sandbox has attempt 1"
    );
    assert_eq!(
        after["status"]["podIP"], before["status"]["podIP"],
        "the address is kept"
    );
    wait_for("the volume to have outlived the sandbox", || {
        match starts(&agent, &id) {
            2 => Ok(()),
            n => Err(n.to_string()),
        }
    });
    assert_eq!(
        std::fs::read_dir(agent.run_dir().join("pods").join(&id))
            .unwrap()
            .count(),
        1,
        "the old sandbox is gone"
    );
}

#[test]
fn when_the_shim_dies_its_pod_is_made_anew_and_the_loss_is_said() {
    let agent = Agent::start();
    agent.create(&duo());
    let before = agent.wait_running("duo");
    let id = uid(&before);
    let pids = [
        agent.infra_pid(&id),
        agent.container_pid(&id, "victim"),
        agent.container_pid(&id, "other"),
    ];
    signal(agent.shim_pid(&id), "KILL");
    let after = agent.wait_pod("duo", "to be made anew", |p| {
        ["victim", "other"]
            .iter()
            .all(|name| container(p, name)["restartCount"] == 1 && container(p, name)["state"]["running"].is_object())
    });
    for pid in pids {
        wait_dead(pid);
    }
    let last = &container(&after, "victim")["lastState"]["terminated"];
    assert_eq!(last["reason"], "ContainerStatusUnknown");
    assert!(last["message"].as_str().is_some_and(|m| !m.is_empty()), "{last}");
}

#[test]
fn a_stopped_shim_holds_up_nobody_else() {
    let agent = Agent::start();
    let made = agent.create(&pod("stuck", &[("c", "exec sleep 1000")]));
    agent.wait_running("stuck");
    let shim = agent.shim_pid(&uid(&made));
    signal(shim, "STOP");
    agent.create(&pod("free", &[("c", "exec sleep 1000")]));
    agent.wait_running("free");
    agent.delete("free", Some(0));
    agent.wait_gone("free");
    signal(shim, "CONT");
    agent.delete("stuck", Some(0));
    agent.wait_gone("stuck");
    agent.wait_no_leftovers();
}

#[test]
fn a_journal_of_another_boot_is_not_believed() {
    let mut agent = Agent::start();
    agent.create(&duo());
    let before = agent.wait_running("duo");
    let id = uid(&before);
    let (shim, infra) = (agent.shim_pid(&id), agent.infra_pid(&id));
    agent.kill();
    // A reboot ends every process and changes the boot id; what lies on a disk stays.
    signal(shim, "KILL");
    wait_dead(shim);
    wait_dead(infra);
    let journal = agent.sandbox_dir(&id).join("journal");
    let text = std::fs::read_to_string(&journal).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(
        &journal,
        text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000"),
    )
    .unwrap();
    let changed = std::process::Command::new("sqlite3")
        .arg(agent.root().join("podd.db"))
        .arg("update sandbox set boot_id = '00000000-0000-0000-0000-000000000000';")
        .output();
    let Ok(changed) = changed else {
        panic!("the sqlite3 command is needed")
    };
    assert!(changed.status.success(), "{changed:?}");
    agent.start_again();
    let after = agent.wait_pod("duo", "to be made anew", |p| {
        ["victim", "other"]
            .iter()
            .all(|name| container(p, name)["restartCount"] == 1 && container(p, name)["state"]["running"].is_object())
    });
    assert_eq!(
        container(&after, "victim")["lastState"]["terminated"]["reason"],
        "ContainerStatusUnknown"
    );
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"]);
}

#[test]
fn back_off_goes_on_where_it_was_when_the_agent_comes_back() {
    let mut agent = Agent::start();
    agent.create(&pod("loop", &[("c", "exit 1")]));
    let waiting = |agent: &Agent| {
        agent.wait_pod("loop", "to back off", |p| {
            container(p, "c")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
    };
    let before = waiting(&agent);
    agent.kill();
    agent.start_again();
    let after = waiting(&agent);
    // On a slow machine the wait is over before the agent is back; that it was waited for is seen below.
    if container(&after, "c")["restartCount"] == container(&before, "c")["restartCount"] {
        assert_eq!(
            container(&after, "c")["lastState"],
            container(&before, "c")["lastState"]
        );
    }
    // In milliseconds.
    let at = |kind: &str, attempt: i64| {
        wait_for(&format!("{kind} {attempt} in the journal"), || {
            let entries = agent.entries(&uid(&after));
            let found = entries.iter().find(|entry| entry["fact"][kind]["attempt"] == attempt);
            let at = found.and_then(|entry| entry["at"].as_i64());
            at.map(|at| at / 1_000_000).ok_or_else(|| format!("{entries:?}"))
        })
    };
    let rested = at("Started", 2) - at("Exited", 1);
    assert!(rested >= 10_000, "{rested} ms");
}

#[test]
fn the_longest_back_off_can_be_set() {
    let agent = Agent::start_with(&["--max-restart-backoff=1s"]);
    agent.create(&pod("loop", &[("c", "exit 1")]));
    let looped = agent.wait_pod("loop", "to have been started five times", |p| {
        container(p, "c")["restartCount"].as_i64().is_some_and(|n| n >= 4)
    });
    let uid = uid(&looped);
    let attempts: Vec<i64> = agent
        .journal(&uid)
        .iter()
        .filter_map(|fact| fact["Started"]["attempt"].as_i64())
        .collect();
    assert!(
        attempts.windows(2).all(|w| w[1] == w[0] + 1),
        "each attempt ran once and in order: {attempts:?}"
    );
}
