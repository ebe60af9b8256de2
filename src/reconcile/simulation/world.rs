//! The machine, the clock, the store and the user, with everything that goes wrong of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;

use super::agent::{Mistake, Stop};
use super::oracle::Oracle;
use super::{Rng, Tally};
use crate::model::{
    ContainerPhase, ContainerSnapshot, Deletion, ExitStatus, InfraSnapshot, Observed, PodSpec, RestartPolicy,
    SandboxSnapshot, Snapshot, Timestamp,
};
use crate::reconcile::Limits;
use crate::reconcile::testing::{at_ms, pod};

/// A pass that needs so many rounds is going round in circles.
pub(super) const ENOUGH_ROUNDS: u32 = 60;

/// One process that a shim made.
#[derive(Debug, Clone)]
struct Process {
    /// When it ends by itself, and how; `None`: never.
    end: Option<(i64, ExitStatus)>,
    /// What the stop signal does: ends it after so many ms with this status; `None`: nothing.
    on_stop: Option<(i64, ExitStatus)>,
    /// Until then SIGKILL does not end it (uninterruptible sleep).
    stuck_until: i64,
    killed: bool,
}

/// One sandbox on the machine: what its shim wrote down, and what is alive.
#[derive(Debug, Clone)]
struct OnMachine {
    facts: SandboxSnapshot,
    alive: BTreeMap<(String, u32), Process>,
}

/// A start request that was sent by an agent which died before it was answered.
#[derive(Debug, Clone)]
struct InFlight {
    at: i64,
    sandbox: u32,
    container: String,
    attempt: u32,
}

/// Something that happens to a pod at rest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    ContainerKilled,
    InfraKilled,
    ShimKilled,
    Rebooted,
    /// All that runs ignores the stop signal.
    Stubborn,
    Deleted {
        grace: u64,
    },
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a world has many sides")]
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) mistake: Option<Mistake>,
    verbose: bool,
    /// Milliseconds that truly passed; the wall clock is this and `clock_offset`.
    pub(super) mono: i64,
    clock_offset: i64,
    boot: u32,
    sandboxes: BTreeMap<u32, OnMachine>,
    in_flight: Vec<InFlight>,
    pub(super) has_directories: bool,

    /// The store.
    pub(super) desired: PodSpec,
    pub(super) observed: Observed,
    pub(super) status: Option<PodStatus>,
    pub(super) address_held: bool,
    pub(super) exists: bool,

    pub(super) limits: Limits,
    pub(super) oracle: Oracle,
    faults: bool,
    /// Each agent differs in how unlucky it is, in a thousand at each boundary.
    crash_rate: u64,
    chaos_rate: u64,
    failure_rate: u64,
    clock_rate: u64,
    crash_at: Option<u64>,
    pub(super) boundaries: u64,
    tally: Tally,
}

impl World {
    pub(super) fn random(seed: u64, mistake: Option<Mistake>, verbose: bool) -> Self {
        let mut rng = Rng(seed);
        let policy = rng.pick(&[RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
        let containers = rng.pick(&[&["a"][..], &["a", "b"], &["a", "b", "c"]]);
        let max_backoff = Duration::from_secs(rng.pick(&[1, 5, 10, 60, 300, 300]));
        Self {
            crash_rate: rng.pick(&[0, 10, 60, 150]),
            chaos_rate: rng.pick(&[0, 5, 20, 60]),
            failure_rate: rng.pick(&[0, 30, 150]),
            clock_rate: rng.pick(&[0, 0, 3]),
            faults: true,
            mistake,
            verbose,
            limits: Limits {
                max_backoff,
                ..Limits::default()
            },
            ..Self::still(rng, pod(policy, containers), max_backoff)
        }
    }

    /// A world in which nothing happens of itself, but that the agent dies once, at this boundary.
    pub(super) fn scripted(policy: RestartPolicy, crash_at: u64) -> Self {
        let max_backoff = Duration::from_mins(5);
        Self {
            crash_at: Some(crash_at),
            ..Self::still(Rng(1), pod(policy, &["a", "b"]), max_backoff)
        }
    }

    fn still(rng: Rng, desired: PodSpec, max_backoff: Duration) -> Self {
        Self {
            rng,
            mistake: None,
            verbose: false,
            mono: 0,
            clock_offset: 0,
            boot: 1,
            sandboxes: BTreeMap::new(),
            in_flight: Vec::new(),
            has_directories: false,
            oracle: Oracle::new(desired.restart_policy, max_backoff),
            desired,
            observed: Observed::default(),
            status: None,
            address_held: false,
            exists: true,
            limits: Limits {
                max_backoff,
                ..Limits::default()
            },
            faults: false,
            crash_rate: 0,
            chaos_rate: 0,
            failure_rate: 0,
            clock_rate: 0,
            crash_at: None,
            boundaries: 0,
            tally: Tally::default(),
        }
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>9} ms: {}", self.mono, what());
        }
    }

    pub(super) fn tally(mut self) -> Tally {
        self.tally.lost = self.oracle.lost;
        self.tally.executions = self.oracle.executions();
        self.tally.deleted = u64::from(!self.exists);
        self.tally
    }

    /// The oracle, to judge this world with; to be put back.
    pub(super) fn take_oracle(&mut self) -> Oracle {
        let empty = Oracle::new(self.desired.restart_policy, self.limits.max_backoff);
        std::mem::replace(&mut self.oracle, empty)
    }

    pub(super) fn note_save(&mut self) {
        self.tally.saves += 1;
    }

    // ---- time ----

    pub(super) fn now(&self) -> Timestamp {
        at_ms(self.mono + self.clock_offset)
    }

    /// One time in eight: what must come out the same twice costs its time.
    pub(super) fn is_to_be_checked_twice(&self) -> bool {
        self.boundaries.is_multiple_of(8)
    }

    /// When a timer for this moment goes off, if it is set now.
    pub(super) fn mono_at(&self, at: Timestamp) -> i64 {
        self.mono + (at.as_millisecond() - self.now().as_millisecond()).max(0)
    }

    pub(super) fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// Let time pass, and all that is due happen in its order.
    pub(super) fn advance(&mut self, milliseconds: i64) {
        let until = self.mono + milliseconds;
        while let Some(at) = self.next_event().filter(|at| *at <= until) {
            self.mono = self.mono.max(at);
            self.happen_now();
        }
        self.mono = until;
    }

    /// When something is due to happen on the machine of itself.
    pub(super) fn next_event(&self) -> Option<i64> {
        let ends = self
            .sandboxes
            .values()
            .flat_map(|s| s.alive.values())
            .filter_map(|process| {
                let killed = process.killed.then_some(process.stuck_until);
                killed.or(process.end.map(|(at, _)| at))
            });
        ends.chain(self.in_flight.iter().map(|request| request.at)).min()
    }

    fn happen_now(&mut self) {
        let now = self.now();
        for (number, sandbox) in &mut self.sandboxes {
            let due: Vec<_> = sandbox
                .alive
                .iter()
                .filter_map(|(name, process)| match process.end {
                    _ if process.killed => {
                        (process.stuck_until <= self.mono).then(|| (name.clone(), ExitStatus::Signal(9)))
                    }
                    Some((at, status)) if at <= self.mono => Some((name.clone(), status)),
                    Some(_) | None => None,
                })
                .collect();
            for (name, status) in due {
                sandbox.alive.remove(&name);
                sandbox.write_exit(now, &name, status);
                self.oracle.ended(*number, &name, Some(status));
            }
        }
        let due: Vec<_> = self
            .in_flight
            .extract_if(.., |request| request.at <= self.mono)
            .collect();
        for request in due {
            if self
                .sandboxes
                .get(&request.sandbox)
                .is_some_and(|sandbox| sandbox.facts.shim_alive)
            {
                self.say(|| format!("late request: {request:?}"));
                let _ = self.shim_start(request.sandbox, &request.container, request.attempt);
            }
        }
    }

    // ---- what goes wrong ----

    /// Between any two things an agent does.
    pub(super) fn boundary(&mut self) -> Result<(), Stop> {
        self.boundaries += 1;
        if self.crash_at == Some(self.boundaries - 1) {
            return Err(self.crash());
        }
        if !self.faults {
            return Ok(());
        }
        if self.rng.chance(500) {
            let pause = self.rng.range(0, 5);
            self.advance(pause);
        }
        if self.rng.chance(self.crash_rate) {
            return Err(self.crash());
        }
        if self.rng.chance(self.chaos_rate) && self.chaos() {
            return Err(self.crash());
        }
        Ok(())
    }

    pub(super) fn crash(&mut self) -> Stop {
        self.say(|| "the agent dies".to_owned());
        self.tally.crashes += 1;
        Stop::Crash
    }

    pub(super) fn crashes_once(&self) -> bool {
        self.crash_at.is_some()
    }

    /// Whether the agent dies on its way to an effect, whose request may still arrive.
    pub(super) fn crash_while_sending(&mut self, sandbox: u32, container: &str, attempt: u32) -> Result<(), Stop> {
        self.boundary().inspect_err(|_| {
            if self.faults && self.rng.chance(500) {
                let at = self.mono + self.rng.pick(&[1, 20, 200, 2_000]);
                self.in_flight.push(InFlight {
                    at,
                    sandbox,
                    container: container.to_owned(),
                    attempt,
                });
            }
        })
    }

    pub(super) fn chaos_between_passes(&mut self) {
        if self.rng.chance(250) {
            self.chaos();
        }
    }

    /// True when the agent does not survive it.
    fn chaos(&mut self) -> bool {
        match self.rng.below(20) {
            0..=5 => self.happen(Event::ContainerKilled),
            6..=8 => self.happen(Event::InfraKilled),
            9..=11 => self.happen(Event::ShimKilled),
            12..=13 => {
                self.happen(Event::Rebooted);
                return true;
            }
            14..=15 => self.happen(Event::Stubborn),
            16..=17 => {
                if self.rng.chance(300) || self.desired.deletion.is_some() {
                    let grace = self.rng.pick(&[0, 1, 5, 30, 120]);
                    self.happen(Event::Deleted { grace });
                }
            }
            _ => {
                if self.clock_rate > 0 {
                    let jump = self
                        .rng
                        .pick(&[-86_400_000 * 400, -3_600_000, -20_000, -700, 900, 40_000, 3_600_000]);
                    self.say(|| format!("the clock jumps by {jump} ms"));
                    self.clock_offset += jump;
                    self.oracle.clock_jumped();
                }
            }
        }
        false
    }

    pub(super) fn happen(&mut self, event: Event) {
        self.say(|| format!("{event:?}"));
        let now = self.now();
        match event {
            Event::ContainerKilled => {
                let mono = self.mono;
                for process in self.sandboxes.values_mut().flat_map(|s| s.alive.values_mut()).take(1) {
                    process.end = Some((mono, ExitStatus::Signal(9)));
                }
                self.happen_now();
            }
            Event::InfraKilled => {
                if let Some(sandbox) = self.sandboxes.values_mut().next_back()
                    && sandbox.facts.shim_alive
                    && matches!(sandbox.facts.infra, InfraSnapshot::Running { .. })
                {
                    self.tally.sandbox_deaths += 1;
                    sandbox.facts.infra = InfraSnapshot::Exited { at: now };
                }
            }
            Event::ShimKilled => {
                if let Some((number, sandbox)) = self.sandboxes.iter_mut().next_back()
                    && sandbox.facts.shim_alive
                {
                    self.tally.sandbox_deaths += 1;
                    sandbox.facts.shim_alive = false;
                    for name in std::mem::take(&mut sandbox.alive).into_keys() {
                        self.oracle.ended(*number, &name, None);
                    }
                }
            }
            Event::Rebooted => {
                self.tally.reboots += 1;
                self.boot += 1;
                self.sandboxes.clear();
                self.in_flight.clear();
                self.oracle.rebooted();
                let off = self.rng.range(1_000, 60_000);
                self.mono += off;
            }
            Event::Stubborn => {
                let stuck = if self.faults {
                    self.rng.pick(&[0, 0, 3_000, 90_000])
                } else {
                    5_000
                };
                for process in self.sandboxes.values_mut().flat_map(|s| s.alive.values_mut()) {
                    process.on_stop = None;
                    process.stuck_until = self.mono + stuck;
                }
            }
            Event::Deleted { grace } => {
                let grace = Duration::from_secs(grace);
                // A later delete may only shorten what is left (`rest.BeforeDelete`).
                let deadline = |from: Timestamp, grace: Duration| {
                    from.as_millisecond() + i64::try_from(grace.as_millis()).expect("minutes")
                };
                let known = self.desired.deletion.map(|d| deadline(d.requested_at, d.grace));
                if known.is_none_or(|known| deadline(now, grace) < known) {
                    self.desired.deletion = Some(Deletion {
                        requested_at: now,
                        grace,
                    });
                    self.oracle.deletion_asked();
                }
            }
        }
    }

    /// From now on nothing goes wrong any more; what was begun goes on.
    pub(super) fn calm(&mut self) {
        self.say(|| "calm".to_owned());
        self.faults = false;
    }

    fn fails(&mut self) -> bool {
        self.faults && self.rng.chance(self.failure_rate)
    }

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

    fn shim_start(&mut self, number: u32, container: &str, attempt: u32) -> bool {
        let now = self.now();
        let exec_fails = self.fails();
        let dies_halfway = self.faults && self.rng.chance(5);
        let life = self.life();
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
            self.oracle.ended(number, &(container.to_owned(), attempt), None);
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
        };
        sandbox.alive.insert((container.to_owned(), attempt), process);
        self.oracle.executed(number, container, attempt);
        true
    }

    /// How long a process lives and how it ends; `None`: for ever.
    fn life(&mut self) -> Option<(i64, ExitStatus)> {
        let status = self.rng.pick(&[
            ExitStatus::Code(0),
            ExitStatus::Code(1),
            ExitStatus::Code(137),
            ExitStatus::Signal(11),
            ExitStatus::OomKilled,
        ]);
        let after = match self.rng.below(10) {
            0..=3 => self.rng.range(0, 5_000),
            4..=5 => self.rng.range(5_000, 100_000),
            6 => self.rng.range(590_000, 700_000),
            _ => return None,
        };
        if self.crash_at.is_some() {
            return None;
        }
        if self.faults {
            return Some((after, status));
        }
        // Calm: a pod that restarts for ever would never come to rest.
        match self.desired.restart_policy {
            RestartPolicy::Always => None,
            RestartPolicy::OnFailure => Some((after, ExitStatus::Code(0))),
            RestartPolicy::Never => Some((after, status)),
        }
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
        let deletion = self.desired.deletion;
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
                self.oracle.kill_signal(now, deletion);
            }
        }
        self.happen_now();
        !self.fails()
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

    pub(super) fn check_settled(&mut self) {
        assert!(
            self.desired.deletion.is_none(),
            "a deleted pod is at rest: {:#?}",
            self.observed
        );
        let status = self.status.clone().expect("a pod at rest has a status");
        let finished = self.oracle.settled(
            &self.desired,
            &self.observed,
            &status,
            |sandbox| self.is_sandbox_alive(sandbox),
            |container, attempt| self.is_alive(container, attempt),
        );
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

    fn write_exit(&mut self, now: Timestamp, name: &(String, u32), status: ExitStatus) {
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
