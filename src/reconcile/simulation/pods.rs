//! Random pods: containers of every kind, with everything that may happen to them over their time.

use std::time::Duration;

use super::Rng;
use crate::model::{Action, ContainerSpec, PodSpec, Probe, ResizePolicy, RestartAction, RestartPolicy, RestartRule};
use crate::reconcile::testing::{container, pod};

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
    } else if desired.container(name).is_some_and(ContainerSpec::is_sidecar) {
        Kind::Sidecar
    } else {
        Kind::Init
    }
}

pub(super) fn everyone(desired: &PodSpec) -> impl Iterator<Item = &ContainerSpec> {
    let (init, ephemeral) = (&desired.init_containers, &desired.ephemeral_containers);
    init.iter().chain(&desired.containers).chain(ephemeral)
}

fn action() -> Action {
    Action::Exec {
        command: vec!["true".to_owned()],
    }
}

fn probe(rng: &mut Rng, success_threshold: u32) -> Probe {
    Probe {
        action: action(),
        initial_delay: Duration::from_secs(rng.pick(&[0, 0, 1, 5])),
        period: Duration::from_secs(rng.pick(&[1, 2, 10])),
        timeout: Duration::from_secs(1),
        success_threshold,
        failure_threshold: rng.pick(&[1, 2, 3]),
        termination_grace: None,
    }
}

/// A probe whose failure ends the container.
fn fatal_probe(rng: &mut Rng) -> Probe {
    let termination_grace = rng.pick(&[None, None, Some(1), Some(10)]).map(Duration::from_secs);
    Probe {
        termination_grace,
        ..probe(rng, 1)
    }
}

/// A container that runs beside others: probes, hooks, resizes.
fn beside_others(rng: &mut Rng, name: &str) -> ContainerSpec {
    let mut made = container(name);
    let life = &mut made.life;
    if rng.chance(200) {
        life.startup = Some(fatal_probe(rng));
    }
    if rng.chance(300) {
        life.liveness = Some(fatal_probe(rng));
    }
    if rng.chance(300) {
        let successes = rng.pick(&[1, 1, 2]);
        life.readiness = Some(probe(rng, successes));
    }
    if rng.chance(200) {
        life.post_start = Some(action());
    }
    if rng.chance(300) {
        life.pre_stop = Some(action());
    }
    life.resize_policy = ResizePolicy {
        cpu_restarts: rng.chance(300),
        memory_restarts: rng.chance(500),
    };
    made
}

/// A policy of its own, and mostly rules with it.
fn own_restarts(rng: &mut Rng, spec: &mut ContainerSpec, is_init: bool) {
    let own = rng.pick(&[RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
    if !is_init || own != RestartPolicy::Always {
        spec.life.restart_policy.get_or_insert(own);
    }
    if spec.life.restart_policy.is_none() || rng.chance(300) {
        return;
    }
    let all = RestartAction::RestartAllContainers;
    // An init container that went well must not restart anything, or its pod never comes to rest.
    let (is_negated, codes) = match rng.below(if is_init { 2 } else { 4 }) {
        0 => (false, vec![1]),
        1 => (false, vec![137, 139]),
        2 => (true, vec![0, 137]),
        _ => (false, vec![0]),
    };
    spec.life.restart_rules = vec![RestartRule {
        action: rng.pick(&[RestartAction::Restart, all, all]),
        codes,
        is_negated,
    }];
}

/// Half of all pods are plain ones.
pub(super) fn random(rng: &mut Rng) -> PodSpec {
    let policy = rng.pick(&[RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
    let names = rng.pick(&[&["a"][..], &["a", "b"], &["a", "b", "c"]]);
    let mut made = pod(policy, names);
    if rng.chance(450) {
        return made;
    }
    made.termination_grace = Duration::from_secs(rng.pick(&[1, 5, 30]));
    made.containers = names.iter().map(|name| beside_others(rng, name)).collect();
    let count = usize::try_from(rng.below(4)).expect("three at most");
    made.init_containers = ["i", "j", "k"][..count]
        .iter()
        .map(|name| {
            if rng.chance(500) {
                sidecar(beside_others(rng, name))
            } else {
                container(name)
            }
        })
        .collect();
    for spec in &mut made.init_containers {
        if rng.chance(250) {
            let is_init = !spec.is_sidecar();
            own_restarts(rng, spec, is_init);
        }
    }
    for spec in &mut made.containers {
        if rng.chance(250) {
            own_restarts(rng, spec, false);
        }
    }
    if rng.chance(80) {
        made.active_deadline = Some(Duration::from_secs(rng.pick(&[3, 60, 900])));
    }
    made
}

pub(super) fn sidecar(mut container: ContainerSpec) -> ContainerSpec {
    container.life.restart_policy = Some(RestartPolicy::Always);
    container
}

/// One of everything: an init container, a sidecar, a container with every probe and hook, and a plain one.
pub(super) fn one_of_everything(policy: RestartPolicy) -> PodSpec {
    let mut made = pod(policy, &["a", "b"]);
    let rich = |name: &str| {
        let mut made = container(name);
        let probe = Probe {
            action: action(),
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 1,
            termination_grace: None,
        };
        made.life.startup = Some(probe.clone());
        made.life.liveness = Some(probe.clone());
        made.life.readiness = Some(probe);
        made.life.post_start = Some(action());
        made.life.pre_stop = Some(action());
        made
    };
    made.init_containers = vec![container("i"), sidecar(rich("s"))];
    made.containers[0] = rich("a");
    made
}
