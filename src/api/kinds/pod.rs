//! Pods: names, table and admission.
//!
//! The table's cells are those of `pkg/printers/internalversion/printers.go`, `printPod`.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::{Metadata, Resource};
use serde::Deserialize;
use serde_json::{Value, json};

use super::rules::{check_identity, set_open_metadata};
use super::{ALL_VERBS, Admitted, Amended, Draft, Kind, Row, Selectable, Subresource, column, selectable};
use crate::admit::{self, AdmitContext, Decoded, Encoding, Fault, FaultReason, FieldValidation, Findings};
use crate::api::error::ApiError;
use crate::api::table::human_duration;
use crate::model::{Timestamp, Uid};
use crate::schedule::{self, Placement};
use crate::status;

/// The pods of this node.
pub static POD: Kind = Kind {
    group: Pod::GROUP,
    version: Pod::VERSION,
    kind: Pod::KIND,
    stored_as: Pod::KIND,
    plural: Pod::URL_PATH_SEGMENT,
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "attach",
            kind: ("", "v1", "PodAttachOptions"),
            verbs: &["create", "get"],
            amend: None,
        },
        Subresource {
            name: "binding",
            kind: ("", "v1", "Binding"),
            verbs: &["create"],
            amend: None,
        },
        Subresource {
            name: "eviction",
            kind: ("policy", "v1", "Eviction"),
            verbs: &["create"],
            amend: None,
        },
        Subresource {
            name: "exec",
            kind: ("", "v1", "PodExecOptions"),
            verbs: &["create", "get"],
            amend: None,
        },
        Subresource {
            name: "log",
            kind: ("", "v1", "Pod"),
            verbs: &["get"],
            amend: None,
        },
        Subresource {
            name: "portforward",
            kind: ("", "v1", "PodPortForwardOptions"),
            verbs: &["create", "get"],
            amend: None,
        },
        Subresource {
            name: "proxy",
            kind: ("", "v1", "PodProxyOptions"),
            verbs: &["create", "delete", "get", "patch", "update"],
            amend: None,
        },
        Subresource {
            name: "status",
            kind: ("", "v1", "Pod"),
            verbs: &["get", "patch", "update"],
            // See `api/pods.rs`: what a client may write depends on whether the pod is here.
            amend: None,
        },
    ],
    columns: &[
        column("Name", "string", "name", "Name must be unique within a namespace.", 0),
        column(
            "Ready",
            "string",
            "",
            "The aggregate readiness state of this pod for accepting traffic.",
            0,
        ),
        column(
            "Status",
            "string",
            "",
            "The aggregate status of the containers in this pod.",
            0,
        ),
        column(
            "Restarts",
            "string",
            "",
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
            0,
        ),
        column("Age", "string", "", "The time since the pod was created.", 0),
        column(
            "IP",
            "string",
            "",
            "The IP address of the pod. Empty if not yet allocated.",
            1,
        ),
        column("Node", "string", "", "The node this pod runs on.", 1),
        column(
            "Nominated Node",
            "string",
            "",
            "Always none: no pod is preempted for another.",
            1,
        ),
        column(
            "Readiness Gates",
            "string",
            "",
            "The readiness gates of the pod and how many of them are true.",
            1,
        ),
    ],
    selectable: &[
        selectable("metadata.name"),
        selectable("metadata.namespace"),
        selectable("spec.nodeName"),
        selectable("spec.restartPolicy"),
        selectable("spec.schedulerName"),
        selectable("spec.serviceAccountName"),
        Selectable {
            absent: "false",
            ..selectable("spec.hostNetwork")
        },
        selectable("status.phase"),
        selectable("status.podIP"),
        selectable("status.nominatedNodeName"),
    ],
    row,
    read,
    admit: admit_pod,
    amend,
    view: None,
    schema: |generator| generator.subschema_for::<Pod>(),
};

fn invalid(name: Option<&str>, faults: Vec<Fault>) -> ApiError {
    ApiError::Invalid {
        group: POD.group,
        kind: POD.kind,
        name: name.unwrap_or("").to_owned(),
        faults,
    }
}

fn read(bytes: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Decoded<Value>, ApiError> {
    let Decoded { object, warnings } =
        admit::decode::<Pod>(bytes, encoding, validation).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok(Decoded {
        object: written(&object)?,
        warnings,
    })
}

fn written(pod: &Pod) -> Result<Value, ApiError> {
    serde_json::to_value(pod).map_err(|e| ApiError::internal("a pod cannot be written", e))
}

fn admit_pod(draft: &Draft<'_>) -> Result<Admitted, ApiError> {
    let decoded = admit::decode::<Pod>(draft.bytes, draft.encoding, draft.validation)
        .map_err(|e| ApiError::bad_request(e.to_string()))?;
    let mut warnings = decoded.warnings;
    let mut pod = decoded.object;
    admit::complete(&mut pod);
    let asked = pod.metadata();
    if asked
        .namespace
        .as_deref()
        .is_some_and(|ns| !ns.is_empty() && ns != draft.namespace)
    {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let asked_name = asked.name.clone().filter(|n| !n.is_empty());
    let shown_name = asked_name.clone().or_else(|| asked.generate_name.clone());
    let class = admit::class_of(&pod).and_then(|name| draft.classes.get(name));
    admit::apply_class(&mut pod, class).map_err(|refusal| ApiError::ForbiddenObject {
        kind: &POD,
        name: shown_name.clone().unwrap_or_default(),
        why: refusal.to_string(),
        causes: Vec::new(),
    })?;
    let context = AdmitContext {
        now: draft.now,
        uid: draft.uid.clone(),
        namespace: draft.namespace,
        name_suffix: draft.suffix,
    };
    let admitted = admit::pod(pod, &context).map_err(|faults| invalid(shown_name.as_deref(), faults))?;
    warnings.extend(admitted.warnings);
    let name = admitted.pod.metadata.name.clone().unwrap_or_default();
    let mut object = written(&begun(admitted.pod, draft)?)?;
    let status = object.as_object_mut().and_then(|fields| fields.remove("status"));
    Ok(Admitted {
        name,
        object,
        status,
        generated: asked_name.is_none(),
        warnings,
    })
}

/// The pod as it is first stored: bound where it may be, with the status that it begins with.
fn begun(mut pod: Pod, draft: &Draft<'_>) -> Result<Pod, ApiError> {
    let model = admit::to_model(&pod).map_err(|e| ApiError::internal("an admitted pod cannot be understood", e))?;
    let spec = pod.spec.get_or_insert_default();
    let placement = schedule::place(spec, draft.node);
    if placement == Placement::Fits {
        spec.node_name = Some(draft.node.name.clone());
    }
    pod.status = Some(status::initial(draft.now, &model, &placement));
    Ok(pod)
}

/// A changed pod is admitted anew as a whole; of the admitted one, `metadata`'s open fields are taken over. Its spec must
/// be what it was.
fn amend(current: &Value, mut proposed: Value, validation: FieldValidation) -> Result<Amended, ApiError> {
    let meta = |field: &str| current["metadata"][field].as_str().unwrap_or("");
    let (name, namespace) = (meta("name"), meta("namespace"));
    check_identity(&POD, current, &proposed)?;
    // What a new pod gets beyond its manifest, it keeps where the manifest is sent again.
    for field in ["nodeName", "tolerations", "overhead"] {
        let kept = &current["spec"][field];
        if !kept.is_null() && proposed["spec"].is_object() && proposed["spec"][field].is_null() {
            proposed["spec"][field] = kept.clone();
        }
    }
    if let Some(object) = proposed.as_object_mut() {
        object.remove("status");
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for own in [
                "resourceVersion",
                "generation",
                "creationTimestamp",
                "managedFields",
                "selfLink",
            ] {
                metadata.remove(own);
            }
            for own in ["deletionTimestamp", "deletionGracePeriodSeconds", "uid", "generateName"] {
                metadata.remove(own);
            }
            metadata.insert("name".to_owned(), name.into());
        }
    }
    let bytes = serde_json::to_vec(&proposed).map_err(|e| ApiError::internal("a pod cannot be written", e))?;
    let decoded =
        admit::decode::<Pod>(&bytes, Encoding::Json, validation).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let mut warnings = decoded.warnings;
    let created = meta("creationTimestamp").parse().unwrap_or(Timestamp::UNIX_EPOCH);
    let context = AdmitContext {
        now: created,
        uid: Uid(meta("uid").to_owned()),
        namespace,
        name_suffix: "",
    };
    let before = Pod::deserialize(current).map_err(|e| ApiError::internal("the stored pod cannot be read", e))?;
    let mut findings = Findings::default();
    admit::metadata_change(before.metadata(), decoded.object.metadata(), &mut findings);
    findings.finish().map_err(|faults| invalid(Some(name), faults))?;
    let admitted = admit::pod(decoded.object, &context).map_err(|faults| invalid(Some(name), faults))?;
    warnings.extend(admitted.warnings);
    let mut admitted = written(&admitted.pod)?;
    let gates = fewer_gates(&current["spec"], &mut admitted["spec"]);
    if admitted["spec"] != current["spec"] {
        let fault = Fault {
            field: "spec".to_owned(),
            reason: FaultReason::Forbidden,
            detail: "Forbidden: pod updates may not change fields other than `metadata.labels`, `metadata.annotations`, `metadata.finalizers` and `metadata.ownerReferences`".to_owned(),
        };
        return Err(invalid(Some(name), vec![fault]));
    }
    let mut object = current.clone();
    if let Some(gates) = gates {
        object["spec"]["schedulingGates"] = gates;
        let generation = current["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
        object["metadata"]["generation"] = generation.into();
    }
    set_open_metadata(&mut object, &admitted);
    Ok(Amended { object, warnings })
}

/// Scheduling gates may be taken away, none be added (`ValidatePodUpdate`). Those that are left, where some were taken;
/// `proposed` is then as if none had been.
fn fewer_gates(current: &Value, proposed: &mut Value) -> Option<Value> {
    let before = current["schedulingGates"].as_array()?;
    let after = proposed["schedulingGates"].as_array().cloned().unwrap_or_default();
    if after == *before || !after.iter().all(|gate| before.contains(gate)) {
        return None;
    }
    proposed["schedulingGates"] = before.clone().into();
    Some(after.into())
}

fn row(object: &Value, now: Timestamp) -> Row {
    // What the store holds was admitted as a pod; should it not be one, an empty pod's row is shown rather than none.
    let pod = Pod::deserialize(object).unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let spec = pod.spec.unwrap_or_default();
    let phase = status.phase.clone().unwrap_or_default();
    let sidecar = |name: &str| {
        spec.init_containers
            .iter()
            .flatten()
            .any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
    };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| sidecar(&c.name))
        .count();
    let total = spec.containers.len() + sidecars;
    let mut summary = Summary::of_phase(&status, &phase);
    let initializing = summary.init_containers(&status, spec.init_containers.as_ref().map_or(0, Vec::len), sidecar);
    if !initializing || has_condition(&status, "Initialized") {
        summary.containers(&status);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            "Unknown".clone_into(&mut summary.reason);
        } else if phase != "Succeeded" && phase != "Failed" {
            "Terminating".clone_into(&mut summary.reason);
        }
    }
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts > 0 => format!("{} ({} ago)", summary.restarts, human_duration(at, now)),
        Some(_) | None => summary.restarts.to_string(),
    };
    let age = pod
        .metadata
        .creation_timestamp
        .map_or_else(|| "<unknown>".to_owned(), |t| human_duration(t.0, now));
    let or_none = |text: Option<&str>| text.filter(|t| !t.is_empty()).unwrap_or("<none>").to_owned();
    let ip = status
        .pod_ips
        .iter()
        .flatten()
        .next()
        .map(|ip| ip.ip.as_str())
        .or(status.pod_ip.as_deref());
    let gates = spec.readiness_gates.as_ref().filter(|g| !g.is_empty()).map_or_else(
        || "<none>".to_owned(),
        |gates| {
            let true_ones = gates
                .iter()
                .filter(|g| has_condition(&status, &g.condition_type))
                .count();
            format!("{true_ones}/{}", gates.len())
        },
    );
    let condition = |reason: &str, message: &str| {
        vec![json!({ "type": "Completed", "status": "True", "reason": reason, "message": message })]
    };
    Row {
        cells: vec![
            pod.metadata.name.unwrap_or_default().into(),
            format!("{}/{total}", summary.ready).into(),
            summary.reason.into(),
            restarts.into(),
            age.into(),
            or_none(ip).into(),
            or_none(spec.node_name.as_deref()).into(),
            or_none(status.nominated_node_name.as_deref()).into(),
            gates.into(),
        ],
        conditions: match phase.as_str() {
            "Succeeded" => condition("Succeeded", "The pod has completed successfully."),
            "Failed" => condition("Failed", "The pod failed."),
            _ => Vec::new(),
        },
    }
}

fn has_condition(status: &PodStatus, wanted: &str) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == wanted && c.status == "True")
}

/// What the Ready, Status and Restarts cells are made of.
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    sidecar_restarts: i64,
    last_sidecar_restart: Option<Timestamp>,
}

impl Summary {
    fn of_phase(status: &PodStatus, phase: &str) -> Self {
        let gated = |c: &&k8s_openapi::api::core::v1::PodCondition| {
            c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")
        };
        let reason = if status.conditions.iter().flatten().any(|c| gated(&c)) {
            "SchedulingGated".to_owned()
        } else {
            status
                .reason
                .clone()
                .filter(|r| !r.is_empty())
                .unwrap_or_else(|| phase.to_owned())
        };
        Self {
            reason,
            ready: 0,
            restarts: 0,
            last_restart: None,
            sidecar_restarts: 0,
            last_sidecar_restart: None,
        }
    }

    /// Walk the init containers up to the first that is not done. True: the pod is not initialised.
    fn init_containers(&mut self, status: &PodStatus, declared: usize, sidecar: impl Fn(&str) -> bool) -> bool {
        for (at, container) in status.init_container_statuses.iter().flatten().enumerate() {
            let is_sidecar = sidecar(&container.name);
            self.restarts += i64::from(container.restart_count);
            self.last_restart = self.last_restart.max(last_finish(container));
            if is_sidecar {
                self.sidecar_restarts += i64::from(container.restart_count);
                self.last_sidecar_restart = self.last_sidecar_restart.max(last_finish(container));
            }
            let state = container.state.clone().unwrap_or_default();
            if state.terminated.as_ref().is_some_and(|t| t.exit_code == 0) {
                continue;
            }
            if is_sidecar && container.started == Some(true) {
                self.ready += usize::from(container.ready);
                continue;
            }
            self.reason = if let Some(terminated) = state.terminated {
                match terminated.reason.filter(|r| !r.is_empty()) {
                    Some(reason) => format!("Init:{reason}"),
                    None => match terminated.signal.filter(|s| *s != 0) {
                        Some(signal) => format!("Init:Signal:{signal}"),
                        None => format!("Init:ExitCode:{}", terminated.exit_code),
                    },
                }
            } else {
                match state
                    .waiting
                    .and_then(|w| w.reason)
                    .filter(|r| !r.is_empty() && r != "PodInitializing")
                {
                    Some(reason) => format!("Init:{reason}"),
                    None => format!("Init:{at}/{declared}"),
                }
            };
            return true;
        }
        false
    }

    fn containers(&mut self, status: &PodStatus) {
        self.restarts = self.sidecar_restarts;
        self.last_restart = self.last_sidecar_restart;
        let mut running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts += i64::from(container.restart_count);
            self.last_restart = self.last_restart.max(last_finish(container));
            let state = container.state.clone().unwrap_or_default();
            if let Some(reason) = state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty()) {
                self.reason = reason;
            } else if let Some(terminated) = state.terminated {
                self.reason = match terminated.reason.filter(|r| !r.is_empty()) {
                    Some(reason) => reason,
                    None => match terminated.signal.filter(|s| *s != 0) {
                        Some(signal) => format!("Signal:{signal}"),
                        None => format!("ExitCode:{}", terminated.exit_code),
                    },
                };
            } else if container.ready && state.running.is_some() {
                running = true;
                self.ready += 1;
            }
        }
        // One container is done and another runs on: the pod as a whole still runs.
        if self.reason == "Completed" && running {
            let reason = if has_condition(status, "Ready") {
                "Running"
            } else {
                "NotReady"
            };
            reason.clone_into(&mut self.reason);
        }
    }
}

fn last_finish(container: &ContainerStatus) -> Option<Timestamp> {
    let terminated = container.last_state.as_ref()?.terminated.as_ref()?;
    terminated.finished_at.as_ref().map(|Time(at)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cells(pod: &Value) -> Vec<String> {
        let row = row(pod, at("2026-01-01T01:00:00Z"));
        assert_eq!(row.cells.len(), POD.columns.len());
        row.cells.iter().map(|c| c.as_str().unwrap().to_owned()).collect()
    }

    fn pod(status: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "here", "containers": [{"name": "a"}, {"name": "b"}]},
            "status": status,
        })
    }

    fn container(name: &str, restarts: i32, ready: bool, state: &Value) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "restartCount": restarts, "ready": ready, "state": state,
            "lastState": if restarts > 0 { json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:55:00Z"}}) } else { json!({}) }})
    }

    fn running() -> Value {
        json!({"running": {"startedAt": "2026-01-01T00:00:01Z"}})
    }

    #[test]
    fn a_new_pod_is_pending() {
        assert_eq!(
            cells(&pod(&json!({"phase": "Pending"}))),
            ["p", "0/2", "Pending", "0", "60m", "<none>", "here", "<none>", "<none>"]
        );
    }

    #[test]
    fn restarts_say_when_the_last_one_was() {
        let status = json!({"phase": "Running", "podIPs": [{"ip": "10.244.0.2"}], "containerStatuses": [
            container("a", 3, true, &running()), container("b", 0, true, &running())]});
        assert_eq!(
            cells(&pod(&status))[..6],
            ["p", "2/2", "Running", "3 (5m ago)", "60m", "10.244.0.2"]
        );
    }

    #[test]
    fn a_waiting_container_lends_its_reason() {
        let status = json!({"phase": "Running", "containerStatuses": [
            container("a", 1, false, &json!({"waiting": {"reason": "CrashLoopBackOff"}})), container("b", 0, true, &running())]});
        assert_eq!(cells(&pod(&status))[1..3], ["1/2", "CrashLoopBackOff"]);
    }

    #[test]
    fn one_done_and_one_running_is_running_or_not_ready() {
        let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        let status = |ready: &str| {
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": [
                container("a", 0, false, &done), container("b", 0, true, &running())]})
        };
        assert_eq!(cells(&pod(&status("True")))[2], "Running");
        assert_eq!(cells(&pod(&status("False")))[2], "NotReady");
    }

    #[test]
    fn exits_without_a_reason_are_told_by_number() {
        let status = |state| json!({"phase": "Failed", "containerStatuses": [container("a", 0, false, &state)]});
        assert_eq!(
            cells(&pod(&status(json!({"terminated": {"exitCode": 3}}))))[2],
            "ExitCode:3"
        );
        assert_eq!(
            cells(&pod(&status(json!({"terminated": {"exitCode": 137, "signal": 9}}))))[2],
            "Signal:9"
        );
        let row = row(
            &pod(&status(json!({"terminated": {"exitCode": 3, "reason": "Error"}}))),
            at("2026-01-01T01:00:00Z"),
        );
        assert_eq!(row.conditions[0]["reason"], "Failed");
    }

    #[test]
    fn a_deleted_pod_is_terminating_until_it_has_ended() {
        let mut object = pod(&json!({"phase": "Running"}));
        object["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:30Z".into();
        assert_eq!(cells(&object)[2], "Terminating");
        object["status"]["phase"] = "Succeeded".into();
        assert_eq!(cells(&object)[2], "Succeeded");
    }

    #[test]
    fn init_containers_are_counted_and_sidecars_are_ready() {
        let mut object = pod(&json!({"phase": "Pending", "initContainerStatuses": [
            container("one", 0, false, &json!({"terminated": {"exitCode": 0, "reason": "Completed"}})),
            container("two", 0, false, &json!({"waiting": {"reason": "PodInitializing"}}))]}));
        object["spec"]["initContainers"] = json!([{"name": "one"}, {"name": "two"}]);
        assert_eq!(cells(&object)[1..3], ["0/2", "Init:1/2"]);
        object["status"]["initContainerStatuses"][1]["state"] =
            json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        assert_eq!(cells(&object)[2], "Init:Error");
        object["spec"]["initContainers"][1]["restartPolicy"] = "Always".into();
        object["status"]["initContainerStatuses"][1] = container("two", 0, true, &running());
        object["status"]["initContainerStatuses"][1]["started"] = true.into();
        assert_eq!(cells(&object)[1..3], ["1/3", "Pending"]);
    }
}
