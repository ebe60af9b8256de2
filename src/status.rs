//! What is reported of a pod: desired and observed state as a Kubernetes `PodStatus`.
//!
//! Goes in: the time, the node, the pod as wanted, the record, and the status before this one. Comes out: the status.
//!
//! **Invariants:** pure and total, from the very records that the decision sees. A terminal phase is never left, a
//! restart count never falls, `lastTransitionTime` moves only when the condition's status does, and nothing in it
//! changes while nothing happens: an equal status is not written again.
//!
//! Words and order of rules: Kubernetes `pkg/kubelet/kubelet_pods.go` (`getPhase`, `convertToAPIContainerStatuses`),
//! `pkg/kubelet/status/generate.go` (conditions), `pkg/kubelet/status/status_manager.go` (`TerminatePod`).

mod conditions;
mod containers;
mod phase;
pub mod quantity;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_life;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostIP, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::model::{Attempt, Capacity, GivenUp, Observed, PodSpec, QosClass, SandboxState, Timestamp};
use crate::reconcile::{is_finished, is_rejected};
use crate::schedule::Placement;
pub use conditions::{DISRUPTION_TARGET, OWN_CONDITIONS, set_condition, set_placement};
use conditions::{conditions, foreign};
use containers::{Statuses, statuses};
use phase::{Ends, Phase, phase};

/// What a pod's status says of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The machine's own addresses, the preferred one first.
    pub host_ips: Vec<IpAddr>,
    pub name: String,
    /// What it has for pods; the same as in the decision's limits.
    pub capacity: Option<Capacity>,
}

/// The status of the pod as of `now`. `previous` is the one stored now, if any.
pub fn status(
    now: Timestamp,
    node: &NodeFacts,
    desired: &PodSpec,
    observed: &Observed,
    previous: Option<&PodStatus>,
) -> PodStatus {
    if let Some(end) = observed.given_up.as_ref().filter(|_| is_rejected(observed)) {
        return rejected(desired, observed, end, previous);
    }
    let over = is_over(desired, observed);
    let containers = statuses(now, desired, observed, over);
    let ends = Ends {
        over,
        // What was stopped in order to be started anew is not the end, however it exited.
        lives: observed.attempts.iter().any(Attempt::is_live) || (!over && !is_finished(desired, observed)),
        given_up: observed.given_up.is_some(),
    };
    let phase = phase(desired, ends, &containers.init, &containers.regular, previous);
    let conditions = conditions(now, node, desired, observed, phase, &containers, previous);
    let given_up = observed.given_up.as_ref().filter(|_| over && phase == Phase::Failed);
    let (reason, message) = match given_up {
        Some(GivenUp { at: _, reason, message }) => (Some(reason.as_str().to_owned()), Some(message.clone())),
        None => (None, None),
    };
    let Statuses {
        init,
        regular,
        ephemeral,
    } = containers;
    let host_ips: Vec<String> = node.host_ips.iter().map(ToString::to_string).collect();
    let pod_ips = pod_ips(desired, observed, &host_ips, previous);
    let resources = containers::resources(&desired.resources);
    PodStatus {
        allocated_resources: resources.as_ref().and_then(|resources| resources.requests.clone()),
        conditions: Some(conditions),
        container_statuses: Some(regular),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        host_ip: host_ips.first().cloned(),
        host_ips: (!host_ips.is_empty()).then(|| host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        init_container_statuses: (!init.is_empty()).then_some(init),
        message,
        observed_generation: Some(desired.generation),
        phase: Some(phase.as_str().to_owned()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: Some(qos_class(desired.qos_class()).to_owned()),
        reason,
        resources,
        start_time: observed.started_at.map(wire_time),
        ..PodStatus::default()
    }
}

/// A pod that was turned away: that, and nothing of its containers (`kubelet.go rejectPod`).
fn rejected(desired: &PodSpec, observed: &Observed, end: &GivenUp, previous: Option<&PodStatus>) -> PodStatus {
    let GivenUp { at, reason, message } = end;
    let conditions = foreign(previous);
    PodStatus {
        conditions: (!conditions.is_empty()).then_some(conditions),
        message: Some(message.clone()),
        observed_generation: Some(desired.generation),
        phase: Some(Phase::Failed.as_str().to_owned()),
        qos_class: Some(qos_class(desired.qos_class()).to_owned()),
        reason: Some(reason.as_str().to_owned()),
        start_time: Some(wire_time(observed.started_at.unwrap_or(*at))),
        ..PodStatus::default()
    }
}

/// The status that a pod begins with: nothing has run, and a scheduler may have said something of it.
pub fn initial(now: Timestamp, desired: &PodSpec, placement: &Placement) -> PodStatus {
    let mut status = PodStatus {
        phase: Some(Phase::Pending.as_str().to_owned()),
        qos_class: Some(qos_class(desired.qos_class()).to_owned()),
        ..PodStatus::default()
    };
    set_placement(now, &mut status, desired.generation, placement);
    status
}

/// Nothing of the pod runs or will run again, and its sandbox is gone: what is said now is final.
fn is_over(desired: &PodSpec, observed: &Observed) -> bool {
    let sandbox_is_gone = observed.sandbox.as_ref().is_none_or(|sandbox| match &sandbox.state {
        SandboxState::Creating | SandboxState::Ready { .. } | SandboxState::Dead { .. } => false,
        SandboxState::Stopped { .. } => true,
    });
    let will_not_run = desired.deletion.is_some() || observed.torn_down || is_finished(desired, observed);
    will_not_run && sandbox_is_gone && !observed.attempts.iter().any(Attempt::is_live)
}

fn is_sandbox_ready(observed: &Observed) -> bool {
    observed
        .sandbox
        .as_ref()
        .is_some_and(|sandbox| matches!(sandbox.state, SandboxState::Ready { .. }))
}

/// The pod's addresses: said once the first sandbox is ready, and kept after the pod's end.
fn pod_ips(desired: &PodSpec, observed: &Observed, host_ips: &[String], previous: Option<&PodStatus>) -> Vec<String> {
    if desired.host_network {
        return host_ips.to_vec();
    }
    let was_said = previous.is_some_and(|status| status.pod_ip.is_some());
    let sandbox = observed.sandbox.as_ref().filter(|sandbox| match &sandbox.state {
        SandboxState::Ready { .. } => true,
        SandboxState::Creating | SandboxState::Dead { .. } | SandboxState::Stopped { .. } => was_said,
    });
    sandbox
        .and_then(|sandbox| sandbox.ip)
        .map(|ip| ip.to_string())
        .into_iter()
        .collect()
}

fn qos_class(class: QosClass) -> &'static str {
    match class {
        QosClass::Guaranteed => "Guaranteed",
        QosClass::Burstable => "Burstable",
        QosClass::BestEffort => "BestEffort",
    }
}

/// Kubernetes' times have whole seconds on the wire.
fn wire_time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
