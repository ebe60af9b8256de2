//! Tables of what is told of init containers, sidecars, probes, hooks and resizes.

use super::tests::{condition, node, of, phase_of};
use super::*;
use crate::model::{ContainerSpec, ExitStatus, Hook, ProbeKind, Resources, RestartAction, RestartPolicy, RestartRule};
use crate::reconcile::course::Course;
use crate::reconcile::testing::{at, container, deleted, hook, pod, probe, sidecar};
use RestartPolicy::{Always, Never, OnFailure};
use k8s_openapi::api::core::v1::ContainerStatus;

const CODE_0: ExitStatus = ExitStatus::Code(0);
const CODE_1: ExitStatus = ExitStatus::Code(1);

fn with_init(policy: RestartPolicy, init: Vec<ContainerSpec>) -> Course {
    let mut desired = pod(policy, &["a"]);
    desired.init_containers = init;
    Course::new(desired)
}

fn told(course: &Course) -> PodStatus {
    of(course.now, &course.desired, &course.observed)
}

/// `name:state reason[ started][ ready]`
fn one(status: &ContainerStatus) -> String {
    let state = status.state.as_ref().unwrap();
    let (which, reason) = match (&state.waiting, &state.running, &state.terminated) {
        (Some(waiting), None, None) => ("waiting", waiting.reason.as_deref()),
        (None, Some(_), None) => ("running", None),
        (None, None, Some(end)) => ("terminated", end.reason.as_deref()),
        _ => panic!("not one state: {state:?}"),
    };
    let started = if status.started == Some(true) { " started" } else { "" };
    let ready = if status.ready { " ready" } else { "" };
    let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
    format!("{}:{which}{reason}{started}{ready}", status.name)
}

/// The phase, every container, and those conditions that do not hold.
fn summary(status: &PodStatus) -> String {
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let containers = lists.into_iter().flatten().flatten().map(one);
    let closed = status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.status == "False");
    let conditions = closed.map(|condition| {
        let reason = condition.reason.as_deref().unwrap_or_default();
        let message = condition.message.as_deref().unwrap_or_default();
        format!("not {} {reason} {message}", condition.type_)
            .trim_end()
            .to_owned()
    });
    let lines: Vec<String> = std::iter::once(phase_of(status).to_owned())
        .chain(containers)
        .chain(conditions)
        .collect();
    lines.join("\n")
}

#[test]
fn a_pod_with_init_containers_from_its_beginning_to_its_end() {
    let mut course = with_init(OnFailure, vec![container("i"), sidecar("s")]);
    course.desired.ephemeral_containers = vec![container("e")];
    course.desired.init_containers[1].life.startup = Some(probe());
    let mut story = vec![("new", summary(&told(&course)))];
    course.settle();
    story.push(("i runs", summary(&told(&course))));
    course.ends("i", CODE_1);
    course.settle();
    course.ends("i", CODE_1);
    story.push(("i failed twice", summary(&told(&course))));
    course.now = 110;
    course.settle();
    course.ends("i", CODE_0);
    course.settle();
    story.push(("s runs", summary(&told(&course))));
    course.probed("s", ProbeKind::Startup, true, 1);
    course.settle();
    story.push(("all runs", summary(&told(&course))));
    course.ends("s", CODE_1);
    course.settle();
    course.ends("s", CODE_1);
    story.push(("s failed twice", summary(&told(&course))));
    course.ends("a", CODE_0);
    story.push(("a is done", summary(&told(&course))));
    course.ends("e", CODE_0);
    course.settle();
    story.push(("over", summary(&told(&course))));
    let story: Vec<String> = story
        .into_iter()
        .map(|(when, what)| format!("# {when}\n{what}"))
        .collect();
    insta::assert_snapshot!("init_containers_and_sidecars", story.join("\n\n"));
}

#[test]
fn a_pod_whose_init_container_failed_for_good_has_failed() {
    let mut course = with_init(Never, vec![sidecar("s"), container("i")]);
    course.settle();
    course.ends("i", CODE_1);
    course.settle();
    assert_eq!(phase_of(&told(&course)), "Pending", "something of it still runs");
    course.ends("s", CODE_0);
    assert_eq!(phase_of(&told(&course)), "Failed");
    course.settle();
    let status = told(&course);
    let regular = one(&status.container_statuses.as_ref().unwrap()[0]);
    assert_eq!(regular, "a:waiting PodInitializing", "its turn never came");
    assert_eq!(
        condition(&status, "Initialized").reason.as_deref(),
        Some("ContainersNotInitialized")
    );
}

#[test]
fn sidecars_decide_no_phase() {
    for end in [CODE_0, CODE_1, ExitStatus::Signal(9)] {
        for (main, phase) in [(CODE_0, "Succeeded"), (CODE_1, "Failed")] {
            let mut course = with_init(Never, vec![sidecar("s")]);
            course.settle();
            course.ends("a", main);
            course.settle();
            assert_eq!(phase_of(&told(&course)), "Running", "the sidecar still runs");
            course.ends("s", end);
            assert_eq!(phase_of(&told(&course)), phase, "{end:?}");
            course.settle();
            assert_eq!(phase_of(&told(&course)), phase, "{end:?}");

            let mut course = with_init(Always, vec![sidecar("s")]);
            course.settle();
            course.desired = deleted(course.desired, at(100), 30);
            course.ends("a", main);
            course.ends("s", end);
            course.settle();
            assert_eq!(phase_of(&told(&course)), phase, "deleted, {end:?}");
        }
    }
}

#[test]
fn initialized_never_goes_back() {
    let mut course = with_init(Always, vec![container("i")]);
    course.settle();
    assert_eq!(condition(&told(&course), "Initialized").status, "False");
    course.ends("i", CODE_0);
    course.settle();
    assert_eq!(condition(&told(&course), "Initialized").status, "True");
    course.sandbox_dies();
    course.settle();
    let again = told(&course);
    assert_eq!(
        one(&again.init_container_statuses.as_ref().unwrap()[0]),
        "i:running started"
    );
    assert_eq!(condition(&again, "Initialized").status, "True");
}

#[test]
fn readiness_and_start_are_told_from_the_record_alone() {
    let mut course = with_init(Always, vec![]);
    course.desired.containers[0].life.startup = Some(probe());
    course.desired.containers[0].life.readiness = Some(probe());
    let state = |course: &Course| {
        let status = told(course);
        (
            one(&status.container_statuses.as_ref().unwrap()[0]),
            condition(&status, "Ready").status.clone(),
        )
    };
    let is = |text: &str, ready: &str| (text.to_owned(), ready.to_owned());
    course.settle();
    assert_eq!(state(&course), is("a:running", "False"));
    course.probed("a", ProbeKind::Startup, true, 1);
    assert_eq!(state(&course), is("a:running started", "False"));
    course.probed("a", ProbeKind::Readiness, true, 1);
    assert_eq!(state(&course), is("a:running started ready", "True"));
    course.probed("a", ProbeKind::Readiness, false, 3);
    assert_eq!(state(&course), is("a:running started", "False"));
}

#[test]
fn a_post_start_hook_that_failed_is_told_until_the_container_is_tried_again() {
    for policy in [Always, Never] {
        let mut course = with_init(policy, vec![]);
        course.desired.containers[0].life.post_start = Some(hook());
        course.settle();
        course.hooked("a", Hook::PostStart, Err("it said no"));
        course.settle();
        course.ends("a", ExitStatus::Signal(15));
        let status = told(&course);
        let status = &status.container_statuses.as_ref().unwrap()[0];
        if policy == Never {
            assert_eq!(one(status), "a:terminated Error");
            continue;
        }
        assert_eq!(one(status), "a:waiting PostStartHookError");
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref()).unwrap();
        assert_eq!(waiting.message.as_deref(), Some("it said no"));
        let last = status
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .unwrap();
        assert_eq!(last.exit_code, 143);
    }
}

#[test]
fn a_given_up_pod_says_why_once_nothing_runs() {
    let mut course = with_init(Always, vec![]);
    course.desired.active_deadline = Some(std::time::Duration::from_secs(200));
    course.settle();
    course.now = 200;
    course.settle();
    let status = told(&course);
    assert_eq!((phase_of(&status), status.reason.as_deref()), ("Running", None));
    course.ends("a", CODE_0);
    course.settle();
    let status = told(&course);
    assert_eq!(phase_of(&status), "Failed");
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(status.message.as_deref(), Some(message));
    let again = super::status(
        at(500),
        &node(),
        &course.desired,
        &course.observed,
        Some(&told(&course)),
    );
    assert_eq!(again, told(&course));
}

#[test]
fn a_resize_is_told_while_it_goes_on() {
    let mut course = with_init(Always, vec![]);
    course.desired.containers[0].resources = Resources {
        cpu_limit_milli: Some(100),
        ..Resources::default()
    };
    course.settle();
    let cpu = |course: &Course| {
        let status = told(course);
        let status = status.container_statuses.unwrap().remove(0);
        let limit = status.resources.unwrap().limits.unwrap().remove("cpu").unwrap().0;
        (limit, status.allocated_resources.unwrap().remove("cpu").unwrap().0)
    };
    let resizes = |course: &Course| {
        let status = told(course);
        let mut conditions = status.conditions.unwrap().into_iter();
        let resizing = conditions.find(|condition| condition.type_ == "PodResizeInProgress")?;
        Some((resizing.status, resizing.reason.unwrap_or_default()))
    };
    assert_eq!(
        (cpu(&course), resizes(&course)),
        (("100m".to_owned(), "100m".to_owned()), None)
    );
    course.desired.containers[0].resources.cpu_limit_milli = Some(200);
    let goes_on = |reason: &str| Some(("True".to_owned(), reason.to_owned()));
    assert_eq!((cpu(&course).0.as_str(), resizes(&course)), ("100m", goes_on("")));
    let before = course.observed.clone();
    let step = crate::model::FailedStep::Container("a".to_owned());
    let reason = crate::model::FailureReason::RunContainerError;
    course.observed = crate::reconcile::failed(at(100), &before, step, reason, "busy");
    assert_eq!(resizes(&course), goes_on("Error"));
    course.observed = before;
    course.desired.containers[0].resources.cpu_limit_milli = Some(4000);
    course.desired.containers[0].resources.cpu_request_milli = Some(4000);
    let status = told(&course);
    assert_eq!(resizes(&course), None);
    let pending = condition(&status, "PodResizePending");
    assert_eq!(
        (pending.reason.as_deref(), pending.message.as_deref()),
        (
            Some("Infeasible"),
            Some("Node didn't have enough capacity: cpu, requested: 4000, capacity: 2000")
        )
    );
    // Others have what it is to have.
    let resources = &mut course.desired.containers[0].resources;
    (resources.cpu_limit_milli, resources.cpu_request_milli) = (Some(200), None);
    let before = course.observed.clone();
    let (step, reason) = (crate::model::FailedStep::Resize, crate::model::FailureReason::Deferred);
    course.observed = crate::reconcile::failed(at(100), &before, step, reason, "no room");
    let status = told(&course);
    assert_eq!(resizes(&course), None);
    let pending = condition(&status, "PodResizePending");
    assert_eq!(
        (pending.reason.as_deref(), pending.message.as_deref()),
        (Some("Deferred"), Some("no room"))
    );
    course.observed = before;
    course.settle();
    assert_eq!((cpu(&course).0.as_str(), resizes(&course)), ("200m", None));
}

#[test]
fn a_restart_of_all_containers_is_told_until_all_have_ended() {
    let mut course = with_init(Never, vec![container("i"), sidecar("s")]);
    let source = &mut course.desired.containers[0];
    source.life.restart_policy = Some(Never);
    source.life.restart_rules = vec![RestartRule {
        action: RestartAction::RestartAllContainers,
        codes: vec![42],
        is_negated: false,
    }];
    let restarting = |course: &Course| {
        let condition = condition(&told(course), "AllContainersRestarting").clone();
        let (reason, message) = (
            condition.reason.unwrap_or_default(),
            condition.message.unwrap_or_default(),
        );
        format!("{} {reason} {message}", condition.status).trim_end().to_owned()
    };
    let states = |course: &Course| {
        let status = told(course);
        let lists = [status.init_container_statuses, status.container_statuses];
        let all: Vec<_> = lists.iter().flatten().flatten().map(one).collect();
        format!("{}: {}", status.phase.unwrap_or_default(), all.join(", "))
    };
    course.settle();
    course.ends("i", CODE_0);
    course.settle();
    assert_eq!(restarting(&course), "False");

    course.now = 102;
    course.ends("a", ExitStatus::Code(42));
    let began = "True RestartAllContainersStarted container exited with restart policy rule";
    assert_eq!(restarting(&course), began);
    course.round();
    assert_eq!(restarting(&course), began);
    let waiting = "waiting RestartingAllContainers";
    assert_eq!(
        states(&course),
        format!("Running: i:{waiting}, s:running started ready, a:{waiting}")
    );

    course.round();
    course.ends("s", ExitStatus::Signal(9));
    assert_eq!(restarting(&course), "False");
    assert_eq!(
        states(&course),
        format!("Running: i:{waiting}, s:{waiting}, a:{waiting}")
    );
    for status in told(&course).container_statuses.iter().flatten() {
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let last = last.expect("it ended");
        assert_eq!(
            (last.exit_code, last.reason.as_deref()),
            (137, Some("RestartingAllContainers"))
        );
        assert_eq!(
            last.message.as_deref(),
            Some("The container is removed because RestartAllContainers in place")
        );
    }

    course.settle();
    assert_eq!(
        states(&course),
        format!("Pending: i:running started, s:{waiting}, a:{waiting}")
    );
    assert_eq!(condition(&told(&course), "Initialized").status, "True");
    course.ends("i", CODE_0);
    course.settle();
    assert_eq!(
        states(&course),
        "Running: i:terminated Completed ready, s:running started ready, a:running started ready"
    );
    course.ends("a", CODE_1);
    course.ends("s", CODE_0);
    course.settle();
    assert_eq!(restarting(&course), "False PodFailed");
}

#[test]
fn a_containers_own_policy_decides_the_phase() {
    for (policy, own, end, phase) in [
        (Never, Always, CODE_0, "Running"),
        (Never, OnFailure, CODE_1, "Running"),
        (Never, OnFailure, CODE_0, "Succeeded"),
        (Always, Never, CODE_1, "Failed"),
        (Always, Never, CODE_0, "Succeeded"),
        (OnFailure, Never, CODE_1, "Failed"),
    ] {
        let mut course = with_init(policy, vec![]);
        course.desired.containers[0].life.restart_policy = Some(own);
        course.settle();
        course.ends("a", end);
        assert_eq!(phase_of(&told(&course)), phase, "{policy:?} {own:?} {end:?}");
    }
}
