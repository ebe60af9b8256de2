//! What may be changed in a pod that is there (`validation.go`: `ValidatePodUpdate`, `ValidatePodResize`,
//! `ValidatePodEphemeralContainersUpdate`).
//!
//! The changed pod is admitted as a whole first, so what is compared here has its defaults filled in.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, Container, EphemeralContainer, NodeSelectorTerm, Pod, PodSpec, ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use super::bounded::Bounded;
use super::container::Role;
use super::fault::{Fault, Findings, Path};
use super::{AdmitContext, Admitted, metadata, to_model, whole_pod};
use crate::model::{MIRROR, QosClass};

/// What an update may change, in Kubernetes' words.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";
/// The longest value that is shown of a change, in bytes.
const SHOWN: usize = 200;

/// Whether a pod stands for a file of the machine (a static pod): what it is, that file says.
pub fn is_mirror(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// PUT and PATCH of a pod. A negative `terminationGracePeriodSeconds` is never stored, so the one change that Kubernetes
/// allows of it cannot come up.
///
/// # Errors
/// All faults of the changed pod, or else of the change.
pub fn update(before: &Pod, after: Pod, ctx: &AdmitContext<'_>) -> Result<Admitted, Vec<Fault>> {
    let mut findings = Findings::default();
    check_metadata(&before.metadata, &after.metadata, &mut findings);
    let admitted = whole_pod(after, ctx, findings)?;
    let mut findings = Findings::default();
    check_update(&spec_of(before), &spec_of(&admitted.pod), &mut findings);
    findings.finish()?;
    Ok(admitted)
}

/// PUT and PATCH of `/resize`: the resources of containers, and nothing else. What else was sent is not looked at, but
/// for the resources of the pod as a whole, which stay as they are.
///
/// # Errors
/// As [`update`].
pub fn resize(before: &Pod, after: Pod, ctx: &AdmitContext<'_>) -> Result<Admitted, Vec<Fault>> {
    if is_mirror(&before.metadata) {
        return Err(forbidden("static pods cannot be resized"));
    }
    let old = spec_of(before);
    let mut asked = after.spec.unwrap_or_default();
    let mut findings = Findings::default();
    if asked.resources.is_some() && asked.resources != old.resources {
        let at = Path::root("spec").child("resources");
        findings.unsupported(&at, "other resources for a whole pod that is there");
    }
    super::defaults::apply(&mut asked);
    let mut new = old.clone();
    let at = Path::root("spec");
    take_resources(
        &asked.containers,
        &mut new.containers,
        &at.child("containers"),
        &mut findings,
    );
    take_resources(
        asked.init_containers.as_deref().unwrap_or_default(),
        new.init_containers.as_deref_mut().unwrap_or_default(),
        &at.child("initContainers"),
        &mut findings,
    );
    findings.finish()?;
    let changed = Pod {
        metadata: before.metadata.clone(),
        spec: Some(new),
        status: None,
    };
    let admitted = whole_pod(changed, ctx, Findings::default())?;
    let mut findings = Findings::default();
    check_resize(before, &admitted.pod, &mut findings);
    findings.finish()?;
    Ok(admitted)
}

/// PUT and PATCH of `/ephemeralcontainers`: more of them, and nothing else. What else was sent is not looked at.
///
/// # Errors
/// As [`update`].
pub fn ephemeral_containers(before: &Pod, after: Pod, ctx: &AdmitContext<'_>) -> Result<Admitted, Vec<Fault>> {
    if is_mirror(&before.metadata) {
        return Err(forbidden("static pods do not support ephemeral containers"));
    }
    let mut new = spec_of(before);
    new.ephemeral_containers = after.spec.and_then(|spec| spec.ephemeral_containers);
    let changed = Pod {
        metadata: before.metadata.clone(),
        spec: Some(new),
        status: None,
    };
    let admitted = whole_pod(changed, ctx, Findings::default())?;
    let mut findings = Findings::default();
    let at = Path::root("spec").child("ephemeralContainers");
    let after = spec_of(&admitted.pod).ephemeral_containers.unwrap_or_default();
    for old in spec_of(before).ephemeral_containers.iter().flatten() {
        check_kept(old, &after, &at, &mut findings);
    }
    findings.finish()?;
    Ok(admitted)
}

/// A fault of the pod as a whole.
fn forbidden(detail: &str) -> Vec<Fault> {
    let mut findings = Findings::default();
    findings.forbidden(&Path::root(""), detail);
    findings.finish().err().unwrap_or_default()
}

fn spec_of(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

fn check_metadata(before: &ObjectMeta, after: &ObjectMeta, findings: &mut Findings) {
    metadata::check_change(before, after, findings);
    let mirror = |metadata: &ObjectMeta| metadata.annotations.as_ref().and_then(|a| a.get(MIRROR).cloned());
    let at = Path::root("metadata").child("annotations").key(MIRROR);
    match (mirror(before), mirror(after)) {
        (None, Some(_)) => findings.forbidden(&at, "may not add mirror pod annotation"),
        (Some(old), new) if new.as_ref() != Some(&old) => {
            findings.forbidden(&at, "may not remove or update mirror pod annotation");
        }
        _ => {}
    }
}

fn check_update(before: &PodSpec, after: &PodSpec, findings: &mut Findings) {
    let at = Path::root("spec");
    let (old_init, new_init) = (init(before), init(after));
    for (field, old, new) in [
        ("containers", before.containers.len(), after.containers.len()),
        ("initContainers", old_init.len(), new_init.len()),
    ] {
        if old != new {
            findings.forbidden(&at.child(field), "pod updates may not add or remove containers");
            return;
        }
    }
    let deadline_at = at.child("activeDeadlineSeconds");
    match (before.active_deadline_seconds, after.active_deadline_seconds) {
        (Some(old), Some(new)) if new > old => {
            findings.invalid_value(&deadline_at, new, "must be less than or equal to previous value");
            return;
        }
        (Some(_), None) => {
            let detail = "must not update from a positive integer to nil value";
            findings.invalid_value(&deadline_at, "null", detail);
        }
        _ => {}
    }
    check_tolerations(before, after, &at.child("tolerations"), findings);
    let old_gates = before.scheduling_gates.as_deref().unwrap_or_default();
    for (i, gate) in after.scheduling_gates.iter().flatten().enumerate() {
        if !old_gates.contains(gate) {
            let detail = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                gate.name
            );
            findings.forbidden(&at.child("schedulingGates").index(i).child("name"), &detail);
        }
    }

    // All that may be changed is put back; then nothing may be left that differs.
    let mut munged = after.clone();
    for (new, old) in munged.containers.iter_mut().zip(&before.containers) {
        new.image.clone_from(&old.image);
    }
    for (new, old) in munged.init_containers.iter_mut().flatten().zip(old_init) {
        new.image.clone_from(&old.image);
    }
    munged.active_deadline_seconds = before.active_deadline_seconds;
    munged.scheduling_gates.clone_from(&before.scheduling_gates);
    munged.tolerations.clone_from(&before.tolerations);
    if !old_gates.is_empty() {
        check_selector(before, after, &at.child("nodeSelector"), findings);
        munged.node_selector.clone_from(&before.node_selector);
        check_affinity(before, after, &at.child("affinity").child("nodeAffinity"), findings);
        let old = before.affinity.clone().unwrap_or_default();
        let new = munged.affinity.get_or_insert_default();
        new.node_affinity = old.node_affinity;
        // Nothing else was in it: then it does not matter whether it is there.
        if before.affinity.is_none() && *new == Affinity::default() {
            munged.affinity = None;
        }
    }
    let changes = changes(before, &munged);
    if !changes.is_empty() {
        let detail = format!(
            "pod updates may not change fields other than {UPDATABLE}\n{}",
            changes.join("\n")
        );
        findings.forbidden(&at, &detail);
    }
}

fn init(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// Tolerations may come, and last longer or shorter; none may go.
fn check_tolerations(before: &PodSpec, after: &PodSpec, at: &Path, findings: &mut Findings) {
    let is_kept = |old: &Toleration| {
        after.tolerations.iter().flatten().any(|new| {
            let old = Toleration {
                toleration_seconds: new.toleration_seconds,
                ..old.clone()
            };
            old == *new
        })
    };
    if !before.tolerations.iter().flatten().all(is_kept) {
        findings.forbidden(
            at,
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

/// While a pod is gated, its node selector may become narrower.
fn check_selector(before: &PodSpec, after: &PodSpec, at: &Path, findings: &mut Findings) {
    let new = after.node_selector.as_ref();
    let is_kept = |(key, value): (&String, &String)| new.and_then(|new| new.get(key)) == Some(value);
    if !before.node_selector.iter().flatten().all(is_kept) {
        let shown = serde_json::to_string(&after.node_selector).unwrap_or_default();
        let detail = "only additions are allowed to spec.nodeSelector (no mutations or deletions)";
        findings.invalid_value(at, shown, detail);
    }
}

/// While a pod is gated, each of the terms that it requires of a node may become narrower; where none was, any may come.
fn check_affinity(before: &PodSpec, after: &PodSpec, at: &Path, findings: &mut Findings) {
    let (old, new) = (terms(before), terms(after));
    if old.is_empty() {
        return;
    }
    let at = at.child("requiredDuringSchedulingIgnoredDuringExecution");
    let at = at.child("nodeSelectorTerms");
    if old.len() != new.len() {
        let shown = serde_json::to_string(new).unwrap_or_default();
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        findings.invalid_value(&at, shown, detail);
        return;
    }
    for (i, (old, new)) in old.iter().zip(new).enumerate() {
        if !is_narrower(old, new) {
            let shown = serde_json::to_string(new).unwrap_or_default();
            findings.invalid_value(
                &at.index(i),
                shown,
                "only additions are allowed (no mutations or deletions)",
            );
        }
    }
}

fn terms(spec: &PodSpec) -> &[NodeSelectorTerm] {
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.map_or(&[], |required| &required.node_selector_terms)
}

/// An empty term matches nothing, so what is added to it would make it wider.
fn is_narrower(old: &NodeSelectorTerm, new: &NodeSelectorTerm) -> bool {
    let lists = |term: &NodeSelectorTerm| {
        let NodeSelectorTerm {
            match_expressions,
            match_fields,
        } = term.clone();
        [match_expressions, match_fields].map(Option::unwrap_or_default)
    };
    let (old, new) = (lists(old), lists(new));
    if old.iter().all(Vec::is_empty) {
        return new.iter().all(Vec::is_empty);
    }
    old.iter().zip(&new).all(|(old, new)| new.starts_with(old))
}

/// Gives each container the resources that were asked for it.
fn take_resources(asked: &[Container], into: &mut [Container], at: &Path, findings: &mut Findings) {
    if asked.len() != into.len() {
        findings.forbidden(at, "containers may not be added or removed on resize");
        return;
    }
    for (i, (asked, container)) in asked.iter().zip(into).enumerate() {
        if asked.name == container.name {
            container.resources.clone_from(&asked.resources);
            container.resize_policy.clone_from(&asked.resize_policy);
        } else {
            let detail = "containers may not be renamed or reordered on resize";
            findings.forbidden(&at.index(i).child("name"), detail);
        }
    }
}

fn check_resize(before: &Pod, after: &Pod, findings: &mut Findings) {
    let at = Path::root("spec");
    let class = |pod: &Pod| to_model(pod).ok().map(|model| model.qos_class());
    let old_class = class(before);
    if old_class != class(after) {
        let shown = match old_class {
            Some(QosClass::Guaranteed) => "Guaranteed",
            Some(QosClass::Burstable) => "Burstable",
            Some(QosClass::BestEffort) | None => "BestEffort",
        };
        findings.invalid(&at, shown, "Pod QOS Class may not change as a result of resizing");
    }
    let (before, after) = (spec_of(before), spec_of(after));
    for (field, old, new) in [
        ("initContainers", init(&before), init(&after)),
        ("containers", &before.containers[..], &after.containers[..]),
    ] {
        let at_list = at.child(field);
        for (i, (old, new)) in old.iter().zip(new).enumerate() {
            let (old_resources, new_resources) = (resources(old), resources(new));
            let is_plain_init = field == "initContainers" && Role::of_init(old) == Role::Init;
            if is_plain_init {
                if old != new {
                    findings.forbidden(&at, "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            let at_resources = at_list.index(i).child("resources");
            for (list, old, new, what) in [
                (
                    "requests",
                    &old_resources.requests,
                    &new_resources.requests,
                    "resource requests",
                ),
                (
                    "limits",
                    &old_resources.limits,
                    &new_resources.limits,
                    "resource limits",
                ),
            ] {
                let new_names: BTreeSet<&String> = new.iter().flatten().map(|(name, _)| name).collect();
                if old.iter().flatten().any(|(name, _)| !new_names.contains(name)) {
                    findings.forbidden(&at_resources.child(list), &format!("{what} cannot be removed"));
                }
            }
            let is_fixed = fixed(&old_resources) == fixed(&new_resources) && old.resize_policy == new.resize_policy;
            if !is_fixed {
                let detail = if field == "containers" {
                    ONLY_CPU_AND_MEMORY
                } else {
                    "only cpu and memory resources for sidecar containers are mutable"
                };
                findings.forbidden(&at, detail);
            }
        }
    }
}

fn resources(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// What of the resources is neither cpu nor memory.
fn fixed(resources: &ResourceRequirements) -> [BTreeMap<&str, &Quantity>; 2] {
    let ResourceRequirements {
        // Refused as a whole.
        claims: _,
        limits,
        requests,
    } = resources;
    [limits, requests].map(|list| {
        let entries = list.iter().flatten().map(|(name, amount)| (name.as_str(), amount));
        entries.filter(|(name, _)| !matches!(*name, "cpu" | "memory")).collect()
    })
}

/// An ephemeral container stays as it was.
fn check_kept(old: &EphemeralContainer, after: &[EphemeralContainer], at: &Path, findings: &mut Findings) {
    let name = &old.name;
    match after.iter().find(|new| new.name == *name) {
        None => {
            let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
            findings.forbidden(at, &detail);
        }
        Some(new) if new != old => {
            let changes = changes(old, new).join("\n");
            let detail = format!("existing ephemeral containers {name:?} may not be changed\n{changes}");
            findings.forbidden(at, &detail);
        }
        Some(_) => {}
    }
}

/// Where two objects differ, two lines for each place.
fn changes<T: Serialize>(before: &T, after: &T) -> Vec<String> {
    let value = |object: &T| serde_json::to_value(object).unwrap_or_default();
    let mut lines = Bounded::default();
    compare(&value(before), &value(after), "", &mut lines);
    lines.into_lines()
}

fn compare(before: &Value, after: &Value, at: &str, lines: &mut Bounded) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            let fields: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let dot = if at.is_empty() { "" } else { "." };
            for field in fields {
                let of = |map: &serde_json::Map<String, Value>| map.get(field).cloned().unwrap_or_default();
                compare(&of(old), &of(new), &format!("{at}{dot}{field}"), lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                compare(old, new, &format!("{at}[{i}]"), lines);
            }
        }
        _ => lines.push(|| format!("- {at}: {}\n+ {at}: {}", shown(before), shown(after))),
    }
}

fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > SHOWN {
        let cut = (0..=SHOWN).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}
