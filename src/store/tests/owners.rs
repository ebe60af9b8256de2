//! What belongs to what, and both halves of an object in one write.

use super::*;

fn owned(owners: &[(u32, bool)]) -> serde_json::Value {
    let references: Vec<serde_json::Value> = owners
        .iter()
        .map(|(n, blocking)| json!({"uid": uid(*n).as_str(), "blockOwnerDeletion": blocking}))
        .collect();
    json!({"metadata": {"name": "o", "ownerReferences": references}})
}

fn dependants(all: &[(u32, bool)]) -> Vec<Dependant> {
    all.iter()
        .map(|(n, blocking)| Dependant {
            uid: uid(*n),
            blocking: *blocking,
        })
        .collect()
}

#[tokio::test]
async fn dependants_are_those_that_refer_to_their_owner_now() {
    let (store, _scratch) = fresh().await;
    // One reference given twice counts once.
    let a = store
        .create(
            "ConfigMap",
            "n",
            "a",
            &uid(1),
            owned(&[(9, true), (9, false), (8, false)]),
        )
        .await
        .unwrap();
    store
        .create("Pod", "n", "b", &uid(2), owned(&[(9, false)]))
        .await
        .unwrap();
    assert_eq!(
        store.dependants(&uid(9)).await.unwrap(),
        dependants(&[(1, true), (2, false)])
    );
    assert_eq!(store.owners().await.unwrap(), [uid(8), uid(9)]);
    assert_eq!(store.dependants(&uid(8)).await.unwrap(), dependants(&[(1, false)]));
    let a = store
        .update("ConfigMap", "n", "a", a.resource_version, owned(&[(7, false)]))
        .await
        .unwrap();
    assert_eq!(store.dependants(&uid(9)).await.unwrap(), dependants(&[(2, false)]));
    assert_eq!(store.dependants(&uid(7)).await.unwrap(), dependants(&[(1, false)]));
    store.delete("ConfigMap", "n", "a", a.resource_version).await.unwrap();
    assert_eq!(store.dependants(&uid(7)).await.unwrap(), []);
    assert!(store.forget_pod(&uid(2)).await.unwrap());
    assert_eq!(store.dependants(&uid(9)).await.unwrap(), []);
}

#[tokio::test]
async fn owners_of_an_older_database_are_found() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    store
        .create("Pod", "n", "p", &uid(1), owned(&[(9, true)]))
        .await
        .unwrap();
    store.create("Pod", "n", "q", &uid(2), owned(&[])).await.unwrap();
    drop(store);
    scratch
        .meddle(
            "DROP TABLE owner; DROP INDEX object_of_namespace; DELETE FROM _sqlx_migrations WHERE version = 5;
             UPDATE object SET desired = 'no JSON' WHERE name = 'q'",
        )
        .await;
    let store = scratch.open().await;
    assert_eq!(store.dependants(&uid(9)).await.unwrap(), dependants(&[(1, true)]));
    assert_eq!(store.unknown_namespaces().await.unwrap(), ["n"]);
}

#[tokio::test]
async fn everything_in_a_namespace_is_told_and_nothing_of_another() {
    let (store, _scratch) = fresh().await;
    for (n, kind, namespace) in [(1, "Pod", "a"), (2, "ConfigMap", "a"), (3, "Pod", "b"), (4, "Node", "")] {
        store.create(kind, namespace, "x", &uid(n), owned(&[])).await.unwrap();
    }
    assert_eq!(store.contents("a").await.unwrap(), [uid(2), uid(1)]);
    assert_eq!(store.contents("c").await.unwrap(), []);
    assert_eq!(&*store.get_any(&uid(4)).await.unwrap().unwrap().kind, "Node");
}

#[tokio::test]
async fn what_is_to_be_looked_after_has_an_owner_or_is_being_deleted() {
    let (store, _scratch) = fresh().await;
    store.create("Pod", "n", "a", &uid(1), owned(&[])).await.unwrap();
    store
        .create("Pod", "n", "b", &uid(2), owned(&[(9, false)]))
        .await
        .unwrap();
    let ending = json!({"metadata": {"name": "c", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    store.create("Pod", "n", "c", &uid(3), ending).await.unwrap();
    assert_eq!(store.unsettled().await.unwrap(), [uid(2), uid(3)]);
}

#[tokio::test]
async fn nothing_is_made_in_a_namespace_that_is_missing_or_ending() {
    let (store, _scratch) = fresh().await;
    let make = |name: &'static str, n| {
        let store = store.clone();
        async move {
            let object = json!({"metadata": {"name": name}});
            store.create_in_namespace("Pod", "n", name, &uid(n), object, None).await
        }
    };
    assert!(matches!(make("p", 1).await, Err(StoreError::NoNamespace { .. })));
    let namespace = json!({"metadata": {"name": "n"}});
    let active = Some(json!({"phase": "Active"}));
    let namespace = store
        .create_in_namespace("Namespace", "", "n", &uid(2), namespace, active)
        .await
        .unwrap();
    assert_eq!(namespace.json["status"]["phase"], "Active");
    make("p", 1).await.unwrap();
    let ending = json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let status = Some(json!({"phase": "Terminating"}));
    let mut changes = store.subscribe();
    let ended = store
        .update_halves("Namespace", "", "n", namespace.resource_version, ending.clone(), status)
        .await
        .unwrap();
    assert_eq!(ended.json["status"]["phase"], "Terminating");
    // Both halves are one change.
    assert_eq!(changes.recv().await.unwrap().origin, Origin::Desired);
    assert!(changes.is_empty());
    assert!(matches!(make("q", 3).await, Err(StoreError::EndingNamespace { .. })));
    let told = store
        .update_halves("Namespace", "", "n", ended.resource_version, ending, Some(json!({})))
        .await
        .unwrap();
    // A status that a client wrote may matter to whoever looks after the object.
    assert_eq!(changes.recv().await.unwrap().origin, Origin::Desired);
    assert!(told.resource_version > ended.resource_version);
}

#[tokio::test]
async fn what_finalizers_hold_is_not_forgotten() {
    let (store, _scratch) = fresh().await;
    let held = json!({"metadata": {"name": "p", "finalizers": ["a.com/b"]}});
    let pod = store.create("Pod", "n", "p", &uid(1), held).await.unwrap();
    assert!(!store.forget_pod(&uid(1)).await.unwrap());
    assert!(store.get_any(&uid(1)).await.unwrap().is_some());
    let free = json!({"metadata": {"name": "p", "finalizers": []}});
    store.update("Pod", "n", "p", pod.resource_version, free).await.unwrap();
    assert!(store.forget_pod(&uid(1)).await.unwrap());
    assert!(store.forget_pod(&uid(1)).await.unwrap());
}
