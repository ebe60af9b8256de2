//! Pods and records for tests.

use std::time::Duration;

use crate::model::{
    Action, Attempt, AttemptLife, AttemptState, Backoff, ContainerPhase, ContainerSnapshot, ContainerSpec, Deletion,
    Exit, ExitStatus, ImageId, InfraSnapshot, Observed, PodSpec, Probe, RestartPolicy, Sandbox, SandboxEnd,
    SandboxSnapshot, SandboxState, Snapshot, Timestamp, Uid,
};

pub(crate) use crate::model::testing::container;

pub(crate) const UID: &str = "6f1c9a52-3d0e-4b7a-9c55-0d6f8a1b2c3d";
pub(crate) const BOOT: &str = "boot-1";

/// `seconds` after 2026-08-01T00:00:00Z.
pub(crate) fn at(seconds: i64) -> Timestamp {
    at_ms(seconds * 1000)
}

/// `milliseconds` after 2026-08-01T00:00:00Z.
pub(crate) fn at_ms(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_785_542_400_000 + milliseconds).unwrap()
}

/// An init container that restarts always.
pub(crate) fn sidecar(name: &str) -> ContainerSpec {
    let mut sidecar = container(name);
    sidecar.life.restart_policy = Some(RestartPolicy::Always);
    sidecar
}

/// With Kubernetes' defaults.
pub(crate) fn probe() -> Probe {
    Probe {
        action: Action::Exec {
            command: vec!["true".to_owned()],
        },
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace: None,
    }
}

pub(crate) fn hook() -> Action {
    Action::Exec {
        command: vec!["true".to_owned()],
    }
}

pub(crate) fn pod(policy: RestartPolicy, containers: &[&str]) -> PodSpec {
    PodSpec {
        uid: Uid(UID.to_owned()),
        created_at: at(0),
        restart_policy: policy,
        containers: containers.iter().map(|name| container(name)).collect(),
        ..crate::model::testing::pod()
    }
}

pub(crate) fn deleted(mut pod: PodSpec, requested_at: Timestamp, grace: u64) -> PodSpec {
    pod.deletion = Some(Deletion {
        requested_at,
        grace: Duration::from_secs(grace),
    });
    pod
}

pub(crate) fn sandbox(attempt: u32, state: SandboxState) -> Sandbox {
    Sandbox {
        attempt,
        state,
        ip: Some("10.244.0.2".parse().unwrap()),
        created_at: at(0),
        boot_id: BOOT.to_owned(),
    }
}

pub(crate) fn attempt(container: &str, attempt: u32, state: AttemptState) -> Attempt {
    Attempt {
        container: container.to_owned(),
        attempt,
        sandbox: 0,
        image: "busybox".to_owned(),
        image_id: Some(ImageId("sha256:1234".to_owned())),
        state,
        backoff: Backoff::default(),
        stop_signalled_at: None,
        killed_at: None,
        life: AttemptLife::default(),
    }
}

pub(crate) fn exited(status: ExitStatus, started_at: i64, finished_at: i64) -> AttemptState {
    AttemptState::Exited(Exit {
        status,
        started_at: Some(at(started_at)),
        finished_at: at(finished_at),
        message: String::new(),
    })
}

pub(crate) fn running(started_at: i64) -> AttemptState {
    AttemptState::Running {
        started_at: at(started_at),
    }
}

/// A record with a ready sandbox 0.
pub(crate) fn ready(attempts: Vec<Attempt>) -> Observed {
    Observed {
        sandbox: Some(sandbox(0, SandboxState::Ready { ready_at: at(0) })),
        attempts,
        failures: Vec::new(),
        started_at: Some(at(0)),
        torn_down: false,
        given_up: None,
    }
}

pub(crate) fn with_sandbox(state: SandboxState, attempts: Vec<Attempt>) -> Observed {
    Observed {
        sandbox: Some(sandbox(0, state)),
        ..ready(attempts)
    }
}

pub(crate) fn dead() -> SandboxState {
    SandboxState::Dead {
        at: at(50),
        end: SandboxEnd::InfraExited,
    }
}

pub(crate) fn stopped() -> SandboxState {
    SandboxState::Stopped { at: at(50) }
}

pub(crate) fn on_machine(shim_alive: bool, infra: InfraSnapshot, containers: Vec<ContainerSnapshot>) -> Snapshot {
    Snapshot {
        sandboxes: vec![SandboxSnapshot {
            attempt: 0,
            shim_alive,
            infra,
            containers,
        }],
    }
}

pub(crate) fn infra() -> InfraSnapshot {
    InfraSnapshot::Running { pid: 7, since: at(0) }
}

pub(crate) fn fact(container: &str, attempt: u32, phase: ContainerPhase) -> ContainerSnapshot {
    ContainerSnapshot {
        container: container.to_owned(),
        attempt,
        phase,
        stop_signalled_at: None,
        killed_at: None,
    }
}
