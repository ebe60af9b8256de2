//! Tables of what is recorded.

use super::testing::{BOOT, at, attempt, dead, exited, fact, infra, on_machine, ready, running, stopped, with_sandbox};
use super::*;
use crate::model::{
    AttemptState, Backoff, ContainerPhase, ExitStatus, FailureReason, ImageId, InfraSnapshot, Resources, SandboxEnd,
    Snapshot,
};

const CODE_1: ExitStatus = ExitStatus::Code(1);

type End = (ExitStatus, Option<Timestamp>, Timestamp);
/// A case, the attempt as recorded, whether the shim lives, what its journal has, and what is recorded then: nothing, live
/// (running or not), or the end.
type Case = (
    &'static str,
    AttemptState,
    bool,
    Option<ContainerPhase>,
    Option<Result<bool, End>>,
);

/// What becomes of an attempt: (recorded, shim alive, what the journal has) to the state afterwards.
#[test]
fn attempts_follow_the_journal() {
    let lost = |since: Option<i64>| (ExitStatus::Lost, since.map(at), at(60));
    let started_at = at(2);
    let runs = || Some(ContainerPhase::Running { pid: 1, started_at });
    let ends = |status| {
        Some(ContainerPhase::Exited {
            status,
            started_at,
            finished_at: at(9),
        })
    };
    let unstartable = || {
        Some(ContainerPhase::StartFailed {
            message: "no".to_owned(),
            at: at(9),
        })
    };
    let starting = || Some(ContainerPhase::Starting);
    let begun = || AttemptState::Starting;
    let up = || running(2);
    let oom = ExitStatus::OomSignal(9);
    let live: Option<Result<bool, End>> = Some(Ok(true));
    let only_starting = Some(Ok(false));
    let cases: [Case; 14] = [
        ("may still be on its way", begun(), true, None, only_starting),
        ("never ran", begun(), false, None, None),
        ("is being started", begun(), true, starting(), only_starting),
        ("perhaps it ran", begun(), false, starting(), Some(Err(lost(None)))),
        ("runs", begun(), true, runs(), live),
        ("ran", begun(), false, runs(), Some(Err(lost(Some(2))))),
        (
            "could not be executed",
            begun(),
            true,
            unstartable(),
            Some(Err((ExitStatus::StartError, None, at(9)))),
        ),
        (
            "ended",
            begun(),
            true,
            ends(CODE_1),
            Some(Err((CODE_1, Some(at(2)), at(9)))),
        ),
        (
            "ended, then the shim died",
            begun(),
            false,
            ends(oom),
            Some(Err((oom, Some(at(2)), at(9)))),
        ),
        ("runs on", up(), true, runs(), live),
        ("the shim died", up(), false, runs(), Some(Err(lost(Some(2))))),
        (
            "ended",
            up(),
            true,
            ends(CODE_1),
            Some(Err((CODE_1, Some(at(2)), at(9)))),
        ),
        (
            "ended, then the shim died",
            up(),
            false,
            ends(CODE_1),
            Some(Err((CODE_1, Some(at(2)), at(9)))),
        ),
        ("the shim forgot it", up(), true, None, Some(Err(lost(Some(2))))),
    ];
    for (what, state, shim_alive, phase, expected) in cases {
        let snapshot = on_machine(
            shim_alive,
            infra(),
            phase.map(|phase| fact("a", 0, phase)).into_iter().collect(),
        );
        let recorded = record(at(60), BOOT, &ready(vec![attempt("a", 0, state)]), &snapshot);
        let found = recorded.newest("a").map(|a| match &a.state {
            AttemptState::Starting => Ok(false),
            AttemptState::Running { .. } => Ok(true),
            AttemptState::Exited(exit) => Err((exit.status, exit.started_at, exit.finished_at)),
        });
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn without_a_journal_nothing_is_known() {
    for (boot_id, why) in [(BOOT, "its shim is gone"), ("boot-2", "the machine was started again")] {
        let observed = ready(vec![
            attempt("a", 3, AttemptState::Starting),
            attempt("b", 0, running(5)),
        ]);
        let recorded = record(at(60), boot_id, &observed, &Snapshot::default());
        for name in ["a", "b"] {
            let exit = recorded.newest(name).unwrap().exit().unwrap();
            assert_eq!((exit.status, exit.finished_at), (ExitStatus::Lost, at(60)), "{name}");
            assert!(exit.message.ends_with(why), "{}", exit.message);
        }
    }
}

#[test]
fn sandboxes_follow_the_machine() {
    use SandboxEnd::{InfraExited, Rebooted, ShimLost};
    let up = || SandboxState::Ready { ready_at: at(0) };
    let gone = InfraSnapshot::Exited { at: at(40) };
    let nothing = Snapshot::default;
    let there = |alive, infra| on_machine(alive, infra, vec![]);
    let end = |at_, end| SandboxState::Dead { at: at(at_), end };
    for (what, state, boot, snapshot, expected) in [
        ("runs", up(), BOOT, there(true, infra()), up()),
        ("infra died", up(), BOOT, there(true, gone), end(40, InfraExited)),
        ("shim died", up(), BOOT, there(false, infra()), end(60, ShimLost)),
        ("both died", up(), BOOT, there(false, gone), end(40, InfraExited)),
        ("nothing is there", up(), BOOT, nothing(), end(60, ShimLost)),
        ("another boot", up(), "boot-2", nothing(), end(60, Rebooted)),
        (
            "not begun",
            SandboxState::Creating,
            BOOT,
            nothing(),
            SandboxState::Creating,
        ),
        (
            "half made",
            SandboxState::Creating,
            BOOT,
            there(true, InfraSnapshot::Absent),
            SandboxState::Creating,
        ),
        (
            "made, not told",
            SandboxState::Creating,
            BOOT,
            there(true, infra()),
            SandboxState::Creating,
        ),
        (
            "died being made",
            SandboxState::Creating,
            BOOT,
            there(false, InfraSnapshot::Absent),
            end(60, ShimLost),
        ),
        (
            "not begun, another boot",
            SandboxState::Creating,
            "boot-2",
            nothing(),
            end(60, Rebooted),
        ),
        ("stays dead", dead(), BOOT, there(true, infra()), dead()),
        ("stays stopped", stopped(), BOOT, nothing(), stopped()),
        (
            "stopped, and there again",
            stopped(),
            BOOT,
            there(false, gone),
            end(60, ShimLost),
        ),
    ] {
        let recorded = record(at(60), boot, &with_sandbox(state, vec![]), &snapshot);
        assert_eq!(recorded.sandbox.unwrap().state, expected, "{what}");
    }
}

#[test]
fn containers_outlive_infra_until_their_true_ends_are_known() {
    let running_fact = fact(
        "a",
        0,
        ContainerPhase::Running {
            pid: 3,
            started_at: at(2),
        },
    );
    let snapshot = on_machine(true, InfraSnapshot::Exited { at: at(40) }, vec![running_fact]);
    let recorded = record(at(60), BOOT, &ready(vec![attempt("a", 0, running(2))]), &snapshot);
    assert!(recorded.newest("a").unwrap().is_live());
    let ended = ContainerPhase::Exited {
        status: ExitStatus::Signal(9),
        started_at: at(2),
        finished_at: at(61),
    };
    let snapshot = on_machine(false, InfraSnapshot::Exited { at: at(40) }, vec![fact("a", 0, ended)]);
    let recorded = sandbox_stopped(at(62), &record(at(62), BOOT, &recorded, &snapshot), 0);
    assert_eq!(
        recorded.newest("a").unwrap().exit().unwrap().status,
        ExitStatus::Signal(9)
    );
}

#[test]
fn a_run_never_ends_before_it_began() {
    let ended = ContainerPhase::Exited {
        status: CODE_1,
        started_at: at(50),
        finished_at: at(10),
    };
    let snapshot = on_machine(true, infra(), vec![fact("a", 0, ended)]);
    let recorded = record(
        at(12),
        BOOT,
        &ready(vec![attempt("a", 0, AttemptState::Starting)]),
        &snapshot,
    );
    assert_eq!(recorded.newest("a").unwrap().exit().unwrap().finished_at, at(50));
}

#[test]
fn what_the_journal_has_and_the_record_lacks_is_added() {
    let phase = ContainerPhase::Running {
        pid: 1,
        started_at: at(3),
    };
    let snapshot = on_machine(true, infra(), vec![fact("a", 2, phase)]);
    let recorded = record(
        at(60),
        BOOT,
        &ready(vec![attempt("a", 1, exited(CODE_1, 1, 2))]),
        &snapshot,
    );
    assert_eq!(recorded.newest("a").map(|a| (a.attempt, a.is_live())), Some((2, true)));
    let empty = record(at(60), BOOT, &Observed::default(), &snapshot);
    assert_eq!(
        empty.sandbox.unwrap().state,
        SandboxState::Dead {
            at: at(60),
            end: SandboxEnd::ShimLost
        }
    );
    assert_eq!(empty.attempts.len(), 1);
}

#[test]
fn a_container_keeps_its_three_newest_attempts() {
    let attempts = (0..6)
        .map(|n| attempt("a", n, exited(CODE_1, 1, 2)))
        .chain([attempt("b", 0, running(1))]);
    let phase = ContainerPhase::Running {
        pid: 1,
        started_at: at(1),
    };
    let snapshot = on_machine(true, infra(), vec![fact("b", 0, phase)]);
    let recorded = record(at(60), BOOT, &ready(attempts.collect()), &snapshot);
    let kept: Vec<_> = recorded
        .attempts
        .iter()
        .map(|a| (a.container.as_str(), a.attempt))
        .collect();
    assert_eq!(kept, [("a", 3), ("a", 4), ("a", 5), ("b", 0)]);
}

#[test]
fn failures_of_a_container_end_when_it_moves_on() {
    let step = || FailedStep::Container("a".to_owned());
    let failing = failed(
        at(5),
        &ready(vec![attempt("a", 0, AttemptState::Starting)]),
        step(),
        FailureReason::CreateContainerConfigError,
        "x",
    );
    let twice = failed(at(6), &failing, step(), FailureReason::CreateContainerConfigError, "y");
    assert_eq!(
        twice.failure(&step()).map(|f| (f.count, f.at, f.message.as_str())),
        Some((2, at(6), "y"))
    );
    let start = Start {
        container: "a",
        attempt: 0,
        sandbox: 0,
        backoff: Backoff::default(),
    };
    let again = begin_attempt(&twice, start, "busybox", ImageId("i".to_owned()), &Resources::default());
    assert_eq!(
        again.failure(&step()).map(|f| f.count),
        Some(2),
        "tried again, not yet better"
    );
    let phase = ContainerPhase::Running {
        pid: 1,
        started_at: at(7),
    };
    let recorded = record(
        at(8),
        BOOT,
        &again,
        &on_machine(true, infra(), vec![fact("a", 0, phase)]),
    );
    assert_eq!(recorded.failure(&step()), None);
    let late = begin_attempt(
        &recorded,
        start,
        "another",
        ImageId("j".to_owned()),
        &Resources::default(),
    );
    assert_eq!(late, recorded, "what runs was begun");
}
