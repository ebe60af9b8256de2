//! The end of a pod: all its containers done for good, or its deletion asked for.
//!
//! Goes in: the same as in every decision. Comes out: stop, kill, stop the sandbox, tear down, forget: each only once
//! the one before it is recorded.

use super::{Planner, backoff};
use crate::model::{Attempt, AttemptState, Deletion, FailedStep, SandboxState, Step, Timestamp};

impl Planner<'_> {
    /// Nothing of the pod will run again: its sandbox and its address go, the object, its volumes and logs stay.
    pub(super) fn end(&mut self) {
        self.clear_away(Step::TearDown);
    }

    /// Kubernetes `kuberuntime_container.go killContainer` without hooks: the stop signal to every container at once,
    /// SIGKILL when the grace period is over, then the sandbox, then everything else.
    pub(super) fn delete(&mut self, deletion: Deletion) {
        // What is only starting is not waited for: it dies with the sandbox.
        let observed = self.observed;
        let mut running = observed
            .attempts
            .iter()
            .filter(|a| matches!(a.state, AttemptState::Running { .. }))
            .peekable();
        let sandbox_is_there = observed.sandbox.as_ref().is_some_and(|sandbox| match &sandbox.state {
            SandboxState::Creating | SandboxState::Ready { .. } | SandboxState::Dead { .. } => true,
            SandboxState::Stopped { .. } => false,
        });
        if sandbox_is_there && running.peek().is_some() {
            for attempt in running {
                self.end_container(deletion, attempt);
            }
            return;
        }
        self.clear_away(if observed.torn_down {
            Step::Forget
        } else {
            Step::TearDown
        });
    }

    fn end_container(&mut self, deletion: Deletion, attempt: &Attempt) {
        let kill_at = self.kill_at(deletion, attempt);
        // Without any grace it is over at once, and no stop signal is sent.
        if self.now >= kill_at {
            let due = attempt
                .killed_at
                .and_then(|killed_at| backoff::kill_due(self.now, kill_at, killed_at));
            if !self.rests(due) {
                let container = attempt.container.clone();
                self.step(Step::KillContainer {
                    container,
                    attempt: attempt.attempt,
                });
            }
            return;
        }
        self.wake(kill_at);
        if attempt.stop_signalled_at.is_some() {
            return;
        }
        if !self.rests_after_failure(&FailedStep::Container(attempt.container.clone())) {
            self.step(Step::StopContainer {
                container: attempt.container.clone(),
                attempt: attempt.attempt,
            });
        }
    }

    /// When grace is over: it counts from the newest request, so that a shorter grace asked for later holds at once.
    /// With a request that lies ahead the clock was set back; then it counts from the stop signal.
    fn kill_at(&self, deletion: Deletion, attempt: &Attempt) -> Timestamp {
        let from = if deletion.requested_at <= self.now {
            deletion.requested_at
        } else {
            attempt.stop_signalled_at.map_or(self.now, |at| at.min(self.now))
        };
        backoff::after(from, deletion.grace)
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
