//! What is observed of pods.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::model::{
    Attempt, AttemptLife, AttemptState, Backoff, Exit, ExitStatus, FailedStep, Failure, FailureReason, GivenUp,
    GivenUpReason, HookRecord, ImageId, ProbeRecord, Resources, Sandbox, SandboxEnd, SandboxState, Stop, StopReason,
    User,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::new(1_790_000_000 + seconds, 123_456_789).unwrap()
}

fn attempt(container: &str, attempt: u32, state: AttemptState) -> Attempt {
    Attempt {
        container: container.to_owned(),
        attempt,
        sandbox: 0,
        image: "busybox".to_owned(),
        image_id: Some(ImageId("sha256:1".to_owned())),
        state,
        backoff: Backoff {
            delay: Duration::from_secs(10),
            set_at: Some(at(1)),
        },
        stop_signalled_at: None,
        killed_at: None,
        life: AttemptLife::default(),
    }
}

fn exited(code: i32) -> AttemptState {
    AttemptState::Exited(Exit {
        status: ExitStatus::Code(code),
        started_at: Some(at(2)),
        finished_at: at(3),
        message: String::new(),
    })
}

/// A pod with something in every table, and `attempts` attempts.
pub(super) fn full(attempts: u32) -> Observed {
    let running = AttemptState::Running { started_at: at(5) };
    let mut all: Vec<_> = (0..attempts - 1).map(|n| attempt("main", n, exited(1))).collect();
    all.push(attempt("main", attempts - 1, running));
    Observed {
        sandbox: Some(Sandbox {
            attempt: 0,
            state: SandboxState::Ready { ready_at: at(1) },
            ip: Some("10.0.0.1".parse().unwrap()),
            created_at: at(0),
            boot_id: "boot".to_owned(),
        }),
        attempts: all,
        failures: vec![Failure {
            step: FailedStep::Sandbox,
            reason: FailureReason::FailedMount,
            message: "no".to_owned(),
            count: 1,
            at: at(1),
        }],
        started_at: Some(at(0)),
        torn_down: false,
        given_up: None,
    }
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        any::<i64>(),
        Just(i64::MIN),
        Just(i64::MAX),
        Just(0),
        1_700_000_000_000_000_000..1_900_000_000_000_000_000_i64
    ]
    .prop_map(|nanoseconds| Timestamp::from_nanosecond(nanoseconds.into()).unwrap())
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..=i64::MAX).prop_map(|nanoseconds| Duration::from_nanos(nanoseconds.unsigned_abs()))
}

fn sandbox() -> impl Strategy<Value = Sandbox> {
    let end = prop_oneof![
        Just(SandboxEnd::InfraExited),
        Just(SandboxEnd::ShimLost),
        Just(SandboxEnd::Rebooted)
    ];
    let state = prop_oneof![
        Just(SandboxState::Creating),
        time().prop_map(|ready_at| SandboxState::Ready { ready_at }),
        (time(), end).prop_map(|(at, end)| SandboxState::Dead { at, end }),
        time().prop_map(|at| SandboxState::Stopped { at }),
    ];
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(std::net::IpAddr::from),
        any::<[u8; 16]>().prop_map(std::net::IpAddr::from)
    ];
    (any::<u32>(), state, prop::option::of(ip), time(), ".*").prop_map(|(attempt, state, ip, created_at, boot_id)| {
        Sandbox {
            attempt,
            state,
            ip,
            created_at,
            boot_id,
        }
    })
}

fn attempt_state() -> impl Strategy<Value = AttemptState> {
    let status = prop_oneof![
        any::<i32>().prop_map(ExitStatus::Code),
        any::<i32>().prop_map(ExitStatus::Signal),
        (0..=255).prop_map(ExitStatus::OomCode),
        (1..=64).prop_map(ExitStatus::OomSignal),
        Just(ExitStatus::StartError),
        Just(ExitStatus::Lost),
    ];
    let exit =
        (status, prop::option::of(time()), time(), ".*").prop_map(|(status, started_at, finished_at, message)| Exit {
            status,
            started_at,
            finished_at,
            message,
        });
    prop_oneof![
        Just(AttemptState::Starting),
        time().prop_map(|started_at| AttemptState::Running { started_at }),
        exit.prop_map(AttemptState::Exited),
    ]
}

/// Any number.
fn count_of(record: &ProbeRecord) -> u32 {
    record.count
}

fn life() -> impl Strategy<Value = AttemptLife> {
    let amount = || prop::option::of(any::<u64>());
    let resources = (amount(), amount(), amount(), amount()).prop_map(
        |(cpu_request_milli, cpu_limit_milli, memory_request, memory_limit)| Resources {
            cpu_request_milli,
            cpu_limit_milli,
            memory_request,
            memory_limit,
            ..Resources::default()
        },
    );
    let probe = || {
        (any::<Option<bool>>(), any::<Option<bool>>(), any::<u32>()).prop_map(|(result, last, count)| ProbeRecord {
            result,
            last,
            count,
        })
    };
    let hook = || {
        prop_oneof![
            Just(HookRecord::NotRun),
            time().prop_map(|at| HookRecord::Begun { at }),
            time().prop_map(|at| HookRecord::Done { at }),
            (time(), ".*").prop_map(|(at, message)| HookRecord::Failed { at, message }),
        ]
    };
    let why = prop::sample::select(vec![
        StopReason::LivenessFailed,
        StopReason::StartupFailed,
        StopReason::PostStartFailed,
        StopReason::SpecChanged,
        StopReason::Resized,
        StopReason::PodEnds,
        StopReason::AllRestart,
    ]);
    let stop = (why, time(), duration()).prop_map(|(why, asked_at, grace)| Stop { why, asked_at, grace });
    let all = (
        (prop::option::of(resources), probe(), probe(), probe()),
        (hook(), hook(), prop::option::of(stop)),
    );
    prop_oneof![
        Just(AttemptLife::default()),
        all.prop_map(
            |((resources, startup, liveness, readiness), (post_start, pre_stop, stop))| AttemptLife {
                repo_digest: resources.as_ref().map(|_| "docker.io/library/x@sha256:1".to_owned()),
                user: resources.as_ref().map(|_| User {
                    uid: count_of(&startup),
                    gid: 7,
                    groups: vec![7, u32::MAX],
                    home: "/home/ä".to_owned(),
                }),
                resources,
                startup,
                liveness,
                readiness,
                post_start,
                pre_stop,
                stop,
            }
        ),
    ]
}

fn given_up() -> impl Strategy<Value = GivenUp> {
    let reason = prop::sample::select(&GivenUpReason::ALL[..]);
    (time(), reason, ".*").prop_map(|(at, reason, message)| GivenUp { at, reason, message })
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let optional = || prop::option::of(time());
    (
        (
            prop::sample::select(vec!["a", "b"]),
            0..7_u32,
            any::<u32>(),
            ".*",
            prop::option::of(".*"),
        ),
        (attempt_state(), duration(), optional(), optional(), optional()),
        life(),
    )
        .prop_map(
            |(
                (container, attempt, sandbox, image, image_id),
                (state, delay, set_at, stop_signalled_at, killed_at),
                life,
            )| {
                Attempt {
                    container: container.to_owned(),
                    attempt,
                    sandbox,
                    image,
                    image_id: image_id.map(ImageId),
                    state,
                    backoff: Backoff { delay, set_at },
                    stop_signalled_at,
                    killed_at,
                    life,
                }
            },
        )
}

fn failure() -> impl Strategy<Value = Failure> {
    let step = prop_oneof![
        Just(FailedStep::Sandbox),
        Just(FailedStep::Teardown),
        Just(FailedStep::Resize),
        Just(FailedStep::Container("a".to_owned())),
        Just(FailedStep::Container("b".to_owned())),
    ];
    let reason = prop::sample::select(vec![
        FailureReason::CreatePodSandboxError,
        FailureReason::FailedMount,
        FailureReason::ErrImagePull,
        FailureReason::ErrImageNeverPull,
        FailureReason::InvalidImageName,
        FailureReason::CreateContainerConfigError,
        FailureReason::CreateContainerError,
        FailureReason::RunContainerError,
        FailureReason::KillPodSandboxError,
        FailureReason::Deferred,
    ]);
    (step, reason, ".*", any::<u32>(), time()).prop_map(|(step, reason, message, count, at)| Failure {
        step,
        reason,
        message,
        count,
        at,
    })
}

/// In the order the store gives it back.
fn any_observed() -> impl Strategy<Value = Observed> {
    (
        prop::option::of(sandbox()),
        prop::collection::vec(any_attempt(), 0..12),
        prop::collection::vec(failure(), 0..4),
        prop::option::of(time()),
        any::<bool>(),
        prop::option::of(given_up()),
    )
        .prop_map(
            |(sandbox, mut attempts, mut failures, started_at, torn_down, given_up)| {
                attempts.sort_by(|a, b| (&a.container, a.attempt).cmp(&(&b.container, b.attempt)));
                attempts.dedup_by(|a, b| (&a.container, a.attempt) == (&b.container, b.attempt));
                let key = |failure: &Failure| match &failure.step {
                    FailedStep::Container(container) => (0, container.clone()),
                    FailedStep::Resize => (1, String::new()),
                    FailedStep::Sandbox => (2, String::new()),
                    FailedStep::Teardown => (3, String::new()),
                };
                failures.sort_by_key(key);
                failures.dedup_by_key(|failure| key(failure));
                Observed {
                    sandbox,
                    attempts,
                    failures,
                    started_at,
                    torn_down,
                    given_up,
                }
            },
        )
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_saved_is_what_is_read(history in prop::collection::vec(any_observed(), 1..8)) {
        block_on(async {
            let (store, scratch) = fresh().await;
            let other = full(3);
            store.save_observed(&uid(2), &Observed::default(), &other).await.unwrap();
            let mut before = Observed::default();
            for after in history {
                store.save_observed(&uid(1), &before, &after).await.unwrap();
                let read = store.observed(&uid(1)).await.unwrap();
                let Observed { sandbox, attempts, failures, started_at, torn_down, given_up } = &read;
                assert_eq!(
                    (sandbox, failures, started_at, torn_down, given_up),
                    (&after.sandbox, &after.failures, &after.started_at, &after.torn_down, &after.given_up)
                );
                // Nothing is made up, and of each container all that a decision needs is there.
                let all: BTreeSet<_> = attempts.iter().map(|a| (a.container.as_str(), a.attempt)).collect();
                assert!(attempts.iter().all(|attempt| after.attempts.contains(attempt)));
                for container in ["a", "b"] {
                    assert_eq!(read.newest(container), after.newest(container));
                    let wanted: Vec<_> = after.attempts.iter().filter(|a| a.container == container).collect();
                    let ended = wanted.iter().rev().skip(1).find(|a| !a.is_live());
                    let live = wanted.iter().filter(|a| a.is_live());
                    for needed in wanted.iter().rev().take(3).chain(ended).chain(live) {
                        assert!(all.contains(&(container, needed.attempt)), "{container} {}", needed.attempt);
                    }
                    if let Some(newest) = after.newest(container) {
                        let last = after.ended_before(container, newest.attempt);
                        assert_eq!(read.ended_before(container, newest.attempt), last);
                    }
                }
                // What is remembered is what is on the disk.
                assert_eq!(scratch.open().await.observed(&uid(1)).await.unwrap(), read);
                before = read;
            }
            assert_eq!(store.observed(&uid(2)).await.unwrap(), other);
        });
    }
}

#[tokio::test]
async fn a_container_that_crashes_for_ever_keeps_three_attempts() {
    let scratch = Scratch::new();
    let mut store = scratch.open().await;
    let mut before = Observed::default();
    for n in 0..40 {
        // As a controller does: the newest attempt ends, the next one is recorded.
        let mut after = before.clone();
        if let Some(last) = after.attempts.last_mut() {
            last.state = exited(1);
        }
        after.attempts.push(attempt("main", n, AttemptState::Starting));
        store.save_observed(&uid(1), &before, &after).await.unwrap();
        // Who has just started reads it; who runs goes on with what it has in memory.
        before = if n % 3 == 0 {
            store.observed(&uid(1)).await.unwrap()
        } else {
            after
        };
        if n == 20 {
            drop(store);
            store = scratch.open().await;
        }
    }
    let kept: Vec<_> = store
        .observed(&uid(1))
        .await
        .unwrap()
        .attempts
        .iter()
        .map(|a| a.attempt)
        .collect();
    assert_eq!(kept, [37, 38, 39]);
}

#[tokio::test]
async fn an_old_attempt_that_lived_long_is_dropped_once_it_ends() {
    let (store, _scratch) = fresh().await;
    let running = AttemptState::Running { started_at: at(2) };
    let mut before = Observed {
        attempts: vec![attempt("main", 0, running)],
        ..Observed::default()
    };
    before.attempts.extend((1..6).map(|n| attempt("main", n, exited(1))));
    store
        .save_observed(&uid(1), &Observed::default(), &before)
        .await
        .unwrap();
    assert_eq!(store.observed(&uid(1)).await.unwrap(), before);
    let mut after = before.clone();
    after.attempts[0].state = exited(0);
    store.save_observed(&uid(1), &before, &after).await.unwrap();
    let kept = store.observed(&uid(1)).await.unwrap().attempts;
    assert_eq!(kept, after.attempts[3..]);
}

#[tokio::test]
async fn the_newest_ended_attempt_is_kept_behind_many_that_live() {
    let (store, _scratch) = fresh().await;
    let mut observed = Observed {
        attempts: vec![attempt("main", 0, exited(7))],
        ..Observed::default()
    };
    store
        .save_observed(&uid(1), &Observed::default(), &observed)
        .await
        .unwrap();
    for n in 1..6 {
        let before = observed.clone();
        observed.attempts.push(attempt("main", n, AttemptState::Starting));
        store.save_observed(&uid(1), &before, &observed).await.unwrap();
    }
    assert_eq!(store.observed(&uid(1)).await.unwrap(), observed);
}

#[tokio::test]
async fn what_differs_is_written_in_one_transaction() {
    let (store, _scratch) = fresh().await;
    let before = full(2);
    store
        .save_observed(&uid(1), &Observed::default(), &before)
        .await
        .unwrap();
    // The last row cannot be written: a time that no column holds. Nothing of the rest may be.
    let mut after = before.clone();
    after.attempts[1].state = exited(3);
    after.failures[0].at = Timestamp::MAX;
    let error = store.save_observed(&uid(1), &before, &after).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::DoesNotFit {
                table: "failure",
                column: "at",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(store.observed(&uid(1)).await.unwrap(), before);
}

#[tokio::test]
async fn a_pod_that_is_torn_down_gives_its_address_back() {
    let (store, _scratch) = fresh().await;
    let range = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 1));
    address_of(&store, &uid(1), (range.0, range.1)).await.unwrap();
    let before = full(1);
    store
        .save_observed(&uid(1), &Observed::default(), &before)
        .await
        .unwrap();
    assert!(address_of(&store, &uid(2), (range.0, range.1)).await.is_err());
    let after = Observed {
        torn_down: true,
        ..before.clone()
    };
    store.save_observed(&uid(1), &before, &after).await.unwrap();
    assert_eq!(address_of(&store, &uid(2), (range.0, range.1)).await.unwrap(), range.0);
}

#[tokio::test]
async fn a_late_record_of_a_forgotten_pod_is_refused() {
    let (store, _scratch) = fresh().await;
    make(&store, 1).await;
    let before = full(1);
    store
        .save_observed(&uid(1), &Observed::default(), &before)
        .await
        .unwrap();
    store.forget_pod(&uid(1)).await.unwrap();
    assert!(store.save_observed(&uid(1), &before, &full(2)).await.is_err());
    assert!(store.pod_uids().await.unwrap().is_empty());
}

#[tokio::test]
async fn garbage_harms_the_pod_it_is_about_and_no_other() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    for n in 1..=6 {
        make(&store, n).await;
        store.set_status(&uid(n), json!({ "phase": "Running" })).await.unwrap();
        store
            .save_observed(&uid(n), &Observed::default(), &full(2))
            .await
            .unwrap();
    }
    scratch
        .meddle(
            "PRAGMA ignore_check_constraints = on;
             UPDATE sandbox SET ip = 'nonsense' WHERE uid LIKE '%1';
             UPDATE attempt SET state = 'Dreaming' WHERE uid LIKE '%2' AND attempt = 0;
             UPDATE attempt SET message = CAST(x'ff00fe' AS TEXT), exit_number = NULL WHERE uid LIKE '%3' AND attempt = 0;
             UPDATE failure SET count = 99999999999 WHERE uid LIKE '%4';
             UPDATE object SET desired = substr(desired, 1, 40) WHERE uid LIKE '%5';
             UPDATE object SET desired = '[]', name = CAST(x'ff' AS TEXT) WHERE uid LIKE '%6';
             UPDATE change SET object = '{' WHERE resource_version = 4;",
        )
        .await;
    // What the first one wrote itself it does not read again.
    drop(store);
    for store in [scratch.open().await, scratch.open().await] {
        for (n, table) in [(1, "sandbox"), (2, "attempt"), (3, "attempt"), (4, "failure")] {
            let error = store.observed(&uid(n)).await.unwrap_err();
            let StoreError::Unreadable { table: found, key, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*found, table);
            assert!(key.contains(uid(n).as_str()), "{key}");
            // Its object is another matter.
            assert!(store.get_by_uid("Pod", &uid(n)).await.unwrap().is_some());
        }
        for n in [5, 6] {
            assert_eq!(store.observed(&uid(n)).await.unwrap(), full(2));
            let error = store.get_by_uid("Pod", &uid(n)).await.unwrap_err();
            assert!(
                matches!(error, StoreError::Unreadable { table: "object", .. }),
                "{error}"
            );
            assert!(store.set_status(&uid(n), json!({})).await.is_err());
        }
        for limit in [None, Some(1), Some(2), Some(4), Some(5), Some(100)] {
            let page = store.list("Pod", None, None, limit).await.unwrap();
            let wanted: Vec<_> = (1..=4).map(|n| format!("pod-{n}")).take(limit.unwrap_or(99)).collect();
            assert_eq!(names(&page), wanted);
            assert_eq!(
                page.unreadable.len(),
                if limit.is_none_or(|limit| limit > 4) { 2 } else { 0 }
            );
        }
        assert_eq!(store.pod_uids().await.unwrap().len(), 6);
        // A change that is lost is as good as dropped.
        let error = store.changes("Pod", 1, 99).await.unwrap_err();
        assert!(matches!(error, StoreError::TooOld { asked: 1, oldest: 4 }), "{error}");
        assert!(!store.changes("Pod", 4, 99).await.unwrap().is_empty());
    }

    // Even such a pod can be removed, and then it is gone.
    let store = scratch.open().await;
    let mut changes = store.subscribe();
    for n in 1..=6 {
        store.forget_pod(&uid(n)).await.unwrap();
        let change = changes.recv().await.unwrap();
        assert_eq!(change.change_type, ChangeType::Deleted);
        assert_eq!(change.object.uid, uid(n));
        assert_eq!(change.object.json["metadata"]["uid"], uid(n).as_str());
    }
    assert!(store.pod_uids().await.unwrap().is_empty());
    assert!(store.list("Pod", None, None, None).await.unwrap().unreadable.is_empty());
}

#[tokio::test]
async fn a_life_is_read_with_whatever_is_there_of_it_and_nonsense_is_told() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    let observed = full(1);
    store
        .save_observed(&uid(1), &Observed::default(), &observed)
        .await
        .unwrap();
    drop(store);
    for readable in [
        "UPDATE attempt SET life = NULL",
        "UPDATE attempt SET life = '{}'",
        r#"UPDATE attempt SET life = '{"liveness":{}, "of another day": 1}'"#,
    ] {
        scratch.meddle(readable).await;
        assert_eq!(
            scratch.open().await.observed(&uid(1)).await.unwrap(),
            observed,
            "{readable}"
        );
    }
    for nonsense in [
        "UPDATE attempt SET life = '{'",
        r#"UPDATE attempt SET life = '{"stop":{"why":"Whim","asked_at":0,"grace":0}}'"#,
    ] {
        scratch.meddle(nonsense).await;
        let error = scratch.open().await.observed(&uid(1)).await.unwrap_err();
        let StoreError::Unreadable { table, source, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*table, "attempt");
        assert!(matches!(source, RowError::Json { column: "life", .. }), "{source:?}");
    }
}
