//! What an agent has under way beside its passes: probes and hooks. It is memory, and dies with the agent.

use std::collections::{BTreeMap, BTreeSet};

use super::oracle::Name;
use super::world::World;
use crate::model::{ContainerSpec, Hook, Probe, ProbeKind, Report, Reported};
use crate::reconcile;

/// So many reports of one probe wait for a pass at most.
const WAITING: usize = 6;

#[derive(Debug, Clone, Default)]
pub(super) struct Errands {
    /// When each probe runs next.
    probes: BTreeMap<(Name, ProbeKind), i64>,
    hooks: BTreeMap<(Name, Hook), UnderWay>,
    /// Not yet taken by a pass.
    reports: Vec<Report>,
}

#[derive(Debug, Clone)]
struct UnderWay {
    /// `None`: it hangs.
    ends: Option<i64>,
    result: Result<(), String>,
}

pub(super) fn probe_of(container: &ContainerSpec, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.life.startup.as_ref(),
        ProbeKind::Liveness => container.life.liveness.as_ref(),
        ProbeKind::Readiness => container.life.readiness.as_ref(),
    }
}

fn milliseconds(of: std::time::Duration) -> i64 {
    i64::try_from(of.as_millis()).expect("minutes")
}

impl World {
    /// What is to be probed from now on, and which hooks nobody waits for any more.
    pub(super) fn watch(&mut self) {
        let mut due = BTreeSet::new();
        for container in self.containers() {
            let Some(attempt) = self.observed.newest(&container.name) else {
                continue;
            };
            for kind in reconcile::probes_due(&self.desired, &self.observed, &container.name) {
                due.insert(((container.name.clone(), attempt.attempt), kind));
            }
        }
        self.errands.probes.retain(|key, _| due.contains(key));
        for key in due {
            if self.errands.probes.contains_key(&key) {
                continue;
            }
            let Some(probe) = self
                .desired
                .container(&key.0.0)
                .and_then(|container| probe_of(container, key.1))
            else {
                panic!("{key:?} is to be probed, and there is no such probe");
            };
            let (delay, period) = (milliseconds(probe.initial_delay), milliseconds(probe.period));
            let first = self.mono + delay + self.rng.range(0, period.min(500));
            self.errands.probes.insert(key, first);
        }
        let live: BTreeSet<Name> = self
            .observed
            .attempts
            .iter()
            .filter(|attempt| attempt.is_live())
            .map(|attempt| (attempt.container.clone(), attempt.attempt))
            .collect();
        self.errands.hooks.retain(|(name, _), _| live.contains(name));
    }

    fn containers(&self) -> Vec<ContainerSpec> {
        let has_probe = |container: &&ContainerSpec| {
            let life = &container.life;
            life.startup.is_some() || life.liveness.is_some() || life.readiness.is_some()
        };
        self.desired
            .init_containers
            .iter()
            .chain(&self.desired.containers)
            .filter(has_probe)
            .cloned()
            .collect()
    }

    pub(super) fn is_under_way(&self, container: &str, attempt: u32, hook: Hook) -> bool {
        let key = ((container.to_owned(), attempt), hook);
        let told = self.errands.reports.iter().any(|report| {
            report.container == container
                && report.attempt == attempt
                && matches!(report.what, Reported::Hook { hook: of, .. } if of == hook)
        });
        told || self.errands.hooks.contains_key(&key)
    }

    pub(super) fn run_hook(&mut self, container: &str, attempt: u32, hook: Hook) {
        if self.is_under_way(container, attempt, hook) {
            return;
        }
        self.tally.hooks += 1;
        let is_alive = self.is_alive(container, attempt);
        let result = if !is_alive || (self.faults && self.rng.chance(100)) {
            Err("command 'true' exited with 1: ".to_owned())
        } else {
            Ok(())
        };
        // A hook that begins a container and never ends holds up everything, for ever.
        let hangs = is_alive && (self.faults || hook == Hook::PreStop) && self.rng.chance(80);
        let takes = self.rng.pick(&[0, 5, 700, 3_000]);
        let ends = (!hangs).then_some(self.mono + takes);
        self.errands
            .hooks
            .insert(((container.to_owned(), attempt), hook), UnderWay { ends, result });
    }

    pub(super) fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.errands.reports)
    }

    pub(super) fn has_reports(&self) -> bool {
        !self.errands.reports.is_empty()
    }

    /// Nothing hangs any more but what is to end.
    pub(super) fn calm_errands(&mut self) {
        for ((_, hook), under_way) in &mut self.errands.hooks {
            if *hook == Hook::PostStart {
                under_way.ends.get_or_insert(self.mono);
            }
        }
    }

    pub(super) fn next_errand(&self) -> Option<i64> {
        let hooks = self.errands.hooks.values().filter_map(|under_way| under_way.ends);
        let probes = self
            .errands
            .probes
            .iter()
            .filter_map(|((name, kind), at)| self.probe_tells_at(name, *kind, *at));
        hooks.chain(probes).min()
    }

    /// When a probe that runs next at `at` will tell something that the record does not know.
    fn probe_tells_at(&self, name: &Name, kind: ProbeKind, at: i64) -> Option<i64> {
        let waiting = self
            .errands
            .reports
            .iter()
            .filter(|report| {
                report.container == name.0
                    && report.attempt == name.1
                    && matches!(report.what, Reported::Probe { kind: of, .. } if of == kind)
            })
            .count();
        if waiting >= WAITING {
            return None;
        }
        let (outcome, next_change) = self.outcome(name, kind);
        if waiting > 0 || self.would_change(name, kind, outcome) {
            return Some(at);
        }
        next_change.map(|change| change.max(at))
    }

    /// What a probe would find now, and when that changes of itself.
    fn outcome(&self, name: &Name, kind: ProbeKind) -> (bool, Option<i64>) {
        match self.process(name) {
            Some(process) => (
                process.health.at(kind, self.mono),
                process.health.next_change(kind, self.mono),
            ),
            None => (false, None),
        }
    }

    fn would_change(&self, name: &Name, kind: ProbeKind, outcome: bool) -> bool {
        let attempt = self
            .observed
            .attempts
            .iter()
            .find(|a| a.container == name.0 && a.attempt == name.1);
        let probe = self.desired.container(&name.0).and_then(|spec| probe_of(spec, kind));
        let (Some(attempt), Some(probe)) = (attempt, probe) else {
            return false;
        };
        let record = match kind {
            ProbeKind::Startup => &attempt.life.startup,
            ProbeKind::Liveness => &attempt.life.liveness,
            ProbeKind::Readiness => &attempt.life.readiness,
        };
        let threshold = if outcome {
            probe.success_threshold
        } else {
            probe.failure_threshold
        };
        record.result != Some(outcome) || record.last != Some(outcome) || record.count < threshold
    }

    /// Everything that is due has its say.
    pub(super) fn errands_happen(&mut self) {
        let now = self.now();
        let ended: Vec<_> = self
            .errands
            .hooks
            .extract_if(.., |_, under_way| under_way.ends.is_some_and(|at| at <= self.mono))
            .collect();
        for (((container, attempt), hook), UnderWay { result, .. }) in ended {
            self.errands.reports.push(Report {
                container,
                attempt,
                at: now,
                what: Reported::Hook { hook, result },
            });
        }
        let due: Vec<(Name, ProbeKind, i64)> = self
            .errands
            .probes
            .iter()
            .filter(|((name, kind), at)| self.probe_tells_at(name, *kind, **at).is_some_and(|at| at <= self.mono))
            .map(|((name, kind), at)| (name.clone(), *kind, *at))
            .collect();
        for (name, kind, at) in due {
            let period = self
                .desired
                .container(&name.0)
                .and_then(|spec| probe_of(spec, kind))
                .map_or(1_000, |probe| milliseconds(probe.period));
            let periods = (self.mono - at) / period + 1;
            self.errands.probes.insert((name.clone(), kind), at + periods * period);
            // One that could not be carried out is not told of.
            if self.faults && self.rng.chance(50) {
                continue;
            }
            self.tally.probes += 1;
            let success = self.outcome(&name, kind).0;
            self.errands.reports.push(Report {
                container: name.0,
                attempt: name.1,
                at: now,
                what: Reported::Probe { kind, success },
            });
        }
    }
}
