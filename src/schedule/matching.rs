//! Selectors against labels, tolerations against taints (`component-helpers/scheduling/corev1`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, ResourceRequirements, Taint, Toleration,
};

use super::NodeView;

/// `spec.nodeSelector`: every pair is a label of the node.
pub(super) fn selected(selector: Option<&BTreeMap<String, String>>, node: &NodeView) -> bool {
    selector
        .into_iter()
        .flatten()
        .all(|(key, value)| node.labels.get(key) == Some(value))
}

/// One of the terms matches. A term that says nothing matches nothing.
pub(super) fn any(selector: &NodeSelector, node: &NodeView) -> bool {
    let NodeSelector { node_selector_terms } = selector;
    node_selector_terms.iter().any(|term| {
        let NodeSelectorTerm {
            match_expressions,
            match_fields,
        } = term;
        let expressions = match_expressions.as_deref().unwrap_or_default();
        let fields = match_fields.as_deref().unwrap_or_default();
        let says_something = !expressions.is_empty() || !fields.is_empty();
        says_something
            && expressions
                .iter()
                .all(|requirement| holds(requirement, node.labels.get(&requirement.key).map(String::as_str)))
            && fields.iter().all(|requirement| {
                let field = (requirement.key == "metadata.name").then_some(node.name.as_str());
                holds(requirement, field)
            })
    })
}

fn holds(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let NodeSelectorRequirement {
        key: _,
        operator,
        values,
    } = requirement;
    let values = values.as_deref().unwrap_or_default();
    let is_one = |found: &str| values.iter().any(|value| value == found);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|value| number(value));
    match operator.as_str() {
        "In" => found.is_some_and(is_one),
        "NotIn" => !found.is_some_and(is_one),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => found
            .and_then(number)
            .zip(bound)
            .is_some_and(|(found, bound)| found > bound),
        "Lt" => found
            .and_then(number)
            .zip(bound)
            .is_some_and(|(found, bound)| found < bound),
        // Admission lets no other through.
        _ => false,
    }
}

/// Its containers ask for no processor and no memory (`pkg/apis/core/v1/helper/qos`).
pub(super) fn is_best_effort(pod: &PodSpec) -> bool {
    let asks = |resources: &ResourceRequirements| {
        let amounts = [&resources.requests, &resources.limits].into_iter().flatten().flatten();
        amounts
            .filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"))
            .any(|(_, amount)| amount.0 != "0")
    };
    let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    let of_containers = containers.filter_map(|container| container.resources.as_ref());
    !pod.resources.iter().chain(of_containers).any(asks)
}

/// One of the tolerations covers the taint.
pub(super) fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    toleration(taint, tolerations).is_some()
}

/// The first of the tolerations that covers the taint (`core/v1/toleration.go`, `ToleratesTaint`).
pub(super) fn toleration<'a>(taint: &Taint, tolerations: &'a [Toleration]) -> Option<&'a Toleration> {
    tolerations.iter().find(|toleration| {
        let Toleration {
            effect,
            key,
            operator,
            toleration_seconds: _,
            value,
        } = toleration;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (effect, key) = (text(effect), text(key));
        if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
            return false;
        }
        match text(operator).as_str() {
            "" | "Equal" => text(value) == taint.value.as_deref().unwrap_or_default(),
            operator => operator == "Exists",
        }
    })
}
