//! The rules of the fields that say where and when a pod is to run (`pkg/apis/core/validation/validation.go`:
//! `ValidateNodeSelector`, `ValidateTolerations`, `validateSchedulingGates`, `validateReadinessGates`). What they then mean
//! is decided by the room `schedule`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration};

use super::fault::{Findings, Path};
use super::names;
use super::quantity::Quantity;
use super::spec::one_of;

/// Kubernetes' admission plugin `DefaultTolerationSeconds`: how long a pod stays on a node that fails.
const TOLERATED_SECONDS: i64 = 300;
const FAILING: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Adds the tolerations that every new pod gets which does not say otherwise.
pub(super) fn default_tolerations(spec: &mut PodSpec) {
    for failing in FAILING {
        let says_something = spec.tolerations.iter().flatten().any(|toleration| {
            let is = |field: &Option<String>, value: &str| {
                let field = field.as_deref().unwrap_or_default();
                field.is_empty() || field == value
            };
            is(&toleration.key, failing) && is(&toleration.effect, "NoExecute")
        });
        if !says_something {
            spec.tolerations.get_or_insert_default().push(Toleration {
                effect: Some("NoExecute".to_owned()),
                key: Some(failing.to_owned()),
                operator: Some("Exists".to_owned()),
                toleration_seconds: Some(TOLERATED_SECONDS),
                value: None,
            });
        }
    }
}

pub(super) fn check(spec: &PodSpec, at: &Path, findings: &mut Findings) {
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        let at = at.child("nodeName");
        findings.invalid_each(&at, name, &names::dns_subdomain(name));
        if !gates.is_empty() {
            findings.forbidden(&at, "cannot be set until all schedulingGates have been cleared");
        }
    }
    let mut seen = BTreeSet::new();
    for (i, gate) in gates.iter().enumerate() {
        let at = at.child("schedulingGates").index(i);
        findings.invalid_each(&at, &gate.name, &names::qualified_name(&gate.name));
        if !seen.insert(gate.name.as_str()) {
            findings.duplicate(&at, &gate.name);
        }
    }
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let at = at.child("readinessGates").index(i).child("conditionType");
        findings.invalid_each(&at, &gate.condition_type, &names::qualified_name(&gate.condition_type));
    }
    if let Some(name) = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) {
        findings.invalid_each(&at.child("runtimeClassName"), name, &names::dns_subdomain(name));
    }
    for (resource, amount) in spec.overhead.iter().flatten() {
        let at = at.child("overhead").key(resource);
        findings.invalid_each(&at, resource, &names::qualified_name(resource));
        match Quantity::parse(&amount.0) {
            Ok(parsed) if parsed.is_negative() => {
                findings.invalid(&at, &amount.0, "must be greater than or equal to 0");
            }
            Ok(_) => {}
            Err(error) => findings.invalid(&at, &amount.0, &error.to_string()),
        }
    }
    for (key, value) in spec.node_selector.iter().flatten() {
        let at = at.child("nodeSelector");
        findings.invalid_each(&at, key, &names::qualified_name(key));
        findings.invalid_each(&at, value, &names::label_value(value));
    }
    for (i, toleration) in spec.tolerations.iter().flatten().enumerate() {
        check_toleration(toleration, &at.child("tolerations").index(i), findings);
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if let Some(required) = required {
        let at = at.child("affinity").child("nodeAffinity");
        let at = at.child("requiredDuringSchedulingIgnoredDuringExecution");
        check_node_selector(required, &at, findings);
    }
}

fn check_toleration(toleration: &Toleration, at: &Path, findings: &mut Findings) {
    let Toleration {
        effect,
        key,
        operator,
        toleration_seconds,
        value,
    } = toleration;
    let [effect, key, operator, value] =
        [effect, key, operator, value].map(|field| field.as_deref().unwrap_or_default());
    let operator_at = at.child("operator");
    if !key.is_empty() {
        findings.invalid_each(&at.child("key"), key, &names::qualified_name(key));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        findings.invalid(&operator_at, operator, detail);
    }
    if toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        findings.invalid(&at.child("effect"), effect, detail);
    }
    match operator {
        "" | "Equal" => findings.invalid_each(&operator_at, value, &names::label_value(value)),
        "Exists" if !value.is_empty() => {
            findings.invalid(&operator_at, value, "value must be empty when `operator` is 'Exists'");
        }
        _ => one_of(Some(operator), &["Equal", "Exists"], &operator_at, findings),
    }
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    one_of(Some(effect), &effects, &at.child("effect"), findings);
}

fn check_node_selector(selector: &NodeSelector, at: &Path, findings: &mut Findings) {
    let at = at.child("nodeSelectorTerms");
    let NodeSelector { node_selector_terms } = selector;
    if node_selector_terms.is_empty() {
        findings.required(&at, "must have at least one node selector term");
    }
    for (i, term) in node_selector_terms.iter().enumerate() {
        let at = at.index(i);
        let NodeSelectorTerm {
            match_expressions,
            match_fields,
        } = term;
        for (j, requirement) in match_expressions.iter().flatten().enumerate() {
            check_expression(requirement, &at.child("matchExpressions").index(j), findings);
        }
        for (j, requirement) in match_fields.iter().flatten().enumerate() {
            check_field(requirement, &at.child("matchFields").index(j), findings);
        }
    }
}

fn check_expression(requirement: &NodeSelectorRequirement, at: &Path, findings: &mut Findings) {
    let NodeSelectorRequirement { key, operator, values } = requirement;
    let count = values.as_ref().map_or(0, Vec::len);
    let values_at = at.child("values");
    match operator.as_str() {
        "In" | "NotIn" if count == 0 => {
            findings.required(&values_at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            findings.forbidden(
                &values_at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "Gt" | "Lt" if count != 1 => {
            findings.required(
                &values_at,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => findings.invalid(&at.child("operator"), other, "not a valid selector operator"),
    }
    findings.invalid_each(&at.child("key"), key, &names::qualified_name(key));
}

fn check_field(requirement: &NodeSelectorRequirement, at: &Path, findings: &mut Findings) {
    let NodeSelectorRequirement { key, operator, values } = requirement;
    match operator.as_str() {
        "In" | "NotIn" => {
            if values.as_ref().map_or(0, Vec::len) != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                findings.required(&at.child("values"), detail);
            }
        }
        other => findings.invalid(&at.child("operator"), other, "not a valid selector operator"),
    }
    if key != "metadata.name" {
        findings.invalid(&at.child("key"), key, "not a valid field selector key");
    }
}
