//! The agent itself: its command line, its place on the machine, its neighbours.

use std::process::Command;

use serde_json::json;

use crate::common::{Agent, pod, podd, wait_for, with};

#[test]
fn a_second_agent_on_the_same_state_is_refused_and_told_whose_it_is() {
    let agent = Agent::start_empty(&[]);
    let second = podd().args(agent.arguments()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("pid {}", agent.pid())), "{said}");
}

#[test]
fn two_agents_live_side_by_side() {
    let one = Agent::start();
    let two = Agent::start();
    for agent in [&one, &two] {
        agent.create(&pod("same-name", &[("c", "exec sleep 1000")]));
    }
    let a = one.wait_running("same-name");
    let b = two.wait_running("same-name");
    assert_ne!(a["status"]["podIP"], b["status"]["podIP"]);
    two.delete("same-name", Some(0));
    two.wait_gone("same-name");
    assert_eq!(one.pod("same-name")["status"]["phase"], "Running");
}

#[test]
fn a_signal_to_stop_ends_the_agent_and_not_its_pods() {
    let mut agent = Agent::start();
    agent.create(&pod("p", &[("c", "exec sleep 1000")]));
    let before = agent.wait_running("p");
    let pid = agent.container_pid(&crate::common::uid(&before), "c");
    agent.stop();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!agent.socket().exists(), "the socket goes with its agent");
    agent.start_again();
    assert_eq!(agent.wait_running("p")["status"], before["status"]);
}

#[test]
fn the_kubeconfig_is_for_root_alone_and_lets_kubectl_in() {
    let agent = Agent::start();
    let file = agent.root().join("admin.kubeconfig");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let printed = podd()
        .args(["kubeconfig", "--root", agent.root().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(printed.stdout, std::fs::read(&file).unwrap());
    let Ok(probe) = Command::new("kubectl").args(["version", "--client"]).output() else {
        panic!("kubectl is needed: deploy/setup.sh installs it");
    };
    assert!(probe.status.success());
    let kubectl = |arguments: &[&str]| {
        let output = Command::new("kubectl")
            .arg(format!("--kubeconfig={}", file.display()))
            .arg(format!("--cache-dir={}", agent.dir.join("kube").display()))
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {output:?} {}",
            agent.agent_log()
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let manifest = agent.dir.join("pod.json");
    let wanted = with(pod("k", &[("c", "echo hello; exec sleep 1000")]), |p| {
        p["metadata"]["labels"] = json!({"app": "k"});
    });
    std::fs::write(&manifest, wanted.to_string()).unwrap();
    assert_eq!(kubectl(&["apply", "-f", manifest.to_str().unwrap()]), "pod/k created\n");
    agent.wait_running("k");
    agent.wait_log("k", "", "hello");
    let table = kubectl(&["get", "pods", "-l", "app=k"]);
    assert!(table.contains("1/1") && table.contains("Running"), "{table}");
    let list: serde_json::Value = serde_json::from_str(&kubectl(&["get", "pods", "-o", "json"])).unwrap();
    assert_eq!(list["items"][0]["metadata"]["name"], "k");
    assert_eq!(kubectl(&["logs", "k"]), "hello\n");
    kubectl(&["wait", "--for=condition=Ready", "pod/k", "--timeout=30s"]);
    kubectl(&["delete", "pod", "k", "--grace-period=1"]);
    agent.wait_no_leftovers();
}

#[test]
fn without_a_certificate_nobody_gets_in() {
    let agent = Agent::start_empty(&[]);
    let ask = |path: &str| {
        let url = format!("https://127.0.0.1:{}{path}", agent.port());
        let output = Command::new("curl")
            .args(["-sk", "-w", "\n%{http_code}", &url])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let refused = ask("/api/v1/namespaces/default/pods");
    assert!(
        refused.ends_with("\n401") && refused.contains("\"Unauthorized\""),
        "{refused}"
    );
    assert!(ask("/readyz").ends_with("\n200"));
}

#[test]
fn the_doctor_speaks_of_what_matters() {
    let output = podd().args(["doctor"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["cgroup", "overlay", "namespace", "nft", "CAP_", "space"] {
        assert!(text.contains(word), "{word} not in {text}");
    }
    for line in text.lines() {
        assert!(
            ["ok", "warn", "fail"].iter().any(|level| line.starts_with(level)),
            "{line}"
        );
    }
    assert!(output.status.success(), "{text}");
}

#[test]
fn a_wrong_setting_is_named() {
    let output = podd()
        .args(["serve", "--bridge=far-too-long-for-linux"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bridge"), "{output:?}");
}

#[test]
fn nothing_is_written_while_nothing_happens() {
    let agent = Agent::start();
    agent.create(&pod("idle", &[("c", "exec sleep 1000")]));
    agent.wait_running("idle");
    let version = |agent: &Agent| {
        let list = agent.request("GET", "/api/v1/pods", None).json();
        list["metadata"]["resourceVersion"].clone()
    };
    // Settled: twice the same with a look at every file in between.
    let settled = wait_for("the pod to be settled", || {
        let before = version(&agent);
        let files = newest_change(&agent);
        let looks: Vec<_> = (0..50)
            .map(|_| agent.pod("idle")["metadata"]["resourceVersion"].clone())
            .collect();
        let after = (version(&agent), newest_change(&agent));
        if (before.clone(), files) == after && looks.iter().all(|v| *v == looks[0]) {
            Ok(after)
        } else {
            Err(format!("{after:?}"))
        }
    });
    assert!(settled.0.is_string());
}

fn newest_change(agent: &Agent) -> Option<std::time::SystemTime> {
    ["podd.db", "podd.db-wal"]
        .iter()
        .filter_map(|name| std::fs::metadata(agent.root().join(name)).ok()?.modified().ok())
        .max()
}
