//! Where and when a pod is to run: the rules of the fields, and the tolerations that every new pod gets.

use serde_json::{Value, json};

use super::{admit, faults, small_pod, wire, with};

const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                         an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

fn required(terms: &Value) -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
}

#[test]
fn placement_is_checked_as_kubernetes_checks_it() {
    let affinity = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let expression = |operator: &str, values: Value| {
        required(&json!([{"matchExpressions": [{"key": "k", "operator": operator, "values": values}]}]))
    };
    for (pointer, value, expected) in [
        (
            "/spec/nodeSelector",
            json!({"a b": "c"}),
            format!("spec.nodeSelector: Invalid value: \"a b\": {QUALIFIED}"),
        ),
        (
            "/spec/schedulingGates",
            json!([{"name": "a"}, {"name": "a"}]),
            "spec.schedulingGates[1]: Duplicate value: \"a\"".to_owned(),
        ),
        (
            "/spec/schedulingGates",
            json!([{"name": "a b"}]),
            format!("spec.schedulingGates[0]: Invalid value: \"a b\": {QUALIFIED}"),
        ),
        (
            "/spec/readinessGates",
            json!([{"conditionType": "a b"}]),
            format!("spec.readinessGates[0].conditionType: Invalid value: \"a b\": {QUALIFIED}"),
        ),
        (
            "/spec/tolerations",
            json!([{"value": "v"}]),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \
             \"match all values and all keys\""
                .to_owned(),
        ),
        (
            "/spec/tolerations",
            json!([{"key": "k", "operator": "Exists", "value": "v"}]),
            "spec.tolerations[0].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'"
                .to_owned(),
        ),
        (
            "/spec/tolerations",
            json!([{"key": "k", "operator": "Like"}]),
            "spec.tolerations[0].operator: Unsupported value: \"Like\": supported values: \"Equal\", \"Exists\"".to_owned(),
        ),
        (
            "/spec/tolerations",
            json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1}]),
            "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set"
                .to_owned(),
        ),
        (
            "/spec/tolerations",
            json!([{"key": "k", "operator": "Exists", "effect": "Never"}]),
            "spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
             \"PreferNoSchedule\", \"NoExecute\""
                .to_owned(),
        ),
        (
            "/spec/affinity",
            required(&json!([])),
            format!("{affinity}: Required value: must have at least one node selector term"),
        ),
        (
            "/spec/affinity",
            expression("In", json!([])),
            format!(
                "{affinity}[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or \
                 'NotIn'"
            ),
        ),
        (
            "/spec/affinity",
            expression("Exists", json!(["v"])),
            format!(
                "{affinity}[0].matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' \
                 or 'DoesNotExist'"
            ),
        ),
        (
            "/spec/affinity",
            expression("Gt", json!(["1", "2"])),
            format!(
                "{affinity}[0].matchExpressions[0].values: Required value: must be specified single value when \
                 `operator` is 'Lt' or 'Gt'"
            ),
        ),
        (
            "/spec/affinity",
            expression("Near", json!(["1"])),
            format!(
                "{affinity}[0].matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator"
            ),
        ),
        (
            "/spec/affinity",
            required(&json!([{"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["x"]}]}])),
            format!("{affinity}[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key"),
        ),
        (
            "/spec/affinity",
            required(&json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["x", "y"]}]}])),
            format!(
                "{affinity}[0].matchFields[0].values: Required value: must be only one value when `operator` is 'In' or \
                 'NotIn' for node field selector"
            ),
        ),
    ] {
        assert_eq!(faults(with(small_pod(), pointer, value.clone())), [expected], "{value}");
    }
}

#[test]
fn a_gated_pod_cannot_name_its_node() {
    let pod = with(small_pod(), "/spec/nodeName", json!("node-1"));
    let pod = with(pod, "/spec/schedulingGates", json!([{"name": "a"}]));
    assert_eq!(
        faults(pod),
        ["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"]
    );
}

#[test]
fn a_pod_for_another_node_or_scheduler_is_taken() {
    for (pointer, value) in [
        ("/spec/nodeName", json!("elsewhere")),
        ("/spec/nodeSelector", json!({"disk": "ssd"})),
        ("/spec/schedulerName", json!("mine")),
    ] {
        let admitted = admit(with(small_pod(), pointer, value)).expect("admitted");
        assert_eq!(admitted.warnings, Vec::<String>::new());
    }
}

#[test]
fn new_pods_stay_five_minutes_on_a_node_that_fails() {
    let completed = |tolerations: Value| {
        let mut pod = wire(with(small_pod(), "/spec/tolerations", tolerations));
        crate::admit::complete(&mut pod);
        crate::admit::complete(&mut pod);
        serde_json::to_value(pod.spec.expect("a spec").tolerations).expect("JSON")
    };
    let usual = |key: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    assert_eq!(
        completed(json!(null)),
        json!([usual("not-ready"), usual("unreachable")])
    );
    let mine = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
    assert_eq!(completed(json!([mine])), json!([mine, usual("unreachable")]));
    let all = json!([{"operator": "Exists"}]);
    assert_eq!(completed(all.clone()), all);
    let other = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"});
    assert_eq!(
        completed(json!([other])),
        json!([other, usual("not-ready"), usual("unreachable")])
    );
}
