//! Other limits for containers that run.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, uid, wait_for, with};

fn limited(name: &str, script: &str, cpu: &str, memory: &str) -> Value {
    with(pod(name, &[("c", script)]), |pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": cpu, "memory": memory}});
    })
}

fn resize(agent: &Agent, name: &str, cpu: &str, memory: &str) {
    let limits = json!({"cpu": cpu, "memory": memory});
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": limits, "requests": limits}}]}});
    let answer = agent
        .raw_request(
            "PATCH",
            &format!("/api/v1/namespaces/default/pods/{name}/resize"),
            "application/strategic-merge-patch+json",
            patch.to_string().as_bytes(),
        )
        .unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
}

/// The directory of a process's cgroup in the hierarchy that has this controller, and whether that is v2.
fn cgroup(pid: i32, controller: &str) -> (PathBuf, bool) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let entries: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(3, ':').collect()).collect();
    let has = |entry: &&Vec<&str>| entry[1].split(',').any(|name| name == controller);
    let root = Path::new("/sys/fs/cgroup");
    match entries.iter().find(has) {
        Some(entry) => (root.join(entry[1]).join(entry[2].trim_start_matches('/')), false),
        None => (root.join(entries[0][2].trim_start_matches('/')), true),
    }
}

/// cpu microseconds in each 100 ms and bytes of memory, of the container and of its pod.
fn limits(pid: i32) -> [String; 4] {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let (cpu, cpu_v2) = cgroup(pid, "cpu");
    let (memory, memory_v2) = cgroup(pid, "memory");
    let cpu_file = if cpu_v2 { "cpu.max" } else { "cpu.cfs_quota_us" };
    let memory_file = if memory_v2 {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    };
    [
        read(cpu.join(cpu_file)),
        read(memory.join(memory_file)),
        read(cpu.parent().unwrap().join(cpu_file)),
        read(memory.parent().unwrap().join(memory_file)),
    ]
}

fn wait_limits(pid: i32, cpu: &str, memory: &str) {
    wait_for("the limits to be written", || {
        let found = limits(pid);
        if found == [cpu, memory, cpu, memory] {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

#[test]
fn a_container_gets_other_limits_while_it_runs() {
    let agent = Agent::start();
    agent.create(&limited("web", "exec sleep 1000", "200m", "64Mi"));
    let before = agent.wait_running("web");
    let pid = agent.container_pid(&uid(&before), "c");
    wait_limits(pid, "20000", "67108864");
    for (cpu, memory, quota, bytes) in [
        ("400m", "128Mi", "40000", "134217728"),
        ("100m", "32Mi", "10000", "33554432"),
    ] {
        resize(&agent, "web", cpu, memory);
        wait_limits(pid, quota, bytes);
        let after = agent.wait_pod("web", "to say so", |pod| {
            container(pod, "c")["resources"]["limits"]["cpu"] == cpu
        });
        assert_eq!(container(&after, "c")["resources"]["limits"]["memory"], memory);
        assert_eq!(container(&after, "c")["restartCount"], 0);
        assert_eq!(agent.container_pid(&uid(&before), "c"), pid);
    }
}

#[test]
fn memory_in_use_is_not_taken_away() {
    let agent = Agent::start();
    let script = "head -c 40000000 /dev/zero > /dev/shm/held; echo full; exec sleep 1000";
    agent.create(&limited("web", script, "200m", "128Mi"));
    let before = agent.wait_running("web");
    let pid = agent.container_pid(&uid(&before), "c");
    agent.wait_log("web", "", "full");
    resize(&agent, "web", "200m", "16Mi");
    let refused = agent.wait_pod("web", "to say why not", |pod| {
        let conditions = pod["status"]["conditions"].as_array();
        let says = |condition: &Value| {
            condition["type"] == "PodResizeInProgress"
                && condition["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("below current usage"))
        };
        conditions.into_iter().flatten().any(says)
    });
    assert_eq!(container(&refused, "c")["restartCount"], 0);
    wait_limits(pid, "20000", "134217728");
}
