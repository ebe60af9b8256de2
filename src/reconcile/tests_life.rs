//! Tables of what happens to a container between its start and its end: probes, hooks, resizes, and its way out.

use std::time::Duration;

use super::course::Course;
use super::testing::{at, container, deleted, hook, pod, probe, sidecar};
use super::*;
use crate::model::{
    Capacity, ExitStatus, Hook, HookRecord, ImageId, Probe, ProbeKind, Resources, RestartPolicy, StopReason, User,
};
use ProbeKind::{Liveness, Readiness, Startup};
use RestartPolicy::{Always, Never, OnFailure};

const CODE_0: ExitStatus = ExitStatus::Code(0);
const POLICIES: [RestartPolicy; 3] = [Always, OnFailure, Never];

fn course(policy: RestartPolicy, change: impl FnOnce(&mut ContainerSpec)) -> Course {
    let mut desired = pod(policy, &["a"]);
    change(&mut desired.containers[0]);
    let mut course = Course::new(desired);
    course.settle();
    course
}

fn with_probes(policy: RestartPolicy) -> Course {
    course(policy, |a| {
        a.life.startup = Some(probe());
        a.life.liveness = Some(probe());
        a.life.readiness = Some(probe());
    })
}

fn facts(course: &Course) -> (bool, bool) {
    let (spec, newest) = (&course.desired.containers[0], course.observed.newest("a").unwrap());
    (is_started(spec, newest), is_ready(spec, newest))
}

fn due(course: &Course) -> Vec<ProbeKind> {
    probes_due(&course.desired, &course.observed, "a")
}

#[test]
fn probes_begin_as_a_worker_does_and_take_their_turns() {
    let mut course = with_probes(Always);
    assert_eq!((facts(&course), due(&course)), ((false, false), vec![Startup]));
    course.probed("a", Readiness, true, 5);
    course.probed("a", Liveness, false, 5);
    assert_eq!(facts(&course), (false, false), "not asked before it is started");
    course.probed("a", Startup, true, 1);
    assert_eq!(
        (facts(&course), due(&course)),
        ((true, false), vec![Liveness, Readiness])
    );
    course.probed("a", Readiness, true, 1);
    assert_eq!(facts(&course), (true, true));
    course.probed("a", Startup, false, 9);
    assert_eq!((facts(&course), course.settle().as_str()), ((true, true), ""), "held");
    course.ends("a", CODE_0);
    assert_eq!((facts(&course), due(&course)), ((false, false), vec![]));
    course.settle();
    assert_eq!(
        (facts(&course), due(&course)),
        ((false, false), vec![Startup]),
        "all begins anew"
    );
}

#[test]
fn thresholds_count_in_a_row() {
    let mut course = course(Always, |a| {
        a.life.readiness = Some(Probe {
            success_threshold: 2,
            ..probe()
        });
    });
    for (success, times, ready) in [
        (true, 1, false),
        (false, 1, false),
        (true, 1, false),
        (true, 1, true),
        (false, 2, true),
        (true, 1, true),
        (false, 2, true),
        (false, 1, false),
        (true, 1, false),
        (true, 1, true),
    ] {
        course.probed("a", Readiness, success, times);
        assert_eq!(facts(&course).1, ready, "{success} {times}");
    }
    let before = course.observed.clone();
    course.probed("a", Readiness, true, 7);
    assert_eq!(course.observed, before, "what goes on as before writes nothing");
}

#[test]
fn a_container_that_fails_its_probe_is_ended_and_restarted_as_its_policy_says() {
    for policy in POLICIES {
        for (kind, why) in [(Liveness, "LivenessFailed"), (Startup, "StartupFailed")] {
            for grace in [None, Some(7)] {
                let mut course = with_probes(policy);
                let life = &mut course.desired.containers[0].life;
                let failing = if kind == Liveness {
                    &mut life.liveness
                } else {
                    &mut life.startup
                };
                failing.as_mut().unwrap().termination_grace = grace.map(Duration::from_secs);
                if kind == Liveness {
                    course.probed("a", Startup, true, 1);
                    course.probed("a", Readiness, true, 1);
                }
                course.probed("a", kind, false, 2);
                assert_eq!(course.settle(), "", "below its threshold");
                course.probed("a", kind, false, 1);
                let seconds = grace.unwrap_or(30);
                assert_eq!(course.settle(), format!("end a {why} {seconds}s; stop a"), "{policy:?}");
                assert!(!due(&course).contains(&kind), "it rests until there is a new attempt");
                course.probed("a", kind, true, 1);
                assert_eq!(course.wakes_at(), Some(100 + i64::try_from(seconds).unwrap()));
                course.now = course.wakes_at().unwrap();
                assert_eq!(course.round(), ["kill a"], "{policy:?}");
                course.ends("a", ExitStatus::Signal(9));
                let expected = if policy == Never {
                    "stop sandbox 0; tear down"
                } else {
                    "start a/1"
                };
                assert_eq!(course.settle(), expected, "{policy:?}");
            }
        }
    }
}

#[test]
fn what_a_probe_ended_is_started_again_though_it_ended_well() {
    let mut course = course(OnFailure, |a| a.life.liveness = Some(probe()));
    course.probed("a", Liveness, false, 3);
    course.settle();
    course.ends("a", CODE_0);
    assert_eq!(course.settle(), "start a/1");
    course.probed("a", Liveness, false, 3);
    course.settle();
    course.ends("a", CODE_0);
    assert_eq!(
        (course.settle().as_str(), course.wakes_at()),
        ("", Some(110)),
        "under back-off"
    );
}

#[test]
fn the_pre_stop_hook_comes_first_and_its_time_is_deducted() {
    let mut course = course(Always, |a| {
        a.life.liveness = Some(probe());
        a.life.readiness = Some(probe());
        a.life.pre_stop = Some(hook());
    });
    course.probed("a", Readiness, true, 1);
    course.probed("a", Liveness, false, 3);
    assert_eq!(course.settle(), "end a LivenessFailed 30s; PreStop a");
    assert_eq!(due(&course), [Readiness], "readiness alone goes on");
    course.probed("a", Readiness, false, 3);
    assert_eq!(facts(&course), (true, false));
    course.now = 120;
    assert_eq!(course.round(), ["PreStop a"], "a new agent runs it again");
    assert_eq!(course.wakes_at(), Some(130));
    course.hooked("a", Hook::PreStop, Err("no"));
    assert_eq!(course.settle(), "stop a", "a hook that fails stops nothing");
    assert_eq!(course.wakes_at(), Some(130));
}

#[test]
fn a_hook_that_hangs_leaves_two_seconds_for_the_stop() {
    let hooked = |grace| {
        let mut course = course(Always, |a| a.life.pre_stop = Some(hook()));
        course.desired = deleted(course.desired, at(100), grace);
        course
    };
    let mut course = hooked(5);
    assert_eq!((course.settle().as_str(), course.wakes_at()), ("PreStop a", Some(105)));
    course.now = 105;
    assert_eq!((course.settle().as_str(), course.wakes_at()), ("stop a", Some(107)));
    course.now = 107;
    assert_eq!(course.round(), ["kill a"]);

    let mut course = hooked(0);
    assert_eq!(course.round(), ["kill a"], "no grace, no hook");
}

#[test]
fn a_stop_signal_has_two_seconds_whatever_is_left() {
    let mut course = course(Always, |_| {});
    course.desired = deleted(course.desired, at(100), 30);
    course.now = 500;
    assert_eq!(
        (course.settle().as_str(), course.wakes_at()),
        ("stop a", Some(502)),
        "nobody was there in time"
    );
    course.now = 502;
    assert_eq!(course.round(), ["kill a"]);
}

#[test]
fn a_deletion_costs_no_round_without_hooks() {
    let mut course = course(Always, |_| {});
    course.desired = deleted(course.desired, at(100), 30);
    assert_eq!(course.round(), ["stop a"]);
    course.ends("a", CODE_0);
    assert_eq!(course.settle_deletion(), "stop sandbox 0; tear down");
}

#[test]
fn a_post_start_hook_that_fails_ends_the_container() {
    for policy in POLICIES {
        let mut course = course(policy, |a| {
            a.life.post_start = Some(hook());
            a.life.pre_stop = Some(hook());
            a.life.startup = Some(probe());
        });
        assert_eq!(
            (facts(&course), due(&course)),
            ((false, false), vec![]),
            "the hook comes before the probes"
        );
        course.hooked("a", Hook::PostStart, Err("no"));
        assert_eq!(course.settle(), "end a PostStartFailed 30s; PreStop a");
        course.hooked("a", Hook::PreStop, Ok(()));
        assert_eq!(course.settle(), "stop a");
        course.ends("a", ExitStatus::Signal(15));
        let expected = if policy == Never {
            "stop sandbox 0; tear down"
        } else {
            "start a/1; PostStart a"
        };
        assert_eq!(course.settle(), expected, "{policy:?}");
    }
}

#[test]
fn reports_that_come_too_late_or_of_nothing_known_are_dropped() {
    let mut course = with_probes(Always);
    course.probed("a", Startup, true, 1);
    let before = course.observed.clone();
    course.probed("stranger", Liveness, false, 3);
    assert_eq!(course.observed, before);
    course.desired = deleted(course.desired, at(100), 30);
    course.probed("a", Liveness, false, 3);
    assert_eq!(course.observed, before, "a deleted pod is not probed for its life");
    course.probed("a", Readiness, true, 1);
    assert_eq!(
        (facts(&course), due(&course)),
        ((true, true), vec![Readiness]),
        "but for its readiness"
    );
    course.ends("a", CODE_0);
    let before = course.observed.clone();
    course.probed("a", Readiness, false, 3);
    course.hooked("a", Hook::PreStop, Ok(()));
    assert_eq!(course.observed, before, "it has ended");
}

#[test]
fn another_image_restarts_what_runs_under_every_policy() {
    for policy in POLICIES {
        let mut course = course(policy, |a| a.life.pre_stop = Some(hook()));
        course.desired.init_containers = vec![sidecar("s")];
        course.observed.attempts.clear();
        course.settle();
        course.desired.containers[0].image = "busybox:2".to_owned();
        assert_eq!(course.settle(), "end a SpecChanged 30s; PreStop a", "{policy:?}");
        course.hooked("a", Hook::PreStop, Ok(()));
        course.settle();
        course.ends("a", CODE_0);
        assert_eq!(course.settle(), "start a/1", "at once, whatever the policy: {policy:?}");
        course.desired.containers[0].image = "busybox:3".to_owned();
        course.settle();
        course.hooked("a", Hook::PreStop, Ok(()));
        course.settle();
        course.ends("a", CODE_0);
        assert_eq!(course.settle(), "start a/2", "and without back-off: {policy:?}");
        course.desired.init_containers[0].image = "busybox:2".to_owned();
        assert_eq!(course.settle(), "end s SpecChanged 30s; stop s", "{policy:?}");
        course.ends("s", CODE_0);
        assert_eq!(course.settle(), "start s/1", "{policy:?}");

        course.desired = deleted(course.desired, at(100), 30);
        course.desired.containers[0].image = "busybox:4".to_owned();
        course.settle();
        assert_eq!(course.why("a"), None, "not while it is deleted");
    }
}

#[test]
fn a_resize_is_done_in_place_unless_its_policy_restarts() {
    for (cpu_restarts, memory_restarts, cpu, memory, expected) in [
        (false, false, 200, 10, "resize a"),
        (true, false, 100, 20, "resize a"),
        (false, true, 200, 10, "resize a"),
        (true, false, 200, 10, "end a Resized 30s; stop a"),
        (false, true, 100, 20, "end a Resized 30s; stop a"),
    ] {
        let resources = |cpu: u64, memory: u64| Resources {
            cpu_limit_milli: Some(cpu),
            memory_limit: Some(memory << 20),
            ..Resources::default()
        };
        let mut course = course(Always, |a| a.resources = resources(100, 10));
        assert_eq!(course.settle(), "");
        let spec = &mut course.desired.containers[0];
        spec.life.resize_policy.cpu_restarts = cpu_restarts;
        spec.life.resize_policy.memory_restarts = memory_restarts;
        spec.resources = resources(cpu, memory);
        let what = format!("{cpu_restarts} {memory_restarts} {cpu} {memory}");
        assert_eq!(course.settle(), expected, "{what}");
        if course.why("a") == Some(StopReason::Resized) {
            course.ends("a", CODE_0);
            assert_eq!(course.settle(), "start a/1", "{what}");
        }
        let newest = course.observed.newest("a").unwrap();
        assert_eq!(newest.life.resources, Some(resources(cpu, memory)), "{what}");
        assert_eq!(course.settle(), "", "{what}");
    }
}

#[test]
fn a_resize_beyond_the_machine_is_not_tried() {
    let capacity = Some(Capacity {
        cpu_milli: 1000,
        memory: 1 << 30,
        storage: 0,
    });
    let limits = Limits {
        capacity,
        ..Limits::default()
    };
    for restarts in [false, true] {
        for (cpu, memory, is_tried) in [(1000, 1 << 30, true), (1001, 1, false), (1, 1 + (1 << 30), false)] {
            let mut course = course(Always, |a| a.life.resize_policy.cpu_restarts = restarts);
            let wanted = &mut course.desired.containers[0].resources;
            (wanted.cpu_request_milli, wanted.memory_request) = (Some(cpu), Some(memory));
            let plan = reconcile(at(100), &course.desired, &course.observed, &limits);
            assert_eq!(!plan.steps.is_empty(), is_tried, "{cpu} {memory} {restarts}");
        }
    }
}

#[test]
fn a_resize_that_fails_rests() {
    let mut course = course(Always, |_| {});
    course.desired.containers[0].resources.cpu_limit_milli = Some(200);
    let step = FailedStep::Container("a".to_owned());
    let reason = crate::model::FailureReason::RunContainerError;
    course.observed = failed(at(100), &course.observed, step.clone(), reason, "no");
    assert_eq!((course.settle().as_str(), course.wakes_at()), ("", Some(110)));
    course.now = 110;
    assert_eq!(course.settle(), "resize a");
    assert_eq!(course.observed.failure(&step), None);
}

#[test]
fn a_pod_that_was_active_too_long_is_given_up() {
    for policy in POLICIES {
        let mut course = course(policy, |a| a.life.pre_stop = Some(hook()));
        course.desired.active_deadline = Some(Duration::from_mins(5));
        assert_eq!(
            (course.settle().as_str(), course.wakes_at()),
            ("", Some(300)),
            "{policy:?}"
        );
        course.now = 300;
        assert_eq!(
            course.settle(),
            "give up: Pod was active on the node longer than the specified deadline; end a PodEnds 30s; PreStop a",
            "{policy:?}"
        );
        course.hooked("a", Hook::PreStop, Ok(()));
        assert_eq!(course.settle(), "stop a", "{policy:?}");
        course.now = 330;
        assert_eq!(course.round(), ["kill a"], "{policy:?}");
        course.ends("a", ExitStatus::Signal(9));
        assert_eq!(course.settle(), "stop sandbox 0; tear down", "{policy:?}");
    }
    let mut done = course(Never, |_| {});
    done.desired.active_deadline = Some(Duration::from_mins(5));
    done.ends("a", CODE_0);
    done.now = 900;
    assert_eq!(
        done.settle(),
        "stop sandbox 0; tear down",
        "what is done was not too late"
    );
}

fn with_sidecars(pre_stops: bool) -> Course {
    let mut desired = pod(Always, &["a", "b"]);
    desired.init_containers = vec![sidecar("s"), container("i"), sidecar("t")];
    if pre_stops {
        for spec in desired.init_containers.iter_mut().filter(|spec| spec.is_sidecar()) {
            spec.life.pre_stop = Some(hook());
        }
    }
    let mut course = Course::new(desired);
    course.settle();
    course.ends("i", CODE_0);
    course.settle();
    course.desired = deleted(course.desired, at(100), 30);
    course
}

#[test]
fn sidecars_are_stopped_last_in_reverse() {
    let mut course = with_sidecars(false);
    for (stopped, ends) in [("stop a, stop b", "a"), ("", "b"), ("stop t", "t"), ("stop s", "s")] {
        assert_eq!(course.settle(), stopped);
        assert_eq!(course.wakes_at(), Some(130));
        course.ends(ends, CODE_0);
    }
    assert_eq!(course.settle_deletion(), "stop sandbox 0; tear down");
}

#[test]
fn sidecars_begin_their_hooks_together_and_end_together_at_the_deadline() {
    let mut course = with_sidecars(true);
    assert_eq!(course.settle(), "stop a, stop b, PreStop s, PreStop t");
    course.hooked("s", Hook::PreStop, Ok(()));
    course.ends("a", CODE_0);
    course.ends("b", CODE_0);
    assert_eq!(course.round(), ["PreStop t"], "s waits for its turn, t for its hook");
    course.now = 130;
    assert_eq!(course.settle(), "stop s, stop t");
    assert_eq!(course.wakes_at(), Some(132));
    course.now = 132;
    assert_eq!(course.round(), ["kill s", "kill t"]);
}

#[test]
fn a_deletion_during_initialisation_does_not_hang() {
    let mut desired = pod(Always, &["a"]);
    let mut slow = sidecar("s");
    slow.life.startup = Some(probe());
    slow.life.pre_stop = Some(hook());
    desired.init_containers = vec![sidecar("r"), slow, container("i")];
    let mut course = Course::new(desired);
    assert_eq!(course.settle(), "start r/0; start s/0");
    course.desired = deleted(course.desired, at(100), 30);
    assert_eq!(course.settle(), "PreStop s", "r waits for the sidecar after it");
    course.hooked("s", Hook::PreStop, Ok(()));
    assert_eq!(course.settle(), "stop s");
    course.ends("s", CODE_0);
    assert_eq!(course.settle(), "stop r");
    course.ends("r", CODE_0);
    assert_eq!(course.settle_deletion(), "stop sandbox 0; tear down");

    let mut desired = pod(Always, &["a"]);
    desired.init_containers = vec![container("i")];
    let mut course = Course::new(desired);
    course.settle();
    course.desired = deleted(course.desired, at(100), 30);
    assert_eq!(course.settle(), "stop i");
}

#[test]
fn a_deletion_shortens_a_stop_and_repeats_no_hook() {
    let mut course = course(Always, |a| {
        a.life.liveness = Some(probe());
        a.life.pre_stop = Some(hook());
    });
    course.probed("a", Liveness, false, 3);
    course.settle();
    course.hooked("a", Hook::PreStop, Ok(()));
    course.settle();
    course.now = 103;
    course.desired = deleted(course.desired, at(103), 5);
    assert_eq!((course.settle().as_str(), course.wakes_at()), ("", Some(108)));
    course.desired = deleted(course.desired, at(103), 300);
    assert_eq!(course.wakes_at(), Some(130), "and never makes it longer");
}

#[test]
fn outcomes_do_nothing_the_second_time() {
    let mut course = course(Always, |a| a.life.pre_stop = Some(hook()));
    let stop = crate::model::Stop {
        why: StopReason::SpecChanged,
        asked_at: at(100),
        grace: Duration::from_secs(30),
    };
    let once = begin_hook(at(101), &course.observed, "a", 0, Hook::PreStop);
    let once = begin_stop(at(101), &once, "a", 0, &stop);
    let reason = GivenUpReason::DeadlineExceeded;
    let once = gave_up(at(101), &once, reason, "m");
    let later = crate::model::Stop {
        why: StopReason::PodEnds,
        asked_at: at(105),
        ..stop
    };
    let twice = begin_hook(at(105), &once, "a", 0, Hook::PreStop);
    let twice = begin_stop(at(105), &twice, "a", 0, &later);
    assert_eq!(gave_up(at(105), &twice, reason, "n"), once);
    course.observed = once;
    let life = &course.observed.newest("a").unwrap().life;
    assert_eq!(life.pre_stop, HookRecord::Begun { at: at(101) });
    assert_eq!(life.stop.as_ref().map(|stop| stop.asked_at), Some(at(100)));
}

#[test]
fn whom_a_container_ran_as_is_known_for_the_same_image_alone() {
    let user = User {
        uid: 7,
        gid: 8,
        groups: vec![8, 9],
        home: "/srv".to_owned(),
    };
    let (one, other) = (ImageId("sha256:1".to_owned()), ImageId("sha256:2".to_owned()));
    let mut observed = super::testing::ready(Vec::new());
    let start = Start {
        container: "a",
        attempt: 0,
        sandbox: 0,
        backoff: crate::model::Backoff::default(),
    };
    observed = begin_attempt(&observed, start, "x", one.clone(), &Resources::default());
    assert_eq!(known_user(&observed, "a", &one), None);
    observed = started_from(&observed, "a", 0, None, &user);
    assert_eq!(known_user(&observed, "a", &one), Some(&user));
    assert_eq!(known_user(&observed, "a", &other), None);
    assert_eq!(known_user(&observed, "b", &one), None);
    // It is kept when the container ends, and whatever comes of a later try.
    observed.attempts[0].state = super::testing::exited(CODE_0, 1, 2);
    assert_eq!(known_user(&observed, "a", &one), Some(&user));
}
