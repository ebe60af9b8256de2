//! Conditions: podd's own, made anew each time, and those of others, which are kept.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::containers::Statuses;
use super::phase::{Phase, has_started};
use super::{NodeFacts, is_sandbox_ready, wire_time};
use crate::model::{FailedStep, GivenUpReason, Observed, PodSpec, Timestamp};
use crate::reconcile::{infeasible, is_resized, is_restarting_all, is_running, may_restart_all};
use crate::schedule::Placement;

/// The conditions that podd tells of a pod on its node: nobody else's word counts for these.
pub const OWN_CONDITIONS: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    SCHEDULED,
    RESIZING,
    UNRESIZABLE,
    RESTARTING,
];

/// Told only while it holds, as the next one.
const RESIZING: &str = "PodResizeInProgress";
const UNRESIZABLE: &str = "PodResizePending";

const SCHEDULED: &str = "PodScheduled";

/// Told of those pods alone that have a rule for it.
const RESTARTING: &str = "AllContainersRestarting";

/// Told of a pod that is about to be taken away for a reason outside it.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Puts a condition in the place of the one of its type. Its time stays while its status does.
pub fn set_condition(status: &mut PodStatus, mut condition: PodCondition) {
    let conditions = status.conditions.get_or_insert_default();
    match conditions.iter_mut().find(|known| known.type_ == condition.type_) {
        Some(known) => {
            if known.status == condition.status {
                condition.last_transition_time = known.last_transition_time.take();
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
}

/// Says in `PodScheduled` what became of a pod's placement; of one that asks no scheduler of podd's nothing is said.
///
/// Words: `pkg/scheduler/schedule_one.go`, `pkg/registry/core/pod/strategy.go` (`applySchedulingGatedCondition`).
pub fn set_placement(now: Timestamp, status: &mut PodStatus, generation: i64, placement: &Placement) {
    let (holds, reason, message) = match placement {
        Placement::Bound | Placement::Foreign => return,
        Placement::Fits => (true, None, None),
        Placement::Gated => (
            false,
            Some("SchedulingGated"),
            Some("Scheduling is blocked due to non-empty scheduling gates"),
        ),
        Placement::Unschedulable(message) => (false, Some("Unschedulable"), Some(message.as_str())),
    };
    let condition = PodCondition {
        type_: SCHEDULED.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.map(str::to_owned),
        message: message.map(str::to_owned),
        last_probe_time: None,
        last_transition_time: Some(wire_time(now)),
        observed_generation: Some(generation),
    };
    set_condition(status, condition);
}

/// A condition without its times.
struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const fn of(holds: bool) -> Self {
        Self {
            holds,
            reason: None,
            message: None,
        }
    }
}

/// All conditions: podd's own in the order in which a kubelet writes them, then those that others wrote.
pub(super) fn conditions(
    now: Timestamp,
    node: &NodeFacts,
    desired: &PodSpec,
    observed: &Observed,
    phase: Phase,
    containers: &Statuses,
    previous: Option<&PodStatus>,
) -> Vec<PodCondition> {
    let before = previous
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let containers_ready = || containers_ready(phase, desired, containers);
    [
        ("PodReadyToStartContainers", sandbox_condition(observed)),
        ("Initialized", initialized(phase, desired, containers)),
        ("Ready", pod_ready(desired, containers_ready(), before)),
        ("ContainersReady", containers_ready()),
        (SCHEDULED, Verdict::of(true)),
    ]
    .into_iter()
    .chain(restarting(phase, desired, observed))
    .chain(resizing(node, desired, observed))
    .chain(disruption(observed))
    .map(|(type_, verdict)| {
        let status = if verdict.holds { "True" } else { "False" };
        let same = before
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == status);
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_probe_time: None,
            last_transition_time: same
                .and_then(|condition| condition.last_transition_time.clone())
                .or_else(|| Some(wire_time(now))),
            observed_generation: Some(desired.generation),
        }
    })
    .chain(
        foreign(previous)
            .into_iter()
            .filter(|known| known.type_ != DISRUPTION_TARGET || disruption(observed).is_none()),
    )
    .collect()
}

/// The conditions that others have told: they stay.
pub(super) fn foreign(previous: Option<&PodStatus>) -> Vec<PodCondition> {
    let told = previous.and_then(|status| status.conditions.as_deref());
    let foreign = |known: &&PodCondition| !OWN_CONDITIONS.contains(&known.type_.as_str());
    told.unwrap_or_default().iter().filter(foreign).cloned().collect()
}

/// Kubernetes `status/generate.go GeneratePodReadyCondition`: the containers are ready, and so say the conditions that
/// the pod's readiness gates name.
fn pod_ready(desired: &PodSpec, containers: Verdict, before: &[PodCondition]) -> Verdict {
    if !containers.holds {
        return containers;
    }
    let closed: Vec<String> = desired
        .readiness_gates
        .iter()
        .filter_map(|gate| match before.iter().find(|known| known.type_ == *gate) {
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{gate}\" does not exist."
            )),
            Some(known) if known.status == "True" => None,
            Some(known) => Some(format!(
                "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                known.status
            )),
        })
        .collect();
    if closed.is_empty() {
        return containers;
    }
    Verdict {
        holds: false,
        reason: Some("ReadinessGatesNotReady"),
        message: Some(closed.join(", ")),
    }
}

/// Kubernetes `status/generate.go GeneratePodReadyToStartContainersCondition`. A kubelet says why it fails in an event;
/// here it is said in the condition too.
fn sandbox_condition(observed: &Observed) -> Verdict {
    if is_sandbox_ready(observed) {
        return Verdict::of(true);
    }
    let failure = observed.failure(&FailedStep::Sandbox);
    Verdict {
        holds: false,
        reason: failure.map(|failure| failure.reason.as_str()),
        message: failure.map(|failure| failure.message.clone()),
    }
}

/// Kubernetes `status/generate.go GenerateContainersReadyCondition`: sidecars count, other init containers do not.
fn containers_ready(phase: Phase, desired: &PodSpec, containers: &Statuses) -> Verdict {
    let of_end = |reason| Verdict {
        reason: Some(reason),
        ..Verdict::of(false)
    };
    if let Some(reason) = of_terminal(phase) {
        return of_end(reason);
    }
    let init = desired.init_containers.iter().zip(&containers.init);
    let sidecars = init.filter(|(spec, _)| spec.is_sidecar()).map(|(_, status)| status);
    let unready = names(sidecars.chain(&containers.regular).filter(|status| !status.ready));
    if unready.is_empty() {
        return Verdict::of(true);
    }
    Verdict {
        message: Some(format!("containers with unready status: {unready}")),
        ..of_end("ContainersNotReady")
    }
}

/// Kubernetes `status/generate.go GeneratePodInitializedCondition`: once a regular container was started it never goes
/// back.
fn initialized(phase: Phase, desired: &PodSpec, containers: &Statuses) -> Verdict {
    if phase == Phase::Succeeded {
        return Verdict {
            reason: of_terminal(phase),
            ..Verdict::of(true)
        };
    }
    if has_started(&containers.regular) {
        return Verdict::of(true);
    }
    let init = desired.init_containers.iter().zip(&containers.init);
    let incomplete = init.filter(|(spec, status)| {
        let is_complete = if spec.is_sidecar() {
            status.started == Some(true)
        } else {
            status.ready
        };
        !is_complete
    });
    let incomplete = names(incomplete.map(|(_, status)| status));
    if incomplete.is_empty() {
        return Verdict::of(true);
    }
    Verdict {
        holds: false,
        reason: Some("ContainersNotInitialized"),
        message: Some(format!("containers with incomplete status: {incomplete}")),
    }
}

/// All containers are to begin anew (`status/generate.go GenerateAllContainersRestartingCondition`).
fn restarting(phase: Phase, desired: &PodSpec, observed: &Observed) -> Option<(&'static str, Verdict)> {
    if !may_restart_all(desired) {
        return None;
    }
    let verdict = match phase {
        Phase::Succeeded | Phase::Failed => Verdict {
            reason: of_terminal(phase),
            ..Verdict::of(false)
        },
        Phase::Pending | Phase::Running if is_restarting_all(desired, observed) => Verdict {
            holds: true,
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".to_owned()),
        },
        Phase::Pending | Phase::Running => Verdict::of(false),
    };
    Some((RESTARTING, verdict))
}

/// The reason of what no longer holds since the pod is over.
fn of_terminal(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Succeeded => Some("PodCompleted"),
        Phase::Failed => Some("PodFailed"),
        Phase::Pending | Phase::Running => None,
    }
}

/// The pod was evicted (`eviction_manager.go evictPod`). Others may say so of it for other reasons.
fn disruption(observed: &Observed) -> Option<(&'static str, Verdict)> {
    let given_up = observed.given_up.as_ref()?;
    (given_up.reason == GivenUpReason::Evicted).then(|| {
        let verdict = Verdict {
            holds: true,
            reason: Some("TerminationByKubelet"),
            message: Some(given_up.message.clone()),
        };
        (DISRUPTION_TARGET, verdict)
    })
}

/// Names as Go prints a slice of strings, `[a b]`; empty when there is none.
fn names<'a>(containers: impl Iterator<Item = &'a ContainerStatus>) -> String {
    let names: Vec<&str> = containers.map(|container| container.name.as_str()).collect();
    if names.is_empty() {
        return String::new();
    }
    format!("[{}]", names.join(" "))
}

/// A running container has other resources than it is to have (`status_manager.go SetPodResizeInProgressCondition`), or
/// cannot have them (`SetPodResizePendingCondition`).
fn resizing(node: &NodeFacts, desired: &PodSpec, observed: &Observed) -> Option<(&'static str, Verdict)> {
    if desired.deletion.is_some() || observed.given_up.is_some() {
        return None;
    }
    let sidecars = desired
        .init_containers
        .iter()
        .filter(|container| container.is_sidecar());
    let mut resized = sidecars.chain(&desired.containers).filter(|container| {
        let newest = observed.newest(&container.name).filter(|newest| is_running(newest));
        newest.is_some_and(|newest| is_resized(container, newest))
    });
    let first = resized.next();
    let deferred = observed.failure(&FailedStep::Resize);
    if first.is_some() || deferred.is_some() {
        let infeasible = infeasible(desired, node.capacity).map(|message| ("Infeasible", message));
        let deferred = deferred.map(|failure| (failure.reason.as_str(), failure.message.clone()));
        if let Some((reason, message)) = infeasible.or(deferred) {
            let verdict = Verdict {
                reason: Some(reason),
                message: Some(message),
                ..Verdict::of(true)
            };
            return Some((UNRESIZABLE, verdict));
        }
    }
    let failure = std::iter::once(first?)
        .chain(resized)
        .find_map(|container| observed.failure(&FailedStep::Container(container.name.clone())));
    let verdict = Verdict {
        holds: true,
        reason: failure.map(|_| "Error"),
        message: failure.map(|failure| failure.message.clone()),
    };
    Some((RESIZING, verdict))
}
