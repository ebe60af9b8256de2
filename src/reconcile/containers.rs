//! The containers of a ready sandbox: which are started, in which order, and which of those that run must not go on.
//!
//! Goes in: the same as in every decision. Comes out: starts, hooks, resizes, and stops of what is to be started anew.
//!
//! Rules: Kubernetes `kuberuntime_manager.go` (`computePodActions`, `computeInitContainerActions`, `SyncPod`).

use std::time::Duration;

use super::life::{awaits_post_start, is_post_start_over, is_running, is_started};
use super::resize::{infeasible, is_resized, restarts_when_resized};
use super::restarts::{begins_anew, is_done, restarting_end, taken_by_restart};
use super::{Planner, backoff, restart_due};
use crate::model::{
    Attempt, AttemptState, Backoff, ContainerSpec, FailedStep, FailureReason, Hook, HookRecord, Sandbox, Step,
    StopReason,
};

/// All containers are not restarted sooner than this after the one whose end asks for it began: there is no back-off of
/// it, and one that ends at once must not spin. (A kubelet finds out at its next relist, 1 s.)
const RESTART_ALL_SPACING: Duration = Duration::from_secs(1);

impl Planner<'_> {
    /// Ephemeral containers at once, init containers and sidecars one after the other, then the regular ones.
    pub(super) fn run_containers(&mut self, sandbox: &Sandbox) {
        let desired = self.desired;
        if self.restart_all(sandbox) {
            return;
        }
        for container in &desired.ephemeral_containers {
            // Run once, whatever becomes of it.
            match self.observed.newest(&container.name).map(|newest| &newest.state) {
                None | Some(AttemptState::Starting) => {
                    self.start(sandbox, container);
                }
                Some(AttemptState::Running { .. } | AttemptState::Exited(_)) => {}
            }
        }
        let Some(mut held) = self.initialise(sandbox) else {
            return;
        };
        for container in &desired.containers {
            held |= self.keep(sandbox, container, held);
        }
    }

    /// Leave everything behind when an end asks for it, and kill what of it runs. True: until that is done nothing else is
    /// (`kuberuntime_manager.go computePodActions`).
    fn restart_all(&mut self, sandbox: &Sandbox) -> bool {
        let (desired, observed) = (self.desired, self.observed);
        if let Some(exit) = restarting_end(desired, observed, sandbox.attempt) {
            let began = exit.started_at.unwrap_or(exit.finished_at);
            if self.rests(backoff::wait(self.now, began, RESTART_ALL_SPACING)) {
                // What has to end anyway does not wait for that.
                for attempt in observed
                    .attempts
                    .iter()
                    .filter(|a| is_running(a) && a.life.stop.is_some())
                {
                    self.end_container(attempt);
                }
            } else {
                for attempt in taken_by_restart(desired, observed, sandbox.attempt) {
                    self.begin_stop(attempt, StopReason::AllRestart, Duration::ZERO);
                }
            }
            return true;
        }
        let left = observed.attempts.iter().filter(|a| is_running(a) && a.is_left_behind());
        let mut left = left.peekable();
        let waits = left.peek().is_some();
        for attempt in left {
            self.end_container(attempt);
        }
        waits
    }

    /// Bring init containers to their ends and sidecars up, in order, as far as they got **in this sandbox**: in a new
    /// one all begins anew, and when all restart. `None` while something of it is not done; else whether a sidecar holds
    /// back what follows.
    fn initialise(&mut self, sandbox: &Sandbox) -> Option<bool> {
        let (desired, observed) = (self.desired, self.observed);
        let here = |container: &ContainerSpec| {
            observed
                .newest(&container.name)
                .filter(|newest| newest.sandbox == sandbox.attempt && !newest.is_left_behind())
        };
        // What comes later has begun only because what comes before it was done.
        let regular_begun = desired.containers.iter().any(|container| here(container).is_some());
        let last_begun = desired
            .init_containers
            .iter()
            .rposition(|container| here(container).is_some());
        let mut held = false;
        for (place, container) in desired.init_containers.iter().enumerate() {
            let was_passed = regular_begun || last_begun.is_some_and(|last| place < last);
            if container.is_sidecar() {
                held |= self.keep(sandbox, container, held);
                if !was_passed && !here(container).is_some_and(|newest| is_started(container, newest)) {
                    return None;
                }
            } else if !was_passed {
                match here(container).map(|newest| &newest.state) {
                    Some(AttemptState::Exited(exit)) if exit.status.is_init_success() => {}
                    Some(AttemptState::Running { .. }) => return None,
                    Some(AttemptState::Starting | AttemptState::Exited(_)) | None => {
                        if !held {
                            self.start(sandbox, container);
                        }
                        return None;
                    }
                }
            }
        }
        Some(held)
    }

    /// Start a container that does not run, unless it is `held`, and look after one that does. True: what comes after it
    /// must not be started yet, since its postStart hook comes first.
    fn keep(&mut self, sandbox: &Sandbox, container: &ContainerSpec, held: bool) -> bool {
        match self
            .observed
            .newest(&container.name)
            .filter(|newest| is_running(newest))
        {
            Some(running) => {
                self.look_after(container, running);
                awaits_post_start(container, running)
            }
            None => !held && self.start(sandbox, container) && container.life.post_start.is_some(),
        }
    }

    /// Start the container if it is to run and nothing has to be waited for. True: it is being started.
    fn start(&mut self, sandbox: &Sandbox, container: &ContainerSpec) -> bool {
        let cap = self.limits.max_backoff;
        let (attempt, backoff) = match self.observed.newest(&container.name) {
            None => (0, Backoff::default()),
            Some(newest) => match &newest.state {
                AttemptState::Running { .. } => return false,
                AttemptState::Starting if newest.sandbox != sandbox.attempt => return false,
                AttemptState::Starting => (newest.attempt, newest.backoff),
                // Run again because its sandbox is another one or all restart, not because of how it ended.
                AttemptState::Exited(_) if begins_anew(self.desired, container, newest, sandbox.attempt) => {
                    let delay = newest.backoff.delay.min(cap);
                    (
                        newest.attempt.saturating_add(1),
                        Backoff {
                            delay,
                            ..newest.backoff
                        },
                    )
                }
                AttemptState::Exited(exit) => {
                    if is_done(self.desired, container, newest, exit) {
                        return false;
                    }
                    if self.rests(restart_due(self.now, newest, exit, &container.image, cap)) {
                        return false;
                    }
                    (
                        newest.attempt.saturating_add(1),
                        backoff::next(self.now, newest, exit, &container.image, cap),
                    )
                }
            },
        };
        let step = FailedStep::Container(container.name.clone());
        if self.rests_after_failure(&step) {
            self.wake_for_pull_status(&step);
            return false;
        }
        let container = container.name.clone();
        self.step(Step::StartContainer {
            container,
            attempt,
            sandbox: sandbox.attempt,
            backoff,
        });
        true
    }

    /// A running container: what has to be done with it, if anything.
    fn look_after(&mut self, container: &ContainerSpec, running: &Attempt) {
        if running.life.stop.is_some() {
            self.end_container(running);
            return;
        }
        let is_resized = is_resized(container, running) && infeasible(self.desired, self.limits.capacity).is_none();
        if let Some(why) = reason_to_stop(container, running, is_resized) {
            let of_probe = match why {
                StopReason::LivenessFailed => &container.life.liveness,
                StopReason::StartupFailed => &container.life.startup,
                StopReason::PostStartFailed
                | StopReason::SpecChanged
                | StopReason::Resized
                | StopReason::PodEnds
                | StopReason::AllRestart => &None,
            };
            let grace = of_probe.as_ref().and_then(|probe| probe.termination_grace);
            self.begin_stop(running, why, grace.unwrap_or(self.desired.termination_grace));
            return;
        }
        if !is_post_start_over(container, running) {
            self.step(Step::RunHook {
                container: container.name.clone(),
                attempt: running.attempt,
                hook: Hook::PostStart,
            });
        }
        if is_resized && !self.rests_after_failure(&FailedStep::Container(container.name.clone())) {
            self.step(Step::Resize {
                container: container.name.clone(),
                attempt: running.attempt,
                resources: container.resources.clone(),
            });
        }
    }

    /// `ErrImagePull` becomes `ImagePullBackOff` with nothing but time: look again then, so that the status says it.
    fn wake_for_pull_status(&mut self, step: &FailedStep) {
        let Some(failure) = self.observed.failure(step) else {
            return;
        };
        if matches!(
            failure.reason,
            FailureReason::ErrImagePull | FailureReason::RegistryUnavailable
        ) {
            self.rests(backoff::pull_error_shown_until(self.now, failure));
        }
    }
}

/// Why a running container cannot go on as it is, although its pod does; in the order in which a kubelet asks.
fn reason_to_stop(container: &ContainerSpec, running: &Attempt, is_resized: bool) -> Option<StopReason> {
    let life = &running.life;
    // Of an attempt that was found and not begun, nobody knows what it was made of.
    let is_known = !running.image.is_empty();
    if matches!(life.post_start, HookRecord::Failed { .. }) {
        Some(StopReason::PostStartFailed)
    } else if is_known && running.image != container.image {
        Some(StopReason::SpecChanged)
    } else if container.life.liveness.is_some() && life.liveness.result == Some(false) {
        Some(StopReason::LivenessFailed)
    } else if container.life.startup.is_some() && life.startup.result == Some(false) {
        Some(StopReason::StartupFailed)
    } else if is_resized && restarts_when_resized(container, running) {
        Some(StopReason::Resized)
    } else {
        None
    }
}
