//! What must hold, in words of its own: Kubernetes' rules told again from their description, and the truth about every
//! process. Nothing here calls the code under test.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PodStatus;

use super::model::{Next, begins_anew, next};
use super::pods::everyone;
use crate::model::{
    Attempt, AttemptState, Backoff, Exit, ExitStatus, Observed, Plan, PodSpec, RestartPolicy, SandboxState, Step,
    StopReason, Timestamp,
};

/// (container, attempt)
pub(super) type Name = (String, u32);

/// The truth about one execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    Alive,
    /// It ended so and its shim wrote it down.
    Written(ExitStatus),
    /// Its shim died with it.
    Unseen,
    /// It could not be executed.
    NotExecuted,
}

/// One entry of the kubelet's back-off map: `flowcontrol.Backoff`.
#[derive(Debug, Clone, Copy)]
struct Entry {
    backoff: SignedDuration,
    last_update: Timestamp,
}

#[derive(Debug, Clone)]
pub(super) struct Oracle {
    cap: SignedDuration,
    truths: BTreeMap<Name, Truth>,
    /// Everything written before this point is gone with its run directory.
    gone: BTreeSet<Name>,
    /// The back-off entry as it stood after each attempt was begun.
    entries: BTreeMap<Name, Option<Entry>>,
    stop_signals: BTreeMap<Name, u32>,
    sandboxes_made: u32,
    sandbox_deaths: u32,
    begun: BTreeMap<String, u32>,
    boot: u32,
    begun_in_boot: BTreeMap<Name, u32>,
    pub(super) lost: u64,
}

impl Oracle {
    pub(super) fn new(cap: Duration) -> Self {
        Self {
            cap: SignedDuration::try_from(cap).expect("a cap of minutes"),
            truths: BTreeMap::new(),
            gone: BTreeSet::new(),
            entries: BTreeMap::new(),
            stop_signals: BTreeMap::new(),
            sandboxes_made: 0,
            sandbox_deaths: 0,
            begun: BTreeMap::new(),
            boot: 0,
            begun_in_boot: BTreeMap::new(),
            lost: 0,
        }
    }

    pub(super) fn executions(&self) -> u64 {
        self.truths
            .values()
            .filter(|truth| **truth != Truth::NotExecuted)
            .count() as u64
    }

    // ---- the truth, told by the machine ----

    pub(super) fn executed(&mut self, _sandbox: u32, container: &str, attempt: u32) {
        let name = (container.to_owned(), attempt);
        let twin = self
            .truths
            .iter()
            .find(|((c, _), truth)| c == container && **truth == Truth::Alive);
        assert!(twin.is_none(), "{name:?} was started while {twin:?} lives");
        let before = self.truths.insert(name.clone(), Truth::Alive);
        assert!(before.is_none(), "{name:?} was executed twice, at first: {before:?}");
    }

    pub(super) fn could_not_execute(&mut self, container: &str, attempt: u32) {
        let before = self.truths.insert((container.to_owned(), attempt), Truth::NotExecuted);
        assert!(before.is_none(), "{container} {attempt} was executed twice");
    }

    pub(super) fn ended(&mut self, _sandbox: u32, name: &Name, status: Option<ExitStatus>) {
        let truth = self.truths.get_mut(name).expect("what ends was started");
        assert_eq!(*truth, Truth::Alive);
        *truth = status.map_or(Truth::Unseen, Truth::Written);
    }

    pub(super) fn rebooted(&mut self) {
        self.boot += 1;
        for (name, truth) in &mut self.truths {
            if *truth == Truth::Alive {
                *truth = Truth::Unseen;
            }
            self.gone.insert(name.clone());
        }
    }

    pub(super) fn stop_signal(&mut self, name: &Name, agent_may_have_died: bool) {
        let count = self.stop_signals.entry(name.clone()).or_default();
        *count += 1;
        // An agent that dies between the signal and its record finds it in the journal; only an answer that was lost
        // on a machine that fails makes it repeat.
        assert!(
            *count == 1 || agent_may_have_died || *count < 20,
            "{name:?} was told to stop {count} times"
        );
    }

    // ---- Kubernetes' rules ----

    /// The entry that counts after an attempt: its key is made of the image and the resources, too (`GetBackoffKey`).
    fn entry_after(&self, attempt: &Attempt, image: &str) -> Option<Entry> {
        let stop = attempt.life.stop.as_ref().map(|stop| stop.why);
        let is_other = attempt.image != image || matches!(stop, Some(StopReason::SpecChanged | StopReason::Resized));
        let entry = self.entries[&(attempt.container.clone(), attempt.attempt)];
        entry.filter(|_| !is_other)
    }

    /// `kuberuntime_manager.go doBackOff`: `IsInBackOffSince(key, ts)`.
    fn may_restart_at(entry: Option<Entry>, finished_at: Timestamp) -> Option<Timestamp> {
        let entry = entry?;
        let expired = finished_at.duration_since(entry.last_update) > SignedDuration::from_secs(600);
        (!expired).then(|| finished_at + entry.backoff)
    }

    /// `flowcontrol/backoff.go Next(id, eventTime)`.
    fn next(&self, entry: Option<Entry>, finished_at: Timestamp, now: Timestamp) -> Entry {
        let ten = SignedDuration::from_secs(10);
        let initial = if self.cap < ten { self.cap } else { ten };
        let backoff = match entry {
            Some(entry) if finished_at.duration_since(entry.last_update) <= SignedDuration::from_secs(600) => {
                let doubled = entry.backoff + entry.backoff;
                if doubled < self.cap { doubled } else { self.cap }
            }
            Some(_) | None => initial,
        };
        Entry {
            backoff,
            last_update: now,
        }
    }

    // ---- what the agent does ----

    pub(super) fn saved(
        &mut self,
        boot_id: &str,
        desired: &PodSpec,
        before: &Observed,
        after: &Observed,
        is_sandbox_alive: impl Fn(u32) -> bool,
        is_alive: impl Fn(&str, u32) -> bool,
    ) {
        self.saved_sandbox(boot_id, desired, before, after, is_sandbox_alive);
        for attempt in &after.attempts {
            let known = before.attempts.iter().find(|a| is_same(a, attempt));
            match known {
                None => self.begun(desired, before, attempt),
                Some(known) => assert!(
                    known.exit().is_none() || known.exit() == attempt.exit(),
                    "an end was changed: {known:?} is now {attempt:?}"
                ),
            }
            if let Some(exit) = attempt.exit()
                && known.is_none_or(|known| known.exit().is_none())
            {
                assert!(!is_alive(&attempt.container, attempt.attempt), "it lives: {attempt:?}");
                self.recorded_end(attempt, exit);
            }
        }
        for known in &before.attempts {
            let newest = after.newest(&known.container).map(|a| a.attempt);
            if !after.attempts.iter().any(|a| is_same(a, known)) && newest.is_none_or(|newest| newest < known.attempt) {
                self.dropped(known);
            }
        }
        for container in everyone(desired) {
            let live = after
                .attempts
                .iter()
                .filter(|a| a.container == container.name && a.is_live())
                .count();
            assert!(live <= 1, "{live} live attempts of {}", container.name);
        }
    }

    fn saved_sandbox(
        &mut self,
        boot_id: &str,
        desired: &PodSpec,
        before: &Observed,
        after: &Observed,
        is_alive: impl Fn(u32) -> bool,
    ) {
        let (Some(new), old) = (&after.sandbox, &before.sandbox) else {
            return;
        };
        if old.as_ref().map(|old| old.attempt) != Some(new.attempt) {
            assert_eq!(new.attempt, self.sandboxes_made, "sandboxes are numbered one by one");
            self.sandboxes_made += 1;
            assert!(
                desired.restart_policy != RestartPolicy::Never || before.attempts.is_empty(),
                "a sandbox is made for a pod that restarts nothing"
            );
            assert!(
                self.sandboxes_made <= 1 + self.sandbox_deaths,
                "{} sandboxes after {} deaths",
                self.sandboxes_made,
                self.sandbox_deaths
            );
        }
        let is_dead = |state: &SandboxState| matches!(state, SandboxState::Dead { .. });
        let was_dead = old
            .as_ref()
            .is_some_and(|old| old.attempt == new.attempt && is_dead(&old.state));
        if is_dead(&new.state) && !was_dead {
            self.sandbox_deaths += 1;
            assert!(
                !is_alive(new.attempt) || new.boot_id != boot_id,
                "the sandbox lives: {new:?}"
            );
        }
    }

    fn begun(&mut self, desired: &PodSpec, before: &Observed, attempt: &Attempt) {
        assert_eq!(
            attempt.state,
            AttemptState::Starting,
            "an attempt is recorded before it is started"
        );
        let name = (attempt.container.clone(), attempt.attempt);
        let entry = match attempt.attempt.checked_sub(1) {
            None => None,
            Some(previous) => {
                let known = before.attempts.iter();
                let mut known = known.filter(|a| a.container == name.0 && a.attempt == previous);
                let previous = known.next().expect("an attempt follows another one");
                let exit = previous.exit().expect("an attempt follows one that has ended");
                if begins_anew(desired, previous, attempt.sandbox) {
                    // Nothing of that is a crash.
                    self.entries[&(name.0.clone(), name.1 - 1)]
                } else {
                    let next = next(desired, previous);
                    assert!(next != Some(Next::Nothing), "{name:?} was begun after {exit:?}");
                    let old = self.entry_after(previous, &attempt.image);
                    Some(self.restarted(&name, old, exit, attempt))
                }
            }
        };
        let expected = entry.map_or(SignedDuration::ZERO, |entry| entry.backoff);
        let Backoff { delay, set_at } = attempt.backoff;
        assert_eq!(
            SignedDuration::try_from(delay).expect("a delay of minutes"),
            expected,
            "back-off of {name:?}, set at {set_at:?}"
        );
        *self.begun.entry(name.0.clone()).or_default() += 1;
        self.begun_in_boot.insert(name.clone(), self.boot);
        self.entries.insert(name, entry);
    }

    /// The entry after this restart, which must not come too early.
    fn restarted(&self, name: &Name, old: Option<Entry>, exit: &Exit, attempt: &Attempt) -> Entry {
        // It was decided moments before it is saved, and the clock may have jumped between.
        let decided_at = attempt.backoff.set_at.expect("a restart has a back-off");
        if let (Some(due), Some(old)) = (Self::may_restart_at(old, exit.finished_at), old) {
            // The clock was set back since: nobody knows how long it was.
            let set_back = exit.finished_at > decided_at + old.backoff;
            assert!(
                decided_at >= due || set_back,
                "{name:?} was begun at {decided_at}, but {due} is early enough"
            );
        }
        self.next(old, exit.finished_at, decided_at)
    }

    fn dropped(&mut self, attempt: &Attempt) {
        let name = (attempt.container.clone(), attempt.attempt);
        let truth = self.truths.get(&name);
        assert!(truth.is_none(), "{name:?} was dropped, but the truth is {truth:?}");
        assert_eq!(attempt.state, AttemptState::Starting);
        *self.begun.get_mut(&name.0).expect("what is dropped was begun") -= 1;
        self.entries.remove(&name);
    }

    fn recorded_end(&mut self, attempt: &Attempt, exit: &Exit) {
        let name = (attempt.container.clone(), attempt.attempt);
        let truth = self.truths.get(&name).copied();
        let gone = self.gone.contains(&name);
        let is_right = match exit.status {
            ExitStatus::Code(_) | ExitStatus::Signal(_) | ExitStatus::OomCode(_) | ExitStatus::OomSignal(_) => {
                truth == Some(Truth::Written(exit.status))
            }
            ExitStatus::StartError => truth == Some(Truth::NotExecuted),
            ExitStatus::Lost => {
                self.lost += 1;
                match truth {
                    Some(Truth::Unseen) => true,
                    Some(Truth::Written(_) | Truth::NotExecuted) => gone,
                    // Of what was never executed nobody can tell so, when the run directory is gone.
                    None => self.begun_in_boot.get(&name).is_some_and(|boot| *boot < self.boot),
                    Some(Truth::Alive) => false,
                }
            }
        };
        assert!(
            is_right,
            "{name:?} is recorded as {exit:?}, the truth is {truth:?} (journal gone: {gone})"
        );
        if let Some(started_at) = exit.started_at {
            assert!(exit.finished_at >= started_at, "ended before it began: {exit:?}");
        }
    }

    pub(super) fn planned(
        &self,
        now: Timestamp,
        desired: &PodSpec,
        observed: &Observed,
        plan: &Plan,
        may_begin: &[&str],
    ) {
        for step in &plan.steps {
            if let Step::CreateSandbox { attempt } = step {
                assert!(
                    desired.deletion.is_none(),
                    "sandbox {attempt} is made for a deleted pod"
                );
            }
        }
        if let Some(wake_at) = plan.wake_at {
            assert!(wake_at > now, "a timer in the past");
            let grace = desired.deletion.map_or(Duration::ZERO, |deletion| deletion.grace);
            let longest = grace.as_secs();
            let longest = SignedDuration::from_secs(2 * i64::try_from(longest.max(300)).expect("minutes"));
            // It counts from when the pod was first seen, whatever became of the clock since.
            let deadline = desired.active_deadline.zip(observed.started_at);
            let is_deadline = deadline.is_some_and(|(deadline, from)| wake_at == from + deadline);
            assert!(
                is_deadline || wake_at <= now + longest,
                "waits until {wake_at}, at {now}"
            );
        }
        if observed.failures.is_empty() {
            for container in may_begin {
                self.planned_in_time(now, desired, observed, plan, container);
            }
        }
    }

    /// A container that may be started is started, or the timer is set to when it may.
    fn planned_in_time(&self, now: Timestamp, desired: &PodSpec, observed: &Observed, plan: &Plan, container: &str) {
        let newest = observed.newest(container);
        let due = newest.and_then(|newest| {
            let exit = newest.exit()?;
            let image = &desired.container(container)?.image;
            let entry = self.entry_after(newest, image);
            Self::may_restart_at(entry, exit.finished_at).filter(|due| *due > now)
        });
        let is_started = plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::StartContainer { container: c, .. } if c == container));
        let is_timed = due.is_some_and(|due| plan.wake_at.is_some_and(|wake_at| wake_at <= due));
        let past = plan.steps.iter().any(|step| matches!(step, Step::GiveUp { .. }));
        assert!(
            is_started || is_timed || past,
            "{container} may start at {due:?}, at {now} the plan is {plan:?}"
        );
    }

    // ---- at rest ----

    /// What must be true of a pod at rest that is not deleted.
    pub(super) fn settled(&self, observed: &Observed, status: &PodStatus, is_sandbox_alive: impl Fn(u32) -> bool) {
        let init = status.init_container_statuses.iter().flatten();
        for reported in init.chain(status.container_statuses.iter().flatten()) {
            let begun = self.begun.get(&reported.name).copied().unwrap_or_default();
            let count = u32::try_from(reported.restart_count).expect("a count");
            assert_eq!(count, begun.saturating_sub(1), "restart count of {}", reported.name);
        }
        if !observed.torn_down {
            let sandbox = observed.sandbox.as_ref().expect("a pod that is not over has a sandbox");
            assert!(is_sandbox_alive(sandbox.attempt));
            assert_eq!(self.sandboxes_made, 1 + self.sandbox_deaths, "sandboxes made");
        }
    }
}

fn is_same(a: &Attempt, b: &Attempt) -> bool {
    a.container == b.container && a.attempt == b.attempt
}
