//! Whether a pod may be bound to the one node, and in a scheduler's words why not.
//!
//! Goes in: a pod's spec, what counts of the node ([`NodeView`]). Comes out: a [`Placement`].
//!
//! **Invariants:** pure and total; nothing here knows what else runs on the node: room for a pod is not looked at.
//!
//! The rules are those of `pkg/scheduler/framework/plugins`: `nodeunschedulable`, `tainttoleration`, `nodeaffinity`,
//! `schedulinggates`, in that scheduler's order, the first that fails being the reason; the sentence around it is that of
//! `framework.FitError`. How long a pod may stay when it is there: `pkg/controller/tainteviction`.

mod matching;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint};
use serde::Deserialize;
use serde_json::Value;

/// The scheduler that podd itself is; pods with another one wait for that one's `Binding`.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// The taint that a cordoned node counts as having, so that a pod may tolerate it.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The taint of a node that is short of memory. Pods that ask for some of it are taken all the same.
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// What of the node decides about pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// It was cordoned.
    pub unschedulable: bool,
}

impl NodeView {
    /// A node that nobody has said anything about yet.
    pub fn bare(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: own_labels(name),
            ..Self::default()
        }
    }

    /// Of a stored Node. One that cannot be understood is taken as bare, so that pods go on.
    pub fn of(name: &str, node: &Value) -> Self {
        let Ok(Node {
            metadata,
            spec,
            status: _,
        }) = Node::deserialize(node)
        else {
            return Self::bare(name);
        };
        let spec = spec.unwrap_or_default();
        Self {
            name: name.to_owned(),
            labels: metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable == Some(true),
        }
    }
}

/// The labels that a node bears by itself.
pub fn own_labels(name: &str) -> BTreeMap<String, String> {
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// This machine's architecture in Go's words, as `kubernetes.io/arch` has it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// What is to be done with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// It has a node already, this one or another: nothing is to be scheduled.
    Bound,
    /// It waits for its own scheduler.
    Foreign,
    /// It waits until its gates are taken away.
    Gated,
    /// It may be bound to this node.
    Fits,
    /// It may not, for this reason; when node or pod change it is looked at again.
    Unschedulable(String),
}

/// Decide about a pod whose defaults are filled in.
pub fn place(pod: &PodSpec, node: &NodeView) -> Placement {
    if pod.node_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Placement::Bound;
    }
    if pod.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return Placement::Gated;
    }
    let scheduler = pod.scheduler_name.as_deref().unwrap_or_default();
    if !scheduler.is_empty() && scheduler != DEFAULT_SCHEDULER {
        return Placement::Foreign;
    }
    match obstacle(pod, node) {
        None => Placement::Fits,
        Some(reason) => Placement::Unschedulable(sentence(pod, &reason)),
    }
}

/// Whether a taint drives off pods that do not tolerate it.
pub fn drives_off(taint: &Taint) -> bool {
    taint.effect == "NoExecute"
}

/// When a pod that came to a node at `bound` has to leave it for its taints; `None`: it stays.
pub fn leaves_at(pod: Option<&PodSpec>, taints: &[Taint], bound: Timestamp) -> Option<Timestamp> {
    let tolerations = pod.and_then(|pod| pod.tolerations.as_deref()).unwrap_or_default();
    let leaves = taints.iter().filter(|taint| drives_off(taint)).filter_map(|taint| {
        let Some(tolerated) = matching::toleration(taint, tolerations) else {
            return Some(Timestamp::MIN);
        };
        let since = taint.time_added.as_ref().map_or(bound, |added| added.0.max(bound));
        let seconds = SignedDuration::from_secs(tolerated.toleration_seconds?.max(0));
        Some(since.saturating_add(seconds).unwrap_or(Timestamp::MAX))
    });
    leaves.min()
}

/// Why the node will not do.
fn obstacle(pod: &PodSpec, node: &NodeView) -> Option<String> {
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let cordon = Taint {
        key: UNSCHEDULABLE.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if node.unschedulable && !matching::tolerated(&cordon, tolerations) {
        return Some("node(s) were unschedulable".to_owned());
    }
    let untolerated = node
        .taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .filter(|taint| taint.key != MEMORY_PRESSURE || taint.effect == "NoExecute" || matching::is_best_effort(pod))
        .find(|taint| !matching::tolerated(taint, tolerations));
    if let Some(Taint { key, value, .. }) = untolerated {
        let value = value.as_deref().unwrap_or_default();
        return Some(format!("node(s) had untolerated taint {{{key}: {value}}}"));
    }
    let required = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if !matching::selected(pod.node_selector.as_ref(), node) || !required.is_none_or(|terms| matching::any(terms, node))
    {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    None
}

fn sentence(pod: &PodSpec, reason: &str) -> String {
    let preemption = if pod.preemption_policy.as_deref() == Some("Never") {
        "not eligible due to preemptionPolicy=Never."
    } else {
        "0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    };
    format!("0/1 nodes are available: 1 {reason}. preemption: {preemption}")
}
