//! Whatever the records say: no panic, the same plan twice, and steps that name what is there.

use std::time::Duration;

use proptest::prelude::*;

use super::testing::{BOOT, at, pod};
use super::*;
use crate::model::{
    Attempt, AttemptLife, ContainerPhase, ContainerSnapshot, ExitStatus, Failure, InfraSnapshot, SandboxEnd,
    SandboxSnapshot, Snapshot,
};

fn any_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        8 => (0_i64..4_000).prop_map(at),
        1 => (i64::MIN / 4_000..i64::MAX / 4_000_000_000).prop_map(|s| {
            Timestamp::from_second(s.clamp(-377_705_023_000, 253_402_207_200)).unwrap()
        }),
        1 => Just(Timestamp::MAX),
        1 => Just(Timestamp::MIN),
    ]
}

fn any_status() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        any::<i32>().prop_map(ExitStatus::Code),
        any::<i32>().prop_map(ExitStatus::Signal),
        Just(ExitStatus::Code(0)),
        Just(ExitStatus::OomKilled),
        Just(ExitStatus::StartError),
        Just(ExitStatus::Lost),
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("stranger")].prop_map(str::to_owned)
}

fn any_number() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0_u32..4, 1 => Just(u32::MAX)]
}

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![9 => (0_u64..700).prop_map(Duration::from_secs), 1 => Just(Duration::MAX)]
}

prop_compose! {
    fn any_attempt()(
        container in any_name(),
        attempt in any_number(),
        sandbox in any_number(),
        image in prop_oneof![Just("busybox"), Just("")],
        state in prop_oneof![
            Just(AttemptState::Starting),
            any_time().prop_map(|started_at| AttemptState::Running { started_at }),
            (any_status(), proptest::option::of(any_time()), any_time()).prop_map(|(status, started_at, finished_at)| {
                AttemptState::Exited(Exit { status, started_at, finished_at, message: String::new() })
            }),
        ],
        delay in any_duration(),
        set_at in proptest::option::of(any_time()),
        stop_signalled_at in proptest::option::of(any_time()),
        killed_at in proptest::option::of(any_time()),
    ) -> Attempt {
        Attempt {
            container, attempt, sandbox, image: image.to_owned(), image_id: None, state,
            backoff: Backoff { delay, set_at }, stop_signalled_at, killed_at, life: AttemptLife::default(),
        }
    }
}

prop_compose! {
    fn any_sandbox()(
        attempt in any_number(),
        state in prop_oneof![
            Just(SandboxState::Creating),
            any_time().prop_map(|ready_at| SandboxState::Ready { ready_at }),
            any_time().prop_map(|at| SandboxState::Dead { at, end: SandboxEnd::ShimLost }),
            any_time().prop_map(|at| SandboxState::Stopped { at }),
        ],
        created_at in any_time(),
        boot in prop_oneof![3 => Just(BOOT), 1 => Just("boot-0")],
    ) -> Sandbox {
        Sandbox { attempt, state, ip: None, created_at, boot_id: boot.to_owned() }
    }
}

prop_compose! {
    fn any_failure()(
        step in prop_oneof![
            Just(FailedStep::Sandbox),
            Just(FailedStep::Teardown),
            any_name().prop_map(FailedStep::Container),
        ],
        count in prop_oneof![Just(0), 1_u32..20, Just(u32::MAX)],
        at in any_time(),
    ) -> Failure {
        Failure { step, reason: FailureReason::ErrImagePull, message: "m".to_owned(), count, at }
    }
}

prop_compose! {
    pub(crate) fn any_observed()(
        sandbox in proptest::option::of(any_sandbox()),
        mut attempts in proptest::collection::vec(any_attempt(), 0..6),
        failures in proptest::collection::vec(any_failure(), 0..3),
        started_at in proptest::option::of(any_time()),
        torn_down in proptest::bool::weighted(0.1),
    ) -> Observed {
        // The store keeps one row for each attempt.
        attempts.sort_by(|a, b| (&a.container, a.attempt).cmp(&(&b.container, b.attempt)));
        attempts.dedup_by(|a, b| a.container == b.container && a.attempt == b.attempt);
        Observed { sandbox, attempts, failures, started_at, torn_down, given_up: None }
    }
}

prop_compose! {
    fn any_fact()(
        container in any_name(),
        attempt in any_number(),
        phase in prop_oneof![
            Just(ContainerPhase::Starting),
            any_time().prop_map(|started_at| ContainerPhase::Running { pid: 1, started_at }),
            any_time().prop_map(|at| ContainerPhase::StartFailed { message: String::new(), at }),
            (any_status(), any_time(), any_time()).prop_map(|(status, started_at, finished_at)| {
                ContainerPhase::Exited { status, started_at, finished_at }
            }),
        ],
        stop_signalled_at in proptest::option::of(any_time()),
        killed_at in proptest::option::of(any_time()),
    ) -> ContainerSnapshot {
        ContainerSnapshot { container, attempt, phase, stop_signalled_at, killed_at }
    }
}

prop_compose! {
    fn any_snapshot()(
        sandboxes in proptest::collection::vec(
            (
                any_number(),
                any::<bool>(),
                prop_oneof![
                    Just(InfraSnapshot::Absent),
                    any_time().prop_map(|since| InfraSnapshot::Running { pid: 1, since }),
                    any_time().prop_map(|at| InfraSnapshot::Exited { at }),
                ],
                proptest::collection::vec(any_fact(), 0..5),
            ),
            0..3,
        ),
    ) -> Snapshot {
        // One for each sandbox attempt, and in it one for each container attempt.
        let sandbox = |(attempt, shim_alive, infra, mut containers): (_, _, _, Vec<ContainerSnapshot>)| {
            containers.sort_by(|a, b| (&a.container, a.attempt).cmp(&(&b.container, b.attempt)));
            containers.dedup_by(|a, b| a.container == b.container && a.attempt == b.attempt);
            SandboxSnapshot { attempt, shim_alive, infra, containers }
        };
        let mut sandboxes: Vec<_> = sandboxes.into_iter().map(sandbox).collect();
        sandboxes.sort_by_key(|sandbox| sandbox.attempt);
        sandboxes.dedup_by_key(|sandbox| sandbox.attempt);
        Snapshot { sandboxes }
    }
}

prop_compose! {
    pub(crate) fn any_pod()(
        policy in prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)],
        names in (1_usize..=3).prop_map(|n| &["a", "b", "c"][..n]),
        host_network in any::<bool>(),
        deletion in proptest::option::of((any_time(), any_duration())),
    ) -> PodSpec {
        let deletion = deletion.map(|(requested_at, grace)| crate::model::Deletion { requested_at, grace });
        PodSpec { host_network, deletion, ..pod(policy, names) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recording_is_total_and_idempotent(
        now in any_time(), observed in any_observed(), snapshot in any_snapshot(),
    ) {
        let once = record(now, BOOT, &observed, &snapshot);
        prop_assert_eq!(record(now, BOOT, &once, &snapshot), once.clone());
        for old in &observed.attempts {
            let new = once.attempts.iter().find(|new| new.container == old.container && new.attempt == old.attempt);
            if let (Some(end), Some(new)) = (old.exit(), new) {
                prop_assert_eq!(Some(end), new.exit(), "an end was replaced");
            }
        }
    }

    #[test]
    fn deciding_is_total_and_names_what_is_there(
        now in any_time(), desired in any_pod(), observed in any_observed(), snapshot in any_snapshot(),
        cap in 1_u64..=300,
    ) {
        let limits = Limits { max_backoff: Duration::from_secs(cap) };
        for observed in [record(now, BOOT, &observed, &snapshot), observed] {
            let plan = reconcile(now, &desired, &observed, &limits);
            prop_assert_eq!(&plan, &reconcile(now, &desired, &observed, &limits));
            prop_assert!(plan.wake_at.is_none_or(|at| at > now), "{:?}", plan);
            for step in &plan.steps {
                match step {
                    Step::CreateSandbox { attempt } => {
                        let last = observed.sandbox.as_ref().map(|sandbox| sandbox.attempt);
                        prop_assert!(last.is_none_or(|last| *attempt == last || *attempt == last.saturating_add(1)));
                    }
                    Step::StopSandbox { attempt } => {
                        prop_assert_eq!(observed.sandbox.as_ref().map(|sandbox| sandbox.attempt), Some(*attempt));
                    }
                    Step::StartContainer { container, attempt, sandbox, backoff } => {
                        prop_assert!(desired.container(container).is_some() && desired.deletion.is_none());
                        prop_assert_eq!(observed.sandbox.as_ref().map(|sandbox| sandbox.attempt), Some(*sandbox));
                        let begun = observed.attempts.iter().find(|a| a.container == *container && a.attempt == *attempt);
                        prop_assert!(begun.is_none_or(|begun| begun.is_live() && begun.sandbox == *sandbox || *attempt == u32::MAX));
                        let last = observed.newest(container).map(|newest| newest.attempt);
                        prop_assert!(last.is_none_or(|last| *attempt == last || *attempt == last.saturating_add(1)));
                        prop_assert!(*attempt == 0 || backoff.delay <= limits.max_backoff || last == Some(*attempt));
                    }
                    Step::StopContainer { container, attempt } | Step::KillContainer { container, attempt } => {
                        let named = observed.attempts.iter().find(|a| a.container == *container && a.attempt == *attempt);
                        prop_assert!(named.is_some_and(Attempt::is_live) && desired.deletion.is_some());
                    }
                    Step::BeginStop { .. } | Step::RunHook { .. } | Step::Resize { .. } | Step::GiveUp { .. } => {}
                    Step::TearDown => prop_assert!(!observed.torn_down),
                    Step::Forget => prop_assert!(observed.torn_down && desired.deletion.is_some()),
                }
            }
        }
    }
}
