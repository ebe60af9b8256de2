//! What can be done wrong on purpose, to prove that the simulation would find it.

use std::time::Duration;

use super::pods::{Kind, kind};
use super::world::World;
use crate::model::{
    AttemptLife, AttemptState, ContainerPhase, HookRecord, Observed, Plan, PodSpec, ProbeRecord, Report, RestartPolicy,
    SandboxEnd, SandboxState, Snapshot, Step, StopReason, Timestamp,
};
use crate::reconcile::{self, Limits};

/// Something done wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    /// An attempt that was starting when its journal was lost is taken never to have run.
    DropsWhatWasStarting,
    /// What a dead shim wrote down is not read.
    LosesWhatADeadShimWrote,
    /// The record is saved after the effect, not before.
    ActsBeforeItSaves,
    /// The sandbox is removed before the ends in it are recorded.
    RemovesBeforeItRecords,
    /// Back-off does not grow.
    ForgetsBackoff,
    /// A container's exit makes the sandbox anew.
    RebuildsSandboxForAContainer,
    /// A stopped sandbox is made again under its old number.
    ReusesSandboxNumbers,
    /// A container that is done is started again.
    IgnoresOnFailure,
    /// SIGKILL at once.
    KillsWithoutGrace,
    /// The object goes before what is on the machine.
    ForgetsWithoutTearDown,
    /// The plan's timer is not set.
    NeverWakes,
    /// A recorded time that lies ahead is waited for.
    WaitsForAFutureThatWasSetBack,
    /// An attempt counts as a restart before it runs.
    CountsWhatMayNeverRun,
    /// A signal that was sent is never sent again.
    KillsOnce,
    /// Regular containers do not wait for the init containers.
    StartsBeforeItIsInitialised,
    /// An init container that was done is run again by a new agent.
    RunsInitAgain,
    /// A sidecar is waited for to end, as if it were an init container.
    TakesSidecarsForInitContainers,
    /// A sidecar counts for the end of the pod, as if it were a regular container.
    TakesSidecarsForRegularContainers,
    /// Sidecars are told to stop together with everything else.
    StopsAllAtOnce,
    /// The stop signal does not wait for the preStop hook.
    SignalsBeforePreStop,
    /// A hook that was begun by an agent that died is taken to be under way.
    NeverRunsAHookAgain,
    /// What a hook came to is not folded in.
    LosesHookReports,
    /// What the preStop hook took is not deducted from the grace.
    GivesGraceTwice,
    /// A stop that is no deletion has but half its grace.
    CutsGraceOfStops,
    /// Probe results are memory: a new agent begins with none.
    ForgetsProbesAtRestart,
    /// A probe that failed once has failed.
    IgnoresThresholds,
    /// What a late report tells of one attempt is taken for the next one.
    TakesReportsForTheNewestAttempt,
    /// Liveness goes on counting while the pod is being deleted.
    CountsLivenessInDeletion,
    /// An image that changed is not looked at.
    IgnoresImageChanges,
    /// A change of the image restarts only what its policy restarts.
    RestartsChangedImagesByPolicy,
    /// A resize is carried out and not recorded.
    ForgetsResizes,
    /// `activeDeadlineSeconds` is not looked at.
    IgnoresTheDeadline,
    /// A pod that was given up is not, after a new agent came.
    TakesUpWhatWasGivenUp,
    /// An ephemeral container is started again.
    RestartsEphemeralContainers,
    /// A container's own policy is not looked at.
    IgnoresOwnPolicies,
    /// Restart rules are not looked at.
    IgnoresRestartRules,
    /// When all restart, what runs runs on.
    LetsOthersRunOn,
    /// When all restart, init containers that were done stay so.
    RestartsAllButInit,
}

impl Mistake {
    pub(super) const ALL: [Self; 38] = [
        Self::DropsWhatWasStarting,
        Self::LosesWhatADeadShimWrote,
        Self::ActsBeforeItSaves,
        Self::RemovesBeforeItRecords,
        Self::ForgetsBackoff,
        Self::RebuildsSandboxForAContainer,
        Self::ReusesSandboxNumbers,
        Self::IgnoresOnFailure,
        Self::KillsWithoutGrace,
        Self::ForgetsWithoutTearDown,
        Self::NeverWakes,
        Self::WaitsForAFutureThatWasSetBack,
        Self::CountsWhatMayNeverRun,
        Self::KillsOnce,
        Self::StartsBeforeItIsInitialised,
        Self::RunsInitAgain,
        Self::TakesSidecarsForInitContainers,
        Self::TakesSidecarsForRegularContainers,
        Self::StopsAllAtOnce,
        Self::SignalsBeforePreStop,
        Self::NeverRunsAHookAgain,
        Self::LosesHookReports,
        Self::GivesGraceTwice,
        Self::CutsGraceOfStops,
        Self::ForgetsProbesAtRestart,
        Self::IgnoresThresholds,
        Self::TakesReportsForTheNewestAttempt,
        Self::CountsLivenessInDeletion,
        Self::IgnoresImageChanges,
        Self::RestartsChangedImagesByPolicy,
        Self::ForgetsResizes,
        Self::IgnoresTheDeadline,
        Self::TakesUpWhatWasGivenUp,
        Self::RestartsEphemeralContainers,
        Self::IgnoresOwnPolicies,
        Self::IgnoresRestartRules,
        Self::LetsOthersRunOn,
        Self::RestartsAllButInit,
    ];
}

/// What a mistaken agent decides from.
fn in_the_plans_eyes(mistake: Option<Mistake>, now: Timestamp, desired: &mut PodSpec, observed: &mut Observed) {
    match mistake {
        Some(Mistake::IgnoresOnFailure) if desired.restart_policy == RestartPolicy::OnFailure => {
            desired.restart_policy = RestartPolicy::Always;
        }
        Some(Mistake::KillsWithoutGrace) => {
            if let Some(deletion) = &mut desired.deletion {
                deletion.grace /= 2;
            }
        }
        Some(Mistake::KillsOnce) => {
            let killed = observed.attempts.iter_mut().filter(|a| a.killed_at.is_some());
            killed.for_each(|attempt| attempt.killed_at = Some(now));
        }
        Some(Mistake::StartsBeforeItIsInitialised) => desired.init_containers.clear(),
        Some(Mistake::TakesSidecarsForInitContainers) => {
            for container in &mut desired.init_containers {
                container.life.restart_policy = None;
            }
        }
        Some(Mistake::TakesSidecarsForRegularContainers) => {
            let sidecars = desired
                .init_containers
                .extract_if(.., |container| container.is_sidecar());
            desired.containers.extend(sidecars);
        }
        Some(Mistake::SignalsBeforePreStop) => {
            for attempt in &mut observed.attempts {
                attempt.life.pre_stop = HookRecord::Done { at: now };
            }
        }
        Some(Mistake::GivesGraceTwice) => {
            for attempt in &mut observed.attempts {
                if let (HookRecord::Done { at }, Some(stop)) = (&attempt.life.pre_stop, &mut attempt.life.stop) {
                    stop.asked_at = *at;
                }
            }
        }
        Some(Mistake::CutsGraceOfStops) => {
            let stops = observed.attempts.iter_mut().filter_map(|a| a.life.stop.as_mut());
            stops.for_each(|stop| stop.grace = Duration::ZERO);
        }
        Some(Mistake::IgnoresImageChanges) => {
            for attempt in &observed.attempts {
                for spec in desired
                    .containers
                    .iter_mut()
                    .filter(|spec| spec.name == attempt.container)
                {
                    spec.image.clone_from(&attempt.image);
                }
            }
        }
        Some(Mistake::RestartsChangedImagesByPolicy) => {
            for attempt in observed.attempts.iter_mut().filter(|a| a.exit().is_some()) {
                attempt.life.stop = None;
            }
        }
        Some(Mistake::IgnoresTheDeadline) => desired.active_deadline = None,
        Some(Mistake::RestartsEphemeralContainers) => {
            observed
                .attempts
                .retain(|a| kind(desired, &a.container) != Kind::Ephemeral || a.is_live());
        }
        Some(Mistake::IgnoresOwnPolicies) => {
            for container in &mut desired.containers {
                container.life.restart_policy = None;
            }
        }
        Some(Mistake::IgnoresRestartRules) => {
            for container in desired.init_containers.iter_mut().chain(&mut desired.containers) {
                container.life.restart_rules.clear();
            }
        }
        Some(Mistake::RestartsAllButInit) => {
            let done = observed.attempts.iter_mut();
            let done = done.filter(|a| a.exit().is_some_and(|exit| exit.status.is_success()));
            for attempt in done.filter(|a| kind(desired, &a.container) == Kind::Init) {
                attempt.life.stop = None;
            }
        }
        Some(_) | None => {}
    }
}

pub(super) fn plan(world: &World, now: Timestamp) -> Plan {
    let mut limits = world.limits.clone();
    let mut desired = world.desired.clone();
    let mut observed = world.observed.clone();
    if world.mistake == Some(Mistake::ForgetsBackoff) {
        limits = Limits {
            max_backoff: Duration::from_secs(1),
            ..limits
        };
    }
    in_the_plans_eyes(world.mistake, now, &mut desired, &mut observed);
    if world.mistake == Some(Mistake::RunsInitAgain) && world.is_new_agent {
        observed
            .attempts
            .retain(|a| kind(&desired, &a.container) != Kind::Regular);
        for attempt in observed.attempts.iter_mut().filter(|a| a.exit().is_some()) {
            attempt.sandbox = u32::MAX;
        }
    }
    let mut plan = reconcile::reconcile(now, &desired, &observed, &limits);
    assert_eq!(
        plan,
        reconcile::reconcile(now, &desired, &observed, &limits),
        "decided twice"
    );
    spoil(world, now, &mut plan);
    plan
}

/// A plan made wrong after it was made.
fn spoil(world: &World, now: Timestamp, plan: &mut Plan) {
    let (desired, observed) = (&world.desired, &world.observed);
    match world.mistake {
        Some(Mistake::NeverWakes) => plan.wake_at = None,
        Some(Mistake::ForgetsWithoutTearDown) => {
            plan.steps
                .iter_mut()
                .filter(|step| **step == Step::TearDown)
                .for_each(|step| *step = Step::Forget);
        }
        Some(Mistake::ReusesSandboxNumbers) => {
            for step in &mut plan.steps {
                if let Step::CreateSandbox { attempt } = step {
                    *attempt = attempt.saturating_sub(1);
                }
            }
        }
        Some(Mistake::WaitsForAFutureThatWasSetBack) => {
            let ends_ahead = |container: &String| {
                let exit = observed.newest(container).and_then(|attempt| attempt.exit());
                exit.map(|exit| exit.finished_at).filter(|at| *at > now)
            };
            let mut wake_at = plan.wake_at;
            plan.steps.retain(|step| {
                let ahead = if let Step::StartContainer { container, .. } = step {
                    ends_ahead(container)
                } else {
                    None
                };
                wake_at = ahead.or(wake_at);
                ahead.is_none()
            });
            plan.wake_at = wake_at;
        }
        Some(Mistake::StopsAllAtOnce) if plan.steps.iter().any(|step| matches!(step, Step::StopContainer { .. })) => {
            let running = observed.attempts.iter().filter(|a| {
                matches!(a.state, AttemptState::Running { .. })
                    && a.stop_signalled_at.is_none()
                    && kind(desired, &a.container) == Kind::Sidecar
            });
            for attempt in running {
                let step = Step::StopContainer {
                    container: attempt.container.clone(),
                    attempt: attempt.attempt,
                };
                if !plan.steps.contains(&step) {
                    plan.steps.push(step);
                }
            }
        }
        Some(Mistake::LetsOthersRunOn) => plan.steps.retain(|step| {
            if let Step::BeginStop { container, stop, .. } = step {
                let runs = observed.newest(container).is_some_and(|newest| newest.exit().is_none());
                stop.why != StopReason::AllRestart || !runs
            } else {
                true
            }
        }),
        Some(Mistake::NeverRunsAHookAgain) => plan.steps.retain(|step| {
            if let Step::RunHook { container, attempt, .. } = step {
                let known = observed.attempts.iter();
                let mut known = known.filter(|a| a.container == *container && a.attempt == *attempt);
                known.next().is_none_or(|a| {
                    let begun = |record: &HookRecord| matches!(record, HookRecord::Begun { .. });
                    !begun(&a.life.post_start) && !begun(&a.life.pre_stop)
                })
            } else {
                true
            }
        }),
        Some(_) | None => {}
    }
}

/// What a mistaken agent believes to be stored and seen when it looks.
pub(super) fn before_record(
    mistake: Option<Mistake>,
    is_new_agent: bool,
    before: &mut Observed,
    snapshot: &mut Snapshot,
) {
    match mistake {
        Some(Mistake::DropsWhatWasStarting) => before
            .attempts
            .retain(|a| a.state != AttemptState::Starting || snapshot.sandbox(a.sandbox).is_some()),
        Some(Mistake::LosesWhatADeadShimWrote) => {
            for sandbox in snapshot.sandboxes.iter_mut().filter(|sandbox| !sandbox.shim_alive) {
                for container in &mut sandbox.containers {
                    if let ContainerPhase::Exited { started_at, .. } = container.phase {
                        container.phase = ContainerPhase::Running { pid: 1, started_at };
                    }
                }
            }
        }
        Some(Mistake::ForgetsProbesAtRestart) if is_new_agent => {
            for attempt in &mut before.attempts {
                let AttemptLife {
                    startup,
                    liveness,
                    readiness,
                    ..
                } = &mut attempt.life;
                for record in [startup, liveness, readiness] {
                    *record = ProbeRecord::default();
                }
            }
        }
        Some(Mistake::TakesUpWhatWasGivenUp) if is_new_agent => before.given_up = None,
        Some(_) | None => {}
    }
}

pub(super) fn after_record(mistake: Option<Mistake>, now: Timestamp, before: &Observed, after: &mut Observed) {
    let ends = |observed: &Observed| observed.attempts.iter().filter(|a| a.exit().is_some()).count();
    if mistake == Some(Mistake::RebuildsSandboxForAContainer)
        && ends(after) > ends(before)
        && let Some(sandbox) = &mut after.sandbox
        && matches!(sandbox.state, SandboxState::Ready { .. })
    {
        sandbox.state = SandboxState::Dead {
            at: now,
            end: SandboxEnd::InfraExited,
        };
    }
}

/// Fold a report in.
pub(super) fn fold(
    mistake: Option<Mistake>,
    now: Timestamp,
    desired: &PodSpec,
    observed: &Observed,
    report: &Report,
) -> Observed {
    let mut desired = desired.clone();
    let mut report = report.clone();
    match mistake {
        Some(Mistake::LosesHookReports) if matches!(report.what, crate::model::Reported::Hook { .. }) => {
            return observed.clone();
        }
        Some(Mistake::IgnoresThresholds) => {
            for spec in desired.containers.iter_mut().chain(&mut desired.init_containers) {
                let life = &mut spec.life;
                for probe in [&mut life.startup, &mut life.liveness, &mut life.readiness]
                    .into_iter()
                    .flatten()
                {
                    probe.failure_threshold = 1;
                }
            }
        }
        Some(Mistake::TakesReportsForTheNewestAttempt) => {
            if let Some(newest) = observed.newest(&report.container) {
                report.attempt = newest.attempt;
            }
        }
        Some(Mistake::CountsLivenessInDeletion) => desired.deletion = None,
        Some(_) | None => {}
    }
    reconcile::report(now, &desired, observed, &report)
}
