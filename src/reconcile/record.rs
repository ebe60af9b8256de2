//! Record before you decide: what the machine says, folded into what is stored.
//!
//! Goes in: the record, a complete snapshot, the boot id. Comes out: the new record.
//!
//! **Invariants:** pure and idempotent. States only move down their list. An end that is recorded is never replaced,
//! and a number is never invented: what nobody saw is `Lost`. An attempt is dropped only when the journal proves that
//! it never ran.

use crate::model::{
    Attempt, AttemptLife, AttemptState, Backoff, ContainerPhase, ContainerSnapshot, Exit, ExitStatus, FailedStep,
    HookRecord, InfraSnapshot, Observed, Sandbox, SandboxEnd, SandboxSnapshot, SandboxState, Snapshot, Timestamp,
};

/// So many newest attempts of each container are kept: the newest, the one before (`lastState`), and one more, since
/// the newest may turn out never to have run.
const KEPT_ATTEMPTS: usize = 3;

/// Fold what the machine has into what is recorded.
///
/// `now` must be read **after** the snapshot was taken, so that nothing in the snapshot lies in its future.
/// `boot_id` is that of the running system: nothing of another boot is believed to be alive.
pub fn record(now: Timestamp, boot_id: &str, observed: &Observed, snapshot: &Snapshot) -> Observed {
    let mut new = observed.clone();
    new.started_at.get_or_insert(now);
    adopt_unknown_sandbox(now, boot_id, &mut new, snapshot);
    if let Some(sandbox) = &mut new.sandbox {
        record_sandbox(now, boot_id, sandbox, snapshot);
    }

    let machine = Machine {
        boot_id,
        sandbox: new.sandbox.as_ref(),
        snapshot,
    };
    let mut attempts = Vec::with_capacity(new.attempts.len());
    // What went wrong before a container's process began, or when it was told to stop, is over with each new state.
    let mut moved_on = Vec::new();
    for attempt in &new.attempts {
        let Some(recorded) = record_attempt(now, attempt.clone(), &machine) else {
            continue;
        };
        if attempt.state != recorded.state {
            moved_on.push(FailedStep::Container(recorded.container.clone()));
        }
        attempts.push(recorded);
    }
    add_unknown_attempts(now, &mut attempts, &machine);

    new.attempts = attempts;
    new.failures.retain(|failure| !moved_on.contains(&failure.step));
    tidy(&mut new.attempts);
    new
}

/// A sandbox newer than any recorded cannot be, since each is recorded before it is made, unless an older store was put
/// back. Then what is there must be stopped before anything else is done.
fn adopt_unknown_sandbox(now: Timestamp, boot_id: &str, new: &mut Observed, snapshot: &Snapshot) {
    let Some(newest) = snapshot.sandboxes.iter().map(|s| s.attempt).max() else {
        return;
    };
    if new.sandbox.as_ref().is_none_or(|sandbox| sandbox.attempt < newest) {
        new.sandbox = Some(Sandbox {
            attempt: newest,
            state: SandboxState::Dead {
                at: now,
                end: SandboxEnd::ShimLost,
            },
            ip: new.sandbox.as_ref().and_then(|sandbox| sandbox.ip),
            created_at: now,
            boot_id: boot_id.to_owned(),
        });
    }
}

fn record_sandbox(now: Timestamp, boot_id: &str, sandbox: &mut Sandbox, snapshot: &Snapshot) {
    let on_machine = snapshot.sandbox(sandbox.attempt);
    let creating = match &sandbox.state {
        SandboxState::Creating => true,
        SandboxState::Ready { .. } => false,
        SandboxState::Dead { .. } => return,
        // Removed before it is recorded as stopped; if something of it is there all the same, stop it again.
        SandboxState::Stopped { .. } => {
            if sandbox.boot_id == boot_id && on_machine.is_some() {
                sandbox.state = SandboxState::Dead {
                    at: now,
                    end: SandboxEnd::ShimLost,
                };
            }
            return;
        }
    };
    let dead = |at, end| SandboxState::Dead { at, end };
    if sandbox.boot_id != boot_id {
        sandbox.state = dead(now, SandboxEnd::Rebooted);
        return;
    }
    let Some(on_machine) = on_machine else {
        if !creating {
            sandbox.state = dead(now, SandboxEnd::ShimLost);
        }
        return;
    };
    match on_machine.infra {
        InfraSnapshot::Exited { at } => sandbox.state = dead(at, SandboxEnd::InfraExited),
        InfraSnapshot::Absent | InfraSnapshot::Running { .. } if !on_machine.shim_alive => {
            sandbox.state = dead(now, SandboxEnd::ShimLost);
        }
        // Ready is recorded only once infra runs: a shim that never heard of it is not the one that was recorded.
        InfraSnapshot::Absent if !creating => sandbox.state = dead(now, SandboxEnd::ShimLost),
        InfraSnapshot::Absent | InfraSnapshot::Running { .. } => {}
    }
}

/// What is there of a sandbox, as far as it may be believed.
struct Machine<'a> {
    boot_id: &'a str,
    sandbox: Option<&'a Sandbox>,
    snapshot: &'a Snapshot,
}

impl<'a> Machine<'a> {
    fn is_of_this_boot(&self, attempt: u32) -> bool {
        self.sandbox
            .is_none_or(|sandbox| sandbox.attempt != attempt || sandbox.boot_id == self.boot_id)
    }

    fn sandbox(&self, attempt: u32) -> Option<&'a SandboxSnapshot> {
        self.is_of_this_boot(attempt)
            .then(|| self.snapshot.sandbox(attempt))
            .flatten()
    }
}

/// The attempt as it is now known; `None` when it never ran and never will.
fn record_attempt(now: Timestamp, mut attempt: Attempt, machine: &Machine<'_>) -> Option<Attempt> {
    let running_since = match &attempt.state {
        AttemptState::Starting => None,
        AttemptState::Running { started_at } => Some(*started_at),
        AttemptState::Exited(_) => return Some(attempt),
    };
    let Some(sandbox) = machine.sandbox(attempt.sandbox) else {
        // The journal is gone with the run directory: nobody can tell whether an attempt that was about to start did.
        let gone = if machine.is_of_this_boot(attempt.sandbox) {
            "its shim is gone"
        } else {
            "the machine was started again"
        };
        attempt.state = AttemptState::Exited(lost(now, running_since, gone));
        return Some(attempt);
    };
    let fact = sandbox
        .containers
        .iter()
        .find(|c| c.container == attempt.container && c.attempt == attempt.attempt);
    let Some(fact) = fact else {
        if running_since.is_some() {
            attempt.state = AttemptState::Exited(lost(now, running_since, "its shim does not know it"));
            return Some(attempt);
        }
        // The shim writes down what it is about to start before it does: no line, no process. While the shim lives, a
        // request may still be on its way to it.
        return sandbox.shim_alive.then_some(attempt);
    };
    attempt.state = fold(now, running_since, sandbox.shim_alive, fact);
    signals(now, &mut attempt, fact);
    Some(attempt)
}

/// Where an attempt is, given what its shim wrote down of it.
fn fold(now: Timestamp, running_since: Option<Timestamp>, shim_alive: bool, fact: &ContainerSnapshot) -> AttemptState {
    let shim_died = |since| AttemptState::Exited(lost(now, since, "its shim died before it could write it down"));
    match &fact.phase {
        ContainerPhase::Starting => match running_since {
            _ if !shim_alive => shim_died(running_since),
            Some(started_at) => AttemptState::Running { started_at },
            None => AttemptState::Starting,
        },
        ContainerPhase::Running { started_at, .. } => {
            let started_at = running_since.unwrap_or(*started_at);
            if shim_alive {
                AttemptState::Running { started_at }
            } else {
                shim_died(Some(started_at))
            }
        }
        ContainerPhase::StartFailed { message, at } => AttemptState::Exited(Exit {
            status: ExitStatus::StartError,
            started_at: None,
            finished_at: *at,
            message: message.clone(),
        }),
        ContainerPhase::Exited {
            status,
            started_at,
            finished_at,
        } => {
            let started_at = running_since.unwrap_or(*started_at);
            AttemptState::Exited(Exit {
                status: *status,
                started_at: Some(started_at),
                // The clock may have been set back meanwhile; a run never ends before it began.
                finished_at: started_at.max(*finished_at),
                message: String::new(),
            })
        }
    }
}

/// An end that nobody saw. It is dated by when it was found out.
fn lost(now: Timestamp, started_at: Option<Timestamp>, why: &str) -> Exit {
    let message = match started_at {
        Some(_) => format!("The exit status is lost and not known: {why}"),
        None => format!("It is not known whether the container ran, and its exit status is lost: {why}"),
    };
    Exit {
        status: ExitStatus::Lost,
        started_at,
        finished_at: started_at.map_or(now, |at| at.max(now)),
        message,
    }
}

/// Signals that were sent, and what else starts a timer: dated back when it lies ahead, since the clock may have been set
/// back.
fn signals(now: Timestamp, attempt: &mut Attempt, fact: &ContainerSnapshot) {
    attempt.stop_signalled_at = attempt
        .stop_signalled_at
        .or(fact.stop_signalled_at)
        .map(|at| at.min(now));
    attempt.killed_at = attempt.killed_at.or(fact.killed_at).map(|at| at.min(now));
    if let Some(stop) = &mut attempt.life.stop {
        stop.asked_at = stop.asked_at.min(now);
    }
    if let HookRecord::Begun { at } = &mut attempt.life.pre_stop {
        *at = (*at).min(now);
    }
}

/// Attempts that a shim knows and the record lacks: the store was put back to an older state.
fn add_unknown_attempts(now: Timestamp, attempts: &mut Vec<Attempt>, machine: &Machine<'_>) {
    for sandbox in &machine.snapshot.sandboxes {
        if !machine.is_of_this_boot(sandbox.attempt) {
            continue;
        }
        for fact in &sandbox.containers {
            let newest = attempts
                .iter()
                .filter(|a| a.container == fact.container)
                .map(|a| a.attempt)
                .max();
            if newest.is_some_and(|newest| newest >= fact.attempt) {
                continue;
            }
            let mut attempt = Attempt {
                container: fact.container.clone(),
                attempt: fact.attempt,
                sandbox: sandbox.attempt,
                image: String::new(),
                image_id: None,
                state: fold(now, None, sandbox.shim_alive, fact),
                backoff: Backoff::default(),
                stop_signalled_at: None,
                killed_at: None,
                life: AttemptLife::default(),
            };
            signals(now, &mut attempt, fact);
            attempts.push(attempt);
        }
    }
}

/// Order by (container, attempt), and let go of the oldest ended ones.
pub(super) fn tidy(attempts: &mut Vec<Attempt>) {
    attempts.sort_by(|a, b| a.container.cmp(&b.container).then(a.attempt.cmp(&b.attempt)));
    let mut kept = 0;
    let mut newer: Option<String> = None;
    // From the newest to the oldest of each container.
    let mut reversed: Vec<Attempt> = std::mem::take(attempts).into_iter().rev().collect();
    reversed.retain(|attempt| {
        if newer.as_deref() != Some(&attempt.container) {
            newer = Some(attempt.container.clone());
            kept = 0;
        }
        kept += 1;
        kept <= KEPT_ATTEMPTS || attempt.is_live()
    });
    reversed.reverse();
    *attempts = reversed;
}

/// An end of a live attempt whose sandbox is gone for good.
pub(super) fn lose(now: Timestamp, attempt: &mut Attempt) {
    let started_at = match &attempt.state {
        AttemptState::Starting => None,
        AttemptState::Running { started_at } => Some(*started_at),
        AttemptState::Exited(_) => return,
    };
    attempt.state = AttemptState::Exited(lost(now, started_at, "its sandbox was stopped"));
}
