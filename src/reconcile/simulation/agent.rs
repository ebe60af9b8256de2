//! The agent: the order of one pass that [`crate::reconcile`] lays down, with a boundary before and after each save and
//! each effect. What its probes and hooks tell is folded into the record before each look; a hook that is under way is no
//! step.

use std::any::Any;

use super::mistakes::{self, Mistake};
use super::world::{ENOUGH_ROUNDS, World};
use crate::model::{
    AttemptState, FailedStep, FailureReason, ImageId, Observed, PodSpec, Report, Resources, Step, Timestamp,
};
use crate::reconcile::{self, Start};
use crate::status::{NodeFacts, status};

/// Why a pass ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Crash,
    Unobservable,
}

/// Look, plan, act, until there is nothing to do now. Gives the plan's timer.
pub(super) fn pass(world: &mut World) -> Result<Option<Timestamp>, Stop> {
    for _ in 0..ENOUGH_ROUNDS {
        take_reports(world)?;
        let now = look(world)?;
        // What the user asks for from now on is for the next round.
        let desired = world.desired.clone();
        let mut plan = mistakes::plan(world, now);
        world.is_new_agent = false;
        world.say(|| format!("{plan:?}"));
        world.check_plan(now, &plan);
        save_status(world)?;
        plan.steps.retain(|step| {
            if let Step::RunHook {
                container,
                attempt,
                hook,
            } = step
            {
                !world.is_under_way(container, *attempt, *hook)
            } else {
                true
            }
        });
        if !plan.steps.is_empty() {
            execute(world, &desired, &plan.steps)?;
        }
        if !world.exists {
            return Ok(None);
        }
        world.watch();
        if plan.steps.is_empty() && !world.has_reports() {
            return Ok(plan.wake_at);
        }
    }
    panic!("{ENOUGH_ROUNDS} rounds at one go: {:#?}", world.observed);
}

/// A report, and what it met when it was folded in.
pub(super) struct Taken {
    pub(super) desired: PodSpec,
    pub(super) before: Observed,
    pub(super) report: Report,
}

/// What probes and hooks told since: folded in and saved. Should the agent die before, it is as if it was never told.
fn take_reports(world: &mut World) -> Result<(), Stop> {
    let mut after = world.observed.clone();
    let mut taken = Vec::new();
    for report in world.take_reports() {
        let before = after;
        after = mistakes::fold(world.mistake, world.now(), &world.desired, &before, &report);
        taken.push(Taken {
            desired: world.desired.clone(),
            before,
            report,
        });
    }
    if after == world.observed {
        world.model_told(&taken);
        return Ok(());
    }
    save(world, after, &taken)
}

fn save(world: &mut World, after: Observed, reports: &[Taken]) -> Result<(), Stop> {
    world.boundary()?;
    world.model_told(reports);
    world.check_save(&after);
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
    mistakes::before_record(world.mistake, world.is_new_agent, &mut before, &mut snapshot);
    let mut after = reconcile::record(now, &world.boot_id(), &before, &snapshot);
    assert_eq!(
        reconcile::record(now, &world.boot_id(), &after, &snapshot),
        after,
        "recorded twice"
    );
    mistakes::after_record(world.mistake, now, &world.observed, &mut after);
    if after != world.observed {
        save(world, after, &[])?;
    }
    Ok(now)
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
    world.check_status(&new);
    world.status = Some(new);
    world.boundary()
}

/// What came of a step, recorded only once the machine was looked at.
enum Outcome {
    Observable,
    Failed(FailedStep, FailureReason),
    SandboxReady(u32),
    SandboxStopped(u32),
    Resized(String, u32, Resources),
    TornDown,
    Removed,
}

/// All beginnings in one save, all effects, one look, then what came of them in one save.
fn execute(world: &mut World, desired: &PodSpec, steps: &[Step]) -> Result<(), Stop> {
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
        begun = begin(world, desired, step, begun, &mut imageless);
    }
    world.boundary()?;
    if begun != world.observed {
        save(world, begun, &[])?;
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
            Outcome::Resized(_, _, _) if world.mistake == Some(Mistake::ForgetsResizes) => after,
            Outcome::Resized(container, attempt, resources) => {
                reconcile::resized(&after, &container, attempt, &resources)
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
        save(world, after, &[])?;
    }
    Ok(())
}

/// Record what is about to be done.
fn begin<'a>(
    world: &mut World,
    desired: &PodSpec,
    step: &'a Step,
    observed: Observed,
    imageless: &mut Vec<&'a Step>,
) -> Observed {
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
                let spec = desired.container(container).expect("what is started is wanted");
                let image = ImageId("sha256:1".to_owned());
                reconcile::begin_attempt(&observed, step, &spec.image, image, &spec.resources)
            } else {
                imageless.push(step);
                let failed = FailedStep::Container(container.clone());
                reconcile::failed(now, &observed, failed, FailureReason::ErrImagePull, "it is not there")
            }
        }
        Step::KillContainer { container, attempt } => reconcile::begin_kill(now, &observed, container, *attempt),
        Step::BeginStop {
            container,
            attempt,
            stop,
        } => reconcile::begin_stop(now, &observed, container, *attempt, stop),
        Step::RunHook {
            container,
            attempt,
            hook,
        } => reconcile::begin_hook(now, &observed, container, *attempt, *hook),
        Step::GiveUp { reason, message } => reconcile::gave_up(now, &observed, *reason, message.clone()),
        Step::Resize { .. } | Step::StopSandbox { .. } | Step::StopContainer { .. } | Step::TearDown | Step::Forget => {
            observed
        }
    }
}

fn act(world: &mut World, step: &Step) -> Result<Outcome, Stop> {
    let teardown = Outcome::Failed(FailedStep::Teardown, FailureReason::KillPodSandboxError);
    let outcome = match step {
        Step::BeginStop { .. } | Step::GiveUp { .. } => Outcome::Observable,
        Step::RunHook {
            container,
            attempt,
            hook,
        } => {
            world.run_hook(container, *attempt, *hook);
            Outcome::Observable
        }
        Step::Resize {
            container,
            attempt,
            resources,
        } => {
            if world.resize(container, *attempt) {
                Outcome::Resized(container.clone(), *attempt, resources.clone())
            } else {
                Outcome::Failed(
                    FailedStep::Container(container.clone()),
                    FailureReason::CreateContainerError,
                )
            }
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
