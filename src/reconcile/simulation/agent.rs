//! The agent: the order of one pass that [`crate::reconcile`] lays down, with a boundary before and after each save and
//! each effect; and the mistakes that can be planted in it, to prove that the simulation would find them.

use std::any::Any;

use super::oracle::Oracle;
use super::world::{ENOUGH_ROUNDS, World};
use crate::model::{
    AttemptState, ContainerPhase, FailedStep, FailureReason, ImageId, Observed, Plan, RestartPolicy, SandboxEnd,
    SandboxState, Snapshot, Step, Timestamp,
};
use crate::reconcile::{self, Limits, Start};
use crate::status::{NodeFacts, status};

/// Why a pass ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Crash,
    Unobservable,
}

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
}

impl Mistake {
    pub(super) const ALL: [Self; 14] = [
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
    ];
}

/// Look, plan, act, until there is nothing to do now. Gives the plan's timer.
pub(super) fn pass(world: &mut World) -> Result<Option<Timestamp>, Stop> {
    for _ in 0..ENOUGH_ROUNDS {
        let now = look(world)?;
        let plan = plan(world, now);
        world.say(|| format!("{plan:?}"));
        world.oracle.planned(now, &world.desired, &world.observed, &plan);
        save_status(world)?;
        if plan.steps.is_empty() {
            return Ok(plan.wake_at);
        }
        execute(world, &plan.steps)?;
        if !world.exists {
            return Ok(None);
        }
    }
    panic!("{ENOUGH_ROUNDS} rounds at one go: {:#?}", world.observed);
}

fn save(world: &mut World, after: Observed) -> Result<(), Stop> {
    world.boundary()?;
    let mut oracle = world.take_oracle();
    oracle.saved(
        &world.boot_id(),
        &world.desired,
        &world.observed,
        &after,
        |sandbox| world.is_sandbox_alive(sandbox),
        |container, attempt| world.is_alive(container, attempt),
    );
    world.oracle = oracle;
    world.observed = after;
    world.note_save();
    world.boundary()
}

/// Observe, then read the clock, record, save.
fn look(world: &mut World) -> Result<Timestamp, Stop> {
    let mut snapshot = world.observe()?;
    world.boundary()?;
    let now = world.now();
    let mut before = world.observed.clone();
    mistakes_before_record(world.mistake, &mut before, &mut snapshot);
    let mut after = reconcile::record(now, &world.boot_id(), &before, &snapshot);
    assert_eq!(
        reconcile::record(now, &world.boot_id(), &after, &snapshot),
        after,
        "recorded twice"
    );
    mistakes_after_record(world.mistake, now, &world.observed, &mut after);
    if after != world.observed {
        save(world, after)?;
    }
    Ok(now)
}

fn plan(world: &World, now: Timestamp) -> Plan {
    let mut limits = world.limits;
    let mut desired = world.desired.clone();
    let mut observed = world.observed.clone();
    match world.mistake {
        Some(Mistake::ForgetsBackoff) => {
            limits = Limits {
                max_backoff: std::time::Duration::from_secs(1),
                ..limits
            }
        }
        Some(Mistake::IgnoresOnFailure) if desired.restart_policy == RestartPolicy::OnFailure => {
            desired.restart_policy = RestartPolicy::Always;
        }
        Some(Mistake::KillsWithoutGrace) => {
            if let Some(deletion) = &mut desired.deletion {
                deletion.grace /= 2;
            }
        }
        Some(Mistake::KillsOnce) => {
            for attempt in observed
                .attempts
                .iter_mut()
                .filter(|attempt| attempt.killed_at.is_some())
            {
                attempt.killed_at = Some(now);
            }
        }
        Some(_) | None => {}
    }
    let mut plan = reconcile::reconcile(now, &desired, &observed, &limits);
    assert_eq!(
        plan,
        reconcile::reconcile(now, &desired, &observed, &limits),
        "decided twice"
    );
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
            plan.steps.retain(|step| match step {
                Step::StartContainer { container, .. } => {
                    let ahead = ends_ahead(container);
                    plan.wake_at = ahead.or(plan.wake_at);
                    ahead.is_none()
                }
                Step::BeginStop { .. }
                | Step::RunHook { .. }
                | Step::Resize { .. }
                | Step::GiveUp { .. }
                | Step::CreateSandbox { .. }
                | Step::StopSandbox { .. }
                | Step::StopContainer { .. }
                | Step::KillContainer { .. }
                | Step::TearDown
                | Step::Forget => true,
            });
        }
        Some(_) | None => {}
    }
    plan
}

fn mistakes_before_record(mistake: Option<Mistake>, before: &mut Observed, snapshot: &mut Snapshot) {
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
        Some(_) | None => {}
    }
}

fn mistakes_after_record(mistake: Option<Mistake>, now: Timestamp, before: &Observed, after: &mut Observed) {
    if mistake == Some(Mistake::RebuildsSandboxForAContainer)
        && after.attempts.iter().filter(|a| a.exit().is_some()).count()
            > before.attempts.iter().filter(|a| a.exit().is_some()).count()
        && let Some(sandbox) = &mut after.sandbox
        && matches!(sandbox.state, SandboxState::Ready { .. })
    {
        sandbox.state = SandboxState::Dead {
            at: now,
            end: SandboxEnd::InfraExited,
        };
    }
}

fn save_status(world: &mut World) -> Result<(), Stop> {
    let node = NodeFacts {
        host_ips: vec!["192.0.2.1".parse().expect("an address")],
        name: "node".to_owned(),
        capacity: None,
    };
    let mut observed = world.observed.clone();
    if world.mistake == Some(Mistake::CountsWhatMayNeverRun) {
        for attempt in observed
            .attempts
            .iter_mut()
            .filter(|a| a.state == AttemptState::Starting)
        {
            attempt.state = AttemptState::Running {
                started_at: world.now(),
            };
        }
    }
    let new = status(world.now(), &node, &world.desired, &observed, world.status.as_ref());
    if world.is_to_be_checked_twice() {
        let again = status(world.now(), &node, &world.desired, &observed, Some(&new));
        assert_eq!(again, new, "the same status again differs");
    }
    if world.status.as_ref() != Some(&new) {
        Oracle::reported(world.status.as_ref(), &new);
        world.status = Some(new);
    }
    world.boundary()
}

/// What came of a step, recorded only once the machine was looked at.
enum Outcome {
    Observable,
    Failed(FailedStep, FailureReason),
    SandboxReady(u32),
    SandboxStopped(u32),
    TornDown,
    Removed,
}

/// All beginnings in one save, all effects, one look, then what came of them in one save.
fn execute(world: &mut World, steps: &[Step]) -> Result<(), Stop> {
    if world.mistake == Some(Mistake::ActsBeforeItSaves) {
        for step in steps {
            if let Step::StartContainer {
                container,
                attempt,
                sandbox,
                backoff: _,
            } = step
            {
                world.start_container(*sandbox, container, *attempt);
            }
        }
    }
    let mut imageless = Vec::new();
    let mut begun = world.observed.clone();
    for step in steps {
        begun = begin(world, step, begun, &mut imageless);
    }
    world.boundary()?;
    if begun != world.observed {
        save(world, begun)?;
    }

    let mut outcomes = Vec::new();
    for step in steps.iter().filter(|step| !imageless.contains(step)) {
        outcomes.push(act(world, step)?);
        world.boundary()?;
    }
    look(world)?;

    let mut after = world.observed.clone();
    for outcome in outcomes {
        let now = world.now();
        let failed = |after: &Observed, step, reason| reconcile::failed(now, after, step, reason, "it went wrong");
        after = match outcome {
            Outcome::Observable => after,
            Outcome::Failed(step, reason) => failed(&after, step, reason),
            Outcome::SandboxReady(attempt) => reconcile::sandbox_ready(now, &after, attempt),
            Outcome::SandboxStopped(attempt) => {
                world.boundary()?;
                let removed = world.mistake == Some(Mistake::RemovesBeforeItRecords) || world.remove_sandbox(attempt);
                if removed {
                    reconcile::sandbox_stopped(now, &after, attempt)
                } else {
                    failed(&after, FailedStep::Teardown, FailureReason::KillPodSandboxError)
                }
            }
            Outcome::TornDown => reconcile::torn_down(&after),
            Outcome::Removed => {
                world.boundary()?;
                world.exists = false;
                return Ok(());
            }
        };
    }
    if after != world.observed {
        save(world, after)?;
    }
    Ok(())
}

/// Record what is about to be done.
fn begin<'a>(world: &mut World, step: &'a Step, observed: Observed, imageless: &mut Vec<&'a Step>) -> Observed {
    let now = world.now();
    match step {
        Step::CreateSandbox { attempt } => {
            world.address_held = true;
            let ip = Some("10.244.0.2".parse().expect("an address"));
            reconcile::begin_sandbox(now, &world.boot_id(), &observed, *attempt, ip)
        }
        Step::StartContainer {
            container,
            attempt,
            sandbox,
            backoff,
        } => {
            if world.image() {
                let step = Start {
                    container,
                    attempt: *attempt,
                    sandbox: *sandbox,
                    backoff: *backoff,
                };
                let spec = world.desired.container(container).expect("what is started is wanted");
                let image = ImageId("sha256:1".to_owned());
                reconcile::begin_attempt(&observed, step, &spec.image, image, &spec.resources)
            } else {
                imageless.push(step);
                let failed = FailedStep::Container(container.clone());
                reconcile::failed(now, &observed, failed, FailureReason::ErrImagePull, "it is not there")
            }
        }
        Step::KillContainer { container, attempt } => reconcile::begin_kill(now, &observed, container, *attempt),
        Step::BeginStop { .. } | Step::RunHook { .. } | Step::Resize { .. } | Step::GiveUp { .. } => observed,
        Step::StopSandbox { .. } | Step::StopContainer { .. } | Step::TearDown | Step::Forget => observed,
    }
}

fn act(world: &mut World, step: &Step) -> Result<Outcome, Stop> {
    let teardown = Outcome::Failed(FailedStep::Teardown, FailureReason::KillPodSandboxError);
    let outcome = match step {
        Step::BeginStop { .. } | Step::RunHook { .. } | Step::Resize { .. } | Step::GiveUp { .. } => {
            Outcome::Observable
        }
        Step::CreateSandbox { attempt } => {
            if world.create_sandbox(*attempt) {
                Outcome::SandboxReady(*attempt)
            } else {
                Outcome::Failed(FailedStep::Sandbox, FailureReason::CreatePodSandboxError)
            }
        }
        Step::StopSandbox { attempt } => {
            let stopped = world.stop_sandbox(*attempt)
                && (world.mistake != Some(Mistake::RemovesBeforeItRecords) || world.remove_sandbox(*attempt));
            if stopped {
                Outcome::SandboxStopped(*attempt)
            } else {
                teardown
            }
        }
        Step::StartContainer {
            container,
            attempt,
            sandbox,
            backoff: _,
        } => {
            world.crash_while_sending(*sandbox, container, *attempt)?;
            let written = |world: &World| world.is_start_failure_written(*sandbox, container, *attempt);
            if world.start_container(*sandbox, container, *attempt) || written(world) {
                Outcome::Observable
            } else {
                Outcome::Failed(
                    FailedStep::Container(container.clone()),
                    FailureReason::CreateContainerError,
                )
            }
        }
        Step::StopContainer { container, attempt } => match sandbox_of(world, container, *attempt) {
            Some(sandbox) if !world.stop_container(sandbox, container, *attempt) => Outcome::Failed(
                FailedStep::Container(container.clone()),
                FailureReason::KillPodSandboxError,
            ),
            Some(_) | None => Outcome::Observable,
        },
        Step::KillContainer { container, attempt } => {
            if let Some(sandbox) = sandbox_of(world, container, *attempt) {
                world.kill_container(sandbox, container, *attempt);
            }
            Outcome::Observable
        }
        Step::TearDown => {
            if world.desired.deletion.is_some() && !world.remove_pod() {
                return Ok(teardown);
            }
            world.boundary()?;
            world.address_held = false;
            Outcome::TornDown
        }
        Step::Forget => {
            if world.mistake == Some(Mistake::ForgetsWithoutTearDown) || world.remove_pod() {
                Outcome::Removed
            } else {
                teardown
            }
        }
    };
    Ok(outcome)
}

fn sandbox_of(world: &World, container: &str, attempt: u32) -> Option<u32> {
    world
        .observed
        .attempts
        .iter()
        .find(|a| a.container == container && a.attempt == attempt)
        .map(|a| a.sandbox)
}

/// What a panic said.
pub(super) fn panic_text(why: &(dyn Any + Send)) -> String {
    let text = why.downcast_ref::<String>().cloned();
    let text = text
        .or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}
