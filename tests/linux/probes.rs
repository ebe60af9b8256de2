//! Probes: what they find decides who is ready, who has started, and who is started again.

use serde_json::json;

use crate::common::{Agent, container, pod, uid, wait_for, with};

#[test]
fn readiness_follows_its_probe() {
    let agent = Agent::start();
    let made = agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        p["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        p["spec"]["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ["/bin/sh", "-c", "[ -e /data/ready ]"]}, "periodSeconds": 1, "failureThreshold": 1});
    }));
    agent.wait_pod("p", "to run and not to be ready", |p| {
        container(p, "c")["state"]["running"].is_object() && container(p, "c")["ready"] == false
    });
    let flag = agent.root().join("pods").join(uid(&made)).join("volumes/data/ready");
    std::fs::write(&flag, "").unwrap();
    agent.wait_pod("p", "to be ready", |p| container(p, "c")["ready"] == true);
    std::fs::remove_file(&flag).unwrap();
    let after = agent.wait_pod("p", "to be unready", |p| container(p, "c")["ready"] == false);
    assert_eq!(container(&after, "c")["restartCount"], 0, "{after:#}");
}

#[test]
fn a_container_that_fails_its_liveness_probe_is_started_again() {
    let agent = Agent::start();
    let made = agent.create(&with(
        pod(
            "p",
            &[("c", "touch /alive; exec sleep 1000"), ("other", "exec sleep 1000")],
        ),
        |p| {
            p["spec"]["terminationGracePeriodSeconds"] = json!(1);
            p["spec"]["containers"][0]["livenessProbe"] = json!({
                "exec": {"command": ["/bin/sh", "-c", "[ ! -e /sick ]"]}, "periodSeconds": 1, "failureThreshold": 1});
        },
    ));
    agent.wait_running("p");
    let id = uid(&made);
    let (infra, other) = (agent.infra_pid(&id), agent.container_pid(&id, "other"));
    let sick = format!("/proc/{}/root/sick", agent.container_pid(&id, "c"));
    std::fs::write(sick, "").unwrap();
    let after = agent.wait_pod("p", "to be started again", |p| {
        container(p, "c")["restartCount"] == 1 && container(p, "c")["state"]["running"].is_object()
    });
    assert_eq!(
        container(&after, "c")["lastState"]["terminated"]["exitCode"],
        137,
        "{after:#}"
    );
    assert_eq!(
        (agent.infra_pid(&id), agent.container_pid(&id, "other")),
        (infra, other)
    );
}

#[test]
fn tcp_and_http_probes_reach_the_pods_address() {
    let agent = Agent::start();
    agent.create(&with(
        pod(
            "web",
            &[(
                "c",
                "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 8080 -h /www",
            )],
        ),
        |p| {
            let c = &mut p["spec"]["containers"][0];
            c["startupProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60});
            c["readinessProbe"] = json!({"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1});
        },
    ));
    let ready = agent.wait_pod("web", "to be ready", |p| container(p, "c")["ready"] == true);
    assert_eq!(container(&ready, "c")["started"], true, "{ready:#}");
}

#[test]
fn a_new_agent_says_of_a_ready_pod_what_the_old_one_said() {
    let mut agent = Agent::start();
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["/bin/true"]}, "periodSeconds": 1});
        p["spec"]["containers"][0]["startupProbe"] = json!({"exec": {"command": ["/bin/true"]}, "periodSeconds": 1});
    }));
    let before = agent.wait_pod("p", "to be ready", |p| container(p, "c")["ready"] == true);
    agent.kill();
    agent.start_again();
    wait_for("the new agent to answer", || {
        let now = agent.try_pod("p").map_err(|answer| format!("{answer:?}"))?;
        assert_eq!(now["status"], before["status"], "nothing about the pod has changed");
        Ok(())
    });
}
