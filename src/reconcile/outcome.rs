//! What a step did, or is about to do, as a new record. The controller calls these, saves the result, then acts.
//!
//! Goes in: the record and the step's names. Comes out: the new record.
//!
//! **Invariant:** pure, and each does nothing the second time: carried out again after a crash, a step finds its own
//! record and keeps the times in it.

use std::net::IpAddr;

use super::record::{lose, tidy};
use crate::model::{
    Attempt, AttemptLife, AttemptState, Backoff, FailedStep, Failure, FailureReason, GivenUp, GivenUpReason, Hook,
    HookRecord, ImageId, Observed, Resources, Sandbox, SandboxState, Stop, StopReason, Timestamp, User,
};

/// Before `CreateSandbox` is carried out: it is `Creating` from now on. The address stays what it was when `ip` is
/// `None`.
pub fn begin_sandbox(now: Timestamp, boot_id: &str, observed: &Observed, attempt: u32, ip: Option<IpAddr>) -> Observed {
    let mut new = observed.clone();
    match &mut new.sandbox {
        Some(sandbox) if sandbox.attempt == attempt => sandbox.ip = ip.or(sandbox.ip),
        before => {
            let ip = ip.or(before.as_ref().and_then(|sandbox| sandbox.ip));
            *before = Some(Sandbox {
                attempt,
                state: SandboxState::Creating,
                ip,
                created_at: now,
                boot_id: boot_id.to_owned(),
            });
        }
    }
    new
}

/// After `CreateSandbox` was carried out: `Ready`, and its failures are forgotten.
pub fn sandbox_ready(now: Timestamp, observed: &Observed, attempt: u32) -> Observed {
    let mut new = succeeded(observed, &FailedStep::Sandbox);
    if let Some(sandbox) = &mut new.sandbox
        && sandbox.attempt == attempt
        && sandbox.state == SandboxState::Creating
    {
        sandbox.state = SandboxState::Ready { ready_at: now };
    }
    new
}

/// After `StopSandbox` was carried out, its ends were recorded and its remains were removed: `Stopped`. What is live in
/// it still has an end that nobody saw; what never ran was dropped by `record`, which had the journal to prove it.
pub fn sandbox_stopped(now: Timestamp, observed: &Observed, attempt: u32) -> Observed {
    let mut new = succeeded(observed, &FailedStep::Teardown);
    if let Some(sandbox) = &mut new.sandbox
        && sandbox.attempt == attempt
    {
        match &sandbox.state {
            SandboxState::Creating | SandboxState::Ready { .. } | SandboxState::Dead { .. } => {
                sandbox.state = SandboxState::Stopped { at: now };
            }
            SandboxState::Stopped { .. } => {}
        }
    }
    for ended in new.attempts.iter_mut().filter(|a| a.sandbox <= attempt) {
        lose(now, ended);
    }
    new
}

/// The fields of `Step::StartContainer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    pub container: &'a str,
    pub attempt: u32,
    pub sandbox: u32,
    pub backoff: Backoff,
}

/// Before `StartContainer` is carried out, with its image at hand: a new attempt is `Starting` from now on, and the
/// container's failures are forgotten. One that is `Starting` already keeps them: it is being tried again.
///
/// `image` and `resources` are what the container is started with, as the spec gives them now.
pub fn begin_attempt(
    observed: &Observed,
    start: Start<'_>,
    image: &str,
    image_id: ImageId,
    resources: &Resources,
) -> Observed {
    let Start {
        container,
        attempt,
        sandbox,
        backoff,
    } = start;
    let mut new = observed.clone();
    if let Some(known) = new
        .attempts
        .iter_mut()
        .find(|a| a.container == container && a.attempt == attempt)
    {
        if known.state == AttemptState::Starting {
            image.clone_into(&mut known.image);
            known.image_id = Some(image_id);
            known.life.resources = Some(resources.clone());
            // One that was left behind before it began is begun after all, in its turn.
            known.life.stop = None;
        }
        return new;
    }
    new.failures
        .retain(|failure| failure.step != FailedStep::Container(container.to_owned()));
    new.attempts.push(Attempt {
        container: container.to_owned(),
        attempt,
        sandbox,
        image: image.to_owned(),
        image_id: Some(image_id),
        state: AttemptState::Starting,
        backoff,
        stop_signalled_at: None,
        killed_at: None,
        life: AttemptLife {
            resources: Some(resources.clone()),
            ..AttemptLife::default()
        },
    });
    tidy(&mut new.attempts);
    new
}

/// An attempt that has not ended.
fn live<'a>(observed: &'a mut Observed, container: &str, attempt: u32) -> Option<&'a mut Attempt> {
    observed
        .attempts
        .iter_mut()
        .find(|a| a.container == container && a.attempt == attempt && a.is_live())
}

/// `BeginStop`: the attempt has to end. The first reason counts, and its grace runs on; but when all containers restart
/// that goes before every other reason, and holds for what is over, too.
pub fn begin_stop(now: Timestamp, observed: &Observed, container: &str, attempt: u32, stop: &Stop) -> Observed {
    let mut new = observed.clone();
    let is_for_all = stop.why == StopReason::AllRestart;
    let mut known = new.attempts.iter_mut();
    let known = known.find(|a| a.container == container && a.attempt == attempt && (is_for_all || a.is_live()));
    if let Some(known) = known
        && (known.life.stop.is_none() || (is_for_all && !known.is_left_behind()))
    {
        known.life.stop = Some(Stop {
            asked_at: stop.asked_at.min(now),
            ..stop.clone()
        });
    }
    new
}

/// Before `RunHook` is carried out: the hook is `Begun`. One that was begun before keeps its time.
pub fn begin_hook(now: Timestamp, observed: &Observed, container: &str, attempt: u32, hook: Hook) -> Observed {
    let mut new = observed.clone();
    if let Some(live) = live(&mut new, container, attempt) {
        let record = match hook {
            Hook::PostStart => &mut live.life.post_start,
            Hook::PreStop => &mut live.life.pre_stop,
        };
        if *record == HookRecord::NotRun {
            *record = HookRecord::Begun { at: now };
        }
    }
    new
}

/// `GiveUp`: the pod as a whole is given up from now on. The first reason stays.
pub fn gave_up(now: Timestamp, observed: &Observed, reason: GivenUpReason, message: impl Into<String>) -> Observed {
    let mut new = observed.clone();
    new.given_up.get_or_insert_with(|| GivenUp {
        at: now,
        reason,
        message: message.into(),
    });
    new
}

/// After `Resize` was carried out: the attempt has these resources now, and the container's failures are forgotten.
pub fn resized(observed: &Observed, container: &str, attempt: u32, resources: &Resources) -> Observed {
    let mut new = succeeded(observed, &FailedStep::Container(container.to_owned()));
    if let Some(live) = live(&mut new, container, attempt) {
        live.life.resources = Some(resources.clone());
    }
    new
}

/// The image that a new attempt is started from, by the digest of its manifest, where it has one; and whom it runs as.
pub fn started_from(
    observed: &Observed,
    container: &str,
    attempt: u32,
    repo_digest: Option<&str>,
    user: &User,
) -> Observed {
    let mut new = observed.clone();
    let starting = new
        .attempts
        .iter_mut()
        .find(|a| a.container == container && a.attempt == attempt && a.state == AttemptState::Starting);
    if let Some(starting) = starting {
        starting.life.repo_digest = repo_digest.map(str::to_owned);
        starting.life.user = Some(user.clone());
    }
    new
}

/// Whom this container ran as when it was started from this image last: it is the same again.
pub fn known_user<'a>(observed: &'a Observed, container: &str, image: &ImageId) -> Option<&'a User> {
    let newest = observed.newest(container)?;
    let same = newest.image_id.as_ref() == Some(image);
    newest.life.user.as_ref().filter(|_| same)
}

/// Before `KillContainer` is carried out: `killed_at` is now. It is set anew each time SIGKILL is sent, since the pause
/// before the next one counts from it; if the agent dies before it is sent, it is sent after that pause.
pub fn begin_kill(now: Timestamp, observed: &Observed, container: &str, attempt: u32) -> Observed {
    let mut new = observed.clone();
    if let Some(live) = live(&mut new, container, attempt) {
        live.killed_at = Some(now);
    }
    new
}

/// A step failed: it rests, longer each time, until it succeeds.
pub fn failed(
    now: Timestamp,
    observed: &Observed,
    step: FailedStep,
    reason: FailureReason,
    message: impl Into<String>,
) -> Observed {
    let mut new = observed.clone();
    let message = message.into();
    match new.failures.iter_mut().find(|failure| failure.step == step) {
        Some(failure) => {
            failure.reason = reason;
            failure.message = message;
            failure.count = failure.count.saturating_add(1);
            failure.at = now;
        }
        None => new.failures.push(Failure {
            step,
            reason,
            message,
            count: 1,
            at: now,
        }),
    }
    new
}

/// Whether a step failed for what another object may bring: it need not rest once that may be there.
pub fn may_be_forgiven(reason: FailureReason) -> bool {
    matches!(
        reason,
        FailureReason::CreateContainerConfigError | FailureReason::FailedMount
    )
}

/// What the pod lacked may be there by now: the steps that failed for it are due at once, and their back-off begins anew.
/// Why they failed is still told until they succeed.
pub fn forgive(observed: &Observed) -> Observed {
    let mut new = observed.clone();
    for failure in &mut new.failures {
        if may_be_forgiven(failure.reason) {
            failure.count = 0;
            failure.at = Timestamp::UNIX_EPOCH;
        }
    }
    new
}

/// A step succeeded: its failures are forgotten.
pub fn succeeded(observed: &Observed, step: &FailedStep) -> Observed {
    let mut new = observed.clone();
    new.failures.retain(|failure| failure.step != *step);
    new
}

/// After `TearDown` was carried out.
pub fn torn_down(observed: &Observed) -> Observed {
    let mut new = succeeded(observed, &FailedStep::Teardown);
    new.torn_down = true;
    new
}
