//! The decision: what is to be done next for one pod.
//!
//! Goes in: the time, the pod as it is wanted, the record of what is. Comes out: a [`Plan`].
//!
//! **Invariants:** everything here is pure, total and infallible: no clock, no I/O, same input, same plan. Only what is
//! recorded counts, so the decision and the reported status cannot disagree, and a decision made again after a crash is
//! the same one.
//!
//! ## The order of one round
//!
//! Whoever drives this keeps to the following order; the simulation beside it crashes at every arrow. Each save is
//! durable before what follows it. Steps of one plan are independent: they begin in one save and act side by side.
//!
//! ```text
//! look:   snapshot = observe ──▶ now = clock ──▶ observed = record(now, ..) ──▶ save
//! round:  look ──▶ plan = reconcile(now, ..) ──▶ status(now, ..)
//!         no steps: sleep until `wake_at` or a hint
//!         steps:    begin ──▶ save ──▶ act ──▶ look ──▶ outcome ──▶ save ──▶ next round at once
//!
//!                 begin                     act                             outcome
//! CreateSandbox   place, begin_sandbox      create_sandbox                  sandbox_ready
//! StartContainer  image, begin_attempt,     start_container                 (record finds it)
//!                 started_from
//! RunHook         begin_hook                the hook, beside all else       report, whenever it ends
//! Resize                                    resize_container                resized
//! BeginStop       begin_stop
//! GiveUp          gave_up
//! StopContainer                             stop_container                  (record finds it: the shim writes it down)
//! KillContainer   begin_kill                kill_container                  (record finds it)
//! StopSandbox                               stop_sandbox                    remove_sandbox ──▶ sandbox_stopped
//! TearDown                                  remove_pod, release place       torn_down
//! Forget                                    remove_pod with its logs        the object and all its rows go
//! what fails                                                                failed(step, ..)
//! ```
//!
//! Before the first round of a look whose cause is that an object was written which the pod may have lacked: `forgive`.
//!
//! * `now` is read after the machine was observed. When observing fails nothing is planned: unknown is not absent.
//! * Saves with nothing acted between them may be one: the controller saves an outcome, the look after it and the next
//!   begin together. What a crash then finds stored is always something that the simulation, which saves at every arrow,
//!   finds too. What only prepares (files, directories, a process that waits) may go on while the save does, or ahead of
//!   it; what acts waits for it.
//! * A hook is planned again until `report` has recorded its end: one that is under way is left alone, and a plan of
//!   nothing but such hooks is no reason for another round. Probes run beside all this, as [`probes_due`] says; what they
//!   come to is folded in by `report` and saved before anything is decided from it.
//! * `failed` is told `Sandbox` for `CreateSandbox`; `Container` for a container's image, start and stop; `Teardown` for
//!   `StopSandbox`, `TearDown` and `Forget`. Not told: a start that failed and that the journal has (`record` makes it a
//!   `StartError`, which has its own back-off), and `KillContainer`, which is due again soon anyway.
//! * A place is taken on the machine before the first sandbox, and raised before containers are given other resources.
//!   Where there is none, the pod is turned away, or goes on with what it has: that is the driver's part, since it rests on
//!   what other pods take.
//! * A sandbox is removed only once every end in it is saved, and recorded as stopped only once it is removed: a crash
//!   between the two stops it again, which does nothing.
//! * A finished pod is torn down before it is deleted, and its logs stay: so `Forget` removes what is left, too.

mod backoff;
mod containers;
#[cfg(test)]
pub(crate) mod course;
mod life;
mod outcome;
mod record;
mod rejection;
mod report;
mod resize;
mod restarts;
mod shutdown;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_any;
#[cfg(test)]
mod tests_init;
#[cfg(test)]
mod tests_life;
#[cfg(test)]
mod tests_record;
#[cfg(test)]
mod tests_rejection;
#[cfg(test)]
mod tests_restarts;

use std::time::Duration;

pub(crate) use life::is_running;
pub use life::{is_ready, is_started, probes_due};
pub use outcome::{
    Start, begin_attempt, begin_hook, begin_kill, begin_sandbox, begin_stop, failed, forgive, gave_up, known_user,
    may_be_forgiven, resized, sandbox_ready, sandbox_stopped, started_from, succeeded, torn_down,
};
pub use record::record;
pub use rejection::rejection;
pub(crate) use rejection::{event_message, is_rejected};
pub use report::report;
pub(crate) use resize::{as_allotted, infeasible, is_resized, is_settled, needs_room};
pub(crate) use restarts::{Fate, fate_of_code, is_done, is_restarting_all, may_restart_all, restarts_after_probe};

use backoff::failure_due;
pub(crate) use backoff::{is_pull_error_fresh, restart_due};
use rejection::turned_away;

use crate::model::{
    AllowedSysctls, Capacity, ContainerSpec, FailedStep, GivenUpReason, Observed, Plan, PodSpec, RestartPolicy,
    SandboxState, Step, Timestamp,
};

/// What the operator may set, and what the machine allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest crash-loop delay, 1 s to 300 s (`--max-restart-backoff`; Kubernetes
    /// `crashLoopBackOff.maxContainerRestartPeriod`). Below 10 s it is the first delay too.
    pub max_backoff: Duration,
    /// What the machine has; a resize beyond it is not tried. `None`: not known.
    pub capacity: Option<Capacity>,
    /// The kernel parameters that a pod may set.
    pub sysctls: AllowedSysctls,
    /// The kernel has AppArmor.
    pub app_armor: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_backoff: Duration::from_mins(5),
            capacity: None,
            sysctls: AllowedSysctls::default(),
            app_armor: false,
        }
    }
}

/// A sandbox is not made sooner than this after the one before it: an infra process that dies at once must not spin.
/// (A kubelet finds out at its next relist, 1 s.)
const SANDBOX_SPACING: Duration = Duration::from_secs(1);

/// Kubernetes `pkg/kubelet/active_deadline.go`.
const PAST_DEADLINE: &str = "Pod was active on the node longer than the specified deadline";

/// What to do next.
pub fn reconcile(now: Timestamp, desired: &PodSpec, observed: &Observed, limits: &Limits) -> Plan {
    let mut planner = Planner {
        now,
        desired,
        observed,
        limits,
        plan: Plan::default(),
    };
    match desired.deletion {
        Some(_) => planner.delete(),
        // Of one that was turned away nothing is there that could be taken away.
        None if observed.torn_down || is_rejected(observed) => {}
        None if is_finished(desired, observed) => planner.end(),
        None if planner.is_past_deadline() => planner.step(Step::GiveUp {
            reason: GivenUpReason::DeadlineExceeded,
            message: PAST_DEADLINE.to_owned(),
        }),
        None => match turned_away(desired, observed, limits) {
            Some(rejection) => planner.step(rejection),
            None => planner.run(),
        },
    }
    planner.plan
}

/// Nothing of this pod will ever be started again: it was given up, every regular container is done, an init container
/// has failed for good, or the sandbox of a pod that must never restart anything is dead (Kubernetes
/// `kuberuntime_manager.go computePodActions`). Sidecars and ephemeral containers decide nothing.
pub(crate) fn is_finished(desired: &PodSpec, observed: &Observed) -> bool {
    let done = |container: &ContainerSpec| {
        let newest = observed.newest(&container.name)?;
        let exit = newest.exit()?;
        is_done(desired, container, newest, exit).then_some(exit)
    };
    let all_done = desired.containers.iter().all(|container| done(container).is_some());
    let init_failed = desired
        .init_containers
        .iter()
        .filter(|container| !container.is_sidecar())
        .any(|container| done(container).is_some_and(|exit| !exit.status.is_init_success()));
    let sandbox_is_over = observed.sandbox.as_ref().is_some_and(|sandbox| match &sandbox.state {
        SandboxState::Creating | SandboxState::Ready { .. } => false,
        SandboxState::Dead { .. } | SandboxState::Stopped { .. } => true,
    });
    observed.given_up.is_some()
        || all_done
        || init_failed
        || (desired.restart_policy == RestartPolicy::Never && sandbox_is_over && !observed.attempts.is_empty())
}

/// A plan in the making.
struct Planner<'a> {
    now: Timestamp,
    desired: &'a PodSpec,
    observed: &'a Observed,
    limits: &'a Limits,
    plan: Plan,
}

impl Planner<'_> {
    /// Whether the pod was active for longer than it may; if not, look again when it will be. A clock that was set back
    /// makes it wait longer: it never ends a pod too early.
    fn is_past_deadline(&mut self) -> bool {
        let (Some(deadline), Some(started_at)) = (self.desired.active_deadline, self.observed.started_at) else {
            return false;
        };
        let due = backoff::after(started_at, deadline);
        if self.now < due {
            self.wake(due);
        }
        self.now >= due
    }

    /// Look again at `at`, or sooner.
    fn wake(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |known| known.min(at)));
    }

    fn step(&mut self, step: Step) {
        self.plan.steps.push(step);
    }

    /// Whether something must rest until `due`; if so, look again then.
    fn rests(&mut self, due: Option<Timestamp>) -> bool {
        if let Some(due) = due {
            self.wake(due);
        }
        due.is_some()
    }

    /// Whether a step that failed must rest; if so, look again then.
    fn rests_after_failure(&mut self, step: &FailedStep) -> bool {
        let due = self
            .observed
            .failure(step)
            .and_then(|failure| failure_due(self.now, failure));
        self.rests(due)
    }

    /// The pod is wanted and something of it is to run.
    fn run(&mut self) {
        let Some(sandbox) = &self.observed.sandbox else {
            self.create_sandbox(0);
            return;
        };
        match &sandbox.state {
            SandboxState::Creating => self.create_sandbox(sandbox.attempt),
            SandboxState::Ready { .. } => self.run_containers(sandbox),
            SandboxState::Dead { .. } => self.stop_sandbox(sandbox.attempt),
            SandboxState::Stopped { .. } => {
                if !self.rests(backoff::wait(self.now, sandbox.created_at, SANDBOX_SPACING)) {
                    self.create_sandbox(sandbox.attempt.saturating_add(1));
                }
            }
        }
    }

    fn create_sandbox(&mut self, attempt: u32) {
        if !self.rests_after_failure(&FailedStep::Sandbox) {
            self.step(Step::CreateSandbox { attempt });
        }
    }
}
