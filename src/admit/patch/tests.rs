//! Strategic merge patches as kubectl sends them, as Kubernetes' documents describe them, and as nobody should.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::admit::wire::{Count, Kind, MergeBy, Message};

fn patched(kind: &str, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let mut object = object.clone();
    let api_version = match kind {
        "Lease" => "coordination.k8s.io/v1",
        "Deployment" => "apps/v1",
        _ => "v1",
    };
    strategic(&mut object, patch.clone(), api_version, kind)?;
    Ok(object)
}

/// A pod of this spec, patched by this spec.
fn spec(before: &Value, patch: &Value) -> Result<Value, PatchError> {
    Ok(patched("Pod", &json!({ "spec": before }), &json!({ "spec": patch }))?["spec"].clone())
}

#[test]
fn fields_merge_nulls_remove_and_what_is_not_named_stays() {
    for (kind, before, patch, after) in [
        (
            "ConfigMap",
            json!({"data": {"a": "1", "b": "2"}, "immutable": false}),
            json!({"data": {"a": null, "c": "3"}}),
            json!({"data": {"b": "2", "c": "3"}, "immutable": false}),
        ),
        (
            "Secret",
            json!({"data": {"a": "MQ=="}}),
            json!({"stringData": {"b": "2"}, "data": null}),
            json!({"stringData": {"b": "2"}}),
        ),
        (
            "Node",
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}], "podCIDRs": ["10.0.0.0/24"]}}),
            json!({"spec": {"unschedulable": true, "taints": [{"key": "b", "effect": "NoExecute"}], "podCIDRs": ["fd00::/64"]}}),
            // Taints are replaced as a whole, podCIDRs are a set.
            json!({"spec": {"unschedulable": true, "taints": [{"key": "b", "effect": "NoExecute"}],
                "podCIDRs": ["fd00::/64", "10.0.0.0/24"]}}),
        ),
        (
            "Namespace",
            json!({"metadata": {"name": "n", "finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}),
            json!({"metadata": {"name": "n", "finalizers": ["c", "b"]}}),
        ),
        (
            "ServiceAccount",
            json!({"secrets": [{"name": "a"}], "imagePullSecrets": [{"name": "x"}]}),
            json!({"secrets": [{"name": "b"}], "imagePullSecrets": [{"name": "y"}]}),
            json!({"secrets": [{"name": "b"}, {"name": "a"}], "imagePullSecrets": [{"name": "y"}]}),
        ),
        (
            "Lease",
            json!({"spec": {"holderIdentity": "a", "leaseTransitions": 1}}),
            json!({"spec": {"holderIdentity": "b"}}),
            json!({"spec": {"holderIdentity": "b", "leaseTransitions": 1}}),
        ),
        (
            "Event",
            json!({"involvedObject": {"name": "p", "kind": "Pod"}, "count": 1}),
            json!({"count": 2, "series": {"count": 2}}),
            json!({"involvedObject": {"name": "p", "kind": "Pod"}, "count": 2, "series": {"count": 2}}),
        ),
        (
            "PodTemplate",
            json!({"template": {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}}}),
            json!({"template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}}),
            json!({"template": {"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "b"}]}}}),
        ),
    ] {
        assert_eq!(patched(kind, &before, &patch).unwrap(), after, "{kind}");
    }
}

#[test]
fn what_kubectl_apply_sent_after_a_template_lost_an_item_of_each_list() {
    let before = json!({"spec": {"template": {"spec": {
        "containers": [
            {"name": "x", "args": ["a", "b"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
             "ports": [{"containerPort": 80}, {"containerPort": 81, "protocol": "TCP"}]},
            {"name": "y"},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    }}}});
    // kubectl-wire.md, section 11.
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "x"}], "$setElementOrder/volumes": [{"name": "v"}],
        "containers": [
            {"$setElementOrder/env": [{"name": "B"}], "$setElementOrder/ports": [{"containerPort": 81}], "args": ["c"],
             "env": [{"$patch": "delete", "name": "A"}], "name": "x", "ports": [{"$patch": "delete", "containerPort": 80}]},
            {"$patch": "delete", "name": "y"},
        ],
        "volumes": [{"$retainKeys": ["hostPath", "name"], "emptyDir": null, "hostPath": {"path": "/x"}, "name": "v"}],
    }}}});
    let after = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "x", "args": ["c"], "env": [{"name": "B", "value": "2"}],
            "ports": [{"containerPort": 81, "protocol": "TCP"}]}],
        "volumes": [{"name": "v", "hostPath": {"path": "/x"}}],
    }}}});
    assert_eq!(patched("Deployment", &before, &patch).unwrap(), after);
}

#[test]
fn directives_replace_and_delete() {
    let before = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}], "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
        "securityContext": {"runAsUser": 1, "fsGroup": 2}, "nodeSelector": {"a": "1"}});
    for (patch, field, after) in [
        (
            json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
            "containers",
            json!([{"name": "c"}]),
        ),
        (
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            "containers",
            json!([{"name": "b"}]),
        ),
        (
            json!({"containers": [{"name": "z", "$patch": "delete"}]}),
            "containers",
            json!([{"name": "a", "image": "1"}, {"name": "b"}]),
        ),
        (
            json!({"securityContext": {"$patch": "replace", "runAsGroup": 3}}),
            "securityContext",
            json!({"runAsGroup": 3}),
        ),
        (
            json!({"securityContext": {"$patch": "merge", "runAsGroup": 3}}),
            "securityContext",
            json!({"runAsUser": 1, "fsGroup": 2, "runAsGroup": 3}),
        ),
        (json!({"nodeSelector": {"$patch": "delete"}}), "nodeSelector", json!({})),
        (json!({"nodeSelector": null}), "nodeSelector", Value::Null),
        (
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {"sizeLimit": "1Gi"}}]}),
            "volumes",
            json!([{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]),
        ),
        // What is new stands first (as in Kubernetes' own example, patch-demo), without its directives and nulls.
        (
            json!({"containers": [{"name": "n", "image": null, "env": [{"name": "A", "$patch": "delete"}, {"name": "B"}],
                "$setElementOrder/env": [{"name": "B"}]}]}),
            "containers",
            json!([{"name": "n", "env": [{"name": "B"}]}, {"name": "a", "image": "1"}, {"name": "b"}]),
        ),
        (
            json!({"affinity": {"$patch": "replace", "nodeAffinity": {"$retainKeys": [], "x": null}}}),
            "affinity",
            json!({"nodeAffinity": {}}),
        ),
    ] {
        assert_eq!(spec(&before, &patch).unwrap()[field], after, "{patch}");
    }
}

#[test]
fn lists_without_a_key_are_replaced() {
    let before = json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "command": ["x"], "envFrom": [{"prefix": "P"}]}]});
    let patch =
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "command": ["y", "z"], "envFrom": []}]});
    assert_eq!(spec(&before, &patch).unwrap(), patch);
}

#[test]
fn the_order_that_is_asked_for_is_kept_and_strangers_keep_their_place() {
    let names = |order: &[&str]| order.iter().map(|name| json!({ "name": name })).collect::<Value>();
    for (before, order, part, after) in [
        (
            names(&["a", "b", "c"]),
            names(&["c", "a", "b"]),
            names(&[]),
            names(&["c", "a", "b"]),
        ),
        // `s` was put in by someone else, between the two.
        (
            names(&["a", "s", "b"]),
            names(&["b", "a"]),
            names(&[]),
            names(&["s", "b", "a"]),
        ),
        (
            names(&["a", "s", "b"]),
            names(&["a", "n", "b"]),
            names(&["n"]),
            names(&["a", "n", "s", "b"]),
        ),
        (
            names(&["s", "a"]),
            names(&["n", "a"]),
            names(&["n"]),
            names(&["n", "s", "a"]),
        ),
    ] {
        let mut patch = json!({ "$setElementOrder/containers": order });
        if part != json!([]) {
            patch["containers"] = part;
        }
        assert_eq!(
            spec(&json!({ "containers": before }), &patch).unwrap()["containers"],
            after,
            "{patch}"
        );
    }
    let finalizers = |list: Value| json!({"metadata": { "finalizers": list }});
    let patch = json!({"metadata": {"$setElementOrder/finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["c"]}});
    assert_eq!(
        patched("Pod", &finalizers(json!(["a", "b"])), &patch).unwrap(),
        finalizers(json!(["c", "a"]))
    );
}

#[test]
fn a_patch_that_cannot_be_meant_is_refused_with_its_place() {
    let before = json!({"containers": [{"name": "a"}]});
    for (patch, message) in [
        (json!({"$patch": "sideways"}), "spec: unknown patch type: \"sideways\""),
        (
            json!({"$setElemnetOrder/x": []}),
            "spec: unknown directive $setElemnetOrder/x",
        ),
        (json!({"new": {"$bogus": 1}}), "spec.new: unknown directive $bogus"),
        (json!({"$retainKeys": "x"}), "spec: invalid patch format of retainKeys"),
        (
            json!({"$retainKeys": ["a"], "b": 1}),
            "spec: invalid patch format of retainKeys",
        ),
        (
            json!({"$deleteFromPrimitiveList/x": "a"}),
            "spec: invalid patch format of primitive list",
        ),
        (
            json!({"$setElementOrder/containers": {}}),
            "containers: invalid patch format of setElementOrder list",
        ),
        (
            json!({"$setElementOrder/containers": [{"image": "a"}]}),
            "spec.containers: an item does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"image": "a"}]}),
            "spec.containers: an item does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"$patch": "delete"}]}),
            "spec.containers: an item does not contain declared merge key: name",
        ),
        (
            json!({"containers": ["a"]}),
            "spec.containers: expected a list of objects",
        ),
        (
            json!({"containers": [["a"]]}),
            "spec.containers: lists of lists are not supported",
        ),
        (
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "b"}, {"name": "a"}]}),
            "spec.containers: the order in the patch's list does not match its $setElementOrder list",
        ),
    ] {
        assert_eq!(spec(&before, &patch).unwrap_err().to_string(), message, "{patch}");
    }
    let mut object = json!({});
    assert_eq!(
        strategic(&mut object, json!({}), "v1", "Gizmo"),
        Err(PatchError::Unsupported)
    );
    assert_eq!(
        strategic(&mut object, json!([]), "v1", "Pod"),
        Err(PatchError::NoObject)
    );
}

#[test]
fn long_lists_merge_in_a_moment() {
    let names = |from: usize| {
        (from..from + 50_000)
            .map(|i| json!({"name": i.to_string()}))
            .collect::<Vec<_>>()
    };
    let after = spec(
        &json!({ "imagePullSecrets": names(0) }),
        &json!({ "imagePullSecrets": names(25_000) }),
    )
    .unwrap();
    assert_eq!(after["imagePullSecrets"].as_array().unwrap().len(), 75_000);
}

// ---- the patch that kubectl would send ----

/// A two-way strategic merge patch (`strategicpatch/patch.go`, `CreateTwoWayMergePatch`).
fn diff(before: &Map<String, Value>, after: &Map<String, Value>, of: Option<&'static Message>) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, value) in after {
        let field = of.and_then(|m| m.field(name));
        let inner = field.and_then(|f| match (&f.kind, f.count) {
            (Kind::Message(message), Count::One | Count::Many) => Some(*message),
            (_, Count::One | Count::Many | Count::Map) => None,
        });
        match (before.get(name), value) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(name.clone(), diff(old, new, inner).into());
            }
            (Some(Value::Array(old)), Value::Array(new)) => match field.and_then(|f| f.merge) {
                Some(MergeBy::Key(key)) => keyed(&mut patch, name, old, new, key, inner),
                Some(MergeBy::Value) => {
                    let gone: Vec<_> = old.iter().filter(|v| !new.contains(v)).cloned().collect();
                    let came: Vec<_> = new.iter().filter(|v| !old.contains(v)).cloned().collect();
                    patch.insert(format!("$setElementOrder/{name}"), new.clone().into());
                    if !gone.is_empty() {
                        patch.insert(format!("$deleteFromPrimitiveList/{name}"), gone.into());
                    }
                    if !came.is_empty() {
                        patch.insert(name.clone(), came.into());
                    }
                }
                None => {
                    patch.insert(name.clone(), value.clone());
                }
            },
            (_, new) => {
                patch.insert(name.clone(), new.clone());
            }
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

fn keyed(
    patch: &mut Map<String, Value>,
    name: &str,
    old: &[Value],
    new: &[Value],
    key: &str,
    of: Option<&'static Message>,
) {
    let old_one = |id: &Value| old.iter().find(|o| o[key] == *id).and_then(Value::as_object);
    let mut items = Vec::new();
    for item in new.iter().filter_map(Value::as_object) {
        match old_one(&item[key]) {
            Some(old) if old == item => {}
            Some(old) => {
                let mut changed = diff(old, item, of);
                changed.insert(key.to_owned(), item[key].clone());
                if name == "volumes" {
                    changed.insert(
                        "$retainKeys".to_owned(),
                        item.keys().cloned().map(Value::from).collect(),
                    );
                }
                items.push(changed.into());
            }
            None => items.push(item.clone().into()),
        }
    }
    for gone in old.iter().filter(|o| new.iter().all(|n| n[key] != o[key])) {
        items.push(json!({"$patch": "delete", key: gone[key]}));
    }
    let order: Value = new.iter().map(|n| json!({ key: n[key] })).collect();
    patch.insert(format!("$setElementOrder/{name}"), order);
    if !items.is_empty() {
        patch.insert(name.to_owned(), items.into());
    }
}

/// Some of these keys in some order, each with some value.
fn some_of<V: Strategy>(keys: &'static [&'static str], value: V) -> impl Strategy<Value = Vec<(&'static str, V::Value)>>
where
    V::Value: Clone,
{
    let values = proptest::collection::vec(value, keys.len());
    (
        proptest::sample::subsequence(keys, 0..=keys.len()).prop_shuffle(),
        values,
    )
        .prop_map(|(keys, values)| keys.into_iter().zip(values).collect())
}

fn text() -> impl Strategy<Value = String> {
    "[xyz]".prop_map(|s| s)
}

fn container() -> impl Strategy<Value = Value> {
    let env = some_of(&["A", "B", "C"], text());
    let ports = some_of(&["80", "81", "82"], proptest::bool::ANY);
    (text(), env, ports, proptest::option::of(proptest::collection::vec(text(), 0..3))).prop_map(|(image, env, ports, args)| {
        let env: Value = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let ports: Value = ports
            .into_iter()
            .map(|(port, tcp)| json!({"containerPort": port.parse::<u16>().unwrap(), "protocol": if tcp { "TCP" } else { "UDP" }}))
            .collect();
        let mut container = json!({"image": image, "env": env, "ports": ports});
        if let Some(args) = args {
            container["args"] = args.into();
        }
        container
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let containers = some_of(&["a", "b", "c", "d"], container());
    let volumes = some_of(&["v", "w"], proptest::bool::ANY);
    let labels = some_of(&["l", "m", "n"], text());
    let finalizers = some_of(&["f", "g", "h"], Just(()));
    (containers, volumes, labels, finalizers).prop_map(|(containers, volumes, labels, finalizers)| {
        let containers: Value = containers
            .into_iter()
            .map(|(name, mut container)| {
                container["name"] = name.into();
                container
            })
            .collect();
        let volumes: Value = volumes
            .into_iter()
            .map(|(name, empty)| {
                if empty {
                    json!({"name": name, "emptyDir": {}})
                } else {
                    json!({"name": name, "hostPath": {"path": "/x"}})
                }
            })
            .collect();
        let labels: BTreeMap<_, _> = labels.into_iter().collect();
        let finalizers: Vec<_> = finalizers.into_iter().map(|(name, ())| name).collect();
        json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": {"containers": containers, "volumes": volumes}})
    })
}

fn diff_of(before: &Value, after: &Value) -> Value {
    let object = |v: &Value| v.as_object().cloned().unwrap_or_default();
    diff(&object(before), &object(after), Message::of_kind("v1", "Pod")).into()
}

proptest! {
    #[test]
    fn the_patch_that_kubectl_works_out_gives_what_was_wanted(before in pod(), after in pod()) {
        let patch = diff_of(&before, &after);
        let once = patched("Pod", &before, &patch).unwrap();
        prop_assert_eq!(&once, &after);
        // Every directive of it may come twice.
        prop_assert_eq!(&patched("Pod", &once, &patch).unwrap(), &after);
    }

    #[test]
    fn someone_elses_items_survive_such_a_patch(before in pod(), after in pod()) {
        let patch = diff_of(&before, &after);
        let mut live = before.clone();
        live["spec"]["containers"].as_array_mut().unwrap().insert(0, json!({"name": "sidecar", "image": "s"}));
        let patched = patched("Pod", &live, &patch).unwrap();
        let (own, others): (Vec<&Value>, Vec<&Value>) =
            patched["spec"]["containers"].as_array().unwrap().iter().partition(|c| c["name"] != "sidecar");
        prop_assert_eq!(others.len(), 1);
        prop_assert_eq!(own, after["spec"]["containers"].as_array().unwrap().iter().collect::<Vec<_>>());
    }

    #[test]
    fn no_patch_makes_it_panic_or_leaves_a_directive(before in pod(), patch in any_patch(), on_spec in proptest::bool::ANY) {
        let patch = if on_spec { json!({ "spec": patch }) } else { patch };
        if let Ok(after) = patched("Pod", &before, &patch) {
            prop_assert!(!after.to_string().contains("\"$"), "{}", after);
        }
    }
}

fn any_patch() -> impl Strategy<Value = Value> {
    let names = proptest::sample::select(vec![
        "containers",
        "volumes",
        "name",
        "finalizers",
        "metadata",
        "env",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/finalizers",
        "$deleteFromPrimitiveList/finalizers",
        "$setElementOrder/",
        "$deleteFromPrimitiveList/",
        "$x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(json!("a")),
        Just(json!("delete")),
        Just(json!("replace")),
        Just(json!(1)),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let fields = proptest::collection::vec((names.clone(), inner.clone()), 0..4);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::Array),
            fields.prop_map(|fields| {
                Value::Object(
                    fields
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                )
            }),
        ]
    })
}
