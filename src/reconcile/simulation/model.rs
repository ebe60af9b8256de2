//! The life of a pod's containers, told again from Kubernetes' own description: who begins after whom, what ends whom and
//! how, what a probe counts for, what is reported. It watches every save, plan, signal and status, and never calls the
//! code under test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;

use super::errands::probe_of;
use crate::model::{
    Attempt, AttemptState, ContainerSpec, ExitStatus, GivenUp, Hook, HookRecord, Observed, Plan, PodSpec, ProbeKind,
    ProbeRecord, Report, Reported, RestartPolicy, SandboxState, Step, Stop, StopReason, Timestamp,
};

/// (container, attempt)
pub(super) type Name = (String, u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Init,
    Sidecar,
    Regular,
    Ephemeral,
}

pub(super) fn kind(desired: &PodSpec, name: &str) -> Kind {
    let is_in = |list: &[ContainerSpec]| list.iter().any(|container| container.name == name);
    if is_in(&desired.containers) {
        Kind::Regular
    } else if is_in(&desired.ephemeral_containers) {
        Kind::Ephemeral
    } else if desired.init_containers.iter().any(|c| c.name == name && c.is_sidecar()) {
        Kind::Sidecar
    } else {
        Kind::Init
    }
}

pub(super) fn everyone(desired: &PodSpec) -> impl Iterator<Item = &ContainerSpec> {
    let (init, ephemeral) = (&desired.init_containers, &desired.ephemeral_containers);
    init.iter().chain(&desired.containers).chain(ephemeral)
}

/// Whether an attempt that ended is followed by another one, in the same sandbox.
pub(super) fn wants_restart(desired: &PodSpec, attempt: &Attempt, status: ExitStatus) -> bool {
    let by_policy = match desired.restart_policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => status.exit_code() != 0,
        RestartPolicy::Never => false,
    };
    match kind(desired, &attempt.container) {
        Kind::Ephemeral => false,
        Kind::Sidecar => true,
        Kind::Init => desired.restart_policy != RestartPolicy::Never && status != ExitStatus::Code(0),
        Kind::Regular => match attempt.life.stop.as_ref().map(|stop| stop.why) {
            Some(StopReason::SpecChanged | StopReason::Resized) => true,
            Some(StopReason::LivenessFailed | StopReason::StartupFailed) => {
                desired.restart_policy != RestartPolicy::Never
            }
            Some(StopReason::PostStartFailed | StopReason::PodEnds) | None => by_policy,
        },
    }
}

/// What one probe of one attempt has come to (`worker.go`).
#[derive(Debug, Clone, Default)]
struct Counted {
    result: Option<bool>,
    last: Option<bool>,
    in_a_row: u32,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    probes: BTreeMap<(Name, ProbeKind), Counted>,
    /// The sandbox in which an init container was done last, or a sidecar was first seen started.
    passed_in: BTreeMap<String, BTreeSet<u32>>,
    /// How often the clock had jumped when this stop, or the pod's deletion (no name), was asked for.
    asked: BTreeMap<Option<Name>, u64>,
    pub(super) jumps: u64,
    pub(super) regular_ran: bool,
    pub(super) stops: u64,
    pub(super) init_runs: u64,
}

pub(super) fn plus(from: Timestamp, by: Duration) -> Timestamp {
    from + SignedDuration::try_from(by).expect("minutes")
}

pub(super) fn is_running(attempt: &Attempt) -> bool {
    matches!(attempt.state, AttemptState::Running { .. })
}

pub(super) fn hook_is_over(record: &HookRecord) -> bool {
    matches!(record, HookRecord::Done { .. } | HookRecord::Failed { .. })
}

/// It runs, its postStart hook went well, and its startup probe has passed.
pub(super) fn is_started(spec: &ContainerSpec, attempt: &Attempt) -> bool {
    is_running(attempt)
        && (spec.life.post_start.is_none() || matches!(attempt.life.post_start, HookRecord::Done { .. }))
        && (spec.life.startup.is_none() || attempt.life.startup.result == Some(true))
}

fn record_of(attempt: &Attempt, kind: ProbeKind) -> &ProbeRecord {
    match kind {
        ProbeKind::Startup => &attempt.life.startup,
        ProbeKind::Liveness => &attempt.life.liveness,
        ProbeKind::Readiness => &attempt.life.readiness,
    }
}

pub(super) fn ready_sandbox(observed: &Observed) -> Option<u32> {
    let ready = observed.sandbox.as_ref();
    ready
        .filter(|s| matches!(s.state, SandboxState::Ready { .. }))
        .map(|s| s.attempt)
}

/// An init container failed for good.
pub(super) fn init_failed(desired: &PodSpec, observed: &Observed) -> bool {
    let init = desired.init_containers.iter().filter(|spec| !spec.is_sidecar());
    init.filter_map(|spec| observed.newest(&spec.name)).any(|newest| {
        let failed = newest.exit().is_some_and(|exit| exit.status != ExitStatus::Code(0));
        failed && desired.restart_policy == RestartPolicy::Never
    })
}

pub(super) fn regular_are_done(desired: &PodSpec, observed: &Observed) -> bool {
    desired.containers.iter().all(|spec| {
        let newest = observed.newest(&spec.name);
        newest.is_some_and(|a| a.exit().is_some_and(|exit| !wants_restart(desired, a, exit.status)))
    })
}

impl Model {
    pub(super) fn clock_jumped(&mut self) {
        self.jumps += 1;
    }

    pub(super) fn deletion_asked(&mut self) {
        self.asked.insert(None, self.jumps);
    }

    fn clock_is_true_since(&self, asked: Option<&Name>) -> bool {
        self.asked.get(&asked.cloned()) == Some(&self.jumps)
    }

    // ---- who begins after whom ----

    /// A process was begun on the machine.
    pub(super) fn executed(&mut self, desired: &PodSpec, sandbox: u32, container: &str) {
        let kind = kind(desired, container);
        if kind == Kind::Ephemeral {
            return;
        }
        for before in desired.init_containers.iter().take_while(|spec| spec.name != container) {
            let passed = self
                .passed_in
                .get(&before.name)
                .is_some_and(|passed| passed.contains(&sandbox));
            assert!(passed, "{container} was begun before {} was done", before.name);
        }
        if kind == Kind::Init {
            self.init_runs += 1;
            let done = self
                .passed_in
                .get(container)
                .is_some_and(|passed| passed.contains(&sandbox));
            assert!(!done, "{container} was done in sandbox {sandbox}, and runs again");
        }
        self.regular_ran |= kind == Kind::Regular;
    }

    pub(super) fn ended(&mut self, desired: &PodSpec, sandbox: u32, container: &str, status: Option<ExitStatus>) {
        if kind(desired, container) == Kind::Init && status == Some(ExitStatus::Code(0)) {
            self.passed_in.entry(container.to_owned()).or_default().insert(sandbox);
        }
    }

    /// Everything that may be begun now, back-off aside.
    pub(super) fn may_begin<'a>(desired: &'a PodSpec, observed: &Observed) -> Vec<&'a str> {
        let Some(sandbox) = ready_sandbox(observed) else {
            return Vec::new();
        };
        let over = init_failed(desired, observed) || regular_are_done(desired, observed);
        if desired.deletion.is_some() || observed.given_up.is_some() || over || observed.torn_down {
            return Vec::new();
        }
        let here = |spec: &ContainerSpec| observed.newest(&spec.name).filter(|a| a.sandbox == sandbox).cloned();
        let initialised = desired.containers.iter().any(|spec| here(spec).is_some());
        let held = |may: &[&str], spec: &ContainerSpec| {
            // It is begun now, or its first moments are waited for.
            let live = observed.newest(&spec.name).filter(|newest| newest.is_live());
            let awaited = live.is_some_and(|live| !hook_is_over(&live.life.post_start));
            spec.life.post_start.is_some() && (awaited || may.contains(&spec.name.as_str()))
        };
        let mut may = Vec::new();
        let mut turn = true;
        let mut waits = false;
        for spec in &desired.init_containers {
            let newest = here(spec);
            let exit = newest.as_ref().and_then(Attempt::exit);
            let is_wanted = newest.is_none() || exit.is_some_and(|exit| exit.status != ExitStatus::Code(0));
            if spec.is_sidecar() {
                if !waits && (turn || initialised) && (newest.is_none() || exit.is_some()) {
                    may.push(spec.name.as_str());
                }
                waits |= held(&may, spec);
                turn &= newest.is_some_and(|newest| is_started(spec, &newest));
            } else if !initialised {
                if turn && is_wanted && !waits {
                    may.push(spec.name.as_str());
                }
                turn &= exit.is_some_and(|exit| exit.status == ExitStatus::Code(0));
            }
        }
        if waits || (!turn && !initialised) {
            return may;
        }
        for spec in &desired.containers {
            let newest = observed.newest(&spec.name);
            let exit = newest.and_then(|a| a.exit().map(|exit| (a, exit)));
            if newest.is_none() || exit.is_some_and(|(a, exit)| wants_restart(desired, a, exit.status)) {
                may.push(&spec.name);
            }
            if held(&may, spec) {
                break;
            }
        }
        may
    }

    // ---- what ends whom, and when ----

    /// When the grace of an attempt that has to end is over, and when it is to be killed at the latest.
    fn grace_ends(desired: &PodSpec, attempt: &Attempt) -> Option<(Timestamp, Timestamp)> {
        let deletion = desired
            .deletion
            .map(|deletion| plus(deletion.requested_at, deletion.grace));
        let stop = attempt.life.stop.as_ref().map(|stop| plus(stop.asked_at, stop.grace));
        let over = deletion.into_iter().chain(stop).min()?;
        // Hooks and sidecars may use all of it up: the least of a stop is left all the same.
        let least = attempt.stop_signalled_at.map(|at| plus(at, Duration::from_secs(2)));
        let at_once = desired.deletion.is_some_and(|deletion| deletion.grace.is_zero());
        Some((over, least.filter(|_| !at_once).map_or(over, |least| over.max(least))))
    }

    /// SIGKILL was sent.
    pub(super) fn kill_signal(&self, now: Timestamp, desired: &PodSpec, attempt: &Attempt) {
        let (over, _) = Self::grace_ends(desired, attempt).expect("what is killed had to end");
        let is_true = self.asked.keys().all(|asked| self.clock_is_true_since(asked.as_ref()));
        assert!(
            now >= over || !is_true,
            "{attempt:?} was killed at {now}, its grace lasts until {over}"
        );
    }

    pub(super) fn planned(&self, now: Timestamp, desired: &PodSpec, observed: &Observed, plan: &Plan) {
        for step in &plan.steps {
            Self::step(now, desired, observed, step);
        }
        let clears = plan.steps.iter().any(|step| matches!(step, Step::StopSandbox { .. }));
        if clears || !observed.failures.is_empty() || ready_sandbox(observed).is_none() {
            return;
        }
        for running in observed
            .attempts
            .iter()
            .filter(|a| is_running(a) && a.killed_at.is_none())
        {
            let Some((over, kill_at)) = Self::grace_ends(desired, running) else {
                continue;
            };
            if !self.asked.keys().all(|asked| self.clock_is_true_since(asked.as_ref())) {
                continue;
            }
            let is_acted = plan.steps.iter().any(|step| match step {
                Step::KillContainer { container, .. } => *container == running.container,
                Step::StopContainer { container, .. } => {
                    *container == running.container && running.stop_signalled_at.is_none()
                }
                Step::CreateSandbox { .. }
                | Step::StopSandbox { .. }
                | Step::StartContainer { .. }
                | Step::BeginStop { .. }
                | Step::RunHook { .. }
                | Step::Resize { .. }
                | Step::GiveUp { .. }
                | Step::TearDown
                | Step::Forget => false,
            });
            let is_timed = now < kill_at && plan.wake_at.is_some_and(|at| at <= kill_at.max(over));
            assert!(
                is_acted || is_timed,
                "{running:?} outlives its grace, {kill_at}, at {now}: {plan:?}"
            );
        }
        if let (Some(deadline), None, Some(started_at)) =
            (desired.active_deadline, desired.deletion, observed.started_at)
            && observed.given_up.is_none()
            && now >= plus(started_at, deadline)
            && !(observed.torn_down || init_failed(desired, observed) || regular_are_done(desired, observed))
        {
            let gives_up = plan.steps.iter().any(|step| matches!(step, Step::GiveUp { .. }));
            assert!(gives_up, "it is active longer than it may: {plan:?}");
        }
    }

    fn step(now: Timestamp, desired: &PodSpec, observed: &Observed, step: &Step) {
        let attempt_of = |container: &str, attempt: u32| {
            let known = observed.attempts.iter();
            let mut known = known.filter(|a| a.container == container && a.attempt == attempt);
            known.next().expect("a step for what is recorded")
        };
        let ends = |a: &Attempt| desired.deletion.is_some() || a.life.stop.is_some();
        match step {
            Step::StartContainer { container, .. } => {
                assert!(
                    desired.deletion.is_none() && observed.given_up.is_none(),
                    "{container} is begun in a pod that ends"
                );
                let before = everyone(desired).take_while(|spec| spec.name != *container);
                for (spec, earlier) in
                    before.filter_map(|spec| observed.newest(&spec.name).map(|newest| (spec, newest)))
                {
                    let awaited = is_running(earlier)
                        && earlier.life.stop.is_none()
                        && spec.life.post_start.is_some()
                        && !hook_is_over(&earlier.life.post_start)
                        && kind(desired, container) != Kind::Ephemeral;
                    assert!(
                        !awaited,
                        "{container} is begun in the middle of the postStart hook of {}",
                        spec.name
                    );
                }
            }
            Step::StopContainer { container, attempt } => {
                let attempt = attempt_of(container, *attempt);
                assert!(ends(attempt), "{step:?} for nothing");
                let spec = desired.container(container).expect("what is stopped is wanted");
                let overdue = Self::grace_ends(desired, attempt).is_some_and(|(earliest, _)| now >= earliest);
                // Where infra is gone no hook can run any more.
                let runs_no_hook = spec.life.pre_stop.is_none() || ready_sandbox(observed).is_none();
                let hooked = runs_no_hook || hook_is_over(&attempt.life.pre_stop);
                assert!(
                    hooked || overdue,
                    "{container} is told to stop before its preStop hook is done"
                );
                Self::turn_to_stop(desired, observed, attempt, overdue);
            }
            Step::KillContainer { container, attempt } => {
                assert!(ends(attempt_of(container, *attempt)), "{step:?} for nothing");
            }
            Step::RunHook {
                container,
                attempt,
                hook,
            } => {
                let attempt = attempt_of(container, *attempt);
                let is_right = match hook {
                    Hook::PostStart => !hook_is_over(&attempt.life.post_start),
                    Hook::PreStop => {
                        !hook_is_over(&attempt.life.pre_stop) && ends(attempt) && attempt.stop_signalled_at.is_none()
                    }
                };
                assert!(is_running(attempt) && is_right, "{step:?} for {attempt:?}");
            }
            Step::GiveUp { .. } => {
                let due = desired.active_deadline.zip(observed.started_at);
                let due = due.map(|(deadline, from)| plus(from, deadline));
                assert!(due.is_some_and(|due| now >= due), "given up at {now}, due at {due:?}");
            }
            Step::BeginStop { .. } | Step::Resize { .. } | Step::CreateSandbox { .. } => {
                assert!(desired.deletion.is_none(), "{step:?} in a deleted pod");
            }
            Step::Forget => assert!(desired.deletion.is_some(), "{step:?} without a deletion"),
            Step::StopSandbox { .. } | Step::TearDown => {}
        }
    }

    /// Sidecars go after everything that may need them: in reverse.
    fn turn_to_stop(desired: &PodSpec, observed: &Observed, attempt: &Attempt, overdue: bool) {
        let own_reason = attempt
            .life
            .stop
            .as_ref()
            .is_some_and(|stop| stop.why != StopReason::PodEnds);
        if kind(desired, &attempt.container) != Kind::Sidecar || own_reason || overdue {
            return;
        }
        let later = desired
            .init_containers
            .iter()
            .skip_while(|spec| spec.name != attempt.container)
            .skip(1);
        for needs in later.filter(|spec| spec.is_sidecar()).chain(&desired.containers) {
            let runs = observed.newest(&needs.name).is_some_and(is_running);
            assert!(!runs, "{} is told to stop while {} runs", attempt.container, needs.name);
        }
    }

    // ---- what is recorded ----

    /// Reports that were taken, folded in and saved.
    pub(super) fn told(&mut self, desired: &PodSpec, before: &Observed, report: &Report) {
        let Reported::Probe { kind: probed, success } = &report.what else {
            return;
        };
        let known = before
            .attempts
            .iter()
            .find(|a| a.container == report.container && a.attempt == report.attempt);
        let (Some(attempt), Some(spec)) = (known.filter(|a| is_running(a)), desired.container(&report.container))
        else {
            return;
        };
        let ends = desired.deletion.is_some() || before.given_up.is_some() || attempt.life.stop.is_some();
        let counted = self
            .probes
            .entry(((report.container.clone(), report.attempt), *probed))
            .or_default();
        let holds = match probed {
            ProbeKind::Startup => ends || counted.result.is_some(),
            ProbeKind::Liveness => ends || counted.result == Some(false) || !is_started(spec, attempt),
            ProbeKind::Readiness => !is_started(spec, attempt),
        };
        let Some(probe) = probe_of(spec, *probed).filter(|_| !holds) else {
            return;
        };
        let threshold = if *success {
            probe.success_threshold
        } else {
            probe.failure_threshold
        };
        counted.in_a_row = if counted.last == Some(*success) {
            counted.in_a_row + 1
        } else {
            1
        };
        counted.last = Some(*success);
        if counted.in_a_row >= threshold {
            counted.in_a_row = threshold;
            counted.result = Some(*success);
        }
    }

    pub(super) fn saved(&mut self, desired: &PodSpec, before: &Observed, after: &Observed) {
        let given_up = |observed: &Observed| {
            observed
                .given_up
                .as_ref()
                .map(|GivenUp { at, reason, .. }| (*at, *reason))
        };
        assert!(
            before.given_up.is_none() || given_up(before) == given_up(after),
            "what was given up was taken up"
        );
        for attempt in &after.attempts {
            let name = (attempt.container.clone(), attempt.attempt);
            for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
                let ProbeRecord { result, last, count } = record_of(attempt, kind).clone();
                let own = self.probes.get(&(name.clone(), kind)).cloned().unwrap_or_default();
                let told = (own.result, own.last, own.in_a_row);
                assert_eq!((result, last, count), told, "{kind:?} of {name:?}");
            }
            let known = before
                .attempts
                .iter()
                .find(|a| a.container == name.0 && a.attempt == name.1);
            let old = known.and_then(|known| known.life.stop.as_ref());
            let same = |stop: &Stop| (stop.why, stop.grace, (self.jumps == 0).then_some(stop.asked_at));
            let is_kept = old.is_none() || old.map(same) == attempt.life.stop.as_ref().map(same);
            assert!(is_kept, "a stop was changed: {old:?}, {attempt:?}");
            if old.is_none() && attempt.life.stop.is_some() {
                self.stops += 1;
                self.asked.insert(Some(name.clone()), self.jumps);
                Self::stop_is_asked_for(desired, after, attempt);
            }
            let spec = desired
                .container(&name.0)
                .filter(|_| kind(desired, &name.0) == Kind::Sidecar);
            if spec.is_some_and(|spec| is_started(spec, attempt)) {
                self.passed_in.entry(name.0).or_default().insert(attempt.sandbox);
            }
        }
    }

    /// A stop is begun only for one of the reasons that there are.
    fn stop_is_asked_for(desired: &PodSpec, observed: &Observed, attempt: &Attempt) {
        let stop = attempt.life.stop.as_ref().expect("it was begun");
        let spec = desired
            .container(&attempt.container)
            .expect("what is stopped is wanted");
        let pod = desired.termination_grace;
        let of_probe = |kind| {
            probe_of(spec, kind)
                .and_then(|probe| probe.termination_grace)
                .unwrap_or(pod)
        };
        let (is_right, grace) = match stop.why {
            StopReason::LivenessFailed => (
                attempt.life.liveness.result == Some(false),
                of_probe(ProbeKind::Liveness),
            ),
            StopReason::StartupFailed => (attempt.life.startup.result == Some(false), of_probe(ProbeKind::Startup)),
            StopReason::PostStartFailed => (matches!(attempt.life.post_start, HookRecord::Failed { .. }), pod),
            StopReason::SpecChanged => (attempt.image != spec.image, pod),
            StopReason::Resized => (attempt.life.resources.as_ref() != Some(&spec.resources), pod),
            StopReason::PodEnds => {
                let over = init_failed(desired, observed) || regular_are_done(desired, observed);
                (over || observed.given_up.is_some(), pod)
            }
        };
        assert!(is_right, "nothing asks for this stop: {attempt:?}");
        assert_eq!(stop.grace, grace, "the grace of {attempt:?}");
    }
}
