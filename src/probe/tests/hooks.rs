//! Hooks: run once, to their end, or to the end of their time.

use std::time::Duration;

use super::servers::{Web, closed_port};
use super::{World, http, now, shell};
use crate::model::{Action, Hook, HookRecord, Reported};
use crate::probe::action::run_hook;
use crate::reconcile::begin_hook;

fn begin(world: &mut World, hook: Hook, action: Action) {
    let life = &mut world.pod.containers[0].life;
    match hook {
        Hook::PostStart => life.post_start = Some(action),
        Hook::PreStop => life.pre_stop = Some(action),
    }
    world.observed = begin_hook(now(), &world.observed, "c", 0, hook);
    world.probes.begin_hook(&world.pod, &world.observed, "c", 0, hook);
}

fn is_under_way(world: &World, hook: Hook) -> bool {
    world.probes.is_under_way(&world.pod.uid, "c", 0, hook)
}

#[tokio::test]
async fn a_hook_is_run_once_and_is_under_way_until_its_end_is_recorded() {
    let mut world = World::new().await;
    begin(&mut world, Hook::PostStart, shell("true"));
    assert!(is_under_way(&world, Hook::PostStart) && !is_under_way(&world, Hook::PreStop));
    begin(&mut world, Hook::PostStart, shell("true"));
    let uid = world.hints.recv().await.unwrap();
    assert!(is_under_way(&world, Hook::PostStart), "its end is not recorded yet");
    begin(&mut world, Hook::PostStart, shell("true"));
    assert_eq!(*world.programs.begun.borrow(), 1);
    let reports = world.probes.reports(&uid, 0);
    let done = Reported::Hook {
        hook: Hook::PostStart,
        result: Ok(()),
    };
    assert_eq!(reports.iter().map(|report| &report.what).collect::<Vec<_>>(), [&done]);
    world.observed = crate::reconcile::report(now(), &world.pod, &world.observed, &reports[0]);
    world.probes.settle(&uid, 1);
    assert!(!is_under_way(&world, Hook::PostStart));
    assert_eq!(
        world.observed.attempts[0].life.post_start,
        HookRecord::Done { at: now() }
    );
}

#[tokio::test]
async fn a_hook_that_fails_says_why_to_the_record_and_less_to_everybody() {
    let mut world = World::new().await;
    begin(&mut world, Hook::PostStart, shell("echo out; echo no >&2; exit 7"));
    let Reported::Hook { result, .. } = world.hear().await.what else {
        panic!("a hook has ended");
    };
    let uid = &world.pod.uid;
    assert_eq!(
        result.unwrap_err(),
        format!(
            "Exec lifecycle hook ([sh -c echo out; echo no >&2; exit 7]) for Container \"c\" in Pod \"web_default({uid})\" failed - error: command 'sh -c echo out; echo no >&2; exit 7' exited with 7: no\n, message: \"out\\nno\\n\""
        )
    );
    assert_eq!(world.told("FailedPostStartHook").await, "PostStartHook failed");
}

#[tokio::test]
async fn a_hook_over_http_has_told_whatever_it_is_answered() {
    let mut world = World::new().await;
    let web = Web::plain().await;
    begin(&mut world, Hook::PreStop, http(web.port, "/500"));
    assert!(matches!(world.hear().await.what, Reported::Hook { result: Ok(()), .. }));
    let head = web.heads.lock().unwrap().pop().unwrap();
    assert!(head.contains("kube-lifecycle/1.36"), "{head}");

    let mut world = World::new().await;
    begin(&mut world, Hook::PreStop, http(closed_port().await, "/bye"));
    let Reported::Hook { result: Err(error), .. } = world.hear().await.what else {
        panic!("nobody listens");
    };
    assert!(
        error.starts_with("HTTP lifecycle hook (/bye) for Container \"c\"") && error.ends_with("connection refused"),
        "{error}"
    );
    assert_eq!(world.told("FailedPreStopHook").await, "PreStopHook failed");
}

#[tokio::test]
async fn a_hook_over_https_falls_back_to_http() {
    let mut world = World::new().await;
    let web = Web::plain().await;
    let action = Action::HttpGet {
        host: None,
        port: web.port,
        https: true,
        path: "/200".to_owned(),
        headers: Vec::new(),
    };
    begin(&mut world, Hook::PreStop, action);
    assert!(matches!(world.hear().await.what, Reported::Hook { result: Ok(()), .. }));
    assert!(
        world
            .told("LifecycleHTTPFallback")
            .await
            .contains("retry with HTTP succeeded")
    );
}

#[tokio::test]
async fn a_hook_goes_with_its_container_and_a_pre_stop_hook_when_its_time_is_over() {
    for is_signalled in [false, true] {
        let mut world = World::new().await;
        begin(&mut world, Hook::PreStop, shell("exec sleep 1000"));
        begin(&mut world, Hook::PostStart, shell("exec sleep 1000"));
        world
            .programs
            .alive
            .subscribe()
            .wait_for(|alive| *alive == 2)
            .await
            .unwrap();
        world.watch();
        assert!(is_under_way(&world, Hook::PreStop) && is_under_way(&world, Hook::PostStart));
        let left = if is_signalled {
            world.observed.attempts[0].stop_signalled_at = Some(now());
            1
        } else {
            world.observed.attempts.clear();
            0
        };
        world.watch();
        assert!(!is_under_way(&world, Hook::PreStop));
        assert_eq!(is_under_way(&world, Hook::PostStart), is_signalled);
        let mut alive = world.programs.alive.subscribe();
        alive.wait_for(|alive| *alive == left).await.unwrap();
        assert_eq!(world.probes.reports(&world.pod.uid, 0), Vec::new());
    }
}

#[tokio::test]
async fn a_sleep_that_was_begun_by_an_agent_before_goes_on_where_it_was() {
    let world = World::new().await;
    let sleep = Action::Sleep {
        duration: Duration::from_hours(1),
    };
    let slept = run_hook(world.inner(), &world.target(), Some(&sleep), Duration::from_hours(1)).await;
    assert!(slept.is_ok());
}

#[tokio::test]
async fn what_no_hook_can_do_fails() {
    let world = World::new().await;
    let tcp = Action::TcpSocket { host: None, port: 1 };
    for action in [Some(&tcp), None] {
        assert!(
            run_hook(world.inner(), &world.target(), action, Duration::ZERO)
                .await
                .is_err()
        );
    }
}
