//! The table's cells, as `pkg/printers/internalversion/printers.go`, `printPod` has them.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::kinds::Row;
use crate::api::table::human_duration;
use crate::model::Timestamp;

pub(super) fn row(object: &Value, now: Timestamp) -> Row {
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
        let gated = |c: &&PodCondition| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated");
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
    use super::super::POD;
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
