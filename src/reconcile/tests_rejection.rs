//! Pods that are turned away.

use super::testing::{at, deleted, exited, pod, ready};
use super::*;
use crate::model::{AllowedSysctls, AppArmorProfile, ExitStatus, RestartPolicy, Step};
use crate::status::{NodeFacts, status};

fn limits() -> Limits {
    Limits::default()
}

fn with_sysctl(name: &str) -> PodSpec {
    let mut pod = pod(RestartPolicy::Always, &["a"]);
    pod.security.sysctls = vec![(name.to_owned(), "1".to_owned())];
    pod
}

fn rejection_of(pod: &PodSpec, limits: &Limits) -> Option<(GivenUpReason, String)> {
    let plan = reconcile(at(10), pod, &Observed::default(), limits);
    match &plan.steps[..] {
        [Step::GiveUp { reason, message }] => Some((*reason, message.clone())),
        [Step::CreateSandbox { .. }] => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_forbidden_sysctl_rejects_the_pod_before_anything_is_made() {
    let (reason, message) = rejection_of(&with_sysctl("kernel.msgmax"), &limits()).unwrap();
    assert_eq!(reason, GivenUpReason::SysctlForbidden);
    assert_eq!(
        message,
        "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted"
    );
    assert_eq!(rejection_of(&with_sysctl("kernel.shm_rmid_forced"), &limits()), None);
    let more = Limits {
        sysctls: AllowedSysctls::with_unsafe(["kernel.msg*"]).unwrap(),
        ..limits()
    };
    assert_eq!(rejection_of(&with_sysctl("kernel.msgmax"), &more), None);
}

#[test]
fn a_profile_needs_a_kernel_with_app_armor() {
    let with = Limits {
        app_armor: true,
        ..limits()
    };
    for (profile, is_needed) in [
        (AppArmorProfile::Unset, false),
        (AppArmorProfile::Unconfined, false),
        (AppArmorProfile::RuntimeDefault, true),
        (AppArmorProfile::Localhost("own".to_owned()), true),
    ] {
        let mut pod = pod(RestartPolicy::Always, &["a", "b"]);
        pod.containers[1].security.app_armor = profile.clone();
        let why = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
        let expected = is_needed.then_some((GivenUpReason::AppArmor, why));
        assert_eq!(rejection_of(&pod, &limits()), expected, "{profile:?}");
        assert_eq!(rejection_of(&pod, &with), None, "{profile:?}");
    }
}

#[test]
fn what_was_let_in_once_is_not_turned_away() {
    let pod = with_sysctl("kernel.msgmax");
    let running = ready(Vec::new());
    let plan = reconcile(at(10), &pod, &running, &limits());
    assert!(matches!(&plan.steps[..], [Step::StartContainer { .. }]), "{plan:?}");
}

#[test]
fn a_rejected_pod_tells_why_and_of_no_container() {
    let pod = with_sysctl("kernel.msgmax");
    let mut observed = Observed {
        started_at: Some(at(9)),
        ..Observed::default()
    };
    let plan = reconcile(at(10), &pod, &observed, &limits());
    let [Step::GiveUp { reason, message }] = &plan.steps[..] else {
        panic!("{plan:?}");
    };
    observed = gave_up(at(10), &observed, *reason, message.clone());
    assert_eq!(reconcile(at(11), &pod, &observed, &limits()), Plan::default());
    let told = status(at(11), &NodeFacts::default(), &pod, &observed, None);
    assert_eq!(told.phase.as_deref(), Some("Failed"));
    assert_eq!(told.reason.as_deref(), Some("SysctlForbidden"));
    let message = "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted";
    assert_eq!(told.message.as_deref(), Some(message));
    assert_eq!((told.container_statuses, told.conditions), (None, None));
    assert!(told.start_time.is_some());
    // Its deletion needs nothing but the ordinary end.
    let gone = deleted(pod, at(10), 30);
    let plan = reconcile(at(11), &gone, &observed, &limits());
    assert_eq!(plan.steps, [Step::TearDown]);
}

#[test]
fn a_pod_that_ran_is_not_told_of_as_rejected() {
    let pod = with_sysctl("kernel.msgmax");
    let ended = super::testing::attempt("a", 0, exited(ExitStatus::Code(1), 1, 2));
    let observed = gave_up(at(10), &ready(vec![ended]), GivenUpReason::OutOfCpu, "late");
    let told = status(at(11), &NodeFacts::default(), &pod, &observed, None);
    assert_eq!(told.container_statuses.map(|all| all.len()), Some(1));
    let plan = reconcile(at(11), &pod, &observed, &limits());
    assert!(matches!(&plan.steps[..], [Step::StopSandbox { .. }]), "{plan:?}");
}
