use serde_json::{Value, json};

use super::*;

fn standard(text: &str) -> Standard {
    let (level, version) = text.split_once(':').expect("level:version");
    Standard {
        level: level_of(level).expect("a level"),
        version: version_of(version).expect("a version"),
    }
}

fn told(standard_: &str, pod: &Value) -> String {
    let pod: Pod = serde_json::from_value(pod.clone()).expect("a pod");
    violations(standard(standard_), &pod).to_string()
}

fn with_spec(spec: &Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

/// A pod that nobody has anything against, with one container of each kind.
fn good() -> Value {
    let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let container = |name: &str| json!({"name": name, "image": "i", "securityContext": context});
    with_spec(&json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [container("first")],
        "containers": [container("main")],
        "ephemeralContainers": [container("added")],
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}],
    }))
}

fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    pod.pointer_mut(parent).expect("a parent")[field] = value;
    pod
}

#[test]
fn a_plain_pod_is_too_much_for_the_strictest() {
    let pod = with_spec(&json!({"containers": [{"name": "nginx", "image": "nginx"}]}));
    assert_eq!(
        told("restricted:latest", &pod),
        "allowPrivilegeEscalation != false (container \"nginx\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"nginx\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"nginx\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or container \"nginx\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(told("baseline:latest", &pod), "");
    assert_eq!(told("restricted:latest", &good()), "");
}

/// As `oc debug node/..` is told.
#[test]
fn a_pod_that_wants_the_machine() {
    let pod = with_spec(&json!({
        "hostNetwork": true, "hostPID": true,
        "containers": [{"name": "container-00", "image": "i",
            "securityContext": {"privileged": true, "runAsUser": 0}}],
        "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
    }));
    assert_eq!(
        told("restricted:latest", &pod),
        "host namespaces (hostNetwork=true, hostPID=true), privileged (container \"container-00\" must not set \
         securityContext.privileged=true), allowPrivilegeEscalation != false (container \"container-00\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"container-00\" must \
         set securityContext.capabilities.drop=[\"ALL\"]), restricted volume types (volume \"host\" uses restricted \
         volume type \"hostPath\"), runAsNonRoot != true (pod or container \"container-00\" must set \
         securityContext.runAsNonRoot=true), runAsUser=0 (container \"container-00\" must not set runAsUser=0), \
         seccompProfile (pod or container \"container-00\" must set securityContext.seccompProfile.type to \
         \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(
        told("baseline:latest", &pod),
        "host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \"host\"), privileged (container \
         \"container-00\" must not set securityContext.privileged=true)"
    );
    assert_eq!(told("privileged:latest", &pod), "");
}

/// Each row: what is changed in a good pod, and what the baseline and the strictest standard say.
#[test]
fn each_check_sees_every_kind_of_container() {
    let main = "/spec/containers/0/securityContext";
    let init = "/spec/initContainers/0/securityContext";
    let added = "/spec/ephemeralContainers/0/securityContext";
    let rows = [
        (
            "/spec/hostIPC".to_owned(),
            json!(true),
            "host namespaces (hostIPC=true)",
            "host namespaces (hostIPC=true)",
        ),
        (
            format!("{init}/privileged"),
            json!(true),
            "privileged (container \"first\" must not set securityContext.privileged=true)",
            "privileged (container \"first\" must not set securityContext.privileged=true)",
        ),
        (
            format!("{added}/procMount"),
            json!("Unmasked"),
            "procMount (container \"added\" must not set securityContext.procMount to \"Unmasked\")",
            "procMount (container \"added\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            format!("{main}/capabilities/add"),
            json!(["SYS_ADMIN", "CHOWN"]),
            "non-default capabilities (container \"main\" must not include \"SYS_ADMIN\" in \
             securityContext.capabilities.add)",
            "unrestricted capabilities (container \"main\" must not include \"CHOWN\", \"SYS_ADMIN\" in \
             securityContext.capabilities.add)",
        ),
        (format!("{main}/capabilities/add"), json!(["NET_BIND_SERVICE"]), "", ""),
        (
            format!("{init}/capabilities/drop"),
            json!(["NET_RAW"]),
            "",
            "unrestricted capabilities (container \"first\" must set securityContext.capabilities.drop=[\"ALL\"])",
        ),
        (
            format!("{added}/allowPrivilegeEscalation"),
            json!(null),
            "",
            "allowPrivilegeEscalation != false (container \"added\" must set \
             securityContext.allowPrivilegeEscalation=false)",
        ),
        (
            "/spec/containers/0/ports".to_owned(),
            json!([{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 443}]),
            "hostPort (container \"main\" uses hostPorts 443, 80)",
            "hostPort (container \"main\" uses hostPorts 443, 80)",
        ),
        (
            "/spec/containers/0/livenessProbe".to_owned(),
            json!({"httpGet": {"port": 80, "host": "10.0.0.1"}}),
            "probe or lifecycle host (container \"main\" uses probe or lifecycle host \"10.0.0.1\")",
            "probe or lifecycle host (container \"main\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
        (
            "/spec/initContainers/0/lifecycle".to_owned(),
            json!({"preStop": {"tcpSocket": {"port": 80, "host": "h"}}}),
            "probe or lifecycle host (container \"first\" uses probe or lifecycle host \"h\")",
            "probe or lifecycle host (container \"first\" uses probe or lifecycle host \"h\")",
        ),
        (
            format!("{main}/seccompProfile"),
            json!({"type": "Unconfined"}),
            "seccompProfile (container \"main\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            "seccompProfile (container \"main\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "/spec/securityContext/seccompProfile".to_owned(),
            json!({"type": "Unconfined"}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "/spec/securityContext/appArmorProfile".to_owned(),
            json!({"type": "Unconfined"}),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            "/metadata/annotations".to_owned(),
            json!({"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}),
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
             \"container.apparmor.security.beta.kubernetes.io/main=\"unconfined\"\")",
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
             \"container.apparmor.security.beta.kubernetes.io/main=\"unconfined\"\")",
        ),
        (
            format!("{main}/seLinuxOptions"),
            json!({"type": "spc_t", "user": "u"}),
            "seLinuxOptions (container \"main\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user \
             may not be set)",
            "seLinuxOptions (container \"main\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user \
             may not be set)",
        ),
        (
            "/spec/securityContext/sysctls".to_owned(),
            json!([{"name": "kernel.msgmax", "value": "1"}, {"name": "net.ipv4.tcp_rmem", "value": "1"}]),
            "forbidden sysctls (kernel.msgmax)",
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            format!("{main}/windowsOptions"),
            json!({"hostProcess": true}),
            "hostProcess (container \"main\" must not set securityContext.windowsOptions.hostProcess=true)",
            "hostProcess (container \"main\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            "/spec/volumes".to_owned(),
            json!([{"name": "h", "hostPath": {"path": "/a"}}, {"name": "i", "image": {"reference": "x"}}]),
            "hostPath volumes (volume \"h\")",
            "restricted volume types (volumes \"h\", \"i\" use restricted volume types \"hostPath\", \"image\")",
        ),
        (
            format!("{init}/runAsNonRoot"),
            json!(false),
            "",
            "runAsNonRoot != true (container \"first\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            "/spec/securityContext/runAsUser".to_owned(),
            json!(0),
            "",
            "runAsUser=0 (pod must not set runAsUser=0)",
        ),
        (format!("{main}/runAsUser"), json!(1000), "", ""),
    ];
    for (pointer, value, baseline, restricted) in rows {
        let pod = with(good(), &pointer, value.clone());
        assert_eq!(told("baseline:latest", &pod), baseline, "{pointer} {value}");
        assert_eq!(told("restricted:latest", &pod), restricted, "{pointer} {value}");
    }
}

#[test]
fn what_the_pod_says_holds_for_its_containers() {
    let silent = with(good(), "/spec/securityContext", json!({}));
    assert_eq!(
        told("restricted:latest", &silent),
        "runAsNonRoot != true (pod or containers \"first\", \"main\", \"added\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"first\", \"main\", \"added\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let mut each = silent;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let context = &mut each["spec"][list][0]["securityContext"];
        context["runAsNonRoot"] = json!(true);
        context["seccompProfile"] = json!({"type": "Localhost", "localhostProfile": "p"});
    }
    assert_eq!(told("restricted:latest", &each), "");
    let denied = with(each, "/spec/securityContext/runAsNonRoot", json!(false));
    assert_eq!(
        told("restricted:latest", &denied),
        "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)"
    );
}

#[test]
fn the_rules_of_older_versions_hold_where_they_are_asked_for() {
    let rows = [
        (
            "/spec/containers/0/livenessProbe",
            json!({"tcpSocket": {"port": 1, "host": "h"}}),
            33,
        ),
        ("/spec/securityContext/runAsUser", json!(0), 22),
    ];
    for (pointer, value, last) in rows {
        let pod = with(good(), pointer, value);
        assert_eq!(told(&format!("restricted:v1.{last}"), &pod), "", "{pointer}");
        assert_ne!(told(&format!("restricted:v1.{}", last + 1), &pod), "", "{pointer}");
        assert_ne!(told("restricted:v1.999", &pod), "", "{pointer}");
    }
    let sysctl = json!([{"name": "net.ipv4.tcp_fin_timeout", "value": "1"}]);
    let pod = with(good(), "/spec/securityContext/sysctls", sysctl);
    assert_eq!(
        told("baseline:v1.28", &pod),
        "forbidden sysctls (net.ipv4.tcp_fin_timeout)"
    );
    assert_eq!(told("baseline:v1.29", &pod), "");
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(name, value): &(&str, &str)| (format!("{PREFIX}{name}"), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn a_policy_by_its_labels() {
    assert_eq!(Policy::of(&labels(&[])), Policy::OPEN);
    let policy = Policy::of(&labels(&[("enforce", "baseline"), ("enforce-version", "v1.30")]));
    assert_eq!(policy.enforce.to_string(), "baseline:v1.30");
    assert_eq!(policy.warn.to_string(), "baseline:v1.30");
    assert_eq!(policy.audit.to_string(), "privileged:latest");
    let policy = Policy::of(&labels(&[("warn", "restricted"), ("audit", "baseline")]));
    assert_eq!(policy.enforce.to_string(), "privileged:latest");
    assert_eq!(policy.warn.to_string(), "restricted:latest");
    assert_eq!(policy.audit.to_string(), "baseline:latest");
    let misspelt = Policy::of(&labels(&[("enforce", "strict"), ("enforce-version", "1.30")]));
    assert_eq!(misspelt.enforce.to_string(), "restricted:latest");
}

#[test]
fn labels_that_mean_nothing_are_refused() {
    for (pairs, expected) in [
        (labels(&[("enforce", "baseline"), ("warn-version", "latest")]), vec![]),
        (
            labels(&[("enforce", "strict")]),
            vec![
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of \
                 privileged, baseline, restricted",
            ],
        ),
        (
            labels(&[("audit-version", "1.30"), ("warn", ""), ("warn-version", "v1.030")]),
            vec![
                "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"1.30\": must be \
                 \"latest\" or \"v1.x\"",
                "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"\": must be one of privileged, \
                 baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.030\": must be \
                 \"latest\" or \"v1.x\"",
            ],
        ),
    ] {
        let mut findings = Findings::default();
        let metadata = ObjectMeta {
            labels: Some(pairs),
            ..ObjectMeta::default()
        };
        check_labels(&metadata, &mut findings);
        let found = findings.finish().err().unwrap_or_default();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn only_images_and_containers_matter_to_a_change() {
    let pod = |value: Value| serde_json::from_value::<Pod>(value).expect("a pod");
    let before = pod(good());
    let significant = |pointer: &str, value: Value| is_significant(&before, &pod(with(good(), pointer, value)));
    assert!(!significant("/metadata/annotations", json!({"a": "b"})));
    assert!(!significant("/spec/activeDeadlineSeconds", json!(1)));
    assert!(significant("/spec/containers/0/image", json!("other")));
    assert!(significant("/spec/initContainers/0/image", json!("other")));
    assert!(significant("/spec/ephemeralContainers", json!([])));
}
