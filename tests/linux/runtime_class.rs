//! Containers that an OCI runtime's command line makes, as a pod's runtime class asks for.

use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, signal, uid, wait_dead, wait_for, with};

const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn make_class(agent: &Agent, class: &Value) {
    let made = agent.request("POST", CLASSES, Some(class));
    assert_eq!(made.code, 201, "{made:?}");
}

/// A class of the handler's own name.
fn class(handler: &str) -> Value {
    json!({"metadata": {"name": handler}, "handler": handler})
}

fn of_class(name: &str, class: &str, containers: &[(&str, &str)]) -> Value {
    with(pod(name, containers), |p| p["spec"]["runtimeClassName"] = json!(class))
}

/// What the runtime made for an attempt.
fn bundle_exists(agent: &Agent, id: &str, attempt: &str) -> bool {
    agent.sandbox_dir(id).join(attempt).join("bundle/config.json").exists()
}

fn exec(agent: &Agent, pod: &str, command: &[&str]) -> std::process::Output {
    let kubeconfig = agent.root().join("admin.kubeconfig");
    Command::new("kubectl")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(["exec", pod, "--"])
        .args(command)
        .output()
        .unwrap()
}

/// The story of a pod under one runtime, from its start to nothing being left of it.
fn a_pod_lives_under(handler: &str) {
    let mut agent = Agent::start();
    make_class(&agent, &class(handler));
    let script = "echo out; echo err >&2; hostname; cat /data/sub/file; trap 'echo bye; exit 7' TERM; \
                  echo ready; while true; do sleep 0.05; done";
    let made = agent.create(&with(
        of_class("p", handler, &[("c", script), ("other", "exec sleep 1000")]),
        |p| {
            std::fs::create_dir_all(agent.dir.join("data/part")).unwrap();
            std::fs::write(agent.dir.join("data/part/file"), "of the part\n").unwrap();
            p["spec"]["volumes"] = json!([{"name": "d", "hostPath": {"path": agent.dir.join("data")}}]);
            p["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "d", "mountPath": "/data/sub", "subPath": "part"}]);
            p["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
        },
    ));
    let running = agent.wait_running("p");
    let id = uid(&made);
    assert!(bundle_exists(&agent, &id, "c-0"), "made by {handler}");
    // Two streams are read, in no order between them.
    for line in ["ready\n", "out\n", "err\n", "p\n", "of the part\n"] {
        agent.wait_log("p", "container=c", line);
    }
    let first = agent.container_pid(&id, "c");
    let cgroup = std::fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap();
    assert!(
        cgroup.contains(&format!("/{}/burstable/pod{id}/c-0", agent.cgroup_root())),
        "{cgroup}"
    );

    let said = exec(&agent, "p", &["sh", "-c", "echo $PPID; cat /proc/1/comm"]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "0\nsh\n",
        "it has joined the container"
    );

    // An agent that is started again finds it as it was.
    agent.kill();
    agent.start_again();
    assert_eq!(agent.container_pid(&id, "c"), first);

    let (infra, ip) = (agent.infra_pid(&id), running["status"]["podIP"].clone());
    signal(first, "KILL");
    let again = agent.wait_pod("p", "to run again", |p| {
        container(p, "c")["restartCount"] == 1 && container(p, "c")["state"]["running"].is_object()
    });
    assert_eq!((agent.infra_pid(&id), &again["status"]["podIP"]), (infra, &ip));
    assert_eq!(container(&again, "other")["restartCount"], 0);
    let last = &container(&again, "c")["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(137), &json!("Error")));

    agent.wait_log("p", "container=c", "ready");
    signal(agent.container_pid(&id, "c"), "TERM");
    let ended = agent.wait_pod("p", "to have ended with 7", |p| {
        container(p, "c")["lastState"]["terminated"]["exitCode"] == 7
    });
    assert_eq!(uid(&ended), id);

    let pids = [
        agent.infra_pid(&id),
        agent.shim_pid(&id),
        agent.container_pid(&id, "other"),
    ];
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    for pid in pids {
        wait_dead(pid);
    }
    agent.wait_no_leftovers();
}

#[test]
fn a_pod_lives_under_runc() {
    a_pod_lives_under("runc");
}

#[test]
fn a_pod_lives_under_crun() {
    a_pod_lives_under("crun");
}

#[test]
fn ends_and_failures_are_told_as_of_podds_own_runtime() {
    let agent = Agent::start();
    for handler in ["runc", "crun"] {
        make_class(&agent, &class(handler));
        let name = format!("once-{handler}");
        agent.create(&with(
            of_class(
                &name,
                handler,
                &[
                    ("quick", "exit 7"),
                    ("good", "echo done"),
                    ("never", "true"),
                    ("big", "tail /dev/zero"),
                ],
            ),
            |p| {
                p["spec"]["restartPolicy"] = json!("Never");
                p["spec"]["containers"][2]["command"] = json!(["/nope"]);
                p["spec"]["containers"][3]["resources"] = json!({"limits": {"memory": "16Mi"}});
            },
        ));
        let ended = agent.wait_phase(&name, "Failed");
        let state = |name: &str| container(&ended, name)["state"]["terminated"].clone();
        assert_eq!(state("quick")["exitCode"], 7, "{ended:#}");
        assert_eq!(
            (&state("good")["exitCode"], &state("good")["reason"]),
            (&json!(0), &json!("Completed"))
        );
        assert_eq!(
            (&state("big")["exitCode"], &state("big")["reason"]),
            (&json!(137), &json!("OOMKilled"))
        );
        let message = state("never")["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("/nope") && message.contains(handler), "{ended:#}");
        assert_eq!(agent.log(&name, "container=good"), "done\n");
        agent.delete(&name, Some(0));
        agent.wait_gone(&name);
    }
    agent.wait_no_leftovers();
}

#[test]
fn a_terminal_comes_from_the_runtime() {
    let agent = Agent::start();
    for handler in ["runc", "crun"] {
        make_class(&agent, &class(handler));
        let name = format!("tty-{handler}");
        let script = "test -t 1 && echo is a terminal; exec sleep 1000";
        agent.create(&with(of_class(&name, handler, &[("c", script)]), |p| {
            p["spec"]["containers"][0]["tty"] = json!(true);
        }));
        agent.wait_log(&name, "", "is a terminal");
    }
}

#[test]
fn a_pod_whose_shim_is_killed_is_made_anew() {
    let agent = Agent::start();
    make_class(&agent, &class("runc"));
    let made = agent.create(&of_class("p", "runc", &[("c", "exec sleep 1000")]));
    agent.wait_running("p");
    let id = uid(&made);
    let pids = [agent.infra_pid(&id), agent.container_pid(&id, "c")];
    signal(agent.shim_pid(&id), "KILL");
    for pid in pids {
        wait_dead(pid);
    }
    wait_for("a new container in a new sandbox", || {
        let pod = agent.pod("p");
        let runs = container(&pod, "c")["state"]["running"].is_object() && container(&pod, "c")["restartCount"] == 1;
        if runs { Ok(()) } else { Err(format!("{pod:#}")) }
    });
    agent.delete("p", Some(0));
    agent.wait_gone("p");
    agent.wait_no_leftovers();
}

#[test]
fn a_class_that_is_not_there_refuses_its_pods() {
    let agent = Agent::start_empty(&[]);
    let refused = agent.request("POST", PODS, Some(&of_class("p", "gone", &[("c", "true")])));
    assert_eq!(refused.code, 403, "{refused:?}");
    assert_eq!(
        refused.json()["message"],
        "pods \"p\" is forbidden: pod rejected: RuntimeClass \"gone\" not found"
    );
}

#[test]
fn a_handler_that_is_not_served_is_named_until_it_is() {
    let agent = Agent::start();
    make_class(&agent, &class("kata"));
    agent.create(&of_class("p", "kata", &[("c", "exec sleep 1000")]));
    wait_for("an event that names the handler", || {
        let events = agent.request("GET", "/api/v1/namespaces/default/events", None).json();
        let told = events["items"].as_array().unwrap().iter().any(|event| {
            event["reason"] == "FailedCreatePodSandBox"
                && event["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("RuntimeHandler \"kata\" not supported"))
        });
        if told { Ok(()) } else { Err(format!("{events:#}")) }
    });
    assert_eq!(agent.pod("p")["status"]["phase"], "Pending");
    agent.delete("p", Some(0));
    agent.wait_gone("p");
}

#[test]
fn a_configured_handler_is_used_and_podds_own_has_a_name_too() {
    let agent = Agent::start_with(&["--runtime=quick=/usr/bin/crun"]);
    make_class(&agent, &class("quick"));
    make_class(&agent, &class("podd"));
    for (name, class, by_runtime) in [("a", "quick", true), ("b", "podd", false)] {
        let made = agent.create(&of_class(name, class, &[("c", "exec sleep 1000")]));
        agent.wait_running(name);
        assert_eq!(bundle_exists(&agent, &uid(&made), "c-0"), by_runtime, "{class}");
    }
}

#[test]
fn the_overhead_of_a_class_is_in_the_pods_cgroup() {
    let agent = Agent::start();
    let overhead = json!({"podFixed": {"memory": "16Mi", "cpu": "250m"}});
    make_class(
        &agent,
        &json!({"metadata": {"name": "heavy"}, "handler": "podd", "overhead": overhead}),
    );
    let made = agent.create(&with(of_class("p", "heavy", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
    }));
    assert_eq!(made["spec"]["overhead"], overhead["podFixed"]);
    agent.wait_running("p");
    let cgroup = format!("{}/pod{}", agent.cgroup_root(), uid(&made));
    let read = |v1: &str, v2: &str| {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let (controller, file) = v1.split_once('/').unwrap();
        std::fs::read_to_string(root.join(controller).join(&cgroup).join(file))
            .or_else(|_| std::fs::read_to_string(root.join(&cgroup).join(v2)))
            .unwrap()
    };
    assert_eq!(
        read("memory/memory.limit_in_bytes", "memory.max").trim(),
        (80 << 20).to_string()
    );
    let quota = read("cpu/cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split_whitespace().next(), Some("75000"));
}

#[test]
fn processes_and_the_hosts_network_are_shared_under_a_runtime_too() {
    let agent = Agent::start();
    for handler in ["runc", "crun"] {
        make_class(&agent, &class(handler));
        let shared = format!("shared-{handler}");
        let looks = "until ps | grep -q '[s]leep 12345'; do sleep 0.05; done; echo seen; exec sleep 1000";
        agent.create(&with(
            of_class(&shared, handler, &[("a", "exec sleep 12345"), ("b", looks)]),
            |p| p["spec"]["shareProcessNamespace"] = json!(true),
        ));
        let host = format!("host-{handler}");
        agent.create(&with(
            of_class(&host, handler, &[("c", "ip link; exec sleep 1000")]),
            |p| {
                p["spec"]["hostNetwork"] = json!(true);
            },
        ));
        agent.wait_log(&shared, "container=b", "seen");
        agent.wait_log(&host, "", &agent.bridge());
        for name in [shared, host] {
            agent.delete(&name, Some(0));
            agent.wait_gone(&name);
        }
    }
    agent.wait_no_leftovers();
}

#[test]
fn a_runtime_whose_containers_cannot_be_joined_is_asked_to_signal_and_refuses_exec() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("vm-runtime");
    // It says that it is another one.
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && { echo vm-runtime 1.0; exit; }\n\
                  for word; do echo \"$word\"; done >> \"${0%/*}/asked\"\nexec runc \"$@\"\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let agent = Agent::start_with(&[&format!("--runtime=vm={}", program.display())]);
    make_class(&agent, &class("vm"));
    let script = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done";
    agent.create(&with(of_class("p", "vm", &[("c", script)]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
    }));
    agent.wait_log("p", "", "ready");
    let refused = exec(&agent, "p", &["true"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("runtime handler \"vm\""),
        "{said}"
    );
    agent.delete("p", Some(30));
    agent.wait_gone("p");
    let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
    assert!(asked.contains("kill\nc-0\n15\n"), "{asked}");
    agent.wait_no_leftovers();
}
