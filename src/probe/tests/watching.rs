//! When probes run, and what of it is told.

use std::time::Duration;

use super::servers::Web;
use super::{World, at, http, now, probe, shell};
use crate::model::{ExitStatus, Probe, ProbeKind, ProbeRecord, Reported};
use crate::probe::worker::first_wait;
use crate::reconcile::testing::{deleted, exited};
use crate::runtime::stream::StreamError;

fn told(kind: ProbeKind, success: bool) -> Reported {
    Reported::Probe { kind, success }
}

fn watched(world: &World) -> Vec<ProbeKind> {
    let pods = world.inner().pods();
    let probes = pods
        .get(&world.pod.uid)
        .map(|state| state.probes.keys().map(|key| key.kind));
    let mut kinds: Vec<ProbeKind> = probes.into_iter().flatten().collect();
    kinds.sort_unstable();
    kinds
}

#[tokio::test]
async fn what_the_record_says_already_is_not_told_again_and_a_change_is() {
    let mut world = World::new().await;
    let web = Web::plain().await;
    world.pod.containers[0].life.readiness = Some(probe(http(web.port, "/switch")));
    world.watch();
    assert_eq!(world.hear().await.what, told(ProbeKind::Readiness, true));
    let asked = *web.asked.borrow();
    web.asked.subscribe().wait_for(|now| *now > asked + 3).await.unwrap();
    assert_eq!(world.probes.reports(&world.pod.uid, 0), Vec::new());

    *web.status.lock().unwrap() = 500;
    assert_eq!(world.hear().await.what, told(ProbeKind::Readiness, false));
    assert_eq!(world.observed.attempts[0].life.readiness.result, Some(false));
    assert_eq!(
        world.told("Unhealthy").await,
        "Readiness probe failed: HTTP probe failed with statuscode: 500"
    );
    *web.status.lock().unwrap() = 200;
    while world.observed.attempts[0].life.readiness.result == Some(false) {
        world.hear().await;
    }
}

#[tokio::test]
async fn thresholds_are_counted_and_the_startup_probe_comes_before_the_others() {
    let mut world = World::new().await;
    let web = Web::plain().await;
    let life = &mut world.pod.containers[0].life;
    life.startup = Some(probe(shell("true")));
    life.liveness = Some(Probe {
        failure_threshold: 3,
        ..probe(http(web.port, "/500"))
    });
    world.watch();
    assert_eq!(watched(&world), [ProbeKind::Startup]);
    assert_eq!(world.hear().await.what, told(ProbeKind::Startup, true));
    assert_eq!(watched(&world), [ProbeKind::Liveness], "it is started");
    for _ in 0..3 {
        assert_eq!(world.observed.attempts[0].life.liveness.result, None);
        assert_eq!(world.hear().await.what, told(ProbeKind::Liveness, false));
    }
    assert_eq!(world.observed.attempts[0].life.liveness.result, Some(false));
    assert_eq!(watched(&world), [], "it holds until there is a new attempt");
    assert_eq!(
        world.told("Unhealthy").await,
        "Liveness probe failed: HTTP probe failed with statuscode: 500"
    );
}

#[tokio::test]
async fn a_probe_that_cannot_be_carried_out_is_tried_three_times_and_counts_for_nothing() {
    let mut world = World::new().await;
    *world.programs.refusal.lock().unwrap() = Some(|| StreamError::NotExecuted("no such file or directory".to_owned()));
    world.pod.containers[0].life.liveness = Some(Probe {
        period: Duration::from_hours(1),
        ..probe(shell("true"))
    });
    world.watch();
    assert_eq!(
        world.told("Unhealthy").await,
        "Liveness probe errored and resulted in unknown state: no such file or directory"
    );
    assert_eq!(*world.programs.begun.borrow(), 3);
    assert_eq!(world.probes.reports(&world.pod.uid, 0), Vec::new());
}

#[tokio::test]
async fn an_end_of_the_container_or_of_the_pod_ends_its_probes() {
    let mut world = World::new().await;
    let web = Web::plain().await;
    let life = &mut world.pod.containers[0].life;
    life.liveness = Some(probe(http(web.port, "/200")));
    life.readiness = Some(probe(http(web.port, "/200")));
    world.watch();
    assert_eq!(watched(&world), [ProbeKind::Liveness, ProbeKind::Readiness]);
    world.pod = deleted(world.pod, now(), 30);
    world.watch();
    assert_eq!(
        watched(&world),
        [ProbeKind::Readiness],
        "a pod that ends is not killed by its probes"
    );
    world.observed.attempts[0].state = exited(ExitStatus::Code(0), 100, 101);
    world.watch();
    assert_eq!(watched(&world), []);
}

#[tokio::test]
async fn a_pod_that_is_forgotten_is_asked_nothing_and_its_reports_are_gone() {
    let mut world = World::new().await;
    world.pod.containers[0].life.readiness = Some(probe(shell("exit 1")));
    world.watch();
    let uid = world.hints.recv().await.unwrap();
    assert!(!world.probes.reports(&uid, 0).is_empty());
    world.probes.forget(&uid);
    assert_eq!(world.probes.reports(&uid, 0), Vec::new());
    assert!(world.inner().pods().is_empty());
    world
        .programs
        .alive
        .subscribe()
        .wait_for(|alive| *alive == 0)
        .await
        .unwrap();
}

#[tokio::test]
async fn reports_stay_until_they_are_settled() {
    let mut world = World::new().await;
    world.pod.containers[0].life.readiness = Some(Probe {
        period: Duration::from_hours(1),
        ..probe(shell("true"))
    });
    world.watch();
    let uid = world.hints.recv().await.unwrap();
    assert_eq!(world.probes.reports(&uid, 0).len(), 1);
    assert_eq!(world.probes.reports(&uid, 1).len(), 0, "it is heard already");
    assert_eq!(world.probes.reports(&uid, 0).len(), 1, "the save failed, say");
    world.probes.settle(&uid, 1);
    assert_eq!(world.probes.reports(&uid, 0).len(), 0);
}

#[tokio::test]
async fn a_container_from_before_this_agent_is_watched_with_what_is_recorded_of_it() {
    let mut world = World::new().await;
    let web = Web::plain().await;
    world.observed.attempts[0].state = crate::reconcile::testing::running(0);
    world.observed.attempts[0].life.readiness = ProbeRecord {
        result: Some(true),
        last: Some(true),
        count: 1,
    };
    world.pod.containers[0].life.readiness = Some(probe(http(web.port, "/switch")));
    world.watch();
    web.asked.subscribe().wait_for(|asked| *asked > 2).await.unwrap();
    assert_eq!(
        world.probes.reports(&world.pod.uid, 0),
        Vec::new(),
        "it is ready, as before"
    );
}

#[test]
fn the_first_probe_waits_for_its_delay_and_those_of_a_new_agent_are_spread() {
    let probe = |delay, period| Probe {
        initial_delay: Duration::from_secs(delay),
        period: Duration::from_secs(period),
        ..probe(shell("true"))
    };
    // The agent began at 100; (now, started, delay, period, random) and the wait in seconds.
    for (now, started, delay, period, random, expected) in [
        (200, 200, 0, 10, 0.5, 0.0),
        (200, 200, 5, 10, 0.5, 5.0),
        (203, 200, 5, 10, 0.5, 2.0),
        (300, 200, 5, 10, 0.5, 0.0),
        (100, 50, 0, 10, 0.5, 5.0),
        (100, 50, 0, 10, 0.0, 0.0),
        (100, 99, 30, 10, 0.5, 29.0),
        // A clock that went back.
        (190, 200, 5, 10, 0.5, 5.0),
    ] {
        let wait = first_wait(at(now), at(started), at(100), &probe(delay, period), random);
        assert_eq!(
            wait,
            Duration::from_secs_f64(expected),
            "{now} {started} {delay} {period} {random}"
        );
    }
}
