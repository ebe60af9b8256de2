use serde_json::{Value, json};

use super::*;

fn node(spec: &Value) -> NodeView {
    NodeView::of(
        "node-1",
        &json!({
            "metadata": {"name": "node-1", "labels": {"kubernetes.io/hostname": "node-1", "disk": "ssd", "cores": "8"}},
            "spec": spec,
        }),
    )
}

fn placed(pod: &Value, spec: &Value) -> Placement {
    let mut pod = pod.clone();
    pod["containers"] = json!([]);
    place(&serde_json::from_value(pod).unwrap(), &node(spec))
}

fn refused(reason: &str) -> Placement {
    Placement::Unschedulable(format!(
        "0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    ))
}

#[test]
fn a_pod_is_placed_by_its_name_its_scheduler_and_its_gates_first() {
    for (pod, expected) in [
        (json!({}), Placement::Fits),
        (json!({"schedulerName": "default-scheduler"}), Placement::Fits),
        (json!({"nodeName": "node-1"}), Placement::Bound),
        (json!({"nodeName": "elsewhere"}), Placement::Bound),
        (json!({"schedulerName": "mine"}), Placement::Foreign),
        (json!({"schedulingGates": [{"name": "wait"}]}), Placement::Gated),
        (
            json!({"schedulingGates": [{"name": "wait"}], "schedulerName": "mine"}),
            Placement::Gated,
        ),
    ] {
        assert_eq!(placed(&pod, &json!({})), expected, "{pod}");
    }
}

#[test]
fn node_selectors_want_every_pair() {
    for (selector, fits) in [
        (json!({"disk": "ssd"}), true),
        (json!({"disk": "ssd", "cores": "8"}), true),
        (json!({"disk": "ssd", "gpu": "yes"}), false),
        (json!({"disk": "hdd"}), false),
    ] {
        let found = placed(&json!({"nodeSelector": selector}), &json!({}));
        let expected = if fits {
            Placement::Fits
        } else {
            refused("node(s) didn't match Pod's node affinity/selector")
        };
        assert_eq!(found, expected, "{selector}");
    }
}

#[test]
fn required_affinity_wants_one_whole_term() {
    let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    for (terms, fits) in [
        (json!([expression("disk", "In", json!(["hdd", "ssd"]))]), true),
        (json!([expression("disk", "NotIn", json!(["ssd"]))]), false),
        (json!([expression("gpu", "NotIn", json!(["a"]))]), true),
        (json!([expression("gpu", "Exists", json!([]))]), false),
        (json!([expression("gpu", "DoesNotExist", json!([]))]), true),
        (json!([expression("cores", "Gt", json!(["4"]))]), true),
        (json!([expression("cores", "Gt", json!(["8"]))]), false),
        (json!([expression("cores", "Lt", json!(["9"]))]), true),
        (json!([expression("disk", "Lt", json!(["9"]))]), false),
        (json!([expression("gpu", "Gt", json!(["4"]))]), false),
        // Terms are alternatives, the parts of one are not.
        (
            json!([
                expression("gpu", "Exists", json!([])),
                expression("disk", "Exists", json!([]))
            ]),
            true,
        ),
        (
            json!([{"matchExpressions": [{"key": "disk", "operator": "Exists"}, {"key": "gpu", "operator": "Exists"}]}]),
            false,
        ),
        (
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]),
            true,
        ),
        (
            json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]}]),
            false,
        ),
        // What says nothing matches nothing.
        (json!([{}]), false),
        (json!([]), false),
    ] {
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        let found = placed(&json!({"affinity": affinity}), &json!({}));
        assert_eq!(found == Placement::Fits, fits, "{terms}: {found:?}");
    }
}

#[test]
fn taints_keep_away_what_does_not_tolerate_them() {
    let taint = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
    for (tolerations, effect, fits) in [
        (json!([]), "NoSchedule", false),
        (json!([]), "NoExecute", false),
        (json!([]), "PreferNoSchedule", true),
        (json!([{"key": "k", "value": "v"}]), "NoSchedule", true),
        (
            json!([{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]),
            "NoSchedule",
            true,
        ),
        (json!([{"key": "k", "value": "other"}]), "NoSchedule", false),
        (
            json!([{"key": "k", "value": "v", "effect": "NoExecute"}]),
            "NoSchedule",
            false,
        ),
        (json!([{"key": "k", "operator": "Exists"}]), "NoExecute", true),
        (json!([{"operator": "Exists"}]), "NoExecute", true),
        (json!([{"key": "other", "operator": "Exists"}]), "NoExecute", false),
    ] {
        let found = placed(&json!({"tolerations": tolerations}), &taint(effect));
        let expected = if fits {
            Placement::Fits
        } else {
            refused("node(s) had untolerated taint {k: v}")
        };
        assert_eq!(found, expected, "{tolerations} {effect}");
    }
    assert_eq!(
        placed(&json!({}), &json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})),
        refused("node(s) had untolerated taint {k: }")
    );
}

#[test]
fn a_cordoned_node_takes_only_what_tolerates_it() {
    let cordoned = json!({
        "unschedulable": true,
        "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}],
    });
    assert_eq!(placed(&json!({}), &cordoned), refused("node(s) were unschedulable"));
    let daemon = json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]});
    assert_eq!(placed(&daemon, &cordoned), Placement::Fits);
    // Whoever names the node himself asks no scheduler.
    assert_eq!(placed(&json!({"nodeName": "node-1"}), &cordoned), Placement::Bound);
}

#[test]
fn a_pod_that_never_preempts_is_told_so() {
    let pod = json!({"nodeSelector": {"gpu": "yes"}, "preemptionPolicy": "Never"});
    assert_eq!(
        placed(&pod, &json!({})),
        Placement::Unschedulable(
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: not eligible due to preemptionPolicy=Never."
                .to_owned()
        )
    );
}

#[test]
fn a_bare_node_has_the_labels_of_its_machine() {
    let bare = NodeView::bare("n");
    assert_eq!(bare.labels["kubernetes.io/hostname"], "n");
    assert_eq!(bare.labels["kubernetes.io/os"], "linux");
    assert_eq!(NodeView::of("n", &json!("no node")), bare);
}

#[test]
fn a_node_short_of_memory_takes_pods_that_ask_for_some() {
    let short = |effect: &str| json!({"taints": [{"key": "node.kubernetes.io/memory-pressure", "effect": effect}]});
    let refusal = refused("node(s) had untolerated taint {node.kubernetes.io/memory-pressure: }");
    for (resources, fits) in [
        (json!(null), false),
        (json!({"requests": {"ephemeral-storage": "1Gi"}}), false),
        (json!({"requests": {"memory": "0"}}), false),
        (json!({"limits": {"cpu": "1"}}), true),
        (json!({"requests": {"memory": "1Mi"}}), true),
    ] {
        let pod = json!({"containers": [{"name": "c", "resources": resources}]});
        let placed = |effect| place(&serde_json::from_value(pod.clone()).unwrap(), &node(&short(effect)));
        let expected = if fits { Placement::Fits } else { refusal.clone() };
        assert_eq!(placed("NoSchedule"), expected, "{resources}");
        assert_eq!(placed("NoExecute"), refusal, "somebody else's taint");
    }
}

#[test]
fn a_pod_leaves_when_the_first_of_its_tolerations_has_run_out() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let bound = at("2026-01-01T00:00:00Z");
    let taints = json!([
        {"key": "a", "effect": "NoExecute", "timeAdded": "2026-01-01T01:00:00Z"},
        {"key": "b", "effect": "NoExecute", "timeAdded": "2025-01-01T00:00:00Z"},
        {"key": "c", "effect": "NoSchedule"},
    ]);
    let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
    let toleration =
        |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
    for (tolerations, leaves) in [
        (json!([]), Some(Timestamp::MIN)),
        (json!([toleration("a", Value::Null)]), Some(Timestamp::MIN)),
        (json!([{"operator": "Exists"}]), None),
        (
            json!([toleration("a", 10.into()), toleration("b", Value::Null)]),
            Some(at("2026-01-01T01:00:10Z")),
        ),
        (
            json!([toleration("a", 10.into()), toleration("b", 20.into())]),
            Some(at("2026-01-01T00:00:20Z")),
        ),
        (
            json!([toleration("a", Value::Null), toleration("b", (-5).into())]),
            Some(bound),
        ),
        // The first that covers a taint counts.
        (
            json!([toleration("b", 5.into()), {"operator": "Exists"}]),
            Some(at("2026-01-01T00:00:05Z")),
        ),
    ] {
        let pod: PodSpec = serde_json::from_value(json!({"containers": [], "tolerations": tolerations})).unwrap();
        assert_eq!(leaves_at(Some(&pod), &taints, bound), leaves, "{tolerations}");
    }
}
