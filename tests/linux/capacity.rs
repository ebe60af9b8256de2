//! Admission by capacity: a pod is taken whole or turned away whole, whoever asks at the same time.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Agent, BUSYBOX, container, pod, signal, uid, wait_for, with};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod of one container that asks for this much cpu.
fn asking(name: &str, cpu: &str) -> Value {
    with(pod(name, &[("c", "exec sleep 1000")]), |pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    })
}

/// The pod of the story: three containers of 1 GiB each.
fn three() -> Value {
    let names = ["a", "b", "c"].map(|name| (name, "exec sleep 1000"));
    with(pod("three", &names), |pod| {
        for container in pod["spec"]["containers"].as_array_mut().unwrap() {
            container["resources"] = json!({"requests": {"memory": "1Gi"}});
        }
    })
}

fn wait_refused(agent: &Agent, name: &str, reason: &str, why: &str) -> Value {
    let refused = agent.wait_phase(name, "Failed");
    let status = &refused["status"];
    assert_eq!(status["reason"], reason, "{status:#}");
    assert_eq!(status["message"], format!("Pod was rejected: {why}"));
    let statuses = status["containerStatuses"].as_array().into_iter().flatten();
    for told in statuses {
        assert!(
            told["containerID"].is_null() && told["state"]["running"].is_null(),
            "{told}"
        );
    }
    refused
}

/// Whether it runs; else it was turned away.
fn is_taken(agent: &Agent, name: &str) -> bool {
    let settled = agent.wait_pod(name, "to run or to be turned away", |pod| {
        ["Running", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap())
    });
    settled["status"]["phase"] == "Running"
}

fn used(cpu: u32, taken: u32, all: u32) -> String {
    format!("Node didn't have enough resource: cpu, requested: {cpu}, used: {taken}, capacity: {all}")
}

fn node(agent: &Agent) -> Value {
    let nodes = agent.request("GET", "/api/v1/nodes", None).json();
    nodes["items"][0].clone()
}

#[test]
fn of_two_agents_only_the_one_with_room_takes_the_pod_and_takes_it_whole() {
    let large = Agent::start_with(&["--allocatable=memory=3Gi"]);
    let small = Agent::start_with(&["--allocatable=memory=2560Mi"]);
    assert_eq!(node(&large)["status"]["allocatable"]["memory"], "3Gi");
    assert_eq!(node(&small)["status"]["allocatable"]["memory"], "2560Mi");
    large.create(&three());
    let made = small.create(&three());
    let running = large.wait_running("three");
    for name in ["a", "b", "c"] {
        assert!(container(&running, name)["state"]["running"].is_object(), "{name}");
    }
    let why = "Node didn't have enough resource: memory, requested: 3221225472, used: 0, capacity: 2684354560";
    wait_refused(&small, "three", "OutOfmemory", why);
    wait_for("the event", || {
        let events = small.request("GET", "/api/v1/namespaces/default/events", None).json();
        let mut events = events["items"].as_array().unwrap().iter();
        let told = events.find(|event| event["reason"] == "OutOfmemory").cloned();
        let told = told.ok_or("none yet")?;
        assert_eq!((&told["type"], &told["message"]), (&json!("Warning"), &json!(why)));
        assert_eq!(told["involvedObject"]["uid"], made["metadata"]["uid"]);
        Ok(())
    });
    // Nothing of it is there, and none of its parts was ever started.
    assert_eq!(small.leftovers(), Vec::<String>::new());
    assert!(!small.run_dir().join("pods").join(uid(&made)).exists());
    // It is over for good, also for another agent, and what it asked for is free.
    let mut small = small;
    small.stop();
    small.start_again();
    small.create(&with(three(), |pod| {
        pod["metadata"]["name"] = json!("two");
        pod["spec"]["containers"].as_array_mut().unwrap().pop();
    }));
    small.wait_running("two");
    assert_eq!(small.pod("three")["status"]["phase"], "Failed");
    small.delete("three", None);
    small.wait_gone("three");
    small.delete("two", Some(0));
    small.wait_gone("two");
    small.wait_no_leftovers();
}

#[test]
fn of_two_posts_at_once_for_the_last_place_exactly_one_wins() {
    let agent = Agent::start_with(&["--allocatable=cpu=1"]);
    for round in 0..10 {
        std::thread::scope(|scope| {
            for name in ["left", "right"] {
                let agent = &agent;
                scope.spawn(move || agent.create(&asking(name, "600m")));
            }
        });
        let taken = ["left", "right"].map(|name| is_taken(&agent, name));
        assert_eq!(
            taken.iter().filter(|taken| **taken).count(),
            1,
            "round {round}: {taken:?}"
        );
        let refused = if taken[0] { "right" } else { "left" };
        wait_refused(&agent, refused, "OutOfcpu", &used(600, 600, 1000));
        // Whichever goes first: what the winner had is free again.
        for name in ["left", "right"] {
            agent.delete(name, Some(0));
            agent.wait_gone(name);
        }
    }
    agent.wait_no_leftovers();
}

#[test]
fn a_place_is_free_once_its_pod_has_ended_or_is_gone() {
    let agent = Agent::start_with(&["--allocatable=cpu=1,pods=2"]);
    agent.create(&asking("all", "1"));
    agent.wait_running("all");
    agent.create(&asking("late", "1m"));
    wait_refused(&agent, "late", "OutOfcpu", &used(1, 1000, 1000));
    // One that asks for nothing fits; the one after it does not.
    agent.create(&pod("modest", &[("c", "exec sleep 1000")]));
    agent.wait_running("modest");
    agent.create(&pod("third", &[("c", "exec sleep 1000")]));
    let why = "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2";
    wait_refused(&agent, "third", "OutOfpods", why);

    for round in 0..5 {
        agent.delete("all", Some(0));
        agent.wait_gone("all");
        agent.create(&asking("all", "1"));
        assert!(is_taken(&agent, "all"), "round {round}");
    }
    agent.delete("all", Some(0));
    agent.wait_gone("all");

    // What has ended takes nothing, although it is there still.
    agent.create(&with(asking("done", "1"), |pod| {
        pod["spec"]["restartPolicy"] = json!("Never");
        pod["spec"]["containers"][0]["command"] = json!(["/bin/true"]);
    }));
    agent.wait_phase("done", "Succeeded");
    wait_for("its place to be free", || {
        agent.create(&asking("next", "1"));
        if is_taken(&agent, "next") {
            return Ok(());
        }
        agent.delete("next", Some(0));
        agent.wait_gone("next");
        Err("not yet".to_owned())
    });
}

#[test]
fn what_waits_or_is_another_nodes_takes_no_place() {
    let agent = Agent::start_with(&["--allocatable=cpu=1"]);
    agent.create(&with(asking("elsewhere", "1"), |pod| {
        pod["spec"]["nodeName"] = json!("mars");
    }));
    agent.create(&with(asking("waits", "1"), |pod| {
        pod["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    }));
    agent.create(&asking("here", "1"));
    agent.wait_running("here");
    // What waited finds the place taken when its time has come.
    let label = json!({"metadata": {"labels": {"disk": "ssd"}}}).to_string();
    let media = "application/merge-patch+json";
    let node = format!("/api/v1/nodes/{}", node(&agent)["metadata"]["name"].as_str().unwrap());
    let answer = agent.raw_request("PATCH", &node, media, label.as_bytes()).unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    wait_refused(&agent, "waits", "OutOfcpu", &used(1000, 1000, 1000));
    assert_eq!(agent.pod("elsewhere")["status"]["phase"], "Pending");
}

#[test]
fn an_agent_that_is_killed_counts_as_before() {
    let mut agent = Agent::start_with(&["--allocatable=cpu=1"]);
    let names: Vec<String> = (0..6).map(|n| format!("pod-{n}")).collect();
    for round in 0..3 {
        // Killed with some places taken, some sandboxes made, and some pods only posted.
        for name in &names {
            agent.create(&asking(name, "150m"));
        }
        agent.kill();
        agent.start_again();
        for name in &names {
            agent.wait_running(name);
        }
        agent.create(&asking("late", "101m"));
        wait_refused(&agent, "late", "OutOfcpu", &used(101, 900, 1000));
        agent.create(&asking("last", "100m"));
        agent.wait_running("last");
        // And killed while they go.
        for name in &names {
            agent.delete(name, Some(0));
        }
        agent.kill();
        agent.start_again();
        for name in &names {
            agent.wait_gone(name);
        }
        agent.create(&asking("whole", "900m"));
        assert!(is_taken(&agent, "whole"), "round {round}");
        for name in ["late", "last", "whole"] {
            agent.delete(name, Some(0));
            agent.wait_gone(name);
        }
    }
    agent.wait_no_leftovers();
}

/// A file of settings that goes with the test.
struct Settings(PathBuf);

impl Settings {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podd-capacity-{}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn set(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn pods_that_are_there_stay_when_the_machine_shrinks_and_are_counted_when_nobody_did() {
    let settings = Settings::new("allocatable = \"cpu=1\"\n");
    let mut agent = Agent::start_with(&[&format!("--config={}", settings.0.display())]);
    let made = agent.create(&asking("old", "900m"));
    agent.wait_running("old");
    agent.stop();
    settings.set("allocatable = \"cpu=500m\"\n");
    // As an agent before there were claims has left it.
    let forgotten = Command::new("sqlite3")
        .arg(agent.root().join("podd.db"))
        .arg("DELETE FROM claim")
        .output()
        .unwrap();
    assert!(forgotten.status.success(), "{forgotten:?}");
    agent.start_again();
    agent.wait_running("old");
    agent.create(&asking("new", "1m"));
    wait_refused(&agent, "new", "OutOfcpu", &used(1, 900, 500));
    // Nor is it turned away when its sandbox has to be made anew.
    signal(agent.infra_pid(&uid(&made)), "KILL");
    agent.wait_pod("old", "its restart", |pod| {
        container(pod, "c")["restartCount"] == 1 && container(pod, "c")["state"]["running"].is_object()
    });
    agent.delete("old", Some(0));
    agent.wait_gone("old");
    agent.create(&asking("other", "500m"));
    agent.wait_running("other");
}

/// A pod on the host's network with ports of its own.
fn listening(name: &str, port: u16, protocol: &str, ip: Option<&str>) -> Value {
    with(pod(name, &[("c", "exec sleep 1000")]), |pod| {
        pod["spec"]["hostNetwork"] = json!(true);
        let mut claimed = json!({"containerPort": port, "protocol": protocol});
        if let Some(ip) = ip {
            claimed["hostIP"] = json!(ip);
        }
        pod["spec"]["containers"][0]["ports"] = json!([claimed]);
    })
}

#[test]
fn a_port_of_the_machine_is_one_pods_alone() {
    let agent = Agent::start();
    let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    agent.create(&listening("first", 38081, "TCP", None));
    agent.wait_running("first");
    agent.create(&listening("second", 38081, "TCP", None));
    let refused = wait_refused(&agent, "second", "NodePorts", why);
    assert_eq!(refused["spec"]["containers"][0]["ports"][0]["hostPort"], 38081);
    agent.create(&listening("datagrams", 38081, "UDP", None));
    agent.wait_running("datagrams");
    agent.delete("first", Some(0));
    agent.wait_gone("first");
    agent.create(&listening("third", 38081, "TCP", None));
    agent.wait_running("third");
}

fn resize(agent: &Agent, name: &str, cpu: &str) {
    let resources = json!({"requests": {"cpu": cpu}});
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}).to_string();
    let media = "application/strategic-merge-patch+json";
    let answer = agent
        .raw_request("PATCH", &format!("{PODS}/{name}/resize"), media, patch.as_bytes())
        .unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
}

fn pending(pod: &Value) -> Option<(&str, &str)> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let told = conditions.iter().find(|told| told["type"] == "PodResizePending")?;
    Some((told["reason"].as_str()?, told["message"].as_str()?))
}

#[test]
fn a_resize_waits_until_others_leave_room_for_it() {
    let mut agent = Agent::start_with(&["--allocatable=cpu=1"]);
    for name in ["grows", "other"] {
        agent.create(&asking(name, "500m"));
        agent.wait_running(name);
    }
    resize(&agent, "grows", "1100m");
    let never = "Node didn't have enough capacity: cpu, requested: 1100, capacity: 1000";
    agent.wait_pod("grows", "to be told never", |pod| {
        pending(pod) == Some(("Infeasible", never))
    });
    resize(&agent, "grows", "700m");
    let why = used(700, 500, 1000);
    agent.wait_pod("grows", "to wait", |pod| pending(pod) == Some(("Deferred", &*why)));
    // A new agent waits as well, and what waits takes nothing yet.
    agent.kill();
    agent.start_again();
    assert_eq!(pending(&agent.pod("grows")), Some(("Deferred", &*why)));
    agent.delete("other", Some(0));
    agent.wait_gone("other");
    let after = agent.wait_pod("grows", "to have grown", |pod| {
        container(pod, "c")["resources"]["requests"]["cpu"] == "700m" && pending(pod).is_none()
    });
    assert_eq!(container(&after, "c")["restartCount"], 0);
    agent.create(&asking("late", "301m"));
    wait_refused(&agent, "late", "OutOfcpu", &used(301, 700, 1000));
    // What it gives back is free for others.
    resize(&agent, "grows", "200m");
    agent.wait_pod("grows", "to have shrunk", |pod| {
        container(pod, "c")["resources"]["requests"]["cpu"] == "200m"
    });
    wait_for("the rest to be free", || {
        agent.create(&asking("next", "800m"));
        if is_taken(&agent, "next") {
            return Ok(());
        }
        agent.delete("next", Some(0));
        agent.wait_gone("next");
        Err("not yet".to_owned())
    });
}

#[test]
fn the_node_tells_what_is_allocatable_and_kubectl_what_is_taken() {
    let agent = Agent::start_with(&[
        "--system-reserved=cpu=250m,memory=100Mi,ephemeral-storage=1Gi",
        "--max-pods=7",
    ]);
    let status = node(&agent)["status"].clone();
    let (capacity, allocatable) = (&status["capacity"], &status["allocatable"]);
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(capacity["cpu"], cpus.to_string());
    assert_eq!(allocatable["cpu"], format!("{}m", cpus * 1000 - 250));
    assert_eq!((&capacity["pods"], &allocatable["pods"]), (&json!("7"), &json!("7")));
    assert_ne!(capacity["ephemeral-storage"], allocatable["ephemeral-storage"]);

    let mut quick = asking("quick", "100m");
    quick["spec"]["containers"][0]["image"] = json!(BUSYBOX);
    agent.create(&quick);
    agent.wait_running("quick");
    agent.create(&asking("huge", "1000"));
    agent.wait_phase("huge", "Failed");
    let described = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(agent.root().join("admin.kubeconfig"))
        .args(["describe", "node"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&described.stdout);
    assert!(described.status.success(), "{described:?}");
    assert!(text.contains("Non-terminated Pods:          (1 in total)"), "{text}");
    let mut lines = text
        .lines()
        .skip_while(|line| !line.starts_with("Allocated resources:"));
    let taken = lines
        .find(|line| line.trim_start().starts_with("cpu "))
        .unwrap_or_default();
    let taken: Vec<&str> = taken.split_whitespace().take(2).collect();
    assert_eq!(taken, ["cpu", "100m"], "{text}");
}
