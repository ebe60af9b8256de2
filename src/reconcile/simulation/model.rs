//! The reference model: the life of a pod's containers, told again from Kubernetes' own description. What follows an end,
//! who begins after whom, what ends whom and how, what a probe counts for. It watches every save, plan and signal, and
//! never calls the code under test.
//!
//! Beside it, `oracle` keeps the books of the truth (processes, sandboxes, back-off), and `told` reads the status.

use std::collections::BTreeMap;
use std::time::Duration;

use super::errands::probe_of;
use super::oracle::Name;
use super::pods::{Kind, everyone, kind};
use crate::model::{
    Attempt, AttemptState, ContainerSpec, ExitStatus, Hook, HookRecord, Observed, Plan, PodSpec, ProbeKind, Report,
    Reported, RestartAction, RestartPolicy, SandboxState, Step, Stop, StopReason, Timestamp,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    Again,
    /// All containers begin anew.
    All,
}

pub(super) fn is_running(attempt: &Attempt) -> bool {
    matches!(attempt.state, AttemptState::Running { .. })
}

pub(super) fn hook_is_over(record: &HookRecord) -> bool {
    matches!(record, HookRecord::Done { .. } | HookRecord::Failed { .. })
}

/// It runs, its postStart hook went well, and its startup probe has passed.
pub(super) fn is_started(spec: &ContainerSpec, attempt: &Attempt) -> bool {
    let hooked = spec.life.post_start.is_none() || matches!(attempt.life.post_start, HookRecord::Done { .. });
    is_running(attempt) && hooked && (spec.life.startup.is_none() || attempt.life.startup.result == Some(true))
}

fn why(attempt: &Attempt) -> Option<StopReason> {
    attempt.life.stop.as_ref().map(|stop| stop.why)
}

pub(super) fn policy(desired: &PodSpec, spec: &ContainerSpec) -> RestartPolicy {
    spec.life.restart_policy.unwrap_or(desired.restart_policy)
}

/// What rules and policies make of an end.
pub(super) fn after(desired: &PodSpec, spec: &ContainerSpec, status: ExitStatus) -> Next {
    let code = status.exit_code();
    let is_init = kind(desired, &spec.name) == Kind::Init;
    // An init container that lacked memory has failed whatever its exit code.
    let failed = code != 0 || (is_init && status != ExitStatus::Code(0));
    let mut rules = spec.life.restart_rules.iter();
    let rule = rules.find(|rule| rule.codes.contains(&code) != rule.is_negated);
    let policy = policy(desired, spec);
    match rule.map(|rule| rule.action) {
        Some(RestartAction::RestartAllContainers) => Next::All,
        _ if is_init && !failed => Next::Nothing,
        Some(RestartAction::Restart) => Next::Again,
        None if policy == RestartPolicy::Always || (policy == RestartPolicy::OnFailure && failed) => Next::Again,
        None => Next::Nothing,
    }
}

/// What follows the end of this attempt; `None`: it has not ended.
pub(super) fn next(desired: &PodSpec, attempt: &Attempt) -> Option<Next> {
    let exit = attempt.exit()?;
    let spec = desired.container(&attempt.container)?;
    let is_forced = match why(attempt) {
        Some(StopReason::SpecChanged | StopReason::Resized | StopReason::AllRestart) => true,
        Some(StopReason::LivenessFailed | StopReason::StartupFailed) => policy(desired, spec) != RestartPolicy::Never,
        Some(StopReason::PostStartFailed | StopReason::PodEnds) | None => false,
    };
    Some(match kind(desired, &spec.name) {
        Kind::Ephemeral => Next::Nothing,
        Kind::Init | Kind::Sidecar | Kind::Regular if is_forced => Next::Again,
        Kind::Init | Kind::Sidecar | Kind::Regular => after(desired, spec, exit.status),
    })
}

/// It is begun again whatever its end was: in another sandbox, or with all others.
pub(super) fn begins_anew(desired: &PodSpec, attempt: &Attempt, sandbox: u32) -> bool {
    let spec = desired.container(&attempt.container);
    let runs_once = spec.is_some_and(|spec| spec.life.restart_policy == Some(RestartPolicy::Never));
    let anew = runs_once || kind(desired, &attempt.container) == Kind::Init;
    attempt.is_left_behind() || (attempt.sandbox != sandbox && anew)
}

/// One moment of a pod: what is wanted of it, and what is recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) desired: &'a PodSpec,
    pub(super) observed: &'a Observed,
}

impl<'a> Moment<'a> {
    fn newest(self, spec: &ContainerSpec) -> Option<&'a Attempt> {
        self.observed.newest(&spec.name)
    }

    fn named(self, container: &str, attempt: u32) -> Option<&'a Attempt> {
        let mut known = self.observed.attempts.iter();
        known.find(|a| a.container == container && a.attempt == attempt)
    }

    pub(super) fn ready_sandbox(self) -> Option<u32> {
        let sandbox = self.observed.sandbox.as_ref()?;
        matches!(sandbox.state, SandboxState::Ready { .. }).then_some(sandbox.attempt)
    }

    /// The newest attempts in the sandbox of those that restart with all.
    fn in_play(self) -> impl Iterator<Item = &'a Attempt> {
        let all = self.desired.init_containers.iter().chain(&self.desired.containers);
        let newest = all.filter_map(move |spec| self.newest(spec));
        let sandbox = self.observed.sandbox.as_ref().map(|sandbox| sandbox.attempt);
        newest.filter(move |a| Some(a.sandbox) == sandbox)
    }

    /// An end asks for all containers to begin anew.
    fn asks_for_all(self) -> bool {
        let desired = self.desired;
        self.in_play().any(|a| next(desired, a) == Some(Next::All))
    }

    /// All containers are to begin anew, and not all have ended yet.
    pub(super) fn restarts_all(self) -> bool {
        let mut all = self.observed.attempts.iter();
        self.asks_for_all() || all.any(|a| a.is_left_behind() && is_running(a))
    }

    /// Nothing of it is to be begun any more: a regular container or an init container that failed decides it.
    pub(super) fn is_over(self) -> bool {
        let is_done = |a: &&Attempt| next(self.desired, a) == Some(Next::Nothing);
        let ends = |spec| self.newest(spec).filter(is_done);
        let failed = |a: &Attempt| a.exit().is_some_and(|exit| exit.status != ExitStatus::Code(0));
        let mut init = self.desired.init_containers.iter().filter(|spec| !spec.is_sidecar());
        let mut regular = self.desired.containers.iter();
        let given_up = self.observed.given_up.is_some();
        given_up || init.any(|spec| ends(spec).is_some_and(failed)) || regular.all(|spec| ends(spec).is_some())
    }

    /// Whether anything is to be begun at all.
    fn goes_on(self) -> bool {
        let ends = self.desired.deletion.is_some() || self.observed.torn_down || self.is_over();
        !ends && !self.restarts_all()
    }

    /// Everything that may be begun now, back-off aside. Warily: what is in it is taken to be begun at once.
    pub(super) fn may_begin(self, wary: bool) -> Vec<&'a str> {
        let mut may = Vec::new();
        let Some(sandbox) = self.ready_sandbox().filter(|_| self.goes_on()) else {
            return may;
        };
        let is_here = |a: &&Attempt| a.sandbox == sandbox && !a.is_left_behind();
        let here = |spec: &ContainerSpec| self.newest(spec).filter(is_here);
        // The first moments of one that was just begun are waited for.
        let holds = |may: &[&str], spec: &ContainerSpec| {
            let live = self.newest(spec).filter(|a| a.is_live() && a.life.stop.is_none());
            let awaited = live.is_some_and(|a| (wary || is_running(a)) && !hook_is_over(&a.life.post_start));
            let is_next = wary && may.contains(&spec.name.as_str());
            spec.life.post_start.is_some() && (awaited || is_next)
        };
        let init = &self.desired.init_containers;
        let initialised = self.desired.containers.iter().any(|spec| here(spec).is_some());
        let last_begun = init.iter().rposition(|spec| here(spec).is_some());
        let mut waits = false;
        for (place, spec) in init.iter().enumerate() {
            let newest = here(spec);
            let was_passed = initialised || last_begun.is_some_and(|last| place < last);
            let is_done = |a| !spec.is_sidecar() && next(self.desired, a) == Some(Next::Nothing);
            let is_passed = newest.is_some_and(|a| is_done(a) || (spec.is_sidecar() && is_started(spec, a)));
            let is_wanted = spec.is_sidecar() || !(was_passed || is_passed);
            if is_wanted && !waits && newest.is_none_or(|newest| newest.exit().is_some()) {
                may.push(spec.name.as_str());
            }
            waits |= spec.is_sidecar() && holds(&may, spec);
            if !was_passed && !is_passed {
                return may;
            }
        }
        for spec in self.desired.containers.iter().take_while(|_| !waits) {
            let follows = |a| next(self.desired, a).is_some_and(|next| next != Next::Nothing);
            let again = |a| follows(a) || (!a.is_live() && begins_anew(self.desired, a, sandbox));
            if self.newest(spec).is_none_or(|a| a.is_left_behind() || again(a)) {
                may.push(&spec.name);
            }
            if holds(&may, spec) {
                break;
            }
        }
        may
    }

    /// When the grace of an attempt that has to end is over, and when it is to be killed at the latest.
    fn grace_ends(self, attempt: &Attempt) -> Option<(Timestamp, Timestamp)> {
        let deletion = self.desired.deletion.map(|d| (d.requested_at, d.grace));
        let stop = attempt.life.stop.as_ref().map(|stop| (stop.asked_at, stop.grace));
        let ends = deletion.into_iter().chain(stop);
        let over = ends.map(|(from, grace)| from + grace).min()?;
        let at_once = attempt.is_left_behind() || deletion.is_some_and(|(_, grace)| grace.is_zero());
        // Hooks and sidecars may use all of it up: the least of a stop is left all the same.
        let least = attempt.stop_signalled_at.filter(|_| !at_once);
        let least = least.map(|at| at + Duration::from_secs(2));
        Some((over, least.map_or(over, |least| over.max(least))))
    }

    fn is_past_deadline(self, now: Timestamp) -> bool {
        let due = self.desired.active_deadline.zip(self.observed.started_at);
        due.is_some_and(|(deadline, from)| now >= from + deadline)
    }

    /// Whether this may be done. `jumped`: how long ago something was asked for cannot be told any more.
    fn may(self, now: Timestamp, jumped: bool, step: &Step) -> bool {
        let attempt_of = |name: &str, attempt| self.named(name, attempt).expect("a step for what is recorded");
        let is_deleted = self.desired.deletion.is_some();
        let ends = |a: &Attempt| is_deleted || a.life.stop.is_some();
        match step {
            Step::StartContainer { container, .. } => {
                let newest = self.observed.newest(container);
                let is_tried_again = newest.is_some_and(|a| a.state == AttemptState::Starting && !a.is_left_behind());
                let has_not_run = newest.is_none_or(|a| a.state == AttemptState::Starting);
                let is_guest = has_not_run && kind(self.desired, container) == Kind::Ephemeral;
                let may = is_tried_again || is_guest || self.may_begin(false).contains(&container.as_str());
                may && self.goes_on()
            }
            Step::StopContainer { container, attempt } => {
                let attempt = attempt_of(container, *attempt);
                let overdue = self.grace_ends(attempt).is_some_and(|(over, _)| now >= over);
                let is_time = jumped || overdue || self.is_its_turn(attempt);
                ends(attempt) && !attempt.is_left_behind() && is_time
            }
            Step::KillContainer { container, attempt } => ends(attempt_of(container, *attempt)),
            Step::RunHook {
                container,
                attempt,
                hook,
            } => {
                let attempt = attempt_of(container, *attempt);
                let before_its_end = ends(attempt) && attempt.stop_signalled_at.is_none();
                let is_due = match hook {
                    Hook::PostStart => !hook_is_over(&attempt.life.post_start),
                    Hook::PreStop => before_its_end && !hook_is_over(&attempt.life.pre_stop),
                };
                is_running(attempt) && !attempt.is_left_behind() && is_due
            }
            Step::GiveUp { .. } => self.is_past_deadline(now),
            Step::BeginStop { .. } | Step::Resize { .. } | Step::CreateSandbox { .. } => !is_deleted,
            Step::Forget => is_deleted,
            Step::StopSandbox { .. } | Step::TearDown => true,
        }
    }

    /// Its preStop hook is done (where infra is gone none can run), and a sidecar goes after all that may need it.
    fn is_its_turn(self, attempt: &Attempt) -> bool {
        let desired = self.desired;
        let spec = desired.container(&attempt.container);
        let has_hook = spec.is_some_and(|spec| spec.life.pre_stop.is_some()) && self.ready_sandbox().is_some();
        let own_reason = why(attempt).is_some_and(|why| why != StopReason::PodEnds);
        let is_free = own_reason || kind(desired, &attempt.container) != Kind::Sidecar;
        let later = everyone(desired).skip_while(|spec| spec.name != attempt.container);
        let needs = |spec: &&ContainerSpec| matches!(kind(desired, &spec.name), Kind::Sidecar | Kind::Regular);
        let mut needs = later.skip(1).filter(needs).filter_map(|spec| self.newest(spec));
        (!has_hook || hook_is_over(&attempt.life.pre_stop)) && (is_free || !needs.any(is_running))
    }

    /// A stop is begun only for one of the reasons that there are, and with its grace.
    fn asks_for(self, before: Self, stop: &Stop, attempt: &Attempt) -> bool {
        let spec = self.desired.container(&attempt.container);
        let spec = spec.expect("what is stopped is wanted");
        let (life, pod) = (&attempt.life, self.desired.termination_grace);
        let of_probe = |kind| probe_of(spec, kind).and_then(|probe| probe.termination_grace);
        let (is_right, grace) = match stop.why {
            StopReason::LivenessFailed => (life.liveness.result == Some(false), of_probe(ProbeKind::Liveness)),
            StopReason::StartupFailed => (life.startup.result == Some(false), of_probe(ProbeKind::Startup)),
            StopReason::PostStartFailed => (matches!(life.post_start, HookRecord::Failed { .. }), None),
            StopReason::SpecChanged => (attempt.image != spec.image, None),
            StopReason::Resized => (life.resources.as_ref() != Some(&spec.resources), None),
            StopReason::PodEnds => (self.is_over(), None),
            StopReason::AllRestart => (before.asks_for_all(), Some(Duration::ZERO)),
        };
        is_right && stop.grace == grace.unwrap_or(pod)
    }
}

/// What one probe of one attempt has come to (`worker.go`): the result, the last outcome, and how often it came in a row.
type Counted = (Option<bool>, Option<bool>, u32);

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    probes: BTreeMap<(Name, ProbeKind), Counted>,
    /// How long ago something was asked for cannot be told any more.
    pub(super) clock_has_jumped: bool,
}

impl Model {
    /// SIGKILL was sent.
    pub(super) fn kill_signal(&self, now: Timestamp, moment: Moment<'_>, attempt: &Attempt) {
        let (over, _) = moment.grace_ends(attempt).expect("what is killed had to end");
        assert!(now >= over || self.clock_has_jumped, "{attempt:?} at {now}");
    }

    pub(super) fn planned(&self, now: Timestamp, moment: Moment<'_>, plan: &Plan) {
        for step in &plan.steps {
            let may = moment.may(now, self.clock_has_jumped, step);
            assert!(may, "{step:?} at {now}: {moment:#?}");
        }
        let plans = |wanted: &dyn Fn(&Step) -> bool| plan.steps.iter().any(wanted);
        let wakes_by = |at| plan.wake_at.is_some_and(|wake_at| wake_at <= at);
        // What comes before everything else, which is looked at again once it is done.
        let comes_first = plans(&|step| matches!(step, Step::StopSandbox { .. } | Step::GiveUp { .. }));
        let Moment { desired, observed } = moment;
        if comes_first || !observed.failures.is_empty() || moment.ready_sandbox().is_none() {
            return;
        }
        let lives = |a: &&Attempt| is_running(a) && a.killed_at.is_none() && !self.clock_has_jumped;
        for running in observed.attempts.iter().filter(lives) {
            let is_its = |name: &String| *name == running.container;
            let kills = plans(&|step| matches!(step, Step::KillContainer { container, .. } if is_its(container)));
            let stops = plans(&|step| matches!(step, Step::StopContainer { container, .. } if is_its(container)));
            let leaves = plans(&|step| matches!(step, Step::BeginStop { container, .. } if is_its(container)));
            if let Some((over, kill_at)) = moment.grace_ends(running) {
                let is_timed = now < kill_at && wakes_by(kill_at.max(over));
                assert!(kills || stops || leaves || is_timed, "{running:?} at {now}: {plan:?}");
            }
        }
        if desired.deletion.is_some() || observed.torn_down || moment.is_over() {
            return;
        }
        assert!(
            !moment.is_past_deadline(now),
            "it is active longer than it may: {plan:?}"
        );
        if moment.asks_for_all() {
            let all = StopReason::AllRestart;
            let leaves = plans(&|step| matches!(step, Step::BeginStop { stop, .. } if stop.why == all));
            let soon = wakes_by(now + Duration::from_secs(2));
            assert!(leaves || soon, "all are to restart: {plan:?}");
        }
    }

    /// Reports that were taken, folded in and saved.
    pub(super) fn told(&mut self, desired: &PodSpec, observed: &Observed, report: &Report) {
        let name = (report.container.clone(), report.attempt);
        let known = Moment { desired, observed }.named(&name.0, name.1);
        let known = known.filter(|a| is_running(a)).zip(desired.container(&name.0));
        let (Reported::Probe { kind, success }, Some((attempt, spec))) = (&report.what, known) else {
            return;
        };
        let ends = desired.deletion.is_some() || observed.given_up.is_some() || attempt.life.stop.is_some();
        let (result, last, row) = self.probes.entry((name, *kind)).or_default();
        let counts = match kind {
            ProbeKind::Startup => !ends && result.is_none(),
            ProbeKind::Liveness => !ends && *result != Some(false) && is_started(spec, attempt),
            ProbeKind::Readiness => is_started(spec, attempt),
        };
        if let Some(probe) = probe_of(spec, *kind).filter(|_| counts) {
            let threshold = [probe.failure_threshold, probe.success_threshold][usize::from(*success)];
            let so_far = if *last == Some(*success) { *row } else { 0 };
            (*row, *last) = (threshold.min(so_far + 1), Some(*success));
            *result = if *row == threshold { *last } else { *result };
        }
    }

    pub(super) fn saved(&mut self, desired: &PodSpec, before: &Observed, after: &Observed) {
        let is_kept = before.given_up.is_none() || before.given_up == after.given_up;
        assert!(is_kept, "what was given up was taken up");
        let [before, after] = [before, after].map(|observed| Moment { desired, observed });
        let mut newly_left = false;
        for attempt in &after.observed.attempts {
            let name = (attempt.container.clone(), attempt.attempt);
            let life = &attempt.life;
            let kinds = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
            let records = [&life.startup, &life.liveness, &life.readiness];
            for (kind, record) in kinds.into_iter().zip(records) {
                let own = self.probes.get(&(name.clone(), kind)).copied();
                let known = (record.result, record.last, record.count);
                assert_eq!(known, own.unwrap_or_default(), "{kind:?} of {name:?}");
            }
            let known = before.named(&name.0, name.1);
            let was_left = known.is_some_and(Attempt::is_left_behind);
            let old = known.and_then(|known| known.life.stop.as_ref());
            let same = |stop: &Stop| (stop.why, stop.grace, (!self.clock_has_jumped).then_some(stop.asked_at));
            match &life.stop {
                Some(stop) if old.is_none() || (attempt.is_left_behind() && !was_left) => {
                    newly_left |= attempt.is_left_behind();
                    let is_right = after.asks_for(before, stop, attempt);
                    assert!(is_right, "nothing asks for this: {attempt:?}");
                }
                // What was left before it began is begun in its turn all the same.
                None if was_left && attempt.state == AttemptState::Starting => {}
                stop => assert_eq!(stop.as_ref().map(same), old.map(same), "a stop was changed"),
            }
        }
        let is_whole = !newly_left || after.in_play().all(Attempt::is_left_behind);
        assert!(is_whole, "one is left out when all restart: {after:#?}");
    }
}
