//! Waiting: how long something that ended or failed must rest, from records alone.
//!
//! Goes in: recorded times and `now`. Comes out: `None` for "now", or the moment to look again.
//!
//! **Invariant:** the wall clock may jump. A wait of `delay` never lasts longer than twice `delay` after the clock was
//! set back, and one that would (the recorded time lies further ahead than `delay`) is over at once; what is done then
//! is recorded with the new clock, so that one jump shortens one wait and never starts a storm.

use std::time::Duration;

use jiff::SignedDuration;

use crate::model::{Attempt, Backoff, Exit, FailedStep, Failure, StopReason, Timestamp};

/// First crash-loop delay; the cap itself when that is shorter (Kubernetes `kubelet.go newCrashLoopBackOff`).
const FIRST_RESTART: Duration = Duration::from_secs(10);
/// A run that ends this long after its back-off was set clears it, whatever the cap (`kubelet.go` `HasExpiredFunc`).
const RESTART_EXPIRY: SignedDuration = SignedDuration::from_secs(600);
/// What precedes a container's process, above all its image: 10 s doubled up to 300 s (`kubelet.go` image back-off).
const CONTAINER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(5));
/// Sandbox and tear-down: the kubelet's pod workers try again after a flat 10 to 15 s (`pod_workers.go completeWork`),
/// after 1 s when the network is not ready. podd begins at 1 s and doubles up to 15 s: never later than a kubelet.
const SANDBOX: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// A pull that failed is `ErrImagePull` this long and `ImagePullBackOff` from then on. The kubelet changes the word at
/// its next sync of the pod, which comes at no fixed time.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(5);
/// SIGKILL is sent again this long after it did not end a container, doubled up to the second figure.
const KILL_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// `from + delay`, at most the end of time.
pub(crate) fn after(from: Timestamp, delay: Duration) -> Timestamp {
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
    from.checked_add(delay).unwrap_or(Timestamp::MAX)
}

/// When something that rests for `delay` since `from` is due: `None` when it is now.
pub(crate) fn wait(now: Timestamp, from: Timestamp, delay: Duration) -> Option<Timestamp> {
    let due = after(from, delay);
    let clock_was_set_back = from > after(now, delay);
    (now < due && !clock_was_set_back).then_some(due)
}

/// The back-off of an ended attempt does not count any more: there was none yet, the image or the resources are others
/// (Kubernetes `GetBackoffKey`), or the run was a long one.
fn is_cleared(attempt: &Attempt, exit: &Exit, image: &str) -> bool {
    match attempt.life.stop.as_ref().map(|stop| stop.why) {
        Some(StopReason::SpecChanged | StopReason::Resized) => return true,
        Some(
            StopReason::LivenessFailed
            | StopReason::StartupFailed
            | StopReason::PostStartFailed
            | StopReason::PodEnds
            | StopReason::AllRestart,
        )
        | None => {}
    }
    match attempt.backoff.set_at {
        None => true,
        Some(set_at) => attempt.image != image || exit.finished_at.duration_since(set_at) > RESTART_EXPIRY,
    }
}

/// When a container whose newest attempt ended so may be started again: `None` when it is now
/// (Kubernetes `kuberuntime_manager.go doBackOff`: `IsInBackOffSince`).
pub(crate) fn restart_due(
    now: Timestamp,
    attempt: &Attempt,
    exit: &Exit,
    image: &str,
    max_backoff: Duration,
) -> Option<Timestamp> {
    if is_cleared(attempt, exit, image) {
        return None;
    }
    wait(now, exit.finished_at, attempt.backoff.delay.min(max_backoff))
}

/// The back-off to record with the attempt that follows this one (client-go `flowcontrol/backoff.go Next`).
pub(crate) fn next(now: Timestamp, attempt: &Attempt, exit: &Exit, image: &str, max_backoff: Duration) -> Backoff {
    let first = FIRST_RESTART.min(max_backoff);
    let delay = if is_cleared(attempt, exit, image) {
        first
    } else {
        attempt.backoff.delay.saturating_mul(2).clamp(first, max_backoff)
    };
    Backoff {
        delay,
        set_at: Some(now),
    }
}

/// How long a failed step rests after its newest failure.
pub(crate) fn failure_delay(failure: &Failure) -> Duration {
    let (first, cap) = match &failure.step {
        FailedStep::Container(_) => CONTAINER,
        FailedStep::Sandbox | FailedStep::Teardown | FailedStep::Resize => SANDBOX,
    };
    let doublings = failure.count.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(cap)
}

/// When a failed step is due again: `None` when it is now.
pub(crate) fn failure_due(now: Timestamp, failure: &Failure) -> Option<Timestamp> {
    wait(now, failure.at, failure_delay(failure))
}

/// When a failed pull is to be called a back-off: `None` when it is so now.
pub(crate) fn pull_error_shown_until(now: Timestamp, failure: &Failure) -> Option<Timestamp> {
    wait(now, failure.at, PULL_ERROR_SHOWN)
}

/// Whether a pull failed so short a time ago that the failure itself is to be reported.
pub(crate) fn is_pull_error_fresh(now: Timestamp, failure: &Failure) -> bool {
    pull_error_shown_until(now, failure).is_some()
}

/// When SIGKILL is due again for something killed last at `killed_at`, and for the first time at about `first`: the
/// pauses double. `None` when it is now.
pub(crate) fn kill_due(now: Timestamp, first: Timestamp, killed_at: Timestamp) -> Option<Timestamp> {
    let (least, most) = KILL_AGAIN;
    let since_first = Duration::try_from(killed_at.duration_since(first)).unwrap_or(Duration::ZERO);
    wait(now, killed_at, since_first.clamp(least, most))
}
