//! Changes: their order, their end, and that they are the list told as a story.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What happens to one of a few names.
#[derive(Debug, Clone)]
enum Act {
    Create(u8),
    /// With the resource version it has, or with an older one.
    Update(u8, u8, bool),
    Status(u8, u8),
    Delete(u8),
    Forget(u8),
    Reopen,
    /// Several at once, which share a transaction.
    Together(Vec<Act>),
}

fn act() -> impl Strategy<Value = Act> {
    let name = 0..4_u8;
    let single = prop_oneof![
        3 => name.clone().prop_map(Act::Create),
        3 => (name.clone(), 0..3_u8, prop::bool::weighted(0.2)).prop_map(|(n, v, stale)| Act::Update(n, v, stale)),
        4 => (name.clone(), 0..3_u8).prop_map(|(n, v)| Act::Status(n, v)),
        1 => name.clone().prop_map(Act::Delete),
        1 => name.prop_map(Act::Forget),
    ];
    prop_oneof![
        12 => single.clone(),
        1 => Just(Act::Reopen),
        2 => prop::collection::vec(single, 2..6).prop_map(Act::Together),
    ]
}

fn name(n: u8) -> String {
    format!("pod-{n}")
}

fn image(v: u8) -> String {
    format!("image-{v}")
}

/// The uid of the object that has this name now, or of none.
async fn current(store: &Store, n: u8) -> Option<StoredObject> {
    store.get("Pod", "default", &name(n)).await.unwrap()
}

/// Does it, and says whether it should and did succeed. Errors other than those of a lost race are failures.
async fn perform(store: &Store, act: &Act, fresh: Uid) {
    match act {
        Act::Create(n) => {
            let there = current(store, *n).await.is_some();
            let made = store
                .create("Pod", "default", &name(*n), &fresh, pod(&fresh, &name(*n), "image-0"))
                .await;
            match made {
                Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => panic!("{error} (there: {there})"),
            }
        }
        Act::Update(n, v, stale) => {
            let Some(object) = current(store, *n).await else { return };
            let expected = object.resource_version - u64::from(*stale);
            let desired = pod(&object.uid, &name(*n), &image(*v));
            let updated = store.update("Pod", "default", &name(*n), expected, desired).await;
            match updated {
                Ok(_) => assert!(!stale),
                Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Act::Status(n, v) => {
            let Some(object) = current(store, *n).await else { return };
            match store.set_status(&object.uid, json!({ "phase": v })).await {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Act::Delete(n) => {
            let Some(object) = current(store, *n).await else { return };
            match store.delete("Pod", "default", &name(*n), object.resource_version).await {
                Ok(_) | Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        Act::Forget(n) => {
            let Some(object) = current(store, *n).await else { return };
            store.forget_pod(&object.uid).await.unwrap();
        }
        Act::Reopen | Act::Together(_) => unreachable!("not single"),
    }
}

type View = BTreeMap<String, serde_json::Value>;

async fn view(store: &Store) -> (View, u64) {
    let page = store.list("Pod", None, None, None).await.unwrap();
    assert!(page.unreadable.is_empty());
    let view = page
        .objects
        .into_iter()
        .map(|o| (o.name.to_string(), (*o.json).clone()))
        .collect();
    (view, page.resource_version)
}

/// What somebody who watches makes of it. Checks each change against what they know.
fn replay(view: &mut View, changes: &[Change]) {
    for change in changes {
        let name = change.object.name.to_string();
        let version = change.object.resource_version.to_string();
        assert_eq!(change.object.json["metadata"]["resourceVersion"], version.as_str());
        assert_eq!(change.previous.as_deref(), view.get(&name), "previous of {version}");
        match change.change_type {
            ChangeType::Added => assert!(view.insert(name, (*change.object.json).clone()).is_none()),
            ChangeType::Modified => assert!(view.insert(name, (*change.object.json).clone()).is_some()),
            ChangeType::Deleted => assert!(view.remove(&name).is_some()),
        }
    }
}

fn assert_same(left: &Change, right: &Change) {
    let Change {
        change_type,
        origin,
        object,
        previous,
    } = left;
    assert_eq!(
        (*change_type, *origin, previous),
        (right.change_type, right.origin, &right.previous)
    );
    let StoredObject {
        kind,
        namespace,
        name,
        uid,
        resource_version,
        json,
    } = object;
    assert_eq!(
        (kind, namespace, name),
        (&right.object.kind, &right.object.namespace, &right.object.name)
    );
    assert_eq!(
        (uid, resource_version, json),
        (&right.object.uid, &right.object.resource_version, &right.object.json)
    );
}

async fn history(acts: Vec<Act>) {
    let scratch = Scratch::new();
    let mut store = scratch.open().await;
    let mut published = store.subscribe();
    let mut heard = Vec::new();
    let mut views = vec![view(&store).await];
    let mut fresh = (1..).map(uid);
    for act in acts {
        match act {
            Act::Reopen => {
                while let Ok(change) = published.try_recv() {
                    heard.push(change);
                }
                drop(store);
                store = scratch.open().await;
                published = store.subscribe();
            }
            Act::Together(acts) => {
                let acts: Vec<_> = acts.into_iter().zip(&mut fresh).collect();
                join_all(acts.iter().map(|(act, fresh)| perform(&store, act, fresh.clone()))).await;
            }
            single @ (Act::Create(_) | Act::Update(..) | Act::Status(..) | Act::Delete(_) | Act::Forget(_)) => {
                perform(&store, &single, fresh.next().unwrap()).await;
            }
        }
        views.push(view(&store).await);
    }
    while let Ok(change) = published.try_recv() {
        heard.push(change);
    }

    let (last, version) = views.last().cloned().unwrap();
    for (mut view, since) in views {
        let changes = store.changes("Pod", since, usize::MAX).await.unwrap();
        assert!(
            changes
                .iter()
                .zip(changes.iter().skip(1))
                .all(|(a, b)| a.object.resource_version < b.object.resource_version)
        );
        replay(&mut view, &changes);
        assert_eq!(view, last, "replayed from {since}");
    }
    // Every version was given to one change, and what was published is what was stored.
    let changes = store.changes("Pod", 0, usize::MAX).await.unwrap();
    let versions: Vec<_> = changes.iter().map(|change| change.object.resource_version).collect();
    assert_eq!(versions, (2..=version).collect::<Vec<_>>());
    assert_eq!(heard.len(), changes.len());
    for (heard, stored) in heard.iter().zip(&changes) {
        assert_same(heard, stored);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_replayed_from_any_moment_give_the_final_list(acts in prop::collection::vec(act(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(history(acts));
    }
}

#[tokio::test]
async fn changes_come_in_portions_and_of_one_kind() {
    let (store, _scratch) = fresh().await;
    for n in 1..=5 {
        make(&store, n).await;
        let other = uid(100 + n);
        store
            .create("ConfigMap", "default", &n.to_string(), &other, pod(&other, "x", "one"))
            .await
            .unwrap();
    }
    let versions = |changes: Vec<Change>| changes.iter().map(|c| c.object.resource_version).collect::<Vec<_>>();
    assert_eq!(versions(store.changes("Pod", 0, 2).await.unwrap()), [2, 4]);
    assert_eq!(versions(store.changes("Pod", 4, 2).await.unwrap()), [6, 8]);
    assert_eq!(versions(store.changes("ConfigMap", 9, 9).await.unwrap()), [11]);
    assert!(store.changes("Pod", 10, 9).await.unwrap().is_empty());
    assert!(store.changes("Pod", u64::MAX, 9).await.unwrap().is_empty());
    assert!(store.changes("Secret", 0, 9).await.unwrap().is_empty());
}

/// Old changes are dropped after the answer to the request that was one too many, and before the next one.
async fn settled(store: &Store) {
    store.release_place(&uid(0)).await.unwrap();
}

#[tokio::test]
async fn what_was_dropped_is_too_old_and_nothing_else_is_also_after_a_restart() {
    let scratch = Scratch::new();
    let limits = Limits {
        changes: 64,
        bytes: u64::MAX / 2,
    };
    let store = Store::open_with(&scratch.path, limits).await.unwrap();
    // Versions 2 and 3 for other kinds; the rest for one pod.
    for (n, kind) in [(50, "ConfigMap"), (51, "Secret")] {
        store
            .create(kind, "default", "x", &uid(n), pod(&uid(n), "x", "one"))
            .await
            .unwrap();
    }
    make(&store, 1).await;
    for n in 0..500 {
        store.set_status(&uid(1), json!({ "n": n })).await.unwrap();
    }
    settled(&store).await;
    let newest = store.resource_version().await.unwrap();
    assert_eq!(newest, 504);

    for restarted in [false, true] {
        let store = if restarted {
            Store::open_with(&scratch.path, limits).await.unwrap()
        } else {
            store.clone()
        };
        // Some version divides those that are too old from those that are not.
        let oldest = match store.changes("Pod", 0, 10).await {
            Err(StoreError::TooOld { asked: 0, oldest }) => oldest,
            other => panic!("{other:?}"),
        };
        let kept = newest - oldest;
        assert!((64..=66).contains(&kept), "kept {kept}");
        for since in 0..=newest {
            match store.changes("Pod", since, usize::MAX).await {
                Ok(changes) => {
                    assert!(since >= oldest, "{since} was answered");
                    assert_eq!(u64::try_from(changes.len()).unwrap(), newest - since);
                }
                Err(StoreError::TooOld { asked, oldest: said }) => {
                    assert!(since < oldest, "{since} was refused");
                    assert_eq!((asked, said), (since, oldest));
                }
                Err(error) => panic!("{error}"),
            }
        }
        // Of the other kinds one change each was dropped: before it is too old, from it on nothing was missed.
        for (kind, version) in [("ConfigMap", 2), ("Secret", 3)] {
            assert!(
                matches!(
                    store.changes(kind, version - 1, 9).await,
                    Err(StoreError::TooOld { .. })
                ),
                "{kind}"
            );
            assert!(store.changes(kind, version, 9).await.unwrap().is_empty(), "{kind}");
        }
        // A kind of which nothing was ever dropped has no past that is too old.
        assert!(store.changes("Namespace", 0, 9).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_past_is_bounded_in_bytes_too() {
    let scratch = Scratch::new();
    let store = Store::open_with(
        &scratch.path,
        Limits {
            changes: 1_000_000,
            bytes: 100_000,
        },
    )
    .await
    .unwrap();
    make(&store, 1).await;
    for n in 0..100 {
        store
            .set_status(&uid(1), json!({ "n": n, "text": "x".repeat(5_000) }))
            .await
            .unwrap();
    }
    settled(&store).await;
    let Err(StoreError::TooOld { oldest, .. }) = store.changes("Pod", 0, 1).await else {
        panic!("nothing was dropped")
    };
    let kept = store.changes("Pod", oldest, usize::MAX).await.unwrap();
    // About 10,400 bytes each.
    assert!((8..=11).contains(&kept.len()), "{}", kept.len());
}

#[tokio::test]
async fn versions_are_not_used_again_when_all_changes_are_gone() {
    let scratch = Scratch::new();
    let limits = Limits { changes: 0, bytes: 0 };
    let store = Store::open_with(&scratch.path, limits).await.unwrap();
    make(&store, 1).await;
    make(&store, 2).await;
    settled(&store).await;
    drop(store);
    let store = Store::open_with(&scratch.path, limits).await.unwrap();
    assert_eq!(store.resource_version().await.unwrap(), 3);
    assert_eq!(make(&store, 3).await.resource_version, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_are_published_in_order_and_only_once_they_can_be_read() {
    let (store, _scratch) = fresh().await;
    let mut published = store.subscribe();
    let listener = tokio::spawn({
        let store = store.clone();
        async move {
            for version in 2..102 {
                let change = published.recv().await.unwrap();
                assert_eq!(change.object.resource_version, version);
                let read = store.get("Pod", "default", &change.object.name).await.unwrap().unwrap();
                assert!(read.resource_version >= version);
            }
        }
    });
    let writers = (0..100).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { make(&store, n).await })
    });
    join_all(writers).await.into_iter().for_each(|made| drop(made.unwrap()));
    listener.await.unwrap();
}

#[tokio::test]
async fn a_kind_has_changed_when_one_of_its_objects_has() {
    let (store, _scratch) = fresh().await;
    assert_eq!((store.changed("Pod"), store.changed("Node")), (0, 0));
    let uid = Uid("a".to_owned());
    let made = store
        .create("Pod", "default", "p", &uid, pod(&uid, "p", "image-0"))
        .await;
    let made = made.unwrap().resource_version;
    assert_eq!((store.changed("Pod"), store.changed("Node")), (made, 0));
    store.set_status(&uid, json!({ "phase": "Running" })).await.unwrap();
    let told = store.changed("Pod");
    assert!(told > made, "{told} is not after {made}");
    // Neither what changes nothing nor what fails is a change.
    store.set_status(&uid, json!({ "phase": "Running" })).await.unwrap();
    let again = store
        .create("Pod", "default", "p", &uid, pod(&uid, "p", "image-1"))
        .await;
    again.unwrap_err();
    assert_eq!(store.changed("Pod"), told);
    store.delete("Pod", "default", "p", told).await.unwrap();
    assert!(store.changed("Pod") > told);
}
