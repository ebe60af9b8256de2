//! What happens to a container over its time: probes, hooks, init and ephemeral containers, with Kubernetes' words.

use std::time::Duration;

use serde_json::{Value, json};

use super::{admit, faults, full_pod, small_pod, with};
use crate::admit::{change, to_model};
use crate::model::{
    Action, PodSpec, Probe, QosClass, ResizePolicy, RestartAction, RestartPolicy, RestartRule, TerminationMessagePolicy,
};

const C: &str = "/spec/containers/0";

fn model(pod: Value) -> PodSpec {
    to_model(&admit(pod).expect("admitted").pod).expect("understood")
}

fn in_container(field: &str, value: Value) -> Value {
    with(small_pod(), &format!("{C}/{field}"), value)
}

fn check(rows: Vec<(&str, Value, &[&str])>) {
    for (field, value, expected) in rows {
        let expected: Vec<String> = expected
            .iter()
            .map(|text| format!("spec.containers[0].{text}"))
            .collect();
        assert_eq!(
            faults(in_container(field, value.clone())),
            expected,
            "{field} = {value}"
        );
    }
}

#[test]
fn probes() {
    let exec = json!({"command": ["true"]});
    check(vec![
        ("livenessProbe", json!({"exec": exec}), &[]),
        (
            "livenessProbe",
            json!({"exec": exec, "successThreshold": 0, "periodSeconds": 0}),
            &[],
        ),
        ("readinessProbe", json!({"exec": exec, "successThreshold": 4}), &[]),
        (
            "startupProbe",
            json!({"exec": exec, "terminationGracePeriodSeconds": 5}),
            &[],
        ),
        (
            "livenessProbe",
            json!({}),
            &["livenessProbe: Required value: must specify a handler type"],
        ),
        (
            "readinessProbe",
            json!({"exec": exec, "httpGet": {"port": 1}, "grpc": {"port": 1}}),
            &[
                "readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
                "readinessProbe.grpc: Forbidden: may not specify more than 1 handler type",
            ],
        ),
        (
            "livenessProbe",
            json!({"exec": {"command": []}, "successThreshold": 2}),
            &[
                "livenessProbe.exec.command: Required value",
                "livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            "startupProbe",
            json!({"exec": exec, "successThreshold": 3, "initialDelaySeconds": -1, "timeoutSeconds": -2,
                "periodSeconds": -3, "failureThreshold": -4, "terminationGracePeriodSeconds": 0}),
            &[
                "startupProbe.initialDelaySeconds: Invalid value: -1: must be greater than or equal to 0",
                "startupProbe.timeoutSeconds: Invalid value: -2: must be greater than or equal to 0",
                "startupProbe.periodSeconds: Invalid value: -3: must be greater than or equal to 0",
                "startupProbe.failureThreshold: Invalid value: -4: must be greater than or equal to 0",
                "startupProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
                "startupProbe.successThreshold: Invalid value: 3: must be 1",
            ],
        ),
        (
            "readinessProbe",
            json!({"exec": exec, "terminationGracePeriodSeconds": 5}),
            &["readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes"],
        ),
        (
            "livenessProbe",
            json!({"httpGet": {"port": 0, "scheme": "ftp", "path": "/a\nb",
                "httpHeaders": [{"name": "X Y", "value": "1"}, {"name": "X-Y", "value": "a\r\nb"}]}}),
            &[
                "livenessProbe.httpGet.path: Invalid value: \"/a\\nb\": must not contain control characters",
                "livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "livenessProbe.httpGet.scheme: Unsupported value: \"ftp\": supported values: \"HTTP\", \"HTTPS\"",
                "livenessProbe.httpGet.httpHeaders: Invalid value: \"X Y\": a valid HTTP header must consist of \
                 alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
                "livenessProbe.httpGet.httpHeaders: Invalid value: \"a\\r\\nb\": must not contain control characters",
            ],
        ),
        (
            "livenessProbe",
            json!({"tcpSocket": {"port": "8080"}}),
            &["livenessProbe.tcpSocket.port: Invalid value: \"8080\": must contain at least one letter (a-z)"],
        ),
        (
            "livenessProbe",
            json!({"tcpSocket": {"port": "http"}}),
            &["livenessProbe.tcpSocket.port: Not found: \"http\""],
        ),
        (
            "livenessProbe",
            json!({"grpc": {"port": 70_000}}),
            &["livenessProbe.grpc.port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
    ]);
}

#[test]
fn hooks_and_signals() {
    check(vec![
        ("lifecycle", json!({"preStop": {"sleep": {"seconds": 0}}}), &[]),
        (
            "lifecycle",
            json!({"preStop": {"sleep": {"seconds": 31}}, "postStart": {"sleep": {"seconds": -1}}}),
            &[
                "lifecycle.postStart.sleep: Invalid value: -1: must be non-negative and less than \
                 terminationGracePeriodSeconds (30)",
                "lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
                 terminationGracePeriodSeconds (30)",
            ],
        ),
        (
            "lifecycle",
            json!({"preStop": {}}),
            &["lifecycle.preStop: Required value: must specify a handler type"],
        ),
        (
            "lifecycle",
            json!({"stopSignal": "SIGINT"}),
            &["lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"],
        ),
    ]);
    let linux = with(small_pod(), "/spec/os", json!({"name": "linux"}));
    let signal = |name: &str| with(linux.clone(), &format!("{C}/lifecycle"), json!({"stopSignal": name}));
    for name in ["SIGUSR1", "SIGRTMIN", "SIGRTMIN+15", "SIGRTMAX-14", "SIGRTMAX"] {
        let model = model(signal(name));
        assert_eq!(model.containers[0].life.stop_signal.as_deref(), Some(name));
    }
    for name in ["USR1", "SIGRTMIN+16", "9", "sigterm"] {
        let found = faults(signal(name)).join("");
        let expected = format!("spec.containers[0].lifecycle.stopSignal: Unsupported value: \"{name}\": supported");
        assert!(found.starts_with(&expected), "{found}");
    }
}

#[test]
fn lists_of_containers_have_their_own_rules() {
    let c = |name: &str| json!({"name": name, "image": "busybox:1"});
    let mut plain = c("i");
    plain["lifecycle"] = json!({"preStop": {"exec": {"command": ["true"]}}});
    plain["readinessProbe"] = json!({"exec": {"command": ["true"]}});
    let not_init = "may not be set for init containers without restartPolicy=Always";
    let pod = with(small_pod(), "/spec/initContainers", json!([plain, c("c"), c("i")]));
    assert_eq!(
        faults(pod.clone()),
        [
            format!("spec.initContainers[0].lifecycle: Forbidden: {not_init}"),
            format!("spec.initContainers[0].readinessProbe: Forbidden: {not_init}"),
            "spec.initContainers[1].name: Duplicate value: \"c\"".to_owned(),
            "spec.initContainers[2].name: Duplicate value: \"i\"".to_owned(),
        ]
    );
    plain["restartPolicy"] = json!("Always");
    let sidecar = with(small_pod(), "/spec/initContainers", json!([plain, c("j")]));
    let sidecar = model(sidecar);
    assert!(sidecar.init_containers[0].is_sidecar() && !sidecar.init_containers[1].is_sidecar());
    assert!(sidecar.init_containers[0].life.pre_stop.is_some());
    check(vec![
        ("restartPolicy", json!("OnFailure"), &[]),
        (
            "restartPolicy",
            json!("Sometimes"),
            &[
                "restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
    ]);
    assert_eq!(
        faults(with(small_pod(), "/spec/ephemeralContainers", json!([c("e")]))),
        ["spec.ephemeralContainers: Forbidden: cannot be set on create"]
    );
}

#[test]
fn deadlines_and_resize_policies() {
    for (deadline, is_good) in [(1, true), (i64::from(i32::MAX), true), (0, false), (1 << 31, false)] {
        let found = faults(with(small_pod(), "/spec/activeDeadlineSeconds", json!(deadline)));
        let expected = format!(
            "spec.activeDeadlineSeconds: Invalid value: {deadline}: must be between 1 and 2147483647, inclusive"
        );
        assert_eq!(found, if is_good { vec![] } else { vec![expected] });
    }
    let policy = |resource: &str, restart: &str| json!({"resourceName": resource, "restartPolicy": restart});
    check(vec![(
        "resizePolicy",
        json!([
            policy("cpu", "RestartContainer"),
            policy("cpu", "NotRequired"),
            policy("disk", "Perhaps")
        ]),
        &[
            "resizePolicy[1]: Duplicate value: \"cpu\"",
            "resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            "resizePolicy: Unsupported value: \"Perhaps\": supported values: \"NotRequired\", \"RestartContainer\"",
        ],
    )]);
    let never = with(small_pod(), "/spec/restartPolicy", json!("Never"));
    assert_eq!(
        faults(with(
            never,
            &format!("{C}/resizePolicy"),
            json!([policy("memory", "RestartContainer")])
        )),
        [
            "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when \
             `restartPolicy` is 'Never'"
        ]
    );
}

#[test]
fn a_life_as_podd_means_it() {
    let mut pod = with(full_pod(), "/spec/activeDeadlineSeconds", json!(60));
    let life = json!({
        "restartPolicy": "Never",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
        "startupProbe": {"exec": {"command": ["test", "$(NAME)", "$(GREETING)"]}},
        "livenessProbe": {
            "httpGet": {"port": "http", "httpHeaders": [{"name": "A", "value": "b"}]},
            "initialDelaySeconds": 2, "periodSeconds": 3, "timeoutSeconds": 4, "failureThreshold": 5,
            "terminationGracePeriodSeconds": 6,
        },
        "readinessProbe": {"grpc": {"port": 9000}, "successThreshold": 2},
        "lifecycle": {
            "postStart": {"exec": {"command": ["echo", "$(NAME)"]}},
            "preStop": {"httpGet": {"host": "10.0.0.9", "port": 81, "scheme": "HTTPS", "path": "/bye?now"}},
        },
    });
    for (field, value) in life.as_object().expect("an object") {
        pod["spec"]["containers"][0][field] = value.clone();
    }
    let admitted = admit(pod).expect("admitted");
    assert_eq!(admitted.warnings, Vec::<String>::new());
    let model = to_model(&admitted.pod).expect("understood");
    assert_eq!(model.active_deadline, Some(Duration::from_mins(1)));
    let life = &model.containers[0].life;
    assert_eq!(life.restart_policy, Some(RestartPolicy::Never));
    assert_eq!(
        life.termination_message_policy,
        TerminationMessagePolicy::FallbackToLogsOnError
    );
    let memory_only = ResizePolicy {
        cpu_restarts: false,
        memory_restarts: true,
    };
    assert_eq!(life.resize_policy, memory_only);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    // A probe sees the variables as they stand in the manifest, a hook sees none.
    let command = words(&["test", "podd", "hello $(NAME)"]);
    assert_eq!(
        life.startup.as_ref().map(|p| p.action.clone()),
        Some(Action::Exec { command })
    );
    let command = words(&["echo", "$(NAME)"]);
    assert_eq!(life.post_start, Some(Action::Exec { command }));
    assert_eq!(
        life.liveness,
        Some(Probe {
            action: Action::HttpGet {
                host: None,
                port: 8080,
                https: false,
                path: "/".to_owned(),
                headers: vec![("A".to_owned(), "b".to_owned())],
            },
            initial_delay: Duration::from_secs(2),
            period: Duration::from_secs(3),
            timeout: Duration::from_secs(4),
            success_threshold: 1,
            failure_threshold: 5,
            termination_grace: Some(Duration::from_secs(6)),
        })
    );
    assert_eq!(
        life.readiness,
        Some(Probe {
            action: Action::Grpc {
                port: 9000,
                service: String::new(),
            },
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold: 2,
            failure_threshold: 3,
            termination_grace: None,
        })
    );
    assert_eq!(
        life.pre_stop,
        Some(Action::HttpGet {
            host: Some("10.0.0.9".to_owned()),
            port: 81,
            https: true,
            path: "/bye?now".to_owned(),
            headers: vec![],
        })
    );
}

#[test]
fn the_defaults_of_probes_are_written_down() {
    let admitted = admit(in_container("livenessProbe", json!({"httpGet": {"port": 80}}))).expect("admitted");
    let pod = serde_json::to_value(&admitted.pod).expect("JSON");
    assert_eq!(
        pod["spec"]["containers"][0]["livenessProbe"],
        json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
            "successThreshold": 1, "failureThreshold": 3})
    );
}

#[test]
fn init_containers_count_for_the_class() {
    let limits = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
    let pod = in_container("resources", limits.clone());
    let init = json!([{"name": "i", "image": "busybox:1"}]);
    let with_init = with(pod, "/spec/initContainers", init);
    assert_eq!(model(with_init.clone()).qos_class(), QosClass::Burstable);
    let both = with(with_init, "/spec/initContainers/0/resources", limits);
    assert_eq!(model(both).qos_class(), QosClass::Guaranteed);
}

#[test]
fn a_mirror_is_known_by_its_annotation() {
    let mut metadata = admit(small_pod()).expect("admitted").pod.metadata;
    assert!(!change::is_mirror(&metadata));
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.mirror".to_owned(), "x".to_owned());
    assert!(change::is_mirror(&metadata));
}

#[test]
fn restart_rules() {
    let rule = |action: &str, exit_codes: Value| json!({"action": action, "exitCodes": exit_codes});
    let on_42 = rule("Restart", json!({"operator": "In", "values": [42]}));
    let at = "restartPolicyRules";
    let with_rules = |rules: Value| {
        let found = faults(with(
            in_container("restartPolicy", json!("Never")),
            &format!("{C}/{at}"),
            rules,
        ));
        let strip = |text: String| text.strip_prefix("spec.containers[0].").map(str::to_owned);
        found
            .into_iter()
            .map(|text| strip(text).expect("of the container"))
            .collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    for rules in [
        json!([]),
        json!([on_42]),
        // Neither of the two is forbidden.
        json!([
            on_42,
            on_42,
            rule("Restart", json!({"operator": "NotIn", "values": [7, 7]}))
        ]),
        json!([rule("RestartAllContainers", json!({"operator": "In"}))]),
        json!([rule("Restart", json!({"operator": "In", "values": [-1, 256]}))]),
        json!(vec![on_42.clone(); 20]),
        json!([rule("Restart", json!({"operator": "In", "values": vec![1; 255]}))]),
    ] {
        assert_eq!(with_rules(rules.clone()), none, "{rules}");
    }
    for (rules, expected) in [
        (
            json!([rule("Stay", json!({"operator": "In"}))]),
            "[0].action: Unsupported value: \"Stay\": supported values: \"Restart\", \"RestartAllContainers\"",
        ),
        (
            json!([on_42, {"action": "Restart"}]),
            "[1].exitCodes: Required value: must be specified",
        ),
        (
            json!([rule("Restart", json!({"operator": "Equals", "values": [3]}))]),
            "[0].exitCodes.operator: Unsupported value: \"Equals\": supported values: \"In\", \"NotIn\"",
        ),
        (
            json!(vec![on_42.clone(); 21]),
            ": Too many: 21: must have at most 20 items",
        ),
        (
            json!([rule("Restart", json!({"operator": "In", "values": vec![1; 256]}))]),
            "[0].exitCodes.values: Too many: 256: must have at most 255 items",
        ),
    ] {
        assert_eq!(with_rules(rules.clone()), [format!("{at}{expected}")], "{rules}");
    }
    assert_eq!(
        faults(in_container(at, json!([on_42]))),
        ["spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"]
    );
    for own in ["Always", "OnFailure", "Never"] {
        let init = json!([{"name": "i", "image": "busybox", "restartPolicy": own, at: [on_42]}]);
        assert_eq!(faults(with(small_pod(), "/spec/initContainers", init)), none, "{own}");
    }
}

#[test]
fn restart_rules_are_kept() {
    let rules = json!([
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [3, 42]}},
        {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn"}},
    ]);
    let pod = with(
        in_container("restartPolicy", json!("OnFailure")),
        &format!("{C}/restartPolicyRules"),
        rules,
    );
    let life = model(pod).containers.remove(0).life;
    assert_eq!(life.restart_policy, Some(RestartPolicy::OnFailure));
    let rule = |action, codes: &[i32], is_negated| RestartRule {
        action,
        codes: codes.to_vec(),
        is_negated,
    };
    assert_eq!(
        life.restart_rules,
        [
            rule(RestartAction::Restart, &[3, 42], false),
            rule(RestartAction::RestartAllContainers, &[], true),
        ]
    );
}
