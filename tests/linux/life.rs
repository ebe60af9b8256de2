//! A pod runs, ends, and says truly how.

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, uid, wait_for, with};

#[test]
fn two_containers_run_side_by_side_and_the_pod_says_so() {
    let agent = Agent::start();
    agent.create(&pod("web", &[("a", "exec sleep 1000"), ("b", "exec sleep 1000")]));
    let web = agent.wait_running("web");
    let status = &web["status"];
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["observedGeneration"], 1);
    assert!(
        status["podIP"]
            .as_str()
            .unwrap()
            .starts_with(agent.cidr().trim_end_matches("0/24"))
    );
    assert_eq!(status["podIPs"][0]["ip"], status["podIP"]);
    assert!(status["startTime"].is_string());
    for kind in [
        "PodScheduled",
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    ] {
        let conditions = status["conditions"].as_array().unwrap();
        let condition = conditions
            .iter()
            .find(|c| c["type"] == kind)
            .unwrap_or_else(|| panic!("no {kind}: {status:#}"));
        assert_eq!(condition["status"], "True", "{kind}");
    }
    for name in ["a", "b"] {
        let status = container(&web, name);
        assert_eq!(status["ready"], true);
        assert_eq!(status["started"], true);
        assert_eq!(status["restartCount"], 0);
        assert!(status["containerID"].as_str().unwrap().starts_with("podd://"));
        assert!(status["imageID"].as_str().unwrap().contains("sha256:"));
    }
}

#[test]
fn exit_codes_and_signals_are_told_as_they_were() {
    let agent = Agent::start();
    let cases: [(&str, &str, i64, &str); 5] = [
        ("zero", "exit 0", 0, "Completed"),
        ("three", "exit 3", 3, "Error"),
        ("most", "exit 255", 255, "Error"),
        ("kill", "sleep 100 & kill -9 $!; wait $!; exit $?", 137, "Error"),
        ("fault", "sleep 100 & kill -11 $!; wait $!; exit $?", 139, "Error"),
    ];
    for (name, script, _, _) in cases {
        agent.create(&with(pod(name, &[("c", script)]), |p| {
            p["spec"]["restartPolicy"] = json!("Never");
        }));
    }
    for (name, _, code, reason) in cases {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let ended = agent.wait_phase(name, phase);
        let terminated = &container(&ended, "c")["state"]["terminated"];
        assert_eq!(terminated["exitCode"], code, "{name}");
        assert_eq!(terminated["reason"], reason, "{name}");
        assert_eq!(container(&ended, "c")["restartCount"], 0, "{name}");
        assert!(terminated["startedAt"].is_string() && terminated["finishedAt"].is_string());
    }
}

#[test]
fn a_signal_from_outside_is_told_as_128_and_its_number() {
    let agent = Agent::start();
    let made = agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
    }));
    agent.wait_running("p");
    crate::common::signal(agent.container_pid(&uid(&made), "c"), "KILL");
    let ended = agent.wait_phase("p", "Failed");
    let terminated = &container(&ended, "c")["state"]["terminated"];
    assert_eq!(terminated["exitCode"], 137);
    assert_eq!(terminated["signal"], 9);
    assert_eq!(terminated["reason"], "Error");
}

#[test]
fn restart_policies_decide_what_runs_again() {
    let agent = Agent::start();
    for (name, policy, script) in [
        ("always-0", "Always", "exit 0"),
        ("onfailure-0", "OnFailure", "exit 0"),
        ("onfailure-1", "OnFailure", "exit 1"),
        ("never-1", "Never", "exit 1"),
    ] {
        agent.create(&with(pod(name, &[("c", script)]), |p| {
            p["spec"]["restartPolicy"] = json!(policy);
        }));
    }
    // The first restart comes at once, the second after 10 s: until then the container waits in CrashLoopBackOff.
    for name in ["always-0", "onfailure-1"] {
        let waiting = agent.wait_pod(name, "to back off", |p| {
            container(p, "c")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        });
        let status = container(&waiting, "c");
        assert_eq!(
            status["restartCount"], 1,
            "{name}: the first restart comes without delay"
        );
        assert_eq!(waiting["status"]["phase"], "Running", "{name}");
        assert_eq!(
            status["state"]["waiting"]["message"],
            format!(
                "back-off 10s restarting failed container=c pod={name}_default({})",
                uid(&waiting)
            )
        );
        assert!(status["lastState"]["terminated"]["exitCode"].is_i64());
    }
    assert_eq!(
        container(&agent.wait_phase("onfailure-0", "Succeeded"), "c")["restartCount"],
        0
    );
    assert_eq!(
        container(&agent.wait_phase("never-1", "Failed"), "c")["restartCount"],
        0
    );
}

#[test]
fn a_command_that_is_not_there_is_a_start_error() {
    let agent = Agent::start();
    agent.create(&with(pod("p", &[("c", "")]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["containers"][0]["command"] = json!(["/bin/nope"]);
    }));
    let failed = agent.wait_phase("p", "Failed");
    let terminated = &container(&failed, "c")["state"]["terminated"];
    assert_eq!(terminated["reason"], "StartError");
    assert_eq!(terminated["exitCode"], 128);
    let message = terminated["message"].as_str().unwrap();
    assert!(
        message.contains("/bin/nope") && message.contains("no such file"),
        "{message}"
    );
}

#[test]
fn output_is_kept_in_the_cri_format_and_told_by_log() {
    let agent = Agent::start();
    let made = agent.create(&with(
        pod("talker", &[("c", "echo out; echo err >&2; printf unfinished; exit 0")]),
        |p| p["spec"]["restartPolicy"] = json!("Never"),
    ));
    agent.wait_phase("talker", "Succeeded");
    let file = agent
        .log_dir()
        .join(format!("default_talker_{}", uid(&made)))
        .join("c/0.log");
    let raw = std::fs::read_to_string(&file).unwrap();
    for (stream, tag, text) in [
        ("stdout", "F", "out"),
        ("stderr", "F", "err"),
        ("stdout", "", "unfinished"),
    ] {
        let line = raw
            .lines()
            .find(|line| line.ends_with(&format!(" {text}")))
            .unwrap_or_else(|| panic!("{text} not in {raw}"));
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        assert!(words[0].parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert_eq!(words[1], stream);
        assert!(tag.is_empty() || words[2] == tag, "{line}");
    }
    let all = agent.log("talker", "");
    assert!(all.contains("out\n") && all.contains("err\n"), "{all}");
    assert!(
        agent
            .log("talker", "timestamps=true")
            .lines()
            .all(|l| l.contains('T') && l.contains("Z "))
    );
    assert_eq!(agent.log("talker", "limitBytes=2").len(), 2);

    agent.create(&with(
        pod("lines", &[("c", "echo one; echo two; printf unfinished")]),
        |p| {
            p["spec"]["restartPolicy"] = json!("Never");
        },
    ));
    agent.wait_phase("lines", "Succeeded");
    assert_eq!(agent.log("lines", ""), "one\ntwo\nunfinished");
    assert_eq!(agent.log("lines", "tailLines=2"), "two\nunfinished");
}

#[test]
fn following_a_log_ends_when_the_container_does() {
    let agent = Agent::start();
    agent.create(&with(
        pod("counter", &[("c", "for i in 1 2 3; do echo line $i; sleep 0.2; done")]),
        |p| p["spec"]["restartPolicy"] = json!("Never"),
    ));
    agent.wait_log("counter", "", "line 1");
    let text = agent.log("counter", "follow=true");
    assert_eq!(text, "line 1\nline 2\nline 3\n");
}

#[test]
fn a_watch_tells_the_whole_life_in_order() {
    let agent = Agent::start();
    let events = agent.watch("/api/v1/namespaces/default/pods?watch=true&resourceVersion=0&timeoutSeconds=60");
    agent.create(&with(pod("short", &[("c", "exit 7")]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
    }));
    let mut phases: Vec<String> = Vec::new();
    let mut last = 0;
    for event in events {
        let version: u64 = event["object"]["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!(version > last, "resource versions only grow: {event}");
        last = version;
        match event["type"].as_str().unwrap() {
            "DELETED" => break,
            kind => assert_eq!(kind, if phases.is_empty() { "ADDED" } else { "MODIFIED" }),
        }
        let phase = event["object"]["status"]["phase"].as_str().unwrap_or("").to_owned();
        if phase == "Failed" && event["object"]["metadata"]["deletionTimestamp"].is_null() {
            agent.delete("short", None);
        }
        phases.push(phase);
    }
    phases.dedup();
    let phases: Vec<&str> = phases.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
    assert!(
        phases == ["Pending", "Running", "Failed"] || phases == ["Pending", "Failed"],
        "a phase was told out of order: {phases:?}"
    );
}

#[test]
fn an_out_of_memory_kill_is_told_as_such() {
    let agent = Agent::start();
    agent.create(&with(pod("hog", &[("c", "x=a; while true; do x=$x$x; done")]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        p["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
    }));
    let failed = agent.wait_phase("hog", "Failed");
    let terminated = &container(&failed, "c")["state"]["terminated"];
    assert_eq!(terminated["reason"], "OOMKilled", "{terminated}");
    assert_eq!(terminated["exitCode"], 137);
    assert_eq!(failed["status"]["qosClass"], "Burstable");
}

#[test]
fn environment_command_and_directory_are_those_of_the_manifest_over_the_image() {
    let agent = Agent::start();
    agent.create(&with(pod("env", &[("c", "")]), |p| {
        p["spec"]["restartPolicy"] = json!("Never");
        let c = &mut p["spec"]["containers"][0];
        c["env"] =
            json!([{"name": "A", "value": "one"}, {"name": "B", "value": "$(A)-two"}, {"name": "C", "value": "$$(A)"}]);
        c["command"] = json!(["/bin/sh", "-c"]);
        c["args"] = json!(["echo $(B); pwd; env | sort; hostname"]);
        c["workingDir"] = json!("/made/for/this");
    }));
    agent.wait_phase("env", "Succeeded");
    let log = agent.log("env", "");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], "one-two");
    assert_eq!(lines[1], "/made/for/this");
    for expected in ["A=one", "B=one-two", "C=$(A)"] {
        assert!(lines.contains(&expected), "{expected} not in {log}");
    }
    assert_eq!(*lines.last().unwrap(), "env", "the host name is the pod's name");
}

#[test]
fn many_pods_at_once_all_run_and_all_go() {
    let agent = Agent::start();
    let names: Vec<String> = (0..20).map(|n| format!("many-{n}")).collect();
    for name in &names {
        agent.create(&pod(name, &[("c", "exec sleep 1000")]));
    }
    let ips: std::collections::BTreeSet<String> = names
        .iter()
        .map(|name| agent.wait_running(name)["status"]["podIP"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ips.len(), names.len(), "every pod has an address of its own");
    let answer = agent.request("DELETE", "/api/v1/namespaces/default/pods?gracePeriodSeconds=0", None);
    assert_eq!(answer.code, 200, "{answer:?}");
    for name in &names {
        agent.wait_gone(name);
    }
    agent.wait_no_leftovers();
}

#[test]
fn addresses_run_out_with_a_clear_reason_and_come_back() {
    let agent = Agent::start_with(&["--pod-cidr=10.78.0.0/29"]);
    for n in 0..5 {
        agent.create(&pod(&format!("p{n}"), &[("c", "exec sleep 1000")]));
        agent.wait_running(&format!("p{n}"));
    }
    agent.create(&pod("late", &[("c", "exec sleep 1000")]));
    wait_for("a clear word that no address is free", || {
        let log = agent.agent_log();
        if log.contains("no free address") {
            Ok(())
        } else {
            Err(log)
        }
    });
    agent.wait_phase("late", "Pending");
    agent.delete("p0", Some(0));
    agent.wait_gone("p0");
    let late: Value = agent.wait_running("late");
    assert!(late["status"]["podIP"].is_string());
}
