//! What a pod's `RuntimeClass` adds to it (`plugin/pkg/admission/runtimeclass`).
//!
//! Goes in: a new pod and the class it names, if that exists. Comes out: the pod with the class's overhead and scheduling
//! rules, or why it is refused.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use k8s_openapi::api::node::v1::{RuntimeClass, Scheduling};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use super::quantity::Quantity;

/// Why a pod is refused because of its class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClassRefusal {
    #[error("pod rejected: RuntimeClass {name:?} not found")]
    NotFound { name: String },
    #[error("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")]
    OverheadDiffers,
    #[error("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")]
    OverheadWithoutClass,
    #[error(
        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {of_class}; pod.spec.nodeSelector[{key}] = {of_pod}"
    )]
    NodeSelector {
        key: String,
        of_class: String,
        of_pod: String,
    },
}

/// The class that a pod names.
pub fn class_of(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.runtime_class_name.as_deref()?;
    // Nobody can make one without a name: it means none, as for a kubelet.
    (!name.is_empty()).then_some(name)
}

/// Give the pod what its class gives.
///
/// # Errors
/// See [`ClassRefusal`].
pub fn apply_class(pod: &mut Pod, class: Option<&RuntimeClass>) -> Result<(), ClassRefusal> {
    if let (Some(name), None) = (class_of(pod), class) {
        return Err(ClassRefusal::NotFound { name: name.to_owned() });
    }
    let Some(spec) = &mut pod.spec else { return Ok(()) };
    match class.and_then(|class| class.overhead.as_ref()) {
        Some(overhead) => {
            let fixed = overhead.pod_fixed.clone().unwrap_or_default();
            if spec.overhead.as_ref().is_some_and(|own| !same_amounts(own, &fixed)) {
                return Err(ClassRefusal::OverheadDiffers);
            }
            spec.overhead = Some(fixed);
        }
        None if spec.overhead.is_some() => return Err(ClassRefusal::OverheadWithoutClass),
        None => {}
    }
    match class.and_then(|class| class.scheduling.as_ref()) {
        Some(rules) => schedule(spec, rules),
        None => Ok(()),
    }
}

/// `1` and `1000m` are the same amount.
fn same_amounts(one: &BTreeMap<String, WireQuantity>, other: &BTreeMap<String, WireQuantity>) -> bool {
    let amounts = |list: &BTreeMap<String, WireQuantity>| -> BTreeMap<String, Option<Quantity>> {
        let parsed = |(name, text): (&String, &WireQuantity)| (name.clone(), Quantity::parse(&text.0).ok());
        list.iter().map(parsed).collect()
    };
    amounts(one) == amounts(other)
}

fn schedule(spec: &mut PodSpec, rules: &Scheduling) -> Result<(), ClassRefusal> {
    let Scheduling {
        node_selector,
        tolerations,
    } = rules;
    for (key, value) in node_selector.iter().flatten() {
        let own = spec.node_selector.get_or_insert_default();
        match own.get(key) {
            Some(of_pod) if of_pod != value => {
                return Err(ClassRefusal::NodeSelector {
                    key: key.clone(),
                    of_class: value.clone(),
                    of_pod: of_pod.clone(),
                });
            }
            _ => drop(own.insert(key.clone(), value.clone())),
        }
    }
    if let Some(more) = tolerations.as_ref().filter(|more| !more.is_empty()) {
        let all = [spec.tolerations.as_deref().unwrap_or_default(), more.as_slice()].concat();
        spec.tolerations = Some(merged(&all));
    }
    Ok(())
}

/// `pkg/util/tolerations`, `MergeTolerations`: without those that another one covers; of equal ones the first stays.
fn merged(all: &[Toleration]) -> Vec<Toleration> {
    let mut merged: Vec<Toleration> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let covered_before = merged.iter().any(|other| covers(other, toleration));
        let mut after = all.iter().skip(i + 1);
        let covered_after = after.any(|other| other != toleration && covers(other, toleration));
        if !covered_before && !covered_after {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// `isSuperset`: whatever `small` tolerates, `large` does.
fn covers(large: &Toleration, small: &Toleration) -> bool {
    if large == small {
        return true;
    }
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let any_key = text(&large.key).is_empty() && text(&large.operator) == "Exists";
    if text(&small.key) != text(&large.key) && !any_key {
        return false;
    }
    if text(&small.effect) != text(&large.effect) && !text(&large.effect).is_empty() {
        return false;
    }
    if text(&large.effect) == "NoExecute"
        && let Some(most) = large.toleration_seconds
        && small.toleration_seconds.is_none_or(|seconds| seconds > most)
    {
        return false;
    }
    match text(&large.operator).as_str() {
        "" | "Equal" => {
            matches!(text(&small.operator).as_str(), "" | "Equal") && text(&small.value) == text(&large.value)
        }
        operator => operator == "Exists",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn applied(spec: &Value, class: Option<&Value>) -> Result<Value, String> {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let class: Option<RuntimeClass> = class.map(|class| serde_json::from_value(class.clone()).unwrap());
        apply_class(&mut pod, class.as_ref()).map_err(|refusal| refusal.to_string())?;
        Ok(serde_json::to_value(pod.spec).unwrap())
    }

    #[test]
    fn a_class_gives_its_overhead_and_its_scheduling() {
        let class = json!({
            "handler": "runc", "overhead": {"podFixed": {"cpu": "1", "memory": "64Mi"}},
            "scheduling": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "vm", "operator": "Exists"}]},
        });
        let spec = json!({"containers": [], "runtimeClassName": "c", "nodeSelector": {"a": "b"}, "tolerations": [
            {"key": "vm", "operator": "Equal", "value": "x"}, {"key": "other", "operator": "Exists"}]});
        let spec = applied(&spec, Some(&class)).unwrap();
        assert_eq!(spec["overhead"], json!({"cpu": "1", "memory": "64Mi"}));
        assert_eq!(spec["nodeSelector"], json!({"a": "b", "disk": "ssd"}));
        assert_eq!(
            spec["tolerations"],
            json!([{"key": "other", "operator": "Exists"}, {"key": "vm", "operator": "Exists"}])
        );
        let same = json!({"containers": [], "runtimeClassName": "c", "overhead": {"cpu": "1000m", "memory": "64Mi"}});
        assert!(applied(&same, Some(&class)).is_ok());
    }

    #[test]
    fn what_does_not_fit_its_class_is_refused_in_kubernetes_words() {
        let named = json!({"containers": [], "runtimeClassName": "c", "overhead": {"cpu": "2"}});
        assert_eq!(
            applied(&json!({"containers": [], "runtimeClassName": "c"}), None).unwrap_err(),
            "pod rejected: RuntimeClass \"c\" not found"
        );
        let overhead = json!({"handler": "x", "overhead": {"podFixed": {"cpu": "1"}}});
        assert_eq!(
            applied(&named, Some(&overhead)).unwrap_err(),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
        );
        assert_eq!(
            applied(&named, Some(&json!({"handler": "x"}))).unwrap_err(),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        );
        let selected = json!({"containers": [], "runtimeClassName": "c", "nodeSelector": {"disk": "hdd"}});
        let class = json!({"handler": "x", "scheduling": {"nodeSelector": {"disk": "ssd"}}});
        assert_eq!(
            applied(&selected, Some(&class)).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[disk] = ssd; pod.spec.nodeSelector[disk] = hdd"
        );
    }
}
