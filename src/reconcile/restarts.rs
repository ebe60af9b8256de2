//! What follows the end of a container: restart rules, restart policies, and the restart of all containers at once.
//!
//! Goes in: the pod as it is wanted, and an attempt that has ended. Comes out: whether it stays so, is started again, or
//! takes the whole pod with it.
//!
//! **Invariant:** nothing but the record counts, so that a new agent says the same as the one before it.
//!
//! All containers restart in two steps. Once an end asks for it, every attempt in play is recorded as left behind, in one
//! save: those that run are killed, without hooks and grace, and those that are over count no longer. When nothing of
//! what was left behind runs any more, the pod is as one whose sandbox is new, and begins with its first init container.

use super::life::is_running;
use crate::model::{Attempt, ContainerSpec, Exit, Observed, PodSpec, RestartAction, RestartPolicy, StopReason};

/// The restart policy that holds for this container: its own, else the pod's.
fn policy(desired: &PodSpec, container: &ContainerSpec) -> RestartPolicy {
    container.life.restart_policy.unwrap_or(desired.restart_policy)
}

/// Whether the container is started again after it failed a probe. Rules have no say in that: while it runs there is no
/// exit code (Kubernetes `kuberuntime_manager.go computePodActions`).
pub(crate) fn restarts_after_probe(desired: &PodSpec, container: &ContainerSpec) -> bool {
    policy(desired, container) != RestartPolicy::Never
}

/// Whether an end of any of its containers may restart all of them (`pod/util.go AllContainersCouldRestart`).
pub(crate) fn may_restart_all(desired: &PodSpec) -> bool {
    let all = desired.init_containers.iter().chain(&desired.containers);
    let mut rules = all.flat_map(|container| &container.life.restart_rules);
    rules.any(|rule| rule.action == RestartAction::RestartAllContainers)
}

/// What follows the end of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing: it stays as it is.
    Done,
    /// It is started again.
    Restarts,
    /// All containers of its pod begin anew.
    RestartsAll,
}

/// What an exit code means for the container: its rules first, then its own policy, then the pod's
/// (Kubernetes `pod/util.go ContainerShouldRestart`).
pub(crate) fn fate_of_code(desired: &PodSpec, container: &ContainerSpec, code: i32) -> Fate {
    let mut rules = container.life.restart_rules.iter();
    let restarts = match rules.find(|rule| rule.matches(code)).map(|rule| rule.action) {
        Some(RestartAction::RestartAllContainers) => return Fate::RestartsAll,
        Some(RestartAction::Restart) => true,
        None => match policy(desired, container) {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        },
    };
    if restarts { Fate::Restarts } else { Fate::Done }
}

/// What follows the end of this attempt.
///
/// What podd itself stopped in order to start it anew is started anew whatever rules and policy say of its exit, and what
/// failed a probe under every policy but Never (Kubernetes `kuberuntime_manager.go computePodActions`: what is to be
/// started again is settled before it is killed).
pub(crate) fn fate(desired: &PodSpec, container: &ContainerSpec, attempt: &Attempt, exit: &Exit) -> Fate {
    match attempt.life.stop.as_ref().map(|stop| stop.why) {
        Some(StopReason::SpecChanged | StopReason::Resized | StopReason::AllRestart) => return Fate::Restarts,
        Some(StopReason::LivenessFailed | StopReason::StartupFailed) if restarts_after_probe(desired, container) => {
            return Fate::Restarts;
        }
        Some(
            StopReason::LivenessFailed | StopReason::StartupFailed | StopReason::PostStartFailed | StopReason::PodEnds,
        )
        | None => {}
    }
    match fate_of_code(desired, container, exit.status.exit_code()) {
        // One that lacked memory has failed whatever its exit code.
        Fate::Done
            if policy(desired, container) == RestartPolicy::OnFailure
                && desired.is_init(container)
                && !exit.status.is_init_success() =>
        {
            Fate::Restarts
        }
        fate @ (Fate::Done | Fate::Restarts | Fate::RestartsAll) => fate,
    }
}

/// The attempt has ended and the container is to stay so.
pub(crate) fn is_done(desired: &PodSpec, container: &ContainerSpec, attempt: &Attempt, exit: &Exit) -> bool {
    fate(desired, container, attempt, exit) == Fate::Done
}

/// Whether a container whose newest attempt has ended begins anew in this sandbox whatever the end was: with all others,
/// or because the sandbox is a new one. There a kubelet starts everything again but for what has succeeded under
/// `OnFailure`, also what is never restarted by itself (`kuberuntime_manager.go computePodActions`).
pub(super) fn begins_anew(desired: &PodSpec, container: &ContainerSpec, newest: &Attempt, sandbox: u32) -> bool {
    let runs_once = container.life.restart_policy == Some(RestartPolicy::Never);
    newest.is_left_behind() || (newest.sandbox != sandbox && (desired.is_init(container) || runs_once))
}

/// The attempts of this sandbox that a restart of all containers takes with it, with their containers: the newest of each
/// init container, sidecar and regular container.
fn in_play<'a>(
    desired: &'a PodSpec,
    observed: &'a Observed,
    sandbox: u32,
) -> impl Iterator<Item = (&'a ContainerSpec, &'a Attempt)> {
    let all = desired.init_containers.iter().chain(&desired.containers);
    let newest = all.filter_map(|spec| observed.newest(&spec.name).map(|newest| (spec, newest)));
    newest.filter(move |(_, newest)| newest.sandbox == sandbox)
}

/// The end that is about to restart all containers, if there is one.
pub(super) fn restarting_end<'a>(desired: &'a PodSpec, observed: &'a Observed, sandbox: u32) -> Option<&'a Exit> {
    let mut ends = in_play(desired, observed, sandbox).filter_map(|(spec, newest)| {
        let exit = newest.exit().filter(|_| !newest.is_left_behind())?;
        (fate(desired, spec, newest, exit) == Fate::RestartsAll).then_some(exit)
    });
    ends.next()
}

/// All containers are being restarted and not all of them have ended yet (`status/generate.go
/// GenerateAllContainersRestartingCondition`).
pub(crate) fn is_restarting_all(desired: &PodSpec, observed: &Observed) -> bool {
    let Some(sandbox) = observed.sandbox.as_ref().map(|sandbox| sandbox.attempt) else {
        return false;
    };
    restarting_end(desired, observed, sandbox).is_some()
        || observed.attempts.iter().any(|a| is_running(a) && a.is_left_behind())
}

/// What a restart of all containers ends or leaves behind: also what is over already, so that it begins anew, and the
/// ephemeral containers that run, which do not.
pub(super) fn taken_by_restart<'a>(
    desired: &'a PodSpec,
    observed: &'a Observed,
    sandbox: u32,
) -> impl Iterator<Item = &'a Attempt> {
    let ephemeral = desired.ephemeral_containers.iter();
    let ephemeral = ephemeral.filter_map(|spec| observed.newest(&spec.name).filter(|newest| newest.is_live()));
    let taken = in_play(desired, observed, sandbox)
        .map(|(_, newest)| newest)
        .chain(ephemeral);
    taken.filter(|attempt| !attempt.is_left_behind())
}
