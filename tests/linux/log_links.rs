//! Links to the logs of all containers under one roof, for log collectors.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Agent, container, pod, signal, uid, wait_for};

/// The names of all links, sorted.
fn links(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// As a kubelet names the link of the container as it is now.
fn name_of(p: &Value, name: &str) -> String {
    let id = container(p, name)["containerID"].as_str().unwrap();
    let id = id.strip_prefix("podd://").unwrap();
    format!("{}_default_{name}-{id}.log", p["metadata"]["name"].as_str().unwrap())
}

#[test]
fn every_life_of_a_container_has_a_link_to_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let links_dir = directory.path().join("containers");
    let flag = format!("--container-log-dir={}", links_dir.display());
    let mut agent = Agent::start_with(&[&flag]);
    let script = "echo to the collector; exec sleep 1000";
    let id = uid(&agent.create(&pod("web", &[("app", script)])));
    let first = agent.wait_running("web");
    agent.wait_log("web", "", "to the collector");
    let link = links_dir.join(name_of(&first, "app"));
    wait_for("the link", || fs::read_link(&link).map_err(|error| error.to_string()));
    let log = fs::read_to_string(&link).unwrap();
    assert!(log.contains(" stdout F to the collector\n"), "{log:?}");

    signal(agent.container_pid(&id, "app"), "KILL");
    let second = agent.wait_pod("web", "to run again", |p| {
        container(p, "app")["restartCount"] == 1 && container(p, "app")["state"]["running"].is_object()
    });
    let mut expected = vec![name_of(&first, "app"), name_of(&second, "app")];
    expected.sort();
    wait_for("two links", || match links(&links_dir) {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?}")),
    });

    // What an agent that died left undone is done by the next one; what is not its own is left alone.
    agent.kill();
    fs::remove_file(links_dir.join(&expected[0])).unwrap();
    let dead = agent.log_dir().join("default_gone_0/app/0.log");
    std::os::unix::fs::symlink(&dead, links_dir.join("gone_default_app-0.log")).unwrap();
    std::os::unix::fs::symlink("/elsewhere/0.log", links_dir.join("foreign.log")).unwrap();
    agent.start_again();
    expected.push("foreign.log".to_owned());
    expected.sort();
    assert_eq!(links(&links_dir), expected);

    agent.delete("web", Some(0));
    agent.wait_gone("web");
    assert_eq!(links(&links_dir), ["foreign.log"]);
}

#[test]
fn an_agent_with_logs_of_its_own_makes_no_links_unasked() {
    let agent = Agent::start();
    agent.create(&pod("web", &[("app", "exec sleep 1000")]));
    let running = agent.wait_running("web");
    let link = Path::new("/var/log/containers").join(name_of(&running, "app"));
    assert!(fs::symlink_metadata(&link).is_err(), "{}", link.display());
}
