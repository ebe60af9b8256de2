//! The rules of telling, and the keeper over a real store.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use super::correlate::{Correlator, Entry};
use super::shelf::{Bounds, Shelf};
use super::*;
use crate::model::Uid;
use crate::store::{Change, ChangeType};

fn now() -> Timestamp {
    "2026-01-01T00:00:00.5Z".parse().unwrap()
}

fn pod(name: &str) -> Subject {
    Subject {
        kind: "Pod",
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-of-{name}"),
        field_path: None,
    }
}

fn note(subject: Subject, reason: &'static str, message: &str, seconds: i64) -> Note {
    Note {
        source: Source::Kubelet,
        subject,
        severity: Severity::Normal,
        reason,
        message: message.to_owned(),
        at: now() + jiff::SignedDuration::from_secs(seconds),
    }
}

fn observe(correlator: &mut Correlator, note: Note) -> Option<Entry> {
    correlator.observe(note, Uid("u".to_owned()))
}

#[test]
fn the_same_again_counts_and_keeps_its_name() {
    let mut correlator = Correlator::default();
    let first = observe(&mut correlator, note(pod("a"), "Pulled", "m", 0)).unwrap();
    let again = observe(&mut correlator, note(pod("a"), "Pulled", "m", 9)).unwrap();
    assert_eq!((first.count, again.count), (1, 2));
    assert_eq!((again.name.as_str(), again.first), (first.name.as_str(), first.first));
    assert_eq!(again.note.at, now() + jiff::SignedDuration::from_secs(9));
    assert!(first.name.starts_with("a."));
    for other in [
        note(pod("b"), "Pulled", "m", 0),
        note(pod("a"), "Created", "m", 0),
        note(pod("a"), "Pulled", "n", 0),
        note(
            Subject {
                field_path: Some("spec.containers{c}".to_owned()),
                ..pod("a")
            },
            "Pulled",
            "m",
            0,
        ),
        Note {
            severity: Severity::Warning,
            ..note(pod("a"), "Pulled", "m", 0)
        },
        Note {
            source: Source::Scheduler,
            ..note(pod("a"), "Pulled", "m", 0)
        },
    ] {
        let entry = observe(&mut correlator, other).unwrap();
        assert_eq!(entry.count, 1, "{entry:?}");
        assert_ne!(entry.name, first.name);
    }
    // Once it is gone from the store it begins anew.
    correlator.forget(&first.name);
    assert_eq!(
        observe(&mut correlator, note(pod("a"), "Pulled", "m", 10))
            .unwrap()
            .count,
        1
    );
}

#[test]
fn many_alike_are_told_as_one() {
    let mut correlator = Correlator::default();
    let tell = |correlator: &mut Correlator, n: i64, seconds: i64| {
        observe(correlator, note(pod("a"), "Failed", &format!("try {n}"), seconds)).unwrap()
    };
    for n in 0..9 {
        assert_eq!(tell(&mut correlator, n, n).note.message, format!("try {n}"));
    }
    let combined = tell(&mut correlator, 9, 9);
    assert_eq!(combined.note.message, "(combined from similar events): try 9");
    let next = tell(&mut correlator, 10, 10);
    assert_eq!((next.name, next.count), (combined.name, 2));
    // After ten quiet minutes they are told one by one again.
    assert_eq!(tell(&mut correlator, 11, 10 + 601).note.message, "try 11");
}

#[test]
fn one_object_cannot_fill_the_store() {
    let mut correlator = Correlator::default();
    let kept = (0..100)
        .filter(|_| observe(&mut correlator, note(pod("a"), "Failed", "m", 0)).is_some())
        .count();
    assert_eq!(kept, 25);
    // Its neighbour is not made to suffer for it, and five minutes make room for one more.
    assert!(observe(&mut correlator, note(pod("b"), "Failed", "m", 0)).is_some());
    let later = observe(&mut correlator, note(pod("a"), "Failed", "m", 300)).unwrap();
    assert_eq!(later.count, 101);
    assert!(observe(&mut correlator, note(pod("a"), "Failed", "m", 301)).is_none());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut correlator = Correlator::default();
    for n in 0..20_000 {
        observe(&mut correlator, note(pod(&format!("p{n}")), "Started", "m", 0));
    }
    // The newest are still known, the oldest are not.
    let count = |correlator: &mut Correlator, n: i32| {
        observe(correlator, note(pod(&format!("p{n}")), "Started", "m", 1))
            .unwrap()
            .count
    };
    assert_eq!(count(&mut correlator, 19_999), 2);
    assert_eq!(count(&mut correlator, 0), 1);
}

#[test]
fn names_are_never_too_long_nor_twice_the_same() {
    let mut correlator = Correlator::default();
    let long = pod(&"a".repeat(253));
    let first = observe(&mut correlator, note(long.clone(), "A", "m", 0)).unwrap();
    let second = observe(&mut correlator, note(long, "B", "m", 0)).unwrap();
    assert!(first.name.len() <= 253 && second.name.len() <= 253);
    assert_ne!(first.name, second.name);
}

#[test]
fn messages_are_cut() {
    let cut = shortened("ü".repeat(2000));
    assert!(cut.len() <= 1024 && cut.ends_with("ü..."), "{}", cut.len());
    assert_eq!(shortened("short".to_owned()), "short");
}

#[test]
fn the_oldest_go_first_from_a_shelf_that_is_full() {
    let key = |namespace: &str, name: &str| (Arc::from(namespace), Arc::from(name));
    let mut shelf = Shelf::new(Bounds { namespace: 2, all: 3 });
    let at = |seconds| now() + jiff::SignedDuration::from_secs(seconds);
    for (namespace, name, seconds) in [("x", "old", 1), ("x", "newer", 3), ("y", "oldest", 0)] {
        shelf.put(key(namespace, name), at(seconds), 1);
    }
    assert!(!shelf.is_too_full("x"));
    shelf.put(key("x", "newest"), at(4), 2);
    assert!(shelf.is_too_full("x"));
    assert_eq!(shelf.too_many(), [key("x", "old")]);
    // One that happens again is young again; what is told late does not make it old.
    shelf.put(key("x", "old"), at(9), 5);
    shelf.put(key("x", "old"), at(1), 4);
    assert_eq!(shelf.too_many(), [key("x", "newer")]);
    shelf.remove(&key("x", "newer"));
    assert!(shelf.too_many().is_empty());
    assert_eq!(shelf.older(at(0)), [key("y", "oldest")]);
    assert_eq!(shelf.oldest(), Some(at(0)));
    shelf.remove(&key("y", "oldest"));
    shelf.put(key("z", "one"), at(10), 6);
    shelf.put(key("z", "two"), at(11), 7);
    assert_eq!(shelf.too_many(), [key("x", "newest")]);
}

async fn store() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Store::open(&dir.path().join("podd.db")).await.unwrap(), dir)
}

async fn next(changes: &mut broadcast::Receiver<Arc<Change>>) -> (ChangeType, Value) {
    loop {
        let change = changes.recv().await.unwrap();
        if &*change.object.kind == EVENT {
            return (change.change_type, (*change.object.json).clone());
        }
    }
}

#[tokio::test]
async fn what_is_told_is_stored_as_kubernetes_stores_it() {
    let (store, _dir) = store().await;
    let mut changes = store.subscribe();
    let recorder = Recorder::hasty(store.clone(), now);
    let subject = Subject {
        field_path: Some("spec.containers{main}".to_owned()),
        ..pod("web")
    };
    recorder.tell(
        Source::Kubelet,
        subject.clone(),
        Severity::Normal,
        "Started",
        "Started container main",
    );
    let (change, event) = next(&mut changes).await;
    assert_eq!(change, ChangeType::Added);
    let name = event["metadata"]["name"].as_str().unwrap();
    let mut expected = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": "default", "uid": event["metadata"]["uid"],
            "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": event["metadata"]["resourceVersion"]},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web",
            "uid": "uid-of-web", "fieldPath": "spec.containers{main}"},
        "type": "Normal", "reason": "Started", "message": "Started container main", "count": 1,
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
        "source": {"component": "kubelet", "host": "node-1"},
        "reportingComponent": "kubelet", "reportingInstance": "node-1",
    });
    assert_eq!(event, expected);
    recorder.tell(
        Source::Kubelet,
        subject,
        Severity::Normal,
        "Started",
        "Started container main",
    );
    let (change, again) = next(&mut changes).await;
    assert_eq!(change, ChangeType::Modified);
    expected["count"] = 2.into();
    expected["metadata"]["resourceVersion"] = again["metadata"]["resourceVersion"].clone();
    assert_eq!(again, expected);
}

#[tokio::test]
async fn what_is_told_of_the_node_lies_in_the_default_namespace() {
    let (store, _dir) = store().await;
    let mut changes = store.subscribe();
    let recorder = Recorder::hasty(store, now);
    recorder.tell(
        Source::Kubelet,
        Subject::node("node-1"),
        Severity::Normal,
        "Starting",
        "Starting podd.",
    );
    let (_, event) = next(&mut changes).await;
    assert_eq!(event["metadata"]["namespace"], "default");
    assert_eq!(
        event["involvedObject"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"})
    );
}

#[tokio::test]
async fn what_waits_is_written_together_before_the_end() {
    let (store, _dir) = store().await;
    let (recorder, keeper) = Recorder::new(store.clone(), "node-1", now);
    for n in 0..20 {
        let name = format!("p{n}");
        recorder.tell(Source::Kubelet, pod(&name), Severity::Normal, "Started", "m");
        recorder.tell(Source::Kubelet, pod(&name), Severity::Normal, "Started", "m");
    }
    let (stop, stopped) = watch::channel(false);
    stop.send_replace(true);
    keeper.run(stopped).await;
    let page = store.list(EVENT, None, None, None).await.unwrap();
    assert_eq!(page.objects.len(), 20);
    assert!(page.objects.iter().all(|event| event.json["count"] == 2));
}

#[tokio::test]
async fn events_older_than_an_hour_are_removed_whoever_wrote_them() {
    let (store, _dir) = store().await;
    let event = |name: &str, field: &str, at: &str| {
        let mut event = json!({"metadata": {"name": name, "namespace": "x", "uid": name}});
        event[field] = at.into();
        event
    };
    for (name, field, at) in [
        ("old", "lastTimestamp", "2025-12-31T22:00:00Z"),
        ("old-series", "eventTime", "2025-12-31T22:59:00.000000Z"),
        ("young", "lastTimestamp", "2025-12-31T23:30:00Z"),
    ] {
        let event = event(name, field, at);
        store
            .create(EVENT, "x", name, &Uid(name.to_owned()), event)
            .await
            .unwrap();
    }
    let mut changes = store.subscribe();
    let _recorder = Recorder::hasty(store.clone(), now);
    for _ in 0..2 {
        assert_eq!(next(&mut changes).await.0, ChangeType::Deleted);
    }
    let page = store.list(EVENT, None, None, None).await.unwrap();
    let names: Vec<&str> = page.objects.iter().map(|event| &*event.name).collect();
    assert_eq!(names, ["young"]);
}

#[tokio::test]
async fn a_namespace_keeps_so_many_events_and_no_more() {
    let (store, _dir) = store().await;
    let (recorder, keeper) = Recorder::new(store.clone(), "node-1", now);
    let keeper = keeper.with(Bounds { namespace: 4, all: 100 }, Duration::ZERO);
    for reason in ["A", "B", "C", "D", "E", "F"] {
        recorder.tell(Source::Kubelet, pod("a"), Severity::Normal, reason, "m");
    }
    let (stop, stopped) = watch::channel(false);
    stop.send_replace(true);
    keeper.run(stopped).await;
    let page = store.list(EVENT, None, None, None).await.unwrap();
    let reasons: Vec<&str> = page
        .objects
        .iter()
        .filter_map(|event| event.json["reason"].as_str())
        .collect();
    assert_eq!(reasons, ["C", "D", "E", "F"]);
}

#[tokio::test]
async fn a_namespace_that_is_going_gets_no_more_events() {
    let (store, _dir) = store().await;
    let namespace = |name: &str| json!({"metadata": {"name": name, "uid": name}});
    let mut going = namespace("going");
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    for (name, object) in [("default", namespace("default")), ("going", going)] {
        store
            .create("Namespace", "", name, &Uid(name.to_owned()), object)
            .await
            .unwrap();
    }
    let (recorder, keeper) = Recorder::new(store.clone(), "node-1", now);
    for namespace in ["default", "going", "gone"] {
        let subject = Subject {
            namespace: namespace.to_owned(),
            ..pod("a")
        };
        recorder.tell(Source::Kubelet, subject, Severity::Normal, "Killing", "m");
    }
    let (stop, stopped) = watch::channel(false);
    stop.send_replace(true);
    keeper.run(stopped).await;
    let page = store.list(EVENT, None, None, None).await.unwrap();
    let namespaces: Vec<&str> = page.objects.iter().map(|event| &*event.namespace).collect();
    assert_eq!(namespaces, ["default"]);
}
