//! The machine, the clock, the store and the user, with everything that goes wrong of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;

use super::agent::{Stop, Taken};
use super::errands::Errands;
use super::machine::{InFlight, OnMachine};
use super::mistakes::Mistake;
use super::model::{Model, Moment};
use super::oracle::Oracle;
use super::pods::{Kind, kind};
use super::told::Told;
use super::{Rng, Tally, pods};
use crate::model::{Attempt, Deletion, ExitStatus, InfraSnapshot, Observed, Plan, PodSpec, Timestamp};
use crate::reconcile::Limits;
use crate::reconcile::testing::{at_ms, container};

/// A pass that needs so many rounds is going round in circles.
pub(super) const ENOUGH_ROUNDS: u32 = 60;

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
    /// The user gives one container another image.
    ImageChanged,
    /// The user gives one container other resources.
    Resized,
    /// The user looks into the pod with a container of their own.
    EphemeralAdded,
    /// What runs fails every probe that would end it.
    Unhealthy,
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
    pub(super) sandboxes: BTreeMap<u32, OnMachine>,
    pub(super) in_flight: Vec<InFlight>,
    pub(super) has_directories: bool,

    /// What the agent has under way; it dies with it.
    pub(super) errands: Errands,
    pub(super) is_new_agent: bool,

    /// The store.
    pub(super) desired: PodSpec,
    pub(super) observed: Observed,
    pub(super) status: Option<PodStatus>,
    pub(super) address_held: bool,
    pub(super) exists: bool,

    pub(super) limits: Limits,
    pub(super) oracle: Oracle,
    pub(super) model: Model,
    pub(super) told: Told,
    pub(super) faults: bool,
    /// Each agent differs in how unlucky it is, in a thousand at each boundary.
    pub(super) crash_rate: u64,
    chaos_rate: u64,
    pub(super) failure_rate: u64,
    clock_rate: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) boundaries: u64,
    pub(super) tally: Tally,
}

impl World {
    pub(super) fn random(seed: u64, mistake: Option<Mistake>, verbose: bool) -> Self {
        let mut rng = Rng(seed);
        let pod = pods::random(&mut rng);
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
            ..Self::still(rng, pod, max_backoff)
        }
    }

    /// A world in which nothing happens of itself, but that the agent dies once, at this boundary.
    pub(super) fn scripted(pod: PodSpec, crash_at: u64) -> Self {
        let max_backoff = Duration::from_mins(5);
        Self {
            crash_at: Some(crash_at),
            ..Self::still(Rng(1), pod, max_backoff)
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
            errands: Errands::default(),
            is_new_agent: true,
            oracle: Oracle::new(max_backoff),
            model: Model::default(),
            told: Told::default(),
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
        self.tally.given_up = u64::from(self.observed.given_up.is_some());
        self.tally
    }

    // ---- what is judged ----

    pub(super) fn check_plan(&mut self, now: Timestamp, plan: &Plan) {
        let (desired, observed) = (&self.desired, &self.observed);
        let moment = Moment { desired, observed };
        self.oracle
            .planned(now, desired, observed, plan, &moment.may_begin(true));
        self.model.planned(now, moment, plan);
    }

    pub(super) fn model_told(&mut self, reports: &[Taken]) {
        for taken in reports {
            self.model.told(&taken.desired, &taken.before, &taken.report);
        }
    }

    pub(super) fn check_save(&mut self, after: &Observed) {
        let empty = Oracle::new(self.limits.max_backoff);
        let mut oracle = std::mem::replace(&mut self.oracle, empty);
        oracle.saved(
            &self.boot_id(),
            &self.desired,
            &self.observed,
            after,
            |sandbox| self.is_sandbox_alive(sandbox),
            |container, attempt| self.is_alive(container, attempt),
        );
        self.oracle = oracle;
        self.model.saved(&self.desired, &self.observed, after);
        let count = |of: &Observed, is: &dyn Fn(&Attempt) -> bool| of.attempts.iter().filter(|a| is(a)).count() as u64;
        let more = |is: &dyn Fn(&Attempt) -> bool| count(after, is).saturating_sub(count(&self.observed, is));
        self.tally.stops += more(&|a| a.life.stop.is_some());
        self.tally.all_restarts += u64::from(more(&Attempt::is_left_behind) > 0);
    }

    pub(super) fn check_status(&mut self, new: &PodStatus) {
        if self.status.as_ref().map(|old| &old.phase) != Some(&new.phase) {
            self.say(|| format!("it is {}", new.phase.as_deref().unwrap_or_default()));
        }
        self.told
            .reported(&self.desired, &self.observed, self.status.as_ref(), new);
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
        ends.chain(self.in_flight.iter().map(|request| request.at))
            .chain(self.next_errand())
            .min()
    }

    pub(super) fn happen_now(&mut self) {
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
        self.errands_happen();
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
        self.errands = Errands::default();
        self.is_new_agent = true;
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
        match self.rng.below(26) {
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
            20..=21 => self.happen(Event::ImageChanged),
            22..=23 => self.happen(Event::Resized),
            24 => self.happen(Event::EphemeralAdded),
            25 => self.happen(Event::Unhealthy),
            _ => {
                if self.clock_rate > 0 {
                    let jump = self
                        .rng
                        .pick(&[-86_400_000 * 400, -3_600_000, -20_000, -700, 900, 40_000, 3_600_000]);
                    self.say(|| format!("the clock jumps by {jump} ms"));
                    self.clock_offset += jump;
                    self.model.clock_has_jumped = true;
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
                self.errands = Errands::default();
                self.is_new_agent = true;
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
                }
            }
            Event::ImageChanged => self.change_image(),
            Event::Resized => self.resize_one(),
            Event::EphemeralAdded => {
                let count = self.desired.ephemeral_containers.len();
                if self.desired.deletion.is_none() && count < 2 {
                    self.desired.generation += 1;
                    let name = ["debugger-1", "debugger-2"][count];
                    self.desired.ephemeral_containers.push(container(name));
                }
            }
            Event::Unhealthy => {
                let mono = self.mono;
                for process in self.sandboxes.values_mut().flat_map(|s| s.alive.values_mut()) {
                    process.health.alive_until = Some(mono);
                    process.health.ready_until = Some(mono);
                }
            }
        }
    }

    /// Of any container but those of the user's own; always to one that was never there before.
    fn change_image(&mut self) {
        self.desired.generation += 1;
        let image = format!("busybox:{}", self.desired.generation);
        let count = self.desired.init_containers.len() + self.desired.containers.len();
        let which = usize::try_from(self.rng.below(count as u64)).expect("a few");
        let PodSpec {
            init_containers,
            containers,
            ..
        } = &mut self.desired;
        if let Some(spec) = init_containers.iter_mut().chain(containers).nth(which) {
            spec.image = image;
            self.tally.changes += 1;
        }
    }

    fn resize_one(&mut self) {
        self.desired.generation += 1;
        let serial = u64::try_from(self.desired.generation).expect("a count");
        let memory = self.rng.chance(500);
        let which = usize::try_from(self.rng.below(self.desired.containers.len() as u64)).expect("a few");
        let resources = &mut self.desired.containers[which].resources;
        if memory {
            resources.memory_limit = Some((64 << 20) + serial);
        } else {
            resources.cpu_limit_milli = Some(100 + serial);
        }
        self.tally.changes += 1;
    }

    /// From now on nothing goes wrong any more; what was begun goes on.
    pub(super) fn calm(&mut self) {
        self.say(|| "calm".to_owned());
        self.faults = false;
        self.calm_errands();
        let (mono, desired) = (self.mono, &self.desired);
        for (name, process) in self.sandboxes.values_mut().flat_map(|s| &mut s.alive) {
            process.health.started_from.get_or_insert(mono);
            process.health.alive_until = None;
            if kind(desired, &name.0) == Kind::Init {
                process.end.get_or_insert((mono + 1_000, ExitStatus::Code(0)));
            }
        }
    }

    pub(super) fn fails(&mut self) -> bool {
        self.faults && self.rng.chance(self.failure_rate)
    }
}
