//! Pods that a directory of manifests asks for.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Agent, pod, uid, wait_for, with};

/// What the pod of the manifest `web` is called.
const WEB: &str = "web-node-under-test";

fn start(manifests: &Path) -> Agent {
    let flag = format!("--manifest-dir={}", manifests.display());
    Agent::start_with(&[&flag])
}

fn write(manifests: &Path, file: &str, manifest: &Value) {
    fs::write(manifests.join(file), manifest.to_string()).unwrap();
}

#[test]
fn a_static_pod_follows_its_file_and_outlives_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = start(dir.path());
    let manifest = pod("web", &[("c", "exec sleep 1000")]);
    write(dir.path(), "web.yaml", &manifest);
    let first = agent.wait_running(WEB);
    let annotations = &first["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert!(annotations["kubernetes.io/config.hash"].is_string());
    assert_eq!(
        annotations["kubernetes.io/config.mirror"],
        annotations["kubernetes.io/config.hash"]
    );
    let node = agent.request("GET", "/api/v1/nodes/node-under-test", None).json();
    let owner = &first["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("Node"), &node["metadata"]["uid"])
    );
    assert_eq!(first["spec"]["nodeName"], "node-under-test");
    let pid = agent.container_pid(&uid(&first), "c");

    agent.kill();
    agent.start_again();
    // By the time another file's pod runs, this one would have been made anew.
    write(dir.path(), "other", &pod("other", &[("c", "exec sleep 1000")]));
    agent.wait_running("other-node-under-test");
    assert_eq!(agent.pod(WEB)["metadata"], first["metadata"]);
    assert_eq!(agent.container_pid(&uid(&first), "c"), pid);

    let changed = with(manifest, |pod| {
        pod["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    });
    write(dir.path(), "web.yaml", &changed);
    agent.wait_pod(WEB, "to be made anew", |pod| uid(pod) != uid(&first));
    let second = agent.wait_running(WEB);
    assert_eq!(second["spec"]["containers"][0]["env"][0]["name"], "A");

    agent.delete(WEB, Some(0));
    agent.wait_pod(WEB, "to come back", |pod| uid(pod) != uid(&second));
    agent.wait_running(WEB);

    agent.stop();
    fs::remove_file(dir.path().join("web.yaml")).unwrap();
    agent.start_again();
    agent.wait_gone(WEB);
    fs::remove_file(dir.path().join("other")).unwrap();
    agent.wait_gone("other-node-under-test");
    agent.wait_no_leftovers();
}

#[test]
fn a_manifest_that_cannot_be_used_is_told_of_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(dir.path());
    write(dir.path(), "web.yaml", &pod("web", &[("c", "exec sleep 1000")]));
    let web = agent.wait_running(WEB);
    fs::write(
        dir.path().join("web.yaml"),
        "apiVersion: v1\nkind: Pod\nspec: {contaners: []}\n",
    )
    .unwrap();
    wait_for("an event about the manifest", || {
        let events = agent.request("GET", "/api/v1/events", None).json();
        let told = |event: &Value| {
            event["reason"] == "InvalidStaticPod"
                && event["involvedObject"]["kind"] == "Node"
                && event["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("contaners"))
        };
        let found = events["items"].as_array().is_some_and(|items| items.iter().any(told));
        if found { Ok(()) } else { Err(format!("{events:#}")) }
    });
    let after = agent.wait_running(WEB);
    assert_eq!(after["metadata"], web["metadata"]);
}
