//! The machine under the agent: its shims and their journals, its processes and how they fare, and every effect on it.

use std::collections::BTreeMap;

use super::agent::Stop;
use super::model::{Moment, Next, after, policy};
use super::oracle::Name;
use super::pods::{Kind, kind};
use super::told::Told;
use super::world::{Event, World};
use crate::model::{
    ContainerPhase, ContainerSnapshot, ExitStatus, InfraSnapshot, ProbeKind, RestartPolicy, SandboxSnapshot, Snapshot,
    Timestamp,
};

/// One process that a shim made.
#[derive(Debug, Clone)]
pub(super) struct Process {
    /// When it ends by itself, and how; `None`: never.
    pub(super) end: Option<(i64, ExitStatus)>,
    /// What the stop signal does: ends it after so many ms with this status; `None`: nothing.
    pub(super) on_stop: Option<(i64, ExitStatus)>,
    /// Until then SIGKILL does not end it (uninterruptible sleep).
    pub(super) stuck_until: i64,
    pub(super) killed: bool,
    pub(super) health: Health,
}

/// What its probes would find, and when that changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Health {
    /// From when on it has started up; `None`: never.
    pub(super) started_from: Option<i64>,
    /// Until when it is alive; `None`: for ever.
    pub(super) alive_until: Option<i64>,
    /// From when and until when it is ready.
    pub(super) ready_from: i64,
    pub(super) ready_until: Option<i64>,
}

impl Health {
    pub(super) fn at(&self, kind: ProbeKind, mono: i64) -> bool {
        match kind {
            ProbeKind::Startup => self.started_from.is_some_and(|from| from <= mono),
            ProbeKind::Liveness => self.alive_until.is_none_or(|until| mono < until),
            ProbeKind::Readiness => self.ready_from <= mono && self.ready_until.is_none_or(|until| mono < until),
        }
    }

    /// When it changes next.
    pub(super) fn next_change(&self, kind: ProbeKind, mono: i64) -> Option<i64> {
        let changes = match kind {
            ProbeKind::Startup => [self.started_from, None],
            ProbeKind::Liveness => [self.alive_until, None],
            ProbeKind::Readiness => [Some(self.ready_from), self.ready_until],
        };
        changes.into_iter().flatten().filter(|at| *at > mono).min()
    }
}

/// One sandbox on the machine: what its shim wrote down, and what is alive.
#[derive(Debug, Clone)]
pub(super) struct OnMachine {
    pub(super) facts: SandboxSnapshot,
    pub(super) alive: BTreeMap<Name, Process>,
}

/// A start request that was sent by an agent which died before it was answered.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    pub(super) at: i64,
    pub(super) sandbox: u32,
    pub(super) container: String,
    pub(super) attempt: u32,
}

impl World {
    // ---- the runtime ----

    pub(super) fn observe(&mut self) -> Result<Snapshot, Stop> {
        if self.fails() && self.rng.chance(300) {
            return Err(Stop::Unobservable);
        }
        Ok(Snapshot {
            sandboxes: self.sandboxes.values().map(|sandbox| sandbox.facts.clone()).collect(),
        })
    }

    /// Effects answer whether they succeeded, as far as the agent can tell: one that took effect may seem to have
    /// failed, when its answer is lost.
    pub(super) fn create_sandbox(&mut self, attempt: u32) -> bool {
        assert!(self.address_held, "a sandbox without an address");
        assert!(
            self.desired.deletion.is_none() || self.faults,
            "a sandbox for a deleted pod"
        );
        self.has_directories = true;
        if self.fails() {
            return false;
        }
        let now = self.now();
        let sandbox = self.sandboxes.entry(attempt).or_insert_with(|| OnMachine {
            facts: SandboxSnapshot {
                attempt,
                shim_alive: true,
                infra: InfraSnapshot::Absent,
                containers: Vec::new(),
            },
            alive: BTreeMap::new(),
        });
        if !sandbox.facts.shim_alive || matches!(sandbox.facts.infra, InfraSnapshot::Exited { .. }) {
            return false;
        }
        if self.fails() {
            return false;
        }
        if let Some(sandbox) = self.sandboxes.get_mut(&attempt)
            && sandbox.facts.infra == InfraSnapshot::Absent
        {
            sandbox.facts.infra = InfraSnapshot::Running { pid: 1, since: now };
        }
        !self.fails()
    }

    pub(super) fn start_container(&mut self, sandbox: u32, container: &str, attempt: u32) -> bool {
        if self.fails() {
            return false;
        }
        self.shim_start(sandbox, container, attempt) && !self.fails()
    }

    pub(super) fn shim_start(&mut self, number: u32, container: &str, attempt: u32) -> bool {
        let name = (container.to_owned(), attempt);
        let now = self.now();
        let exec_fails = self.fails();
        let dies_halfway = self.faults && self.rng.chance(5);
        let life = self.life(container);
        let health = self.health();
        let stuck = if self.faults && self.rng.chance(50) {
            self.mono + self.rng.range(0, 60_000)
        } else {
            0
        };
        let on_stop = if self.rng.chance(700) {
            Some((
                self.rng.pick(&[0, 5, 800, 3_000]),
                self.rng.pick(&[ExitStatus::Code(0), ExitStatus::Signal(15)]),
            ))
        } else {
            None
        };
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return false;
        };
        if !sandbox.facts.shim_alive || !matches!(sandbox.facts.infra, InfraSnapshot::Running { .. }) {
            return false;
        }
        if sandbox
            .facts
            .containers
            .iter()
            .any(|c| c.container == container && c.attempt == attempt)
        {
            return true;
        }
        let fact = |phase| ContainerSnapshot {
            container: container.to_owned(),
            attempt,
            phase,
            stop_signalled_at: None,
            killed_at: None,
        };
        if dies_halfway {
            // Its `Starting` is written and nothing more; whether it ran a moment is known to nobody.
            sandbox.facts.containers.push(fact(ContainerPhase::Starting));
            self.oracle.executed(number, container, attempt);
            self.oracle.ended(number, &name, None);
            self.happen(Event::ShimKilled);
            return false;
        }
        if exec_fails {
            let phase = ContainerPhase::StartFailed {
                message: "no such file".to_owned(),
                at: now,
            };
            sandbox.facts.containers.push(fact(phase));
            self.oracle.could_not_execute(container, attempt);
            return false;
        }
        sandbox.facts.containers.push(fact(ContainerPhase::Running {
            pid: 2,
            started_at: now,
        }));
        let end = life.map(|(after, status)| (self.mono + after, status));
        let process = Process {
            end,
            on_stop,
            stuck_until: stuck,
            killed: false,
            health,
        };
        sandbox.alive.insert(name.clone(), process);
        self.oracle.executed(number, container, attempt);
        true
    }

    fn health(&mut self) -> Health {
        let (mono, faults) = (self.mono, self.faults);
        let rng = &mut self.rng;
        let ready_from = mono + rng.pick(&[0, 0, 2_500, 10_000]);
        Health {
            started_from: if faults && rng.chance(150) {
                None
            } else {
                Some(mono + if faults { rng.pick(&[0, 1_500, 15_000]) } else { 0 })
            },
            alive_until: (faults && rng.chance(300)).then(|| mono + rng.range(0, 60_000)),
            ready_from,
            ready_until: (faults && rng.chance(300)).then(|| ready_from + rng.range(0, 60_000)),
        }
    }

    /// How long a process lives and how it ends; `None`: for ever.
    fn life(&mut self, container: &str) -> Option<(i64, ExitStatus)> {
        let status = self.rng.pick(&[
            ExitStatus::Code(0),
            ExitStatus::Code(1),
            ExitStatus::Code(137),
            ExitStatus::Signal(11),
            ExitStatus::OomSignal(9),
            ExitStatus::OomCode(0),
        ]);
        let ends_after = match self.rng.below(10) {
            0..=3 => self.rng.range(0, 5_000),
            4..=5 => self.rng.range(5_000, 100_000),
            6 => self.rng.range(590_000, 700_000),
            _ if kind(&self.desired, container) == Kind::Init => 100,
            _ => return None,
        };
        let kind = kind(&self.desired, container);
        let spec = self.desired.container(container)?.clone();
        let policy = policy(&self.desired, &spec);
        if kind == Kind::Init && !(self.faults && self.rng.chance(400)) {
            let fails = self.crash_at.is_none() && policy == RestartPolicy::Never;
            return Some((ends_after % 3_000, if fails { status } else { ExitStatus::Code(0) }));
        }
        if self.crash_at.is_some() {
            return None;
        }
        if self.faults {
            return Some((ends_after, status));
        }
        // Calm: a pod that restarts for ever would never come to rest.
        let last = match policy {
            RestartPolicy::Always => None,
            RestartPolicy::OnFailure => Some(ExitStatus::Code(0)),
            RestartPolicy::Never => Some(status),
        };
        let last = last.filter(|last| after(&self.desired, &spec, *last) == Next::Nothing);
        last.map(|last| (ends_after, last))
    }

    pub(super) fn stop_container(&mut self, sandbox: u32, container: &str, attempt: u32) -> bool {
        if self.fails() {
            return false;
        }
        let (now, mono) = (self.now(), self.mono);
        if let Some(sandbox) = self
            .sandboxes
            .get_mut(&sandbox)
            .filter(|sandbox| sandbox.facts.shim_alive)
        {
            let name = (container.to_owned(), attempt);
            if let Some(process) = sandbox.alive.get_mut(&name) {
                if let Some((after, status)) = process.on_stop
                    && process.end.is_none_or(|(at, _)| at > mono + after)
                {
                    process.end = Some((mono + after, status));
                }
                if let Some(fact) = sandbox.fact(&name) {
                    fact.stop_signalled_at.get_or_insert(now);
                }
                self.oracle
                    .stop_signal(&name, self.crash_rate > 0 || self.crash_at.is_some());
            }
        }
        !self.fails()
    }

    pub(super) fn kill_container(&mut self, sandbox: u32, container: &str, attempt: u32) -> bool {
        if self.fails() {
            return false;
        }
        self.tally.kills += 1;
        let now = self.now();
        if let Some(sandbox) = self
            .sandboxes
            .get_mut(&sandbox)
            .filter(|sandbox| sandbox.facts.shim_alive)
        {
            let name = (container.to_owned(), attempt);
            if let Some(process) = sandbox.alive.get_mut(&name) {
                process.killed = true;
                if let Some(fact) = sandbox.fact(&name) {
                    fact.killed_at.get_or_insert(now);
                }
                let (desired, observed) = (&self.desired, &self.observed);
                let mut known = observed.attempts.iter();
                let known = known.find(|a| a.container == container && a.attempt == attempt);
                let killed = known.expect("what is killed is recorded");
                self.model.kill_signal(now, Moment { desired, observed }, killed);
            }
        }
        self.happen_now();
        !self.fails()
    }

    pub(super) fn resize(&mut self, container: &str, attempt: u32) -> bool {
        self.is_alive(container, attempt) && !self.fails()
    }

    pub(super) fn stop_sandbox(&mut self, attempt: u32) -> bool {
        if self.fails() {
            return false;
        }
        let now = self.now();
        if let Some(sandbox) = self
            .sandboxes
            .get_mut(&attempt)
            .filter(|sandbox| sandbox.facts.shim_alive)
        {
            for process in sandbox.alive.values_mut() {
                process.killed = true;
            }
            self.happen_now();
            let Some(sandbox) = self.sandboxes.get_mut(&attempt) else {
                return false;
            };
            if !sandbox.alive.is_empty() {
                // Something does not die.
                return false;
            }
            if !matches!(sandbox.facts.infra, InfraSnapshot::Exited { .. }) {
                sandbox.facts.infra = InfraSnapshot::Exited { at: now };
            }
            sandbox.facts.shim_alive = false;
        }
        !self.fails()
    }

    pub(super) fn remove_sandbox(&mut self, attempt: u32) -> bool {
        if self.fails() {
            return false;
        }
        if let Some(sandbox) = self.sandboxes.remove(&attempt) {
            assert!(
                !sandbox.facts.shim_alive && sandbox.alive.is_empty(),
                "a living sandbox was removed"
            );
        }
        !self.fails()
    }

    pub(super) fn remove_pod(&mut self) -> bool {
        if self.fails() {
            return false;
        }
        assert!(
            self.sandboxes.is_empty(),
            "the pod's directories were removed before its sandbox"
        );
        self.has_directories = false;
        !self.fails()
    }

    /// Whether the image is there.
    pub(super) fn image(&mut self) -> bool {
        !self.fails()
    }

    // ---- what must be true ----

    /// Whether infra and shim of this sandbox live.
    pub(super) fn is_sandbox_alive(&self, attempt: u32) -> bool {
        self.sandboxes.get(&attempt).is_some_and(|sandbox| {
            sandbox.facts.shim_alive && matches!(sandbox.facts.infra, InfraSnapshot::Running { .. })
        })
    }

    /// Whether the journal itself says that this attempt could not be executed.
    pub(super) fn is_start_failure_written(&self, sandbox: u32, container: &str, attempt: u32) -> bool {
        self.sandboxes.get(&sandbox).is_some_and(|sandbox| {
            sandbox.facts.containers.iter().any(|c| {
                c.container == container
                    && c.attempt == attempt
                    && matches!(c.phase, ContainerPhase::StartFailed { .. })
            })
        })
    }

    pub(super) fn is_alive(&self, container: &str, attempt: u32) -> bool {
        let name = (container.to_owned(), attempt);
        self.sandboxes.values().any(|sandbox| sandbox.alive.contains_key(&name))
    }

    pub(super) fn process(&self, name: &Name) -> Option<&Process> {
        self.sandboxes.values().find_map(|sandbox| sandbox.alive.get(name))
    }

    pub(super) fn check_settled(&mut self) {
        assert!(
            self.desired.deletion.is_none(),
            "a deleted pod is at rest: {:#?}",
            self.observed
        );
        let status = self.status.clone().expect("a pod at rest has a status");
        let finished = Told::settled(
            self.now(),
            &self.desired,
            &self.observed,
            &status,
            |container, attempt| self.is_alive(container, attempt),
        );
        self.oracle
            .settled(&self.observed, &status, |sandbox| self.is_sandbox_alive(sandbox));
        if finished {
            self.tally.finished += 1;
            assert!(
                self.sandboxes.is_empty() && !self.address_held,
                "a finished pod holds something"
            );
        }
    }

    pub(super) fn check_nothing_is_left(&self) {
        assert!(self.sandboxes.is_empty(), "left: {:?}", self.sandboxes);
        assert!(!self.has_directories, "the deleted pod's directories are left");
        assert!(!self.address_held, "the deleted pod's address is left");
    }
}

impl OnMachine {
    fn fact(&mut self, name: &(String, u32)) -> Option<&mut ContainerSnapshot> {
        self.facts
            .containers
            .iter_mut()
            .find(|c| c.container == name.0 && c.attempt == name.1)
    }

    pub(super) fn write_exit(&mut self, now: Timestamp, name: &(String, u32), status: ExitStatus) {
        let Some(fact) = self.fact(name) else { return };
        if let ContainerPhase::Running { started_at, .. } = fact.phase {
            fact.phase = ContainerPhase::Exited {
                status,
                started_at,
                finished_at: now,
            };
        }
    }
}
