//! The end of a container, and the end of a pod: all its containers done for good, or its deletion asked for.
//!
//! Goes in: the same as in every decision. Comes out: preStop hook, stop, kill, and for a pod: stop the sandbox, tear
//! down, forget: each only once the one before it is recorded.
//!
//! Rules: Kubernetes `kuberuntime_container.go killContainer`, `kuberuntime_termination_order.go`.

use std::time::Duration;

use super::life::is_running;
use super::{Planner, backoff};
use crate::model::{
    Attempt, Deletion, FailedStep, GivenUpReason, Hook, HookRecord, SandboxState, Step, Stop, StopReason, Timestamp,
};

/// Between the stop signal and SIGKILL, however little of the grace is left (`minimumGracePeriodInSeconds`).
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Kubernetes `eviction_manager.go`, `immediateEvictionGracePeriodSeconds`.
const EVICTION_GRACE: Duration = Duration::from_secs(1);

impl Planner<'_> {
    /// Nothing of the pod will run again: what still does (sidecars, or all when the pod was given up) is stopped, its
    /// sandbox and its address go; the object, its volumes and logs stay.
    pub(super) fn end(&mut self) {
        let observed = self.observed;
        if self.is_sandbox_ready() {
            let mut running = observed.attempts.iter().filter(|a| is_running(a)).peekable();
            if running.peek().is_some() {
                for attempt in running {
                    if attempt.life.stop.is_some() {
                        self.end_container(attempt);
                    } else {
                        self.begin_stop(attempt, StopReason::PodEnds, self.grace_of_end());
                    }
                }
                return;
            }
        }
        self.clear_away(Step::TearDown);
    }

    /// An evicted pod is a burden: it has no time to lose.
    fn grace_of_end(&self) -> Duration {
        let reason = self.observed.given_up.as_ref().map(|given_up| given_up.reason);
        if reason == Some(GivenUpReason::Evicted) {
            self.desired.termination_grace.min(EVICTION_GRACE)
        } else {
            self.desired.termination_grace
        }
    }

    /// Every container is told to stop at once, but for sidecars, which wait for their turn; SIGKILL when the grace period
    /// is over, then the sandbox, then everything else.
    pub(super) fn delete(&mut self) {
        // What is only starting is not waited for: it dies with the sandbox.
        let observed = self.observed;
        let mut running = observed.attempts.iter().filter(|a| is_running(a)).peekable();
        let sandbox_is_there = observed.sandbox.as_ref().is_some_and(|sandbox| match &sandbox.state {
            SandboxState::Creating | SandboxState::Ready { .. } | SandboxState::Dead { .. } => true,
            SandboxState::Stopped { .. } => false,
        });
        if sandbox_is_there && running.peek().is_some() {
            for attempt in running {
                self.end_container(attempt);
            }
            return;
        }
        self.clear_away(if observed.torn_down {
            Step::Forget
        } else {
            Step::TearDown
        });
    }

    pub(super) fn begin_stop(&mut self, attempt: &Attempt, why: StopReason, grace: Duration) {
        self.step(Step::BeginStop {
            container: attempt.container.clone(),
            attempt: attempt.attempt,
            stop: Stop {
                why,
                asked_at: self.now,
                grace,
            },
        });
    }

    /// What comes next on the way of a running attempt to its end: the preStop hook, its turn, the stop signal, SIGKILL.
    /// All of it has to fit into one grace, but for the least that is left to every stop signal.
    pub(super) fn end_container(&mut self, attempt: &Attempt) {
        let deadline = self.deadline(attempt);
        let is_late = self.now >= deadline;
        // Deleted without any grace it is over at once, and no stop signal is sent; the same when all containers restart.
        let at_once =
            attempt.is_left_behind() || self.desired.deletion.is_some_and(|deletion| deletion.grace.is_zero());
        if is_late && at_once {
            self.kill(attempt, deadline);
            return;
        }
        let Some(signalled_at) = attempt.stop_signalled_at else {
            if !is_late {
                self.wake(deadline);
                if self.awaits_pre_stop(attempt) || !self.is_its_turn(attempt) {
                    return;
                }
            }
            self.signal(attempt, deadline);
            return;
        };
        let kill_at = deadline.max(backoff::after(signalled_at, LEAST_GRACE));
        if self.now >= kill_at {
            self.kill(attempt, kill_at);
        } else {
            self.wake(kill_at);
        }
    }

    /// Send the stop signal; when it cannot be sent by the deadline, SIGKILL.
    fn signal(&mut self, attempt: &Attempt, deadline: Timestamp) {
        if !self.rests_after_failure(&FailedStep::Container(attempt.container.clone())) {
            self.step(Step::StopContainer {
                container: attempt.container.clone(),
                attempt: attempt.attempt,
            });
        } else if self.now >= deadline {
            self.kill(attempt, deadline);
        }
    }

    fn kill(&mut self, attempt: &Attempt, kill_at: Timestamp) {
        let due = attempt
            .killed_at
            .and_then(|killed_at| backoff::kill_due(self.now, kill_at, killed_at));
        if !self.rests(due) {
            self.step(Step::KillContainer {
                container: attempt.container.clone(),
                attempt: attempt.attempt,
            });
        }
    }

    /// Whether the preStop hook is to be waited for; it is begun if it was not. Where the infra process is gone, nothing
    /// is left that a hook could prepare for.
    fn awaits_pre_stop(&mut self, attempt: &Attempt) -> bool {
        let spec = self.desired.container(&attempt.container);
        if spec.is_none_or(|spec| spec.life.pre_stop.is_none()) || !self.is_sandbox_ready() {
            return false;
        }
        match &attempt.life.pre_stop {
            HookRecord::Done { .. } | HookRecord::Failed { .. } => return false,
            HookRecord::NotRun | HookRecord::Begun { .. } => {}
        }
        self.step(Step::RunHook {
            container: attempt.container.clone(),
            attempt: attempt.attempt,
            hook: Hook::PreStop,
        });
        true
    }

    /// At the end of a pod a sidecar is told to stop only once the regular containers and the sidecars after it have
    /// ended (`kuberuntime_termination_order.go newTerminationOrdering`).
    fn is_its_turn(&self, attempt: &Attempt) -> bool {
        let pod_ends = |stop: &Stop| stop.why == StopReason::PodEnds;
        if self.desired.deletion.is_none() && !attempt.life.stop.as_ref().is_some_and(pod_ends) {
            return true;
        }
        let init = &self.desired.init_containers;
        let Some(place) = init
            .iter()
            .position(|container| container.is_sidecar() && container.name == attempt.container)
        else {
            return true;
        };
        let later = init.iter().skip(place + 1).filter(|container| container.is_sidecar());
        !later
            .chain(&self.desired.containers)
            .any(|container| self.observed.newest(&container.name).is_some_and(is_running))
    }

    /// When the grace is used up: that of the deletion, or that of the stop asked for before it if it is over sooner. It
    /// counts from the newest request, so that a shorter grace asked for later holds at once.
    fn deadline(&self, attempt: &Attempt) -> Timestamp {
        let deletion = self
            .desired
            .deletion
            .map(|Deletion { requested_at, grace }| (requested_at, grace));
        let stop = attempt.life.stop.as_ref().map(|stop| (stop.asked_at, stop.grace));
        let ends = deletion.into_iter().chain(stop);
        ends.map(|(asked_at, grace)| backoff::after(self.counted_from(attempt, asked_at), grace))
            .min()
            .unwrap_or(self.now)
    }

    /// With a request that lies ahead the clock was set back; then grace counts from what was done because of it.
    fn counted_from(&self, attempt: &Attempt, asked_at: Timestamp) -> Timestamp {
        if asked_at <= self.now {
            return asked_at;
        }
        let hook = match &attempt.life.pre_stop {
            HookRecord::NotRun => None,
            HookRecord::Begun { at } | HookRecord::Done { at } | HookRecord::Failed { at, .. } => Some(*at),
        };
        hook.or(attempt.stop_signalled_at)
            .map_or(self.now, |at| at.min(self.now))
    }

    fn is_sandbox_ready(&self) -> bool {
        let sandbox = self.observed.sandbox.as_ref();
        sandbox.is_some_and(|sandbox| matches!(sandbox.state, SandboxState::Ready { .. }))
    }

    /// Stop the sandbox if it is not stopped; then `last`.
    fn clear_away(&mut self, last: Step) {
        let sandbox = self.observed.sandbox.as_ref();
        let to_stop = sandbox.and_then(|sandbox| match &sandbox.state {
            SandboxState::Creating | SandboxState::Ready { .. } | SandboxState::Dead { .. } => Some(sandbox.attempt),
            SandboxState::Stopped { .. } => None,
        });
        match to_stop {
            Some(attempt) => self.stop_sandbox(attempt),
            None => {
                if !self.rests_after_failure(&FailedStep::Teardown) {
                    self.step(last);
                }
            }
        }
    }

    pub(super) fn stop_sandbox(&mut self, attempt: u32) {
        if !self.rests_after_failure(&FailedStep::Teardown) {
            self.step(Step::StopSandbox { attempt });
        }
    }
}
