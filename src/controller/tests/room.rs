//! Pods that the machine has no room for, and resizes that wait for some.

use super::*;
use crate::model::{Claim, FailedStep, GivenUpReason};
use crate::store::Place;

fn machine_of(cpu_milli: u64) -> Allocatable {
    Allocatable {
        cpu_milli,
        memory: 1 << 30,
        storage: 1 << 30,
        pods: 10,
        hugepages: [].into(),
    }
}

fn other() -> Uid {
    Uid("other".to_owned())
}

/// Another pod takes so much.
async fn crowd(world: &World, cpu_milli: u64) {
    let claim = Claim {
        cpu_milli,
        ..Claim::default()
    };
    let store = &world.controller().store;
    let taken = store.take_place(&other(), claim, None, None).await.unwrap();
    assert_eq!(taken, Place::Taken(None));
}

async fn leaves(world: &World) {
    world.controller().store.release_place(&other()).await.unwrap();
    world.controller().room.freed(&other());
}

/// What is left for others, by asking for it.
async fn is_free(world: &World, cpu_milli: u64) -> bool {
    let (store, uid) = (&world.controller().store, Uid("probe".to_owned()));
    let claim = Claim {
        cpu_milli,
        ..Claim::default()
    };
    let room = Some(world.controller().room.allocatable());
    let asked = store.take_place(&uid, claim, room, None).await.unwrap();
    store.release_place(&uid).await.unwrap();
    asked == Place::Taken(None)
}

fn asking(cpu_milli: u64) -> PodSpec {
    let mut wanted = pod(RestartPolicy::Always, &["a"]);
    wanted.containers[0].resources.cpu_request_milli = Some(cpu_milli);
    wanted
}

async fn status(world: &World) -> serde_json::Value {
    let store = &world.controller().store;
    let object = store.get_by_uid(POD, &world.pod.uid).await.unwrap().unwrap();
    object.json["status"].clone()
}

fn resizing(status: &serde_json::Value) -> (&str, &str) {
    let conditions = status["conditions"].as_array().unwrap();
    let told = conditions
        .iter()
        .find(|told| told["type"].as_str().unwrap().starts_with("PodResize"));
    told.map_or(("", ""), |told| {
        let word = |field: &str| told[field].as_str().unwrap_or_default();
        (word("reason"), word("message"))
    })
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_turned_away_for_good() {
    for host_network in [false, true] {
        let mut wanted = asking(1500);
        wanted.host_network = host_network;
        let mut world = World::with_room(wanted, Machine::default(), machine_of(2000)).await;
        crowd(&world, 600).await;
        assert_eq!(world.rest().await, None);
        let why = "Node didn't have enough resource: cpu, requested: 1500, used: 600, capacity: 2000";
        let event = world.told("OutOfcpu", why).await;
        assert_eq!(event["type"], "Warning");
        let told = status(&world).await;
        assert_eq!(
            (&told["phase"], &told["reason"], &told["message"]),
            (
                &json!("Failed"),
                &json!("OutOfcpu"),
                &json!(format!("Pod was rejected: {why}"))
            )
        );
        // It is not looked at again when there is room, and nothing of it was ever made.
        leaves(&world).await;
        assert_eq!(world.look().await, None);
        assert_eq!(status(&world).await["phase"], "Failed");
        assert!(world.done().is_empty(), "{:?}", world.done());
        assert!(is_free(&world, 2000).await);
        let stored = world.controller().store.observed(&world.pod.uid).await.unwrap();
        assert_eq!(stored.given_up.unwrap().reason, GivenUpReason::OutOfCpu);
        assert_eq!(stored.sandbox, None);
    }
}

#[tokio::test]
async fn a_pod_that_has_a_sandbox_is_not_turned_away_by_a_smaller_machine() {
    let mut world = World::with_room(asking(1500), Machine::default(), machine_of(2000)).await;
    world.rest().await;
    let Machine { sandboxes, .. } = &*world.controller().runtime;
    sandboxes.lock().unwrap().clear();
    world.controller().store.release_place(&world.pod.uid).await.unwrap();
    crowd(&world, 2000).await;
    world.look().await;
    CLOCK.set(200);
    world.look().await;
    assert_eq!(world.done().iter().filter(|what| what.starts_with("start")).count(), 2);
    // And it counts again.
    leaves(&world).await;
    assert!(!is_free(&world, 501).await && is_free(&world, 500).await);
}

#[tokio::test]
async fn a_resize_waits_for_room_and_is_done_once_there_is_some() {
    let mut world = World::with_room(asking(500), Machine::default(), machine_of(2000)).await;
    world.rest().await;
    crowd(&world, 1000).await;
    world.pod.generation = 2;
    world.pod.containers[0].resources.cpu_request_milli = Some(1200);
    assert_eq!(world.rest().await, None);
    let why = "Node didn't have enough resource: cpu, requested: 1200, used: 1000, capacity: 2000";
    assert_eq!(resizing(&status(&world).await), ("Deferred", why));
    assert_eq!(world.done(), ["start a 0"]);
    let before = world.record.stored.clone();
    world.look().await;
    assert_eq!(world.record.stored, before, "nothing is written while it waits");

    // A container that ends meanwhile is started with what it had.
    world.controller().runtime.end("a", 0, ExitStatus::Code(0));
    world.look().await;
    let has = |world: &World| world.attempt("a").life.resources.as_ref().unwrap().cpu_request_milli;
    assert_eq!((world.attempt("a").attempt, has(&world)), (1, Some(500)));

    assert!(world.controller().room.woken().is_empty());
    leaves(&world).await;
    assert_eq!(world.controller().room.woken(), [world.pod.uid.clone()].into());
    world.look().await;
    assert_eq!(has(&world), Some(1200));
    assert_eq!(resizing(&status(&world).await), ("", ""));
    assert_eq!(world.record.observed.failure(&FailedStep::Resize), None);
    assert!(!is_free(&world, 801).await && is_free(&world, 800).await);
}

#[tokio::test]
async fn what_a_resize_gives_back_is_free_once_it_is_done() {
    for resize_fails in [false, true] {
        let machine = Machine {
            resize_fails,
            ..Machine::default()
        };
        let mut world = World::with_room(asking(1500), machine, machine_of(2000)).await;
        world.rest().await;
        world.pod.generation = 2;
        world.pod.containers[0].resources.cpu_request_milli = Some(300);
        world.rest().await;
        assert_eq!(is_free(&world, 1700).await, !resize_fails);
        assert_eq!(is_free(&world, 501).await, !resize_fails);
        assert!(!is_free(&world, 1701).await);
    }
}

#[tokio::test]
async fn a_resize_that_is_taken_back_waits_no_longer() {
    let mut world = World::with_room(asking(500), Machine::default(), machine_of(2000)).await;
    world.rest().await;
    crowd(&world, 1500).await;
    world.pod.generation = 2;
    world.pod.containers[0].resources.cpu_request_milli = Some(600);
    world.rest().await;
    assert_eq!(resizing(&status(&world).await).0, "Deferred");
    world.pod.generation = 3;
    world.pod.containers[0].resources.cpu_request_milli = Some(500);
    world.rest().await;
    assert_eq!(resizing(&status(&world).await), ("", ""));
    assert_eq!(world.record.stored.failure(&FailedStep::Resize), None);
}
