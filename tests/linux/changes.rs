//! A running pod that is changed: only what changed is started again.

use serde_json::json;

use crate::common::{Agent, container, pod, uid};

#[test]
fn another_image_restarts_that_container_only() {
    let agent = Agent::start();
    let made = agent.create(&pod("p", &[("a", "exec sleep 1000"), ("b", "exec sleep 1000")]));
    let before = agent.wait_running("p");
    let id = uid(&made);
    let infra = agent.infra_pid(&id);
    let image = made["spec"]["containers"][0]["image"].as_str().unwrap();
    // The same image by its longer name: another name is a change.
    let other = format!("docker.io/library/{}", image.rsplit('/').next().unwrap());
    assert_ne!(image, other);
    let patch = json!({"spec": {"containers": [{"name": "a", "image": other}],
                                "terminationGracePeriodSeconds": made["spec"]["terminationGracePeriodSeconds"]}});
    let answer = agent
        .raw_request(
            "PATCH",
            "/api/v1/namespaces/default/pods/p",
            "application/strategic-merge-patch+json",
            patch.to_string().as_bytes(),
        )
        .unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    let after = agent.wait_pod("p", "to run the other image", |p| {
        container(p, "a")["restartCount"] == 1 && container(p, "a")["state"]["running"].is_object()
    });
    assert_eq!(agent.infra_pid(&id), infra);
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"], "{after:#}");
    assert_eq!(container(&after, "b"), container(&before, "b"), "{after:#}");
    assert_eq!(after["metadata"]["generation"], 2, "{after:#}");
    assert_eq!(after["status"]["observedGeneration"], 2, "{after:#}");
}
