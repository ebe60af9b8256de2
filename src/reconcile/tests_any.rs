//! Whatever the records say: no panic, the same plan twice, and steps that name what is there.

use std::time::Duration;

use proptest::prelude::*;

use super::testing::{BOOT, at, container, pod, probe, sidecar};
use super::*;
use crate::model::{
    Action, Attempt, AttemptLife, AttemptState, Backoff, ContainerLife, ContainerPhase, ContainerSnapshot, Exit,
    ExitStatus, Failure, FailureReason, GivenUp, Hook, HookRecord, InfraSnapshot, Probe, ProbeKind, ProbeRecord,
    Report, Reported, ResizePolicy, Resources, RestartAction, RestartPolicy, RestartRule, Sandbox, SandboxEnd,
    SandboxSnapshot, Snapshot, Stop, StopReason,
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
        Just(ExitStatus::OomSignal(9)),
        Just(ExitStatus::OomCode(0)),
        Just(ExitStatus::StartError),
        Just(ExitStatus::Lost),
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["a", "b", "i", "s", "t", "e", "stranger"]).prop_map(str::to_owned)
}

fn any_number() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0_u32..4, 1 => Just(u32::MAX)]
}

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![9 => (0_u64..700).prop_map(Duration::from_secs), 1 => Just(Duration::MAX)]
}

fn any_probe_record() -> impl Strategy<Value = ProbeRecord> {
    (any::<Option<bool>>(), any::<Option<bool>>(), any_number()).prop_map(|(result, last, count)| ProbeRecord {
        result,
        last,
        count,
    })
}

fn any_hook_record() -> impl Strategy<Value = HookRecord> {
    prop_oneof![
        3 => Just(HookRecord::NotRun),
        1 => any_time().prop_map(|at| HookRecord::Begun { at }),
        1 => any_time().prop_map(|at| HookRecord::Done { at }),
        1 => any_time().prop_map(|at| HookRecord::Failed { at, message: "m".to_owned() }),
    ]
}

fn any_resources() -> impl Strategy<Value = Resources> {
    (any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|(cpu, memory)| Resources {
        cpu_limit_milli: cpu.map(|much| if much { 2000 } else { 100 }),
        memory_limit: memory.map(|much| if much { 1 << 30 } else { 1 << 20 }),
        ..Resources::default()
    })
}

prop_compose! {
    fn any_stop()(
        why in proptest::sample::select(vec![
            StopReason::LivenessFailed, StopReason::StartupFailed, StopReason::PostStartFailed,
            StopReason::SpecChanged, StopReason::Resized, StopReason::PodEnds, StopReason::AllRestart,
        ]),
        asked_at in any_time(),
        grace in any_duration(),
    ) -> Stop {
        Stop { why, asked_at, grace }
    }
}

prop_compose! {
    fn any_life()(
        resources in proptest::option::of(any_resources()),
        startup in any_probe_record(), liveness in any_probe_record(), readiness in any_probe_record(),
        post_start in any_hook_record(), pre_stop in any_hook_record(),
        stop in proptest::option::weighted(0.3, any_stop()),
    ) -> AttemptLife {
        AttemptLife { resources, startup, liveness, readiness, post_start, pre_stop, stop, ..AttemptLife::default() }
    }
}

prop_compose! {
    fn any_probe()(
        success_threshold in 0_u32..4, failure_threshold in 0_u32..4,
        termination_grace in proptest::option::of(any_duration()),
    ) -> Probe {
        Probe { success_threshold, failure_threshold, termination_grace, ..probe() }
    }
}

fn any_policy() -> impl Strategy<Value = RestartPolicy> {
    proptest::sample::select(vec![
        RestartPolicy::Always,
        RestartPolicy::OnFailure,
        RestartPolicy::Never,
    ])
}

prop_compose! {
    fn any_rule()(
        action in proptest::sample::select(vec![RestartAction::Restart, RestartAction::RestartAllContainers]),
        codes in proptest::collection::vec(any_status().prop_map(ExitStatus::exit_code), 0..3),
        is_negated in any::<bool>(),
    ) -> RestartRule {
        RestartRule { action, codes, is_negated }
    }
}

prop_compose! {
    /// What is to happen to a container, and the resources it is to have.
    fn any_container_life()(
        startup in proptest::option::of(any_probe()),
        liveness in proptest::option::of(any_probe()),
        readiness in proptest::option::of(any_probe()),
        post_start in any::<bool>(), pre_stop in any::<bool>(),
        cpu_restarts in any::<bool>(),
        restart_policy in proptest::option::of(any_policy()),
        restart_rules in proptest::collection::vec(any_rule(), 0..3),
        resources in any_resources(),
    ) -> (ContainerLife, Resources) {
        let hook = |is: bool| is.then(|| Action::Sleep { duration: Duration::from_secs(1) });
        let life = ContainerLife {
            startup, liveness, readiness, post_start: hook(post_start), pre_stop: hook(pre_stop),
            resize_policy: ResizePolicy { cpu_restarts, memory_restarts: false },
            restart_policy, restart_rules,
            ..ContainerLife::default()
        };
        (life, resources)
    }
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
        life in prop_oneof![Just(AttemptLife::default()), any_life()],
    ) -> Attempt {
        Attempt {
            container, attempt, sandbox, image: image.to_owned(), image_id: None, state,
            backoff: Backoff { delay, set_at }, stop_signalled_at, killed_at, life,
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
        given_up_at in proptest::option::weighted(0.1, any_time()),
    ) -> Observed {
        // The store keeps one row for each attempt.
        attempts.sort_by(|a, b| (&a.container, a.attempt).cmp(&(&b.container, b.attempt)));
        attempts.dedup_by(|a, b| a.container == b.container && a.attempt == b.attempt);
        let given_up = given_up_at.map(|at| GivenUp {
            at,
            reason: GivenUpReason::DeadlineExceeded,
            message: "m".to_owned(),
        });
        Observed { sandbox, attempts, failures, started_at, torn_down, given_up }
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
        policy in any_policy(),
        names in (1_usize..=3).prop_map(|n| &["a", "b", "c"][..n]),
        host_network in any::<bool>(),
        deletion in proptest::option::of((any_time(), any_duration())),
        active_deadline in proptest::option::weighted(0.3, any_duration()),
        init in proptest::sample::subsequence(vec!["i", "s", "j", "t"], 0..=4),
        ephemeral in any::<bool>(),
        lives in proptest::collection::vec(any_container_life(), 8),
    ) -> PodSpec {
        let deletion = deletion.map(|(requested_at, grace)| crate::model::Deletion { requested_at, grace });
        let mut pod = PodSpec { host_network, active_deadline, deletion, ..pod(policy, names) };
        pod.init_containers = init
            .into_iter()
            .map(|name| if matches!(name, "s" | "t") { sidecar(name) } else { container(name) })
            .collect();
        let mut lives = lives.into_iter();
        for spec in pod.init_containers.iter_mut().filter(|spec| spec.is_sidecar()).chain(&mut pod.containers) {
            if let Some((life, resources)) = lives.next() {
                let restart_policy = spec.life.restart_policy.or(life.restart_policy);
                spec.life = ContainerLife { restart_policy, ..life };
                spec.resources = resources;
            }
        }
        if ephemeral {
            pod.ephemeral_containers = vec![container("e")];
        }
        pod
    }
}

/// A running attempt.
fn named<'a>(observed: &'a Observed, container: &str, attempt: u32) -> Option<&'a Attempt> {
    let mut attempts = observed.attempts.iter();
    attempts.find(|a| a.container == container && a.attempt == attempt && is_running(a))
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
    fn reports_are_folded_in_once_and_change_one_attempt_alone(
        now in any_time(), desired in any_pod(), observed in any_observed(),
        container in any_name(), attempt in any_number(), at in any_time(), success in any::<bool>(),
        kind in proptest::sample::select(vec![ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness]),
        hook in proptest::sample::select(vec![None, Some(Hook::PostStart), Some(Hook::PreStop)]),
    ) {
        let what = match hook {
            Some(hook) => Reported::Hook { hook, result: if success { Ok(()) } else { Err("no".to_owned()) } },
            None => Reported::Probe { kind, success },
        };
        let told = Report { container: container.clone(), attempt, at, what };
        let new = report(now, &desired, &observed, &told);
        let but_one = |observed: &Observed| {
            let mut observed = observed.clone();
            for a in observed.attempts.iter_mut().filter(|a| a.container == container && a.attempt == attempt) {
                a.life = AttemptLife { resources: None, stop: None, ..AttemptLife::default() };
            }
            observed
        };
        prop_assert_eq!(but_one(&new), but_one(&observed));
        let again = report(now, &desired, &new, &told);
        if hook.is_some() {
            prop_assert_eq!(again, new);
        } else {
            // Whatever the threshold is, so often the same is news no longer.
            let mut last = again;
            for _ in 0..4 {
                last = report(now, &desired, &last, &told);
            }
            prop_assert_eq!(report(now, &desired, &last, &told), last);
        }
    }

    #[test]
    fn deciding_is_total_and_names_what_is_there(
        now in any_time(), desired in any_pod(), observed in any_observed(), snapshot in any_snapshot(),
        cap in 1_u64..=300,
    ) {
        let limits = Limits { max_backoff: Duration::from_secs(cap), ..Limits::default() };
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
                        let named = named(&observed, container, *attempt);
                        prop_assert!(named.is_some_and(|a| desired.deletion.is_some() || a.life.stop.is_some()));
                    }
                    Step::BeginStop { container, attempt, stop } => {
                        let mut known = observed.attempts.iter();
                        let known = known.find(|a| a.container == *container && a.attempt == *attempt);
                        let is_news = known.is_some_and(|a| if stop.why == StopReason::AllRestart {
                            !a.is_left_behind()
                        } else {
                            is_running(a) && a.life.stop.is_none()
                        });
                        prop_assert!(is_news && desired.deletion.is_none());
                        prop_assert_eq!(stop.asked_at, now);
                    }
                    Step::RunHook { container, attempt, hook } => {
                        let record = named(&observed, container, *attempt).map(|a| match hook {
                            Hook::PostStart => &a.life.post_start,
                            Hook::PreStop => &a.life.pre_stop,
                        });
                        let is_over = matches!(record, None | Some(HookRecord::Done { .. } | HookRecord::Failed { .. }));
                        prop_assert!(!is_over, "{container} {attempt}");
                    }
                    Step::Resize { container, attempt, resources } => {
                        let named = named(&observed, container, *attempt);
                        prop_assert!(named.is_some_and(|a| a.life.resources.as_ref() != Some(resources)));
                    }
                    Step::GiveUp { .. } => {
                        prop_assert!(observed.given_up.is_none() && desired.deletion.is_none());
                    }
                    Step::TearDown => prop_assert!(!observed.torn_down),
                    Step::Forget => prop_assert!(observed.torn_down && desired.deletion.is_some()),
                }
            }
        }
    }
}
