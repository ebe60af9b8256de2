//! `activeDeadlineSeconds`: a pod that is active for too long is given up.

use serde_json::json;

use crate::common::{Agent, container, pod, with};

#[test]
fn a_pod_past_its_deadline_fails_with_its_reason() {
    let agent = Agent::start();
    agent.create(&with(
        pod("p", &[("c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")]),
        |p| p["spec"]["activeDeadlineSeconds"] = json!(2),
    ));
    let failed = agent.wait_phase("p", "Failed");
    assert_eq!(failed["status"]["reason"], "DeadlineExceeded", "{failed:#}");
    assert_eq!(
        failed["status"]["message"], "Pod was active on the node longer than the specified deadline",
        "{failed:#}"
    );
    assert!(container(&failed, "c")["state"]["terminated"].is_object(), "{failed:#}");
    assert_eq!(container(&failed, "c")["restartCount"], 0, "{failed:#}");
}
