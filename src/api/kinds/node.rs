//! Nodes (`pkg/apis/core/validation`, `ValidateNode`, `ValidateNodeUpdate`). There is one, the agent's own.

use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use serde_json::Value;

use super::rules::{self, Rules};
use super::{
    AGE, Kind, METADATA_NAME, NAME, Row, Selectable, Subresource, age_cell, at, name_cell, row, selectable, text, wide,
};
use crate::admit::{Findings, MetadataRules, NameRule, Path, names};
use crate::model::Timestamp;

const ROLE: &str = "node-role.kubernetes.io/";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) static NODE: Kind = Kind {
    short_names: &["no"],
    subresources: &[Subresource {
        name: "status",
        kind: ("", "v1", "Node"),
        verbs: &["get", "patch", "update"],
        amend: Some(rules::amend_status::<Node>),
    }],
    columns: &[
        NAME,
        text("Status", "The status of the node"),
        text("Roles", "The roles of the node"),
        AGE,
        text("Version", "Kubelet Version reported by the node."),
        wide("Internal-IP", "List of addresses reachable to the node."),
        wide("External-IP", "List of addresses reachable to the node."),
        wide(
            "OS-Image",
            "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
        ),
        wide(
            "Kernel-Version",
            "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
        ),
        wide(
            "Container-Runtime",
            "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
        ),
    ],
    selectable: &[
        METADATA_NAME,
        Selectable {
            absent: "false",
            ..selectable("spec.unschedulable")
        },
    ],
    row: cells,
    ..rules::kind::<Node>("node")
};

impl Rules for Node {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: false,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &NODE
    }

    fn fill(&mut self) {
        self.spec.get_or_insert_default();
    }

    fn check(&self, findings: &mut Findings) {
        let taints = self.spec.as_ref().and_then(|spec| spec.taints.as_deref());
        check_taints(taints.unwrap_or_default(), findings);
    }

    fn check_change(&self, before: &Self, findings: &mut Findings) {
        // What may be changed is taken out of both; what remains must be the same.
        let rest = |spec: &Option<NodeSpec>| {
            let NodeSpec {
                config_source,
                external_id,
                pod_cidr,
                pod_cidrs,
                provider_id,
                taints: _,
                unschedulable: _,
            } = spec.clone().unwrap_or_default();
            (config_source, external_id, pod_cidr, pod_cidrs, provider_id)
        };
        if rest(&self.spec) != rest(&before.spec) {
            findings.forbidden(
                &Path::root("spec"),
                "node updates may only change labels, annotations, taints and unschedulable",
            );
        }
    }

    /// Whoever makes a node tells its status.
    fn first_status(sent: Option<Value>) -> Option<Value> {
        sent
    }
}

/// `validateNodeTaints`.
fn check_taints(taints: &[Taint], findings: &mut Findings) {
    let all_at = Path::root("spec").child("taints");
    for (index, taint) in taints.iter().enumerate() {
        let at = all_at.index(index);
        let Taint {
            effect,
            key,
            time_added: _,
            value,
        } = taint;
        findings.invalid_each(&at.child("key"), key, &names::qualified_name(key));
        let value = value.as_deref().unwrap_or_default();
        findings.invalid_each(&at.child("value"), value, &names::label_value(value));
        if effect.is_empty() {
            findings.required(&at.child("effect"), "");
        } else if !EFFECTS.contains(&effect.as_str()) {
            findings.not_supported(&at.child("effect"), effect, &EFFECTS);
        }
        let same = |other: &&Taint| other.key == *key && other.effect == *effect;
        if taints[..index].iter().any(|other| same(&other)) {
            findings.duplicate(&at, key);
        }
    }
}

/// `printNode`.
fn cells(node: &Value, now: Timestamp) -> Row {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE) {
            Some(role) => Some(role).filter(|role| !role.is_empty()),
            None if key == "kubernetes.io/role" => value.as_str().filter(|role| !role.is_empty()),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    let address = |wanted: &str| {
        let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
        addresses
            .into_iter()
            .flatten()
            .find(|address| address["type"] == wanted)
            .and_then(|address| address["address"].as_str())
            .unwrap_or("<none>")
            .to_owned()
    };
    let info = |field: &str| match at(node, &format!("/status/nodeInfo/{field}")) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
    row(vec![
        name_cell(node),
        status.into(),
        if roles.is_empty() {
            "<none>".into()
        } else {
            roles.join(",").into()
        },
        age_cell(node, now),
        at(node, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ])
}
