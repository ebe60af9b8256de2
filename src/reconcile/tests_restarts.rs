//! Tables of containers with a restart policy and rules of their own, and of the restart of all.

use super::course::Course;
use super::testing::{container, hook, pod, sidecar};
use super::*;
use crate::model::{ExitStatus, ProbeKind, RestartAction, RestartPolicy, RestartRule};
use RestartPolicy::{Always, Never, OnFailure};

const CODE_0: ExitStatus = ExitStatus::Code(0);
const CODE_1: ExitStatus = ExitStatus::Code(1);
const CODE_42: ExitStatus = ExitStatus::Code(42);
const KILLED: ExitStatus = ExitStatus::Signal(9);

fn rule(action: RestartAction, is_negated: bool, codes: &[i32]) -> RestartRule {
    RestartRule {
        action,
        codes: codes.to_vec(),
        is_negated,
    }
}

fn all_on_42() -> Vec<RestartRule> {
    vec![rule(RestartAction::RestartAllContainers, false, &[42])]
}

fn with(mut container: ContainerSpec, own: RestartPolicy, rules: Vec<RestartRule>) -> ContainerSpec {
    container.life.restart_policy = Some(own);
    container.life.restart_rules = rules;
    container
}

/// A pod whose one container ended once: whether it is started again, and whether the pod is over.
fn after(policy: RestartPolicy, own: Option<RestartPolicy>, rules: Vec<RestartRule>, end: ExitStatus) -> &'static str {
    let mut desired = pod(policy, &["a"]);
    desired.containers[0].life.restart_policy = own;
    desired.containers[0].life.restart_rules = rules;
    let mut course = Course::new(desired);
    course.settle();
    course.ends("a", end);
    match course.settle().as_str() {
        "start a/1" => "again",
        "stop sandbox 0; tear down" => "over",
        other => panic!("{other}"),
    }
}

#[test]
fn a_containers_own_policy_goes_before_the_pods() {
    for policy in [Always, OnFailure, Never] {
        for (own, end, expected) in [
            (Always, CODE_0, "again"),
            (Always, CODE_1, "again"),
            (OnFailure, CODE_0, "over"),
            (OnFailure, CODE_1, "again"),
            (Never, CODE_0, "over"),
            (Never, CODE_1, "over"),
        ] {
            assert_eq!(
                after(policy, Some(own), vec![], end),
                expected,
                "{policy:?} {own:?} {end:?}"
            );
        }
    }
}

#[test]
fn the_first_rule_that_matches_goes_before_every_policy() {
    let restart = |is_negated, codes: &[i32]| vec![rule(RestartAction::Restart, is_negated, codes)];
    for (own, rules, end, expected) in [
        (Never, restart(false, &[42]), CODE_42, "again"),
        (Never, restart(false, &[42]), CODE_1, "over"),
        (Never, restart(false, &[1, 42]), CODE_42, "again"),
        (Never, restart(false, &[0]), CODE_0, "again"),
        (Never, restart(false, &[]), CODE_0, "over"),
        (Never, restart(true, &[42]), CODE_1, "again"),
        (Never, restart(true, &[42]), CODE_42, "over"),
        (Never, restart(true, &[]), CODE_0, "again"),
        (OnFailure, restart(false, &[42]), CODE_1, "again"),
        (OnFailure, restart(false, &[42]), CODE_0, "over"),
        // Codes as the status reports them.
        (Never, restart(false, &[137]), KILLED, "again"),
        (Never, restart(false, &[137]), ExitStatus::OomSignal(9), "again"),
        (Never, restart(false, &[137]), ExitStatus::Lost, "again"),
        (Never, restart(false, &[128]), ExitStatus::StartError, "again"),
    ] {
        let told = format!("{own:?} {rules:?} {end:?}");
        assert_eq!(after(Never, Some(own), rules, end), expected, "{told}");
    }
    let both = vec![
        rule(RestartAction::Restart, false, &[42]),
        rule(RestartAction::RestartAllContainers, true, &[]),
    ];
    assert_eq!(after(Never, Some(Never), both, CODE_42), "again");
}

#[test]
fn what_a_rule_restarts_has_back_off_as_ever() {
    let mut desired = pod(Never, &["a"]);
    let rules = vec![rule(RestartAction::Restart, false, &[42])];
    desired.containers[0] = with(container("a"), Never, rules);
    let mut course = Course::new(desired);
    course.settle();
    course.ends("a", CODE_42);
    assert_eq!(course.settle(), "start a/1", "the first time at once");
    course.ends("a", CODE_42);
    assert_eq!((course.settle().as_str(), course.wakes_at()), ("", Some(110)));
}

#[test]
fn an_init_container_has_its_own_policy_too() {
    for (policy, own, expected) in [
        (Never, OnFailure, "start i/1"),
        (Always, Never, "stop sandbox 0; tear down"),
        (OnFailure, Never, "stop sandbox 0; tear down"),
    ] {
        let mut desired = pod(policy, &["a"]);
        desired.init_containers = vec![with(container("i"), own, vec![])];
        let mut course = Course::new(desired);
        course.settle();
        course.ends("i", CODE_1);
        assert_eq!(course.settle(), expected, "{policy:?} {own:?}");
    }
}

#[test]
fn what_a_probe_failed_is_restarted_by_policy_alone() {
    for (own, end, expected) in [
        (Always, CODE_0, "start a/1"),
        (OnFailure, CODE_0, "start a/1"),
        (Never, CODE_1, "stop sandbox 0; tear down"),
        // Once it has ended there is a code.
        (Never, CODE_42, "start a/1"),
    ] {
        let mut desired = pod(Never, &["a"]);
        let rules = vec![rule(RestartAction::Restart, false, &[42])];
        desired.containers[0] = with(container("a"), own, rules);
        desired.containers[0].life.liveness = Some(super::testing::probe());
        let mut course = Course::new(desired);
        course.settle();
        course.probed("a", ProbeKind::Liveness, false, 3);
        assert_eq!(course.settle(), "end a LivenessFailed 30s; stop a", "{own:?}");
        course.ends("a", end);
        assert_eq!(course.settle(), expected, "{own:?} {end:?}");
    }
}

#[test]
fn in_a_new_sandbox_all_begin_anew_but_what_succeeded_under_on_failure() {
    let mut desired = pod(Always, &["a", "b", "c"]);
    desired.containers[0] = with(container("a"), Never, vec![]);
    desired.containers[1] = with(container("b"), OnFailure, vec![]);
    let mut course = Course::new(desired);
    course.settle();
    course.ends("a", CODE_0);
    course.ends("b", CODE_0);
    assert_eq!(course.settle(), "", "both are done");
    course.sandbox_dies();
    course.ends("c", KILLED);
    assert_eq!(course.settle(), "stop sandbox 0; make sandbox 1; start a/1, start c/1");

    // The pod's own policy decides whether there is another one.
    let mut desired = pod(Never, &["a"]);
    desired.containers[0] = with(container("a"), Always, vec![]);
    let mut course = Course::new(desired);
    course.settle();
    course.sandbox_dies();
    course.ends("a", KILLED);
    assert_eq!(course.settle(), "stop sandbox 0; tear down");
}

/// Everything runs, and second 102 has come.
fn with_one_of_each(source: &str) -> Course {
    let mut desired = pod(Never, &["a", "b"]);
    let mut init = vec![container("i"), sidecar("s")];
    for spec in init.iter_mut().chain(&mut desired.containers) {
        spec.life.pre_stop = (spec.name != "i").then(hook);
        if spec.name == source {
            spec.life.restart_policy.get_or_insert(Never);
            spec.life.restart_rules = all_on_42();
        }
    }
    desired.init_containers = init;
    let mut course = Course::new(desired);
    assert_eq!(course.settle(), "start i/0");
    if source != "i" {
        course.ends("i", CODE_0);
        assert_eq!(course.settle(), "start s/0; start a/0, start b/0");
    }
    course.now = 102;
    course
}

#[test]
fn one_end_restarts_all_in_the_same_sandbox() {
    for (source, others) in [("a", ["b", "s"]), ("s", ["a", "b"])] {
        let mut course = with_one_of_each(source);
        course.ends(source, CODE_42);
        let left = "leave i/0, leave s/0, leave a/0, leave b/0";
        assert_eq!(course.round().join(", "), left, "{source}: whatever it is doing");
        let kills: Vec<String> = others.iter().map(|name| format!("kill {name}")).collect();
        assert_eq!(course.round(), kills, "{source}: without hook and grace");
        course.ends(others[0], KILLED);
        assert_eq!(course.settle(), "", "{source}: all have to be gone");
        course.ends(others[1], KILLED);
        assert_eq!(course.settle(), "start i/1", "{source}");
        course.ends("i", CODE_0);
        assert_eq!(course.settle(), "start s/1; start a/1, start b/1", "{source}");
        course.now = 104;
        course.ends(source, CODE_42);
        let left = "leave i/1, leave s/1, leave a/1, leave b/1";
        assert_eq!(
            course.round().join(", "),
            left,
            "{source}: again and again, without back-off"
        );
    }
}

#[test]
fn what_was_over_begins_anew_too() {
    let mut course = with_one_of_each("a");
    course.ends("b", CODE_0);
    assert_eq!(course.settle(), "", "never started again of itself");
    course.ends("a", CODE_42);
    course.round();
    course.round();
    course.ends("s", KILLED);
    course.settle();
    course.ends("i", CODE_0);
    assert_eq!(course.settle(), "start s/1; start a/1, start b/1");
}

#[test]
fn an_init_container_restarts_what_came_before_it() {
    let mut course = with_one_of_each("i");
    course.ends("i", CODE_42);
    assert_eq!(course.settle(), "leave i/0; start i/1");
    course.ends("i", CODE_1);
    assert_eq!(course.settle(), "stop sandbox 0; tear down", "another end is as ever");
}

#[test]
fn a_container_that_ends_at_once_does_not_spin() {
    let mut course = with_one_of_each("a");
    course.now = 100;
    course.ends("a", CODE_42);
    assert_eq!((course.settle().as_str(), course.wakes_at()), ("", Some(101)));
}

#[test]
fn a_deletion_and_the_end_of_the_pod_go_before_a_restart_of_all() {
    let mut course = with_one_of_each("s");
    course.ends("a", CODE_0);
    course.ends("b", CODE_0);
    course.ends("s", CODE_42);
    assert_eq!(course.settle(), "stop sandbox 0; tear down");

    let mut course = with_one_of_each("a");
    course.ends("a", CODE_42);
    course.round();
    course.desired = super::testing::deleted(course.desired, super::testing::at(102), 30);
    assert_eq!(
        course.round(),
        ["kill b", "kill s"],
        "what was left behind has no grace"
    );
}
