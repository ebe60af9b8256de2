//! Tables of init containers and sidecars.

use super::course::Course;
use super::testing::{container, hook, pod, probe, sidecar};
use super::*;
use crate::model::{ExitStatus, Hook, ProbeKind, RestartPolicy};
use RestartPolicy::{Always, Never, OnFailure};

const CODE_0: ExitStatus = ExitStatus::Code(0);
const CODE_1: ExitStatus = ExitStatus::Code(1);
const POLICIES: [RestartPolicy; 3] = [Always, OnFailure, Never];

fn with_init(policy: RestartPolicy, init: Vec<ContainerSpec>) -> Course {
    let mut desired = pod(policy, &["a", "b"]);
    desired.init_containers = init;
    Course::new(desired)
}

#[test]
fn init_containers_run_one_after_the_other_and_once() {
    for policy in POLICIES {
        let mut course = with_init(policy, vec![container("i"), container("j")]);
        assert_eq!(course.settle(), "start i/0", "{policy:?}");
        course.ends("i", CODE_0);
        assert_eq!(course.settle(), "start j/0", "{policy:?}");
        course.ends("j", CODE_0);
        assert_eq!(course.settle(), "start a/0, start b/0", "{policy:?}");
        course.ends("a", CODE_1);
        let expected = if policy == Never { "" } else { "start a/1" };
        assert_eq!(course.settle(), expected, "no init container again: {policy:?}");
        course.desired.init_containers[0].image = "busybox:2".to_owned();
        assert_eq!(course.settle(), "", "nor for another image: {policy:?}");
    }
}

#[test]
fn an_init_container_that_fails_is_tried_again_or_ends_the_pod() {
    for end in [
        CODE_1,
        ExitStatus::OomSignal(9),
        ExitStatus::OomCode(0),
        ExitStatus::Signal(9),
        ExitStatus::Lost,
    ] {
        for policy in [Always, OnFailure] {
            let mut course = with_init(policy, vec![container("i")]);
            course.settle();
            course.ends("i", end);
            assert_eq!(
                course.settle(),
                "start i/1",
                "the first time at once: {policy:?} {end:?}"
            );
            course.ends("i", end);
            assert_eq!(
                (course.settle().as_str(), course.wakes_at()),
                ("", Some(110)),
                "{policy:?}"
            );
            course.now = 110;
            assert_eq!(course.settle(), "start i/2", "{policy:?} {end:?}");
            course.ends("i", CODE_0);
            assert_eq!(course.settle(), "start a/0, start b/0", "{policy:?} {end:?}");
        }
        let mut course = with_init(Never, vec![container("i")]);
        course.settle();
        course.ends("i", end);
        assert_eq!(course.settle(), "stop sandbox 0; tear down", "{end:?}");
    }
}

#[test]
fn a_new_sandbox_begins_with_the_first_init_container_and_no_back_off() {
    for policy in [Always, OnFailure] {
        let mut course = with_init(policy, vec![container("i"), sidecar("s"), container("j")]);
        for name in ["i", "j"] {
            course.settle();
            course.ends(name, CODE_0);
        }
        course.settle();
        course.sandbox_dies();
        assert_eq!(
            course.settle(),
            "stop sandbox 0; make sandbox 1; start i/1",
            "{policy:?}: only what was there before is started again, in order"
        );
        course.ends("i", CODE_0);
        assert_eq!(course.settle(), "start s/1; start j/1", "{policy:?}");
        course.ends("j", CODE_0);
        assert_eq!(course.settle(), "start a/1, start b/1", "{policy:?}");
    }
}

#[test]
fn a_pod_that_never_restarts_gets_no_new_sandbox_once_an_init_container_ran() {
    let mut course = with_init(Never, vec![container("i")]);
    course.settle();
    course.sandbox_dies();
    assert_eq!(course.settle(), "stop sandbox 0; tear down");
}

#[test]
fn containers_that_are_done_bring_no_sandbox_back() {
    let mut course = with_init(OnFailure, vec![container("i")]);
    course.settle();
    course.ends("i", CODE_0);
    course.settle();
    course.ends("a", CODE_0);
    course.ends("b", CODE_0);
    course.sandbox_dies();
    assert_eq!(course.settle(), "stop sandbox 0; tear down");
}

#[test]
fn a_sidecar_has_to_be_started_before_what_follows() {
    for policy in POLICIES {
        let mut slow = sidecar("s");
        slow.life.startup = Some(probe());
        let mut course = with_init(policy, vec![slow, sidecar("t"), container("i")]);
        assert_eq!(course.settle(), "start s/0", "{policy:?}");
        course.probed("s", ProbeKind::Startup, true, 1);
        assert_eq!(course.settle(), "start t/0; start i/0", "{policy:?}");
        course.ends("i", CODE_0);
        assert_eq!(course.settle(), "start a/0, start b/0", "{policy:?}");
    }
}

/// The six situations, under each policy: what is done before and after.
#[test]
fn a_sidecar_that_runs_for_ever_is_stopped_last() {
    for policy in POLICIES {
        let mut course = with_init(policy, vec![sidecar("s")]);
        assert_eq!(course.settle(), "start s/0; start a/0, start b/0", "{policy:?}");
        course.ends("a", CODE_0);
        let again = if policy == Always { "start a/1" } else { "" };
        assert_eq!(course.settle(), again, "{policy:?}");
        if policy != Always {
            course.ends("b", CODE_0);
            assert_eq!(course.settle(), "end s PodEnds 30s; stop s", "{policy:?}");
            course.ends("s", ExitStatus::Signal(15));
            assert_eq!(course.settle(), "stop sandbox 0; tear down", "{policy:?}");
        }
    }
}

#[test]
fn a_sidecar_without_an_image_holds_everything_back() {
    for policy in POLICIES {
        let mut course = with_init(policy, vec![sidecar("s"), container("i")]);
        let step = FailedStep::Container("s".to_owned());
        let reason = crate::model::FailureReason::ErrImagePull;
        course.observed = failed(super::testing::at(100), &course.observed, step, reason, "no");
        assert_eq!(
            (course.settle().as_str(), course.wakes_at()),
            ("", Some(105)),
            "{policy:?}"
        );
        course.now = 110;
        assert_eq!(
            course.round(),
            ["start s/0"],
            "{policy:?}: tried again, and nothing else"
        );
    }
}

#[test]
fn a_sidecar_that_ends_is_started_again_whatever_the_policy_and_its_end() {
    for policy in POLICIES {
        for end in [CODE_0, CODE_1] {
            let mut course = with_init(policy, vec![sidecar("s"), container("i")]);
            course.settle();
            course.ends("s", end);
            assert_eq!(course.settle(), "start s/1", "before: {policy:?} {end:?}");
            course.ends("s", end);
            assert_eq!(
                (course.settle().as_str(), course.wakes_at()),
                ("", Some(110)),
                "{policy:?}"
            );
            course.ends("i", CODE_0);
            assert_eq!(
                course.settle(),
                "start a/0, start b/0",
                "it was passed once: {policy:?} {end:?}"
            );
            course.now = 110;
            assert_eq!(course.settle(), "start s/2", "beside them: {policy:?} {end:?}");
            course.ends("s", end);
            if policy != Always {
                course.ends("a", CODE_0);
                course.ends("b", CODE_0);
                course.now = 1000;
                assert_eq!(
                    course.settle(),
                    "stop sandbox 0; tear down",
                    "not after: {policy:?} {end:?}"
                );
            }
        }
    }
}

#[test]
fn an_init_container_that_fails_before_a_sidecar_keeps_it_from_starting() {
    for policy in POLICIES {
        let mut course = with_init(policy, vec![container("i"), sidecar("s")]);
        course.settle();
        course.ends("i", CODE_1);
        let expected = if policy == Never {
            "stop sandbox 0; tear down"
        } else {
            "start i/1"
        };
        assert_eq!(course.settle(), expected, "{policy:?}");
        assert_eq!(course.observed.newest("s"), None);
    }
}

#[test]
fn an_init_container_that_fails_after_a_sidecar_leaves_it_alone_or_ends_it() {
    for policy in POLICIES {
        let mut course = with_init(policy, vec![sidecar("s"), container("i")]);
        assert_eq!(course.settle(), "start s/0; start i/0", "{policy:?}");
        course.ends("i", CODE_1);
        if policy == Never {
            assert_eq!(course.settle(), "end s PodEnds 30s; stop s");
            course.ends("s", CODE_0);
            assert_eq!(course.settle(), "stop sandbox 0; tear down");
        } else {
            assert_eq!(course.settle(), "start i/1", "{policy:?}");
            assert!(course.observed.newest("s").unwrap().is_live());
        }
    }
}

#[test]
fn a_post_start_hook_holds_back_the_next_container_and_no_running_one() {
    let mut course = with_init(Always, vec![]);
    course.desired.containers[0].life.post_start = Some(hook());
    assert_eq!(course.settle(), "start a/0; PostStart a");
    assert_eq!(course.round(), ["PostStart a"], "planned until it is done");
    course.hooked("a", Hook::PostStart, Ok(()));
    assert_eq!(course.settle(), "start b/0");
    course.ends("a", CODE_1);
    assert_eq!(course.settle(), "start a/1; PostStart a");
    assert!(course.observed.newest("b").unwrap().is_live());

    let mut first = sidecar("s");
    first.life.post_start = Some(hook());
    let mut course = with_init(Never, vec![first]);
    assert_eq!(course.settle(), "start s/0; PostStart s");
    course.hooked("s", Hook::PostStart, Ok(()));
    assert_eq!(course.settle(), "start a/0, start b/0");
}

#[test]
fn ephemeral_containers_run_once_and_decide_nothing() {
    for policy in POLICIES {
        let mut course = with_init(policy, vec![container("i")]);
        course.desired.ephemeral_containers = vec![container("e")];
        assert_eq!(course.settle(), "start e/0, start i/0", "at once: {policy:?}");
        course.ends("e", CODE_1);
        assert_eq!(course.settle(), "", "{policy:?}");
        course.desired.ephemeral_containers.push(container("f"));
        assert_eq!(course.settle(), "start f/0", "{policy:?}");
        course.ends("i", CODE_0);
        course.settle();
        if policy != Always {
            course.ends("a", CODE_0);
            course.ends("b", CODE_0);
            assert_eq!(course.settle(), "end f PodEnds 30s; stop f", "{policy:?}");
        }
    }
}
