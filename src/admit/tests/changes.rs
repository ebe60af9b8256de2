//! What may be changed in a pod that is there, and what is said of the rest.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{admit, context, full_pod, small_pod, wire, with};
use crate::admit::{AdmitContext, Admitted, Fault, change};

type Rules = fn(&Pod, Pod, &AdmitContext<'_>) -> Result<Admitted, Vec<Fault>>;

/// What a change of the (admitted) pod at this place comes to: its faults, or nothing.
fn changed(rules: Rules, pod: Value, pointer: &str, value: Value) -> Vec<String> {
    let before = admit(pod).expect("admitted").pod;
    let after = with(serde_json::to_value(&before).expect("JSON"), pointer, value);
    let result = rules(&before, wire(after), &context());
    result
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn updated(pod: Value, pointer: &str, value: Value) -> Vec<String> {
    changed(change::update, pod, pointer, value)
}

fn with_init() -> Value {
    let init = json!([
        {"name": "i", "image": "busybox:1", "resources": {"requests": {"cpu": "10m"}}},
        {"name": "s", "image": "busybox:1", "restartPolicy": "Always"},
    ]);
    with(small_pod(), "/spec/initContainers", init)
}

const ONLY: &str = "spec: Forbidden: pod updates may not change fields other than \
                    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                    `spec.tolerations` (only additions to existing tolerations),\
                    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";

#[test]
fn images_may_change_and_little_else() {
    assert_eq!(
        updated(small_pod(), "/spec/containers/0/image", json!("nginx:2")),
        [""; 0]
    );
    assert_eq!(
        updated(with_init(), "/spec/initContainers/1/image", json!("nginx:2")),
        [""; 0]
    );
    assert_eq!(
        updated(small_pod(), "/spec/containers/0/image", json!("")),
        ["spec.containers[0].image: Required value"]
    );
    assert_eq!(
        updated(small_pod(), "/spec/containers/0/command", json!(["x"])),
        [format!(
            "{ONLY}- containers[0].command: null\n+ containers[0].command: [\"x\"]"
        )]
    );
    assert_eq!(
        updated(full_pod(), "/spec/containers/0/resources/limits/cpu", json!("2")),
        [format!(
            "{ONLY}- containers[0].resources.limits.cpu: \"1.5\"\n+ containers[0].resources.limits.cpu: \"2\""
        )]
    );
    let two = json!([{"name": "c", "image": "a"}, {"name": "d", "image": "a"}]);
    assert_eq!(
        updated(small_pod(), "/spec/containers", two),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    assert_eq!(
        updated(with_init(), "/spec/initContainers", json!([])),
        ["spec.initContainers: Forbidden: pod updates may not add or remove containers"]
    );
    let long = updated(small_pod(), "/spec/containers/0/args", json!(["ä".repeat(1_000)])).join("");
    assert!(long.len() < 1_000 && long.ends_with("..."), "{long}");
}

#[test]
fn a_deadline_is_set_or_comes_nearer() {
    let at = "/spec/activeDeadlineSeconds";
    let with_deadline = || with(small_pod(), at, json!(60));
    assert_eq!(updated(small_pod(), at, json!(60)), [""; 0]);
    assert_eq!(updated(with_deadline(), at, json!(59)), [""; 0]);
    assert_eq!(
        updated(with_deadline(), at, json!(61)),
        ["spec.activeDeadlineSeconds: Invalid value: 61: must be less than or equal to previous value"]
    );
    assert_eq!(
        updated(with_deadline(), at, Value::Null),
        ["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"]
    );
    assert_eq!(
        updated(with_deadline(), at, json!(0)),
        ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"]
    );
}

#[test]
fn tolerations_come_and_gates_go() {
    let one = json!({"key": "a", "operator": "Exists", "effect": "NoExecute"});
    let tolerating = || with(small_pod(), "/spec/tolerations", json!([one]));
    let longer = with(one.clone(), "/tolerationSeconds", json!(9));
    let more = json!([longer, {"key": "b", "operator": "Exists"}]);
    assert_eq!(updated(tolerating(), "/spec/tolerations", more), [""; 0]);
    assert_eq!(
        updated(tolerating(), "/spec/tolerations", json!([])),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    let gated = || with(small_pod(), "/spec/schedulingGates", json!([{"name": "a.b/c"}]));
    assert_eq!(updated(gated(), "/spec/schedulingGates", json!([])), [""; 0]);
    assert_eq!(
        updated(gated(), "/spec/schedulingGates/1", json!({"name": "a.b/d"})),
        ["spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a.b/d'"]
    );
    // A gated pod's place may still become narrower.
    let selecting = with(gated(), "/spec/nodeSelector", json!({"a": "1"}));
    let selector = "/spec/nodeSelector";
    assert_eq!(
        updated(selecting.clone(), selector, json!({"a": "1", "b": "2"})),
        [""; 0]
    );
    assert_eq!(
        updated(selecting, selector, json!({"a": "2"})),
        [
            "spec.nodeSelector: Invalid value: {\"a\":\"2\"}: only additions are allowed to spec.nodeSelector (no \
             mutations or deletions)"
        ]
    );
}

#[test]
fn the_affinity_of_a_gated_pod_becomes_narrower() {
    let at = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let in_words = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let exists = |key: &str| json!({"key": key, "operator": "Exists"});
    let gated = || with(small_pod(), "/spec/schedulingGates", json!([{"name": "a.b/c"}]));
    let choosy = || with(gated(), at, json!([{"matchExpressions": [exists("a")]}]));
    let more = json!([{"matchExpressions": [exists("a"), exists("b")]}]);
    assert_eq!(updated(gated(), at, more.clone()), [""; 0]);
    assert_eq!(updated(choosy(), at, more.clone()), [""; 0]);
    assert_eq!(
        updated(choosy(), at, json!([{"matchExpressions": [exists("b")]}])),
        [format!(
            "{in_words}[0]: Invalid value: {{\"matchExpressions\":[{{\"key\":\"b\",\"operator\":\"Exists\"}}]}}: only \
             additions are allowed (no mutations or deletions)"
        )]
    );
    assert_eq!(
        updated(choosy(), "/spec/affinity", Value::Null),
        [format!(
            "{in_words}: Invalid value: []: no additions/deletions to non-empty NodeSelectorTerms list are allowed"
        )]
    );
    // Once it may be placed, it stays as it is.
    let placed = updated(small_pod(), at, more).join("");
    assert!(placed.starts_with(ONLY), "{placed}");
}

#[test]
fn a_resize_changes_cpu_and_memory_alone() {
    let resized = |pod, pointer: &str, value| changed(change::resize, pod, pointer, value);
    let at = "/spec/containers/0/resources";
    let limits = "/spec/containers/0/resources/limits";
    // full: Burstable, limits 1.5 cpu and 128Mi, requests 250m and 128Mi.
    assert_eq!(resized(full_pod(), &format!("{limits}/cpu"), json!("2")), [""; 0]);
    assert_eq!(
        resized(full_pod(), &format!("{limits}/memory"), json!("256Mi")),
        [""; 0]
    );
    assert_eq!(
        resized(full_pod(), &format!("{limits}/cpu"), json!("100m")),
        [
            "spec.containers[0].resources.requests: Invalid value: \"250m\": must be less than or equal to cpu limit of 100m"
        ]
    );
    assert_eq!(
        resized(full_pod(), at, json!({"requests": {"memory": "128Mi", "cpu": "250m"}})),
        ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]
    );
    assert_eq!(
        resized(small_pod(), at, json!({"requests": {"cpu": "1"}})),
        ["spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing"]
    );
    assert_eq!(
        resized(full_pod(), &format!("{limits}/ephemeral-storage"), json!("1Gi")),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    assert_eq!(
        resized(full_pod(), "/spec/containers/0/resizePolicy", policy),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
    assert_eq!(
        resized(full_pod(), "/spec/containers/1/name", json!("other")),
        ["spec.containers[1].name: Forbidden: containers may not be renamed or reordered on resize"]
    );
    assert_eq!(
        resized(full_pod(), "/spec/containers", json!([])),
        ["spec.containers: Forbidden: containers may not be added or removed on resize"]
    );
    let of_init = |i: usize| format!("/spec/initContainers/{i}/resources");
    assert_eq!(
        resized(with_init(), &of_init(1), json!({"requests": {"cpu": "1"}})),
        [""; 0]
    );
    assert_eq!(
        resized(with_init(), &of_init(0), json!({"requests": {"cpu": "1"}})),
        ["spec: Forbidden: resources for non-sidecar init containers are immutable"]
    );
    assert_eq!(
        resized(small_pod(), "/spec/resources", json!({"limits": {"cpu": "1"}})),
        ["spec.resources: Forbidden: podd does not support other resources for a whole pod that is there yet"]
    );
    // What else was sent is not looked at.
    assert_eq!(resized(full_pod(), "/spec/containers/0/image", json!("other")), [""; 0]);
}

#[test]
fn ephemeral_containers_come_and_stay() {
    let added = |pod: Value, list: Value| changed(change::ephemeral_containers, pod, "/spec/ephemeralContainers", list);
    let one = json!({"name": "debug", "image": "busybox:1", "targetContainerName": "c", "stdin": true, "tty": true});
    assert_eq!(added(small_pod(), json!([one])), [""; 0]);
    let at = "spec.ephemeralContainers";
    let not = "cannot be set for an Ephemeral Container";
    let mut bad = one.clone();
    bad["targetContainerName"] = json!("nobody");
    bad["name"] = json!("c");
    bad["ports"] = json!([{"containerPort": 80}]);
    bad["resources"] = json!({"limits": {"cpu": "1"}});
    bad["livenessProbe"] = json!({"exec": {"command": ["true"]}});
    bad["lifecycle"] = json!({});
    bad["restartPolicy"] = json!("Always");
    assert_eq!(
        added(small_pod(), json!([bad])),
        [
            format!("{at}[0].lifecycle: Forbidden: {not}"),
            format!("{at}[0].livenessProbe: Forbidden: {not}"),
            format!("{at}[0].ports: Forbidden: {not}"),
            format!("{at}[0].resources: Forbidden: {not}"),
            format!("{at}[0].restartPolicy: Forbidden: {not}"),
            format!("{at}[0].name: Duplicate value: \"c\""),
            format!("{at}[0].targetContainerName: Not found: \"nobody\""),
        ]
    );

    let pod = admit(small_pod()).expect("admitted").pod;
    let with_list = |list: Value| {
        wire(with(
            serde_json::to_value(&pod).expect("JSON"),
            "/spec/ephemeralContainers",
            list,
        ))
    };
    let before = change::ephemeral_containers(&pod, with_list(json!([one])), &context())
        .expect("added")
        .pod;
    let model = crate::admit::to_model(&before).expect("understood");
    assert_eq!(model.ephemeral_containers[0].life.target.as_deref(), Some("c"));
    let again = |list: Value| {
        let result = change::ephemeral_containers(&before, with_list(list), &context());
        let faults = result.err().unwrap_or_default();
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let two = json!({"name": "debug-2", "image": "busybox:1"});
    assert_eq!(again(json!([two, one])), [""; 0]);
    assert_eq!(
        again(json!([two])),
        [format!(
            "{at}: Forbidden: existing ephemeral containers \"debug\" may not be removed\n"
        )]
    );
    let other = with(one.clone(), "/image", json!("busybox:2"));
    assert_eq!(
        again(json!([other])),
        [format!(
            "{at}: Forbidden: existing ephemeral containers \"debug\" may not be changed\n- image: \"busybox:1\"\n\
             + image: \"busybox:2\""
        )]
    );
    // They are no part of what an update may change.
    let removed = change::update(&before, with_list(json!(null)), &context()).expect_err("refused");
    assert!(removed[0].to_string().starts_with(ONLY), "{removed:?}");
}

#[test]
fn what_stands_for_a_file_keeps_its_mark() {
    let mark = "/metadata/annotations/kubernetes.io~1config.mirror";
    let marked = || with(small_pod(), mark, json!("x"));
    let at = "metadata.annotations[kubernetes.io/config.mirror]";
    assert_eq!(
        updated(small_pod(), mark, json!("x")),
        [format!("{at}: Forbidden: may not add mirror pod annotation")]
    );
    assert_eq!(
        updated(marked(), mark, json!("y")),
        [format!(
            "{at}: Forbidden: may not remove or update mirror pod annotation"
        )]
    );
    let resources = json!({"requests": {"cpu": "1"}});
    assert_eq!(
        changed(change::resize, marked(), "/spec/containers/0/resources", resources),
        [": Forbidden: static pods cannot be resized"]
    );
    let debug = json!([{"name": "e", "image": "a"}]);
    assert_eq!(
        changed(
            change::ephemeral_containers,
            marked(),
            "/spec/ephemeralContainers",
            debug
        ),
        [": Forbidden: static pods do not support ephemeral containers"]
    );
}
