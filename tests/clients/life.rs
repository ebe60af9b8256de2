//! A pod that is there is changed, looked into, copied and resized.

use serde_json::{Value, json};

use crate::command::Kubectl;
use crate::kubectl::pod;

/// Another name of the test's image.
const SAME_IMAGE: &str = "docker.io/library/busybox:test";

pub(crate) fn leads_lives(k: &Kubectl) {
    let mut patient = pod("patient", "echo begun; trap 'exit 0' TERM; sleep 100000 & wait");
    patient["spec"]["initContainers"] = json!([{
        "name": "before", "image": "busybox:test", "imagePullPolicy": "Never", "command": ["echo", "prepared"],
    }]);
    patient["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}});
    patient["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    let file = k.file("patient.json", &patient.to_string());
    assert_eq!(k.ok(&["apply", "-f", &file]), "pod/patient created\n");
    k.ok(&["wait", "--for=condition=Ready", "pod/patient", "--timeout=60s"]);
    assert_eq!(k.ok(&["logs", "patient", "-c", "before"]), "prepared\n");

    sets_the_image(k);
    resizes(k);
    debugs(k);
    k.ok(&["delete", "pod", "patient"]);
}

fn sets_the_image(k: &Kubectl) {
    let image = format!("main={SAME_IMAGE}");
    assert_eq!(
        k.ok(&["set", "image", "pod/patient", &image]),
        "pod/patient image updated\n"
    );
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    k.until(&["get", "pod", "patient", "-o", restarts], |count| count == "1");
    k.ok(&["wait", "--for=condition=Ready", "pod/patient", "--timeout=60s"]);
    let refused = k.fails(&["patch", "pod", "patient", "-p", r#"{"spec":{"restartPolicy":"Never"}}"#]);
    assert!(
        refused.contains("pod updates may not change fields other than"),
        "{refused}"
    );
}

fn resizes(k: &Kubectl) {
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"750m"}}}]}}"#;
    let said = k.say(&["patch", "pod", "patient", "--subresource", "resize", "-p", patch], "");
    if said.err.contains("invalid subresource value") {
        // Before 1.32 kubectl knows of no resize.
        return;
    }
    assert_eq!((said.code, said.out.as_str()), (0, "pod/patient patched\n"), "{said:?}");
    let limit = "jsonpath={.status.containerStatuses[0].resources.limits.cpu}";
    k.until(&["get", "pod", "patient", "-o", limit], |text| text == "750m");
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(k.ok(&["get", "pod", "patient", "-o", restarts]), "1");
}

fn debugs(k: &Kubectl) {
    let of_doctor = |pod: &Value| {
        let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().cloned();
        let mut statuses = statuses.unwrap_or_default().into_iter();
        statuses.find(|status| status["name"] == "doctor").unwrap_or_default()
    };
    k.ok(&[
        "debug",
        "patient",
        "--image=busybox:test",
        "--image-pull-policy=Never",
        "--target=main",
        "-c",
        "doctor",
        "--",
        "sh",
        "-c",
        "ps -o args | grep 'sleep 10000[0]'",
    ]);
    k.until(&["get", "pod", "patient", "-o", "json"], |text| {
        let pod: Value = serde_json::from_str(text).unwrap_or_default();
        of_doctor(&pod)["state"]["terminated"]["exitCode"] == 0
    });
    let log = k.ok(&["logs", "patient", "-c", "doctor"]);
    assert!(log.contains("sleep 100000"), "the processes of its target: {log}");

    let image = format!("main={SAME_IMAGE}");
    k.ok(&["debug", "patient", "--copy-to=twin", "--set-image", &image]);
    k.ok(&["wait", "--for=condition=Ready", "pod/twin", "--timeout=60s"]);
    assert_eq!(k.ok(&["logs", "twin", "-c", "main"]), "begun\n");
    k.ok(&["delete", "pod", "twin"]);
}
