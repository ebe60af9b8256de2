//! What a pod's status must say, and what must be true of a pod at rest, in words of their own: `getPhase`, the
//! conditions, the containers' own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::model::{Moment, Next, begins_anew, hook_is_over, is_running, is_started, next};
use super::pods::{Kind, everyone, kind};
use crate::model::{
    Attempt, AttemptState, ContainerSpec, ExitStatus, Observed, PodSpec, RestartAction, RestartPolicy, SandboxState,
    Timestamp,
};

/// What the last status was made from, but for the time.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    made_of: Option<(PodSpec, Observed)>,
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let init = status.init_container_statuses.iter().flatten();
    let ephemeral = status.ephemeral_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten()).chain(ephemeral)
}

fn conditions(status: &PodStatus) -> BTreeMap<&str, &str> {
    let conditions = status.conditions.iter().flatten();
    conditions
        .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
        .collect()
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn is_sandbox_ready(observed: &Observed) -> bool {
    let sandbox = observed.sandbox.as_ref();
    sandbox.is_some_and(|sandbox| matches!(sandbox.state, SandboxState::Ready { .. }))
}

fn is_ready(spec: &ContainerSpec, observed: &Observed) -> bool {
    observed.newest(&spec.name).is_some_and(|newest| {
        let says_so = spec.life.readiness.is_none() || newest.life.readiness.result == Some(true);
        is_started(spec, newest) && says_so && is_sandbox_ready(observed)
    })
}

/// Sidecars and ephemeral containers decide nothing.
fn final_phase(desired: &PodSpec, observed: &Observed) -> &'static str {
    let succeeded = |spec: &ContainerSpec| {
        let newest = observed.newest(&spec.name).filter(|newest| !newest.is_left_behind());
        let exit = newest.and_then(|newest| newest.exit());
        exit.is_some_and(|exit| exit.status.exit_code() == 0)
    };
    let all = desired.containers.iter().all(succeeded);
    if all && observed.given_up.is_none() {
        "Succeeded"
    } else {
        "Failed"
    }
}

impl Told {
    pub(super) fn reported(
        &mut self,
        desired: &PodSpec,
        observed: &Observed,
        before: Option<&PodStatus>,
        after: &PodStatus,
    ) {
        for list in [
            &desired.init_containers,
            &desired.containers,
            &desired.ephemeral_containers,
        ] {
            for spec in list {
                let told = containers(after).find(|told| told.name == spec.name);
                let told = told.unwrap_or_else(|| panic!("nothing is said of {}", spec.name));
                Self::container(desired, observed, spec, told);
            }
        }
        let made_of = (desired.clone(), observed.clone());
        if let Some(before) = before {
            assert!(
                !is_terminal(before) || before.phase == after.phase,
                "{:?} became {:?}",
                before.phase,
                after.phase
            );
            for (old, new) in containers(before)
                .filter_map(|old| containers(after).find(|new| new.name == old.name).map(|new| (old, new)))
            {
                assert!(old.restart_count <= new.restart_count, "{old:?} became {new:?}");
            }
            let lists = before.conditions.iter().flatten();
            for old in lists {
                let mut now = after.conditions.iter().flatten();
                let Some(new) = now.find(|new| new.type_ == old.type_) else {
                    continue;
                };
                assert!(
                    old.status != new.status || old.last_transition_time == new.last_transition_time,
                    "{} changed its transition time and nothing else",
                    old.type_
                );
            }
            let initialized = |status| conditions(status).get("Initialized").copied() == Some("True");
            let begun = |a: &Attempt| a.state != AttemptState::Starting && kind(desired, &a.container) == Kind::Regular;
            assert!(
                !observed.attempts.iter().any(begun) || !initialized(before) || initialized(after),
                "it was initialized, and is not"
            );
            if self.made_of.as_ref() == Some(&made_of) {
                assert_eq!(
                    conditions(before),
                    conditions(after),
                    "conditions changed, and nothing did"
                );
            }
        }
        if is_terminal(after) && !before.is_some_and(is_terminal) {
            assert_eq!(
                after.phase.as_deref(),
                Some(final_phase(desired, observed)),
                "{observed:#?}"
            );
        }
        if !is_terminal(after) {
            let restarting = Moment { desired, observed }.restarts_all();
            let told = conditions(after).get("AllContainersRestarting").copied();
            let mut rules = everyone(desired).flat_map(|spec| &spec.life.restart_rules);
            let may = rules.any(|rule| rule.action == RestartAction::RestartAllContainers);
            let expected = if restarting { "True" } else { "False" };
            assert_eq!(told, may.then_some(expected), "{observed:#?}");
        }
        let all_ready = desired.containers.iter().all(|spec| is_ready(spec, observed));
        let ready = conditions(after).get("Ready").copied() == Some("True");
        assert!(!ready || all_ready, "Ready, and a container is not");
        self.made_of = Some(made_of);
    }

    fn container(desired: &PodSpec, observed: &Observed, spec: &ContainerSpec, told: &ContainerStatus) {
        let newest = observed.newest(&spec.name);
        let runs = told.state.as_ref().is_some_and(|state| state.running.is_some());
        assert_eq!(runs, newest.is_some_and(is_running), "whether {} runs", spec.name);
        let may_be_ready = match kind(desired, &spec.name) {
            Kind::Regular | Kind::Sidecar => is_ready(spec, observed),
            // One that is done is ready; of the others nobody asks.
            Kind::Init | Kind::Ephemeral => return,
        };
        assert_eq!(told.ready, may_be_ready, "whether {} is ready", spec.name);
    }

    /// What must be true of a pod at rest that is not deleted. Returns whether it has finished.
    pub(super) fn settled(
        now: Timestamp,
        desired: &PodSpec,
        observed: &Observed,
        status: &PodStatus,
        is_alive: impl Fn(&str, u32) -> bool,
    ) -> bool {
        let phase = status.phase.as_deref().unwrap_or_default();
        let starting = |a: &Attempt| a.state == AttemptState::Starting;
        assert!(
            !observed.attempts.iter().any(starting),
            "something is only starting: {observed:#?}"
        );
        for attempt in &observed.attempts {
            let runs = is_alive(&attempt.container, attempt.attempt);
            assert_eq!(runs, attempt.is_live(), "{attempt:?}");
        }
        if observed.torn_down {
            assert_eq!(phase, final_phase(desired, observed), "{observed:#?}");
            let reason = observed.given_up.as_ref().map(|_| "DeadlineExceeded");
            assert_eq!(status.reason.as_deref(), reason);
            let over = Moment { desired, observed }.is_over();
            // Only a pod that never restarts anything may end with something that never ran, and only when its
            // sandbox died.
            assert!(
                over || desired.restart_policy == RestartPolicy::Never,
                "it ended for nothing: {observed:#?}"
            );
            assert!(!observed.attempts.iter().any(is_running));
            return true;
        }
        assert!(observed.given_up.is_none(), "it was given up and goes on");
        assert!(
            !Moment { desired, observed }.is_over(),
            "all is done and nothing is torn down"
        );
        let sandbox = Moment { desired, observed }
            .ready_sandbox()
            .expect("a pod that is not over has a sandbox");
        for spec in everyone(desired) {
            let newest = observed
                .newest(&spec.name)
                .unwrap_or_else(|| panic!("{} never began", spec.name));
            let kind = kind(desired, &spec.name);
            if let Some(exit) = newest.exit() {
                let done = match kind {
                    Kind::Init => exit.status == ExitStatus::Code(0) && !begins_anew(desired, newest, sandbox),
                    Kind::Regular => {
                        next(desired, newest) == Some(Next::Nothing) && !begins_anew(desired, newest, sandbox)
                    }
                    Kind::Ephemeral => true,
                    Kind::Sidecar => false,
                };
                assert!(done, "{} neither runs nor is done: {newest:?}", spec.name);
                continue;
            }
            assert!(kind != Kind::Init, "{} runs beside those it was to precede", spec.name);
            if kind == Kind::Ephemeral {
                continue;
            }
            let hooked = spec.life.post_start.is_none() || hook_is_over(&newest.life.post_start);
            assert!(hooked && is_started(spec, newest), "{newest:?} is not started");
            assert!(
                newest.life.stop.is_none() && newest.image == spec.image,
                "{newest:?} is an old one"
            );
            assert_eq!(newest.life.resources.as_ref(), Some(&spec.resources));
        }
        if let (Some(deadline), Some(started_at)) = (desired.active_deadline, observed.started_at) {
            panic!("it is at rest at {now}, and active until {}", started_at + deadline);
        }
        assert_eq!(phase, "Running");
        let told = conditions(status);
        assert_eq!(told.get("Initialized"), Some(&"True"));
        let is_whole = |spec: &ContainerSpec| is_ready(spec, observed);
        let sidecars = desired.init_containers.iter().filter(|spec| spec.is_sidecar());
        let all_ready = desired.containers.iter().chain(sidecars).all(is_whole);
        assert_eq!(
            told.get("ContainersReady").copied(),
            Some(if all_ready { "True" } else { "False" })
        );
        false
    }
}
