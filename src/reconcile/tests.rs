//! Tables of decisions.

use std::time::Duration;

use super::testing::{
    BOOT, at, attempt, dead, deleted, exited, fact, infra, on_machine, pod, ready, running, stopped, with_sandbox,
};
use super::*;
use crate::model::{
    AttemptState, Backoff, ContainerPhase, ExitStatus, Failure, FailureReason, ImageId, Resources, RestartPolicy,
};

const CODE_1: ExitStatus = ExitStatus::Code(1);

fn plan(now: i64, desired: &PodSpec, observed: &Observed) -> Plan {
    reconcile(at(now), desired, observed, &Limits::default())
}

fn starts(plan: &Plan) -> Vec<(&str, u32)> {
    plan.steps
        .iter()
        .filter_map(|step| match step {
            Step::StartContainer { container, attempt, .. } => Some((container.as_str(), *attempt)),
            Step::BeginStop { .. }
            | Step::RunHook { .. }
            | Step::Resize { .. }
            | Step::GiveUp { .. }
            | Step::CreateSandbox { .. }
            | Step::StopSandbox { .. }
            | Step::StopContainer { .. }
            | Step::KillContainer { .. }
            | Step::TearDown
            | Step::Forget => None,
        })
        .collect()
}

#[test]
fn a_pod_comes_up_step_by_step() {
    let desired = pod(RestartPolicy::Always, &["a", "b"]);
    let fresh = Observed::default();
    insta::assert_debug_snapshot!("a_new_pod_gets_its_sandbox", plan(0, &desired, &fresh));
    let creating = begin_sandbox(at(1), BOOT, &fresh, 0, Some("10.244.0.2".parse().unwrap()));
    assert_eq!(
        plan(1, &desired, &creating).steps,
        [Step::CreateSandbox { attempt: 0 }],
        "tried again until it is there"
    );
    let ready = sandbox_ready(at(2), &creating, 0);
    insta::assert_debug_snapshot!("a_ready_sandbox_gets_all_containers", plan(2, &desired, &ready));
}

#[test]
fn only_the_container_that_ended_is_started_again() {
    let desired = pod(RestartPolicy::Always, &["a", "b"]);
    let observed = ready(vec![attempt("a", 0, exited(CODE_1, 1, 5)), attempt("b", 0, running(1))]);
    insta::assert_debug_snapshot!("the_first_restart_comes_at_once", plan(5, &desired, &observed));
}

#[test]
fn restart_policies_decide_by_the_exit() {
    use RestartPolicy::{Always, Never, OnFailure};
    let ends = [
        ExitStatus::Code(0),
        CODE_1,
        ExitStatus::Signal(9),
        ExitStatus::OomSignal(9),
        ExitStatus::StartError,
        ExitStatus::Lost,
    ];
    for (policy, restarts) in [
        (Always, [true, true, true, true, true, true]),
        (OnFailure, [false, true, true, true, true, true]),
        (Never, [false; 6]),
    ] {
        for (end, restarts) in ends.into_iter().zip(restarts) {
            let desired = pod(policy, &["a", "b"]);
            let observed = ready(vec![attempt("a", 0, exited(end, 1, 5)), attempt("b", 0, running(1))]);
            let expected = if restarts { vec![("a", 1)] } else { vec![] };
            assert_eq!(starts(&plan(9, &desired, &observed)), expected, "{policy:?} {end:?}");
        }
    }
}

#[test]
fn back_off_doubles_to_the_cap_and_counts_from_the_end() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    for (cap, expected) in [
        (300, [0_u64, 10, 20, 40, 80, 160, 300, 300]),
        (60, [0, 10, 20, 40, 60, 60, 60, 60]),
        (10, [0, 10, 10, 10, 10, 10, 10, 10]),
        (5, [0, 5, 5, 5, 5, 5, 5, 5]),
        (1, [0, 1, 1, 1, 1, 1, 1, 1]),
    ] {
        let limits = Limits {
            max_backoff: Duration::from_secs(cap),
            ..Limits::default()
        };
        let mut observed = ready(vec![attempt("a", 0, exited(CODE_1, 1, 2))]);
        let mut ended = 2;
        for (n, expected) in expected.into_iter().enumerate() {
            let due = ended + i64::try_from(expected).unwrap();
            if expected > 0 {
                let early = reconcile(at(due - 1), &desired, &observed, &limits);
                assert_eq!(
                    (early.steps, early.wake_at),
                    (vec![], Some(at(due))),
                    "cap {cap}, restart {n}"
                );
            }
            let plan = reconcile(at(due), &desired, &observed, &limits);
            let [
                Step::StartContainer {
                    container,
                    attempt,
                    sandbox,
                    backoff,
                },
            ] = &plan.steps[..]
            else {
                panic!("cap {cap}, restart {n}: {plan:?}")
            };
            let start = Start {
                container,
                attempt: *attempt,
                sandbox: *sandbox,
                backoff: *backoff,
            };
            observed = begin_attempt(
                &observed,
                start,
                "busybox",
                ImageId("i".to_owned()),
                &Resources::default(),
            );
            ended = due + 1;
            observed.attempts.last_mut().unwrap().state = exited(CODE_1, due, ended);
        }
    }
}

#[test]
fn a_long_run_clears_back_off_and_a_short_one_does_not() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let with_run_of = |seconds: i64| {
        let mut crashed = attempt("a", 4, exited(CODE_1, 100, 100 + seconds));
        crashed.backoff = Backoff {
            delay: Duration::from_secs(80),
            set_at: Some(at(100)),
        };
        ready(vec![crashed])
    };
    let waits = plan(700, &desired, &with_run_of(600));
    assert_eq!((waits.steps, waits.wake_at), (vec![], Some(at(780))));
    let plan = plan(701, &desired, &with_run_of(601));
    let [Step::StartContainer { backoff, .. }] = &plan.steps[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        *backoff,
        Backoff {
            delay: Duration::from_secs(10),
            set_at: Some(at(701))
        }
    );
}

#[test]
fn another_image_clears_back_off() {
    let mut desired = pod(RestartPolicy::Always, &["a"]);
    let mut crashed = attempt("a", 4, exited(CODE_1, 100, 101));
    crashed.backoff = Backoff {
        delay: Duration::from_secs(80),
        set_at: Some(at(100)),
    };
    let observed = ready(vec![crashed]);
    assert!(plan(102, &desired, &observed).steps.is_empty());
    desired.containers[0].image = "busybox:2".to_owned();
    assert_eq!(starts(&plan(102, &desired, &observed)), [("a", 5)]);
}

#[test]
fn a_clock_that_was_set_back_neither_hangs_nor_storms() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let mut crashed = attempt("a", 1, exited(CODE_1, 1_000_000, 1_000_001));
    crashed.backoff = Backoff {
        delay: Duration::from_secs(10),
        set_at: Some(at(1_000_000)),
    };
    let observed = ready(vec![crashed]);
    assert_eq!(
        starts(&plan(0, &desired, &observed)),
        [("a", 2)],
        "nobody knows how long it was: now"
    );
    let little = plan(1_000_000, &desired, &observed);
    assert_eq!(
        (little.steps, little.wake_at),
        (vec![], Some(at(1_000_011))),
        "a second is waited for"
    );
}

#[test]
fn failed_steps_rest_longer_each_time() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let observed = |step: FailedStep, count| Observed {
        failures: vec![Failure {
            step,
            reason: FailureReason::ErrImagePull,
            message: String::new(),
            count,
            at: at(100),
        }],
        ..ready(vec![])
    };
    let container = || FailedStep::Container("a".to_owned());
    for (count, delay) in [(1, 10), (2, 20), (3, 40), (5, 160), (6, 300), (7, 300), (u32::MAX, 300)] {
        let observed = observed(container(), count);
        assert!(plan(99 + delay, &desired, &observed).steps.is_empty(), "{count}");
        assert_eq!(starts(&plan(100 + delay, &desired, &observed)), [("a", 0)], "{count}");
    }
    for (count, delay) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 15), (u32::MAX, 15)] {
        let observed = Observed {
            sandbox: None,
            ..observed(FailedStep::Sandbox, count)
        };
        let waits = plan(99 + delay, &desired, &observed);
        assert_eq!((waits.steps, waits.wake_at), (vec![], Some(at(100 + delay))), "{count}");
        assert_eq!(
            plan(100 + delay, &desired, &observed).steps,
            [Step::CreateSandbox { attempt: 0 }],
            "{count}"
        );
    }
}

#[test]
fn a_failed_pull_wakes_up_to_be_called_a_back_off() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let observed = failed(
        at(100),
        &ready(vec![]),
        FailedStep::Container("a".to_owned()),
        FailureReason::ErrImagePull,
        "",
    );
    assert_eq!(plan(100, &desired, &observed).wake_at, Some(at(105)));
    assert_eq!(plan(105, &desired, &observed).wake_at, Some(at(110)));
}

#[test]
fn a_dead_sandbox_is_stopped_then_made_anew_with_the_same_address() {
    let desired = pod(RestartPolicy::OnFailure, &["a"]);
    let observed = with_sandbox(dead(), vec![attempt("a", 0, running(1))]);
    assert_eq!(plan(60, &desired, &observed).steps, [Step::StopSandbox { attempt: 0 }]);
    let stopped = sandbox_stopped(at(61), &observed, 0);
    assert_eq!(stopped.attempts[0].exit().unwrap().status, ExitStatus::Lost);
    assert_eq!(plan(61, &desired, &stopped).steps, [Step::CreateSandbox { attempt: 1 }]);
    let creating = begin_sandbox(at(62), BOOT, &stopped, 1, None);
    assert_eq!(creating.sandbox.as_ref().unwrap().ip, observed.sandbox.unwrap().ip);
    let ready = sandbox_ready(at(63), &creating, 1);
    let plan = plan(63, &desired, &ready);
    assert!(
        matches!(
            &plan.steps[..],
            [Step::StartContainer {
                attempt: 1,
                sandbox: 1,
                ..
            }]
        ),
        "the first restart of the container, in the new sandbox: {plan:?}"
    );
}

#[test]
fn sandboxes_are_a_second_apart() {
    let desired = pod(RestartPolicy::Always, &["a"]);
    let mut observed = with_sandbox(stopped(), vec![]);
    observed.sandbox.as_mut().unwrap().created_at = at(50);
    let waits = reconcile(super::testing::at_ms(50_900), &desired, &observed, &Limits::default());
    assert_eq!((waits.steps, waits.wake_at), (vec![], Some(at(51))));
    assert_eq!(
        plan(51, &desired, &observed).steps,
        [Step::CreateSandbox { attempt: 1 }]
    );
}

#[test]
fn a_pod_that_never_restarts_ends_with_its_sandbox_once_anything_ran() {
    let desired = pod(RestartPolicy::Never, &["a", "b"]);
    let lost = attempt("a", 0, exited(ExitStatus::Lost, 1, 50));
    assert_eq!(
        plan(60, &desired, &with_sandbox(dead(), vec![lost.clone()])).steps,
        [Step::StopSandbox { attempt: 0 }]
    );
    assert_eq!(
        plan(60, &desired, &with_sandbox(stopped(), vec![lost])).steps,
        [Step::TearDown]
    );
    assert_eq!(
        plan(60, &desired, &with_sandbox(stopped(), vec![])).steps,
        [Step::CreateSandbox { attempt: 1 }],
        "nothing ran yet"
    );
}

#[test]
fn a_finished_pod_gives_back_what_it_holds_and_stays() {
    let desired = pod(RestartPolicy::OnFailure, &["a"]);
    let done = vec![attempt("a", 0, exited(ExitStatus::Code(0), 1, 5))];
    assert_eq!(
        plan(6, &desired, &ready(done.clone())).steps,
        [Step::StopSandbox { attempt: 0 }]
    );
    let stopped = with_sandbox(stopped(), done);
    assert_eq!(plan(6, &desired, &stopped).steps, [Step::TearDown]);
    let over = torn_down(&stopped);
    assert_eq!(plan(6, &desired, &over), Plan::default());
    assert_eq!(plan(9, &deleted(desired, at(9), 30), &over).steps, [Step::Forget]);
}

#[test]
fn deletion_stops_waits_and_kills() {
    let desired = deleted(pod(RestartPolicy::Always, &["a", "b"]), at(100), 30);
    let mut observed = ready(vec![attempt("a", 0, running(1)), attempt("b", 0, exited(CODE_1, 1, 2))]);
    insta::assert_debug_snapshot!("deletion_tells_what_runs_to_stop", plan(100, &desired, &observed));
    observed.attempts[0].stop_signalled_at = Some(at(100));
    let waits = plan(129, &desired, &observed);
    assert_eq!((waits.steps, waits.wake_at), (vec![], Some(at(130))));
    let kill = Step::KillContainer {
        container: "a".to_owned(),
        attempt: 0,
    };
    assert_eq!(plan(130, &desired, &observed).steps, std::slice::from_ref(&kill));

    let shorter = deleted(desired.clone(), at(105), 3);
    assert_eq!(plan(107, &shorter, &observed).wake_at, Some(at(108)));
    assert_eq!(plan(108, &shorter, &observed).steps, std::slice::from_ref(&kill));
    let at_once = deleted(desired, at(105), 0);
    observed.attempts[0].stop_signalled_at = None;
    assert_eq!(plan(105, &at_once, &observed).steps, [kill], "no stop signal before it");
}

#[test]
fn what_does_not_die_is_killed_again_with_longer_pauses() {
    let desired = deleted(pod(RestartPolicy::Always, &["a"]), at(100), 0);
    let mut observed = ready(vec![attempt("a", 0, running(1))]);
    let mut now = 100;
    for pause in [2, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(plan(now, &desired, &observed).steps.len(), 1, "at {now}");
        observed = begin_kill(at(now), &observed, "a", 0);
        let waits = plan(now, &desired, &observed);
        assert_eq!((waits.steps, waits.wake_at), (vec![], Some(at(now + pause))));
        now += pause;
    }
}

#[test]
fn a_deleted_pod_goes_in_order() {
    let desired = deleted(pod(RestartPolicy::Always, &["a"]), at(100), 30);
    let ended = vec![attempt("a", 0, exited(ExitStatus::Signal(15), 1, 101))];
    assert_eq!(
        plan(101, &desired, &ready(ended.clone())).steps,
        [Step::StopSandbox { attempt: 0 }]
    );
    let stopped = with_sandbox(stopped(), ended);
    assert_eq!(plan(101, &desired, &stopped).steps, [Step::TearDown]);
    assert_eq!(plan(101, &desired, &torn_down(&stopped)).steps, [Step::Forget]);
    assert_eq!(
        plan(101, &desired, &Observed::default()).steps,
        [Step::TearDown],
        "before anything began"
    );
    let failing = failed(
        at(101),
        &stopped,
        FailedStep::Teardown,
        FailureReason::KillPodSandboxError,
        "busy",
    );
    assert_eq!(plan(101, &desired, &failing).wake_at, Some(at(102)));
}

#[test]
fn what_only_starts_is_not_waited_for_in_a_deletion() {
    let desired = deleted(pod(RestartPolicy::Always, &["a"]), at(100), 30);
    let observed = ready(vec![attempt("a", 0, AttemptState::Starting)]);
    assert_eq!(plan(100, &desired, &observed).steps, [Step::StopSandbox { attempt: 0 }]);
}

#[test]
fn grace_counts_from_the_signal_when_the_clock_was_set_back() {
    let desired = deleted(pod(RestartPolicy::Always, &["a"]), at(1_000_000), 30);
    let mut observed = ready(vec![attempt("a", 0, running(1))]);
    observed.attempts[0].stop_signalled_at = Some(at(1_000_000));
    // Recording dates the signal back to the new clock.
    let running = ContainerPhase::Running {
        pid: 1,
        started_at: at(1),
    };
    let snapshot = on_machine(true, infra(), vec![fact("a", 0, running)]);
    let recorded = record(at(100), BOOT, &observed, &snapshot);
    assert_eq!(plan(100, &desired, &recorded).wake_at, Some(at(130)));
    assert_eq!(plan(130, &desired, &recorded).steps.len(), 1);
}

#[test]
fn what_lacked_something_is_tried_at_once_when_that_may_be_there() {
    let desired = pod(RestartPolicy::Always, &["a", "b"]);
    let fail = |observed: &Observed, name: &str, reason| {
        let step = FailedStep::Container(name.to_owned());
        failed(at(100), observed, step, reason, "it is not there")
    };
    let lacking = fail(&ready(vec![]), "a", FailureReason::CreateContainerConfigError);
    let lacking = fail(&lacking, "a", FailureReason::CreateContainerConfigError);
    let lacking = fail(&lacking, "b", FailureReason::CreateContainerError);
    assert_eq!(starts(&plan(101, &desired, &lacking)), []);
    let forgiven = forgive(&lacking);
    assert_eq!(
        starts(&plan(101, &desired, &forgiven)),
        [("a", 0)],
        "b failed for something else"
    );
    assert_eq!(
        forgiven.failures[0].message, "it is not there",
        "it is told until the start succeeds"
    );
    // Its back-off begins anew.
    let again = fail(&forgiven, "a", FailureReason::CreateContainerConfigError);
    assert_eq!(again.failures[0].count, 1);
    assert_eq!(starts(&plan(101, &desired, &again)), []);

    let unmounted = failed(
        at(100),
        &Observed::default(),
        FailedStep::Sandbox,
        FailureReason::FailedMount,
        "configmap \"x\" not found",
    );
    assert_eq!(plan(100, &desired, &unmounted).steps, []);
    let steps = plan(100, &desired, &forgive(&unmounted)).steps;
    assert_eq!(steps, [Step::CreateSandbox { attempt: 0 }]);
}
