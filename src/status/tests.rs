//! Tables and snapshots of statuses, and what must hold for any record.

use k8s_openapi::api::core::v1::PodCondition;
use proptest::prelude::*;

use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerState;

use super::*;
use crate::model::{
    AttemptState, Backoff, Capacity, ExitStatus, FailedStep, FailureReason, ImageId, Resources, RestartPolicy,
    SandboxEnd,
};
use crate::reconcile::testing::{at, attempt, deleted, exited, pod, ready, running, sandbox};
use crate::reconcile::tests_any::{any_observed, any_pod};
use crate::reconcile::{begin_attempt, failed};

const CODE_1: ExitStatus = ExitStatus::Code(1);

pub(super) fn node() -> NodeFacts {
    NodeFacts {
        host_ips: vec!["192.0.2.1".parse().unwrap()],
        name: "node".to_owned(),
        capacity: Some(Capacity {
            cpu_milli: 2000,
            memory: 4 << 30,
            storage: 0,
        }),
    }
}

pub(super) fn of(now: i64, desired: &PodSpec, observed: &Observed) -> PodStatus {
    status(at(now), &node(), desired, observed, None)
}

fn stopped(attempts: Vec<Attempt>) -> Observed {
    let sandbox = sandbox(0, SandboxState::Stopped { at: at(50) });
    Observed {
        sandbox: Some(sandbox),
        ..ready(attempts)
    }
}

fn crashed(n: u32, delay: u64) -> Attempt {
    let mut crashed = attempt("a", n, exited(CODE_1, 3, 5));
    crashed.backoff = Backoff {
        delay: Duration::from_secs(delay),
        set_at: Some(at(3)),
    };
    crashed
}

/// The state of the first container: which, its reason, its message.
fn state(status: &PodStatus) -> (&str, &str, &str) {
    let state = status.container_statuses.as_ref().unwrap()[0].state.as_ref().unwrap();
    let text = |text: &'static str, reason| (text, reason);
    let ((which, reason), message) = match (&state.waiting, &state.running, &state.terminated) {
        (Some(waiting), None, None) => (text("waiting", &waiting.reason), &waiting.message),
        (None, Some(_), None) => (text("running", &None), &None),
        (None, None, Some(terminated)) => (text("terminated", &terminated.reason), &terminated.message),
        _ => panic!("not one state: {state:?}"),
    };
    (
        which,
        reason.as_deref().unwrap_or_default(),
        message.as_deref().unwrap_or_default(),
    )
}

fn last_code(status: &PodStatus) -> Option<i32> {
    let last = status.container_statuses.as_ref().unwrap()[0]
        .last_state
        .as_ref()
        .unwrap();
    last.terminated.as_ref().map(|terminated| terminated.exit_code)
}

pub(super) fn phase_of(status: &PodStatus) -> &str {
    status.phase.as_deref().unwrap()
}

pub(super) fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a PodCondition {
    status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap()
}

#[test]
fn whole_statuses() {
    let desired = pod(RestartPolicy::Always, &["a", "b"]);
    insta::assert_json_snapshot!(
        "a_new_pod",
        of(
            1,
            &desired,
            &Observed {
                started_at: Some(at(0)),
                ..Observed::default()
            }
        )
    );
    let mut again = attempt("a", 1, running(7));
    again.backoff = Backoff {
        delay: Duration::from_secs(10),
        set_at: Some(at(6)),
    };
    let observed = ready(vec![
        attempt("a", 0, exited(ExitStatus::Signal(9), 1, 6)),
        again,
        attempt("b", 0, running(1)),
    ]);
    insta::assert_json_snapshot!("one_container_was_started_again", of(8, &desired, &observed));
    let once = pod(RestartPolicy::Never, &["a", "b"]);
    let done = |status| {
        vec![
            attempt("a", 0, exited(ExitStatus::Code(0), 1, 6)),
            attempt("b", 0, exited(status, 1, 7)),
        ]
    };
    insta::assert_json_snapshot!(
        "a_pod_that_succeeded",
        of(60, &once, &stopped(done(ExitStatus::Code(0))))
    );
    insta::assert_json_snapshot!(
        "a_pod_that_failed",
        of(60, &once, &stopped(done(ExitStatus::OomSignal(9))))
    );
}

#[test]
fn crash_loop_back_off_is_told_as_a_kubelet_does() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    for (delay, words) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
        let status = of(6, &desired, &ready(vec![crashed(2, delay)]));
        let message = format!(
            "back-off {words} restarting failed container=a pod=web_default(6f1c9a52-3d0e-4b7a-9c55-0d6f8a1b2c3d)"
        );
        assert_eq!(state(&status), ("waiting", "CrashLoopBackOff", message.as_str()));
        assert_eq!((last_code(&status), phase_of(&status)), (Some(1), "Running"));
        assert_eq!(status.container_statuses.unwrap()[0].restart_count, 2);
    }
}

#[test]
fn what_is_started_again_at_once_is_told_by_its_end() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let status = of(6, &desired, &ready(vec![attempt("a", 0, exited(CODE_1, 3, 5))]));
    assert_eq!(state(&status), ("terminated", "Error", ""));
    assert_eq!(phase_of(&status), "Running");
    let status = of(15, &desired, &ready(vec![crashed(1, 10)]));
    assert_eq!(state(&status).0, "terminated", "the back-off is over");
}

#[test]
fn an_attempt_does_not_count_before_it_runs() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let observed = ready(vec![crashed(1, 10), attempt("a", 2, AttemptState::Starting)]);
    let status = of(20, &desired, &observed);
    assert_eq!(state(&status), ("waiting", "ContainerCreating", ""));
    assert_eq!(
        (last_code(&status), phase_of(&status)),
        (Some(1), "Running"),
        "stopped, by how it ended last"
    );
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.restart_count, 1);
    assert_eq!(
        container.container_id,
        Some(format!("podd://{}", desired.uid.container_id("a", 1)))
    );
}

#[test]
fn a_container_id_is_the_hash_of_its_name() {
    let uid = crate::model::Uid("u".to_owned());
    // printf u/a/0 | sha256sum
    assert_eq!(
        uid.container_id("a", 0),
        "9435593eb93802326eb51069be08f19a30861d6a9a7b46a7f7045c71c2ee030e"
    );
}

#[test]
fn ends_have_the_runtime_s_reasons() {
    let desired = pod(RestartPolicy::Never, &["a"]);
    for (end, code, signal, reason) in [
        (ExitStatus::Code(0), 0, None, "Completed"),
        (ExitStatus::Code(3), 3, None, "Error"),
        (ExitStatus::Signal(9), 137, Some(9), "Error"),
        (ExitStatus::Signal(15), 143, Some(15), "Error"),
        (ExitStatus::OomSignal(9), 137, Some(9), "OOMKilled"),
        (ExitStatus::OomCode(0), 0, None, "OOMKilled"),
        (ExitStatus::OomCode(3), 3, None, "OOMKilled"),
        (ExitStatus::StartError, 128, None, "StartError"),
        (ExitStatus::Lost, 137, None, "ContainerStatusUnknown"),
    ] {
        let status = of(6, &desired, &ready(vec![attempt("a", 0, exited(end, 3, 5))]));
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        assert_eq!(phase_of(&status), phase, "{end:?}");
        let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
        let terminated = state.terminated.unwrap();
        assert_eq!(
            (terminated.exit_code, terminated.signal, terminated.reason.as_deref()),
            (code, signal, Some(reason))
        );
    }
}

#[test]
fn a_failed_pull_turns_into_a_back_off() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let step = || FailedStep::Container("a".to_owned());
    let observed = failed(
        at(10),
        &ready(vec![]),
        step(),
        FailureReason::ErrImagePull,
        "not present",
    );
    assert_eq!(
        state(&of(10, &desired, &observed)),
        ("waiting", "ErrImagePull", "not present")
    );
    let later = of(15, &desired, &observed);
    let message = "Back-off pulling image \"busybox\": ErrImagePull: not present";
    assert_eq!(state(&later), ("waiting", "ImagePullBackOff", message));
    assert_eq!(phase_of(&later), "Pending");
    let observed = failed(at(20), &observed, step(), FailureReason::ErrImagePull, "not present");
    assert_eq!(state(&of(20, &desired, &observed)).1, "ErrImagePull");

    let never = failed(at(10), &ready(vec![]), step(), FailureReason::ErrImageNeverPull, "no");
    assert_eq!(
        state(&of(100, &desired, &never)),
        ("waiting", "ErrImageNeverPull", "no")
    );
    let restart = failed(
        at(10),
        &ready(vec![crashed(1, 10)]),
        step(),
        FailureReason::CreateContainerConfigError,
        "x",
    );
    let status = of(11, &desired, &restart);
    assert_eq!(state(&status), ("waiting", "CreateContainerConfigError", "x"));
    assert_eq!((last_code(&status), phase_of(&status)), (Some(1), "Running"));
}

#[test]
fn a_sandbox_that_cannot_be_made_says_why() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let none = Observed {
        started_at: Some(at(0)),
        ..Observed::default()
    };
    let observed = failed(
        at(1),
        &none,
        FailedStep::Sandbox,
        FailureReason::CreatePodSandboxError,
        "no free address",
    );
    let status = of(2, &desired, &observed);
    assert_eq!(
        state(&status),
        ("waiting", "ContainerCreating", "CreatePodSandboxError: no free address")
    );
    let condition = condition(&status, "PodReadyToStartContainers");
    assert_eq!(
        (
            condition.status.as_str(),
            condition.reason.as_deref(),
            condition.message.as_deref()
        ),
        ("False", Some("CreatePodSandboxError"), Some("no free address"))
    );
    assert_eq!(status.pod_ip, None);
}

#[test]
fn phases() {
    use RestartPolicy::{Always, Never, OnFailure};
    let zero = || exited(ExitStatus::Code(0), 1, 5);
    let one = || exited(CODE_1, 1, 5);
    let up = || running(1);
    for (what, policy, a, b, expected) in [
        ("nothing yet", Always, None, None, "Pending"),
        ("one waits", Always, Some(up()), None, "Pending"),
        ("all run", Always, Some(up()), Some(up()), "Running"),
        ("one ended", Never, Some(up()), Some(one()), "Running"),
        ("all ended, to restart", Always, Some(zero()), Some(zero()), "Running"),
        ("one to restart", OnFailure, Some(zero()), Some(one()), "Running"),
        ("all well", OnFailure, Some(zero()), Some(zero()), "Succeeded"),
        ("all well", Never, Some(zero()), Some(zero()), "Succeeded"),
        ("one failed", Never, Some(zero()), Some(one()), "Failed"),
    ] {
        let desired = pod(policy, &["a", "b"]);
        let a = a.map(|state| attempt("a", 0, state));
        let b = b.map(|state| attempt("b", 0, state));
        let status = of(6, &desired, &ready(a.into_iter().chain(b).collect()));
        assert_eq!(phase_of(&status), expected, "{what} under {policy:?}");
    }
}

#[test]
fn a_deleted_pod_ends_by_its_exit_codes() {
    let desired = deleted(pod(RestartPolicy::Always, &["a"]), at(40), 30);
    let term = || vec![attempt("a", 0, exited(ExitStatus::Signal(15), 1, 45))];
    assert_eq!(
        phase_of(&of(46, &desired, &ready(term()))),
        "Running",
        "not before its sandbox is gone"
    );
    assert_eq!(phase_of(&of(51, &desired, &stopped(term()))), "Failed");
    let zero = stopped(vec![attempt("a", 0, exited(ExitStatus::Code(0), 1, 45))]);
    assert_eq!(phase_of(&of(51, &desired, &zero)), "Succeeded");
    let pending = of(
        51,
        &desired,
        &Observed {
            started_at: Some(at(0)),
            ..Observed::default()
        },
    );
    assert_eq!(phase_of(&pending), "Failed");
    let message = "The container could not be located when the pod was terminated";
    assert_eq!(state(&pending), ("terminated", "ContainerStatusUnknown", message));
    let looping = of(46, &desired, &ready(vec![crashed(2, 300)]));
    assert_eq!(state(&looping).0, "terminated", "what is deleted waits for no restart");
}

#[test]
fn a_terminal_phase_is_never_left() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    for terminal in ["Succeeded", "Failed"] {
        let before = PodStatus {
            phase: Some(terminal.to_owned()),
            ..PodStatus::default()
        };
        let status = status(
            at(6),
            &node(),
            &desired,
            &ready(vec![attempt("a", 0, running(1))]),
            Some(&before),
        );
        assert_eq!(phase_of(&status), terminal);
    }
}

#[test]
fn conditions_keep_their_time_while_they_hold() {
    let mut desired = pod(RestartPolicy::Always, &["a", "b"]);
    let observed = ready(vec![attempt("a", 0, running(1))]);
    let first = of(10, &desired, &observed);
    let not_ready = condition(&first, "Ready");
    assert_eq!(
        (
            not_ready.status.as_str(),
            not_ready.reason.as_deref(),
            not_ready.message.as_deref()
        ),
        (
            "False",
            Some("ContainersNotReady"),
            Some("containers with unready status: [b]")
        )
    );
    let second = status(at(20), &node(), &desired, &observed, Some(&first));
    assert_eq!(second, first, "nothing happened, so nothing is to be written");

    desired.generation = 2;
    let up = ready(vec![attempt("a", 0, running(1)), attempt("b", 0, running(25))]);
    let third = status(at(30), &node(), &desired, &up, Some(&second));
    let times = |type_| condition(&third, type_).last_transition_time.clone().unwrap().0;
    assert_eq!((times("Ready"), times("ContainersReady")), (at(30), at(30)));
    assert_eq!(
        (times("PodReadyToStartContainers"), times("PodScheduled")),
        (at(10), at(10))
    );
    assert!(
        third
            .conditions
            .unwrap()
            .iter()
            .all(|condition| condition.observed_generation == Some(2))
    );
    assert_eq!(third.observed_generation, Some(2));
}

fn foreign(type_: &str, status: &str) -> PodCondition {
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        ..PodCondition::default()
    }
}

#[test]
fn what_others_say_of_a_pod_is_kept() {
    let pod = pod(RestartPolicy::Always, &["a"]);
    let observed = ready(vec![attempt("a", 0, running(3))]);
    let mut before = of(5, &pod, &observed);
    before
        .conditions
        .as_mut()
        .unwrap()
        .push(foreign("example.com/theirs", "False"));
    let after = status(at(6), &node(), &pod, &observed, Some(&before));
    assert_eq!(after, before);
}

#[test]
fn readiness_gates_hold_a_pod_back() {
    let mut pod = pod(RestartPolicy::Always, &["a"]);
    pod.readiness_gates = vec!["example.com/a".to_owned(), "example.com/b".to_owned()];
    let observed = ready(vec![attempt("a", 0, running(3))]);
    let with = |told: &[(&str, &str)]| {
        let previous = PodStatus {
            conditions: Some(told.iter().map(|(type_, status)| foreign(type_, status)).collect()),
            ..PodStatus::default()
        };
        status(at(5), &node(), &pod, &observed, Some(&previous))
    };
    let held = with(&[("example.com/b", "False")]);
    let ready = condition(&held, "Ready");
    assert_eq!(ready.status, "False");
    assert_eq!(ready.reason.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!(
        ready.message.as_deref(),
        Some(
            "corresponding condition of pod readiness gate \"example.com/a\" does not exist., \
             the status of pod readiness gate \"example.com/b\" is not \"True\", but False"
        )
    );
    assert_eq!(condition(&held, "ContainersReady").status, "True");
    let open = with(&[("example.com/a", "True"), ("example.com/b", "True")]);
    assert_eq!(condition(&open, "Ready").status, "True");
}

#[test]
fn a_new_pod_is_pending_and_says_what_its_scheduler_says() {
    let pod = pod(RestartPolicy::Always, &["a"]);
    let of = |placement: Placement| {
        let status = initial(at(1), &pod, &placement);
        assert_eq!(phase_of(&status), "Pending");
        assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
        let conditions = status.conditions.unwrap_or_default();
        let told = conditions.into_iter().map(|told| {
            let PodCondition {
                type_,
                status,
                reason,
                message,
                ..
            } = told;
            format!(
                "{type_}={status} {} {}",
                reason.unwrap_or_default(),
                message.unwrap_or_default()
            )
        });
        told.collect::<Vec<_>>().join("; ")
    };
    assert_eq!(of(Placement::Bound), "");
    assert_eq!(of(Placement::Foreign), "");
    assert_eq!(of(Placement::Fits), "PodScheduled=True  ");
    assert_eq!(
        of(Placement::Gated),
        "PodScheduled=False SchedulingGated Scheduling is blocked due to non-empty scheduling gates"
    );
    assert_eq!(
        of(Placement::Unschedulable("why".to_owned())),
        "PodScheduled=False Unschedulable why"
    );
}

#[test]
fn nothing_is_ready_without_a_sandbox() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let dead = sandbox(
        0,
        SandboxState::Dead {
            at: at(5),
            end: SandboxEnd::InfraExited,
        },
    );
    let observed = Observed {
        sandbox: Some(dead),
        ..ready(vec![attempt("a", 0, running(1))])
    };
    let status = of(6, &desired, &observed);
    assert_eq!(condition(&status, "Ready").status, "False");
    assert_eq!(condition(&status, "PodReadyToStartContainers").status, "False");
}

#[test]
fn addresses_are_told_once_they_are_up_and_kept() {
    let mut desired = pod(RestartPolicy::Always, &["a"]);
    let creating = Observed {
        sandbox: Some(sandbox(0, SandboxState::Creating)),
        ..ready(vec![])
    };
    assert_eq!(of(1, &desired, &creating).pod_ip, None);
    let up = of(2, &desired, &ready(vec![]));
    assert_eq!(up.pod_ip.as_deref(), Some("10.244.0.2"));
    assert_eq!(
        up.pod_ips,
        Some(vec![PodIP {
            ip: "10.244.0.2".to_owned()
        }])
    );
    let anew = Observed {
        sandbox: Some(sandbox(1, SandboxState::Creating)),
        ..ready(vec![])
    };
    assert_eq!(status(at(3), &node(), &desired, &anew, Some(&up)).pod_ip, up.pod_ip);
    desired.host_network = true;
    assert_eq!(of(1, &desired, &creating).pod_ip.as_deref(), Some("192.0.2.1"));
}

#[test]
fn resources_are_told_as_they_were_given() {
    let mut desired = pod(RestartPolicy::Always, &["a"]);
    desired.containers[0].resources = Resources {
        cpu_request_milli: Some(250),
        cpu_limit_milli: Some(2000),
        memory_request: None,
        memory_limit: Some(64 << 20),
        ..Resources::default()
    };
    let observed = begin_attempt(
        &ready(vec![]),
        crate::reconcile::Start {
            container: "a",
            attempt: 0,
            sandbox: 0,
            backoff: Backoff::default(),
        },
        "busybox",
        ImageId("sha256:9".to_owned()),
        &desired.containers[0].resources,
    );
    assert_eq!(
        of(1, &desired, &observed).container_statuses.unwrap()[0].resources,
        None,
        "not yet"
    );
    let status = of(1, &desired, &ready(vec![attempt("a", 0, running(1))]));
    insta::assert_json_snapshot!("resources", status.container_statuses.unwrap()[0].resources);
    for (bytes, text) in [
        (0, "0"),
        (1000, "1k"),
        (1024, "1Ki"),
        (1_500_000_000, "1500M"),
        (123, "123"),
        (1 << 40, "1Ti"),
    ] {
        assert_eq!(quantity::bytes(bytes), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_status_is_total_stable_and_of_one_state_each(
        seconds in -4_000_i64..4_000, desired in any_pod(), observed in any_observed(),
    ) {
        let first = of(seconds, &desired, &observed);
        prop_assert_eq!(&status(at(seconds), &node(), &desired, &observed, Some(&first)), &first);
        for container in first.container_statuses.iter().flatten() {
            let ContainerState { running, terminated, waiting } = container.state.clone().unwrap();
            let states = [running.is_some(), terminated.is_some(), waiting.is_some()];
            prop_assert_eq!(states.iter().filter(|is| **is).count(), 1);
            prop_assert!(!container.ready || running.is_some());
        }
        prop_assert!(serde_json::to_value(&first).is_ok());
    }
}
