//! Random histories of one pod: a machine, a store and an agent on a virtual clock, and everything that can go wrong.
//!
//! The agent follows the order that [`super`] lays down and may die at every boundary of it; containers, infra, shims
//! and the machine die too, the clock jumps, steps fail before or after they took effect, signals do not kill, and the
//! pod is deleted, again with a shorter grace. Then the faults stop, and within a bounded time everything must be as
//! it should. An oracle beside it watches every save and every effect; it knows Kubernetes' rules in words of its own
//! and the truth about every process, and never calls the code under test.
//!
//! A failure prints its seed: `PODD_SIM_SEED=<seed> cargo nextest run -E 'test(one_history)' --no-capture` runs that
//! history alone and prints it. `PODD_SIM_HISTORIES` sets the number of histories.

mod agent;
mod errands;
mod machine;
mod mistakes;
mod model;
mod oracle;
mod pods;
mod told;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use agent::Stop;
use mistakes::Mistake;
use world::{Event, World};

use crate::model::{PodSpec, RestartPolicy};
use crate::reconcile::testing::pod;

/// Splitmix64: small, and the same everywhere.
#[derive(Debug, Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// `from..to`
    fn range(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.below(u64::try_from(to - from).unwrap())).unwrap()
    }

    /// True so often in a thousand.
    fn chance(&mut self, in_thousand: u64) -> bool {
        self.below(1000) < in_thousand
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

/// What a history came to, so that a run can show that it was not an idle one.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    executions: u64,
    crashes: u64,
    sandbox_deaths: u64,
    reboots: u64,
    lost: u64,
    deleted: u64,
    finished: u64,
    saves: u64,
    kills: u64,
    all_restarts: u64,
    probes: u64,
    hooks: u64,
    stops: u64,
    changes: u64,
    given_up: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        let Self {
            executions,
            crashes,
            sandbox_deaths,
            reboots,
            lost,
            deleted,
            finished,
            saves,
            kills,
            all_restarts,
            probes,
            hooks,
            stops,
            changes,
            given_up,
        } = other;
        self.executions += executions;
        self.crashes += crashes;
        self.sandbox_deaths += sandbox_deaths;
        self.reboots += reboots;
        self.lost += lost;
        self.deleted += deleted;
        self.finished += finished;
        self.saves += saves;
        self.kills += kills;
        self.all_restarts += all_restarts;
        self.probes += probes;
        self.hooks += hooks;
        self.stops += stops;
        self.changes += changes;
        self.given_up += given_up;
    }
}

/// One history from its seed. Panics with what is wrong.
fn history(seed: u64, mistake: Option<Mistake>, verbose: bool) -> Tally {
    let mut world = World::random(seed, mistake, verbose);
    let rounds = world.rng.range(5, 40);
    let mut asleep_until = None;
    for _ in 0..rounds {
        let pause = match world.rng.below(6) {
            0 => world.rng.range(0, 50),
            1 => world.rng.range(50, 3_000),
            2 => world.rng.range(3_000, 20_000),
            3 => world.rng.range(20_000, 400_000),
            // As its timer says, or shortly before or after.
            _ => asleep_until.map_or(500, |at: i64| (at - world.mono + world.rng.range(-5, 50)).max(0)),
        };
        world.advance(pause);
        world.chaos_between_passes();
        asleep_until = match agent::pass(&mut world) {
            Ok(wake_at) => wake_at.map(|at| world.mono_at(at)),
            Err(Stop::Crash) => {
                let down = world.rng.pick(&[0, 10, 1_000, 30_000]);
                world.advance(down);
                None
            }
            Err(Stop::Unobservable) => Some(world.mono + 1_000),
        };
        if !world.exists {
            break;
        }
    }
    world.calm();
    settle(&mut world);
    if world.exists && world.desired.deletion.is_none() {
        // Whatever it came to, it can be deleted.
        let grace = world.rng.pick(&[0, 1, 30]);
        world.happen(Event::Deleted { grace });
        settle(&mut world);
    }
    world.tally()
}

/// Without faults: nothing but the plan's own timer and the machine's own events may be needed.
fn settle(world: &mut World) {
    for _ in 0..400 {
        let wake_at = match agent::pass(world) {
            Ok(wake_at) => wake_at,
            Err(Stop::Crash) if world.crashes_once() => continue,
            Err(stop) => panic!("{stop:?} without a fault"),
        };
        if !world.exists {
            world.check_nothing_is_left();
            return;
        }
        let now = world.now();
        let timer = wake_at.map(|at| (at.as_millisecond() - now.as_millisecond()).max(0) + 1);
        let event = world.next_event().map(|at| (at - world.mono).max(0));
        let Some(pause) = timer.into_iter().chain(event).min() else {
            world.check_settled();
            return;
        };
        world.advance(pause);
    }
    panic!("it does not come to rest: {:#?}", world.observed);
}

fn setting(name: &str) -> Option<u64> {
    #[expect(
        clippy::disallowed_methods,
        reason = "how often and from where, for whoever looks into a failure"
    )]
    let value = std::env::var(name).ok()?;
    value.parse().ok()
}

/// Runs histories and panics with the seed of the first that fails.
fn histories(count: u64, first_seed: u64) -> Tally {
    let threads = 2;
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    for seed in (first_seed..first_seed + count).filter(|seed| seed % threads == worker) {
                        let run = catch_unwind(AssertUnwindSafe(|| history(seed, None, false)));
                        match run {
                            Ok(one) => tally.add(&one),
                            Err(why) => {
                                let why = agent::panic_text(why.as_ref());
                                panic!("PODD_SIM_SEED={seed}: {why}")
                            }
                        }
                    }
                    tally
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a history failed"))
            .collect()
    });
    let mut all = Tally::default();
    for tally in &tallies {
        all.add(tally);
    }
    all
}

#[test]
fn random_histories_converge_and_keep_every_promise() {
    let count = setting("PODD_SIM_HISTORIES").unwrap_or(8_000);
    let seed = setting("PODD_SIM_SEED").unwrap_or(0);
    let tally = histories(count, seed);
    println!("{count} histories from seed {seed}: {tally:#?}");
    // The run is worth something only if all of it happened.
    assert!(
        tally.executions > count && tally.crashes > count && tally.sandbox_deaths > count / 10,
        "{tally:#?}"
    );
    assert!(
        tally.lost > 0 && tally.reboots > 0 && tally.finished > 0 && tally.kills > 0 && tally.all_restarts > 0,
        "{tally:#?}"
    );
}

#[test]
fn one_history() {
    if let Some(seed) = setting("PODD_SIM_SEED") {
        println!("{:#?}", history(seed, None, true));
    }
}

/// What happens to a pod that came to rest, one after the other.
const SCRIPTS: [&[Event]; 7] = [
    &[Event::ContainerKilled, Event::ContainerKilled, Event::ContainerKilled],
    &[Event::InfraKilled, Event::ContainerKilled],
    &[Event::ShimKilled, Event::Deleted { grace: 30 }],
    &[Event::Rebooted, Event::InfraKilled],
    &[Event::Deleted { grace: 30 }],
    &[Event::Stubborn, Event::Deleted { grace: 2 }],
    &[Event::ContainerKilled, Event::Deleted { grace: 0 }],
];

/// More of it, for a pod that has one of everything.
const LONGER_SCRIPTS: [&[Event]; 4] = [
    &[Event::Unhealthy, Event::ImageChanged, Event::Deleted { grace: 30 }],
    &[Event::Resized, Event::EphemeralAdded, Event::Resized],
    &[
        Event::Stubborn,
        Event::Unhealthy,
        Event::Stubborn,
        Event::Deleted { grace: 5 },
    ],
    &[Event::InfraKilled, Event::Unhealthy, Event::ImageChanged],
];

/// Runs the script with an agent that dies at the first boundary, and again with one that dies `stride` boundaries later,
/// up to the last.
fn dies_at_every_boundary(pod: &PodSpec, script: &[Event], stride: u64) {
    let mut boundary = 0;
    loop {
        let mut world = World::scripted(pod.clone(), boundary);
        settle(&mut world);
        for event in script {
            world.happen(*event);
            settle(&mut world);
        }
        boundary += stride;
        if world.boundaries < boundary {
            break;
        }
    }
    assert!(boundary > 10, "{script:?} has but {boundary} boundaries");
}

#[test]
fn an_agent_that_dies_at_any_boundary_changes_nothing() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never] {
        for script in SCRIPTS {
            dies_at_every_boundary(&pod(policy, &["a", "b"]), script, 1);
        }
        for script in LONGER_SCRIPTS {
            dies_at_every_boundary(&pods::one_of_everything(policy), script, 7);
        }
    }
}

#[test]
fn planted_mistakes_are_found() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<_> = Mistake::ALL
        .into_iter()
        .map(|mistake| {
            let found = (0..3_000).find_map(|seed| {
                let run = catch_unwind(|| history(seed, Some(mistake), false));
                run.err().map(|why| (seed, agent::panic_text(why.as_ref())))
            });
            (mistake, found)
        })
        .collect();
    std::panic::set_hook(hook);
    for (mistake, found) in &missed {
        println!("{mistake:?}: {found:?}");
    }
    let missed: Vec<_> = missed.into_iter().filter(|(_, found)| found.is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
